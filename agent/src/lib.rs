//! lowtide: an out-of-memory agent for Linux edge devices.
//!
//! One flow: [`sense`] → `lowtide_judge` → [`act`] → [`tell`].

pub mod act;
pub mod cli;
pub mod daemon;
mod domain;
#[cfg(test)]
mod mdoc;
#[doc(hidden)]
pub mod readers;
mod resident;
pub mod sense;
mod stack;
mod sys;
pub mod tell;
pub mod units;

pub use lowtide_config as config;
use lowtide_config::json;
use lowtide_rules::escaped;

#[cfg(feature = "abort-on-alloc")]
#[global_allocator]
static ALLOCATOR: assert_no_alloc::AllocDisabler = assert_no_alloc::AllocDisabler;
