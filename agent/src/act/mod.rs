//! Act: carries out one verdict on the kernel, through descriptors taken from the cgroup id.

pub mod kill;

use crate::sense::tree::Tree;
use kill::Victim;
use lowtide_judge::{Action, Outcome};

/// What came of it, and whom to wait for.
pub struct Done {
    pub outcome: Outcome,
    pub victim: Option<Victim>,
}

/// Carries out what the verdict says; `None` for nothing. Allocates nothing.
pub fn carry_out(action: &Action, tree: &Tree) -> Option<Done> {
    let done = match action {
        Action::Nothing => return None,
        Action::Kill { target } => kill::memcg(tree, target.id),
        Action::Reclaim { .. }
        | Action::Throttle { .. }
        | Action::Terminate { .. }
        | Action::Reboot => return None,
    };
    Some(done.unwrap_or_else(|error| Done {
        outcome: Outcome::Failed {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        },
        victim: None,
    }))
}
