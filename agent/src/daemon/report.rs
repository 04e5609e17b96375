//! What is said of a verdict and of what came of it.

use super::Daemon;
use super::episode::Since;
use crate::act;
use crate::domain::{Domain, DomainId};
use crate::sense::tree::PATH;
use crate::tell::journal::{Field, LAST_RESORT, VICTIM};
use crate::tell::words::{Because, Figures, Many, Named, Other, Target};
use crate::units::Size;
use lowtide_common::Row;
use lowtide_judge::{Action, Judged, Level, Outcome, Reason, Verdict, Why};
use std::io;
use std::mem::MaybeUninit;

/// Candidates that were not chosen, and are told of with each victim.
const OTHERS: usize = 3;

/// What was said last of what cannot be done, so that it is said when it changes.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// What could not be seen, and the error.
    pub blind: Option<(&'static str, Option<i32>)>,
    /// See `Surveyor::left_out` and `Surveyor::unruled`.
    room: (u32, u32),
}

/// This part of RAM has to be held by nothing that is known, for it to be said.
const UNACCOUNTED: u64 = 8;

impl Daemon {
    /// What has to be said before it is done: the device restarts.
    pub(super) fn announce(&mut self, verdict: &Verdict) {
        if verdict.action == Action::Reboot && !self.standing.dry_run {
            self.log.with(LAST_RESORT, &[]).error(format_args!(
                "rebooting: nothing was left to do for {} ms",
                self.config.policy.reboot_after_ms
            ));
            self.record(verdict, &[]);
        }
    }

    /// What cannot be seen is tried again, and said once.
    pub(super) fn tell_blind(&mut self, what: &'static str, error: &io::Error) {
        let blind = Some((what, error.raw_os_error()));
        if self.said.blind != blind {
            self.said.blind = blind;
            self.log.error(format_args!(
                "cannot see {what}: {error}; it is tried again"
            ));
        }
    }

    /// What there is no room for, when that begins, ends, or has doubled.
    pub(super) fn tell_of_room(&mut self) {
        let now = (self.surveyor.left_out(), self.surveyor.unruled());
        let said = &mut self.said.room;
        let is_news = |now: u32, said: u32| (now == 0) != (said == 0) || now / 2 > said;
        if is_news(now.0, said.0) {
            said.0 = now.0;
            let many = Many(self.surveyor.unit());
            if now.0 > 0 {
                self.log.warning(format_args!(
                    "{} {many} are more than there is room for: the smallest are not looked at",
                    now.0
                ));
            } else {
                self.log
                    .info(format_args!("there is room for all {many} again"));
            }
        }
        if is_news(now.1, said.1) {
            said.1 = now.1;
            if now.1 > 0 {
                self.log.warning(format_args!(
                    "{} cgroups that a group covers are more than there is room for: they are \
                     ranked like what is above them",
                    now.1
                ));
            }
        }
    }

    /// Why something was done, its victim, and what came of it.
    pub(super) fn tell(
        &mut self,
        id: DomainId,
        verdict: &Verdict,
        done: &[act::Done],
        since: &Since,
    ) {
        let Some(Domain {
            place, last_why, ..
        }) = self.domains.get_mut(id)
        else {
            return;
        };
        self.standing.level = verdict.level;
        let repeated = last_why.replace(verdict.why) == Some(verdict.why);
        // Cache goes in many small steps: why is said once.
        let is_news = match &verdict.action {
            Action::Nothing | Action::Reclaim { .. } | Action::Watchdog => !repeated,
            _ => !done.is_empty() || !repeated,
        };
        if is_news && (!done.is_empty() || verdict.level > Level::Calm) {
            let mut buffer = [MaybeUninit::uninit(); PATH];
            let because = Because::new(verdict, &self.surveyor.tree, &mut buffer);
            self.log.info(format_args!(
                "{place}{}; {}",
                because.at(verdict.level),
                Figures(verdict)
            ));
        }
        // Where cache alone may be taken back, it says nothing that no process can be ended.
        let policy = &self.config.policy;
        if is_news && matches!(verdict.why, Why::NothingLeft(level) if policy.ends(level)) {
            self.tell_of_untouchable(verdict, &mut [MaybeUninit::uninit(); PATH]);
            self.tell_of_unaccounted(verdict);
        }
        for done in done {
            self.standing.counters.count(&verdict.action, done.outcome);
        }
        let relieved = matches!(verdict.why, Why::Relieved(_));
        if is_news && (!done.is_empty() || verdict.helpless || relieved) {
            self.record(verdict, done);
        }
        let Some(first) = done.first() else { return };
        if self.standing.dry_run {
            self.tell_of_pretence(verdict);
        } else if verdict.action.target().is_some() {
            self.tell_of_targets(verdict, done, since);
        } else {
            self.tell_of_last_resort(first.outcome);
        }
    }

    /// What would have been done.
    fn tell_of_pretence(&mut self, verdict: &Verdict) {
        let name = verdict.action.name();
        if verdict.action.target().is_none() {
            self.log.notice(format_args!("would have: {name}"));
        }
        let mut buffer = [MaybeUninit::uninit(); PATH];
        for target in targets(verdict) {
            let named = Named::new(&self.surveyor.tree, &target.row, None, &mut buffer);
            let what = Target(&self.config.policy, &target);
            self.log
                .notice(format_args!("would have: {name} {named} ({what})"));
        }
        if verdict.action.ends() {
            self.tell_of_others(verdict, &mut buffer);
        }
    }

