//! The running agent: sleeps on triggers, and on one runs sense → judge → act → tell until the
//! verdict is to do nothing more.

use crate::act;
use crate::act::commands::Commands;
use crate::act::kill::Victim;
use crate::act::settings::Settings;
use crate::act::settle::{settle, settle_processes};
use crate::act::watchdog::Watchdog;
use crate::config::{self, Loaded, Paths, rule};
use crate::domain::{Domain, OwnTrigger};
use crate::resident;
use crate::sense::Surveyor;
use crate::sense::births::Births;
use crate::sense::choose::{self, Wanted};
use crate::sense::meminfo::Meminfo;
use crate::sense::psi::{self, Triggers};
use crate::sense::tree::{PATH, Tree};
use crate::stack;
use crate::sys;
use crate::tell::Log;
use crate::tell::manager::Manager;
use crate::tell::words::{Because, Figures, Many, Target, Whom};
use crate::units::Size;
use async_signal::{Signal, Signals};
use lowtide_common::{NO_GROUP, Row, Survey};
use lowtide_judge::{
    Action, DOMAINS, Level, Memory, Millis, Outcome, Reason, Unit, Verdict, judge,
};
use rustix::fs::CWD;
use smol::Timer;
use smol::future::FutureExt as _;
use smol::stream::StreamExt as _;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Steps taken on one wake-up before the descriptors are looked at again; each step waits for
/// what it did, so this bounds an episode without ever being the reason that it ends early.
const STEPS: usize = 64;

/// Of those who were not chosen, how many are told of with each victim.
const OTHERS: usize = 3;

/// After a cgroup was made, and after each look at it, the time to the next: its processes come later,
/// some when a service is set up by others before.
const NEWBORN: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(2),
    Duration::from_secs(10),
];
/// Times as long as it took to bring all cgroups in line that nothing of the kind is done again:
/// where they are made all the time, it takes a fiftieth of one processor.
const REST: u32 = 50;

pub struct Daemon {
    config: Box<Loaded>,
    surveyor: Surveyor,
    meminfo: Meminfo,
    settings: Settings,
    commands: Commands,
    watchdog: Option<Watchdog>,
    births: Births,
    /// When the cgroups are brought in line with the config for those made lately, and how often
    /// after that.
    settle_again: Option<(Instant, usize)>,
    /// The system, and behind it the cgroups that are watched over by themselves.
    domains: Vec<Domain>,
    log: Log,
    manager: Manager,
    born: Instant,
}

/// Why the sleep ended.
enum Woken {
    /// Of the domain at this index.
    Trigger(usize),
    LookAgain,
    Born,
    Reload,
    Stop(Signal),
}

impl Daemon {
    /// Opens everything that the agent will ever need.
    pub fn start(config: Box<Loaded>, mut log: Log, verifier_log: bool) -> io::Result<Box<Self>> {
        protect_self(&mut log);
        let this = stack::on_its_own(|| Self::open(config, log, verifier_log))?;
        // By now there is the thread that smol has beside this one, and as often as not that is whom a
        // trigger wakes, which then wakes this one.
        let _ = sys::all_run_first();
        Ok(this)
    }

