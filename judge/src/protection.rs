//! Protection: what the config wants of cgroups at all times, pressure or not, decided from the leaves up.
//!
//! `memory.min` and `memory.low` as `protect` and `protect_low` say, `memory.high` below a limit that is
//! watched over, and what makes the kernel's own OOM killer, should it be faster, rank as the agent does
//! (Documentation/admin-guide/cgroup-v2.rst, Documentation/filesystems/proc.rst for `oom_score_adj`).

use crate::policy::{Policy, Trigger, Unit};
use heapless::Vec;
use lowtide_common::{NEVER, NO_GROUP, Rule};

/// All protection together is at most this part of RAM: what is protected is missing for
/// all others, and with more the kernel has nothing left to reclaim.
const PROTECTED_PART: i64 = 2;
/// `memory.min` of the agent's own cgroup: all that it takes there, kernel memory included.
const OWN: i64 = 2 << 20;
/// Gap between memory.high and memory.max: a sixteenth of the limit, at least 1 MiB. The kernel charges in
/// batches (64 pages a processor, or a huge page): within a smaller gap a task would not be made to wait.
const GAP_PART: i64 = 16;
const GAP_LEAST: i64 = 1 << 20;

/// `oom_score_adj` of a group that is never killed. Not -1000: with that alone left the kernel
/// would panic. Nor -997 to -999, which the tools that run containers give themselves and others: who
/// has this one has it from lowtide, wherever it went.
pub const ADJ_NEVER: i64 = -991;
/// `oom_score_adj` of kill priority 0. The kernel adds what a process uses, in thousandths of RAM:
/// the distance to [`ADJ_NEVER`] lets even a large process that is never killed outlive it.
pub const ADJ_PRIORITY_0: i64 = -499;
/// `oom_score_adj` of a process that is never killed, where processes are ranked one by one. Below all
/// others, and not [`ADJ_NEVER`]: what it starts inherits it, such as a login shell's commands, and keeps
/// it until processes are looked at again. Such a child is still killed when it takes most of the RAM.
pub const ADJ_NEVER_PROCESS: i64 = ADJ_PRIORITY_0 - 200;

/// What can be set on a cgroup, in bytes but for the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// `memory.min`.
    Min,
    /// `memory.low`.
    Low,
    /// `memory.high`; `i64::MAX` for "max".
    High,
    /// `memory.max`, which is only read; `i64::MAX` for "max".
    Max,
    /// `memory.oom.group`: 0 or 1.
    OomGroup,
    /// `oom_score_adj` of the processes in the cgroup itself: -1000 to 1000.
    OomScore,
}

/// `memory.min` and `memory.low` work alike.
const PROTECTIONS: [Knob; 2] = [Knob::Min, Knob::Low];

/// What a plan asks of one cgroup. Each knob once at most.
const SETTINGS: usize = 5;

/// What is known of one cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Cgroup {
    /// The rule in force: its own, or that of the nearest cgroup above with one.
    pub rule: Rule,
    /// Whether the rule is its own.
    pub is_ruled: bool,
    /// Whether it is that by right: not by a name or a mark that anybody could have given it.
    pub is_trusted: bool,
    /// Whether its settings are root's: a user may write to those of its own.
    pub is_roots: bool,
}

impl Cgroup {
    /// Its processes are ranked one by one.
    const fn is_mixed(&self) -> bool {
        self.rule.flags & Rule::PROCESS != 0
    }
}

/// What one cgroup, or several side by side, ask of the one above: its protection counts only as far as
/// that of the one above reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Bytes of `memory.min` and of `memory.low`.
    protected: [i64; PROTECTIONS.len()],
    /// Whether lowtide protects any of them.
    ours: [bool; PROTECTIONS.len()],
    /// Lowest and highest kill priority; `None` without cgroups.
    kill: Option<(u16, u16)>,
}

impl Asks {
    /// Takes in what a sibling asks.
    #[expect(
        clippy::indexing_slicing,
        reason = "arrays by protection are as long as their list"
    )]
    pub fn add(&mut self, other: &Self) {
        for i in 0..PROTECTIONS.len() {
            self.protected[i] = self.protected[i].saturating_add(other.protected[i]);
            self.ours[i] |= other.ours[i];
        }
        self.kill = match (self.kill, other.kill) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

/// How the kernel is to rank the processes in the cgroup itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// As they are.
    Untouched,
    /// As they are, but for a protection that one of them brought from elsewhere.
    AsFound,
    /// All with this `oom_score_adj`.
    All(i64),
    /// Each by its own rule.
    OneByOne,
}

/// Protection that was asked for and not granted, as it would be more than half of RAM with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub knob: Knob,
    pub wanted: i64,
    pub granted: i64,
}

/// What is to be set on one cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub settings: Vec<(Knob, i64), SETTINGS>,
    pub scores: Scores,
    pub cuts: Vec<Cut, { PROTECTIONS.len() }>,
    /// The trigger to watch over it with.
    pub trigger: Option<Trigger>,
    /// For the cgroup above.
    pub asks: Asks,
}

impl Plan {
    fn set(&mut self, knob: Knob, value: i64) {
        // Cannot fail: each knob is set once.
        let _ = self.settings.push((knob, value));
    }
}

/// Plans the cgroups of one device, each after those below it.
pub struct Planner<'a> {
    policy: &'a Policy,
    /// Bytes of RAM.
    total: u64,
    /// Bytes that may still be protected, of `memory.min` and of `memory.low`.
    left: [i64; PROTECTIONS.len()],
}

