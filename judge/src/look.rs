//! One look at the figures, and the verdict on it.

use crate::evidence::{Memory, Names, Rates};
use crate::history::{History, Millis};
use crate::policy::{Level, LevelPolicy, Policy, Step};
use crate::rank::{WORTHWHILE, chosen};
use crate::verdict::{Action, Judged, Reason, Verdict, Why};
use core::cmp::Reverse;
use heapless::Vec;
use lowtide_common::{CANDIDATES, NEVER, Row, Rule, Survey};

/// Under pressure the figures are looked at again within these bounds.
const LOOK_MS: core::ops::RangeInclusive<u64> = 5..=250;
/// The longest time between two looks where no alarm would come in time.
const GUARD_MS: u64 = 1_000;
/// The time between two looks while a victim ends: half of the 100 ms after which systemd starts it again.
const ENDING_MS: u32 = 50;
/// Shorter than this, asking a process to stop is no use.
const GRACE_MS: u64 = 20;
/// Longer than the 100 ms that pass until growth is known, with time left to act on it.
const MEASURE_MS: u64 = 300;
/// What one victim after the other takes each: the exit of a small process (5 to 30 ms in a guest),
/// and the look at what it brought.
const TURN_MS: u64 = 50;
/// Fastest fall of available memory to be ready for when nothing is known: what one core of a
/// small device writes in a second.
const FALL_PER_MS: u64 = 512 * 1024;

/// The figures of the system, or of one cgroup within its limit, taken in by its
/// [`History::look`]. Ends with a verdict.
pub struct Look<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) history: &'a mut History,
    memory: Memory,
    pub(crate) now: Millis,
    rates: Option<Rates>,
    /// Whether the conditions of the levels count.
    counts: bool,
    /// The highest level whose condition holds.
    holding: Level,
}

enum Found {
    Do(Action),
    Wait(Why),
    Nothing,
}

impl<'a> Look<'a> {
    pub(crate) fn new(
        policy: &'a Policy,
        history: &'a mut History,
        memory: &Memory,
        now: Millis,
    ) -> Self {
        let rates = history.rates(memory, now);
        let holding = policy.holding(memory, rates.as_ref());
        // No alarm comes for what goes on: the end of a grace, and what is left when nothing else was.
        let goes_on = history
            .acting()
            .is_some_and(|level| level <= holding && policy.ends(level));
        let counts = goes_on || history.is_awake(policy, now) || !policy.is_warned(memory);
        Self {
            policy,
            history,
            memory: *memory,
            now,
            rates,
            counts,
            holding: if counts { holding } else { Level::Calm },
        }
    }

    /// Bytes missing to relief.
    pub fn enough(&self) -> u64 {
        self.policy.enough(&self.memory)
    }

    /// Of that, what one victim has to bring at least; see [`Policy::worth`].
    pub fn worth(&self) -> u64 {
        self.policy.worth(self.enough())
    }

    /// Whether a verdict, or a later one, can depend on the candidates: some level holds, its actions go on
    /// until relief, or a victim is not known to have ended.
    pub fn wants_survey(&self) -> bool {
        self.history.acting().is_some()
            || self.holding > Level::Calm
            || self.history.is_ending(self.policy, self.now)
    }

    /// Whether it depends on the candidate's name if it came back, see [`Names`].
    pub fn wants_name(&self, row: &Row) -> bool {
        let since = crate::history::window(self.policy, self.now);
        self.history.ends.needs_name(row, since)
    }

    /// Whether a verdict can depend on what may not go to swap, see [`keep_in_ram`](Self::keep_in_ram):
    /// something could, little is available, and still the highest level does not hold.
    pub fn wants_swap_limits(&self) -> bool {
        let mut levels = Level::CONFIGURED.into_iter().zip(&self.policy.levels);
        let Some((highest, rules)) = levels.next_back() else {
            return false;
        };
        let mut marks = rules.confirm.below_marks(self.memory.total);
        self.holding < highest
            && self.memory.within == 0
            && self.memory.swap_left(self.rates.as_ref()) > 0
            && marks.any(|mark| self.memory.available < mark)
    }

    /// So many bytes of what swap could take may not go there, by the limits of their cgroups.
    pub fn keep_in_ram(&mut self, bytes: u64) {
        self.memory.swappable = self.memory.swappable.saturating_sub(bytes);
        // It may be what is taken.
        if let Some(rates) = self.rates.as_mut().filter(|_| bytes > 0) {
            rates.absorbed = false;
        }
        if self.counts {
            self.holding = self.policy.holding(&self.memory, self.rates.as_ref());
        }
    }

