//! Upkeep: the cgroups are brought in line with the config, at the start and as they come and go.

use super::Daemon;
use crate::act::settle::{Standard, settle, settle_processes};
use crate::config::rule;
use crate::domain::{Domain, DomainId, OwnTrigger};
use crate::sense::births::Births;
use crate::sense::interrupt::Interrupt;
use crate::sys;
use crate::tell::Log;
use lowtide_common::NO_GROUP;
use lowtide_judge::{DOMAINS, Unit};
use std::io;
use std::time::{Duration, Instant};

/// After a cgroup was made, and after each pass, the time to the next pass: its processes come later,
/// some when a service is set up by others before.
const AFTER: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// After a pass, the next one waits `REST` times as long as it took: where cgroups are made all the
/// time, passes take at most a fiftieth of one processor.
const REST: u32 = 50;
/// While memory is so short that the agent wakes up, passes are this far apart: processes that were
/// started since are ranked for the kernel, too, and no longer by what they inherited.
const AWAKE: Duration = Duration::from_secs(1);

pub(super) struct Upkeep {
    pub births: Births,
    pub passes: Passes,
}

impl Upkeep {
    pub fn new(log: &mut Log) -> Self {
        let mut this = Self {
            births: Births::none(),
            passes: Passes::default(),
        };
        match Births::new() {
            Ok(births) => this.births = births,
            Err(error) => this.lose_births(&error, log),
        }
        this
    }

    /// From now on nothing tells of cgroups as they are made.
    pub fn lose_births(&mut self, error: &io::Error, log: &mut Log) {
        self.births = Births::none();
        log.warning(format_args!(
            "nothing tells of cgroups as they are made: {error}: they are protected when memory was \
             short for the first time since"
        ));
    }
}

/// When passes over all cgroups are due, for those that were made lately.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// The next one, and how many there were since a cgroup was made.
    next: Option<(Instant, usize)>,
    /// The rest after the last one.
    rests_until: Option<Instant>,
    /// When the one that is put off was due.
    put_off: Option<Instant>,
}

impl Passes {
    /// A cgroup was made. A first pass that is planned already takes it along.
    pub fn cgroup_made(&mut self, now: Instant) {
        if self.next.is_none_or(|(_, done)| done > 0) {
            self.next = Some((self.rested(now + AFTER[0]), 0));
        }
    }

    fn rested(&self, due: Instant) -> Instant {
        self.rests_until.map_or(due, |until| until.max(due))
    }

    /// The agent was woken for memory, which is to be looked at first: what is short may be gone soon.
    pub fn woken(&mut self, now: Instant) {
        let due = self.rested(now + AWAKE);
        match &mut self.next {
            Some((next, _)) => *next = due.min(*next),
            // Nothing follows it.
            None => self.next = Some((due, AFTER.len())),
        }
    }

    /// When the next pass is due.
    pub fn due(&self) -> Option<Instant> {
        self.next.map(|(due, _)| due)
    }

    /// Whether a pass is due. While an episode goes on it is put off, as there is something better to do,
    /// but for [`AWAKE`] at most: a level's actions may go on for hours.
    pub fn is_due(&mut self, now: Instant, busy: bool) -> bool {
        let Some((due, _)) = &mut self.next else {
            return false;
        };
        if *due > now {
            return false;
        }
        let last = *self.put_off.get_or_insert(*due) + AWAKE;
        if busy && now < last {
            *due = last.min(now + AFTER[0]);
            return false;
        }
        true
    }

    /// A pass was ended by something better to do: another one follows.
    pub fn ended_early(&mut self, now: Instant) {
        let done = self.next.map_or(0, |(_, done)| done);
        self.next = Some((now + AFTER[0], done));
    }

    /// A pass could not be made: it is tried again.
    pub fn failed(&mut self, now: Instant) {
        let done = self.next.map_or(AFTER.len(), |(_, done)| done);
        self.next = Some((now + AFTER[1], done));
    }

