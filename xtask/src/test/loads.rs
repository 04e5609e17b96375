//! The loads that the agent is measured on: each on devices of several sizes, without swap and
//! with zram, with the agent and, as a control, without it. Whether a run is right is read from
//! what the guest's kernel counts and logs, and from how processes ended.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::checks::{
    answers_after, by_signal, ends, ends_of_started, goes_alone, kernel_kills, never_says,
    no_kernel_kill, oom_kills, says, worst_gap_ms,
};
use crate::scenario::variants::{with_more_config, without_agent};
use crate::scenario::{CONFIG, DEVICE, GATEWAY, HOG, HOG_CGROUP, LIFELINE, SENSOR, agent, load};
use crate::test::harness::{self, Test};
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{COUNTED_DISK, GUEST, Guest, Run};
use anyhow::{Context as _, Result, bail, ensure};
use argh::FromArgs;
use lowtide_guest::{Cgroup, Sample, Scenario, Service, What, Zram};
use std::process::ExitCode;

/// Sizes of the devices, in MiB.
const MEMORY_MB: [u32; 4] = [64, 128, 256, 512];
/// What a distribution's kernel takes of the RAM more than one built for a small device: with
/// this much on top, a guest has about as much to use as such a device (50 MB of 64, for one).
pub const KERNEL_MB: u32 = 32;
/// The relief mark of the built-in config's critical level, in percent of RAM.
pub const RELIEF_PERCENT: u64 = 10;
/// The stall that the built-in config's triggers wait for, in microseconds.
const TRIGGER_US: u64 = 1_000;
const TRIGGER_WINDOW_MS: u64 = 500;

/// Service that eats memory beside [`HOG`].
const HOG_2: &str = "indexer";
/// Service that is next in order after the hogs.
const SPARE: &str = "spare";

/// Groups of a load beside those of the device.
const MORE: &str = r#"
[[group]]
name    = "spare"
kill    = 300
cgroups = ["apps/spare"]

[[group]]
name    = "indexer"
kill    = 700
cgroups = ["apps/indexer"]
"#;

fn groups() -> String {
    format!("{DEVICE}{MORE}")
}

/// How a device swaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    None,
    /// To a zram of half the RAM.
    Zram,
}

impl Swap {
    const BOTH: &[Self] = &[Self::None, Self::Zram];

    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zram => "zram",
        }
    }
}

/// A device of so many MiB.
#[derive(Clone, Copy)]
struct Device(u32);

impl Device {
    /// A part of its RAM, as the loads take sizes.
    fn part(self, of: u32) -> String {
        format!("{}K", self.0 * 1024 / of)
    }

    /// Some 10 to 20 MB more than is available.
    fn with_swap(self) -> String {
        Self(self.0 * 15 / 16 - 40).part(1)
    }
}

/// Something that presses, and what must come of it.
struct Load {
    name: &'static str,
    /// Adds it to a device at rest.
    press: fn(&mut Scenario, Device),
    /// Services that have to go, in this order; no other may.
    victims: &'static [&'static str],
    /// [`HOG`] is started again after each end, and so may go again after all of them.
    comes_back: bool,
    /// What presses may not be touched: when all that may go is gone, the kernel's OOM killer has its
    /// turn.
    kernel_decides: bool,
    /// Why the reflex cannot stand in for the agent.
    beyond_reflex: Option<&'static str>,
    /// Part of `cargo xtask test`, on a device of 128 MB; the others are for `cargo xtask loads` alone.
    every_run: bool,
    /// Where it means anything.
    swaps: &'static [Swap],
    /// What shows, without the agent, that it is a load.
    real: fn(&Run) -> Result<()>,
    /// More that must be true with the agent.
    also: fn(&Run) -> Result<()>,
}

