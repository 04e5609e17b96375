//! The running agent: sleeps on triggers, and on one runs sense → judge → act → tell until the
//! verdict is to do nothing more.

use crate::act;
use crate::act::kill::Victim;
use crate::act::settings::Settings;
use crate::act::settle::settle;
use crate::config::{self, Loaded, Paths, rule};
use crate::sense::Surveyor;
use crate::sense::choose::{self, Wanted};
use crate::sense::meminfo::Meminfo;
use crate::sense::psi::{self, Triggers};
use crate::sense::tree::{PATH, Tree};
use crate::tell::Log;
use crate::tell::words::{Because, Figures, Many, Size, Target, Whom};
use async_signal::{Signal, Signals};
use lowtide_common::{NO_GROUP, Survey};
use lowtide_judge::{History, Level, Millis, Outcome, Unit, Verdict, judge};
use smol::future::FutureExt as _;
use smol::stream::StreamExt as _;
use smol::{Async, Timer};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Steps taken on one wake-up before the descriptors are looked at again; each step waits for
/// what it did, so this bounds an episode without ever being the reason that it ends early.
const STEPS: usize = 64;

pub struct Daemon {
    config: Loaded,
    surveyor: Surveyor,
    meminfo: Meminfo,
    settings: Settings,
    history: History,
    log: Log,
    born: Instant,
    /// What the last line about doing nothing said, so that it is said once.
    last_why: Option<lowtide_judge::Why>,
}

/// Why the sleep ended.
enum Woken {
    Trigger,
    LookAgain,
    Reload,
    Stop(Signal),
}

impl Daemon {
    /// Opens everything that the agent will ever need.
    pub fn start(config: Loaded, mut log: Log, verifier_log: bool) -> io::Result<(Self, Triggers)> {
        protect_self(&mut log);
        let tree = Tree::open()?;
        let chosen = choose::open(
            &Wanted {
                verifier_log,
                ..config.engine
            },
            &tree,
        )?;
        for note in &chosen.notes {
            log.info(format_args!("{note}"));
        }
        let mut surveyor = Surveyor::new(chosen.engine, tree);
        let ruled = surveyor.classify_all(&config.matcher)?;
        let meminfo = Meminfo::open()?;
        let memory = meminfo.read()?;
        let triggers = arm(&config, memory.psi, &mut log)?;
        let groups = config.policy.groups.len();
        log.info(format_args!(
            "{} engine, {} triggers armed, {groups} groups {} {ruled} {}",
            surveyor.engine(),
            triggers.len(),
            match surveyor.unit() {
                Unit::Cgroup => "cover",
                Unit::Process => "for",
            },
            Many(surveyor.unit()),
        ));
        if !memory.psi {
            log.warning(format_args!(
                "the kernel measures no stalls: memory is looked at by time, which is second best; \
                 boot it with psi=1, or build it with CONFIG_PSI=y"
            ));
        } else if !config.policy.is_warned(&memory) {
            log.info(format_args!(
                "hardly any file cache and no swap: no stall would warn of the end, so memory is also looked at by time"
            ));
        }
        if surveyor.left_out() > 0 {
            log.warning(format_args!(
                "{} {} are more than the limit on open files allows to look at; raise it",
                surveyor.left_out(),
                Many(surveyor.unit()),
            ));
        }
        let settings = Settings::open(&surveyor.tree, &mut log)?;
        let mut this = Self {
            config,
            surveyor,
            meminfo,
            settings,
            history: History::default(),
            log,
            born: Instant::now(),
            last_why: None,
        };
        this.settle();
        Ok((this, triggers))
    }

    /// Runs until SIGTERM or SIGINT, and leaves no setting behind.
    pub async fn run(mut self, triggers: Triggers, paths: &Paths) -> io::Result<()> {
        let result = self.watch(triggers, paths).await;
        self.settings.undo_all(&self.surveyor.tree);
        result
    }

    async fn watch(&mut self, triggers: Triggers, paths: &Paths) -> io::Result<()> {
        let mut signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
        let mut look_again = self.episode(&triggers, false)?;
        let mut triggers = Async::new_nonblocking(triggers)?;
        loop {
            let fired = async { triggers.readable().await.map(|()| Woken::Trigger) };
            let told = async {
                match signals.next().await {
                    Some(Ok(Signal::Hup)) => Ok(Woken::Reload),
                    Some(Ok(signal)) => Ok(Woken::Stop(signal)),
                    Some(Err(error)) => Err(error),
                    None => std::future::pending().await,
                }
            };
            let timer = async {
                match look_again {
                    Some(ms) => Timer::after(Duration::from_millis(u64::from(ms))).await,
                    None => std::future::pending().await,
                };
                Ok(Woken::LookAgain)
            };
            match fired.or(told).or(timer).await? {
                Woken::Trigger => look_again = self.episode(triggers.get_ref(), true)?,
                Woken::LookAgain => look_again = self.episode(triggers.get_ref(), false)?,
                Woken::Reload => {
                    if let Some(new) = self.reload(paths) {
                        triggers = Async::new_nonblocking(new)?;
                    }
                }
                Woken::Stop(signal) => {
                    self.log.info(format_args!("{signal:?}: stopping"));
                    return Ok(());
                }
            }
        }
    }