    /// The pass that was due is done.
    pub fn done(&mut self, began: Instant, ended: Instant) {
        self.put_off = None;
        let Some((_, done)) = self.next.take() else {
            return;
        };
        let rest = ended.saturating_duration_since(began) * REST;
        self.rests_until = Some(ended + rest);
        let done = done.saturating_add(1);
        let after = AFTER.get(done);
        self.next = after.map(|after| (self.rested(ended + *after), done));
    }
}

/// What came while a pass went on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Called {
    /// An alarm.
    pub alarm: bool,
    /// An alarm, or the time to look.
    pub at_all: bool,
    /// Memory was short or something could not be read, so that the pass did not come to its end.
    pub before_end: bool,
}

impl Daemon {
    /// Has the process that runs the user's commands, where any is named.
    pub(super) fn prepare_commands(&mut self) {
        if !self.standing.dry_run {
            self.hooks.prepare(&self.config.hooks, &mut self.log);
        }
    }

    /// A pass over all cgroups, where one is due.
    pub(super) fn keep_in_line(&mut self, now: Instant) {
        if self.upkeep.passes.is_due(now, self.domains.any_acts()) {
            // As all others do: nothing waits for it.
            let _ = sys::take_turns();
            let called = self.settle();
            if !called.before_end {
                self.surveyor.tidy();
                self.refresh_reflex();
                self.upkeep.passes.done(now, Instant::now());
            }
            let _ = sys::run_first();
            if called.at_all {
                self.episode(DomainId::SYSTEM, called.alarm);
            }
        }
    }