const LOADS: &[Load] = &[
    Load {
        name: "fast-hog",
        press: |s, _| press(s, &["hog", "--rate", "200M"]),
        ..HOGLIKE
    },
    Load {
        name: "slow-leak",
        press: |s, d| press(s, &["hog", "--rate", &d.part(32)]),
        ..HOGLIKE
    },
    Load {
        name: "fork-storm",
        press: |s, d| press(s, &["forkstorm", "--rate", "20", "--size", &d.part(128)]),
        ..HOGLIKE
    },
    Load {
        name: "tmpfs",
        press: |s, d| press(s, &["tmpfs", "--rate", &d.part(8)]),
        ..HOGLIKE
    },
    REFAULT,
    Load {
        name: "own-limit",
        beyond_reflex: Some("what happens inside a limit is the kernel's"),
        press: |s, d| {
            s.cgroups.push(Cgroup {
                path: HOG_CGROUP.into(),
                attributes: [("memory.max".into(), d.part(16))].into(),
                ..Cgroup::default()
            });
            press(s, &["hog", "--rate", &d.part(32)]);
            let media = "name    = \"media\"\n";
            let trigger = format!("{media}trigger = \"some 10ms/500ms\"\n");
            s.files
                .insert(CONFIG.into(), groups().replace(media, &trigger));
        },
        real: |run| {
            let (_, last) = run.samples().last().context("no sample")?;
            let inside = last.cgroups.get(HOG_CGROUP).map_or(0, |c| c.oom_kills);
            ensure!(inside > 0, "no OOM kill at its own limit");
            Ok(())
        },
        ..HOGLIKE
    },
    Load {
        name: "zram-thrash",
        press: |s, d| {
            press(
                s,
                &["hog", "--hot", "--random", "100", "--rate", &d.part(8)],
            );
        },
        swaps: &[Swap::Zram],
        real: |run| stands_still(run).or_else(|_| kernel_kills(run)),
        ..HOGLIKE
    },
    Load {
        name: "zram-churn",
        press: |s, d| {
            s.limit_s = 16;
            let (rate, cap) = (d.part(8), d.with_swap());
            let hog = [
                "hog", "--hot", "--random", "33", "--rate", &rate, "--cap", &cap,
            ];
            press(s, &hog);
        },
        swaps: &[Swap::Zram],
        real: stands_still,
        ..HOGLIKE
    },
    Load {
        name: "zram-absorb",
        press: |s, d| {
            s.until = None;
            s.limit_s = 16;
            let (rate, cap) = (d.part(4), d.with_swap());
            let hog = ["hog", "--random", "33", "--rate", &rate, "--cap", &cap];
            press(s, &hog);
        },
        victims: &[],
        swaps: &[Swap::Zram],
        real: stalls,
        also: wakes,
        ..HOGLIKE
    },
    Load {
        name: "two-hogs",
        press: |s, d| {
            press(s, &["hog", "--rate", &d.part(16)]);
            let second = load(HOG_2, "apps/indexer", &["hog", "--rate", &d.part(16)]);
            s.services.push(started(second));
            s.until = Some(HOG_2.into());
        },
        victims: &[HOG, HOG_2],
        ..HOGLIKE
    },
    Load {
        name: "ignores-term",
        press: |s, d| {
            press(s, &[]);
            if let Some(hog) = s.services.last_mut() {
                let hog_command = format!("{GUEST} hog --rate {}", d.part(32));
                hog.command = [
                    "/bin/sh",
                    "-c",
                    &format!("trap '' TERM; exec {hog_command}"),
                ]
                .map(String::from)
                .to_vec();
            }
        },
        also: |run| {
            let (_, _, signal) = run.exited(HOG).context("the hog was not killed")?;
            ensure!(signal == Some(9), "it ended by signal {signal:?}");
            let asked = run.lines("lowtide").any(|(_, l)| l.contains("terminate /"));
            ensure!(asked, "it was not asked first");
            Ok(())
        },
        ..HOGLIKE
    },
    Load {
        name: "restarted",
        beyond_reflex: Some("it comes back more often than the budget allows"),
        press: |s, d| {
            press(s, &["hog", "--rate", &d.part(4)]);
            if let Some(hog) = s.services.last_mut() {
                hog.restart_ms = 500;
            }
            let spare = load(SPARE, "apps/spare", &["sleeper", "--size", &d.part(16)]);
            s.services.push(after_agent(spare));
            s.until = None;
            // Where zram takes in half of each first, the fourth is gone after 25 s.
            s.limit_s = 32;
        },
        // What comes back pays alone.
        victims: &[HOG, HOG, HOG, HOG],
        comes_back: true,
        also: |run| says(run, "/apps/media loops: "),
        ..HOGLIKE
    },
    Load {
        name: "mlock",
        every_run: false,
        press: |s, d| press(s, &["as", "--mlock", "hog", "--rate", &d.part(4)]),
        ..HOGLIKE
    },
    Load {
        name: "never-hog",
        every_run: false,
        press: |s, d| {
            press(s, &["hog", "--rate", &d.part(8)]);
            let spare = load(SPARE, "apps/spare", &["sleeper", "--size", &d.part(16)]);
            s.services.push(after_agent(spare));
            let groups = groups().replace("kill    = 800", "kill    = \"never\"");
            s.files.insert(CONFIG.into(), groups);
        },
        // All that may go and would free anything, and still it is not enough.
        victims: &[SPARE, SENSOR],
        kernel_decides: true,
        also: |run| {
            let names_it =
                |(_, line): (u64, &str)| line.contains("/apps/media") && line.contains("never");
            ensure!(
                run.lines("lowtide").any(names_it),
                "it does not say what holds the memory and may not be touched"
            );
            Ok(())
        },
        ..HOGLIKE
    },
    Load {
        name: "many-small",
        press: |s, d| {
            let workers = ["workers", "--count", "44", "--every-ms", "50", "--cgroup"];
            // Together twice what there is, with half of it in swap.
            let size = d.part(if s.zram.is_some() { 16 } else { 44 });
            let worker = ["apps/media/w{}", "sleeper", "--size", &size];
            press_by_starter(s, &[&workers[..], &worker].concat());
        },
        ..STARTER
    },
    Load {
        name: "crash-loop",
        press: |s, d| {
            let app = ["supervise", "--delay-ms", "500", "--cgroup"];
            let leak = ["apps/media/app-{}.scope", "hog", "--rate", &d.part(4)];
            press_by_starter(s, &[&app[..], &leak].concat());
            let spare = load(SPARE, "apps/spare", &["sleeper", "--size", &d.part(16)]);
            s.services.push(after_agent(spare));
        },
        also: |run| goes_alone(run, HOG, 3),
        ..STARTER
    },
    Load {
        name: "containers-in-a-row",
        press: |s, d| {
            let engine = [
                "supervise",
                "--delay-ms",
                "1000",
                "--count",
                "4",
                "--cgroup",
            ];
            let container = ["docker/c{}", "hog", "--rate", &d.part(3)];
            press_by_starter(s, &[&engine[..], &container].concat());
            // Where zram takes in half of each first, the fourth is there 20 s after the start.
            s.limit_s = 28;
        },
        also: |run| goes_alone(run, HOG, 4),
        ..STARTER
    },
];

