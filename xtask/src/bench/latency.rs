//! `cargo xtask bench latency`: how long it takes from a trigger until the memory is back.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::checks::ends;
use crate::scenario::{self, HOG};
use crate::test::harness::{self, Test};
use crate::test::loads::{self, RELIEF_PERCENT};
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Event, Sample, Scenario, Service, What, Zram};
use std::collections::BTreeMap;

/// how long it takes from waking on a trigger to the signal, and until the memory is back, with the
/// device at rest and with it stalled
#[derive(FromArgs)]
#[argh(subcommand, name = "latency")]
pub struct Latency {
    /// seconds of each guest, which has a kill about every other second
    #[argh(option, default = "200")]
    seconds: u64,
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
}

const MEMORY_MB: u32 = 192;
/// Service that asks the scheduler.
const WAITS: &str = "waits";
/// Between two samples: as exactly as this the time of relief is known.
const SAMPLE_MS: u64 = 10;
/// How the device is when the hog comes, and how the hog behaves.
struct Condition {
    name: &'static str,
    zram_mb: u32,
    hog: &'static [&'static str],
}

const CONDITIONS: [Condition; 2] = [
    Condition {
        name: "at rest",
        zram_mb: 0,
        hog: &["hog", "--rate", "100M"],
    },
    // All that it holds goes round through zram.
    Condition {
        name: "stalled",
        zram_mb: 64,
        hog: &["hog", "--hot", "--random", "100", "--rate", "100M"],
    },
];

/// One kill, by its times in microseconds.
struct Kill {
    /// From waking up to the signal; from the mark's crossing where the watch saw it.
    signal: u64,
    /// The watch saw it.
    from_mark: bool,
    /// From the signal until the victim was gone.
    gone: u64,
    /// From the signal until relief.
    relief: u64,
}

impl Latency {
    pub fn run(self) -> Result<()> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        println!(
            "Linux {}; p50 / p99 / max in milliseconds\n\n\
             | device | hogs | ended by the agent | woken until it runs, mean / max | blocked, max \
             | mark to signal, hogs | waking to signal | signal to gone | signal to relief |\n|---|---|---|---|---|---|---|---|---|",
            kernel.release
        );
        let rows = harness::in_parallel(&CONDITIONS, |condition| {
            let test = Test {
                name: format!("bench_latency_{}", condition.name.replace(' ', "_")),
                guest: Guest {
                    kernel: kernel.clone(),
                    programs: programs.clone(),
                    memory_mb: MEMORY_MB,
                    scenario: self.again_and_again(condition),
                    files: Vec::new(),
                    append: String::new(),
                },
                check: Box::new(|_| Ok(())),
            };
            let run = test.record()?;
            let kills = kills(&run);
            let hogs = ends(&run).filter(|(_, service, _)| *service == HOG);
            ensure!(!kills.is_empty(), "no kill {}", condition.name);
            let column = |of: fn(&Kill) -> u64| distribution(kills.iter().map(of).collect());
            let signals = |from_mark| {
                let of = kills.iter().filter(|kill| kill.from_mark == from_mark);
                of.map(|kill| kill.signal).collect::<Vec<_>>()
            };
            let marked = signals(true).len();
            println!(
                "| {} | {} | {} | {} | {}, {marked} | {} | {} | {} |",
                condition.name,
                hogs.count(),
                kills.len(),
                waits(&run)?,
                distribution(signals(true)),
                distribution(signals(false)),
                column(|k| k.gone),
                column(|k| k.relief),
            );
            Ok(())
        });
        rows.into_iter().collect()
    }

    /// A hog that comes back each time; the agent has the patience to end it each time.
    fn again_and_again(&self, condition: &Condition) -> Scenario {
        let mut scenario = scenario::variants::with_more_config(
            scenario::fast_hog(),
            "[limits]\nrestarts = 255\n",
        );
        for service in &mut scenario.services {
            if service.name == HOG {
                service.restart_ms = 500;
                service.command = scenario::load(HOG, "", condition.hog).command;
            }
        }
        // What it waited for at its start does not count.
        let script = format!(
            "threads=/proc/$(pidof lowtide)/task\n\
             for thread in $threads/*/sched; do echo 0 > $thread; done\n\
             sleep {}\n\
             grep -h -e wait_ -e block_ $threads/*/sched\n",
            self.seconds.saturating_sub(6)
        );
        scenario.services.push(Service {
            name: WAITS.into(),
            command: ["/bin/sh", "-c", &script].map(String::from).to_vec(),
            cgroup: "lifeline/waits".into(),
            after: Some("lowtide".into()),
            start_ms: 500,
            ..Service::default()
        });
        scenario
            .sysctls
            .insert("kernel/sched_schedstats".into(), "1".into());
        Scenario {
            zram: (condition.zram_mb > 0).then_some(Zram {
                size_mb: condition.zram_mb,
                algorithm: None,
            }),
            until: None,
            limit_s: self.seconds,
            sample_ms: SAMPLE_MS,
            counted: true,
            ..scenario
        }
    }
}

