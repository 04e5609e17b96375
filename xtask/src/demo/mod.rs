//! `cargo xtask demo`: watch a small device run out of memory and live.

mod picture;

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::checks::worst_gap_ms;
use crate::scenario::{self, GATEWAY, HOG, LIFELINE, SENSOR};
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result};
use argh::FromArgs;
use lowtide_guest::{Event, Sample, Scenario, What};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

const MEMORY_MB: u32 = 256;

/// boot a 256 MB device, let a service eat its memory, watch lowtide keep it usable
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
pub struct Demo {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// write what `lowtide top` showed as a moving picture (SVG) to this file
    #[argh(option, arg_name = "file")]
    picture: Option<PathBuf>,
}

impl Demo {
    pub fn run(self) -> Result<ExitCode> {
        let arch = Arch::X86_64;
        qemu::install(arch)?;
        let mut scenario = Scenario {
            // By the host's clock, as a person watches; a picture by the guest's own.
            counted: self.picture.is_some(),
            ..scenario::fast_hog()
        };
        if self.picture.is_some() {
            scenario.services.push(picture::viewer());
        }
        let guest = Guest {
            kernel: kernel::find(arch, self.kernel.as_deref())?,
            programs: programs::build(arch, Profile::Guest)?,
            memory_mb: MEMORY_MB,
            scenario,
            files: Vec::new(),
            append: String::new(),
        };
        println!(
            "A device with {MEMORY_MB} MB and no swap. {LIFELINE} must answer every 10 ms and is \
             never to be killed;\n{SENSOR} and {GATEWAY}, which runs from flash, are worth \
             something; {HOG} goes first, and eats\n20 MB a second.\n"
        );
        let mut transcript = Transcript::default();
        let run = guest.run(|event| transcript.show(event))?;
        summary(&run);
        if let (Some(file), Some((end, ..))) = (&self.picture, run.exited(HOG)) {
            fs::write(file, picture::of(&run, end)?)
                .with_context(|| format!("{}", file.display()))?;
        }
        match scenario::checks::only_the_hog_goes(&run) {
            Ok(()) => {
                println!("\nThe right victim went, in time, and nothing else.");
                Ok(ExitCode::SUCCESS)
            }
            Err(why) => {
                println!("\nThis is not what should have happened: {why:#}.");
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// Prints events as they come; of the samples, one a second.
#[derive(Default)]
struct Transcript {
    total_kb: u64,
    last: Option<(u64, Sample)>,
}

impl Transcript {
    fn show(&mut self, event: &Event) {
        let t = event.t;
        match &event.what {
            What::Booted {
                kernel,
                mem_total_kb,
            } => {
                self.total_kb = *mem_total_kb;
                say(
                    t,
                    "boot",
                    &format!("Linux {kernel}, {} of RAM usable", mb(*mem_total_kb)),
                );
            }
            What::Started { service, .. } => say(t, "start", service),
            What::Exited {
                service,
                code,
                signal,
                ..
            } => say(t, "end", &ending(service, *code, *signal)),
            What::Line { service, line } if service == "lowtide" => {
                say(t, "lowtide", line.strip_prefix("lowtide: ").unwrap_or(line));
            }
            What::Kernel { line } if line.contains("Killed process") => say(t, "kernel", line),
            What::Refused { what, error } => say(t, "refused", &format!("{what}: {error}")),
            What::Sample(sample) => self.sample(t, sample),
            What::Line { .. } | What::Kernel { .. } | What::File { .. } | What::Ended { .. } => {}
        }
    }

    fn sample(&mut self, t: u64, sample: &Sample) {
        let (since, before) = match &self.last {
            Some((since, _)) if t < since + 1000 => return,
            Some((since, before)) => (*since, before),
            None => (0, sample),
        };
        let stalled =
            |total: fn(&Sample) -> u64| percent(total(sample) - total(before), (t - since) * 1000);
        let free = sample.available_kb;
        say(
            t,
            "memory",
            &format!(
                "{} {:>6} available   stalled: some {:3} %, full {:3} %   {HOG} {:>6}",
                bar(free, self.total_kb),
                mb(free),
                stalled(|s| s.some_us),
                stalled(|s| s.full_us),
                mb(held(sample)),
            ),
        );
        self.last = Some((t, sample.clone()));
    }
}

fn say(t: u64, who: &str, what: &str) {
    println!("{:6.2} s  {who:8} {what}", t as f64 / 1000.0);
}

/// What the hog's cgroup holds, in KiB.
fn held(sample: &Sample) -> u64 {
    sample
        .cgroups
        .get(scenario::HOG_CGROUP)
        .map_or(0, |c| c.current_kb)
}

fn ending(service: &str, code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (_, Some(9)) => format!("{service}: SIGKILL"),
        (_, Some(15)) => format!("{service}: SIGTERM"),
        (_, Some(signal)) => format!("{service}: signal {signal}"),
        (code, None) => format!("{service}: exit code {}", code.unwrap_or(0)),
    }
}

fn summary(run: &Run) {
    let row = |what: &str, value: String| println!("{what:22} {value}");
    println!();
    for service in [LIFELINE, SENSOR, GATEWAY, HOG] {
        let state = match run.exited(service) {
            Some((t, code, signal)) => {
                format!(
                    "gone at {:.2} s, {}",
                    t as f64 / 1000.0,
                    ending(service, code, signal)
                )
            }
            None if service == LIFELINE => {
                format!(
                    "alive, worst delay of a tick {} ms",
                    worst_gap_ms(run, LIFELINE, 0).unwrap_or(0)
                )
            }
            None => "alive".into(),
        };
        row(service, state);
    }
    let Some((died, ..)) = run.exited(HOG) else {
        return;
    };
    let act = run
        .lines("lowtide")
        .filter(|(t, line)| *t <= died && line.contains(AFTER_WAKING))
        .last();
    row(
        "killed by",
        match (act, run.oom_lines().next()) {
            (Some((_, line)), _) => line.to_owned(),
            (None, Some((_, line))) => format!("the kernel: {line}"),
            (None, None) => "nobody".into(),
        },
    );
    if let Some((told, line)) = act {
        let us = line
            .split(AFTER_WAKING)
            .next()
            .and_then(|l| l.rsplit(' ').next())
            .unwrap_or("?");
        row(
            "after the alarm",
            format!("{us} us to the signal, {} ms more to its end", died - told),
        );
    }
    let before = run
        .samples()
        .filter(|(t, _)| *t <= act.map_or(died, |(t, _)| t))
        .last();
    let after = run.samples().last();
    if let (Some((_, before)), Some((_, after))) = (before, after) {
        row(
            "memory available",
            format!(
                "{} before, {} after",
                mb(before.available_kb),
                mb(after.available_kb)
            ),
        );
        row(
            "stalled since boot",
            format!(
                "some {} ms, full {} ms",
                after.some_us / 1000,
                after.full_us / 1000
            ),
        );
        let (counted, logged) = (after.oom_kills, run.oom_lines().count());
        row(
            "kernel OOM killer",
            format!("{counted} kills by its counter, {logged} in its log"),
        );
    }
}

/// How the agent's line about an act goes on behind the time it took.
const AFTER_WAKING: &str = " us after ";

fn mb(kb: u64) -> String {
    format!("{} MB", kb >> 10)
}

fn percent(part: u64, whole: u64) -> u64 {
    (100 * part).checked_div(whole).unwrap_or(0)
}

fn bar(part: u64, whole: u64) -> String {
    const WIDTH: usize = 20;
    let filled = (WIDTH as u64 * part)
        .div_ceil(whole.max(1))
        .min(WIDTH as u64) as usize;
    format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH - filled))
}