/// [`HOG`] is what starts processes that press, each in a cgroup of its own, and is never to go itself.
const STARTER: Load = Load {
    victims: &[],
    beyond_reflex: Some("cgroups that were made while the agent was stopped have no rule"),
    every_run: false,
    also: |run| goes_alone(run, HOG, 1),
    ..HOGLIKE
};

/// A working set larger than the RAM, read from a disk: slow, and nothing to kill for.
const REFAULT: Load = Load {
    name: "refault",
    press: |s, d| {
        s.disk_mb = d.0;
        s.until = None;
        s.limit_s = 20;
        press(s, &["refault", "--size", &d.part(1)]);
    },
    victims: &[],
    real: stalls,
    also: wakes,
    ..HOGLIKE
};

/// One hog, which has to go.
const HOGLIKE: Load = Load {
    name: "",
    press: |_, _| (),
    victims: &[HOG],
    comes_back: false,
    kernel_decides: false,
    beyond_reflex: None,
    every_run: true,
    swaps: Swap::BOTH,
    real: kernel_kills,
    also: |_| Ok(()),
};

/// A device with its services, pressed by nothing.
fn at_rest(device: Device, swap: Swap) -> Scenario {
    let sleeper = ["sleeper", "--size", &device.part(16)];
    let reader = ["refault", "--size", &device.part(16), "--rate", "16M"];
    Scenario {
        files: [(CONFIG.into(), groups())].into(),
        services: vec![
            agent(),
            load(LIFELINE, "lifeline/heartbeat", &["heartbeat"]),
            after_agent(load(SENSOR, "apps/sensor", &sleeper)),
            after_agent(load(GATEWAY, "apps/gateway", &reader)),
        ],
        zram: (swap == Swap::Zram).then_some(Zram {
            size_mb: device.0 / 2,
            algorithm: None,
        }),
        disk_mb: device.0 / 8,
        until: Some(HOG.into()),
        linger_ms: 3000,
        counted: true,
        limit_s: 120,
        ..Scenario::default()
    }
}

