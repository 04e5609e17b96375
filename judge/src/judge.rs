use crate::evidence::{Memory, Rates};
use crate::history::{History, Millis};
use crate::policy::{Level, LevelPolicy, Policy, Step};
use crate::verdict::{Action, Judged, Reason, Verdict, Why};
use core::cmp::Reverse;
use heapless::Vec;
use lowtide_common::{CANDIDATES, NEVER, Row, Rule, Survey};

/// A victim or a reclaim target that gives less is not worth the disturbance.
const WORTHWHILE: u64 = 256 * 1024;
/// Under pressure the figures are looked at again within these bounds.
const LOOK_MS: core::ops::RangeInclusive<u64> = 5..=250;
/// The longest time between two looks where no alarm would come in time.
const GUARD_MS: u64 = 1_000;
/// Shorter than this, asking somebody to stop is no use.
const GRACE_MS: u64 = 20;
/// Fastest fall of available memory to be ready for when nothing is known: what one core of a
/// small device writes in a second.
const FALL_PER_MS: u64 = 512 * 1024;

/// Decides what to do about the pressure that `memory` and `survey` show: in the system, or within
/// one cgroup when both are of that, with a `history` of its own.
///
/// The levels are tried from the highest down, and the steps of a level in the order of its
/// `actions`; the first step that can do something is the verdict. What destroys work (throttle and
/// harder) needs the level's condition to hold right now; reclaim goes on until relief.
pub fn judge(
    policy: &Policy,
    memory: &Memory,
    survey: &Survey,
    history: &History,
    now: Millis,
) -> Verdict {
    let looks = history.looks(policy, memory, now);
    let case = Case {
        policy,
        memory,
        survey,
        history,
        now,
        rates: history.rates(memory, now),
    };
    let (least, why) = match history.is_awake(policy, now) {
        true => (Level::Alert, Why::NotConfirmed),
        false => (Level::Calm, Why::Calm),
    };
    let holding = match looks {
        true => policy.holding(memory, case.rates.as_ref()),
        false => Level::Calm,
    };
    let mut verdict = Verdict {
        level: holding.max(least),
        action: Action::Nothing,
        why,
        memory: *memory,
        rates: case.rates,
        enough: policy.enough(memory),
        judged: Vec::new(),
        acting: None,
        helpless: false,
        look_again_ms: looks.then(|| case.look_again()),
    };
    // Both hold CANDIDATES: nothing is cut off.
    verdict.judged.extend(survey.kill().iter().map(Judged::new));
    rank_kill(policy, history, now, verdict.enough, &mut verdict.judged);
    if let Some((id, _)) = history.exiting(now) {
        verdict.acting = history.acting();
        verdict.why = Why::StillExiting { id };
        return verdict;
    }
    for (at, rules) in Level::CONFIGURED.into_iter().zip(&policy.levels).rev() {
        if !looks || rules.actions.is_empty() {
            continue;
        }
        let confirmed = rules.confirm.holds(memory, case.rates.as_ref());
        let acting = history.acting().is_some_and(|l| l >= at);
        let relieved = rules.relief.holds(memory, case.rates.as_ref());
        if !confirmed && (!acting || relieved) {
            if acting && verdict.why == Why::NotConfirmed {
                verdict.why = Why::Relieved(at);
            }
            continue;
        }
        verdict.acting = verdict.acting.or(Some(at));
        let reason = if confirmed {
            Why::Confirmed(at)
        } else {
            Why::UntilRelief(at)
        };
        match case.first_step(rules, confirmed, &verdict) {
            Found::Do(action) => {
                verdict.action = action;
                verdict.helpless = matches!(action, Action::Reboot | Action::Starve);
                verdict.why = reason;
                return verdict;
            }
            Found::Wait(why) => {
                verdict.why = why;
                return verdict;
            }
            Found::Nothing if confirmed => {
                verdict.helpless = true;
                verdict.why = Why::NothingLeft(at);
            }
            Found::Nothing if verdict.helpless => {}
            Found::Nothing => verdict.why = reason,
        }
    }
    verdict
}