    /// Decides what to do.
    ///
    /// The levels are tried from the highest down, and the steps of a level in the order of its
    /// `actions`; the first step that can do something is the verdict. What destroys work (throttle
    /// and harder) needs the level's condition to hold right now; reclaim goes on until relief.
    pub fn judge(self, survey: &Survey, names: &Names) -> Verdict {
        self.history
            .record_found(survey.kill(), &self.memory, self.now);
        let verdict = self.verdict(survey, names);
        self.history.record_sizes(survey.kill(), self.now);
        verdict
    }

    fn verdict(&self, survey: &Survey, names: &Names) -> Verdict {
        let (least, why) = if self.history.is_awake(self.policy, self.now) {
            (Level::Alert, Why::NotConfirmed)
        } else {
            (Level::Calm, Why::Calm)
        };
        let mut verdict = Verdict {
            at: self.now,
            level: self.holding.max(least),
            action: Action::Nothing,
            why,
            memory: self.memory,
            rates: self.rates,
            enough: self.enough(),
            worth: self.worth(),
            judged: Vec::new(),
            untouchable: Some(survey.largest_never).filter(|row| row.id != 0),
            newest_id: survey.highest_id,
            acting: None,
            helpless: false,
            look_again_ms: self.look_again(),
        };
        // Both hold CANDIDATES: nothing is cut off.
        let named = survey.kill().iter().zip(names.iter());
        verdict
            .judged
            .extend(named.map(|(row, name)| Judged::named(row, *name)));
        self.rank_kill(&mut verdict.judged);
        if let Some(id) = self.history.exiting(&self.memory, self.now) {
            verdict.acting = self.history.acting();
            verdict.why = Why::StillExiting { id };
            return verdict;
        }
        if let Some(id) = self.awaited() {
            verdict.acting = self.history.acting();
            verdict.why = Why::StillExiting { id };
            return verdict;
        }
        let mut levels = Level::CONFIGURED.into_iter().zip(&self.policy.levels).rev();
        let in_force = levels.by_ref().filter(|_| self.counts);
        for (level, rules) in in_force.filter(|(_, rules)| !rules.actions.is_empty()) {
            let confirmed = rules.confirm.holds(&self.memory, self.rates.as_ref());
            let acting = self.history.acting().is_some_and(|l| l >= level);
            let relieved = rules.relief.holds(&self.memory, self.rates.as_ref());
            if !confirmed && (!acting || relieved) {
                if acting && verdict.why == Why::NotConfirmed {
                    verdict.why = Why::Relieved(level);
                }
                continue;
            }
            verdict.acting = verdict.acting.or(Some(level));
            let reason = if confirmed {
                Why::Confirmed(level)
            } else {
                Why::UntilRelief(level)
            };
            match self.first_step(rules, confirmed, survey, &mut verdict) {
                Found::Do(action) => {
                    verdict.action = action;
                    verdict.helpless = matches!(action, Action::Reboot | Action::Watchdog);
                    verdict.why = reason;
                    return verdict;
                }
                Found::Wait(why) => {
                    verdict.why = why;
                    return verdict;
                }
                Found::Nothing if confirmed => {
                    verdict.helpless = true;
                    verdict.why = Why::NothingLeft(level);
                }
                Found::Nothing if verdict.helpless => {}
                Found::Nothing => verdict.why = reason,
            }
        }
        verdict
    }

    /// The victim that is gone and whose memory is waited for: what comes back is not taken at once, and
    /// there is the time to see that something does.
    fn awaited(&self) -> Option<u64> {
        let brings = self.history.returning()?;
        let has_time = || self.available_ms().is_none_or(|ms| ms >= TURN_MS);
        let is_awaited = !brings.is_back(&self.memory) && !brings.is_taken(&self.memory);
        (is_awaited && (brings.rises() || has_time())).then_some(brings.id)
    }

    fn first_step(
        &self,
        rules: &LevelPolicy,
        confirmed: bool,
        survey: &Survey,
        verdict: &mut Verdict,
    ) -> Found {
        for step in &rules.actions {
            if *step != Step::Reclaim && !confirmed {
                continue;
            }
            let found = match step {
                Step::Reclaim => self.reclaim(rules.enough(&self.memory), survey),
                Step::Throttle => self.throttle(survey),
                Step::Terminate => self.terminate(verdict),
                Step::Kill => self.kill(verdict),
                Step::Reboot if self.history.reboot_failed() => Found::Nothing,
                Step::Reboot => self.last_resort(verdict, Action::Reboot),
                Step::Watchdog => self.last_resort(verdict, Action::Watchdog),
            };
            if !matches!(found, Found::Nothing) {
                return found;
            }
        }
        Found::Nothing
    }

