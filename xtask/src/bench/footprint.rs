//! `cargo xtask bench footprint`: what lowtide and its peers cost on a device at rest.

use super::agents::{self, Agent, size};
use crate::build::programs::{self, Profile, Programs};
use crate::host::toolchain::Arch;
use crate::scenario;
use crate::test::harness::{self, Test};
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu;
use anyhow::{Context as _, Result};
use argh::FromArgs;
use lowtide_guest::{Footprint as Cost, Report, Scenario};
use std::path::{Path, PathBuf};

/// what lowtide and its peers cost while nothing happens
#[derive(FromArgs)]
#[argh(subcommand, name = "footprint")]
pub struct Footprint {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// only these agents, e.g. "lowtide,oomd"; "oomd" is also "oomd, tuned"
    #[argh(option)]
    agent: Option<String>,
}

const MEMORY_MB: u32 = 256;
/// Service that measures.
const MEASURE: &str = "footprint";

impl Footprint {
    pub fn run(self) -> Result<()> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        println!(
            "Linux {}; sizes in KiB\n\n\
             | agent | program | with all that it loads | threads | PSS | cgroup | wakeups a minute \
             | system calls a minute |\n|---|---|---|---|---|---|---|---|",
            kernel.release
        );
        let mut agents = agents::named(self.agent.as_deref())?;
        agents.retain(|agent| !agent.program.is_empty());
        let parts: Vec<Result<_>> = harness::in_parallel(&agents, |agent| {
            let cost = measure(agent, &kernel, &programs)?;
            let mut files = agent.files()?;
            if files.is_empty() {
                files.push((programs.agent.clone(), String::new()));
            }
            let sizes = files
                .iter()
                .map(|(host, _)| Ok((host, size(host)?)))
                .collect::<Result<Vec<_>>>()?;
            println!("| {} {}", agent.name, row(agent, &sizes, &cost)?);
            Ok(format!("{}: {}", agent.name, list(&sizes)))
        });
        for line in parts {
            println!("\n{}", line?);
        }
        Ok(())
    }
}

/// One guest at rest with this agent.
fn measure(agent: &Agent, kernel: &Kernel, programs: &Programs) -> Result<Cost> {
    let mut scenario = scenario::idle();
    let command = [MEASURE, "--program", agent.program, "--syscalls"];
    scenario
        .services
        .push(scenario::load(MEASURE, MEASURE, &command));
    let scenario = Scenario {
        until: Some(MEASURE.into()),
        limit_s: 150,
        sample_ms: 10_000,
        ..scenario
    };
    let test = Test {
        name: format!("bench_footprint_{}", agent.name.replace(", ", "_")),
        guest: agent.guest(scenario, MEMORY_MB, kernel, programs)?,
        check: Box::new(|_| Ok(())),
    };
    let run = test.record()?;
    run.reports(MEASURE)
        .find_map(|(_, report)| match report {
            Report::Footprint(cost) => Some(cost),
            _ => None,
        })
        .with_context(|| format!("{}: nothing was measured", agent.name))
}

fn row(agent: &Agent, sizes: &[(&PathBuf, u64)], cost: &Cost) -> Result<String> {
    let program = sizes.iter().find(|(host, _)| host.ends_with(agent.program));
    let (_, program) = program.context("it has no program")?;
    let minute = |count: u64| count as f64 * 60_000.0 / cost.quiet_ms as f64;
    Ok(format!(
        "| {} | {} | {} | {} | {} | {:.0} | {:.0} |",
        program.div_ceil(1024),
        sizes
            .iter()
            .map(|(_, size)| size)
            .sum::<u64>()
            .div_ceil(1024),
        cost.threads,
        cost.pss_kb,
        cost.cgroup_bytes
            .context("no memory controller")?
            .div_ceil(1024),
        minute(cost.sleeps),
        minute(cost.syscalls.context("nothing was counted")?),
    ))
}

/// The files and their sizes in KiB.
fn list(sizes: &[(&PathBuf, u64)]) -> String {
    let name = |host: &Path| host.file_name().unwrap_or_default().display().to_string();
    let words = sizes
        .iter()
        .map(|(host, size)| format!("{} {}", name(host), size.div_ceil(1024)));
    words.collect::<Vec<_>>().join(", ")
}
