//! `cargo xtask bench watch`: what the watch, and the early reflex, add to whatever takes memory.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::checks::says;
use crate::scenario::variants::with_more_config;
use crate::scenario::{idle, load};
use crate::test::harness::{self, Test};
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Report, Scenario, Service};

/// what programs that run on each charge of memory add to 100 MB touched, to page faults and to
/// starting processes
#[derive(FromArgs)]
#[argh(subcommand, name = "watch")]
pub struct Watch {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
}

const MEMORY_MB: u32 = 384;
/// Service that measures.
const MICRO: &str = "micro";

/// What runs on a charge, the config, whether the kernel hides its addresses, and what the agent says.
const VARIANTS: [(&str, &str, bool, &str); 3] = [
    ("nothing", "[reflex]\nkill = \"off\"\n", true, "no watch: "),
    (
        "the watch",
        "[reflex]\nkill = \"off\"\n",
        false,
        "woken by watch",
    ),
    (
        "the watch and the reflex",
        "[reflex]\nkill = \"on\"\n",
        false,
        "woken by watch",
    ),
];

impl Watch {
    pub fn run(self) -> Result<()> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        let runs = harness::in_parallel(&VARIANTS, |(name, config, hidden, said)| {
            let test = Test {
                name: format!("bench_watch_{}", name.replace(' ', "_")),
                guest: Guest {
                    kernel: kernel.clone(),
                    programs: programs.clone(),
                    memory_mb: MEMORY_MB,
                    scenario: scenario(config, *hidden),
                    files: Vec::new(),
                    append: String::new(),
                },
                check: Box::new(|_| Ok(())),
            };
            let run = test.record()?;
            says(&run, said)?;
            took(&run)
        });
        let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
        println!(
            "Linux {}; million instructions, kernel and user\n\n| load | {} |\n|---|---|---|---|",
            kernel.release,
            VARIANTS.map(|(name, ..)| name).join(" | ")
        );
        let first = runs.first().context("no run")?;
        for (index, (what, base)) in first.iter().enumerate() {
            let cells = runs.iter().map(|run| {
                let ns = run[index].1;
                let more = (ns as f64 / *base as f64 - 1.0) * 100.0;
                format!("{:.2} ({more:+.2} %)", ns as f64 / 1e6)
            });
            println!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        Ok(())
    }
}

fn scenario(config: &str, hidden: bool) -> Scenario {
    let mut scenario = with_more_config(idle(), config);
    // Nothing else that runs by itself.
    scenario
        .services
        .retain(|service| service.name == "lowtide");
    scenario.services.push(Service {
        after: Some("lowtide".into()),
        start_ms: 5000,
        ..load(MICRO, "apps/micro", &[MICRO])
    });
    if hidden {
        let restrict = ("kernel/kptr_restrict".into(), "2".into());
        scenario.sysctls.extend([restrict]);
    }
    Scenario {
        until: Some(MICRO.into()),
        limit_s: 60,
        counted: true,
        ..scenario
    }
}

/// What took how many instructions.
fn took(run: &Run) -> Result<Vec<(String, u64)>> {
    let took: Vec<_> = run
        .reports(MICRO)
        .filter_map(|(_, report)| match report {
            Report::Took { what, ns } => Some((what, ns)),
            _ => None,
        })
        .collect();
    ensure!(took.len() == 3, "not all was measured");
    Ok(took)
}
