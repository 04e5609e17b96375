//! How the figures moved in the last two seconds.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "milliseconds since boot, which never go back; what is divided by is not 0"
)]

use crate::evidence::{Memory, Rates, Stalls};
use crate::history::{Millis, push_bounded};
use heapless::Deque;

/// Samples closer together than this say nothing about a rate.
pub(crate) const SAMPLE_MS: Millis = 100;
/// Samples older than this say nothing about now.
pub(crate) const SAMPLE_AGE_MS: Millis = 2_000;
const SAMPLES: usize = (SAMPLE_AGE_MS / SAMPLE_MS) as usize;
/// A stall that is over sooner than this was a burst: memory that went to swap for good.
const LASTING_MS: Millis = 1_500;
/// Without a pause of about this length in between, as there is from one burst to the next.
const PAUSE_MS: Millis = 100;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Millis,
    memory: Memory,
    /// [`Samples::given_back`] then.
    given_back: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    kept: Deque<Sample, SAMPLES>,
    /// Bytes that the ends of victims have brought so far.
    given_back: u64,
}

/// Between two samples `ms` apart.
fn stalls(then: &Memory, now: &Memory, ms: Millis) -> Stalls {
    let share = |was: u64, is: u64| (is.saturating_sub(was).saturating_mul(10) / ms).min(10_000);
    Stalls {
        some_permyriad: share(then.psi_some_us, now.psi_some_us) as u16,
        full_permyriad: share(then.psi_full_us, now.psi_full_us) as u16,
    }
}

impl Samples {
    pub(crate) fn record(&mut self, memory: &Memory, now: Millis) {
        let is_old = |sample: &Sample| sample.at + SAMPLE_AGE_MS < now;
        while self.kept.front().is_some_and(is_old) {
            self.kept.pop_front();
        }
        let last = self.kept.back();
        if last.is_none_or(|sample| sample.at + SAMPLE_MS <= now) {
            let sample = Sample {
                at: now,
                memory: *memory,
                given_back: self.given_back,
            };
            push_bounded(&mut self.kept, sample);
        }
    }

    /// A victim's end has brought `bytes`, which hide what was taken meanwhile.
    pub(crate) fn record_given_back(&mut self, bytes: u64) {
        self.given_back = self.given_back.saturating_add(bytes);
    }

    /// Since the oldest sample that still counts; the pace also since the newest one that is old
    /// enough, whichever is faster.
    pub(crate) fn rates(&self, memory: &Memory, now: Millis) -> Option<Rates> {
        let oldest = self.kept.front()?;
        let ms = now.checked_sub(oldest.at).filter(|ms| *ms >= SAMPLE_MS)?;
        let then = &oldest.memory;
        let per_second = |delta: u64| delta.saturating_mul(1_000) / ms;
        let stalled = stalls(then, memory, ms);
        let some_us = memory.psi_some_us.saturating_sub(then.psi_some_us);
        let limited_us = memory.psi_limited_us.saturating_sub(then.psi_limited_us);
        let mut newest_first = self.kept.iter().rev();
        let newest = newest_first.find(|sample| sample.at + SAMPLE_MS <= now);
        Some(Rates {
            absorbed: newest.is_some_and(|newest| self.is_absorbed(newest, memory)),
            shrinking: per_second(then.available.saturating_sub(memory.available)),
            pace: self
                .pace(oldest, memory, now)
                .max(newest.map_or(0, |newest| self.pace(newest, memory, now))),
            refaults: per_second(memory.refaults.saturating_sub(then.refaults)),
            stalled,
            lasting: self.lasting(memory, now),
            // Several cgroups may stall at the same time.
            limited_permyriad: (limited_us.saturating_mul(10_000) / some_us.max(1)).min(10_000)
                as u16,
        })
    }

    fn pace(&self, since: &Sample, memory: &Memory, now: Millis) -> u64 {
        self.taken(since, memory).saturating_mul(1_000) / (now - since.at).max(1)
    }

    /// Bytes, whether from what was available or by way of swap.
    fn taken(&self, since: &Sample, memory: &Memory) -> u64 {
        let left = |memory: &Memory| memory.available.saturating_add(memory.swap_free);
        let given_back = self.given_back.saturating_sub(since.given_back);
        left(&since.memory)
            .saturating_add(given_back)
            .saturating_sub(left(memory))
    }

    /// Whether at least half of what was taken can go to swap, or has gone there. Swap that takes others'
    /// memory as what is taken may not go there is at its end when that is.
    fn is_absorbed(&self, since: &Sample, memory: &Memory) -> bool {
        let can_go = |memory: &Memory| {
            let gone = memory.swap_total.saturating_sub(memory.swap_free);
            memory.swappable.saturating_add(gone)
        };
        let grown = can_go(memory).saturating_sub(can_go(&since.memory));
        grown > 0 && grown >= self.taken(since, memory) / 2
    }

    /// The least stalls of a part of [`LASTING_MS`] that is as long as [`PAUSE_MS`]. `None` until
    /// there are samples of such a time.
    fn lasting(&self, memory: &Memory, now: Millis) -> Option<Stalls> {
        let mut least = Stalls::ALL_THE_TIME;
        let (mut end, mut figures) = (now, memory);
        for sample in self.kept.iter().rev() {
            if sample.at + PAUSE_MS <= end {
                least = least.least(stalls(&sample.memory, figures, end - sample.at));
                (end, figures) = (sample.at, &sample.memory);
            }
            if end + LASTING_MS <= now {
                return Some(least);
            }
        }
        None
    }
}
