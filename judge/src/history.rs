//! What happened before: wake-ups, samples, and what was tried on whom. Bounded; the oldest is
//! forgotten first.

use crate::evidence::{Memory, Rates, Stalls};
use crate::policy::{Level, Policy, Step};
use crate::verdict::{Action, Verdict, Why};
use heapless::{Deque, Vec};
use lowtide_common::{CANDIDATES, Row};

/// Milliseconds on the monotonic clock.
pub type Millis = u64;

/// Samples closer together than this say nothing about a rate.
const SAMPLE_MS: Millis = 100;
/// Samples older than this say nothing about now.
const SAMPLE_AGE_MS: Millis = 2_000;
const SAMPLES: usize = (SAMPLE_AGE_MS / SAMPLE_MS) as usize;
/// A stall that is over sooner than this was a burst: memory that went to swap for good.
const LASTING_MS: Millis = 1_500;
/// Without a pause of about this length in between, as there is from one burst to the next.
const PAUSE_MS: Millis = 100;

/// What came of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reclaimed {
        bytes: u64,
    },
    Throttled,
    Prepared,
    Asked,
    Killed,
    /// The watchdog gets no more keep-alives.
    Starved,
    /// It could not be done; the kernel's errno.
    Failed {
        errno: i32,
    },
}

/// Something tried on one memcg or process, which holds until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    id: u64,
    step: Step,
    until: Millis,
}

/// The memcg held back last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    id: u64,
    until: Millis,
    /// What was available then.
    available: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Killed {
    group: u16,
    at: Millis,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    woken_at: Option<Millis>,
    samples: Deque<(Millis, Memory), SAMPLES>,
    acting: Option<Level>,
    reclaiming_since: Option<Millis>,
    helpless_since: Option<Millis>,
    attempts: Deque<Attempt, 32>,
    kills: Deque<Killed, 32>,
    held: Option<Held>,
    /// For whom the command that comes before was started, and how long it has.
    preparing: Option<(u64, Millis)>,
    sizes: Vec<(u64, u64), CANDIDATES>,
    sizes_at: Option<Millis>,
    exiting: Option<(u64, Millis)>,
    /// A reboot was tried in vain.
    reboot_failed: bool,
}

fn push_bounded<T, const N: usize>(queue: &mut Deque<T, N>, item: T) {
    if queue.is_full() {
        queue.pop_front();
    }
    // The push cannot fail: one place was just made.
    let _ = queue.push_back(item);
}

/// Between two samples `ms` apart.
fn stalls(then: &Memory, now: &Memory, ms: Millis) -> Stalls {
    let share = |was: u64, is: u64| (is.saturating_sub(was).saturating_mul(10) / ms).min(10_000);
    Stalls {
        some_permyriad: share(then.psi_some_us, now.psi_some_us) as u16,
        full_permyriad: share(then.psi_full_us, now.psi_full_us) as u16,
    }
}

impl History {
    /// An alarm ended the sleep.
    pub fn woken(&mut self, now: Millis) {
        self.woken_at = Some(now);
    }

    /// Whether the last wake-up is less than the quiet time ago.
    pub fn is_awake(&self, policy: &Policy, now: Millis) -> bool {
        let quiet = u64::from(policy.quiet_ms);
        self.woken_at.is_some_and(|at| now < at + quiet)
    }

    /// Whether the conditions of the levels are looked at: awake, or where no alarm would come in
    /// time.
    pub(crate) fn looks(&self, policy: &Policy, memory: &Memory, now: Millis) -> bool {
        self.is_awake(policy, now) || !policy.is_warned(memory)
    }

    /// Whether a verdict on these figures can depend on the candidates: some level holds, or its
    /// actions go on until relief.
    pub fn needs_survey(&self, policy: &Policy, memory: &Memory, now: Millis) -> bool {
        let holding = || policy.holding(memory, self.rates(memory, now).as_ref());
        self.acting.is_some() || self.looks(policy, memory, now) && holding() > Level::Calm
    }

