//! What is kept of decisions and of what came of them, for `lowtide log` and `lowtide status`.

use super::Daemon;
use super::report::{others, targets};
use crate::act;
use crate::sense::tree::PATH;
use crate::tell::words::{Because, Named, Other};
use crate::units::Plain;
use lowtide_judge::{Action, Judged, Outcome, Verdict};
use std::io;
use std::mem::MaybeUninit;

/// What is counted since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub wakeups: u64,
    pub alarms: u64,
    pub looks: u64,
    pub reclaims: u64,
    pub terminated: u64,
    pub killed: u64,
    pub failed: u64,
    pub reloads: u64,
}

impl Counters {
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a count of 64 bits, one at a time"
    )]
    pub fn count(&mut self, action: &Action, outcome: Outcome) {
        match action {
            _ if !outcome.is_done() => self.failed += 1,
            Action::Reclaim { .. } => self.reclaims += 1,
            Action::Terminate { .. } => self.terminated += 1,
            Action::Kill { .. } => self.killed += 1,
            _ => {}
        }
    }
}

impl Daemon {
    /// Keeps a verdict and what came of it: a record for each victim. Allocates nothing.
    pub(super) fn record(&mut self, verdict: &Verdict, done: &[act::Done]) {
        let mut recorded = false;
        for (target, done) in targets(verdict).zip(done) {
            self.record_one(verdict, Some(&target), Some(done));
            recorded = true;
        }
        if !recorded {
            self.record_one(verdict, None, done.first());
        }
    }

    fn record_one(&mut self, verdict: &Verdict, target: Option<&Judged>, done: Option<&act::Done>) {
        let policy = &self.config.policy;
        let tree = &self.surveyor.tree;
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let mut record = self.decisions.begin("decision");
        record
            .text("level", verdict.level.name())
            .text("why", Because::new(verdict, tree, &mut buffer))
            .text("action", verdict.action.name());
        if self.standing.dry_run {
            record.flag("dry", true);
        }
        if let Some(Outcome::Failed { errno }) = done.map(|done| done.outcome) {
            record.text("error", Plain(io::Error::from_raw_os_error(errno)));
        }
        if let Some(target) = target {
            let process = done.and_then(|done| done.process.as_ref());
            record
                .text(
                    "victim",
                    Named::new(tree, &target.row, process, &mut buffer),
                )
                .text("group", &policy.group(target.row.rule.group).name)
                .number("kill", target.row.rule.kill.into())
                .number("usage", target.row.usage)
                .number("frees", target.frees);
        }
        let memory = &verdict.memory;
        record
            .number("needed", verdict.enough)
            .number("available", memory.available)
            .number("total", memory.total);
        if memory.swap_total > 0 {
            record.number("swap_free", memory.swap_free);
        }
        if let Some(rates) = &verdict.rates {
            record
                .number("some", rates.stalled.some_permyriad.into())
                .number("full", rates.stalled.full_permyriad.into());
        }
        if verdict.action.ends() {
            for (key, other) in ["not1", "not2", "not3"].into_iter().zip(others(verdict)) {
                record.text(key, Other::new(policy, tree, other, &mut buffer));
            }
        }
        self.decisions.push(record);
    }

    /// Keeps that the victims of the last decision have ended.
    pub(super) fn record_relief(&mut self, took_ms: u64, available: u64) {
        let mut record = self.decisions.begin("relief");
        record
            .number("took_ms", took_ms)
            .number("available", available);
        self.decisions.push(record);
    }

    /// Writes to files what is in none yet; never while an episode goes on.
    pub(super) fn save_history(&mut self) {
        if self.domains.any_acts() {
            return;
        }
        let saved = self.decisions.save();
        let failed = saved.is_err();
        if let Err(error) = saved
            && !self.standing.unsaved
        {
            self.log.warning(format_args!(
                "decisions are kept in memory alone: {}: {error}",
                crate::tell::decisions::RUN_FILE
            ));
        }
        self.standing.unsaved = failed;
    }
}
