//! Carries out what is planned for cgroups at all times, pressure or not (`lowtide_judge::protection`):
//! protection from reclaim, and that the kernel's own OOM killer ranks as the agent does.

use super::settings::{Setting, Settings, read_value};
use crate::config::{Loaded, rule};
use crate::domain::OwnTrigger;
use crate::escaped::Escaped;
use crate::sense::births::Births;
use crate::sense::interrupt::Interrupt;
use crate::sense::members::Process;
use crate::sense::tree::{Entry, OwnRule as _, Tree};
use crate::sense::walk::{each_child, go_down, open_dir};
use crate::sys;
use crate::tell::Log;
use lowtide_common::{MAX_DEPTH, NEVER, NO_GROUP, Rule};
use lowtide_judge::protection::{
    ADJ_NEVER_PROCESS, Asks, Cgroup, Knob, Plan, Planner, Scores, oom_score_adj,
};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io;
use std::ops::ControlFlow;

/// Brings the kernel's order of processes in line with the config, where there are no cgroups to choose
/// from, and undoes what no longer applies.
pub fn settle_processes(config: &Loaded, tree: &Tree, settings: &mut Settings) -> io::Result<()> {
    if !settings.is_possible() {
        return Ok(());
    }
    let fallback = rule(&config.policy, NO_GROUP);
    let in_force =
        settings.score_processes(&|process| own_score(process, fallback, config, tree))?;
    settings.retain(tree, |id, setting| {
        setting == Setting::ProcessScore && in_force.contains(&(id as i64))
    });
    Ok(())
}

/// The oom_score_adj of a process that is ranked by itself, in a cgroup with a rule or in none; `None`
/// for what is left as it is.
fn own_score(
    process: &Process,
    cgroup: Rule,
    config: &Loaded,
    tree: &Tree,
) -> io::Result<Option<i64>> {
    let member = process.member(cgroup, &config.matcher, tree)?;
    let member = member.filter(|_| !tree.is_protected_process(process.pid.as_raw_pid()));
    Ok(member.map(|member| match member.row.rule.kill {
        NEVER => ADJ_NEVER_PROCESS,
        kill => oom_score_adj(&config.policy, kill),
    }))
}

/// What the cgroups are brought in line with.
pub struct Standard<'a> {
    pub config: &'a Loaded,
    /// The cgroups that have a rule of their own, in the order of their ids.
    pub ruled: &'a [Entry],
    /// RAM in bytes.
    pub total: u64,
}

/// Brings every cgroup in line with the standard, and undoes what no longer applies; returns those with a
/// trigger of their own. Walks the whole tree by name: not for times of pressure. What cannot be set is said
/// and done without. Where the walk is ended nothing is undone: `Interrupted`.
pub fn settle(
    standard: &Standard<'_>,
    tree: &Tree,
    settings: &mut Settings,
    births: &mut Births,
    log: &mut Log,
    interrupt: &mut Interrupt<'_>,
) -> io::Result<Vec<OwnTrigger>> {
    let Ok(root) = tree.root() else {
        return Ok(Vec::new());
    };
    let Standard {
        config,
        ruled,
        total,
    } = *standard;
    let root = open_dir(root, c".")?;
    let mut walk = Walk {
        interrupt,
        level: 0,
        config,
        tree,
        ruled,
        planner: Planner::new(&config.policy, total),
        settings,
        births,
        log,
        wanted: Vec::new(),
        scores: Vec::new(),
        triggers: Vec::new(),
    };
    let fallback = rule(&config.policy, NO_GROUP);
    walk.children(&mut Vec::new(), &root, fallback)?;
    if let Err(ended) = walk.interrupt.check() {
        births.abandon_walk();
        return Err(ended);
    }
    let (mut wanted, triggers) = (walk.wanted, walk.triggers);
    let scores = walk.scores.iter();
    wanted.extend(scores.map(|score| (*score as u64, Setting::ProcessScore)));
    if births.end_walk() {
        log.info(format_args!(
            "so many cgroups that not all are watched: what is made below the others is protected \
             when memory was short for the first time since"
        ));
    }
    wanted.sort_unstable_by_key(|(id, setting)| (*id, setting.file()));
    settings.retain(tree, |id, setting| {
        // A cgroup that is held back has a time of its own.
        setting == Setting::Freeze
            || wanted
                .binary_search_by_key(&(id, setting.file()), |(id, s)| (*id, s.file()))
                .is_ok()
    });
    Ok(triggers)
}

/// A knob that cgroups are planned by, as a setting; `None` for what is only read.
const fn setting(knob: Knob) -> Option<Setting> {
    match knob {
        Knob::Min => Some(Setting::Min),
        Knob::Low => Some(Setting::Low),
        Knob::High => Some(Setting::High),
        Knob::Max => None,
        Knob::OomGroup => Some(Setting::OomGroup),
        Knob::OomScore => Some(Setting::OomScore),
    }
}

/// The value of a knob without what lowtide did; `None` where there is none.
fn found(settings: &Settings, dir: BorrowedFd<'_>, id: u64, knob: Knob) -> Option<i64> {
    match setting(knob) {
        Some(setting) => settings.without_us(dir, id, setting).ok(),
        None => read_value(dir, "memory.max").ok(),
    }
}

struct Walk<'a, 'i> {
    interrupt: &'a mut Interrupt<'i>,
    /// Of the cgroup that it is at; none deeper than [`MAX_DEPTH`] is looked at.
    level: usize,
    config: &'a Loaded,
    tree: &'a Tree,
    ruled: &'a [Entry],
    planner: Planner<'a>,
    settings: &'a mut Settings,
    births: &'a mut Births,
    log: &'a mut Log,
    wanted: Vec<(u64, Setting)>,
    /// oom_score_adj of processes that are ranked one by one.
    scores: Vec<i64>,
    triggers: Vec<OwnTrigger>,
}

