//! `cargo xtask matrix`: the kernels and architectures that the agent is tested on, and the engine
//! that it has to choose on each.

use crate::build::programs::{self, Profile, Programs};
use crate::host::shell::say;
use crate::host::toolchain::Arch;
use crate::scenario::checks::{never_says, says};
use crate::test::binaries;
use crate::test::guest;
use crate::test::harness::{self, Test};
use crate::test::harness::{Tally, Tries, verdict};
use crate::test::loads;
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu;
use anyhow::{Result, ensure};
use argh::FromArgs;
use std::process::ExitCode;

struct Platform {
    arch: Arch,
    /// As [`kernel::find`] takes it.
    version: &'static str,
    engine: &'static str,
    /// The alarms that it has to have.
    woken_by: &'static str,
    /// Part of `cargo xtask test`; the others take too long for every run.
    every_run: bool,
}

const PLATFORMS: [Platform; 11] = [
    platform(Arch::X86_64, "6.1", "cgroupfs", WATCH, true),
    platform(Arch::X86_64, "6.12", "cgroupfs", WATCH, true),
    platform(Arch::X86_64, "6.18", "cgroupfs", WATCH, false),
    platform(Arch::X86_64, "7.0", "kfunc", WATCH, false),
    platform(Arch::X86_64, "7.1", "kfunc", WATCH, false),
    platform(Arch::X86_64, "7.2", "kfunc", WATCH, false),
    platform(Arch::X86_64, "7", "kfunc", WATCH, true),
    platform(Arch::Aarch64, "6.12", "cgroupfs", WATCH, false),
    platform(Arch::Aarch64, "7", "kfunc", WATCH, true),
    platform(Arch::Riscv64, "6.12", "cgroupfs", WATCH, false),
    platform(Arch::Riscv64, "7", "kfunc", WATCH, true),
];

const WATCH: &str = "watch and PSI";

const fn platform(
    arch: Arch,
    version: &'static str,
    engine: &'static str,
    woken_by: &'static str,
    every_run: bool,
) -> Platform {
    Platform {
        arch,
        version,
        engine,
        woken_by,
        every_run,
    }
}

/// How a test for a kernel is made.
type Make = fn(Kernel, &Programs) -> Result<Test>;

/// What must be true on every platform.
const CORE: [(&str, Make); 4] = [
    (VICTIM, guest::fast_hog),
    (REFLEX, guest::stopped),
    ("it_wakes_before_the_end", guest::without_warning),
    ("a_refault_load_is_survived", |kernel, programs| {
        loads::refault(REFAULT_MB, kernel, programs)
    }),
];

/// The ones that `cargo xtask test` runs: the second where there is no other test of it, and alone on the
/// slowest, as the victim goes there as well.
const VICTIM: &str = "the_configured_victim_goes_and_nothing_else";
const REFLEX: &str = "where_the_agent_is_stopped_the_reflex_takes_the_victim";

/// RAM of the device that a refault load is run on.
const REFAULT_MB: u32 = 128;

impl Platform {
    /// What its guest has to do, with the kernel and the programs that it needs. `None` if Debian
    /// has no such kernel, which is said.
    fn tests(&self, names: &[&str]) -> Result<Option<(Kernel, Vec<Test>)>> {
        let kernel = match kernel::find(self.arch, Some(self.version)) {
            Err(e) if e.is::<kernel::Unavailable>() => {
                println!("test guest::{self} ... SKIPPED\n    {e}");
                return Ok(None);
            }
            found => found?,
        };
        qemu::install(self.arch)?;
        let programs = programs::build(self.arch, Profile::Guest)?;
        let tests = CORE.iter().filter(|(name, _)| names.contains(name));
        let tests = tests.map(|&(name, test)| {
            let test = test(kernel.clone(), &programs)?;
            let (engine, woken_by, arch) = (self.engine, self.woken_by, self.arch);
            Ok(Test {
                name: format!("{self}_{name}"),
                check: Box::new(move |run| {
                    says(run, &format!("{engine} engine, woken by {woken_by}, "))?;
                    if engine == "cgroupfs" {
                        says(run, "the kernel has no kfunc bpf_get_root_mem_cgroup")?;
                    } else if arch == Arch::Riscv64 {
                        says(run, "turned the BPF JIT on")?;
                    }
                    if name == REFLEX && engine == "kfunc" {
                        never_says(run, "no reflex")?;
                    }
                    (test.check)(run)
                }),
                ..test
            })
        });
        let tests = tests.collect::<Result<_>>()?;
        Ok(Some((kernel, tests)))
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.arch.name(), self.version)
    }
}