    /// What was done to the whole device.
    fn tell_of_last_resort(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed { errno } => self.log.error(format_args!(
                "could not reboot: {}",
                io::Error::from_raw_os_error(errno)
            )),
            Outcome::Done { .. } => self.log.with(LAST_RESORT, &[]).error(format_args!(
                "nothing was left to do for {} ms: no more signs of life for the watchdog",
                self.config.policy.reboot_after_ms
            )),
        }
    }

    fn tell_of_targets(&mut self, verdict: &Verdict, done: &[act::Done], since: &Since) {
        let mut buffer = [MaybeUninit::uninit(); PATH];
        for (judged, done) in targets(verdict).zip(done) {
            self.tell_of_target(verdict, &judged, done, since, &mut buffer);
        }
        if verdict.action.ends() {
            self.tell_of_others(verdict, &mut buffer);
            self.tell_of_untouchable(verdict, &mut buffer);
            self.tell_of_unaccounted(verdict);
        }
    }

    /// Memory that the end of nothing brings back, once it is a good part of RAM. What a victim gives back
    /// is such memory on its way.
    fn tell_of_unaccounted(&mut self, verdict: &Verdict) {
        let history = &self.domains.system().history;
        if history.was_ending(&self.config.policy, verdict) {
            return;
        }
        let unaccounted = self.meminfo.newly_unaccounted();
        if verdict.memory.within == 0 && unaccounted >= verdict.memory.total / UNACCOUNTED {
            self.log.warning(format_args!(
                "{} more than at the start are held by no process, cgroup or cache: the kernel or a driver \
                 keeps them, and nothing that ends gives them back",
                Size(unaccounted)
            ));
        }
    }

    fn tell_of_target(
        &mut self,
        verdict: &Verdict,
        target: &Judged,
        done: &act::Done,
        since: &Since,
        buffer: &mut [MaybeUninit<u8>; PATH],
    ) {
        let tree = &self.surveyor.tree;
        let policy = &self.config.policy;
        let named = Named::new(tree, &target.row, done.process.as_ref(), buffer);
        let what = Target(policy, target);
        let took = (done.at - since.at).as_micros();
        match done.outcome {
            Outcome::Failed { errno } => self.log.error(format_args!(
                "could not {} {named} ({what}): {}",
                verdict.action.name(),
                io::Error::from_raw_os_error(errno)
            )),
            Outcome::Done { bytes, .. } if matches!(verdict.action, Action::Reclaim { .. }) => {
                self.log.info(format_args!(
                    "reclaimed {} of {named} in {took} us",
                    Size(bytes)
                ));
            }
            Outcome::Done { .. } => {
                let mut buffer = [MaybeUninit::uninit(); PATH];
                let because = Because::new(verdict, tree, &mut buffer);
                let fields: [Field<'_>; 8] = [
                    ("ACTION", &verdict.action.name()),
                    ("LEVEL", &verdict.level.name()),
                    ("REASON", &because),
                    ("GROUP", &policy.group(target.row.rule.group).name),
                    ("CGROUP", &named),
                    ("USAGE", &target.row.usage),
                    ("FREED", &target.frees),
                    ("AVAILABLE", &verdict.memory.available),
                ];
                self.log.with(VICTIM, &fields).notice(format_args!(
                    "{} {named} ({what}), {} needed, {took} us after {}",
                    verdict.action.name(),
                    Size(verdict.enough),
                    since.what
                ));
            }
        }
        if verdict.action.ends() && policy.restarts > 0 && target.returns >= policy.restarts {
            self.log.notice(format_args!(
                "{named} loops: it, or another of its name, was made anew {} times after its end, each time within {} s; nothing else goes for it",
                target.returns,
                policy.restart_window_ms / 1_000
            ));
        }
    }

    /// What would help most, and may not be touched.
    fn tell_of_untouchable(&mut self, verdict: &Verdict, buffer: &mut [MaybeUninit<u8>; PATH]) {
        let holds_most = verdict
            .untouchable
            .filter(|row| row.freed_by_kill() >= verdict.enough);
        if let Some(row) = holds_most {
            let named = Named::new(&self.surveyor.tree, &row, None, buffer);
            self.log.info(format_args!(
                "{named} is `never` killed and holds {}, most of all that are",
                Size(row.freed_by_kill())
            ));
        }
    }

    /// What could have gone as well, and why not.
    fn tell_of_others(&mut self, verdict: &Verdict, buffer: &mut [MaybeUninit<u8>; PATH]) {
        for other in others(verdict).take(OTHERS) {
            let other = Other::new(&self.config.policy, &self.surveyor.tree, other, buffer);
            self.log.info(format_args!("not {other}"));
        }
    }
}

/// What could have gone as well, best first.
pub(super) fn others(verdict: &Verdict) -> impl Iterator<Item = &Judged> {
    verdict.judged.iter().filter(|judged| {
        let goes = matches!(judged.reason, Reason::Chosen | Reason::Together);
        !goes && judged.row.flags & Row::PROCESS == 0
    })
}

/// What an action is done to: the victims of a kill, the target of any other.
pub(super) fn targets(verdict: &Verdict) -> impl Iterator<Item = Judged> {
    let only = verdict
        .action
        .target()
        .filter(|_| verdict.victims().next().is_none());
    let only = only.map(|target| {
        let judged = verdict.judged.iter().find(|j| j.row.id == target.id);
        judged.copied().unwrap_or(Judged::new(target))
    });
    verdict.victims().copied().chain(only)
}