enum Found {
    Do(Action),
    Wait(Why),
    Nothing,
}

struct Case<'a> {
    policy: &'a Policy,
    memory: &'a Memory,
    survey: &'a Survey,
    history: &'a History,
    now: Millis,
    rates: Option<Rates>,
}

impl Case<'_> {
    fn first_step(&self, rules: &LevelPolicy, confirmed: bool, verdict: &Verdict) -> Found {
        for step in &rules.actions {
            if *step != Step::Reclaim && !confirmed {
                continue;
            }
            let found = match step {
                Step::Reclaim => self.reclaim(rules.enough(self.memory)),
                Step::Throttle => self.throttle(),
                Step::Terminate => self.terminate(verdict),
                Step::Kill => chosen(&verdict.judged)
                    .map_or(Found::Nothing, |target| Found::Do(Action::Kill { target })),
                Step::Reboot if self.history.reboot_failed() => Found::Nothing,
                Step::Reboot => self.last_resort(verdict, Action::Reboot),
                Step::Watchdog => self.last_resort(verdict, Action::Starve),
            };
            if !matches!(found, Found::Nothing) {
                return found;
            }
        }
        Found::Nothing
    }

    /// Milliseconds until nothing is available, at the pace of the last second.
    fn exhausted_in(&self) -> Option<u64> {
        let rate = self.rates?.shrinking;
        (rate > 0).then(|| self.memory.available.saturating_mul(1_000) / rate)
    }

    fn reclaim(&self, enough: u64) -> Found {
        let no_time = self
            .exhausted_in()
            .is_some_and(|ms| ms < u64::from(self.policy.reclaim_ms));
        if no_time || self.history.reclaim_spent(self.policy, self.now) {
            return Found::Nothing;
        }
        let mut judged = Vec::<_, CANDIDATES>::new();
        judged.extend(self.survey.reclaim().iter().map(Judged::new));
        rank_reclaim(self.history, self.now, enough, &mut judged);
        chosen(&judged).map_or(Found::Nothing, |target| {
            Found::Do(Action::Reclaim {
                target,
                bytes: enough.min(target.reclaimable_file()),
            })
        })
    }

    /// Holds back the candidate that grows fastest, and gives that its time to help: throttling
    /// alone is no cure. What comes next in order comes at its end, or when memory goes on falling.
    fn throttle(&self) -> Found {
        let fastest = self
            .survey
            .kill()
            .iter()
            .filter(|row| row.rule.kill != NEVER && row.level > 0)
            // Who shares a cgroup with others, or has none, cannot be held back alone.
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

    fn terminate(&self, verdict: &Verdict) -> Found {
        let Some(target) = chosen(&verdict.judged) else {
            return Found::Nothing;
        };
        let half = self.exhausted_in().map_or(u64::MAX, |ms| ms / 2);
        if half < GRACE_MS {
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

    /// Soon enough to catch the next mark at twice the pace seen, or at the fastest to be expected.
    fn look_again(&self) -> u32 {
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
        let longest = match self.history.is_awake(self.policy, self.now) {
            true => *LOOK_MS.end(),
            false => GUARD_MS,
        };
        ms.clamp(*LOOK_MS.start(), longest) as u32
    }
}

/// Gives every row the reason why it is killed or not, and sorts them, the chosen one first. For
/// any number of rows; a verdict has those of its survey.
pub fn rank_kill(
    policy: &Policy,
    history: &History,
    now: Millis,
    enough: u64,
    judged: &mut [Judged],
) {
    for j in judged.iter_mut() {
        j.reason = kill_objection(policy, history, now, &j.row);
    }
    let asked = |j: &Judged| Some(j.row.id) == history.asked();
    judged.sort_unstable_by_key(|j| {
        let turn = match j.reason {
            // It shrinks while it exits: that must not make room for a second victim.
            Reason::Chosen | Reason::FreesNothing | Reason::Restarting(_) if asked(j) => 0,
            Reason::Chosen => 1,
            Reason::Restarting(n) => n.saturating_add(1),
            _ => u8::MAX,
        };
        (turn, Reverse(j.row.kill_key(enough)), j.row.id)
    });
    if let Some(first) = judged.first_mut()
        && first.reason == Reason::FreesNothing
        && asked(first)
    {
        first.reason = Reason::Chosen;
    }
    let (frees, priority) = (Row::freed_by_kill, |row: &Row| row.rule.kill);
    explain_order(enough, frees, priority, judged);
}

/// The same for reclaim.
pub fn rank_reclaim(history: &History, now: Millis, enough: u64, judged: &mut [Judged]) {
    for j in judged.iter_mut() {
        j.reason = reclaim_objection(history, now, &j.row);
    }
    judged.sort_unstable_by_key(|j| {
        let chosen = j.reason == Reason::Chosen;
        (!chosen, Reverse(j.row.reclaim_key(enough)), j.row.id)
    });
    let (frees, priority) = (Row::reclaimable_file, |row: &Row| row.rule.reclaim);
    explain_order(enough, frees, priority, judged);
}

/// Why those behind the first are not it.
fn explain_order(
    enough: u64,
    frees: impl Fn(&Row) -> u64,
    priority: impl Fn(&Row) -> u16,
    judged: &mut [Judged],
) {
    let Some((best, others)) = judged.split_first_mut() else {
        return;
    };
    if !matches!(best.reason, Reason::Chosen | Reason::Restarting(_)) {
        return;
    }
    best.reason = Reason::Chosen;
    for j in others.iter_mut().filter(|j| j.reason == Reason::Chosen) {
        j.reason = if frees(&best.row) >= enough && frees(&j.row) < enough {
            Reason::NotEnough
        } else if priority(&j.row) < priority(&best.row) {
            Reason::LowerPriority
        } else {
            Reason::FreesLess
        };
    }
}

/// What speaks against killing it, or `Chosen` when nothing does.
fn kill_objection(policy: &Policy, history: &History, now: Millis, row: &Row) -> Reason {
    if row.rule.kill == NEVER || row.level == 0 {
        return Reason::Never;
    }
    if row.freed_by_kill() < WORTHWHILE {
        return Reason::FreesNothing;
    }
    if history
        .attempt(row.id, Step::Kill)
        .is_some_and(|until| now < until)
    {
        return Reason::Stuck;
    }
    match history.recent_kills(policy, row.rule.group, now) {
        n if n >= policy.restarts && n > 0 => Reason::Restarting(n),
        _ => Reason::Chosen,
    }
}

/// The same for reclaim.
fn reclaim_objection(history: &History, now: Millis, row: &Row) -> Reason {
    if row.rule.reclaim == NEVER || row.level == 0 {
        Reason::Never
    } else if row.reclaimable_file() < WORTHWHILE {
        Reason::FreesNothing
    } else if history
        .attempt(row.id, Step::Reclaim)
        .is_some_and(|until| now < until)
    {
        Reason::Stuck
    } else {
        Reason::Chosen
    }
}

fn chosen(judged: &[Judged]) -> Option<Row> {
    judged
        .first()
        .filter(|j| j.reason == Reason::Chosen)
        .map(|j| j.row)
}

impl LevelPolicy {
    /// Bytes missing to the relief mark: what an action should bring. At least [`WORTHWHILE`], so
    /// that "who frees enough" always asks for something.
    fn enough(&self, memory: &Memory) -> u64 {
        self.relief
            .available_mark(memory.total)
            .or(self.confirm.available_mark(memory.total))
            .unwrap_or(0)
            .saturating_sub(memory.available)
            .max(WORTHWHILE)
    }
}

impl Policy {
    /// Bytes missing to the relief mark of the highest level that does anything.
    pub fn enough(&self, memory: &Memory) -> u64 {
        let mut levels = self.levels.iter().rev();
        levels
            .find(|level| !level.actions.is_empty())
            .map_or(WORTHWHILE, |level| level.enough(memory))
    }
}
