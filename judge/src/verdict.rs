//! The answer: what to do to which target, or why nothing, and why not the others.

use crate::evidence::{Memory, Rates};
use crate::history::Millis;
use crate::policy::{Level, Step};
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
    Watchdog,
}

impl Action {
    /// The step that it carries out, or begins; these are ordered from the mildest, as nothing is.
    pub const fn step(&self) -> Option<Step> {
        Some(match self {
            Self::Nothing => return None,
            Self::Reclaim { .. } => Step::Reclaim,
            Self::Throttle { .. } => Step::Throttle,
            Self::Prepare { .. } | Self::Terminate { .. } => Step::Terminate,
            Self::Kill { .. } => Step::Kill,
            Self::Reboot => Step::Reboot,
            Self::Watchdog => Step::Watchdog,
        })
    }

    pub const fn name(&self) -> &'static str {
        match (self, self.step()) {
            (Self::Prepare { .. }, _) => "prepare",
            (_, Some(step)) => step.name(),
            (_, None) => "nothing",
        }
    }

    /// What it is done to.
    pub const fn target(&self) -> Option<&Row> {
        match self {
            Self::Nothing | Self::Reboot | Self::Watchdog => None,
            Self::Reclaim { target, .. }
            | Self::Throttle { target, .. }
            | Self::Prepare { target, .. }
            | Self::Terminate { target, .. }
            | Self::Kill { target } => Some(target),
        }
    }

    /// Whether something is to end by it.
    pub const fn ends(&self) -> bool {
        matches!(self, Self::Terminate { .. } | Self::Kill { .. })
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
    /// Which one grows is not known before another look.
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
    /// Same priority, but systemd asks that it be avoided.
    Avoided,
    /// Same priority, another one frees more.
    FreesLess,
    /// It would hardly help, another one would.
    TooLittle,
    /// Goes with the chosen one: there is no time for one after the other.
    Together,
    /// The agent itself, its ancestors, init, or `never`.
    Never,
    /// It would free next to nothing.
    FreesNothing,
    /// It was tried just now, and did not help: a victim that is still there, a cache that the
    /// kernel does not give.
    Stuck,
    /// Same priority, and another one keeps coming back.
    Steady,
    /// It ended lately, and that brought nothing.
    InVain,
    /// What was reclaimed of it was read again at once.
    ReadBack,
}

impl Reason {
    /// Whether nothing speaks against it but the order.
    pub const fn is_in_order(self) -> bool {
        matches!(
            self,
            Self::Chosen
                | Self::LowerPriority
                | Self::Avoided
                | Self::FreesLess
                | Self::TooLittle
                | Self::Steady
                | Self::Together
        )
    }

    /// The same, or what it frees.
    pub(crate) const fn may_go(self) -> bool {
        self.is_in_order() || matches!(self, Self::FreesNothing)
    }

    pub const fn text(self) -> &'static str {
        match self {
            Self::Chosen => "goes first",
            Self::LowerPriority => "lower priority",
            Self::Avoided => "same priority, to be avoided (user.oomd_avoid)",
            Self::FreesLess => "same priority, frees less",
            Self::TooLittle => "frees too little",
            Self::Together => "goes with it, as there is no time for one after the other",
            Self::Never => "never",
            Self::FreesNothing => "frees next to nothing",
            Self::Stuck => "tried just now",
            Self::Steady => "same priority, does not keep coming back",
            Self::InVain => "its end brought nothing before",
            Self::ReadBack => "is read again at once",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    pub row: Row,
    pub reason: Reason,
    /// See [`Names`](crate::Names).
    pub name: u64,
    /// Bytes that come back when it ends, or that reclaim can take.
    pub frees: u64,
    /// Times that it came back after its end, each time within the window.
    pub returns: u8,
}

impl Judged {
    /// Not yet ranked against others.
    pub const fn new(row: &Row) -> Self {
        Self::named(row, 0)
    }

    pub(crate) const fn named(row: &Row, name: u64) -> Self {
        Self {
            row: *row,
            reason: Reason::Chosen,
            name,
            frees: 0,
            returns: 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// When it was judged.
    pub at: Millis,
    /// The highest level whose condition holds; without one, whether it is awake.
    pub level: Level,
    pub action: Action,
    pub why: Why,
    /// The figures it was judged on.
    pub memory: Memory,
    pub rates: Option<Rates>,
    /// Bytes to relief.
    pub enough: u64,
    /// Bytes that one has to bring at least; see [`Policy::worth`](crate::Policy::worth).
    pub worth: u64,
    /// Every kill candidate with its reason, best first.
    pub judged: Vec<Judged, CANDIDATES>,
    /// What may not be touched and holds most.
    pub untouchable: Option<Row>,
    /// See [`Survey::highest_id`](lowtide_common::Survey::highest_id).
    pub newest_id: u64,
    /// The level whose actions go on until relief.
    pub acting: Option<Level>,
    /// Confirmed pressure, and nothing left to do about it.
    pub helpless: bool,
    /// When to look again without a wake-up; `None`: sleep until one.
    pub look_again_ms: Option<u32>,
}

impl Verdict {
    /// The victims of a kill, first the target; empty for any other action.
    pub fn victims(&self) -> impl Iterator<Item = &Judged> {
        let kills = matches!(self.action, Action::Kill { .. });
        let goes = |judged: &&Judged| matches!(judged.reason, Reason::Chosen | Reason::Together);
        self.judged.iter().take_while(goes).filter(move |_| kills)
    }
}
