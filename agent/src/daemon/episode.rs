//! An episode: sense → judge → act → tell, from a trigger until there is nothing more to do now.

use super::Daemon;
use crate::act::watchdog::Watchdog;
use crate::act::{self, Means};
use crate::config::rule;
use crate::domain::{Domain, DomainId};
use crate::sense::alarms::{Fired, Stand};
use crate::sense::interrupt::{Interrupt, may_work_again};
use crate::sense::victim::Victim;
use crate::tell::journal::{Field, RELIEF};
use crate::units::Size;
use heapless::Vec;
use lowtide_common::{CANDIDATES, NO_GROUP, Survey};
use lowtide_judge::{Action, Level, Memory, Millis, Outcome, Unit, Verdict};
use std::io;
use std::time::{Duration, Instant};

/// Steps taken on one wake-up before the descriptors are looked at again; each step waits for
/// what it did, so this bounds an episode without ever being the reason that it ends early.
const STEPS: usize = 64;

/// After figures that could not be had, the time to the next try.
const RETRY: Duration = Duration::from_millis(250);

/// The longest time between two looks because the first one took long.
const PAUSE: Duration = Duration::from_millis(250);

/// How often memory is looked at while a victim exits.
const EXIT_LOOK: Duration = Duration::from_millis(20);

/// The longest time to the agent's next look that the reflex waits for.
const ATTENDED: Duration = Duration::from_secs(1);

/// What there is to be judged of a domain.
enum Figures {
    Of(Memory),
    /// Nothing can be short in it now.
    Resting,
    /// Its cgroup is gone: it is watched no longer.
    Gone,
}

