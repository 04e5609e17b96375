//! What the config file says, compiled: bounded plain data, sizes still relative where the file
//! says so.

use crate::evidence::{Memory, Rates};
use heapless::{String, Vec};
use lowtide_common::NEVER;

/// `[[group]]` tables that one policy can hold.
pub const GROUPS: usize = 64;
/// Cgroups that are judged by themselves at a time, each within its own limit.
pub const DOMAINS: usize = 16;
/// Bytes of a group's name.
pub const NAME: usize = 32;
/// Different steps that there are.
pub const STEPS: usize = Step::ALL.len();
/// Levels that have a condition.
pub const LEVELS: usize = 2;

/// The state of the device, from the mildest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Asleep.
    #[default]
    Calm,
    /// Awake, and no level's condition holds.
    Alert,
    Strained,
    Critical,
}

impl Level {
    /// The levels that have a `[level.…]` table, mildest first.
    pub const CONFIGURED: [Self; LEVELS] = [Self::Strained, Self::Critical];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Alert => "alert",
            Self::Strained => "strained",
            Self::Critical => "critical",
        }
    }
}

/// Which tasks a PSI line counts: at least one stalled, or all non-idle ones at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    Some,
    Full,
}

impl Stall {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Some => "some",
            Self::Full => "full",
        }
    }
}

/// A PSI poll trigger: wakes the agent when tasks stalled `stall_us` within `window_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub stall: Stall,
    pub stall_us: u32,
    pub window_us: u32,
}

/// A size as the file gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Bytes(u64),
    /// Hundredths of a percent of a whole: RAM, or for swap conditions the swap space.
    Permyriad(u16),
}

impl Amount {
    /// In bytes, of a `whole` in bytes.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the parts of ten thousand, which are no more than the whole"
    )]
    pub const fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(b) => b,
            Self::Permyriad(p) => {
                (whole / 10_000) * p as u64 + (whole % 10_000) * p as u64 / 10_000
            }
        }
    }
}

/// One fact that a condition asks for. A rate that is not known yet (one sample only) makes its
/// term false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// MemAvailable, of RAM.
    AvailableBelow(Amount),
    AvailableAbove(Amount),
    /// Free swap, of all swap. Without swap nothing is free: always below, never above.
    SwapFreeBelow(Amount),
    SwapFreeAbove(Amount),
    /// RAM that zram itself holds, of RAM.
    ZramAbove(Amount),
    ZramBelow(Amount),
    /// Pages of the working set faulted back in, a second.
    RefaultsAbove(u32),
    RefaultsBelow(u32),
    /// Share of the last second that tasks stalled on memory, in hundredths of a percent.
    PressureAbove(Stall, u16),
    PressureBelow(Stall, u16),
    /// Share of the stalls that is within cgroups watched over by themselves, in hundredths of a
    /// percent: they thrash in their own limits, and the system is not short.
    LimitedAbove(u16),
    LimitedBelow(u16),
    /// MemAvailable shrinks by more than this many bytes a second.
    ShrinkingBy(u64),
}

/// Holds when every term of any one clause holds; one without clauses always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub any: Vec<Vec<Term, 8>, 4>,
}

impl Condition {
    /// All of `terms`; `None` where they exceed the capacity of a clause.
    pub fn all(terms: &[Term]) -> Option<Self> {
        let mut any = Vec::new();
        any.push(Vec::from_slice(terms).ok()?).ok()?;
        Some(Self { any })
    }
}

/// What can be done about pressure, from the mildest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Reclaim,
    Throttle,
    Terminate,
    Kill,
    Reboot,
    Watchdog,
}

impl Step {
    /// From the mildest.
    pub const ALL: [Self; 6] = [
        Self::Reclaim,
        Self::Throttle,
        Self::Terminate,
        Self::Kill,
        Self::Reboot,
        Self::Watchdog,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Reclaim => "reclaim",
            Self::Throttle => "throttle",
            Self::Terminate => "terminate",
            Self::Kill => "kill",
            Self::Reboot => "reboot",
            Self::Watchdog => "watchdog",
        }
    }
}

/// A `[level.…]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LevelPolicy {
    /// The level holds while this does.
    pub confirm: Condition,
    /// Ends the actions.
    pub relief: Condition,
    /// None: the level is off.
    pub actions: Vec<Step, STEPS>,
}

/// What is killed when a group's turn comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// The cgroup with all below it.
    #[default]
    Cgroup,
    /// Its process that frees most.
    Process,
}

/// A `[[group]]` table, less its patterns (those match on the agent's side).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String<NAME>,
    /// 0..=1000, higher goes first, or [`NEVER`].
    pub kill: u16,
    /// 0..=1000, higher goes first, or [`NEVER`].
    pub reclaim: u16,
    pub unit: Unit,
    /// Time between the signal that asks and the kill; 0: not asked.
    pub grace_ms: u32,
    /// Signal that asks it to stop.
    pub signal: i32,
    /// A command of the user's has the first half of the grace, before the signal.
    pub before: bool,
    /// Longest time it may be throttled in one go; 0: never throttled.
    pub throttle_ms: u32,
    /// `memory.min`, of RAM.
    pub protect: Option<Amount>,
    /// `memory.low`, of RAM.
    pub prefer: Option<Amount>,
    /// PSI trigger on each of its own cgroups: pressure inside is solved inside.
    pub trigger: Option<Trigger>,
}

