//! Start and reload: what is read, opened and said before the agent sleeps. All of it is cold code.

use super::state::Standing;
use super::{Daemon, Guard, Said, Upkeep, rights};
use crate::act::hooks::Hooks;
use crate::act::mrelease::Releaser;
use crate::act::settings::Settings;
use crate::act::watchdog::Watchdog;
use crate::config::{self, Ballast, Loaded, Paths, Problems, rule};
use crate::domain::{Domain, Domains};
use crate::resident;
use crate::sense::Surveyor;
use crate::sense::alarms::Alarms;
use crate::sense::arm::{self, WantedBallast};
use crate::sense::choose::{self, Wanted};
use crate::sense::meminfo::{self, Meminfo};
use crate::sense::other_killers::other_killers;
use crate::sense::psi;
use crate::sense::tree::Tree;
use crate::stack;
use crate::sys;
use crate::tell::Log;
use crate::tell::decisions::Decisions;
use crate::tell::journal::{REFUSED, RELOADED};
use crate::tell::manager::Manager;
use crate::tell::recorder::{self, Recorder};
use crate::tell::socket::{SOCKET, Socket};
use crate::tell::version::Version;
use crate::tell::words::Many;
use lowtide_common::NO_GROUP;
use lowtide_judge::{Memory, Unit};
use rustix::fs::CWD;
use std::io;
use std::time::Instant;

/// Mistakes in a config that go to the log; `lowtide check` says all.
const LOGGED: usize = 5;

/// Why a config is not taken, each mistake in a line of its own.
pub fn tell_mistakes(problems: &Problems, log: &mut Log) {
    for problem in problems.errors().take(LOGGED) {
        log.error(format_args!("{}", problem.in_one_line()));
    }
}

/// What a config that is taken says and does not do, and which protection it takes away.
pub fn tell_warnings(config: &Loaded, log: &mut Log) {
    for problem in config.warnings.iter() {
        log.warning(format_args!("{}", problem.in_one_line()));
    }
}

impl Daemon {
    /// Opens everything that the agent will ever need.
    pub fn start(
        config: Box<Loaded>,
        mut log: Log,
        dry_run: bool,
        verifier_log: bool,
    ) -> io::Result<Box<Self>> {
        protect_self(&mut log);
        let mut this = stack::on_its_own(|| Self::open(config, log, dry_run, verifier_log))?;
        // By now there is the thread that smol has beside this one, and as often as not that is the one that a
        // trigger wakes, which then wakes this one.
        let _ = sys::all_run_first();
        // After that, as it is not to.
        match Releaser::start() {
            Ok(releaser) => this.releaser = releaser,
            Err(error) => this.log.warning(format_args!(
                "no thread to give back a victim's memory: {error}: it comes back in its own time"
            )),
        }
        Ok(this)
    }

