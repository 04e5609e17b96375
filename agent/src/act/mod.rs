//! Act: carries out one verdict on the kernel, through descriptors taken from the cgroup id.

pub mod kill;
mod reboot;
mod reclaim;
pub mod settings;
pub mod settle;

use crate::sense::tree::Tree;
use kill::Victim;
use lowtide_judge::{Action, Outcome, Policy};
use std::io;
use std::time::Duration;

/// What came of it, and whom to wait for.
pub struct Done {
    pub outcome: Outcome,
    pub victim: Option<Victim>,
}

impl Done {
    fn only(outcome: Outcome) -> Self {
        Self {
            outcome,
            victim: None,
        }
    }
}

/// Carries out what the verdict says; `None` for nothing. Allocates nothing.
pub fn carry_out(action: &Action, policy: &Policy, tree: &Tree) -> Option<Done> {
    let done = match action {
        Action::Nothing | Action::Throttle { .. } => return None,
        Action::Reclaim { target, bytes } => {
            let limit = Duration::from_millis(u64::from(policy.reclaim_ms));
            reclaim::reclaim(tree, target.id, *bytes, limit)
                .map(|bytes| Done::only(Outcome::Reclaimed { bytes }))
        }
        Action::Terminate { target, .. } => {
            let signal = policy.group(target.rule.group).signal;
            kill::ask(tree, target.id, signal).map(|()| Done::only(Outcome::Asked))
        }
        Action::Kill { target } => kill::memcg(tree, target.id),
        Action::Reboot => reboot::now().map(|()| Done::only(Outcome::Killed)),
    };
    Some(done.unwrap_or_else(|error: io::Error| {
        Done::only(Outcome::Failed {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }))
}
