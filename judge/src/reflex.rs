//! When the reflex may act: the part of the policy that the kernel can apply by itself.

use crate::policy::{Level, Policy, Step, Term};

/// Part of a level's marks at which the reflex acts: half of each. Above them the agent has its turn,
/// for which the level holds at the marks themselves.
const PART: u64 = 2;

/// Below how much it may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Bytes available.
    pub available: u64,
    /// Free bytes of swap; with more of it left, memory that is short is no end.
    pub swap_free: u64,
}

/// The highest mark of a level that kills, of those that available memory and free swap alone decide:
/// rates and stalls are the agent's to judge. `ram` and `swap` in bytes. `None` where there is no such
/// level: the reflex does nothing then that the agent would not.
pub fn reflex_marks(policy: &Policy, ram: u64, swap: u64) -> Option<Marks> {
    let levels = Level::CONFIGURED.iter().zip(&policy.levels);
    let kills = levels.filter(|(_, level)| level.actions.contains(&Step::Kill));
    let clauses = kills.flat_map(|(_, level)| &level.confirm.any);
    let marks = clauses.filter_map(|clause| {
        let mut available = None;
        let mut swap_free = u64::MAX;
        for term in clause {
            match term {
                Term::AvailableBelow(mark) => available = Some(mark.of(ram)),
                Term::SwapFreeBelow(mark) => swap_free = mark.of(swap) / PART,
                _ => return None,
            }
        }
        Some(Marks {
            available: available? / PART,
            swap_free,
        })
    });
    marks.max_by_key(|marks| marks.available)
}