/// Starts the load as [`HOG`], when the agent is there.
fn press(scenario: &mut Scenario, arguments: &[&str]) {
    scenario
        .services
        .push(started(load(HOG, HOG_CGROUP, arguments)));
}

/// Starts the load as [`HOG`], which only starts others: it has a cgroup of its own.
fn press_by_starter(scenario: &mut Scenario, arguments: &[&str]) {
    scenario
        .services
        .push(started(load(HOG, "starter", arguments)));
    scenario.until = None;
    scenario.limit_s = 20;
    let groups = groups().replace("\"apps/media\"", "\"apps/media/**\"");
    let starter = "\n[[group]]\nname = \"starter\"\nkill = \"never\"\ncgroups = [\"starter\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{groups}{starter}"));
}

const REFLEX: &str = "[reflex]\nkill = \"on\"\n";
/// The service that stops the agent.
const STOPPER: &str = "stopper";

/// The agent is stopped as soon as it is armed, and the load begins after that.
fn stopped(mut scenario: Scenario) -> Scenario {
    for service in &mut scenario.services {
        if service.name.starts_with(HOG) || service.name == HOG_2 {
            service.after = Some(STOPPER.into());
        }
    }
    let script = "until lowtide status >/dev/null 2>&1; do sleep 0.1; done; \
                  kill -STOP $(pidof lowtide); echo stopped";
    scenario.services.push(Service {
        name: STOPPER.into(),
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..Service::default()
    });
    scenario
}

/// As on a device: the agent is there before what it watches over.
fn after_agent(service: Service) -> Service {
    Service {
        after: Some("lowtide".into()),
        ..service
    }
}

fn started(service: Service) -> Service {
    Service {
        start_ms: 1000,
        ..after_agent(service)
    }
}

/// Tasks stall for as long as the agent's triggers wait for.
fn stalls(run: &Run) -> Result<()> {
    let worst = worst_stall(run, TRIGGER_WINDOW_MS, |s| s.some_us);
    ensure!(
        worst >= TRIGGER_US,
        "no stall worth a trigger: {worst} us in {TRIGGER_WINDOW_MS} ms at most"
    );
    Ok(())
}

/// That nothing dies means something only when the agent was woken.
fn wakes(run: &Run) -> Result<()> {
    stalls(run)?;
    let woke = |(_, line): (u64, &str)| line.contains("; available ");
    ensure!(run.lines("lowtide").any(woke), "it was not woken");
    Ok(())
}

/// All tasks together stall for most of a second.
fn stands_still(run: &Run) -> Result<()> {
    let worst = worst_stall(run, 1000, |s| s.full_us);
    ensure!(worst >= 500_000, "all stalled for {worst} us of a second");
    Ok(())
}

/// The longest stall between two samples about `window_ms` apart, in microseconds.
fn worst_stall(run: &Run, window_ms: u64, total: fn(&Sample) -> u64) -> u64 {
    let samples: Vec<_> = run
        .samples()
        .filter(|(t, _)| *t >= pressed_since(run))
        .collect();
    let ends = samples.iter().filter_map(|(t, sample)| {
        let (_, before) = samples
            .iter()
            .rev()
            .find(|(then, _)| then + window_ms <= *t + Scenario::SAMPLE_MS && then < t)?;
        Some(total(sample) - total(before))
    });
    ends.max().unwrap_or(0)
}

/// When the load started; the end of time if it never did.
pub fn pressed_since(run: &Run) -> u64 {
    run.events
        .iter()
        .find_map(|e| match &e.what {
            What::Started { service, .. } if service == HOG => Some(e.t),
            _ => None,
        })
        .unwrap_or(u64::MAX)
}

