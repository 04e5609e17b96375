//! The decision of lowtide, apart from everything that does I/O: `(Policy, evidence, History, now)`
//! in, [`Verdict`] out. No clock, no allocation, the same answer for the same input: the daemon,
//! `explain` and `replay` run this very code.
#![no_std]
#![forbid(unsafe_code)]

mod evidence;
mod history;
mod judge;
mod outlook;
mod policy;
mod verdict;

pub use evidence::{Memory, Rates};
pub use history::{History, Millis, Outcome};
pub use judge::{judge, rank_kill, rank_reclaim};
pub use outlook::Outlook;
pub use policy::{
    Amount, Condition, DOMAINS, GROUPS, Group, LEVELS, Level, LevelPolicy, NAME, Policy, STEPS,
    Stall, Step, Term, Trigger, Unit,
};
pub use verdict::{Action, Judged, Reason, Verdict, Why};