    /// Takes in what was just measured. Call it before judging the same figures.
    pub fn observe(&mut self, memory: &Memory, now: Millis) {
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| at + SAMPLE_AGE_MS < now)
        {
            self.samples.pop_front();
        }
        if self
            .samples
            .back()
            .is_none_or(|(at, _)| at + SAMPLE_MS <= now)
        {
            push_bounded(&mut self.samples, (now, *memory));
        }
    }

    /// How the figures moved since the oldest sample that still counts.
    pub fn rates(&self, memory: &Memory, now: Millis) -> Option<Rates> {
        let (at, then) = self.samples.front()?;
        let ms = now.checked_sub(*at).filter(|ms| *ms >= SAMPLE_MS)?;
        let per_second = |delta: u64| delta.saturating_mul(1_000) / ms;
        let stalled = stalls(then, memory, ms);
        let some_us = memory.psi_some_us.saturating_sub(then.psi_some_us);
        let limited_us = memory.psi_limited_us.saturating_sub(then.psi_limited_us);
        Some(Rates {
            shrinking: per_second(then.available.saturating_sub(memory.available)),
            refaults: per_second(memory.refaults.saturating_sub(then.refaults)),
            stalled,
            lasting: self.lasting(memory, now),
            // Several cgroups may stall at the same time.
            limited_permyriad: (limited_us.saturating_mul(10_000) / some_us.max(1)).min(10_000)
                as u16,
        })
    }

    /// The least stalls of a part of [`LASTING_MS`] that is as long as [`PAUSE_MS`]. `None` until
    /// there are samples of such a time.
    fn lasting(&self, memory: &Memory, now: Millis) -> Option<Stalls> {
        let mut least = Stalls::ALL_THE_TIME;
        let (mut end, mut figures) = (now, memory);
        for (at, then) in self.samples.iter().rev() {
            if at + PAUSE_MS <= end {
                least = least.least(stalls(then, figures, end - at));
                (end, figures) = (*at, then);
            }
            if end + LASTING_MS <= now {
                return Some(least);
            }
        }
        None
    }

    /// Takes in a verdict and what came of it.
    pub fn note(
        &mut self,
        policy: &Policy,
        verdict: &Verdict,
        outcome: Option<Outcome>,
        now: Millis,
    ) {
        self.acting = verdict.acting;
        if self.acting.is_none() {
            self.reclaiming_since = None;
            self.held = None;
            self.preparing = None;
            // Who was asked has gone, or has time again: in the next episode it is asked anew.
            self.attempts.retain(|a| a.step != Step::Terminate);
        }
        if matches!(verdict.why, Why::Relieved(_)) {
            self.attempts.retain(|a| a.step != Step::Throttle);
        }
        self.helpless_since = verdict.helpless.then(|| self.helpless_since.unwrap_or(now));
        match (verdict.action, outcome) {
            (Action::Reclaim { target, bytes }, Some(outcome)) => {
                let started = *self.reclaiming_since.get_or_insert(now);
                if now >= started + u64::from(policy.reclaim_ms) + u64::from(policy.quiet_ms) {
                    self.reclaiming_since = Some(now);
                }
                let got = match outcome {
                    Outcome::Reclaimed { bytes } => bytes,
                    _ => 0,
                };
                if got < bytes / 8 {
                    self.tried(target.id, Step::Reclaim, now + u64::from(policy.quiet_ms));
                }
            }
            (Action::Throttle { target, for_ms }, Some(outcome)) => {
                let until = now + u64::from(for_ms);
                // Until relief, once is enough.
                let again = until.saturating_add(u64::from(policy.restart_window_ms));
                self.tried(target.id, Step::Throttle, again);
                if outcome == Outcome::Throttled {
                    self.held = Some(Held {
                        id: target.id,
                        until,
                        available: verdict.memory.available,
                    });
                }
            }
            (Action::Prepare { target, for_ms }, Some(outcome)) => {
                // What could not be started is not waited for.
                let works = outcome == Outcome::Prepared;
                let until = if works { now + u64::from(for_ms) } else { now };
                self.preparing = Some((target.id, until));
            }
            (Action::Terminate { target, grace_ms }, Some(Outcome::Asked)) => {
                self.preparing = None;
                self.ended(target.rule.group, now);
                self.tried(target.id, Step::Terminate, now + u64::from(grace_ms));
            }
            (Action::Terminate { target, .. }, Some(_)) => {
                self.tried(target.id, Step::Terminate, now)
            }
            (Action::Kill { target }, Some(outcome)) => {
                self.preparing = None;
                let deadline = now + u64::from(policy.exit_ms);
                self.tried(
                    target.id,
                    Step::Kill,
                    deadline.saturating_add(u64::from(policy.restart_window_ms)),
                );
                if outcome == Outcome::Killed {
                    let counted = self
                        .attempt(target.id, Step::Terminate)
                        .is_some_and(|until| now < until + u64::from(policy.exit_ms));
                    if !counted {
                        self.ended(target.rule.group, now);
                    }
                    self.exiting = Some((target.id, deadline));
                }
            }
            (Action::Reboot, Some(Outcome::Failed { .. })) => self.reboot_failed = true,
            _ => {}
        }
    }

    /// What could not be done may work under another config: it is tried again.
    pub fn reconfigured(&mut self) {
        self.reboot_failed = false;
    }

    /// Whether rebooting was tried in vain.
    pub(crate) fn reboot_failed(&self) -> bool {
        self.reboot_failed
    }

    /// Remembers which candidates a survey found, and how large they are, for their growth. Sizes
    /// taken a moment ago stay: too little can have grown since.
    pub fn remember(&mut self, rows: &[Row], now: Millis) {
        if !rows.is_empty() {
            // Who was asked and is there no more has gone.
            self.attempts
                .retain(|a| a.step != Step::Terminate || rows.iter().any(|row| row.id == a.id));
            self.preparing = self
                .preparing
                .filter(|(id, _)| rows.iter().any(|row| row.id == *id));
        }
        if rows.is_empty() || self.sizes_at.is_some_and(|at| now < at + SAMPLE_MS) {
            return;
        }
        self.sizes_at = Some(now);
        self.sizes.clear();
        for row in rows.iter().take(CANDIDATES) {
            // Cannot fail: both hold CANDIDATES.
            let _ = self.sizes.push((row.id, row.freed_by_kill()));
        }
    }

    /// The victim has exited: its id may come again only as somebody new.
    pub fn gone(&mut self) {
        if let Some((id, _)) = self.exiting.take() {
            self.attempts.retain(|a| a.id != id);
        }
    }

    /// The victim that has not exited yet, with the time when it stops being waited for.
    pub fn exiting(&self, now: Millis) -> Option<(u64, Millis)> {
        self.exiting.filter(|(_, deadline)| now < *deadline)
    }

    /// One of the group was made to end, asked or not.
    fn ended(&mut self, group: u16, now: Millis) {
        push_bounded(&mut self.kills, Killed { group, at: now });
    }

    fn tried(&mut self, id: u64, step: Step, until: Millis) {
        self.attempts.retain(|a| a.id != id || a.step != step);
        push_bounded(&mut self.attempts, Attempt { id, step, until });
    }

    pub(crate) fn acting(&self) -> Option<Level> {
        self.acting
    }

    /// Bytes that a kill would free more than when sizes were last remembered; 0 where that is too
    /// long ago.
    pub(crate) fn growth(&self, row: &Row, now: Millis) -> u64 {
        if self.sizes_at.is_none_or(|at| at + SAMPLE_AGE_MS < now) {
            return 0;
        }
        self.sizes
            .iter()
            .find(|(id, _)| *id == row.id)
            .map_or(0, |(_, was)| row.freed_by_kill().saturating_sub(*was))
    }

    /// Whether the sizes remembered are old enough to tell who grows, and young enough for that to
    /// be now.
    pub(crate) fn knows_growth(&self, now: Millis) -> bool {
        self.sizes_at
            .is_some_and(|at| (at + SAMPLE_MS..=at + SAMPLE_AGE_MS).contains(&now))
    }

    /// Who is held back, until when, and what was available at its beginning.
    pub(crate) fn held(&self, now: Millis) -> Option<(u64, Millis, u64)> {
        self.held
            .filter(|held| now < held.until)
            .map(|held| (held.id, held.until, held.available))
    }

    /// Who was asked last in this episode, or is about to be, and may not have exited yet.
    pub(crate) fn asked(&self) -> Option<u64> {
        let asked = |a: &&Attempt| a.step == Step::Terminate;
        let asked = self.attempts.iter().rev().find(asked).map(|a| a.id);
        self.preparing.map(|(id, _)| id).or(asked)
    }

    /// Until when the command has time that comes before `id` is asked; `None` when it was not
    /// started.
    pub(crate) fn preparing(&self, id: u64) -> Option<Millis> {
        self.preparing.filter(|(of, _)| *of == id).map(|(_, t)| t)
    }

    /// Until when an attempt of this step on `id` holds; `None` when never tried.
    pub(crate) fn attempt(&self, id: u64, step: Step) -> Option<Millis> {
        self.attempts
            .iter()
            .find(|a| a.id == id && a.step == step)
            .map(|a| a.until)
    }

    /// Reclaim had its time in this episode and relief did not come.
    pub(crate) fn reclaim_spent(&self, policy: &Policy, now: Millis) -> bool {
        self.reclaiming_since.is_some_and(|since| {
            let spent = since + u64::from(policy.reclaim_ms);
            (spent..spent + u64::from(policy.quiet_ms)).contains(&now)
        })
    }

    /// Times in a row, within the restart window, that the group was the one to go. Another one
    /// having gone in between, its turn comes again: it is what brings the pressure back.
    pub(crate) fn recent_kills(&self, policy: &Policy, group: u16, now: Millis) -> u8 {
        let since = now.saturating_sub(u64::from(policy.restart_window_ms));
        self.kills
            .iter()
            .rev()
            .take_while(|k| k.group == group && k.at >= since)
            .count()
            .min(255) as u8
    }

    /// How long nothing could be done about confirmed pressure, in milliseconds.
    pub fn helpless_ms(&self, now: Millis) -> u64 {
        self.helpless_since
            .map_or(0, |since| now.saturating_sub(since))
    }
}