/// What stands between a load and the kernel's OOM killer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    Agent,
    /// Beside it a reflex that also acts early, and must have nothing to do.
    AgentAndReflex,
    /// The agent is stopped before the load begins.
    Reflex,
    Nothing,
}

impl Guard {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Agent => "",
            Self::AgentAndReflex => "_with_reflex",
            Self::Reflex => "_by_reflex",
            Self::Nothing => "_control",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Agent => "lowtide",
            Self::AgentAndReflex => "lowtide, reflex on",
            Self::Reflex => "stopped, reflex on",
            Self::Nothing => "-",
        }
    }
}

/// One load on one device.
#[derive(Clone, Copy)]
pub struct Cell {
    load: &'static Load,
    device: Device,
    swap: Swap,
    guard: Guard,
}

impl Cell {
    pub fn name(&self) -> String {
        format!(
            "load_{}_{}_{}{}",
            self.load.name,
            self.device.0,
            self.swap.name(),
            self.guard.suffix()
        )
    }

    /// A load by its name, with the agent; nothing if there is none of that name.
    pub fn find(load: &str, memory_mb: u32, swap: Swap) -> Option<Self> {
        Some(Self {
            load: LOADS.iter().find(|l| l.name == load)?,
            device: Device(memory_mb),
            swap,
            guard: Guard::Agent,
        })
    }

    /// Services that have to go; no other may.
    pub const fn victims(&self) -> &'static [&'static str] {
        self.load.victims
    }

    pub fn scenario(&self) -> Scenario {
        let mut scenario = at_rest(self.device, self.swap);
        (self.load.press)(&mut scenario, self.device);
        match self.guard {
            Guard::Agent => scenario,
            Guard::AgentAndReflex => with_more_config(scenario, REFLEX),
            Guard::Reflex => stopped(with_more_config(scenario, REFLEX)),
            Guard::Nothing => without_agent(scenario),
        }
    }

    pub fn test(self, kernel: kernel::Kernel, programs: &programs::Programs) -> Test {
        let scenario = self.scenario();
        Test {
            name: self.name(),
            guest: Guest {
                kernel,
                programs: programs.clone(),
                memory_mb: self.device.0 + KERNEL_MB,
                scenario,
                files: Vec::new(),
                append: String::new(),
            },
            check: Box::new(move |run| self.check(run)),
        }
    }

    fn check(&self, run: &Run) -> Result<()> {
        self.is_set_up(run)?;
        match self.guard {
            Guard::Agent => self.agent_copes(run),
            Guard::AgentAndReflex => {
                never_says(run, "the reflex killed")?;
                self.agent_copes(run)
            }
            Guard::Reflex => self.reflex_copes(run),
            Guard::Nothing => (self.load.real)(run),
        }
    }

    /// Those that have to go are killed in order, and no other.
    fn reflex_copes(&self, run: &Run) -> Result<()> {
        let ended = ends(run).filter(|(_, service, _)| *service != STOPPER);
        let mut ended: Vec<_> = ended
            .map(|(_, service, signal)| (service, signal))
            .collect();
        if self.load.kernel_decides {
            kernel_kills(run)?;
            ended.truncate(self.load.victims.len());
        } else {
            no_kernel_kill(run)?;
        }
        let victims = self.load.victims.iter().map(|victim| (*victim, Some(9)));
        ensure!(victims.eq(ended.iter().copied()), "ended: {ended:?}");
        Ok(())
    }

    /// Its row where it is not run.
    fn left_out(&self, why: &str) -> String {
        format!(
            "| {} | {} | {} | {} | - | - | - | - | - | not run: {why} |",
            self.load.name,
            self.device.0,
            self.swap.name(),
            self.guard.name(),
        )
    }

    fn is_set_up(&self, run: &Run) -> Result<()> {
        for event in &run.events {
            if let What::Refused { what, error } = &event.what {
                bail!("the guest could not set up {what}: {error}");
            }
        }
        ensure!(pressed_since(run) < u64::MAX, "the load did not start");
        let (_, first) = run.samples().next().context("no sample")?;
        ensure!(
            (first.swap_free_kb > 0) == (self.swap == Swap::Zram),
            "{} kB of swap",
            first.swap_free_kb
        );
        Ok(())
    }

    fn agent_copes(&self, run: &Run) -> Result<()> {
        let turn = if self.load.kernel_decides {
            run.oom_lines().next().map_or(u64::MAX, |(t, _)| t)
        } else {
            no_kernel_kill(run)?;
            u64::MAX
        };
        let before = ends(run).take_while(|(t, ..)| *t < turn);
        let victims: Vec<_> = before.map(|(_, service, _)| service).collect();
        let again = victims.strip_prefix(self.load.victims);
        ensure!(
            again.is_some_and(|again| {
                again.is_empty() || (self.load.comes_back && again.iter().all(|s| *s == HOG))
            }),
            "ended: {victims:?}, not {:?}",
            self.load.victims
        );
        by_signal(run)?;
        let last = ends(run).take(self.load.victims.len()).last();
        if let Some((died, ..)) = last.filter(|_| !self.load.kernel_decides) {
            let mark = mem_total_kb(run) * RELIEF_PERCENT / 100;
            let after = run.samples().filter(|(t, _)| *t >= died);
            let best = after.map(|(_, s)| s.available_kb).max().unwrap_or(0);
            ensure!(best > mark, "no relief: {best} kB available at best");
            answers_after(run, LIFELINE, died)?;
        }
        (self.load.also)(run)
    }

    /// A line of the table: what happened, in figures.
    fn row(&self, result: &Result<(Run, Result<()>)>) -> String {
        let head = format!(
            "| {} | {} | {} | {}",
            self.load.name,
            self.device.0,
            self.swap.name(),
            self.guard.name(),
        );
        let (run, verdict) = match result {
            Ok((run, verdict)) => (run, verdict),
            Err(e) => return format!("{head} | FAILED: {e:#} |"),
        };
        let since = pressed_since(run);
        let gap_ms = worst_gap_ms(run, LIFELINE, since);
        let gap = gap_ms.map_or_else(|| "-".into(), |ms| ms.to_string());
        let last = run.samples().last().map(|(_, s)| s);
        let first = run.samples().take_while(|(t, _)| *t <= since).last();
        let stalled = |total: fn(&Sample) -> u64| {
            let before = first.map_or(0, |(_, s)| total(s));
            last.map_or(0, |s| total(s).saturating_sub(before)) / 1000
        };
        let verdict = match verdict {
            Ok(()) => "ok".into(),
            Err(e) => format!("FAILED: {e:#}"),
        };
        format!(
            "{head} | {} | {} | {gap} | {} | {} / {} | {verdict} |",
            who_died(run),
            oom_kills(run),
            available_at_kill(run).unwrap_or_else(|| "-".into()),
            stalled(|s| s.some_us),
            stalled(|s| s.full_us),
        )
    }
}