impl<'a> Planner<'a> {
    /// `total` is the RAM in bytes.
    pub fn new(policy: &'a Policy, total: u64) -> Self {
        let most = i64::try_from(total).unwrap_or(i64::MAX) / PROTECTED_PART;
        Self {
            policy,
            total,
            left: [most; PROTECTIONS.len()],
        }
    }

    /// The plan for a cgroup, given what those in it ask and what it `found`: the values without the
    /// agent's, `None` where there is none.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "what is granted is no more than what is left; arrays by protection are as long as their list"
    )]
    pub fn plan(
        &mut self,
        cgroup: &Cgroup,
        below: &Asks,
        found: &mut dyn FnMut(Knob) -> Option<i64>,
    ) -> Plan {
        let Cgroup { rule, .. } = *cgroup;
        let group = self.policy.group(rule.group);
        // What somebody without rights called so is not protected for it, and costs nobody anything.
        let by_right = cgroup.is_ruled && cgroup.is_trusted;
        let kill = if cgroup.is_mixed() {
            (0, NEVER)
        } else {
            (rule.kill, rule.kill)
        };
        let mut plan = Plan {
            settings: Vec::new(),
            scores: self.scores(cgroup, found),
            cuts: Vec::new(),
            trigger: group.trigger.filter(|_| by_right),
            asks: Asks {
                kill: Some(kill),
                ..Asks::default()
            },
        };
        if let Some(high) = plan.trigger.and_then(|_| high_below_max(found)) {
            plan.set(Knob::High, high);
        }
        let wanted = [group.protect, group.prefer];
        for (i, knob) in PROTECTIONS.into_iter().enumerate() {
            let wanted = wanted[i].filter(|_| by_right);
            let wanted = wanted.map_or(0, |amount| amount.of(self.total) as i64);
            let granted = wanted.min(self.left[i]);
            if granted < wanted {
                let _ = plan.cuts.push(Cut {
                    knob,
                    wanted,
                    granted,
                });
            }
            self.left[i] -= granted;
            let ours = granted > 0 || below.ours[i];
            let found = found(knob).unwrap_or(0);
            let needed = granted.max(below.protected[i]);
            if ours && needed > found {
                plan.set(knob, needed);
            }
            // What somebody without rights claims, and what has no bound, is not asked for above.
            let is_claim = found < i64::MAX && cgroup.is_roots;
            plan.asks.ours[i] = ours;
            plan.asks.protected[i] = needed.max(if is_claim { found } else { 0 });
        }
        plan.asks.add(&Asks {
            kill: below.kill,
            ..Asks::default()
        });
        let is_unit = cgroup.is_ruled && group.unit == Unit::Cgroup && !cgroup.is_mixed();
        if is_unit && rule.kill != NEVER && plan.asks.kill == Some(kill) {
            plan.set(Knob::OomGroup, 1);
        }
        plan
    }

    /// The plan for a cgroup of the agent's or of init's, which is left as it is, but that the agent's own
    /// is to have what it takes.
    pub fn plan_protected(
        &mut self,
        is_own: bool,
        found: &mut dyn FnMut(Knob) -> Option<i64>,
    ) -> Plan {
        let mut plan = Plan {
            settings: Vec::new(),
            scores: Scores::Untouched,
            cuts: Vec::new(),
            trigger: None,
            asks: Asks {
                protected: PROTECTIONS.map(|knob| found(knob).unwrap_or(0)),
                kill: Some((NEVER, NEVER)),
                ..Asks::default()
            },
        };
        if is_own && plan.asks.protected[0] < OWN {
            plan.set(Knob::Min, OWN);
            (plan.asks.protected[0], plan.asks.ours[0]) = (OWN, true);
        }
        plan
    }

    fn scores(&self, cgroup: &Cgroup, found: &mut dyn FnMut(Knob) -> Option<i64>) -> Scores {
        let rule = cgroup.rule;
        if cgroup.is_mixed() {
            return Scores::OneByOne;
        }
        if rule.group == NO_GROUP && rule.kill != NEVER {
            return Scores::AsFound;
        }
        let score = oom_score_adj(self.policy, rule.kill);
        if rule.kill != NEVER {
            return Scores::All(score);
        }
        // What was protected better before stays so.
        let before = found(Knob::OomScore).unwrap_or(score);
        Scores::All(before.min(score))
    }
}

/// `memory.high` just below `memory.max`, where it does not come before that already. Where there is nothing
/// to reclaim, the kernel goes from memory.max straight to its OOM killer, and no task stalls before. In the
/// gap a task that grows is made to wait: that is a stall, and it fires the trigger in time.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the smaller from the larger"
)]
fn high_below_max(found: &mut dyn FnMut(Knob) -> Option<i64>) -> Option<i64> {
    let max = found(Knob::Max).filter(|max| *max < i64::MAX)?;
    let gap = (max / GAP_PART).max(GAP_LEAST).min(max / 2);
    (gap > 0 && found(Knob::High)? >= max).then_some(max - gap)
}

/// The kernel's measure for a kill priority: 0, as processes start with, for the priority of
/// everything that no group covers, 1000 for 1000, [`ADJ_PRIORITY_0`] for 0 and [`ADJ_NEVER`] for never.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "priorities in 16 bits; what is divided by is not 0"
)]
pub fn oom_score_adj(policy: &Policy, kill: u16) -> i64 {
    let (kill, never) = (i64::from(kill), kill == NEVER);
    let rest = match policy.fallback.kill {
        NEVER => 0,
        rest => i64::from(rest),
    };
    if never {
        ADJ_NEVER
    } else if kill >= rest {
        (kill - rest) * 1000 / (1000 - rest).max(1)
    } else {
        (rest - kill) * ADJ_PRIORITY_0 / rest
    }
}