    fn open(
        config: Box<Loaded>,
        mut log: Log,
        dry_run: bool,
        verifier_log: bool,
    ) -> io::Result<Box<Self>> {
        let manager = Manager::from_env().unwrap_or_else(|error| {
            log.warning(format_args!("cannot reach the service manager: {error}"));
            Manager::default()
        });
        let mut tree = Tree::open()?;
        let meminfo = Meminfo::open()?;
        let mut memory = meminfo.read()?;
        let wanted = arm::Wanted {
            trigger: config.wake.trigger,
            ballast: match config.wake.ballast {
                Ballast::Off => WantedBallast::Off,
                Ballast::Auto => WantedBallast::Auto,
                Ballast::Bytes(bytes) => WantedBallast::Bytes(bytes),
            },
            verifier_log,
        };
        let armed = arm::arm(&wanted, &tree, &memory)?;
        if armed.moved {
            tree = Tree::open()?;
        }
        let chosen = choose::open(
            &Wanted {
                verifier_log,
                ..config.engine.into()
            },
            &tree,
        )?;
        // What waits for its first line, as other services and scripts do, finds the rest in place.
        let _ = sys::run_first();
        for note in armed.notes.iter().chain(&chosen.notes) {
            log.info(format_args!("{note}"));
        }
        let alarms = armed.alarms;
        let mut surveyor = Surveyor::new(chosen.engine, tree);
        let fallback = rule(&config.policy, NO_GROUP);
        let ruled = surveyor.classify_all(&config.matcher, fallback);
        let ruled = ruled.unwrap_or_else(|error| unclassified(&error, &mut log));
        let status = status_line(&surveyor, &alarms, &config, ruled);
        log.info(format_args!("{status}; lowtide {Version}"));
        manager.status(format_args!("{status}"));
        let has_psi = memory.psi;
        alarms.correct(&mut memory);
        tell_of_missing_alarms(&config, has_psi, &memory, &mut log);
        rights::tell_missing(&config, &mut log);
        tell_of_reach(&surveyor.tree, &mut log);
        tell_of_other_killers(&mut log);
        let settings = Settings::open(&surveyor.tree, &mut log)?;
        let mut this = Box::new(Self {
            config,
            surveyor,
            meminfo,
            settings,
            hooks: Hooks::default(),
            watchdog: None,
            guard: Guard::default(),
            releaser: Releaser::NONE,
            upkeep: Upkeep::new(&mut log),
            domains: Domains::new(Domain::system(alarms)?),
            log,
            decisions: Decisions::open(),
            standing: Standing::begin(status, dry_run),
            socket: None,
            recorder: None,
            manager,
            born: Instant::now(),
            said: Said::default(),
        });
        this.tell_of_room();
        if dry_run {
            this.log.warning(format_args!(
                "dry run: it says what it would do, and does nothing"
            ));
        }
        this.prepare_commands();
        this.open_watchdog();
        this.tell_of_cgroups_only();
        this.settle();
        if memory.swap_total == 0 && !dry_run {
            this.stop_watermark_boost();
        }
        if !dry_run {
            this.limit_page_lists();
        }
        this.listen();
        let kept = this.config.history.as_ref();
        this.decisions
            .keep_in(kept.map(|history| (history.path.as_path(), history.size)));
        let standing = &this.standing;
        this.decisions.event("start", &standing.status);
        if !dry_run {
            let _ = sys::take_turns();
            this.open_reflex(verifier_log);
            let _ = sys::run_first();
        }
        if let Err(error) = resident::keep() {
            this.log.warning(format_args!(
                "could not keep its program in memory: {error}"
            ));
        }
        Ok(this)
    }

    /// Without swap the watermarks of free memory are kept where they are; where that cannot be, the
    /// figures follow.
    fn stop_watermark_boost(&mut self) {
        if let Err(error) = self.settings.stop_watermark_boost() {
            self.log.info(format_args!(
                "vm.watermark_boost_factor stays as it is ({error}): what the kernel keeps free by it does not \
                 count as available"
            ));
            self.meminfo.follow_boost();
        }
    }

    fn limit_page_lists(&mut self) {
        if !meminfo::page_lists_grow() {
            return;
        }
        if let Err(error) = self.settings.limit_page_lists() {
            self.log.info(format_args!(
                "vm.percpu_pagelist_high_fraction stays as it is ({error}): what a victim gives back may count as \
                 available some seconds late"
            ));
        }
    }