/// The part of the table that fits into every test run: each load on a device of 128 MB, and its
/// control; and what a larger zram makes harder to tell apart.
pub fn for_every_run() -> Vec<Cell> {
    let cell = |load: &'static Load, guard| Cell {
        load,
        device: Device(128),
        swap: load.swaps[0],
        guard,
    };
    LOADS
        .iter()
        .filter(|load| load.every_run)
        .flat_map(|load| [cell(load, Guard::Agent), cell(load, Guard::Nothing)])
        .chain(
            ["zram-churn", "zram-absorb"]
                .map(|load| Cell::find(load, 512, Swap::Zram).expect("it is one of LOADS")),
        )
        .collect()
}

/// [`REFAULT`] on a device of so many MiB without swap, with the agent. Where the archive holds a
/// kernel without its modules (7.0), the guest is not counted and has the disk that is built in.
pub fn refault(
    memory_mb: u32,
    kernel: kernel::Kernel,
    programs: &programs::Programs,
) -> Result<Test> {
    let cell = Cell {
        load: &REFAULT,
        device: Device(memory_mb),
        swap: Swap::None,
        guard: Guard::Agent,
    };
    let has_disk = kernel.has_module(COUNTED_DISK.0)?;
    let mut test = cell.test(kernel, programs);
    test.guest.scenario.counted &= has_disk;
    Ok(test)
}

const HEADER: &str = "\
| load | MB | swap | agent | what died | OOM kills | worst gap, ms | available at the kill | stalled some / full, ms | result |
|---|---|---|---|---|---|---|---|---|---|";

