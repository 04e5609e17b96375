//! The running agent: sleeps on triggers, and on one runs sense → judge → act → tell until the
//! verdict is to do nothing more.

// A panic is the end of the agent: an index or a sum from outside must not lead to one.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod episode;
mod history;
mod recording;
mod reflex;
mod report;
pub mod rights;
mod start;
mod state;
mod upkeep;

use crate::act::hooks::Hooks;
use crate::act::mrelease::Releaser;
use crate::act::settings::Settings;
use crate::act::watchdog::Watchdog;
use crate::config::{Loaded, Paths};
use crate::domain::{DomainId, Domains};
use crate::resident;
use crate::sense::Surveyor;
use crate::sense::meminfo::Meminfo;
use crate::stack;
use crate::tell::Log;
use crate::tell::decisions::Decisions;
use crate::tell::manager::Manager;
use crate::tell::recorder::Recorder;
use crate::tell::socket::Socket;
use async_signal::{Signal, Signals};
use lowtide_judge::Millis;
use reflex::Guard;
use report::Said;
use smol::Timer;
use smol::future::{FutureExt as _, poll_once};
use smol::stream::StreamExt as _;
pub use start::{tell_mistakes, tell_warnings};
use state::Standing;
use std::future::{pending, poll_fn};
use std::io;
use std::time::Instant;
use upkeep::Upkeep;

pub struct Daemon {
    config: Box<Loaded>,
    surveyor: Surveyor,
    meminfo: Meminfo,
    settings: Settings,
    hooks: Hooks,
    watchdog: Option<Watchdog>,
    releaser: Releaser,
    guard: Guard,
    upkeep: Upkeep,
    domains: Domains,
    log: Log,
    decisions: Decisions,
    standing: Standing,
    socket: Option<Socket>,
    recorder: Option<Recorder>,
    manager: Manager,
    born: Instant,
    /// What was said last of what cannot be done.
    said: Said,
}

/// Why the sleep ended.
enum Woken {
    /// One of the triggers of this domain fired.
    Trigger(DomainId),
    /// Those of this domain can fire no more.
    Disarmed(DomainId, io::Error),
    /// Cgroups are told of no more as they are made.
    Uninformed(io::Error),
    /// [`Daemon::next_deadline`] has come.
    Deadline,
    CgroupMade,
    /// The reflex did something.
    ReflexActed,
    /// A client asks for the state.
    Asked,
    /// A client wants to record, or has ended that.
    Recorder,
    Reload,
    Stop(Signal),
}

impl Daemon {
    /// The signals that it answers. To be caught before anything else is done: each of them ends a process
    /// that has not come to that yet, also SIGHUP, which only asks it to read its config anew.
    pub fn signals(log: &mut Log) -> Option<Signals> {
        Signals::new([Signal::Term, Signal::Int, Signal::Hup])
            .inspect_err(|error| {
                log.error(format_args!(
                    "signals cannot be waited for: {error}: SIGTERM ends the agent before it has \
                     undone its settings, and so does SIGHUP, which reloads nothing"
                ));
            })
            .ok()
    }