    fn now(&self) -> Millis {
        self.born.elapsed().as_millis() as Millis
    }

    /// Senses, judges and acts until there is nothing more to do now; returns when to look again
    /// without a trigger.
    fn episode(&mut self, triggers: &Triggers, mut woke: bool) -> io::Result<Option<u32>> {
        for _ in 0..STEPS {
            let now = self.now();
            let mut fired = false;
            triggers.take(std::mem::take(&mut woke), |level| {
                fired = true;
                self.history.triggered(level, now);
            })?;
            let woken = Instant::now();
            let (verdict, done) = without_allocating(|| self.step(fired, now))?;
            let took = woken.elapsed();
            self.tell(&verdict, done.as_ref(), took);
            self.let_go(verdict.acting.is_none());
            let Some(done) = done else {
                if verdict.level == Level::Calm && self.surveyor.take_found_new() {
                    self.settle();
                }
                return Ok(self.no_later_than_thaw(verdict.look_again_ms));
            };
            if let Some(victim) = done.victim {
                self.wait_for(&victim, verdict.memory.available)?;
            }
        }
        Ok(Some(0))
    }

    /// Ends the time of who is held back, or of `all` who are.
    fn let_go(&mut self, all: bool) {
        let now = Instant::now();
        let tree = &self.surveyor.tree;
        let count = self.settings.thaw(tree, |_, until| all || until <= now);
        if count > 0 {
            self.log.notice(format_args!("{count} no longer held back"));
        }
    }

    /// Who is held back is let go in time, whatever else there is to look at.
    fn no_later_than_thaw(&self, look_again: Option<u32>) -> Option<u32> {
        let thaw = self.settings.next_thaw().map(|until| {
            // Rounded up, so as not to wake just before.
            let left = until.saturating_duration_since(Instant::now());
            left.as_millis() as u32 + 1
        });
        look_again.into_iter().chain(thaw).min()
    }

    /// One turn of sense → judge → act. Allocates nothing.
    fn step(&mut self, fired: bool, now: Millis) -> io::Result<(Verdict, Option<act::Done>)> {
        let policy = &self.config.policy;
        let memory = self.meminfo.read()?;
        self.history.observe(&memory, now);
        // Between triggers the marks alone say whether it is worth while to look at every memcg;
        // on a trigger it always is: new cgroups are classified before it gets tight.
        let survey = if fired || self.history.needs_survey(policy, &memory, now) {
            let enough = policy.enough(&memory, self.history.reach(policy, &memory, now));
            let fallback = rule(policy, NO_GROUP);
            self.surveyor
                .survey(enough, fallback, 0, &self.config.matcher)?
        } else {
            &Survey::EMPTY
        };
        let verdict = judge(policy, &memory, survey, &self.history, now);
        self.history.remember(survey.kill(), now);
        let done = act::carry_out(
            &verdict,
            &self.config,
            &self.surveyor.tree,
            &mut self.settings,
        );
        self.history
            .note(policy, &verdict, done.as_ref().map(|d| d.outcome), now);
        Ok((verdict, done))
    }

    /// Brings the cgroups in line with the config; what cannot be done is said, and done without.
    fn settle(&mut self) {
        let settled = self.meminfo.read().and_then(|memory| {
            settle(
                &self.config,
                &self.surveyor.tree,
                memory.total,
                &mut self.settings,
                &mut self.log,
            )
        });
        if let Err(error) = settled {
            self.log
                .error(format_args!("settling the cgroups: {error}"));
        }
    }

    /// No second victim while the first is still exiting.
    fn wait_for(&mut self, victim: &Victim, was: u64) -> io::Result<()> {
        let limit = Duration::from_millis(u64::from(self.config.policy.exit_ms));
        let killed = Instant::now();
        let deadline = killed + limit;
        // Who is held back meanwhile is let go in time.
        while !victim.wait_gone(self.settings.next_thaw().unwrap_or(deadline).min(deadline)) {
            self.let_go(false);
            if Instant::now() >= deadline {
                self.log.warning(format_args!(
                    "the victim has not exited after {} ms",
                    limit.as_millis()
                ));
                return Ok(());
            }
        }
        self.history.gone();
        let available = self.meminfo.read()?.available;
        self.log.notice(format_args!(
            "gone after {} ms, available {} (was {})",
            killed.elapsed().as_millis(),
            Size(available),
            Size(was),
        ));
        Ok(())
    }

