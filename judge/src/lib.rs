//! The decision of lowtide, apart from everything that does I/O. No clock, no allocation, the same
//! answer for the same input: the daemon, `explain` and the fuzz target have this conversation:
//!
//! ```text
//! let look = history.look(&policy, &memory, now);         // takes the figures in
//! let survey = if look.wants_survey() { .. };             // of the candidates, ranked by look.worth()
//! let verdict = look.judge(&survey, &names);              // names of those that look.wants_name()
//! history.record(&policy, &verdict, &outcomes);           // what came of it
//! history.record_exit(id, &memory, now);                  // once a victim is gone
//! ```
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod caches;
mod ends;
mod evidence;
mod history;
mod look;
mod outlook;
mod policy;
pub mod protection;
mod rank;
mod reflex;
mod returning;
mod samples;
mod verdict;

pub use evidence::{Memory, Names, Rates, Stalls};
pub use history::{History, Millis, Outcome};
pub use look::Look;
pub use outlook::Outlook;
pub use policy::{
    Amount, Condition, DOMAINS, GROUPS, Group, LEVELS, Level, LevelPolicy, NAME, Policy, STEPS,
    Stall, Step, Term, Trigger, Unit,
};
pub use reflex::{Marks, reflex_marks};
pub use verdict::{Action, Judged, Reason, Verdict, Why};