    fn open(config: Box<Loaded>, mut log: Log, verifier_log: bool) -> io::Result<Box<Self>> {
        let manager = Manager::from_env().unwrap_or_else(|error| {
            log.warning(format_args!("cannot reach the service manager: {error}"));
            Manager::default()
        });
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
        let standing = standing(&surveyor, triggers.len(), &config, ruled);
        log.info(format_args!("{standing}"));
        manager.status(format_args!("{standing}"));
        if !memory.psi {
            log.warning(format_args!(
                "the kernel measures no stalls: memory is looked at by time, which is second best; \
                 boot it with psi=1, or build it with CONFIG_PSI=y"
            ));
        } else if config.wake.trigger.is_none() {
            log.info(format_args!(
                "[wake] trigger is off: memory is looked at by time"
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
        let mut this = Box::new(Self {
            config,
            surveyor,
            meminfo,
            settings,
            commands: Commands::default(),
            watchdog: None,
            births: Births::new()?,
            settle_again: None,
            domains: vec![Domain::system(triggers)?],
            log,
            manager,
            born: Instant::now(),
        });
        this.commands.prepare(&this.config.commands, &mut this.log);
        this.open_watchdog();
        this.tell_of_cgroups_only();
        this.settle();
        if let Err(error) = resident::keep() {
            this.log.warning(format_args!(
                "could not keep its program in memory: {error}"
            ));
        }
        Ok(this)
    }

    /// Runs until SIGTERM or SIGINT, and leaves no setting behind.
    pub async fn run(mut self: Box<Self>, paths: &Paths) -> io::Result<()> {
        let result = self.watch(paths).await;
        self.manager.stopping();
        self.settings.undo_all(&self.surveyor.tree);
        result
    }

    async fn watch(&mut self, paths: &Paths) -> io::Result<()> {
        let mut signals = Signals::new([Signal::Term, Signal::Int, Signal::Hup])?;
        stack::touch();
        resident::let_go();
        self.manager.ready();
        self.episode(0, false)?;
        loop {
            let fired = poll_fn(|context| {
                let ready = |(at, domain): (usize, &Domain)| {
                    let poll = domain.triggers.poll_readable(context);
                    poll.is_ready()
                        .then(|| poll.map_ok(|()| Woken::Trigger(at)))
                };
                let mut domains = self.domains.iter().enumerate();
                domains.find_map(ready).unwrap_or(Poll::Pending)
            });
            let born = async {
                self.births.readable().await?;
                Ok(Woken::Born)
            };
            let told = async {
                match signals.next().await {
                    Some(Ok(Signal::Hup)) => Ok(Woken::Reload),
                    Some(Ok(signal)) => Ok(Woken::Stop(signal)),
                    Some(Err(error)) => Err(error),
                    None => std::future::pending().await,
                }
            };
            let timer = async {
                match self.next_look() {
                    Some(at) => Timer::at(at).await,
                    None => std::future::pending().await,
                };
                Ok(Woken::LookAgain)
            };
            match fired.or(told).or(born).or(timer).await? {
                Woken::Trigger(at) => self.episode(at, true)?,
                Woken::LookAgain => {
                    self.let_go(false);
                    self.commands.look();
                    let now = Instant::now();
                    self.alive(now);
                    if self.settle_again.is_some_and(|(at, _)| at <= now) {
                        self.settle_newborn(now);
                    }
                    for at in 0..self.domains.len() {
                        if self
                            .domains
                            .get(at)
                            .is_some_and(|domain| domain.is_due(now))
                        {
                            self.episode(at, false)?;
                        }
                    }
                }
                Woken::Born => self.note_births(),
                Woken::Reload => {
                    self.manager.reloading();
                    let reloaded = self.reload(paths)?;
                    resident::let_go();
                    if reloaded {
                        for at in (0..self.domains.len()).rev() {
                            self.episode(at, false)?;
                        }
                    }
                    self.manager.ready();
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

    /// When to look again without a trigger; who is held back is let go in time, whatever else
    /// there is to look at, and signs of life are given where they are asked for.
    fn next_look(&self) -> Option<Instant> {
        let looks = self.domains.iter().filter_map(|domain| domain.look_again);
        let looks = looks.chain(self.settings.next_thaw());
        let looks = looks.chain(self.commands.next_look());
        let looks = looks.chain(self.settle_again.map(|(at, _)| at));
        looks.chain(self.alive_due()).min()
    }

    /// Signs of life, where they are due.
    fn alive(&mut self, now: Instant) {
        self.manager.alive(now);
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.alive(now);
        }
    }

    /// When the next one is due; never where nobody asked for any.
    fn alive_due(&self) -> Option<Instant> {
        let watchdog = self.watchdog.as_ref().and_then(Watchdog::alive_due);
        self.manager.alive_due().into_iter().chain(watchdog).min()
    }

    /// Senses, judges and acts for one domain until there is nothing more to do now.
    fn episode(&mut self, at: usize, mut woke: bool) -> io::Result<()> {
        for _ in 0..STEPS {
            let now = self.now();
            let fired = self.domains[at].take_fired(std::mem::take(&mut woke), now)?;
            let woken = Instant::now();
            self.alive(woken);
            self.commands.look();
            let system = without_allocating(|| self.system_memory())?;
            let domain = &mut self.domains[at];
            let memory = match without_allocating(|| domain.memory(&system)) {
                Ok(Some(memory)) => memory,
                Ok(None) => {
                    domain.rest();
                    return Ok(());
                }
                // The cgroup is gone.
                Err(_) => {
                    self.domains.remove(at);
                    return Ok(());
                }
            };
            let (verdict, done) = without_allocating(|| self.step(at, &memory, fired, now))?;
            self.tell(at, &verdict, done.as_ref(), woken);
            self.commands.tell(&mut self.log);
            match verdict.action {
                Action::Reboot => self.reboot(),
                Action::Starve => self.starve(),
                _ if self.domains[at].is_system() && !verdict.helpless => self.feed(),
                _ => {}
            }
            self.leave_to_the_kernel(at, &verdict, now);
            let all_at_rest = self.domains.iter().all(|domain| !domain.acts);
            self.let_go(all_at_rest);
            if all_at_rest {
                self.commands.rest();
            }
            let Some(done) = done else {
                let again = verdict.look_again_ms.map(u64::from);
                self.domains[at].look_again =
                    again.map(|ms| Instant::now() + Duration::from_millis(ms));
                if verdict.level == Level::Calm {
                    self.commands.prepare(&self.config.commands, &mut self.log);
                    if self.surveyor.take_found_new() {
                        self.settle();
                    }
                }
                return Ok(());
            };
            if let Some(victim) = done.victim {
                self.wait_for(at, victim, done.at, memory.available)?;
            }
        }
        self.domains[at].look_again = Some(Instant::now());
        Ok(())
    }

    fn system_memory(&self) -> io::Result<Memory> {
        Ok(Memory {
            psi: self.meminfo.has_psi() && self.config.wake.trigger.is_some(),
            psi_limited_us: self.domains.iter().map(Domain::stalled_in_limit_us).sum(),
            ..self.meminfo.read()?
        })
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

    /// One turn of judge → act, and of sensing whom it may concern. Allocates nothing.
    fn step(
        &mut self,
        at: usize,
        memory: &Memory,
        fired: bool,
        now: Millis,
    ) -> io::Result<(Verdict, Option<act::Done>)> {
        let policy = &self.config.policy;
        let domain = &mut self.domains[at];
        let history = &mut domain.history;
        history.observe(memory, now);
        // Between triggers the marks alone say whether it is worth while to look at every memcg;
        // on a trigger it always is: new cgroups are classified before it gets tight.
        let survey = if fired || history.needs_survey(policy, memory, now) {
            let enough = policy.enough(memory);
            let fallback = rule(policy, NO_GROUP);
            self.surveyor
                .survey(enough, memory.within, fallback, 0, &self.config.matcher)?
        } else {
            &Survey::EMPTY
        };
        let verdict = judge(policy, memory, survey, history, now);
        history.remember(survey.kill(), now);
        let done = act::carry_out(
            &verdict,
            &self.config,
            &self.surveyor.tree,
            &mut self.settings,
            &mut self.commands,
        );
        history.note(policy, &verdict, done.as_ref().map(|d| d.outcome), now);
        domain.acts = verdict.acting.is_some();
        Ok((verdict, done))
    }

    /// Returns only where that cannot be done; it is not tried again then.
    fn reboot(&mut self) {
        let after_ms = std::mem::take(&mut self.config.policy.reboot_after_ms);
        self.log.error(format_args!(
            "rebooting: nothing was left to do for {after_ms} ms"
        ));
        if let Err(error) = act::reboot::now() {
            self.log.error(format_args!("could not reboot: {error}"));
        }
    }

    /// From now on the watchdog restarts the device in its time, unless things get better before.
    fn starve(&mut self) {
        if self.watchdog.as_mut().is_some_and(Watchdog::starve) {
            self.log.error(format_args!(
                "nothing was left to do for {} ms: no more signs of life for the watchdog",
                self.config.policy.reboot_after_ms
            ));
        }
    }

    /// Where nothing can be done inside a limit, who is at it is not made to wait for ever: the kernel's
    /// OOM killer is to decide.
    fn leave_to_the_kernel(&mut self, at: usize, verdict: &Verdict, now: Millis) {
        let Domain { history, place, .. } = &self.domains[at];
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

    fn feed(&mut self) {
        if self.watchdog.as_mut().is_some_and(Watchdog::feed) {
            self.log
                .notice(format_args!("signs of life for the watchdog again"));
        }
    }

    /// Has the watchdog open that the config asks for, or none. One that cannot be opened is said,
    /// and done without.
    fn open_watchdog(&mut self) {
        // Closed first: a device is open once.
        self.watchdog = None;
        let Some(path) = &self.config.watchdog else {
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

    /// Cgroups were made: they are looked at soon, together with those that follow at once.
    fn note_births(&mut self) {
        if self.births.take() && self.settle_again.is_none_or(|(_, done)| done > 0) {
            self.settle_again = Some((Instant::now() + NEWBORN[0], 0));
        }
    }

    /// Brings the newborn in line with the config. Under pressure there is something better to do.
    fn settle_newborn(&mut self, now: Instant) {
        let Some((_, done)) = self.settle_again.take() else {
            return;
        };
        if self.domains.iter().any(|domain| domain.acts) {
            self.settle_again = Some((now + NEWBORN[0], done));
            return;
        }
        self.settle();
        let ended = Instant::now();
        let rest = (ended - now) * REST;
        let next = NEWBORN.get(done + 1);
        self.settle_again = next.map(|after| (ended + rest.max(*after), done + 1));
    }

    /// What the config asks for and only cgroups can have, where there are none to choose from. A
    /// process is not held back in their place: its children and who waits for it go on, and one that
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

    /// Brings the cgroups in line with the config; what cannot be done is said, and done without.
    fn settle(&mut self) {
        if self.surveyor.unit() == Unit::Process {
            let tree = &self.surveyor.tree;
            if let Err(error) = settle_processes(&self.config, tree, &mut self.settings) {
                self.log.error(format_args!(
                    "ranking the processes for the kernel: {error}"
                ));
            }
            return;
        }
        let settled = self.meminfo.read().and_then(|memory| {
            settle(
                &self.config,
                &self.surveyor.tree,
                memory.total,
                &mut self.settings,
                &mut self.births,
                &mut self.log,
            )
        });
        match settled {
            Ok(wanted) if self.meminfo.has_psi() => self.watch_over(wanted),
            Ok(_) => {}
            Err(error) => self
                .log
                .error(format_args!("settling the cgroups: {error}")),
        }
    }

    /// From now on these cgroups are watched over by themselves, and no others. One that is already
    /// keeps its history.
    fn watch_over(&mut self, wanted: Vec<OwnTrigger>) {
        self.domains
            .retain(|domain| domain.is_system() || wanted.iter().any(|own| domain.watches(own)));
        for own in wanted {
            if self.domains.iter().any(|domain| domain.watches(&own)) {
                continue;
            }
            if self.domains.len() > DOMAINS {
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
                    self.domains.push(domain);
                }
                Err(error) => self.log.warning(format_args!(
                    "/{} goes without its trigger: {error}",
                    own.path
                )),
            }
        }
    }

    /// No second victim while the first is still exiting.
    fn wait_for(&mut self, at: usize, victim: Victim, killed: Instant, was: u64) -> io::Result<()> {
        let limit = Duration::from_millis(u64::from(self.config.policy.exit_ms));
        let deadline = killed + limit;
        // Who is held back meanwhile is let go in time, and signs of life go on.
        loop {
            let sooner = [self.settings.next_thaw(), self.alive_due()];
            if victim.wait_gone(sooner.into_iter().flatten().fold(deadline, Instant::min)) {
                break;
            }
            self.let_go(false);
            self.alive(Instant::now());
            if Instant::now() >= deadline {
                self.log.warning(format_args!(
                    "the victim has not exited after {} ms",
                    limit.as_millis()
                ));
                self.commands.still_there(victim);
                return Ok(());
            }
        }
        self.commands.ended();
        self.commands.tell(&mut self.log);
        let system = self.meminfo.read()?;
        let domain = &mut self.domains[at];
        domain.history.gone();
        let memory = domain.memory(&system).ok().flatten();
        let available = memory.unwrap_or(system).available;
        self.log.notice(format_args!(
            "gone after {} ms, available {} (was {})",
            killed.elapsed().as_millis(),
            Size(available),
            Size(was),
        ));
        Ok(())
    }

    fn tell(&mut self, at: usize, verdict: &Verdict, done: Option<&act::Done>, woken: Instant) {
        let Domain {
            place, last_why, ..
        } = &mut self.domains[at];
        let repeated = last_why.replace(verdict.why) == Some(verdict.why);
        let acted = verdict.action.target().zip(done);
        // Cache goes in many small steps: why is said once.
        let is_news = match &verdict.action {
            Action::Nothing | Action::Reclaim { .. } => !repeated,
            _ => true,
        };
        if is_news && (acted.is_some() || verdict.level > Level::Calm) {
            self.log.info(format_args!(
                "{place}{}: {}; {}",
                verdict.level.name(),
                Because(&verdict.why),
                Figures(verdict)
            ));
        }
        let Some((target, done)) = acted else { return };
        let mut judged = verdict.judged.iter();
        let passed_over = judged.find_map(|judged| match judged.reason {
            Reason::Restarting(times) if judged.row.rule.kill >= target.rule.kill => {
                Some((judged.row.rule.group, times))
            }
            _ => None,
        });
        if verdict.action.ends()
            && let Some((group, times)) = passed_over
        {
            self.log.notice(format_args!(
                "{} passed over: it came back after each of {times} kills",
                self.config.policy.group(group).name
            ));
        }
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let tree = &self.surveyor.tree;
        let whom = Whom::new(tree, target, done.process.as_ref(), &mut buffer);
        let what = Target(&self.config.policy, target);
        let took = (done.at - woken).as_micros();
        match done.outcome {
            Outcome::Failed { errno } => self.log.error(format_args!(
                "could not {} {whom} ({what}): {}",
                verdict.action.name(),
                io::Error::from_raw_os_error(errno)
            )),
            Outcome::Reclaimed { bytes } => {
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
        if verdict.action.ends() {
            self.tell_of_others(verdict, &mut buffer);
        }
    }

    /// Who could have gone as well, and why not.
    fn tell_of_others(&mut self, verdict: &Verdict, buffer: &mut [MaybeUninit<u8>; PATH]) {
        let others = verdict.judged.iter().filter(|judged| {
            judged.reason != Reason::Chosen && judged.row.flags & Row::PROCESS == 0
        });
        for other in others.take(OTHERS) {
            let whom = Whom::new(&self.surveyor.tree, &other.row, None, buffer);
            let what = Target(&self.config.policy, &other.row);
            let reason = other.reason.text();
            self.log.info(format_args!("not {whom} ({what}): {reason}"));
        }
    }

    /// Reads the config anew; the running one stays where the new one is bad, which is `false`.
    fn reload(&mut self, paths: &Paths) -> io::Result<bool> {
        let config = match stack::on_its_own(|| config::load(paths).map(Box::new)) {
            Ok(config) => config,
            Err(problems) => {
                for problem in problems.iter() {
                    self.log.error(format_args!("{problem}"));
                }
                self.log
                    .error(format_args!("reload refused, the running config stays"));
                return Ok(false);
            }
        };
        // The new triggers are armed before the old ones go: none is lost in between.
        let psi = self.meminfo.has_psi();
        let triggers = match arm(&config, psi, &mut self.log) {
            Ok(triggers) => triggers,
            Err(error) => {
                self.log.error(format_args!("reload refused: {error}"));
                return Ok(false);
            }
        };
        let (armed, now) = (triggers.len(), self.now());
        self.domains[0].rearm(triggers, now)?;
        if config.engine != self.config.engine {
            self.log.warning(format_args!(
                "the engine is chosen at start: [engine] counts from the next one on"
            ));
        }
        let same_watchdog = config.watchdog == self.config.watchdog && self.watchdog.is_some();
        self.config = config;
        self.settings.forget_said();
        self.tell_of_cgroups_only();
        if !same_watchdog {
            self.open_watchdog();
        }
        let ruled = self.surveyor.classify_all(&self.config.matcher);
        let ruled = ruled.unwrap_or_else(|error| {
            self.log
                .error(format_args!("classifying who is there: {error}"));
            0
        });
        self.commands.prepare(&self.config.commands, &mut self.log);
        self.settle();
        let standing = standing(&self.surveyor, armed, &self.config, ruled);
        self.log.info(format_args!("reloaded: {standing}"));
        self.manager.status(format_args!("{standing}"));
        Ok(true)
    }
}

/// What the agent stands on, in a line.
fn standing(surveyor: &Surveyor, armed: usize, config: &Loaded, ruled: usize) -> String {
    let unit = surveyor.unit();
    format!(
        "{} engine, {armed} triggers armed, {} groups {} {ruled} {}",
        surveyor.engine(),
        config.policy.groups.len(),
        match unit {
            Unit::Cgroup => "cover",
            Unit::Process => "for",
        },
        Many(unit),
    )
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

/// Arms what ends the sleep; nothing where the kernel has no PSI.
fn arm(config: &Loaded, psi: bool, log: &mut Log) -> io::Result<Triggers> {
    let mut triggers = Triggers::new()?;
    if let (true, Some(trigger)) = (psi, &config.wake.trigger)
        && let Err(error) = triggers.arm(CWD, psi::SYSTEM, trigger)
    {
        log.error(format_args!(
            "[wake] trigger: the kernel refuses it: {error}"
        ));
        return Err(error);
    }
    Ok(triggers)
}

/// Keeps the agent able to run when nothing else is: memory locked as it is touched, out of the
/// kernel's choice, first in line for the CPU. What is not permitted is said, and done without.
fn protect_self(log: &mut Log) {
    use rustix::mm::{MlockAllFlags, mlockall};
    let lock = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    let score = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // For when it takes turns, and for where it may not run first.
    let nice = rustix::process::setpriority_process(None, -20);
    let first = sys::run_first().or(nice.map_err(io::Error::from));
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