    fn tell(&mut self, verdict: &Verdict, done: Option<&act::Done>, took: Duration) {
        let repeated = self.last_why.replace(verdict.why) == Some(verdict.why);
        let Some(target) = verdict.action.target().filter(|_| done.is_some()) else {
            if !repeated && verdict.level > Level::Calm {
                self.log.info(format_args!(
                    "{}: {}; {}",
                    verdict.level.name(),
                    Because(&verdict.why),
                    Figures(verdict)
                ));
            }
            return;
        };
        self.log.info(format_args!(
            "{}: {}; {}",
            verdict.level.name(),
            Because(&verdict.why),
            Figures(verdict)
        ));
        let mut buffer = [std::mem::MaybeUninit::uninit(); PATH];
        let tree = &self.surveyor.tree;
        let whom = Whom::new(
            tree,
            target,
            done.and_then(|d| d.process.as_ref()),
            &mut buffer,
        );
        let what = Target(&self.config.policy, target);
        let took = took.as_micros();
        match done.map(|d| d.outcome) {
            Some(Outcome::Failed { errno }) => self.log.error(format_args!(
                "could not {} {whom} ({what}): {}",
                verdict.action.name(),
                io::Error::from_raw_os_error(errno)
            )),
            Some(Outcome::Reclaimed { bytes }) => {
                self.log.info(format_args!(
                    "reclaimed {} of {whom} in {took} us",
                    Size(bytes)
                ));
            }
            _ => self.log.notice(format_args!(
                "{} {whom} ({what}), {} needed, {took} us after waking",
                verdict.action.name(),
                Size(verdict.enough)
            )),
        }
    }

    /// Reads the config anew; the running one stays where the new one is bad.
    fn reload(&mut self, paths: &Paths) -> Option<Triggers> {
        let config = match config::load(paths) {
            Ok(config) => config,
            Err(problems) => {
                for problem in problems.iter() {
                    self.log.error(format_args!("{problem}"));
                }
                self.log
                    .error(format_args!("reload refused, the running config stays"));
                return None;
            }
        };
        // The new triggers are armed before the old ones go: none is lost in between.
        let psi = self.meminfo.has_psi();
        let triggers = match arm(&config, psi, &mut self.log) {
            Ok(triggers) => triggers,
            Err(error) => {
                self.log.error(format_args!("reload refused: {error}"));
                return None;
            }
        };
        if config.engine != self.config.engine {
            self.log.warning(format_args!(
                "the engine is chosen at start: [engine] counts from the next one on"
            ));
        }
        self.config = config;
        if let Err(error) = self.surveyor.classify_all(&self.config.matcher) {
            self.log
                .error(format_args!("classifying who is there: {error}"));
        }
        self.settle();
        self.log.info(format_args!(
            "reloaded: {} groups",
            self.config.policy.groups.len()
        ));
        Some(triggers)
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

/// Arms what the levels wake on; nothing where the kernel has no PSI. A trigger that several levels
/// name is armed once, for the highest of them: two of the same would fire up to a window apart,
/// and the milder level might come first.
fn arm(config: &Loaded, psi: bool, log: &mut Log) -> io::Result<Triggers> {
    let mut triggers = Triggers::new()?;
    if !psi {
        return Ok(triggers);
    }
    let levels = &config.policy.levels;
    for (i, (level, rules)) in Level::CONFIGURED.into_iter().zip(levels).enumerate() {
        let higher = &levels[i + 1..];
        for trigger in &rules.triggers {
            if higher.iter().any(|rules| rules.triggers.contains(trigger)) {
                continue;
            }
            if let Err(error) = triggers.arm(Path::new(psi::SYSTEM), trigger, level) {
                log.error(format_args!(
                    "{}: the kernel refuses this trigger: {error}",
                    level.name()
                ));
                return Err(error);
            }
        }
    }
    Ok(triggers)
}

/// Keeps the agent able to run when nothing else is: memory locked as it is touched, out of the
/// kernel's choice, first in line for the CPU. What is not permitted is said, and done without.
fn protect_self(log: &mut Log) {
    use rustix::mm::{MlockAllFlags, mlockall};
    let lock = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    let score = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let nice = rustix::process::setpriority_process(None, -20);
    for (what, result) in [
        ("lock its memory", lock.map_err(io::Error::from)),
        ("set its oom_score_adj to -1000", score),
        ("raise its priority", nice.map_err(io::Error::from)),
    ] {
        if let Err(error) = result {
            log.warning(format_args!("could not {what}: {error}"));
        }
    }
}