    /// Reads the config anew; the running one stays where the new one is bad, which is `false`.
    #[inline(never)]
    pub(super) fn reload(&mut self, paths: &Paths) -> bool {
        let load = || {
            // Not inherited. Where it is not permitted, the agent has said so at its start.
            let _ = sys::run_first();
            config::load(paths).map(Box::new)
        };
        let config = match stack::on_its_own(load) {
            Ok(config) => config,
            Err(problems) => {
                tell_mistakes(&problems, &mut self.log);
                self.refused();
                return false;
            }
        };
        tell_warnings(&config, &mut self.log);
        // The new trigger is armed before the old one goes: nothing is lost in between.
        let wanted = config.wake.trigger.filter(|_| self.meminfo.has_psi());
        let trigger = wanted.map(|trigger| psi::arm(CWD, psi::SYSTEM, &trigger));
        let trigger = match trigger.transpose() {
            Ok(trigger) => trigger,
            Err(error) => {
                self.log.error(format_args!(
                    "[wake] trigger: the kernel refuses it: {error}"
                ));
                self.refused();
                return false;
            }
        };
        let now = self.now();
        let system = self.domains.system();
        if let Err(error) = system.rearm(trigger, now) {
            self.log
                .error(format_args!("the alarms cannot be armed anew: {error}"));
            self.refused();
            return false;
        }
        if config.engine != self.config.engine {
            self.log.warning(format_args!(
                "the engine is chosen at start: [engine] counts from the next one on"
            ));
        }
        if config.wake.ballast != self.config.wake.ballast {
            self.log.warning(format_args!(
                "the ballast is made at start: [wake] ballast counts from the next one on"
            ));
        }
        let reflex = (self.config.reflex.kill, self.config.reflex.survive);
        let same_reflex = (config.reflex.kill, config.reflex.survive) == reflex;
        let same_watchdog = config.watchdog == self.config.watchdog && self.watchdog.is_some();
        self.config = config;
        self.settings.forget_said();
        rights::tell_missing(&self.config, &mut self.log);
        self.tell_of_cgroups_only();
        if !same_watchdog {
            self.open_watchdog();
        }
        // While the rules change, it may not act by them.
        self.guard.disarm();
        let fallback = rule(&self.config.policy, NO_GROUP);
        let ruled = self.surveyor.classify_all(&self.config.matcher, fallback);
        let ruled = ruled.unwrap_or_else(|error| unclassified(&error, &mut self.log));
        self.prepare_commands();
        self.settle();
        if self.standing.dry_run {
            // Nothing of it was opened.
        } else if same_reflex {
            self.arm_reflex();
        } else {
            self.open_reflex(false);
        }
        let alarms = self.domains.system().alarms.get_ref();
        let status = status_line(&self.surveyor, alarms, &self.config, ruled);
        self.log
            .with(RELOADED, &[])
            .info(format_args!("reloaded: {status}"));
        self.manager.status(format_args!("{status}"));
        self.decisions
            .event("config", format_args!("reloaded: {status}"));
        let kept = self.config.history.as_ref();
        self.decisions
            .keep_in(kept.map(|history| (history.path.as_path(), history.size)));
        self.standing.reloaded(status);
        if let Some(socket) = &mut self.socket
            && let Err(error) = socket.let_in(self.config.askers)
        {
            self.log.warning(format_args!(
                "{SOCKET}: {error}: who may ask stays as it is"
            ));
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.config(&self.config.effective.toml());
        }
        true
    }

    /// A reload came to nothing.
    fn refused(&mut self) {
        self.log
            .with(REFUSED, &[])
            .error(format_args!("reload refused, the running config stays"));
        self.standing.refused = Standing::now();
        self.decisions
            .event("config", "reload refused, the config before it stays");
    }

    /// Has a socket for `lowtide status`; one that cannot be had is said, and done without.
    fn listen(&mut self) {
        match Socket::open(self.config.askers) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.log.warning(format_args!(
                "{SOCKET}: {error}: `lowtide status` and `top` get no answer"
            )),
        }
        match Recorder::open() {
            Ok(recorder) => self.recorder = Some(recorder),
            Err(error) => self.log.warning(format_args!(
                "{}: {error}: `lowtide record` gets no answer",
                recorder::SOCKET
            )),
        }
    }

    /// Has the watchdog open that the config asks for, or none. One that cannot be opened is said,
    /// and done without.
    fn open_watchdog(&mut self) {
        // Closed first: a device is open once.
        self.watchdog = None;
        let wanted = self.config.watchdog.as_ref();
        let Some(path) = wanted.filter(|_| !self.standing.dry_run) else {
            return;
        };
        match Watchdog::open(path) {
            Ok(watchdog) => self.watchdog = Some(watchdog),
            Err(error) => self.log.error(format_args!(
                "{}: {error}: no watchdog will restart the device",
                path.to_string_lossy()
            )),
        }
    }

    /// What the config asks for and only cgroups can have, where there are none to choose from. A
    /// process is not held back in their place: its children and those that wait for it go on, and one that
    /// is stopped in the middle of something may hold what others need.
    fn tell_of_cgroups_only(&mut self) {
        if self.surveyor.unit() == Unit::Cgroup {
            return;
        }
        let policy = &self.config.policy;
        let mut asking = policy.groups.iter().filter(|group| {
            group.protect.is_some()
                || group.prefer.is_some()
                || group.throttle_ms > 0
                || group.trigger.is_some()
        });
        if let Some(group) = asking.next() {
            self.log.warning(format_args!(
                "group {} and {} others: protect, protect_low, throttle and trigger need memory cgroups \
                 to choose from, and do nothing here",
                group.name,
                asking.count()
            ));
        }
    }
}