/// How long the agent's threads waited for the processor once they were woken, and how long at most
/// for anything else that they did not sleep for: memory, a lock.
fn waits(run: &Run) -> Result<String> {
    let mut of = BTreeMap::<&str, Vec<f64>>::new();
    for (_, line) in run.lines(WAITS) {
        let (name, value) = line.split_once(':').context("no figure of the scheduler")?;
        of.entry(name.trim())
            .or_default()
            .push(value.trim().parse()?);
    }
    let all = |name| {
        of.get(name)
            .with_context(|| format!("the scheduler has no {name}"))
    };
    let sum = |name| Ok::<f64, anyhow::Error>(all(name)?.iter().sum());
    let most = |name| Ok::<f64, anyhow::Error>(all(name)?.iter().copied().fold(0.0, f64::max));
    Ok(format!(
        "{:.3} / {:.3} | {:.1}",
        sum("wait_sum")? / sum("wait_count")?.max(1.0),
        most("wait_max")?,
        most("block_max")?
    ))
}

/// p50, p99 (the nearest rank) and the most, in milliseconds.
fn distribution(mut times: Vec<u64>) -> String {
    if times.is_empty() {
        return "-".to_owned();
    }
    times.sort_unstable();
    [50, 99, 100]
        .map(|percent| {
            let rank = (times.len() * percent).div_ceil(100);
            format!("{:.2}", times[rank - 1] as f64 / 1000.0)
        })
        .join(" / ")
}

/// What the agent says of each kill, when the hog ended after it, and the samples after it.
fn kills(run: &Run) -> Vec<Kill> {
    let mark = loads::mem_total_kb(run) * RELIEF_PERCENT / 100;
    let is_start = |what: &What| matches!(what, What::Started { service, .. } if service == HOG);
    let kill = |events: &[Event]| {
        let said = |(before, after): (&str, &str)| {
            let number = |line: &str| -> Option<u64> {
                let (text, _) = line.split_once(after)?;
                text.rsplit(' ').next()?.parse().ok()
            };
            events.iter().find_map(|e| match &e.what {
                What::Line { service, line } if service == "lowtide" && line.contains(before) => {
                    Some((e.t, number(line)?))
                }
                _ => None,
            })
        };
        // A victim that does not go by the first signal gets a second: the first counts. Of SIGKILL it says so
        // when the memory was given back, but also how long ago it was.
        let at = match (said(("terminate /", " us ")), said(("gone after ", " ms"))) {
            (Some((t, _)), _) => t,
            (None, Some((t, ms))) => t - ms,
            (None, None) => return None,
        };
        let from_mark = said((" /", " us after the mark")).is_some();
        let (_, signal) = said((" /", " us after "))?;
        let gone = events.iter().find_map(|e| match &e.what {
            What::Exited { service, .. } if service == HOG => Some(e.t),
            _ => None,
        })?;
        let relieved = |(t, sample): &(u64, &Sample)| *t >= at && sample.available_kb > mark;
        let (relief, _) = run.samples().find(relieved)?;
        Some(Kill {
            signal,
            from_mark,
            gone: gone.saturating_sub(at) * 1000,
            relief: (relief - at) * 1000,
        })
    };
    run.events
        .chunk_by(|_, next| !is_start(&next.what))
        .filter_map(kill)
        .collect()
}
