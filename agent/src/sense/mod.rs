//! Sense: what presses, and what is there. Nothing here decides.

// What others write is read here: an index or a sum must not lead to a panic, which is the end of
// the agent.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod alarms;
pub mod arm;
pub mod ballast;
pub mod births;
#[cfg(feature = "bpf")]
pub mod bpf;
pub mod cgroupfs;
pub mod choose;
pub mod containers;
pub mod interrupt;
mod json_value;
#[cfg(feature = "bpf")]
pub mod kfunc;
mod lazy;
pub mod limited;
pub mod members;
pub mod meminfo;
mod names;
pub mod other_killers;
pub mod process;
pub mod procfs;
pub mod psi;
pub mod status;
mod swap_limits;
pub(crate) mod text;
pub mod tree;
pub mod victim;
pub mod walk;
#[cfg(feature = "bpf")]
pub mod watch;

use interrupt::Interrupt;
use lowtide_common::{Best, NEVER, Request, Row, Rule, Survey, UNCLASSIFIED};
use lowtide_judge::Unit;
use rustix::fd::{AsFd as _, BorrowedFd};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use tree::{Entry, INHERITS, OwnRule, Tree};

/// Where the evidence about memcgs comes from. Judge and act do not know which one it is.
pub trait Engine: Send {
    fn name(&self) -> &'static str;

    /// What its rows are, and so what their ids mean.
    fn unit(&self) -> Unit {
        Unit::Cgroup
    }

    /// Looks at all cgroups or processes and ranks them. Allocates nothing.
    fn run(&mut self, request: &Request) -> io::Result<()>;

    /// What the last run found.
    fn survey(&self) -> &Survey;

    /// The rows that the last run with [`Request::ALL_ROWS`] found room for.
    fn rows(&self) -> &[Row];

    /// Cgroups, or processes, that the last run had no room to look at.
    fn left_out(&self) -> u32 {
        0
    }

    /// Says which rule a cgroup, or a process, has from now on.
    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()>;

    /// The policy map that the kernel has, where the engine keeps one there.
    fn policy_map(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Forgets all rules.
    fn forget_all(&mut self) -> io::Result<()>;

    /// Forgets what it knows of cgroups that are gone, where that takes time. Not for times of
    /// pressure.
    fn tidy(&mut self) {}

    /// Rules that found no room: those cgroups inherit one.
    fn unruled(&self) -> u32 {
        0
    }
}

/// Rounds of classifying that one survey may need; each settles [`UNCLASSIFIED`] new cgroups.
const ROUNDS: usize = 16;

/// Processes that one survey looks at where they are ranked one by one.
const PROCESSES: u32 = 512;
/// Room for the rules of cgroups that come before all are looked at again.
const NEW_RULES: usize = 256;

/// Descriptors left for everything but what an engine keeps open.
const SPARE: u64 = 64;

/// Surveys in which each one is ranked by a rule of its own, also one that came a moment ago.
pub struct Surveyor {
    engine: Box<dyn Engine>,
    pub tree: Tree,
    classified_up_to: u64,
    found_new: bool,
    behind: bool,
    /// The cgroups with a rule of their own, by id.
    ruled: Vec<Entry>,
    /// The last survey, where processes take the place of cgroups, or one is kept.
    changed: Box<Survey>,
    is_changed: bool,
}

impl Surveyor {
    pub fn new(engine: Box<dyn Engine>, tree: Tree) -> Self {
        Self {
            engine,
            tree,
            classified_up_to: 0,
            found_new: false,
            behind: false,
            ruled: Vec::new(),
            changed: Box::new(Survey::EMPTY),
            is_changed: false,
        }
    }

    /// Whether surveys found new cgroups since this was last asked.
    pub fn take_found_new(&mut self) -> bool {
        std::mem::take(&mut self.found_new)
    }

    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// See [`Engine::policy_map`].
    pub fn policy_map(&self) -> Option<BorrowedFd<'_>> {
        self.engine.policy_map()
    }

    /// Every cgroup id up to this one was classified.
    pub fn classified_up_to(&self) -> u64 {
        self.classified_up_to
    }

    /// See [`Engine::left_out`].
    pub fn left_out(&self) -> u32 {
        self.engine.left_out()
    }

    /// See [`Engine::rows`].
    pub fn rows(&self) -> &[Row] {
        self.engine.rows()
    }

    pub fn unit(&self) -> Unit {
        self.engine.unit()
    }

    /// Whether the last survey found more new cgroups than it could look at: those are not touched
    /// until [`reclassify`](Self::reclassify) has.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// See [`Engine::unruled`].
    pub fn unruled(&self) -> u32 {
        self.engine.unruled()
    }

    /// See [`Engine::tidy`].
    pub fn tidy(&mut self) {
        self.engine.tidy();
    }

