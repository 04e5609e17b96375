//! What the config wants of cgroups at all times, pressure or not: protection from reclaim, and
//! that the kernel's own OOM killer, should it be faster, ranks as the agent does.

use super::settings::{Setting, Settings, read_value};
use crate::config::{Loaded, rule};
use crate::domain::OwnTrigger;
use crate::escaped::Escaped;
use crate::sense::births::Births;
use crate::sense::members::Process;
use crate::sense::tree::{Entry, OwnRule as _, Tree};
use crate::sys;
use crate::tell::Log;
use lowtide_common::{NEVER, NO_GROUP, Rule};
use lowtide_judge::{Policy, Unit};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::io;

/// All protection together is at most this part of RAM: what is protected is missing for
/// everybody else, and with more the kernel has nothing left to reclaim.
const PROTECTED_PART: i64 = 2;
/// memory.min of the agent's own cgroup: all that it takes there, kernel memory included.
const OWN: i64 = 2 << 20;
/// The part of a limit that memory.high is set below it, and the least of it: what is charged at once,
/// 64 pages for each of a few processors, or a huge page, is in force before anybody waits.
const BRAKED_PART: i64 = 16;
const BRAKED_LEAST: i64 = 1 << 20;
/// oom_score_adj of a group that is never killed. Not -1000: with that alone left the kernel
/// would panic. Nor -997 to -999, which the tools that run containers give themselves and others: who
/// has this one has it from lowtide, wherever it went.
const LAST: i64 = -991;
/// oom_score_adj of kill priority 0. The kernel adds what a process uses, in thousandths of RAM:
/// the distance to [`LAST`] lets even a large process that is never killed outlive it.
const LOWEST: i64 = -499;

/// oom_score_adj of a process that is never killed, where processes are ranked one by one. Below all
/// others, and not [`LAST`]: what it starts inherits it, such as a login shell's commands, and keeps it
/// until processes are looked at again. Such a child is still killed when it takes most of the RAM.
const LAST_ALONE: i64 = LOWEST - 200;

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
        NEVER => LAST_ALONE,
        kill => oom_score_adj(&config.policy, kill),
    }))
}

/// Brings every cgroup in line with the config, by the rules that `ruled` has, in the order of their
/// ids, and undoes what no longer applies; returns those with a trigger of their own. Walks the whole tree by name: not for times of pressure. What
/// cannot be set is said and done without.
pub fn settle(
    config: &Loaded,
    tree: &Tree,
    ruled: &[Entry],
    total: u64,
    settings: &mut Settings,
    births: &mut Births,
    log: &mut Log,
) -> io::Result<Vec<OwnTrigger>> {
    let Ok(root) = tree.root() else {
        return Ok(Vec::new());
    };
    let root = rustix::fs::openat(root, c".", DIRECTORY, Mode::empty())?;
    let mut walk = Walk {
        config,
        tree,
        ruled,
        total,
        left: [total as i64 / PROTECTED_PART; PROTECTIONS.len()],
        settings,
        births,
        log,
        wanted: Vec::new(),
        scores: Vec::new(),
        triggers: Vec::new(),
    };
    let fallback = rule(&config.policy, NO_GROUP);
    walk.children(&mut Vec::new(), &root, fallback)?;
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
        // Who is held back has a time of its own.
        setting == Setting::Freeze
            || wanted
                .binary_search_by_key(&(id, setting.file()), |(id, s)| (*id, s.file()))
                .is_ok()
    });
    Ok(triggers)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// memory.min and memory.low work alike.
const PROTECTIONS: [Setting; 2] = [Setting::Min, Setting::Low];

/// What one cgroup, or several side by side, ask of the one above.
#[derive(Clone, Copy, Default)]
struct Below {
    /// Bytes protected, by [`PROTECTIONS`].
    protected: [i64; PROTECTIONS.len()],
    /// Whether lowtide protects any of them.
    ours: [bool; PROTECTIONS.len()],
    /// Lowest and highest kill priority; `None` without cgroups.
    kill: Option<(u16, u16)>,
}

