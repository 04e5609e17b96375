//! What happened before: wake-ups, samples, and what was tried on which candidate. Bounded; the
//! oldest is forgotten first.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "milliseconds since boot in 64 bits, and times of the config in 32"
)]

use crate::caches::Caches;
use crate::ends::Ends;
use crate::evidence::{Memory, Rates};
use crate::look::Look;
use crate::policy::{Level, Policy, Step};
use crate::returning::Returning;
use crate::samples::{SAMPLE_AGE_MS, SAMPLE_MS, Samples};
use crate::verdict::{Action, Verdict, Why};
use heapless::{Deque, Vec};
use lowtide_common::{CANDIDATES, Row};

/// Milliseconds on the monotonic clock.
pub type Millis = u64;

/// What came of an action on one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done {
        /// What a reclaim brought; 0 for any other.
        bytes: u64,
        /// As in [`Names`](crate::Names), of what was asked or killed, taken after the signal was
        /// sent; 0 for any other.
        name: u64,
    },
    /// It could not be done; the kernel's errno.
    Failed { errno: i32 },
}

impl Outcome {
    pub const DONE: Self = Self::Done { bytes: 0, name: 0 };

    pub const fn reclaimed(bytes: u64) -> Self {
        Self::Done { bytes, name: 0 }
    }

    pub const fn ended(name: u64) -> Self {
        Self::Done { bytes: 0, name }
    }

    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
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

/// A victim that was killed and is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exiting {
    until: Millis,
    brings: Returning,
}

/// Sizes are compared with those of so long ago, and up to twice that.
const GROWTH_MS: Millis = 500;

/// The size of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    id: u64,
    freed: u64,
    shmem: u64,
}

/// How large candidates were.
#[derive(Clone, Debug, Default)]
struct Sizes {
    at: Option<Millis>,
    of: Vec<Size, CANDIDATES>,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    woken_at: Option<Millis>,
    samples: Samples,
    acting: Option<Level>,
    reclaiming_since: Option<Millis>,
    helpless_since: Option<Millis>,
    attempts: Deque<Attempt, 32>,
    pub(crate) ends: Ends,
    pub(crate) caches: Caches,
    held: Option<Held>,
    /// Which victim the command that comes before was started for, and how long it has.
    preparing: Option<(u64, Millis)>,
    /// The older ones first.
    sizes: [Sizes; 2],
    exiting: Vec<Exiting, CANDIDATES>,
    /// Of what was asked to stop last, could not be killed, or has exited.
    returning: Option<Returning>,
    /// A reboot was tried in vain.
    reboot_failed: bool,
}