    /// Takes over the rules of a config; returns how many cgroups have one of their own now, or how
    /// many processes there are.
    pub fn classify_all(&mut self, rules: &dyn OwnRule, fallback: Rule) -> io::Result<usize> {
        self.classified_up_to = 0;
        self.behind = false;
        self.ruled.clear();
        match self.unit() {
            Unit::Cgroup => {
                self.engine.forget_all()?;
                self.reclassify(rules, fallback, &mut Interrupt::never())
            }
            Unit::Process => {
                self.engine.forget_all()?;
                let survey = self.survey(0, 0, fallback, 0, rules)?;
                Ok(survey.memcgs as usize)
            }
        }
    }

    /// What the last survey found.
    pub fn last(&self) -> &Survey {
        if self.is_changed {
            &self.changed
        } else {
            self.engine.survey()
        }
    }

    /// Bytes that its candidates hold and that may not go to swap, see [`swap_limits::kept_in_ram`].
    pub fn kept_in_ram(&self) -> u64 {
        swap_limits::kept_in_ram(&self.tree, self.last())
    }

    /// Looks again at what is in the cgroups, and brings their rules in line with that; returns how many
    /// have one of their own. Walks the whole tree by name: not for times of pressure. All stays as it
    /// is where the walk is ended: `Interrupted`.
    pub fn reclassify(
        &mut self,
        rules: &dyn OwnRule,
        fallback: Rule,
        interrupt: &mut Interrupt<'_>,
    ) -> io::Result<usize> {
        if self.unit() == Unit::Process {
            return self.classify_all(rules, fallback);
        }
        // Of those that are there now, the walk comes by all.
        let request = Request {
            worth: 0,
            classified_up_to: u64::MAX,
            fallback: Rule::UNTOUCHABLE,
            within: 0,
            flags: 0,
            _reserved: 0,
        };
        self.engine.run(&request)?;
        let highest = self.engine.survey().highest_id;
        let mut found = self.tree.rules(rules, fallback, interrupt)?;
        let is_found = |id| found.binary_search_by_key(&id, |entry| entry.id).is_ok();
        for entry in self.ruled.iter().filter(|entry| !is_found(entry.id)) {
            if self.tree.open_id(entry.id).is_ok() {
                self.engine.classify(entry.id, INHERITS)?;
            }
        }
        for entry in &found {
            self.engine.classify(entry.id, entry.rule)?;
        }
        self.classified_up_to = highest.max(self.classified_up_to);
        self.behind = false;
        let count = found.len();
        found.reserve(NEW_RULES);
        self.ruled = found;
        Ok(count)
    }

    /// The cgroups that have a rule of their own, in the order of their ids.
    pub fn ruled(&self) -> &[Entry] {
        &self.ruled
    }

    /// One survey, of all or `within` one cgroup, see [`Request::within`]. New cgroups that are
    /// found on the way are classified first.
    pub fn survey(
        &mut self,
        worth: u64,
        within: u64,
        fallback: Rule,
        flags: u32,
        rules: &dyn OwnRule,
    ) -> io::Result<&Survey> {
        let mut listed = 0;
        for _ in 0..ROUNDS {
            let request = Request {
                worth,
                classified_up_to: self.classified_up_to,
                fallback,
                within,
                flags,
                _reserved: 0,
            };
            self.engine.run(&request)?;
            let survey = self.engine.survey();
            let mut new = heapless::Vec::<u64, UNCLASSIFIED>::new();
            let _ = new.extend_from_slice(survey.unclassified());
            let all_listed = survey.unclassified_len as usize <= UNCLASSIFIED;
            // Where the policy map has no room for them, the same ones are listed again and again.
            if !all_listed && new.first() == Some(&listed) {
                break;
            }
            listed = new.first().copied().unwrap_or(0);
            let highest = survey.highest_id;
            for id in &new {
                match self.engine.unit() {
                    Unit::Cgroup => {
                        let new =
                            self.tree
                                .classify_new(*id, rules, fallback, &mut *self.engine)?;
                        if let Some(new) = new
                            && self.ruled.len() < self.ruled.capacity()
                        {
                            let place = self.ruled.partition_point(|entry| entry.id < new.id);
                            self.ruled.insert(place, new);
                        }
                    }
                    Unit::Process => {
                        let rule = process::Id(*id).own_rule(fallback, rules, &self.tree);
                        self.engine.classify(*id, rule)?;
                    }
                }
            }
            self.behind = !all_listed;
            if all_listed {
                self.classified_up_to = highest.max(self.classified_up_to);
            }
            if new.is_empty() {
                break;
            }
            self.found_new = true;
        }
        self.rank_one_by_one(worth, fallback, rules);
        Ok(self.last())
    }

    /// In the last survey, what was asked to stop stays a candidate until it has exited, also where it holds
    /// less than all others, or nothing any more.
    pub fn keep(&mut self, asked: &Row) {
        if self.last().kill().iter().any(|row| row.id == asked.id) {
            return;
        }
        if !std::mem::replace(&mut self.is_changed, true) {
            *self.changed = *self.engine.survey();
        }
        put_last(&mut self.changed, asked);
    }