    /// Brings the cgroups in line with the config; what cannot be done is said, and done without. Memory
    /// that gets short meanwhile comes first: the pass is ended, and planned anew.
    pub(super) fn settle(&mut self) -> Called {
        let mut called = Called::default();
        match self.settle_until_called(&mut called) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                called.before_end = true;
                self.upkeep.passes.ended_early(Instant::now());
            }
            Err(error) => {
                called.before_end = true;
                self.upkeep.passes.failed(Instant::now());
                self.log.error(format_args!(
                    "going over the cgroups: {error}; it is tried again"
                ));
            }
        }
        called
    }

    /// `Interrupted` where memory is short. `called`: what came is to be answered.
    fn settle_until_called(&mut self, called: &mut Called) -> io::Result<()> {
        let (policy, now) = (&self.config.policy, self.now());
        let (domains, meminfo) = (&mut self.domains, &self.meminfo);
        let mut is_short = || {
            let system = domains.system();
            called.alarm |= system.has_fired(now);
            called.at_all |= called.alarm || system.is_due(Instant::now());
            called.at_all
                && meminfo.read().is_ok_and(|mut memory| {
                    system.alarms.get_ref().correct(&mut memory);
                    system.history.look(policy, &memory, now).wants_survey()
                })
        };
        let mut interrupt = Interrupt::by(&mut is_short);
        let fallback = rule(policy, NO_GROUP);
        self.surveyor
            .reclassify(&self.config.matcher, fallback, &mut interrupt)?;
        if self.standing.dry_run {
            return Ok(());
        }
        if self.surveyor.unit() == Unit::Process {
            let tree = &self.surveyor.tree;
            if let Err(error) = settle_processes(&self.config, tree, &mut self.settings) {
                self.log.error(format_args!(
                    "ranking the processes for the kernel: {error}"
                ));
            }
            return Ok(());
        }
        let standard = Standard {
            config: &self.config,
            ruled: self.surveyor.ruled(),
            total: self.meminfo.read()?.total,
        };
        let wanted = settle(
            &standard,
            &self.surveyor.tree,
            &mut self.settings,
            &mut self.upkeep.births,
            &mut self.log,
            &mut interrupt,
        )?;
        if self.meminfo.has_psi() {
            self.watch_over(wanted);
        }
        Ok(())
    }

    /// From now on these cgroups are watched over by themselves, and no others. One that is already
    /// keeps its history.
    fn watch_over(&mut self, wanted: Vec<OwnTrigger>) {
        self.domains.retain(&wanted);
        for own in wanted {
            if self.domains.watches(&own) {
                continue;
            }
            if self.domains.is_full() {
                self.log.warning(format_args!(
                    "more than {DOMAINS} cgroups with a trigger of their own: /{} and others go without",
                    own.path
                ));
                return;
            }
            match Domain::cgroup(&own) {
                Ok(domain) => {
                    if !domain.has_limit() {
                        self.log.warning(format_args!(
                            "/{} has neither memory.max nor memory.high: as long as that is so, its trigger means nothing",
                            own.path
                        ));
                    }
                    self.domains.add(domain);
                }
                Err(error) => self.log.warning(format_args!(
                    "/{} goes without its trigger: {error}",
                    own.path
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_made_gets_three_passes() {
        let mut now = Instant::now();
        let mut passes = Passes::default();
        assert!(!passes.is_due(now, false));
        passes.cgroup_made(now);
        for after in AFTER {
            assert_eq!(passes.due(), Some(now + after));
            assert!(!passes.is_due(now + after - MS, false));
            now += after;
            assert!(passes.is_due(now, false));
            passes.done(now, now);
        }
        assert_eq!(passes.due(), None);
    }

    #[test]
    fn those_made_before_the_first_pass_share_it() {
        let now = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(now);
        passes.cgroup_made(now + 200 * MS);
        assert_eq!(passes.due(), Some(now + AFTER[0]));
    }

    #[test]
    fn one_made_between_two_passes_gets_a_first_pass_of_its_own() {
        let now = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(now);
        let ended = now + AFTER[0];
        passes.done(ended, ended);
        passes.cgroup_made(ended);
        assert_eq!(passes.due(), Some(ended + AFTER[0]));
    }

    #[test]
    fn a_long_pass_is_followed_by_a_long_rest() {
        let began = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(began);
        let ended = began + Duration::from_secs(1);
        passes.done(began, ended);
        assert_eq!(passes.due(), Some(ended + Duration::from_secs(50)));
    }

    #[test]
    fn one_made_during_a_long_rest_waits_for_its_end() {
        let began = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(began);
        let ended = began + Duration::from_secs(1);
        passes.done(began, ended);
        passes.cgroup_made(ended + 25 * MS);
        assert_eq!(passes.due(), Some(ended + Duration::from_secs(50)));
    }

    #[test]
    fn while_the_agent_wakes_up_passes_are_a_second_apart() {
        let mut now = Instant::now();
        let mut passes = Passes::default();
        for _ in 0..5 {
            passes.woken(now);
            passes.woken(now + MS);
            now += AWAKE;
            assert_eq!(passes.due(), Some(now));
            passes.done(now, now);
            assert_eq!(passes.due(), None);
        }
        // One for those that were made comes sooner, and the others follow it.
        passes.cgroup_made(now);
        passes.woken(now);
        assert_eq!(passes.due(), Some(now + AFTER[0]));
        passes.done(now + AFTER[0], now + AFTER[0]);
        assert_eq!(passes.due(), Some(now + AFTER[0] + AFTER[1]));
    }

    #[test]
    fn a_pass_that_was_ended_early_is_made_up_for() {
        let now = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(now);
        passes.ended_early(now + AFTER[0]);
        let due = now + AFTER[0] + AFTER[0];
        assert_eq!(passes.due(), Some(due));
        passes.done(due, due);
        assert_eq!(passes.due(), Some(due + AFTER[1]));
    }

    #[test]
    fn a_pass_is_put_off_while_an_episode_goes_on() {
        let now = Instant::now();
        let mut passes = Passes::default();
        passes.cgroup_made(now);
        let due = now + AFTER[0];
        assert!(!passes.is_due(due, true));
        assert_eq!(passes.due(), Some(due + AFTER[0]));
        assert!(passes.is_due(due + AFTER[0], false));
    }

    #[test]
    fn a_pass_is_put_off_for_a_second_at_most() {
        let mut now = Instant::now();
        let mut passes = Passes::default();
        for _ in 0..3 {
            passes.woken(now);
            let first = passes.due().unwrap();
            now = first;
            while !passes.is_due(now, true) {
                now = passes.due().unwrap();
            }
            assert_eq!(now, first + AWAKE);
            // Memory that got short ended it.
            passes.ended_early(now);
            now = passes.due().unwrap();
            assert!(passes.is_due(now, true));
            passes.done(now, now);
        }
    }
}
