//! What was found: plain figures, the same from every engine.

use crate::policy::{Amount, Condition, Stall, Term};
use lowtide_common::CANDIDATES;

/// Figures of the system, or of a cgroup within its own limit as if it were a system of its own,
/// in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// cgroup id of the domain that they are of; 0: the system.
    pub within: u64,
    /// RAM; of a cgroup its limit.
    pub total: u64,
    /// MemAvailable: what can be had without swapping. Of a cgroup what is left to its limit, and
    /// its file cache.
    pub available: u64,
    /// MemFree; of a cgroup 0.
    pub free: u64,
    pub swap_total: u64,
    pub swap_free: u64,
    /// What swap could take: Active(anon) + Inactive(anon), which leaves out what is locked. Of a
    /// cgroup the same within it.
    pub swappable: u64,
    /// Page cache with a file behind it that reclaim can take: Active(file) + Inactive(file).
    pub file: u64,
    /// The kernel measures stalls, so that a trigger can fire.
    pub psi: bool,
    /// An alarm comes when memory runs out, also where nothing stalls before: the watch or the ballast.
    pub told: bool,
    /// RAM that zram holds for what was swapped to it (mem_used_total).
    pub zram: u64,
    /// workingset_refault_anon + workingset_refault_file since boot, in pages.
    pub refaults: u64,
    /// Stall times since boot, in microseconds.
    pub psi_some_us: u64,
    pub psi_full_us: u64,
    /// Of the system: the `some` stall times within cgroups that are watched over by themselves.
    pub psi_limited_us: u64,
}

/// What each kill candidate of a survey is called whenever it comes back: of a cgroup its path, less
/// the instance of a unit and numbers at the end, of a process its name; as a hash. 0 where
/// [`Look::wants_name`](crate::Look::wants_name) does not ask.
pub type Names = [u64; CANDIDATES];

impl Memory {
    /// Bytes that can still go to swap: at most what could go there now, unless what is taken can go there
    /// as well. What could go there now is little then because it has just gone.
    pub fn swap_left(&self, rates: Option<&Rates>) -> u64 {
        if rates.is_some_and(|rates| rates.absorbed) {
            return self.swap_free;
        }
        self.swap_free.min(self.swappable)
    }
}

/// How fast the figures move, a second; `None` until two samples are far enough apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes of MemAvailable lost; 0 when it grows.
    pub shrinking: u64,
    /// Bytes that are taken, whether from what is available or by way of swap, and what victims
    /// gave back since is taken as well; 0 when nothing is.
    pub pace: u64,
    /// At least half of what was taken in the last tenth of a second or two can go to swap, or has.
    pub absorbed: bool,
    /// Pages.
    pub refaults: u64,
    /// Of the time between the samples.
    pub stalled: Stalls,
    /// What of it lasts: the least of any tenth of a second in the last second and a half, or of what
    /// is between two looks. `None` until it was looked at for so long.
    pub lasting: Option<Stalls>,
    /// Of the time that some task stalled, hundredths of a percent that are within cgroups watched
    /// over by themselves.
    pub limited_permyriad: u16,
}

/// Shares of time in which tasks stalled on memory, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    pub some_permyriad: u16,
    pub full_permyriad: u16,
}

impl Stalls {
    pub(crate) const ALL_THE_TIME: Self = Self {
        some_permyriad: 10_000,
        full_permyriad: 10_000,
    };

    const fn of(&self, stall: Stall) -> u16 {
        match stall {
            Stall::Some => self.some_permyriad,
            Stall::Full => self.full_permyriad,
        }
    }

    /// The lesser of each.
    pub(crate) fn least(self, other: Self) -> Self {
        Self {
            some_permyriad: self.some_permyriad.min(other.some_permyriad),
            full_permyriad: self.full_permyriad.min(other.full_permyriad),
        }
    }
}

impl Term {
    pub fn holds(&self, memory: &Memory, rates: Option<&Rates>) -> bool {
        let ram = |a: &Amount| a.of(memory.total);
        let swap = |a: &Amount| a.of(memory.swap_total);
        let lasting = rates.and_then(|r| r.lasting);
        match self {
            Self::AvailableBelow(a) => memory.available < ram(a),
            Self::AvailableAbove(a) => memory.available > ram(a),
            Self::SwapFreeBelow(a) => memory.swap_total == 0 || memory.swap_left(rates) < swap(a),
            Self::SwapFreeAbove(a) => memory.swap_total != 0 && memory.swap_left(rates) > swap(a),
            Self::ZramAbove(a) => memory.zram > ram(a),
            Self::ZramBelow(a) => memory.zram < ram(a),
            Self::RefaultsAbove(n) => rates.is_some_and(|r| r.refaults > u64::from(*n)),
            Self::RefaultsBelow(n) => rates.is_some_and(|r| r.refaults < u64::from(*n)),
            Self::PressureAbove(stall, p) => lasting.is_some_and(|s| s.of(*stall) > *p),
            Self::PressureBelow(stall, p) => rates.is_some_and(|r| r.stalled.of(*stall) < *p),
            Self::LimitedAbove(p) => rates.is_some_and(|r| r.limited_permyriad > *p),
            Self::LimitedBelow(p) => rates.is_some_and(|r| r.limited_permyriad < *p),
            Self::ShrinkingBy(n) => rates.is_some_and(|r| r.shrinking > *n),
        }
    }
}

impl Condition {
    pub fn holds(&self, memory: &Memory, rates: Option<&Rates>) -> bool {
        self.any.is_empty()
            || self
                .any
                .iter()
                .any(|all| all.iter().all(|t| t.holds(memory, rates)))
    }

    /// The highest mark of available memory that the condition names, in bytes.
    pub fn available_mark(&self, total: u64) -> Option<u64> {
        self.available_marks(total).max()
    }

    /// Those below which it can hold.
    pub(crate) fn below_marks(&self, total: u64) -> impl Iterator<Item = u64> {
        self.any
            .iter()
            .flatten()
            .filter_map(move |term| match term {
                Term::AvailableBelow(amount) => Some(amount.of(total)),
                _ => None,
            })
    }

    /// All of them.
    pub(crate) fn available_marks(&self, total: u64) -> impl Iterator<Item = u64> {
        self.any.iter().flatten().filter_map(move |t| match t {
            Term::AvailableBelow(a) | Term::AvailableAbove(a) => Some(a.of(total)),
            _ => None,
        })
    }
}
