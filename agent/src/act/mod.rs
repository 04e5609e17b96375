//! Act: carries out one verdict on the kernel, through descriptors taken from the cgroup id.

pub mod kill;
mod reboot;
mod reclaim;
pub mod settings;
pub mod settle;

use crate::sense::tree::Tree;
use kill::Victim;
use lowtide_judge::{Action, Outcome, Policy};
use settings::Settings;
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
pub fn carry_out(
    action: &Action,
    policy: &Policy,
    tree: &Tree,
    settings: &mut Settings,
) -> Option<Done> {
    let done = match action {
        Action::Nothing => return None,
        Action::Throttle { target, for_ms } => settings
            .freeze(tree, target.id, Duration::from_millis(u64::from(*for_ms)))
            .map(|()| Done::only(Outcome::Throttled)),
        Action::Reclaim { target, bytes } => {
            let limit = Duration::from_millis(u64::from(policy.reclaim_ms));
            reclaim::reclaim(tree, target.id, *bytes, limit)
                .map(|bytes| Done::only(Outcome::Reclaimed { bytes }))
        }
        Action::Terminate { target, .. } => {
            // Who is held back hears no signal but SIGKILL.
            settings.thaw(tree, |id, _| id == target.id);
            let signal = policy.group(target.rule.group).signal;
            kill::ask(tree, target.id, signal).map(|()| Done::only(Outcome::Asked))
        }
        Action::Kill { target } => {
            let done = kill::memcg(tree, target.id);
            // Whoever is started in it next is not held back for what this one did.
            settings.thaw(tree, |id, _| id == target.id);
            done
        }
        Action::Reboot => reboot::now().map(|()| Done::only(Outcome::Killed)),
    };
    Some(done.unwrap_or_else(|error: io::Error| {
        Done::only(Outcome::Failed {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }))
}
