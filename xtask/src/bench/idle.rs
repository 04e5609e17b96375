//! `cargo xtask footprint`: what the agent costs while nothing happens, by engine.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::rest::{measured, quiet};
use crate::test::harness::Test;
use crate::vm::Guest;
use crate::vm::kernel;
use crate::vm::qemu;
use anyhow::{Result, ensure};
use argh::FromArgs;
use lowtide_guest::Footprint as Cost;
use std::fs;
use std::process::ExitCode;

/// Of the guests, in MiB.
const MEMORY_MB: u32 = 256;

/// A way to run the agent.
struct Variant {
    name: &'static str,
    /// On top of the config of the device.
    config: &'static str,
    /// On the kernel's command line.
    append: &'static str,
}

const VARIANTS: [Variant; 4] = [
    Variant {
        name: "kfunc",
        config: "[engine]\nkind = \"kfunc\"\n",
        append: "",
    },
    Variant {
        name: "cgroupfs",
        config: "[engine]\nkind = \"cgroupfs\"\n",
        append: "",
    },
    Variant {
        name: "procfs",
        config: "[engine]\nkind = \"procfs\"\n",
        append: "",
    },
    Variant {
        name: "kfunc, no PSI",
        config: "[engine]\nkind = \"kfunc\"\n",
        append: "psi=0",
    },
];

/// measure what the agent costs while nothing happens, in guests, by engine
#[derive(FromArgs)]
#[argh(subcommand, name = "footprint")]
pub struct Footprint {
    /// x86_64 (default), aarch64 or riscv64
    #[argh(option, default = "Arch::X86_64")]
    arch: Arch,
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// cgroups that are there besides those of the services, e.g. 300
    #[argh(option, default = "0")]
    cgroups: u32,
    /// only engines whose name contains this
    #[argh(positional)]
    filter: Option<String>,
}

impl Footprint {
    pub fn run(self) -> Result<ExitCode> {
        let kernel = kernel::find(self.arch, self.kernel.as_deref())?;
        qemu::install(self.arch)?;
        let programs = programs::build(self.arch, Profile::Release)?;
        let binary = fs::metadata(&programs.agent)?.len();
        let wanted = |v: &&Variant| self.filter.as_ref().is_none_or(|f| v.name.contains(f));
        println!(
            "Linux {}, {}, binary {} KiB; all else in KiB\n\n\
             | engine | PSS | peak RSS | cgroup with BPF maps | of that the kernel's to keep | wakeups a minute \
             | exec to armed, ms |\n|---|---|---|---|---|---|---|",
            kernel.release,
            self.arch.name(),
            binary.div_ceil(1024),
        );
        let mut all_parts = String::new();
        // One at a time: how fast the agent starts is not to depend on another guest.
        for variant in VARIANTS.iter().filter(wanted) {
            let test = Test {
                name: format!("footprint_{}", variant.name.replace(", ", "_")),
                guest: Guest {
                    kernel: kernel.clone(),
                    programs: programs.clone(),
                    memory_mb: MEMORY_MB,
                    scenario: quiet(variant.config, self.cgroups),
                    files: Vec::new(),
                    append: variant.append.to_owned(),
                },
                check: Box::new(|_| Ok(())),
            };
            let (cost, armed_ms) = measured(&test.record()?)?;
            println!("| {} {}", variant.name, row(&cost, armed_ms));
            all_parts.push_str(&format!("\n{}: {}\n", variant.name, parts(&cost)));
        }
        ensure!(!all_parts.is_empty(), "no such engine");
        print!("{all_parts}");
        Ok(ExitCode::SUCCESS)
    }
}

fn row(cost: &Cost, armed_ms: u64) -> String {
    let kib =
        |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |b| b.div_ceil(1024).to_string());
    format!(
        "| {} | {} | {} | {} | {:.1} | {armed_ms} |",
        cost.pss_kb,
        cost.peak_kb,
        kib(cost.cgroup_bytes),
        kib(cost.kernel_bytes),
        cost.sleeps as f64 * 60_000.0 / cost.quiet_ms as f64,
    )
}

/// What the figures are made of, in KiB.
fn parts(cost: &Cost) -> String {
    let list = |parts: &mut dyn Iterator<Item = (&String, u64)>| {
        parts
            .filter(|(_, kb)| *kb > 0)
            .map(|(name, kb)| format!("{name} {kb}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    format!(
        "{} threads\n  PSS: {}\n  cgroup: {}",
        cost.threads,
        list(&mut cost.mappings.iter().map(|(name, kb)| (name, *kb))),
        list(&mut cost.charged.iter().map(|(name, b)| (name, b / 1024))),
    )
}