fn who_died(run: &Run) -> String {
    let started = ends_of_started(run, HOG).map(|(t, _)| (t, "what it started"));
    let mut names: Vec<_> = ends(run)
        .map(|(t, service, _)| (t, service))
        .chain(started)
        .collect();
    names.sort_by_key(|(t, _)| *t);
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    let runs: Vec<_> = names
        .chunk_by(|a, b| a == b)
        .map(|same| match same.len() {
            1 => same[0].to_owned(),
            n => format!("{} x {n}", same[0]),
        })
        .collect();
    if runs.is_empty() {
        "nobody".into()
    } else {
        runs.join(", ")
    }
}

/// What the agent saw when it first asked or killed something; without one, the last sample before
/// the first end.
fn available_at_kill(run: &Run) -> Option<String> {
    let mut seen = None;
    for (_, line) in run.lines("lowtide") {
        if let Some((_, figures)) = line.split_once("available ")
            && let Some((available, _)) = figures.split_once(" of ")
        {
            seen = Some(available.to_owned());
        } else if line.contains("terminate /") || line.contains("kill /") {
            return seen;
        }
    }
    let (died, ..) = ends(run).next()?;
    let (_, sample) = run.samples().take_while(|(t, _)| *t < died).last()?;
    Some(format!("{}K", sample.available_kb))
}

pub fn mem_total_kb(run: &Run) -> u64 {
    run.events
        .iter()
        .find_map(|e| match e.what {
            What::Booted { mem_total_kb, .. } => Some(mem_total_kb),
            _ => None,
        })
        .unwrap_or(0)
}

/// run the loads against the agent in guests and print what came of each
#[derive(FromArgs)]
#[argh(subcommand, name = "loads")]
pub struct Loads {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// sizes of the device in MiB, e.g. 64,128; 64 to 512 if absent
    #[argh(option)]
    memory: Option<String>,
    /// only loads whose name contains this
    #[argh(option)]
    load: Option<String>,
    /// none or zram; both if absent
    #[argh(option)]
    swap: Option<String>,
    /// without the agent: that the loads are real
    #[argh(switch)]
    control: bool,
    /// with a reflex that also acts early, and must have nothing to do while the agent runs
    #[argh(switch)]
    reflex: bool,
    /// with the agent stopped, so that the reflex stands in for it
    #[argh(switch)]
    stopped: bool,
}

impl Loads {
    pub fn run(self) -> Result<ExitCode> {
        let sizes = match &self.memory {
            Some(list) => list
                .split(',')
                .map(|n| n.parse().with_context(|| format!("{n:?} is no size")))
                .collect::<Result<Vec<u32>>>()?,
            None => MEMORY_MB.to_vec(),
        };
        let guard = match (self.control, self.reflex, self.stopped) {
            (false, false, false) => Guard::Agent,
            (true, false, false) => Guard::Nothing,
            (false, true, false) => Guard::AgentAndReflex,
            (false, false, true) => Guard::Reflex,
            _ => bail!("--control, --reflex and --stopped exclude each other"),
        };
        let mut cells = Vec::new();
        for load in LOADS {
            if self
                .load
                .as_ref()
                .is_some_and(|n| !load.name.contains(n.as_str()))
            {
                continue;
            }
            for size in &sizes {
                for swap in load.swaps {
                    if self.swap.as_ref().is_none_or(|s| s == swap.name()) {
                        cells.push(Cell {
                            load,
                            device: Device(*size),
                            swap: *swap,
                            guard,
                        });
                    }
                }
            }
        }
        ensure!(!cells.is_empty(), "no such load");
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Guest)?;
        println!("{HEADER}");
        let ok = harness::in_parallel(&cells, |cell| {
            if let (Guard::Reflex, Some(why)) = (cell.guard, cell.load.beyond_reflex) {
                println!("{}", cell.left_out(why));
                return true;
            }
            let test = cell.test(kernel.clone(), &programs);
            let result = test.record().map(|run| {
                let verdict = (test.check)(&run);
                (run, verdict)
            });
            println!("{}", cell.row(&result));
            matches!(result, Ok((_, Ok(()))))
        });
        Ok(if ok.into_iter().all(|ok| ok) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