impl Daemon {
    /// Senses, judges and acts for one domain until there is nothing more to do now.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a count of 64 bits, one at a time"
    )]
    pub(super) fn episode(&mut self, id: DomainId, mut woke: bool) {
        let mut acted = false;
        for _ in 0..STEPS {
            let now = self.now();
            let Some(domain) = self.domains.get_mut(id) else {
                return;
            };
            let fired = domain.take_fired(std::mem::take(&mut woke), now);
            let looked = Instant::now();
            if fired.any() {
                self.upkeep.passes.woken(looked);
                self.standing.counters.alarms += 1;
            }
            let since = Since::fired(&fired, looked);
            self.guard.attend(Duration::ZERO);
            self.keep_alive(looked);
            self.hooks.look();
            self.standing.counters.looks += 1;
            let memory = match without_allocating(|| self.memory(id)) {
                Ok(Figures::Of(memory)) => memory,
                Ok(Figures::Resting) => return,
                // That gives memory back, so it is done apart from what allocates nothing.
                Ok(Figures::Gone) => return self.domains.remove(id),
                Err(error) => return self.look_again(id, "the figures of memory", &error),
            };
            let verdict = match without_allocating(|| self.judge(id, &memory, fired.any(), now)) {
                Ok(verdict) => verdict,
                Err(error) => return self.look_again(id, "the candidates", &error),
            };
            self.said.blind = None;
            self.announce(&verdict);
            let done = without_allocating(|| self.act(id, &verdict));
            self.tell(id, &verdict, &done, &since);
            self.record_look(id, fired.any(), &verdict, &done);
            self.hooks.tell(&mut self.log);
            if self.surveyor.is_behind() {
                self.catch_up();
            }
            if id == DomainId::SYSTEM && !verdict.helpless {
                self.resume_keepalive();
            }
            self.leave_to_the_kernel(id, &verdict, now);
            if self.domains.any_acts() {
                self.thaw_expired();
            } else {
                self.standing.guessing = false;
                self.thaw_all();
                self.hooks.rest();
            }
            if done.is_empty() {
                self.rest(id, &verdict, acted, looked.elapsed());
                return;
            }
            acted = true;
            for (judged, done) in verdict.victims().zip(done) {
                if let Some(victim) = done.victim {
                    let memcg = judged.row.id;
                    self.wait_for(id, memcg, victim, done.at, memory.available);
                }
            }
        }
        if let Some(domain) = self.domains.get_mut(id) {
            domain.look_again = Some(Instant::now());
        }
    }

    /// Nothing can be judged now; soon it may be.
    fn look_again(&mut self, id: DomainId, what: &'static str, error: &io::Error) {
        self.tell_blind(what, error);
        if let Some(domain) = self.domains.get_mut(id) {
            domain.look_again = Some(Instant::now() + RETRY);
        }
    }

    /// More cgroups are new than a survey looks at: all are looked at by name.
    fn catch_up(&mut self) {
        let fallback = rule(&self.config.policy, NO_GROUP);
        if let Err(error) =
            self.surveyor
                .reclassify(&self.config.matcher, fallback, &mut Interrupt::never())
        {
            self.tell_blind("new cgroups", &error);
        }
    }

    /// The figures of a domain.
    fn memory(&mut self, id: DomainId) -> io::Result<Figures> {
        let system = self.system_memory()?;
        let Some(domain) = self.domains.get_mut(id) else {
            return Ok(Figures::Gone);
        };
        match domain.memory(&system) {
            Ok(Some(memory)) => Ok(Figures::Of(memory)),
            Ok(None) => {
                domain.rest();
                Ok(Figures::Resting)
            }
            Err(error) if may_work_again(&error) => Err(error),
            Err(_) => Ok(Figures::Gone),
        }
    }

    /// The figures of the system, see [`Alarms::correct`](crate::sense::alarms::Alarms::correct).
    fn system_memory(&mut self) -> io::Result<Memory> {
        let mut memory = self.meminfo.read()?;
        memory.psi_limited_us = self.domains.stalled_in_limit_us();
        self.domains.system().alarms.get_ref().correct(&mut memory);
        Ok(memory)
    }

    /// What is to be done, after a look at the candidates where it depends on them. Allocates nothing.
    fn judge(
        &mut self,
        id: DomainId,
        memory: &Memory,
        fired: bool,
        now: Millis,
    ) -> io::Result<Verdict> {
        let policy = &self.config.policy;
        let domain = self.domains.get_mut(id).ok_or(io::ErrorKind::NotFound)?;
        let mut look = domain.history.look(policy, memory, now);
        let mut names = [0; CANDIDATES];
        // Between triggers the marks alone say whether it is worth while to look at every memcg;
        // on a trigger it always is: new cgroups are classified before it gets tight.
        if !fired && !look.wants_survey() {
            return Ok(look.judge(&Survey::EMPTY, &names));
        }
        let (worth, fallback) = (look.worth(), rule(policy, NO_GROUP));
        self.surveyor
            .survey(worth, memory.within, fallback, 0, &self.config.matcher)?;
        if let Some((asked, victim)) = &domain.asked {
            if victim.is_gone() {
                domain.asked = None;
            } else {
                self.surveyor.keep(asked);
            }
        }
        if look.wants_swap_limits() {
            look.keep_in_ram(self.surveyor.kept_in_ram());
        }
        let survey = self.surveyor.last();
        for (name, row) in names.iter_mut().zip(survey.kill()) {
            if look.wants_name(row) {
                *name = self.surveyor.name(row, None);
            }
        }
        Ok(look.judge(survey, &names))
    }

    /// Does what the verdict says; the domain remembers what came of it. Allocates nothing.
    fn act(&mut self, id: DomainId, verdict: &Verdict) -> Vec<act::Done, CANDIDATES> {
        let mut done = if self.standing.dry_run {
            self.pretend(verdict)
        } else {
            act::carry_out(
                verdict,
                &self.config,
                &self.surveyor.tree,
                &mut Means {
                    settings: &mut self.settings,
                    hooks: &mut self.hooks,
                    watchdog: self.watchdog.as_mut(),
                    releaser: &self.releaser,
                },
            )
        };
        // The signals are sent: now there is the time to see what the victims are called.
        let target = verdict.action.target();
        let targets = verdict.victims().map(|victim| &victim.row);
        for (row, done) in targets.chain(target).zip(&mut done) {
            if let (true, Outcome::Done { name, .. }) = (verdict.action.ends(), &mut done.outcome) {
                let process = done.process.as_ref();
                *name = self
                    .surveyor
                    .name(row, process.map(|process| process.name.as_slice()));
            }
        }
        if let Some(domain) = self.domains.get_mut(id) {
            if let Action::Terminate { target, .. } = verdict.action {
                let victim = done.first_mut().and_then(|done| done.victim.take());
                domain.asked = victim.map(|victim| (target, victim));
            }
            let outcomes: Vec<_, CANDIDATES> = done.iter().map(|done| done.outcome).collect();
            domain
                .history
                .record(&self.config.policy, verdict, &outcomes);
            domain.acts = verdict.acting.is_some();
            domain.asked = domain.asked.take().filter(|_| domain.acts);
        }
        done
    }

    /// In a dry run: what would be done counts as done. How much memory an end would have given back is
    /// not known, so that the first victim is the last until the pressure is over.
    fn pretend(&mut self, verdict: &Verdict) -> Vec<act::Done, CANDIDATES> {
        let ends = verdict.action.ends();
        if ends && std::mem::replace(&mut self.standing.guessing, true) {
            return Vec::new();
        }
        act::pretend(verdict)
    }

    /// There is nothing more to do now: what no episode needs is done. The next look is no sooner than after as
    /// long as this one `took`: what exits needs processor time as well.
    fn rest(&mut self, id: DomainId, verdict: &Verdict, acted: bool, took: Duration) {
        let again = verdict.look_again_ms.map(u64::from);
        if let Some(domain) = self.domains.get_mut(id) {
            let again = again.map(|ms| Duration::from_millis(ms).max(took.min(PAUSE)));
            domain.look_again = again.map(|length| Instant::now() + length);
            // The grace of a victim that was asked to stop is not for the reflex to end.
            if domain.acts {
                self.guard.attend(again.unwrap_or_default().min(ATTENDED));
            }
            let policy = &self.config.policy;
            domain.alarms.get_ref().follow(&Stand {
                available: verdict.memory.available,
                mark: policy.next_mark(&verdict.memory).unwrap_or(0),
                boost: self.meminfo.boost(),
                acted,
                calm: verdict.level == Level::Calm,
                quiet: Duration::from_millis(policy.quiet_ms.into()),
            });
        }
        if verdict.level > Level::Alert {
            self.upkeep.passes.woken(Instant::now());
        }
        if verdict.level == Level::Calm {
            self.meminfo.refresh_boost();
            self.prepare_commands();
            if self.surveyor.take_found_new() {
                let now = Instant::now();
                match self.surveyor.unit() {
                    Unit::Cgroup => self.upkeep.passes.cgroup_made(now),
                    // A process is there as soon as it is seen: one pass is enough.
                    Unit::Process => self.upkeep.passes.woken(now),
                }
            }
            self.tell_of_room();
        }
    }

    /// No second victim while the first is still exiting.
    fn wait_for(&mut self, id: DomainId, memcg: u64, victim: Victim, killed: Instant, was: u64) {
        let limit = Duration::from_millis(u64::from(self.config.policy.exit_ms));
        let deadline = killed + limit;
        self.guard.give_time(limit);
        // Throttled cgroups are thawed in time meanwhile, and keep-alives go on.
        loop {
            let sooner = [self.settings.next_thaw(), self.keepalive_due()];
            let next = deadline.min(Instant::now() + EXIT_LOOK);
            if victim.wait_gone(sooner.into_iter().flatten().fold(next, Instant::min)) {
                break;
            }
            self.thaw_expired();
            self.keep_alive(Instant::now());
            if Instant::now() >= deadline || !self.may_end(id) {
                self.log.warning(format_args!(
                    "the victim has not exited after {} ms: it is waited for no longer",
                    killed.elapsed().as_millis()
                ));
                self.hooks.still_there(victim);
                return;
            }
        }
        self.guard.give_time(Duration::ZERO);
        self.hooks.ended();
        self.hooks.tell(&mut self.log);
        let (now, memory) = (self.now(), self.memory_or_system(id));
        if let Some(domain) = self.domains.get_mut(id) {
            domain.history.record_exit(memcg, memory.as_ref(), now);
        }
        self.record_exit_of(id, memcg, memory.as_ref(), now);
        // The next step says why there are no figures.
        let Some(Memory { available, .. }) = memory else {
            return;
        };
        self.record_relief(killed.elapsed().as_millis() as u64, available);
        let fields: [Field<'_>; 1] = [("AVAILABLE", &available)];
        self.log.with(RELIEF, &fields).notice(format_args!(
            "gone after {} ms, available {} (was {})",
            killed.elapsed().as_millis(),
            Size(available),
            Size(was),
        ));
    }

    /// Whether a victim that has not exited yet is waited for; so it is where that cannot be told.
    fn may_end(&mut self, id: DomainId) -> bool {
        let (now, memory) = (self.now(), self.memory_or_system(id));
        let history = self.domains.get_mut(id).map(|domain| &domain.history);
        let told = history.zip(memory);
        told.is_none_or(|(history, memory)| history.exiting(&memory, now).is_some())
    }

    /// The figures of a domain, those of the system where it has none any more, if they can be read.
    fn memory_or_system(&mut self, id: DomainId) -> Option<Memory> {
        let system = self.system_memory().ok()?;
        let domain = self.domains.get_mut(id);
        let of_domain = domain.and_then(|domain| domain.memory(&system).ok().flatten());
        Some(of_domain.unwrap_or(system))
    }

    /// Ends the throttling whose time is over.
    pub(super) fn thaw_expired(&mut self) {
        let now = Instant::now();
        self.thaw(|until| until <= now);
    }

    /// Ends all throttling, as no episode goes on any more.
    fn thaw_all(&mut self) {
        self.thaw(|_| true);
    }

    fn thaw(&mut self, ends: impl Fn(Instant) -> bool) {
        let tree = &self.surveyor.tree;
        let count = self.settings.thaw(tree, |_, until| ends(until));
        if count > 0 {
            self.log.notice(format_args!("{count} no longer held back"));
        }
    }

    /// Where nothing can be done inside a limit, a process at it is not made to wait for ever: the kernel's
    /// OOM killer is to decide.
    fn leave_to_the_kernel(&mut self, id: DomainId, verdict: &Verdict, now: Millis) {
        let Some(Domain { history, place, .. }) = self.domains.get_mut(id) else {
            return;
        };
        let within = verdict.memory.within;
        let long = history.helpless_ms(now) >= u64::from(self.config.policy.exit_ms);
        if within != 0
            && verdict.helpless
            && long
            && self.settings.unbrake(&self.surveyor.tree, within)
        {
            self.log.warning(format_args!(
                "{place}nothing was left to do: its limit is the kernel's to keep"
            ));
        }
    }

    /// The watchdog is not to restart the device: something can be done again.
    fn resume_keepalive(&mut self) {
        if self.watchdog.as_mut().is_some_and(Watchdog::feed) {
            self.log
                .notice(format_args!("signs of life for the watchdog again"));
        }
    }
}

/// What the time that something took is counted from.
pub(super) struct Since {
    pub at: Instant,
    pub what: &'static str,
}

impl Since {
    /// The mark was crossed before the agent woke.
    fn fired(fired: &Fired, woken: Instant) -> Self {
        let at = fired.watch.and_then(|ago| woken.checked_sub(ago));
        Self {
            what: if at.is_some() { "the mark" } else { "waking" },
            at: at.unwrap_or(woken),
        }
    }
}

/// From trigger to kill nothing may be allocated: memory is what there is none of.
#[cfg(feature = "abort-on-alloc")]
fn without_allocating<T>(f: impl FnOnce() -> T) -> T {
    assert_no_alloc::assert_no_alloc(f)
}

#[cfg(not(feature = "abort-on-alloc"))]
fn without_allocating<T>(f: impl FnOnce() -> T) -> T {
    f()
}