impl Walk<'_, '_> {
    fn children(&mut self, path: &mut Vec<u8>, dir: &OwnedFd, above: Rule) -> io::Result<Asks> {
        let mut below = Asks::default();
        // First, so that none is made unseen behind the walk.
        self.births.watch(dir.as_fd());
        let listed = each_child(dir, &mut |name, _| {
            if self.interrupt.ends() {
                return ControlFlow::Break(());
            }
            let length = go_down(path, name);
            // One that vanishes at any step of this needs nothing any more.
            if self.level < MAX_DEPTH
                && let Some(child) = self.interrupt.step(open_dir(dir, name))
            {
                let asks = self.below(path, &child, above);
                if let Some(asks) = self.interrupt.step(asks) {
                    below.add(&asks);
                }
            }
            path.truncate(length);
            ControlFlow::Continue(())
        });
        self.interrupt.step(listed);
        Ok(below)
    }

    /// One level further down.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "as deep as the walk goes at most"
    )]
    fn below(&mut self, path: &mut Vec<u8>, dir: &OwnedFd, inherited: Rule) -> io::Result<Asks> {
        self.level += 1;
        let asks = self.cgroup(path, dir, inherited);
        self.level -= 1;
        asks
    }

    fn cgroup(&mut self, path: &mut Vec<u8>, dir: &OwnedFd, inherited: Rule) -> io::Result<Asks> {
        let id = sys::cgroup_id(dir.as_fd(), c"")?;
        if self.tree.is_protected(id) {
            let found = &mut |knob| found(self.settings, dir.as_fd(), id, knob);
            let plan = self.planner.plan_protected(self.tree.is_own(id), found);
            self.carry_out(path, dir.as_fd(), id, &plan);
            return Ok(plan.asks);
        }
        let own = self.own(id);
        let rule = own.map_or(inherited, |own| own.rule);
        let below = self.children(path, dir, rule)?;
        // By half of what is below it, less would be planned for it.
        self.interrupt.check()?;
        let cgroup = Cgroup {
            rule,
            is_ruled: own.is_some(),
            is_trusted: own.is_some_and(|own| own.trusted),
            is_roots: is_roots(dir.as_fd()),
        };
        let found = &mut |knob| found(self.settings, dir.as_fd(), id, knob);
        let plan = self.planner.plan(&cgroup, &below, found);
        if let Some(trigger) = plan.trigger {
            self.triggers.push(OwnTrigger {
                id,
                path: Escaped(path).to_string(),
                dir: dir.try_clone()?,
                trigger,
            });
        }
        self.carry_out(path, dir.as_fd(), id, &plan);
        self.score(path, dir.as_fd(), id, rule, plan.scores);
        Ok(plan.asks)
    }

    fn carry_out(&mut self, path: &[u8], dir: BorrowedFd<'_>, id: u64, plan: &Plan) {
        for cut in &plan.cuts {
            let Some(setting) = setting(cut.knob) else {
                continue;
            };
            if self.settings.is_news(id, setting) {
                self.log.warning(format_args!(
                    "/{}: {} of {} bytes would be more than half of RAM with the others, {} set",
                    Escaped(path),
                    setting.file(),
                    cut.wanted,
                    cut.granted,
                ));
            }
        }
        for (knob, value) in &plan.settings {
            if let Some(setting) = setting(*knob) {
                self.set(path, dir, id, setting, *value);
            }
        }
    }

    /// The kernel's order among the processes in the cgroup itself.
    fn score(&mut self, path: &[u8], dir: BorrowedFd<'_>, id: u64, rule: Rule, scores: Scores) {
        if !self.settings.is_possible() {
            return;
        }
        let (config, tree) = (self.config, self.tree);
        let done = match scores {
            Scores::Untouched => Ok(()),
            Scores::OneByOne => {
                let within = config.matcher.group_rule(rule.group);
                let within = within.unwrap_or(crate::config::rule(&config.policy, NO_GROUP));
                let wanted = |process: &Process| own_score(process, within, config, tree);
                self.settings.score_members(dir, &wanted, &mut self.scores)
            }
            Scores::AsFound => self.settings.end_protection_from_elsewhere(dir, 0),
            Scores::All(score) => {
                self.set(path, dir, id, Setting::OomScore, score);
                self.settings.end_protection_from_elsewhere(dir, score)
            }
        };
        if let Err(error) = done
            && error.kind() != io::ErrorKind::NotFound
            && self.settings.is_news(id, Setting::OomScore)
        {
            self.log.warning(format_args!(
                "/{}: ranking its processes for the kernel: {error}",
                Escaped(path)
            ));
        }
    }

    /// The rule that the cgroup has of its own.
    fn own(&self, id: u64) -> Option<Entry> {
        let found = self.ruled.binary_search_by_key(&id, |entry| entry.id);
        found.ok().and_then(|place| self.ruled.get(place).copied())
    }

    fn set(&mut self, path: &[u8], dir: BorrowedFd<'_>, id: u64, setting: Setting, value: i64) {
        if !self.settings.is_possible() {
            return;
        }
        self.wanted.push((id, setting));
        match self.settings.set(dir, id, setting, value) {
            Ok(()) => {}
            // No processes in it, or no memory controller: the kernel ranks no such cgroup.
            Err(error)
                if matches!(setting, Setting::OomScore | Setting::OomGroup)
                    && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if self.settings.is_news(id, setting) => self.log.warning(format_args!(
                "/{}: {} stays as it is: {error}",
                Escaped(path),
                setting.file()
            )),
            Err(_) => {}
        }
    }
}

fn is_roots(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_uid == 0)
}