impl Below {
    fn add(&mut self, other: &Self) {
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

struct Walk<'a> {
    config: &'a Loaded,
    tree: &'a Tree,
    ruled: &'a [Entry],
    total: u64,
    /// What may still be protected.
    left: [i64; PROTECTIONS.len()],
    settings: &'a mut Settings,
    births: &'a mut Births,
    log: &'a mut Log,
    wanted: Vec<(u64, Setting)>,
    /// oom_score_adj of processes that are ranked one by one.
    scores: Vec<i64>,
    triggers: Vec<OwnTrigger>,
}

impl Walk<'_> {
    fn children(&mut self, path: &mut Vec<u8>, dir: &OwnedFd, above: Rule) -> io::Result<Below> {
        let mut below = Below::default();
        // First, so that none is made unseen behind the walk.
        self.births.watch(dir.as_fd());
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
                continue;
            }
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            // One that vanishes at any step of this needs nothing any more.
            if let Ok(child) = rustix::fs::openat(dir, name, DIRECTORY, Mode::empty())
                && let Ok(asks) = self.cgroup(path, &child, above)
            {
                below.add(&asks);
            }
            path.truncate(length);
        }
        Ok(below)
    }

    fn cgroup(&mut self, path: &mut Vec<u8>, dir: &OwnedFd, inherited: Rule) -> io::Result<Below> {
        let id = sys::cgroup_id(dir.as_fd(), c"")?;
        if self.tree.is_protected(id) {
            let protected =
                PROTECTIONS.map(|setting| self.settings.without_us(dir.as_fd(), id, setting));
            let mut asks = Below {
                protected: protected.map(|bytes| bytes.unwrap_or(0)),
                kill: Some((NEVER, NEVER)),
                ..Below::default()
            };
            if self.tree.is_own(id) && asks.protected[0] < OWN {
                self.set(path, dir.as_fd(), id, Setting::Min, OWN);
                (asks.protected[0], asks.ours[0]) = (OWN, true);
            }
            return Ok(asks);
        }
        let own = self.own(id);
        let rule = own.map_or(inherited, |own| own.rule);
        let below = self.children(path, dir, rule)?;
        let policy = &self.config.policy;
        let table = policy.group(rule.group);
        // What somebody without rights called so is not protected for it, and costs nobody anything.
        let trusted = own.filter(|own| own.trusted);
        if let (Some(_), Some(trigger)) = (trusted, table.trigger) {
            self.brake(path, dir.as_fd(), id);
            self.triggers.push(OwnTrigger {
                id,
                path: Escaped(path).to_string(),
                dir: dir.try_clone()?,
                trigger,
            });
        }
        let mut asks = Below {
            kill: Some(if is_mixed(rule) {
                (0, NEVER)
            } else {
                (rule.kill, rule.kill)
            }),
            ..Below::default()
        };
        let own_protection = trusted.map_or([None; 2], |_| [table.protect, table.prefer]);
        for (i, setting) in PROTECTIONS.into_iter().enumerate() {
            let wanted = own_protection[i].map_or(0, |amount| amount.of(self.total) as i64);
            let granted = wanted.min(self.left[i]);
            if granted < wanted && self.settings.is_news(id, setting) {
                self.log.warning(format_args!(
                    "/{}: {} of {wanted} bytes would be more than half of RAM with the others, {granted} set",
                    Escaped(path),
                    setting.file(),
                ));
            }
            self.left[i] -= granted;
            // A cgroup's protection counts only as far as that of the one above reaches.
            asks.ours[i] = granted > 0 || below.ours[i];
            let found = self.settings.without_us(dir.as_fd(), id, setting);
            let found = found.unwrap_or(0);
            let needed = granted.max(below.protected[i]);
            if asks.ours[i] && needed > found {
                self.set(path, dir.as_fd(), id, setting, needed);
            }
            // What somebody without rights claims, and what has no bound, is not asked for above.
            let is_claim = found < i64::MAX && is_roots(dir.as_fd());
            asks.protected[i] = needed.max(if is_claim { found } else { 0 });
        }
        asks.add(&Below {
            kill: below.kill,
            ..Below::default()
        });
        let uniform = asks.kill == Some((rule.kill, rule.kill));
        let is_unit = own.is_some() && table.unit == Unit::Cgroup && !is_mixed(rule);
        if is_unit && rule.kill != NEVER && uniform {
            self.set(path, dir.as_fd(), id, Setting::OomGroup, 1);
        }
        self.score(path, dir.as_fd(), id, rule);
        Ok(asks)
    }

    /// The kernel's order among the processes in the cgroup itself.
    fn score(&mut self, path: &[u8], dir: BorrowedFd<'_>, id: u64, rule: Rule) {
        if !self.settings.is_possible() {
            return;
        }
        let (config, tree) = (self.config, self.tree);
        let policy = &config.policy;
        let done = if is_mixed(rule) {
            let within = config.matcher.group_rule(rule.group);
            let within = within.unwrap_or(crate::config::rule(policy, NO_GROUP));
            let wanted = |process: &Process| own_score(process, within, config, tree);
            self.settings.score_members(dir, &wanted, &mut self.scores)
        } else if rule.group == NO_GROUP && rule.kill != NEVER {
            self.settings.end_protection_from_elsewhere(dir, 0)
        } else {
            let mut score = oom_score_adj(policy, rule.kill);
            if rule.kill == NEVER {
                let own = self.settings.without_us(dir, id, Setting::OomScore);
                score = score.min(own.unwrap_or(score));
            }
            self.set(path, dir, id, Setting::OomScore, score);
            self.settings.end_protection_from_elsewhere(dir, score)
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
        found.ok().map(|place| self.ruled[place])
    }

    /// Where there is nothing to reclaim, the kernel goes from memory.max straight to its OOM killer, and
    /// nobody stalls before. Just below it memory.high makes wait who grows: that is a stall, and it
    /// fires the trigger in time.
    fn brake(&mut self, path: &[u8], dir: BorrowedFd<'_>, id: u64) {
        let max = read_value(dir, "memory.max").unwrap_or(i64::MAX);
        let high = self.settings.without_us(dir, id, Setting::High);
        if max < i64::MAX && high.is_ok_and(|high| high >= max) {
            let room = (max / BRAKED_PART).max(BRAKED_LEAST).min(max / 2);
            self.set(path, dir, id, Setting::High, max - room);
        }
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

/// Whether its processes are ranked one by one.
const fn is_mixed(rule: Rule) -> bool {
    rule.flags & Rule::PROCESS != 0
}

fn is_roots(dir: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(dir).is_ok_and(|stat| stat.st_uid == 0)
}

/// The kernel's measure for a kill priority: 0, as processes start with, for the priority of
/// everything that no group covers, 1000 for 1000, [`LOWEST`] for 0 and [`LAST`] for never.
fn oom_score_adj(policy: &Policy, kill: u16) -> i64 {
    let (kill, never) = (i64::from(kill), kill == NEVER);
    let rest = match policy.fallback.kill {
        NEVER => 0,
        rest => i64::from(rest),
    };
    if never {
        LAST
    } else if kill >= rest {
        (kill - rest) * 1000 / (1000 - rest).max(1)
    } else {
        (rest - kill) * LOWEST / rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(rest: u16) -> Policy {
        let mut policy = crate::config::parse("t", "")
            .expect("what is built in")
            .policy;
        policy.fallback.kill = rest;
        policy
    }

    proptest! {
        #[test]
        fn the_kernel_ranks_as_the_config(rest in 0_u16..=1000, a in 0_u16..=1000, b in 0_u16..=1000) {
            let policy = policy(rest);
            let (a, b) = (a.min(b), a.max(b));
            let (low, high) = (oom_score_adj(&policy, a), oom_score_adj(&policy, b));
            prop_assert!(LOWEST <= low && low <= high && high <= 1000);
            prop_assert_eq!(oom_score_adj(&policy, rest), 0);
        }
    }

    #[test]
    fn never_is_last_but_not_forbidden() {
        assert_eq!(oom_score_adj(&policy(500), NEVER), LAST);
        assert_eq!(oom_score_adj(&policy(NEVER), NEVER), LAST);
        assert_eq!(oom_score_adj(&policy(NEVER), 800), 800);
        assert_eq!(oom_score_adj(&policy(500), 750), 500);
        const { assert!(-1000 < LAST && LAST < LAST_ALONE && LAST_ALONE < LOWEST) };
    }
}
