//! The answer: what to do to whom, or why nothing, and why not the others.

use crate::evidence::{Memory, Rates};
use crate::history::Millis;
use crate::policy::Level;
use heapless::Vec;
use lowtide_common::{CANDIDATES, Row};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// Take `bytes` from it, the cheapest pages first.
    Reclaim {
        target: Row,
        bytes: u64,
    },
    /// Hold it back for `for_ms`.
    Throttle {
        target: Row,
        for_ms: u32,
    },
    /// Start the user's command that comes before, and give it `for_ms`.
    Prepare {
        target: Row,
        for_ms: u32,
    },
    /// Ask it to stop and give it `grace_ms`.
    Terminate {
        target: Row,
        grace_ms: u32,
    },
    Kill {
        target: Row,
    },
    Reboot,
    /// Give the watchdog no more signs of life.
    Starve,
}

impl Action {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Reclaim { .. } => "reclaim",
            Self::Throttle { .. } => "throttle",
            Self::Prepare { .. } => "prepare",
            Self::Terminate { .. } => "terminate",
            Self::Kill { .. } => "kill",
            Self::Reboot => "reboot",
            Self::Starve => "starve",
        }
    }

    /// Whom it is done to.
    pub const fn target(&self) -> Option<&Row> {
        match self {
            Self::Nothing | Self::Reboot | Self::Starve => None,
            Self::Reclaim { target, .. }
            | Self::Throttle { target, .. }
            | Self::Prepare { target, .. }
            | Self::Terminate { target, .. }
            | Self::Kill { target } => Some(target),
        }
    }

    /// Whether somebody is to end by it.
    pub const fn ends(&self) -> bool {
        matches!(self, Self::Terminate { .. } | Self::Kill { .. })
    }

    /// How hard it hits; nothing is 0.
    pub const fn severity(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Reclaim { .. } => 1,
            Self::Throttle { .. } => 2,
            Self::Prepare { .. } => 3,
            Self::Terminate { .. } => 4,
            Self::Kill { .. } => 5,
            Self::Reboot | Self::Starve => 6,
        }
    }
}

/// The reason for the action, or for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No wake-up lately.
    Calm,
    /// Awake, and no level's condition holds.
    NotConfirmed,
    /// The level's condition holds.
    Confirmed(Level),
    /// The condition no longer holds, but relief has not come.
    UntilRelief(Level),
    /// Relief has come: the episode is over.
    Relieved(Level),
    /// The last victim is still exiting.
    StillExiting { id: u64 },
    /// The command that comes before has time until then.
    Preparing { id: u64, until: Millis },
    /// It was asked to stop and has time until then.
    InGrace { id: u64, until: Millis },
    /// It is held back until then, and memory does not fall on.
    HeldBack { id: u64, until: Millis },
    /// Who grows is not known before another look.
    Measuring,
    /// The condition holds, and no step of the level can do anything more.
    NothingLeft(Level),
}

/// Why a candidate was, or was not, chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Chosen,
    /// Another one has a higher priority.
    LowerPriority,
    /// Same priority, another one frees more.
    FreesLess,
    /// It does not free enough, another one does.
    NotEnough,
    /// The agent itself, its ancestors, init, or `never`.
    Never,
    /// It would free next to nothing.
    FreesNothing,
    /// It was tried just now, and did not help: a victim that is still there, a cache that the
    /// kernel does not give.
    Stuck,
    /// Killed this often lately, and comes back by itself.
    Restarting(u8),
}

impl Reason {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Chosen => "goes first",
            Self::LowerPriority => "lower priority",
            Self::FreesLess => "same priority, frees less",
            Self::NotEnough => "frees too little",
            Self::Never => "never",
            Self::FreesNothing => "frees next to nothing",
            Self::Stuck => "tried just now",
            Self::Restarting(_) => "restarted after each kill",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub row: Row,
    pub reason: Reason,
}

impl Judged {
    /// Not yet ranked against others.
    pub const fn new(row: &Row) -> Self {
        Self {
            row: *row,
            reason: Reason::Chosen,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The highest level whose condition holds; without one, whether it is awake.
    pub level: Level,
    pub action: Action,
    pub why: Why,
    /// The figures it was judged on.
    pub memory: Memory,
    pub rates: Option<Rates>,
    /// Bytes to relief.
    pub enough: u64,
    /// Every kill candidate with its reason, best first.
    pub judged: Vec<Judged, CANDIDATES>,
    /// The level whose actions go on until relief.
    pub acting: Option<Level>,
    /// Confirmed pressure, and nothing left to do about it.
    pub helpless: bool,
    /// When to look again without a wake-up; `None`: sleep until one.
    pub look_again_ms: Option<u32>,
}