impl Group {
    /// What covers everything that no `[[group]]` does.
    pub fn everything_else() -> Self {
        Self {
            name: String::try_from("everything else").unwrap_or_default(),
            kill: 500,
            reclaim: 500,
            unit: Unit::Cgroup,
            grace_ms: 0,
            signal: 15,
            before: false,
            throttle_ms: 0,
            protect: None,
            prefer: None,
            trigger: None,
        }
    }

    /// Nothing at all may happen to it.
    pub const fn is_untouchable(&self) -> bool {
        self.kill == NEVER && self.reclaim == NEVER
    }
}

/// The whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// As [`Level::CONFIGURED`].
    pub levels: [LevelPolicy; LEVELS],
    pub groups: Vec<Group, GROUPS>,
    /// What applies where no group does.
    pub fallback: Group,
    /// Calm again after this long without a wake-up. Longer than any window: PSI tells when pressure
    /// is there, never when it has gone.
    pub quiet_ms: u32,
    /// How long one victim may take to be gone before the next is looked for.
    pub exit_ms: u32,
    /// How long reclaim may go on in one go.
    pub reclaim_ms: u32,
    /// The part of what is missing that one victim has to bring at least, see [`Policy::worth`].
    pub worth_permyriad: u16,
    /// What came back this often, each time within `restart_window_ms`, loops: it is not asked any
    /// more, and goes first of equal priorities. 0: never.
    pub restarts: u8,
    pub restart_window_ms: u32,
    /// Nothing killable left and still confirmed for this long: reboot, or leave that to the watchdog,
    /// where a level's actions say so. 0: never.
    pub reboot_after_ms: u32,
}

/// File cache or swap that it takes at least for a stall to be seen. Less is read back in a few
/// milliseconds: 5 MB on a 64 MB guest stalled for 11 ms in the second before the kernel's OOM killer.
const WARNING_CACHE: u64 = 8 << 20;

impl Policy {
    /// The highest level whose condition holds; [`Level::Calm`] where none does.
    pub(crate) fn holding(&self, memory: &Memory, rates: Option<&Rates>) -> Level {
        Level::CONFIGURED
            .into_iter()
            .zip(&self.levels)
            .filter(|(_, rules)| !rules.actions.is_empty() && rules.confirm.holds(memory, rates))
            .map(|(level, _)| level)
            .max()
            .unwrap_or_default()
    }

    /// Whether relief has come for every level.
    pub(crate) fn is_relieved(&self, memory: &Memory, rates: Option<&Rates>) -> bool {
        let mut levels = self.levels.iter().filter(|level| !level.actions.is_empty());
        levels.all(|level| level.relief.holds(memory, rates))
    }

    /// The mark of available memory whose crossing matters next, in bytes: of those that make some level
    /// hold the highest that is not crossed yet; the lowest where all are. `None` where there are none.
    pub fn next_mark(&self, memory: &Memory) -> Option<u64> {
        let levels = || self.levels.iter().filter(|level| !level.actions.is_empty());
        let marks = || levels().flat_map(|level| level.confirm.below_marks(memory.total));
        let next = marks().filter(|mark| *mark <= memory.available).max();
        next.or_else(|| marks().min())
    }

    /// Whether an alarm comes when the first mark of available memory is crossed, none of which is yet.
    pub(crate) fn tells_of_marks(&self, memory: &Memory) -> bool {
        let levels = self.levels.iter().filter(|level| !level.actions.is_empty());
        let mut marks = levels.flat_map(|level| level.confirm.below_marks(memory.total));
        memory.told
            && memory.within == 0
            && self.next_mark(memory).is_some()
            && marks.all(|mark| mark <= memory.available)
    }

    /// Whether the actions of a level do more than take back cache.
    pub fn ends(&self, level: Level) -> bool {
        let mut levels = Level::CONFIGURED.into_iter().zip(&self.levels);
        levels.any(|(of, rules)| of == level && rules.actions.iter().any(|s| *s != Step::Reclaim))
    }

    /// The group a rule's index means.
    pub fn group(&self, index: u16) -> &Group {
        self.groups
            .get(usize::from(index))
            .unwrap_or(&self.fallback)
    }

    /// Whether an alarm comes before the end: by what tells of memory itself, or by a stall. Where
    /// hardly any file cache is left and there is no swap (all programs in RAM, say), an allocation has
    /// nothing to wait for: the kernel goes from no stall at all straight to its OOM killer, and PSI
    /// says nothing. Then, as without any alarm, the figures must be looked at by time. Not within a
    /// cgroup's own limit: there the kernel's OOM killer stays inside, and takes what the config ranks
    /// first.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "bytes of memory and swap that there are"
    )]
    pub fn is_warned(&self, memory: &Memory) -> bool {
        if memory.within != 0 || memory.told && self.next_mark(memory).is_some() {
            return true;
        }
        let critical = self.levels[LEVELS - 1]
            .confirm
            .available_mark(memory.total)
            .unwrap_or(0);
        memory.psi && memory.file + memory.swap_left(None) > critical.max(WARNING_CACHE)
    }
}