pub(crate) fn push_bounded<T, const N: usize>(queue: &mut Deque<T, N>, item: T) {
    if queue.is_full() {
        queue.pop_front();
    }
    // The push cannot fail: one place was just made.
    let _ = queue.push_back(item);
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

    /// Takes in what was just measured. What is to be done about it, the look says.
    pub fn look<'a>(&'a mut self, policy: &'a Policy, memory: &Memory, now: Millis) -> Look<'a> {
        self.record_returning(policy, memory, now);
        self.caches.forget(window(policy, now));
        self.samples.record(memory, now);
        Look::new(policy, self, memory, now)
    }

    pub(crate) fn rates(&self, memory: &Memory, now: Millis) -> Option<Rates> {
        self.samples.rates(memory, now)
    }

    /// Takes in what came of a verdict: of a kill, an outcome for each of [`Verdict::victims`], of
    /// any other action one, of none none.
    pub fn record(&mut self, policy: &Policy, verdict: &Verdict, outcomes: &[Outcome]) {
        let now = verdict.at;
        self.acting = verdict.acting;
        if self.acting.is_none() {
            self.reclaiming_since = None;
            self.held = None;
            self.preparing = None;
            // How much the end of one that is gone brings is still to be seen.
            self.returning = self.returning.filter(Returning::is_gone);
            // The victim that was asked has gone, or has time again: in the next episode it is asked anew.
            self.attempts.retain(|a| a.step != Step::Terminate);
        }
        if policy.is_relieved(&verdict.memory, verdict.rates.as_ref()) {
            self.caches.clear();
        }
        if matches!(verdict.why, Why::Relieved(_)) {
            self.attempts.retain(|a| a.step != Step::Throttle);
        }
        self.helpless_since = verdict.helpless.then(|| self.helpless_since.unwrap_or(now));
        match (verdict.action, outcomes.first()) {
            (Action::Reclaim { target, bytes }, Some(outcome)) => {
                let started = *self.reclaiming_since.get_or_insert(now);
                if now >= started + u64::from(policy.reclaim_ms) + u64::from(policy.quiet_ms) {
                    self.reclaiming_since = Some(now);
                }
                let got = match outcome {
                    Outcome::Done { bytes, .. } => *bytes,
                    Outcome::Failed { .. } => 0,
                };
                self.caches.record(&target, got, now);
                if got < bytes / 8 {
                    self.tried(target.id, Step::Reclaim, now + u64::from(policy.quiet_ms));
                }
            }
            (Action::Throttle { target, for_ms }, Some(outcome)) => {
                let until = now + u64::from(for_ms);
                // Until relief, once is enough.
                let again = until.saturating_add(u64::from(policy.restart_window_ms));
                self.tried(target.id, Step::Throttle, again);
                if outcome.is_done() {
                    self.held = Some(Held {
                        id: target.id,
                        until,
                        available: verdict.memory.available,
                    });
                }
            }
            (Action::Prepare { target, for_ms }, Some(outcome)) => {
                // What could not be started is not waited for.
                let works = outcome.is_done();
                let until = if works { now + u64::from(for_ms) } else { now };
                self.preparing = Some((target.id, until));
            }
            (Action::Terminate { target, grace_ms }, Some(Outcome::Done { name, .. })) => {
                self.preparing = None;
                self.ended(policy, verdict, &target, *name);
                self.tried(target.id, Step::Terminate, now + u64::from(grace_ms));
                let frees = verdict.judged.first().map_or(0, |judged| judged.frees);
                let brings = Returning::new(target.id, frees, &verdict.memory, now, None);
                self.returning = Some(brings);
            }
            (Action::Terminate { target, .. }, Some(_)) => {
                self.tried(target.id, Step::Terminate, now)
            }
            (Action::Kill { .. }, Some(_)) => {
                self.preparing = None;
                for (victim, outcome) in verdict.victims().zip(outcomes) {
                    self.killed(policy, verdict, &victim.row, victim.frees, *outcome);
                }
            }
            (Action::Reboot, Some(Outcome::Failed { .. })) => self.reboot_failed = true,
            _ => {}
        }
    }

    /// The config is another one, or the first: what holds by it is looked at as after an alarm, and what
    /// could not be done is tried again.
    pub fn reconfigured(&mut self, now: Millis) {
        self.reboot_failed = false;
        self.woken(now);
    }

    /// Whether rebooting was tried in vain.
    pub(crate) fn reboot_failed(&self) -> bool {
        self.reboot_failed
    }

    fn killed(
        &mut self,
        policy: &Policy,
        verdict: &Verdict,
        row: &Row,
        frees: u64,
        outcome: Outcome,
    ) {
        let until = verdict.at + u64::from(policy.exit_ms);
        let again = until.saturating_add(u64::from(policy.restart_window_ms));
        let Outcome::Done { name, .. } = outcome else {
            if self.attempt(row.id, Step::Kill) >= Some(window(policy, verdict.at)) {
                self.tried(row.id, Step::Kill, again);
            } else {
                // What failed once may work at the next look, where it is not gone: its memory comes back then.
                self.tried(row.id, Step::Kill, verdict.at);
                let brings = Returning::new(row.id, frees, &verdict.memory, verdict.at, None);
                self.returning = Some(brings);
            }
            return;
        };
        self.tried(row.id, Step::Kill, again);
        // What was asked before has had its end recorded.
        let asked = self.attempt(row.id, Step::Terminate);
        let asked = asked.is_some_and(|until| verdict.at < until + u64::from(policy.exit_ms));
        if !asked || !self.ends.is_ending(row.id, 0) {
            self.ended(policy, verdict, row, name);
        }
        let pace = verdict.rates.map(|rates| rates.pace);
        let pace = pace.filter(|_| verdict.victims().count() == 1);
        let brings = Returning::new(row.id, frees, &verdict.memory, verdict.at, pace);
        let exiting = Exiting { until, brings };
        if self.exiting.is_full() {
            self.exiting.remove(0);
        }
        // There is room: the first has just left.
        let _ = self.exiting.push(exiting);
    }

    fn ended(&mut self, policy: &Policy, verdict: &Verdict, row: &Row, name: u64) {
        let since = window(policy, verdict.at);
        let returns = self.ends.returns(row, name, since);
        self.ends
            .record(row, name, verdict.newest_id, returns, verdict.at);
    }

    /// Which candidates a survey found: what was asked and is not among them has gone.
    pub(crate) fn record_found(&mut self, rows: &[Row], memory: &Memory, now: Millis) {
        if rows.is_empty() {
            return;
        }
        let is_there = |id: u64| rows.iter().any(|row| row.id == id);
        self.attempts
            .retain(|a| a.step != Step::Terminate || is_there(a.id));
        self.preparing = self.preparing.filter(|(id, _)| is_there(*id));
        self.ends.record_rows(rows);
        let is_gone_now = |brings: &&mut Returning| !brings.is_gone() && !is_there(brings.id);
        if let Some(brings) = self.returning.as_mut().filter(is_gone_now) {
            let brought = brings.found_gone(memory, now);
            self.samples.record_given_back(brought);
        }
    }

    /// Whether a victim may be about to end: that it has, only a look at the candidates shows, before it is
    /// started again.
    pub(crate) fn is_ending(&self, policy: &Policy, now: Millis) -> bool {
        let since = now.saturating_sub(u64::from(policy.exit_ms));
        self.ends.is_any_ending(since..Millis::MAX)
    }

    /// Whether one that was ended before the verdict may still be giving back its memory, which nothing holds
    /// meanwhile.
    pub fn was_ending(&self, policy: &Policy, verdict: &Verdict) -> bool {
        let since = verdict.at.saturating_sub(u64::from(policy.exit_ms));
        let is_returning = self.returning.is_some_and(|brings| brings.is_gone());
        is_returning || self.ends.is_any_ending(since..verdict.at)
    }

    /// How large candidates are, for their growth. Sizes taken a moment ago stay: what grows by fits and
    /// starts may have paused since.
    pub(crate) fn record_sizes(&mut self, rows: &[Row], now: Millis) {
        let [older, newer] = &mut self.sizes;
        if !rows.is_empty() && newer.at.is_none_or(|at| now >= at + GROWTH_MS) {
            core::mem::swap(older, newer);
            newer.at = Some(now);
            newer.of.clear();
        }
        for row in rows {
            if newer.of.iter().all(|size| size.id != row.id) {
                // Where there is no room, it is one that came to be a candidate meanwhile.
                let _ = newer.of.push(Size {
                    id: row.id,
                    freed: row.freed_by_kill(),
                    shmem: row.shmem,
                });
            }
        }
    }

    /// The victim `id` has exited, and these are the figures since, if they could be read: whatever
    /// has its id later is new.
    pub fn record_exit(&mut self, id: u64, memory: Option<&Memory>, now: Millis) {
        let Some(place) = self.exiting.iter().position(|e| e.brings.id == id) else {
            return;
        };
        let Exiting { mut brings, .. } = self.exiting.remove(place);
        self.attempts.retain(|a| a.id != id);
        self.ends.record_gone(id, false);
        let Some(memory) = memory else {
            return;
        };
        let brought = brings.found_gone(memory, now);
        self.samples.record_given_back(brought);
        for other in &mut self.exiting {
            other.brings.brought_by_another(brought);
        }
        let before = self.returning.as_ref();
        self.returning = Some(before.map_or(brings, |before| brings.joined(before)));
    }

    /// What the ends of victims have brought since the look before, and whether it was in vain, once it had
    /// the time to come back.
    fn record_returning(&mut self, policy: &Policy, memory: &Memory, now: Millis) {
        let Some(brings) = &mut self.returning else {
            return;
        };
        let brought = brings.record(policy.exit_ms, memory, now);
        self.samples.record_given_back(brought);
        if brings.is_over(policy.exit_ms, now) {
            if brings.was_in_vain(now) {
                self.ends.record_gone(brings.id, true);
            }
            self.returning = None;
        }
    }

    /// A victim that has not exited yet, and is still waited for.
    pub fn exiting(&self, memory: &Memory, now: Millis) -> Option<u64> {
        let is_awaited = |e: &&Exiting| now < e.until && e.brings.may_end(memory, now);
        let victim = self.exiting.iter().find(is_awaited);
        victim.map(|e| e.brings.id)
    }

    /// What is gone, while its memory is on its way back.
    pub(crate) fn returning(&self) -> Option<&Returning> {
        self.returning.as_ref().filter(|brings| brings.is_gone())
    }

    /// Bytes that the end of `id` was to bring when it was asked to stop, while most of that is not back: it
    /// holds less and less of them, and they are not free yet.
    pub(crate) fn brings(&self, id: u64, memory: &Memory) -> u64 {
        self.returning
            .filter(|brings| brings.id == id && !brings.is_back(memory))
            .map_or(0, |brings| brings.frees)
    }

    fn tried(&mut self, id: u64, step: Step, until: Millis) {
        self.attempts.retain(|a| a.id != id || a.step != step);
        push_bounded(&mut self.attempts, Attempt { id, step, until });
    }

    pub(crate) fn acting(&self) -> Option<Level> {
        self.acting
    }

    /// Sizes that are young enough to tell what grows now, the older ones first.
    fn known_sizes(&self, now: Millis) -> impl Iterator<Item = (Millis, &Sizes)> {
        let ages = [2 * GROWTH_MS, SAMPLE_AGE_MS];
        self.sizes.iter().zip(ages).filter_map(move |(sizes, age)| {
            let at = sizes.at.filter(|at| at + age >= now)?;
            Some((at, sizes))
        })
    }

    fn size(&self, row: &Row, now: Millis) -> Option<&Size> {
        let mut known = self.known_sizes(now);
        known.find_map(|(_, sizes)| sizes.of.iter().find(|size| size.id == row.id))
    }

    /// Bytes that a kill would free more than half a second to a second ago, or when that was recorded
    /// first; 0 where that is too long ago.
    pub(crate) fn growth(&self, row: &Row, now: Millis) -> u64 {
        let size = self.size(row, now);
        size.map_or(0, |was| row.freed_by_kill().saturating_sub(was.freed))
    }

    /// The same of its shared memory alone.
    pub(crate) fn shmem_growth(&self, row: &Row, now: Millis) -> u64 {
        let size = self.size(row, now);
        size.map_or(0, |was| row.shmem.saturating_sub(was.shmem))
    }

    /// Whether the sizes recorded are old enough to tell what grows, and young enough for that to
    /// be now.
    pub(crate) fn knows_growth(&self, now: Millis) -> bool {
        self.known_sizes(now).any(|(at, _)| at + SAMPLE_MS <= now)
    }

    /// What is held back, until when, and what was available at its beginning.
    pub(crate) fn held(&self, now: Millis) -> Option<(u64, Millis, u64)> {
        self.held
            .filter(|held| now < held.until)
            .map(|held| (held.id, held.until, held.available))
    }

    /// What was asked last in this episode, or is about to be, and may not have exited yet.
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

    /// How long nothing could be done about confirmed pressure, in milliseconds.
    pub fn helpless_ms(&self, now: Millis) -> u64 {
        self.helpless_since
            .map_or(0, |since| now.saturating_sub(since))
    }
}

/// Where the window begins in which a return counts.
pub(crate) fn window(policy: &Policy, now: Millis) -> Millis {
    now.saturating_sub(u64::from(policy.restart_window_ms))
}