    /// Runs until SIGTERM or SIGINT, and leaves no setting behind. Nothing else ends it: what goes wrong
    /// with one cgroup, one process or one file is said, and done without.
    pub async fn run(mut self: Box<Self>, paths: &Paths, signals: Option<Signals>) {
        self.watch(paths, signals).await;
        self.manager.stopping();
        self.guard.end();
        let _ = self.decisions.save();
        if let Some(recorder) = &mut self.recorder {
            recorder.hand_over(true);
        }
        self.settings.undo_all(&self.surveyor.tree);
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a count of 64 bits, one at a time"
    )]
    async fn watch(&mut self, paths: &Paths, mut signals: Option<Signals>) {
        stack::touch();
        resident::let_go();
        self.manager.ready();
        self.look_by_new_config(DomainId::SYSTEM);
        let mut after_alarm = false;
        loop {
            self.save_history();
            self.hand_over_recording();
            // Alarms come first, but an alarm that comes again each time shuts out no signal.
            let told = match after_alarm {
                true => poll_once(told(&mut signals)).await,
                false => None,
            };
            let woken = match told {
                Some(told) => told,
                None => self.wake(&mut signals).await,
            };
            after_alarm = matches!(woken, Woken::Trigger(_) | Woken::ReflexActed);
            self.standing.counters.wakeups += 1;
            match woken {
                Woken::Trigger(id) => self.episode(id, true),
                Woken::Deadline => self.on_deadline(Instant::now()),
                Woken::CgroupMade => self.on_cgroup_made(),
                Woken::ReflexActed => self.on_reflex(),
                Woken::Asked => self.on_asked(),
                Woken::Recorder => self.on_recorder(),
                Woken::Reload => self.on_reload(paths),
                Woken::Disarmed(id, error) => self.on_disarmed(id, &error),
                Woken::Uninformed(error) => self.upkeep.lose_births(&error, &mut self.log),
                Woken::Stop(signal) => {
                    self.log.info(format_args!("{signal:?}: stopping"));
                    self.decisions
                        .event("stop", format_args!("stopped by {signal:?}"));
                    return;
                }
            }
        }
    }

    /// Sleeps. A trigger comes before all else that may have happened meanwhile.
    async fn wake(&self, signals: &mut Option<Signals>) -> Woken {
        let fired = poll_fn(|context| {
            let fired = self.domains.poll_fired(context);
            fired.map(|(id, fired)| match fired {
                Ok(()) => Woken::Trigger(id),
                Err(error) => Woken::Disarmed(id, error),
            })
        });
        let made = async {
            match self.upkeep.births.readable().await {
                Ok(()) => Woken::CgroupMade,
                Err(error) => Woken::Uninformed(error),
            }
        };
        let asked = async {
            match &self.socket {
                Some(socket) if socket.readable().await.is_ok() => Woken::Asked,
                _ => pending().await,
            }
        };
        let recorder = async {
            match &self.recorder {
                Some(recorder) => recorder.readable().await,
                None => pending().await,
            }
            Woken::Recorder
        };
        let deadline = async {
            match self.next_deadline() {
                Some(deadline) => Timer::at(deadline).await,
                None => pending().await,
            };
            Woken::Deadline
        };
        let acted = self.guard.acted();
        fired
            .or(acted)
            .or(told(signals))
            .or(made)
            .or(asked)
            .or(recorder)
            .or(deadline)
            .await
    }

    /// When there is something to do without a trigger; `None` for never.
    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.domains.next_look(),
            self.settings.next_thaw(),
            self.hooks.next_look(),
            self.upkeep.passes.due(),
            self.keepalive_due(),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn on_deadline(&mut self, now: Instant) {
        self.thaw_expired();
        self.hooks.look();
        self.keep_alive(now);
        self.keep_in_line(now);
        for id in self.domains.ids() {
            let domain = self.domains.get_mut(id);
            if domain.is_some_and(|domain| domain.is_due(now)) {
                self.episode(id, false);
            }
        }
    }

    /// The system goes on by time, and a cgroup goes without: what is short in it is short in the
    /// system, too, when it is bad enough.
    fn on_disarmed(&mut self, id: DomainId, error: &io::Error) {
        let Some(domain) = self.domains.get_mut(id) else {
            return;
        };
        self.log.error(format_args!(
            "{}its trigger can fire no more: {error}",
            domain.place
        ));
        if id != DomainId::SYSTEM {
            self.domains.remove(id);
        } else if domain.disarm().is_ok() {
            self.episode(id, false);
        }
    }

    fn on_cgroup_made(&mut self) {
        if self.upkeep.births.take() {
            self.upkeep.passes.cgroup_made(Instant::now());
        }
    }

    /// What the new config says counts at once: each domain is judged by it, the system last.
    fn on_reload(&mut self, paths: &Paths) {
        self.manager.reloading();
        let reloaded = self.reload(paths);
        resident::let_go();
        if reloaded {
            for id in self.domains.ids().into_iter().rev() {
                self.look_by_new_config(id);
            }
        }
        self.manager.ready();
    }

    /// Looks as after an alarm, but without one.
    fn look_by_new_config(&mut self, id: DomainId) {
        let now = self.now();
        if let Some(domain) = self.domains.get_mut(id) {
            domain.reconfigured(now);
        }
        self.record_reconfigured(id, now);
        self.episode(id, false);
    }

    /// Milliseconds that the agent runs.
    fn now(&self) -> Millis {
        self.born.elapsed().as_millis() as Millis
    }

    /// Keep-alives to the service manager and the watchdog, where they are due.
    fn keep_alive(&mut self, now: Instant) {
        self.manager.alive(now);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.alive(now);
        }
    }

    /// When the next keep-alive is due; `None` where neither asks for any.
    fn keepalive_due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(Watchdog::alive_due);
        self.manager.alive_due().into_iter().chain(watchdog).min()
    }
}

/// What the next signal asks for.
async fn told(signals: &mut Option<Signals>) -> Woken {
    let Some(signals) = signals else {
        return pending().await;
    };
    loop {
        match signals.next().await {
            Some(Ok(Signal::Hup)) => return Woken::Reload,
            Some(Ok(signal)) => return Woken::Stop(signal),
            // Which one it was is not known: the next one may be.
            Some(Err(_)) => {}
            None => return pending().await,
        }
    }
}