/// The part for every test run, of that what a filter leaves; and how many platforms cannot be had.
pub fn for_every_run(filter: Option<&str>) -> Result<(Vec<Test>, Tally)> {
    let mut tests = Vec::new();
    let mut tally = Tally::default();
    let (run, left): (Vec<_>, Vec<_>) = PLATFORMS.iter().partition(|p| p.every_run);
    for platform in &run {
        let is_wanted =
            |name: &&str| filter.is_none_or(|f| format!("{platform}_{name}").contains(f));
        let names = match platform.arch {
            Arch::X86_64 => [VICTIM].as_slice(),
            Arch::Riscv64 => &[REFLEX],
            _ => &[VICTIM, REFLEX],
        };
        let names: Vec<_> = names.iter().copied().filter(is_wanted).collect();
        if names.is_empty() {
            continue;
        }
        match platform.tests(&names)? {
            Some((_, more)) => tests.extend(more),
            None => tally.skipped += 1,
        }
    }
    if filter.is_none() {
        say(format_args!(
            "of the kernel matrix {}; not {}, for which there is `cargo xtask matrix`",
            names(&run),
            names(&left)
        ));
    }
    Ok((tests, tally))
}

fn names(platforms: &[&Platform]) -> String {
    platforms
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// run the binaries of all architectures and the core scenarios on all kernels, and print a table
#[derive(FromArgs)]
#[argh(subcommand, name = "matrix")]
pub struct Matrix {
    /// x86_64, aarch64 or riscv64; all of them if absent
    #[argh(option)]
    arch: Option<Arch>,
    /// kernel version of the matrix, e.g. 6.12 or 7; all of them if absent
    #[argh(option)]
    kernel: Option<String>,
}

impl Matrix {
    pub fn run(self) -> Result<ExitCode> {
        let fits = |p: &&Platform| {
            self.arch.is_none_or(|arch| arch == p.arch)
                && self.kernel.as_ref().is_none_or(|v| v == p.version)
        };
        let platforms: Vec<_> = PLATFORMS.iter().filter(fits).collect();
        ensure!(
            self.kernel.is_none() || !platforms.is_empty(),
            "the matrix has no such kernel"
        );
        let mut ok = true;
        if self.kernel.is_none() {
            let archs = self.arch.map_or(Arch::ALL.to_vec(), |arch| vec![arch]);
            ok &= binaries::test(&archs, None)?.failed == 0;
        }
        let names = CORE.map(|(name, _)| name);
        let mut table = format!("| arch | kernel | engine | {} |\n", names.join(" | "));
        table.push_str(&"|---".repeat(3 + names.len()));
        table.push_str("|\n");
        for platform in platforms {
            let done = platform.tests(&names).and_then(|tests| {
                tests
                    .map(|(kernel, tests)| {
                        Ok((kernel.release, harness::carry_out(&tests, Tries::Twice)?))
                    })
                    .transpose()
            });
            let (kernel, results) = match done {
                Ok(Some(done)) => done,
                Ok(None) => (format!("{}: not to be had", platform.version), Vec::new()),
                Err(e) => {
                    println!("test guest::{platform} ... FAILED\n    {e:#}");
                    ok = false;
                    (format!("{}: FAILED", platform.version), Vec::new())
                }
            };
            ok &= results.iter().all(|ended| ended.is_ok());
            let results = results.iter().map(|ended| verdict(ended.is_ok()));
            let cells = results.chain(std::iter::repeat("-")).take(names.len());
            table.push_str(&format!(
                "| {} | {kernel} | {} | {} |\n",
                platform.arch.name(),
                platform.engine,
                cells.collect::<Vec<_>>().join(" | ")
            ));
        }
        print!("\n{table}");
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
