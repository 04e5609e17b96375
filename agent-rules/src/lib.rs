//! What of a config is asked while memory is short: which group a cgroup or a process belongs to, and
//! which commands accompany a kill. Nothing here allocates when it is asked, or can fail. Reading a
//! config is a crate of its own, as its code is given back once that is done.
#![forbid(unsafe_code)]

pub mod escaped;
mod hooks;
mod matcher;
mod pattern;
mod place;
mod preference;
mod trust;

pub use hooks::{Hooks, Pair};
pub use matcher::{
    ATTRIBUTE, AttributePattern, CONTAINER, CONTAINER_NAME, GlobPattern, Lookup, Matcher,
    ProcessInfo, ProcessPattern, rule,
};
pub use pattern::Glob;
pub use place::{At, Layer};
pub use preference::Preference;
pub use trust::{Chosen, Ruled, turn};
