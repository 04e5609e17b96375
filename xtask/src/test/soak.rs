//! `cargo xtask soak`: services, births, pressure, reloads and faults at random, by a seed, in one guest.

use super::harness::Test;
use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::checks::{live, no_kernel_kill};
use crate::scenario::{CONFIG, LIFELINE, agent, load};
use crate::vm::kernel;
use crate::vm::{Guest, Run, qemu};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Report, Scenario, Service};
use std::process::ExitCode;

const MEMORY_MB: u32 = 256;
/// The service that lets things happen, and looks at what must hold.
const SOAK: &str = "soak";
const LIFELINE_CGROUP: &str = "lifeline/heartbeat";

/// let services, births, pressure, reloads and faults happen at random in a guest, and check all the
/// time what must hold
#[derive(FromArgs)]
#[argh(subcommand, name = "soak")]
pub struct Soak {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// minutes of the guest's time, 10 if absent
    #[argh(option, default = "10")]
    minutes: u64,
    /// what happens follows from it; 1 if absent
    #[argh(option, default = "1")]
    seed: u64,
}

impl Soak {
    pub fn run(self) -> Result<ExitCode> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let release = kernel.release.clone();
        let test = Test {
            name: format!("soak_{}", self.seed),
            guest: Guest {
                kernel,
                programs: programs::build(arch, Profile::Guest)?,
                memory_mb: MEMORY_MB,
                scenario: self.scenario(),
                files: Vec::new(),
                append: String::new(),
            },
            check: Box::new(survived),
        };
        let run = test.record()?;
        let said = |words| {
            run.lines("lowtide")
                .filter(|(_, l)| l.contains(words))
                .count()
        };
        println!(
            "Linux {release}, {MEMORY_MB} MB, seed {}, {} minutes: {} things happened, {} kills, {} \
             reloads, {} refused",
            self.seed,
            self.minutes,
            steps(&run),
            said("kill /"),
            said("reloaded"),
            said("reload refused"),
        );
        (test.check)(&run)?;
        Ok(ExitCode::SUCCESS)
    }

    fn scenario(&self) -> Scenario {
        let (seed, minutes) = (self.seed.to_string(), self.minutes.to_string());
        let soak = [
            "soak",
            "--seed",
            &seed,
            "--minutes",
            &minutes,
            "--configs",
            "/configs",
            "--config",
            CONFIG,
            "--never",
            LIFELINE_CGROUP,
        ];
        let config = |more: &str| format!("{more}{GROUPS}");
        let files = [
            (CONFIG, config("")),
            ("/configs/good-plain.toml", config("")),
            (
                "/configs/good-asks.toml",
                config("[level.critical]\nactions = [\"reclaim\", \"terminate\", \"kill\"]\n"),
            ),
            (
                "/configs/good-process.toml",
                config("[everything_else]\nunit = \"process\"\n"),
            ),
            (
                "/configs/bad-value.toml",
                config("[limits]\nexit = \"soon\"\n"),
            ),
            ("/configs/bad-toml.toml", "[[group]\n".into()),
        ];
        Scenario {
            files: files.map(|(path, text)| (path.into(), text)).into(),
            services: vec![
                agent(),
                load(LIFELINE, LIFELINE_CGROUP, &["heartbeat"]),
                Service {
                    after: Some(LIFELINE.into()),
                    ..load(SOAK, SOAK, &soak)
                },
            ],
            until: Some(SOAK.into()),
            limit_s: self.minutes * 60 + 60,
            sample_ms: 1000,
            counted: true,
            ..Scenario::default()
        }
    }
}

const GROUPS: &str = r#"
[[group]]
name    = "lifeline"
kill    = "never"
cgroups = ["lifeline/**", "soak"]

[[group]]
name    = "low"
kill    = 200
cgroups = ["apps/low/**"]

[[group]]
name    = "high"
kill    = 800
cgroups = ["apps/high/**"]
"#;

/// It came to its end, and what must hold did at each of its steps.
fn survived(run: &Run) -> Result<()> {
    let last = run.lines(SOAK).last().map_or("nothing", |(_, line)| line);
    let (_, code, _) = run.exited(SOAK).context("the soak still runs")?;
    ensure!(code == Some(0), "after {} steps: {last}", steps(run));
    live(run, &["lowtide", LIFELINE])?;
    no_kernel_kill(run)
}

fn steps(run: &Run) -> u64 {
    let steps = run.reports(SOAK).filter_map(|(_, report)| match report {
        Report::Soaked { steps } => Some(steps),
        _ => None,
    });
    steps.max().unwrap_or(0)
}