    /// Milliseconds until `bytes` are taken, at the pace of late; `None` where nothing is taken, or
    /// that is not known.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "what is divided by is not 0"
    )]
    fn lasts_ms(&self, bytes: u64) -> Option<u64> {
        let pace = self.rates?.pace;
        (pace > 0).then(|| bytes.saturating_mul(1_000) / pace)
    }

    /// Until nothing is available. What swap still takes is not counted: it may be memory that
    /// zram needs itself.
    fn available_ms(&self) -> Option<u64> {
        self.lasts_ms(self.memory.available)
    }

    fn reclaim(&self, enough: u64, survey: &Survey) -> Found {
        let left = self
            .memory
            .available
            .saturating_add(self.memory.swap_left(self.rates.as_ref()));
        let no_time = self
            .lasts_ms(left)
            .is_some_and(|ms| ms < u64::from(self.policy.reclaim_ms));
        if no_time || self.history.reclaim_spent(self.policy, self.now) {
            return Found::Nothing;
        }
        let mut judged = Vec::<_, CANDIDATES>::new();
        judged.extend(survey.reclaim().iter().map(Judged::new));
        self.rank_reclaim(self.policy.worth(enough), &mut judged);
        chosen(&judged).map_or(Found::Nothing, |target| {
            Found::Do(Action::Reclaim {
                target,
                bytes: enough.min(target.reclaimable_file()),
            })
        })
    }

    /// Holds back the candidate that grows fastest, and gives that its time to help: throttling
    /// alone is no cure. What comes next in order comes at its end, or when memory goes on falling.
    fn throttle(&self, survey: &Survey) -> Found {
        let fastest = survey
            .kill()
            .iter()
            .filter(|row| row.rule.kill != NEVER && row.level > 0)
            // A process that shares its cgroup, or has none, cannot be held back alone.
            .filter(|row| row.rule.flags & Rule::PROCESS == 0 && row.flags & Row::PROCESS == 0)
            .filter(|row| self.policy.group(row.rule.group).throttle_ms > 0)
            .filter(|row| {
                self.history
                    .attempt(row.id, Step::Throttle)
                    .is_none_or(|until| self.now >= until)
            })
            .map(|row| (self.history.growth(row, self.now), row))
            .max_by_key(|(growth, row)| (*growth, Reverse(row.id)));
        let held = self.history.held(self.now);
        match (fastest, held) {
            (Some((growth, row)), _) if growth >= WORTHWHILE => Found::Do(Action::Throttle {
                target: *row,
                for_ms: self.policy.group(row.rule.group).throttle_ms,
            }),
            (_, Some((id, until, available))) if self.memory.available >= available / 2 => {
                Found::Wait(Why::HeldBack { id, until })
            }
            (Some(_), None) if !self.history.knows_growth(self.now) => Found::Wait(Why::Measuring),
            _ => Found::Nothing,
        }
    }

    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "what is divided by is not 0; the first is there where one is chosen"
    )]
    fn terminate(&self, verdict: &Verdict) -> Found {
        if self.waits_for_growth(&verdict.judged) {
            return Found::Wait(Why::Measuring);
        }
        let Some(target) = chosen(&verdict.judged) else {
            return Found::Nothing;
        };
        let half = self.available_ms().map_or(u64::MAX, |ms| ms / 2);
        let loops = self.loops(&verdict.judged[0]);
        if half < GRACE_MS || loops || self.together(verdict) > 1 {
            return Found::Nothing;
        }
        let id = target.id;
        if let Some(until) = self.history.attempt(id, Step::Terminate) {
            return if self.now < until {
                Found::Wait(Why::InGrace { id, until })
            } else {
                Found::Nothing
            };
        }
        let preparing = self.history.preparing(id);
        if let Some(until) = preparing
            && self.now < until
        {
            return Found::Wait(Why::Preparing { id, until });
        }
        let group = self.policy.group(target.rule.group);
        let grace = u64::from(group.grace_ms) / if group.before { 2 } else { 1 };
        let grace = grace.min(half);
        if grace < GRACE_MS {
            return Found::Nothing;
        }
        if group.before && preparing.is_none() {
            return Found::Do(Action::Prepare {
                target,
                for_ms: grace as u32,
            });
        }
        Found::Do(Action::Terminate {
            target,
            grace_ms: grace as u32,
        })
    }

    fn kill(&self, verdict: &mut Verdict) -> Found {
        if self.waits_for_growth(&verdict.judged) {
            return Found::Wait(Why::Measuring);
        }
        let Some(target) = chosen(&verdict.judged) else {
            return Found::Nothing;
        };
        let together = self.together(verdict);
        for judged in verdict.judged.iter_mut().take(together).skip(1) {
            judged.reason = Reason::Together;
        }
        Found::Do(Action::Kill { target })
    }

    /// How many go at once: one, or the first of the order until they free enough, where there is
    /// no time for one after the other. A lower number goes along only where what the higher ones
    /// free leaves no time to look again.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "as many as there are candidates"
    )]
    fn together(&self, verdict: &Verdict) -> usize {
        let has_time = |bytes: u64, count: usize| {
            let ms = self.lasts_ms(self.memory.available.saturating_add(bytes));
            ms.is_none_or(|ms| ms >= TURN_MS * count as u64)
        };
        let (mut few, mut sum) = (0, 0_u64);
        let mut number = None;
        for judged in &verdict.judged {
            let brings = self.history.brings(judged.row.id, &self.memory);
            let brings = brings.max(judged.frees);
            let goes = judged.reason.is_in_order() && brings >= verdict.worth;
            let is_lower = number.is_some_and(|above| judged.row.rule.kill < above);
            if !goes || sum >= verdict.enough || is_lower && has_time(sum, few + 1) {
                break;
            }
            number = Some(judged.row.rule.kill);
            sum = sum.saturating_add(brings);
            few += 1;
        }
        if has_time(0, few) { 1 } else { few.max(1) }
    }

    /// Files in a tmpfs count for what grows by them alone. Whether one does that would go before
    /// the chosen one is not known yet, and there is the time to see.
    fn waits_for_growth(&self, judged: &[Judged]) -> bool {
        let time = self.available_ms().is_some_and(|ms| ms >= MEASURE_MS);
        let (worth, first) = (self.worth(), chosen(judged));
        time && !self.history.knows_growth(self.now)
            && judged.iter().any(|other| {
                let hides = other.row.freed_by_kill() >= worth && other.frees < worth;
                let sooner = first.is_none_or(|first| other.row.rule.kill > first.rule.kill);
                hides && other.reason.may_go() && sooner
            })
    }

    /// What is short within a cgroup's own limit is no reason to restart everything.
    fn last_resort(&self, verdict: &Verdict, action: Action) -> Found {
        if self.memory.within != 0 {
            return Found::Nothing;
        }
        let long_enough =
            self.history.helpless_ms(self.now) >= u64::from(self.policy.reboot_after_ms);
        if chosen(&verdict.judged).is_none() && self.policy.reboot_after_ms > 0 && long_enough {
            Found::Do(action)
        } else {
            Found::Nothing
        }
    }

    fn look_again(&self) -> Option<u32> {
        let by_marks = self.counts.then(|| self.before_next_mark());
        let by_end = self
            .history
            .is_ending(self.policy, self.now)
            .then_some(ENDING_MS);
        by_marks.into_iter().chain(by_end).min()
    }

    /// Soon enough to catch the next mark at twice the pace seen, or at the fastest to be expected; where
    /// an alarm tells of it, soon enough for stalls.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the smaller from the larger; what is divided by is not 0"
    )]
    fn before_next_mark(&self) -> u32 {
        if self.history.acting().is_none() && self.policy.tells_of_marks(&self.memory) {
            return *LOOK_MS.end() as u32;
        }
        let next_mark = self
            .policy
            .levels
            .iter()
            .filter_map(|rules| rules.confirm.available_mark(self.memory.total))
            .filter(|mark| *mark < self.memory.available)
            .max()
            .unwrap_or(0);
        let rate = self.rates.map_or(0, |r| r.shrinking / 500).max(FALL_PER_MS);
        let ms = (self.memory.available - next_mark.min(self.memory.available)) / rate;
        let longest = if self.history.is_awake(self.policy, self.now) {
            *LOOK_MS.end()
        } else {
            GUARD_MS
        };
        ms.clamp(*LOOK_MS.start(), longest) as u32
    }
}