    /// In the last survey, cgroups whose processes are ranked one by one give way to these, so that none
    /// is chosen for what it cannot give.
    fn rank_one_by_one(&mut self, worth: u64, fallback: Rule, rules: &dyn OwnRule) {
        let survey = self.engine.survey();
        self.is_changed = survey.kill().iter().any(is_one_by_one);
        if !self.is_changed {
            return;
        }
        let out = &mut *self.changed;
        *out = *survey;
        let (mut kill, mut left) = (Best::new(Row::ZERO), PROCESSES);
        for row in survey.kill() {
            if left == 0 || !is_one_by_one(row) {
                kill.keep(row.kill_key(worth), row.id, row);
                continue;
            }
            each_process(
                &self.tree,
                row,
                fallback,
                rules,
                &mut left,
                &mut |process| {
                    if process.rule.kill != NEVER {
                        kill.keep(process.kill_key(worth), process.id, process);
                    } else if process.freed_by_kill() > out.largest_never.freed_by_kill() {
                        out.largest_never = *process;
                    }
                },
            );
        }
        out.kill_len = kill.copy_to(&mut out.kill);
    }

    /// [`rows`](Self::rows) with the processes of those cgroups whose processes are ranked one by one.
    pub fn rows_one_by_one(&self, fallback: Rule, rules: &dyn OwnRule) -> Vec<Row> {
        let mut rows = Vec::new();
        for row in self.rows() {
            let mut row = *row;
            if is_one_by_one(&row) && row.flags & Row::KILLABLE != 0 {
                let mut all = u32::MAX;
                each_process(
                    &self.tree,
                    &row,
                    fallback,
                    rules,
                    &mut all,
                    &mut |process| {
                        rows.push(*process);
                    },
                );
                row.flags &= !Row::KILLABLE;
            }
            rows.push(row);
        }
        rows
    }
}

/// Adds a candidate that holds nothing any more, in the place of the last one where there is no room.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places of an array that is not empty"
)]
fn put_last(survey: &mut Survey, asked: &Row) {
    let Survey { kill, kill_len, .. } = survey;
    let place = (*kill_len as usize).min(kill.len() - 1);
    if let Some(last) = kill.get_mut(place) {
        *last = Row {
            id: asked.id,
            parent: asked.parent,
            level: asked.level,
            flags: asked.flags,
            rule: asked.rule,
            ..Row::ZERO
        };
        *kill_len = place as u32 + 1;
    }
}

/// Whether a cgroup's processes are candidates, and not the cgroup.
pub fn is_one_by_one(row: &Row) -> bool {
    row.rule.flags & Rule::PROCESS != 0 && row.flags & Row::PROCESS == 0
}

/// The rule of those processes in a cgroup that none of their own names.
pub fn rule_within(row: &Row, fallback: Rule, rules: &dyn OwnRule) -> Rule {
    rules.group_rule(row.rule.group).unwrap_or(fallback)
}

/// Calls `f` with each process in the cgroup of a row, as a candidate, as long as any are `left` to be
/// looked at.
fn each_process(
    tree: &Tree,
    cgroup: &Row,
    fallback: Rule,
    rules: &dyn OwnRule,
    left: &mut u32,
    f: &mut dyn FnMut(&Row),
) {
    let Ok(dir) = tree.open_id(cgroup.id) else {
        return;
    };
    let rule = rule_within(cgroup, fallback, rules);
    let _ = members::each_member(
        dir.as_fd(),
        rule,
        rules,
        tree,
        left,
        &mut |member, process| {
            // One that cannot be read has exited.
            let Ok(id) = process::Id::of(process.pid, &process.dir) else {
                return;
            };
            let row = Row {
                id: id.0,
                parent: cgroup.id,
                level: cgroup.level.saturating_add(1),
                flags: member.row.flags | Row::KILLABLE,
                ..member.row
            };
            f(&row);
        },
    );
}

/// How many descriptors an engine may keep, once the limit is as high as it may be.
fn spare_descriptors() -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    let files = limit.maximum.unwrap_or(u64::MAX);
    Ok(files.saturating_sub(SPARE) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_stays_a_candidate_also_where_there_is_no_room() {
        let asked = Row {
            id: 7,
            anon: 1 << 20,
            level: 1,
            ..Row::ZERO
        };
        let mut survey = Survey::EMPTY;
        put_last(&mut survey, &asked);
        let [kept] = survey.kill() else {
            panic!("{} candidates", survey.kill().len())
        };
        assert_eq!((kept.id, kept.level, kept.anon), (7, 1, 0));

        let (first, id) = (100, |row: &Row| row.id);
        for (row, id) in survey.kill.iter_mut().zip(first..) {
            row.id = id;
        }
        survey.kill_len = survey.kill.len() as u32;
        put_last(&mut survey, &asked);
        assert_eq!(survey.kill().len(), survey.kill.len());
        assert_eq!(survey.kill().first().map(id), Some(first));
        assert_eq!(survey.kill().last().map(id), Some(7));
    }
}
