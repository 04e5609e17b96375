//! Memory that comes back when victims end, until it is there.

use crate::evidence::Memory;
use crate::history::Millis;
use crate::rank::WORTHWHILE;

/// Memory of what is gone begins to be back by then: caches of single processors and a reaper that still
/// holds it take some milliseconds.
const BACK_MS: Millis = 100;
/// An end that brings less than this part of what it was to bring was in vain.
const IN_VAIN: u64 = 8;

/// Bytes until nothing is left to take, swap space included.
const fn left(memory: &Memory) -> u64 {
    memory.available.saturating_add(memory.swap_free)
}

/// What is to come back by the end of one victim, or of several that go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Returning {
    /// Of several the last that was found gone.
    pub id: u64,
    /// Bytes that the end is to bring.
    pub frees: u64,
    /// When it was asked to stop, or killed.
    since: Millis,
    /// What was left then.
    left: u64,
    /// What was available then.
    available: u64,
    /// At which pace memory was taken then; `None` where that was not known, or where it is not the only
    /// one that ends: then what it brought is not known either.
    pace: Option<u64>,
    gone: Option<Gone>,
}

/// Since the victim was found gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gone {
    at: Millis,
    /// The most that was left at a look.
    most: u64,
    /// The most that was available at a look.
    available: u64,
    /// When that had last become more by a [`step`](Returning::step), and the most that was left then.
    risen: (Millis, u64),
}

impl Returning {
    pub const fn new(
        id: u64,
        frees: u64,
        memory: &Memory,
        since: Millis,
        pace: Option<u64>,
    ) -> Self {
        Self {
            id,
            frees,
            since,
            left: left(memory),
            available: memory.available,
            pace,
            gone: None,
        }
    }

    /// Whether the end of what was killed is waited for: an exit takes some milliseconds. One that takes
    /// longer must not last until nothing is left, where something else grows meanwhile.
    pub const fn may_end(&self, memory: &Memory, now: Millis) -> bool {
        now < self.since.saturating_add(BACK_MS) || memory.available >= self.available / 2
    }

    /// It is gone, and these are the figures since; what it has brought by then, in bytes.
    pub fn found_gone(&mut self, memory: &Memory, now: Millis) -> u64 {
        let left = left(memory);
        let gone = Gone {
            at: now,
            most: left,
            available: memory.available,
            risen: (now, left),
        };
        self.gone = Some(gone);
        left.saturating_sub(self.left).min(self.frees)
    }

    pub const fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    /// What another victim has brought is not brought once more by this one.
    pub const fn brought_by_another(&mut self, bytes: u64) {
        self.left = self.left.saturating_add(bytes);
    }

    /// With one that was found gone before: what went at the same time comes back as a whole, and what was
    /// asked before it was killed is to bring what it held when it was asked.
    pub fn joined(mut self, before: &Self) -> Self {
        if before.id == self.id && !before.is_gone() {
            self.frees = self.frees.max(before.frees);
            self.left = self.left.min(before.left);
        } else if before.since == self.since {
            self.frees = self.frees.saturating_add(before.frees);
            self.left = self.left.min(before.left);
        }
        self
    }

    /// Takes in the figures of a look; what it has brought since the look before, in bytes.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the smaller from the larger"
    )]
    pub fn record(&mut self, exit_ms: u32, memory: &Memory, now: Millis) -> u64 {
        let step = self.step(exit_ms);
        let Some(gone) = &mut self.gone else {
            return 0;
        };
        let brings = |most: u64| most.saturating_sub(self.left).min(self.frees);
        let before = brings(gone.most);
        gone.most = gone.most.max(left(memory));
        gone.available = gone.available.max(memory.available);
        if gone.most >= gone.risen.1.saturating_add(step) {
            gone.risen = (now, gone.most);
        }
        brings(gone.most) - before
    }

    /// What comes back in [`BACK_MS`], where all of it takes as long as a victim may take to be gone.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "what is divided by is not 0"
    )]
    fn step(&self, exit_ms: u32) -> u64 {
        let all_ms = u64::from(exit_ms).max(BACK_MS);
        (self.frees.saturating_mul(BACK_MS) / all_ms).max(WORTHWHILE)
    }

    /// Whether half of it is back, or was and is taken again.
    pub fn is_back(&self, memory: &Memory) -> bool {
        let most = self.gone.map_or(0, |gone| gone.most).max(left(memory));
        most >= self.left.saturating_add(self.frees / 2)
    }

    /// Whether the victim is gone, and its memory had the time to come back: as long as it rises, and no
    /// longer than a victim may take to be gone.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "milliseconds since boot in 64 bits, and times of the config in 32"
    )]
    pub fn is_over(&self, exit_ms: u32, now: Millis) -> bool {
        self.gone.is_some_and(|gone| {
            let longest = u64::from(exit_ms).max(BACK_MS);
            now >= (gone.risen.0 + BACK_MS).min(gone.at + longest)
        })
    }

    /// Whether memory has risen since the victim was found gone, whatever else takes it.
    pub fn rises(&self) -> bool {
        self.gone.is_some_and(|gone| gone.risen.0 > gone.at)
    }

    /// Whether what comes back is taken sooner than it comes: half of what was available is gone again.
    pub fn is_taken(&self, memory: &Memory) -> bool {
        self.gone
            .is_some_and(|gone| memory.available < gone.available / 2)
    }

    /// Whether the end was in vain, when its memory has had the time to come back.
    pub fn was_in_vain(&self, now: Millis) -> bool {
        let most = self.gone.map_or(0, |gone| gone.most);
        let brought = most.saturating_sub(self.left);
        let took_ms = now.saturating_sub(self.since);
        self.pace.is_some_and(|pace| {
            let taken_meanwhile = pace.saturating_mul(took_ms) / 1_000;
            brought.saturating_add(taken_meanwhile) < self.frees / IN_VAIN
        })
    }
}