/// What is armed has to be able to act: says what it cannot do, and what it does in its place.
fn tell_of_reach(tree: &Tree, log: &mut Log) {
    if let Some(error) = tree.refused_by_id() {
        log.warning(format_args!(
            "cgroups cannot be opened by their ids: {error}: they are looked for by name, which takes longer"
        ));
    }
    if let Err(error) = tree.try_to_write() {
        log.warning(format_args!(
            "{} cannot be written to: {error}: victims take signals one by one, and nothing is reclaimed, \
             protected or held back",
            tree.mount().display()
        ));
    }
}

/// None has a rule of its own yet; the first look at the candidates finds them.
fn unclassified(error: &io::Error, log: &mut Log) -> usize {
    log.error(format_args!("classifying what is there: {error}"));
    0
}

/// What the agent stands on, in a line.
fn status_line(surveyor: &Surveyor, alarms: &Alarms, config: &Loaded, ruled: usize) -> String {
    let unit = surveyor.unit();
    format!(
        "{} engine, woken by {alarms}, {} groups {} {ruled} {}",
        surveyor.engine(),
        config.policy.groups.len(),
        match unit {
            Unit::Cgroup => "cover",
            Unit::Process => "for",
        },
        Many(unit),
    )
}

/// What the alarms that there are do not see.
fn tell_of_missing_alarms(config: &Loaded, has_psi: bool, memory: &Memory, log: &mut Log) {
    let Memory { psi, told, .. } = *memory;
    if !has_psi {
        let lost = match told {
            true => "what thrashes is seen only by what it leaves available",
            false => "memory is looked at by time, which is second best",
        };
        log.warning(format_args!(
            "the kernel measures no stalls: {lost}; boot it with psi=1, or build it with CONFIG_PSI=y"
        ));
    } else if !psi && !told {
        log.warning(format_args!(
            "nothing is armed: memory is looked at by time"
        ));
    } else if !told && !config.policy.is_warned(memory) {
        log.info(format_args!(
            "hardly any file cache and no swap: no stall would warn of the end, so memory is also looked at by time"
        ));
    }
}

/// Those that start later are for `lowtide doctor` to name.
fn tell_of_other_killers(log: &mut Log) {
    for name in other_killers() {
        log.warning(format_args!(
            "{name} runs as well: it may kill first, and by another order; keep one of the two"
        ));
    }
}

/// Whether there is a limit on locked memory that cannot be raised. Then only what is there now is
/// locked: what is mapped later would count as well, and a mapping that does not fit fails, as that of
/// a thread's stack.
fn is_locking_limited() -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let none = Rlimit {
        current: None,
        maximum: None,
    };
    let permitted = capabilities(None).map(|sets| sets.effective);
    !permitted.is_ok_and(|permitted| permitted.contains(CapabilitySet::IPC_LOCK))
        && getrlimit(Resource::Memlock).current.is_some()
        && setrlimit(Resource::Memlock, none).is_err()
}

/// Keeps the agent able to run when nothing else is: memory locked as it is touched, out of the
/// kernel's choice, first in line for the CPU. What is not permitted is said, and done without.
fn protect_self(log: &mut Log) {
    use rustix::mm::{MlockAllFlags, mlockall};
    // A limit on the size of files is an error to a write, and no reason to end.
    let _ = sys::ignore_file_size_signal();
    let future = if is_locking_limited() {
        MlockAllFlags::empty()
    } else {
        MlockAllFlags::FUTURE
    };
    let lock = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT | future);
    let score = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // For when it takes turns, and for where it may not run first. Not while programs are loaded: all others
    // on this CPU would stand still.
    let nice = rustix::process::setpriority_process(None, -20);
    let first = sys::run_first().and_then(|()| sys::take_turns());
    let first = first.or(nice.map_err(io::Error::from));
    for (what, result) in [
        ("lock its memory", lock.map_err(io::Error::from)),
        ("set its oom_score_adj to -1000", score),
        ("raise its priority", first),
    ] {
        if let Err(error) = result {
            log.warning(format_args!("could not {what}: {error}"));
        }
    }
}
