//! `cargo xtask bench survey`: what a look at all memcgs costs, beside other ways to the same figures.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::test::harness::Test;
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Cgroup, Report, Scenario, Service};

/// what one look at all memcgs costs: the BPF program, the engine on cgroup files, the fastest
/// reader of those files, and a naive one
#[derive(FromArgs)]
#[argh(subcommand, name = "survey")]
pub struct Survey {
    /// numbers of memcgs, ascending
    #[argh(option, default = "String::from(\"10,100,1000,10000\")")]
    counts: String,
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
}

/// Where the benchmark lies in a guest, and the service that it is.
const PROGRAM: &str = "/bin/lowtide-bench";
const BENCH: &str = "bench";
/// Memcgs and the files kept open for them take about 100 KB each.
const MEMORY_MB: u32 = 3072;
/// How deep memcgs are nested, by the shape of the tree.
const SHAPES: [(&str, u32); 2] = [("flat", 1), ("deep", 16)];
/// In the order of the columns.
const WAYS: [&str; 4] = ["bpf", "cgroupfs", "reader", "naive"];

impl Survey {
    pub fn run(self) -> Result<()> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        let bench = programs::build_bench(arch)?;
        println!(
            "Linux {}; instructions a memcg, user and kernel\n\n\
             | tree | memcgs | BPF survey | cgroupfs engine | fastest reader | naive reader | \
             reader : BPF | one BPF survey |\n|---|---|---|---|---|---|---|---|",
            kernel.release
        );
        for (shape, depth) in SHAPES {
            let test = Test {
                name: format!("bench_survey_{shape}"),
                guest: Guest {
                    kernel: kernel.clone(),
                    programs: programs.clone(),
                    memory_mb: MEMORY_MB,
                    scenario: self.scenario(depth),
                    files: vec![(bench.clone(), PROGRAM.to_owned())],
                    append: String::new(),
                },
                check: Box::new(|_| Ok(())),
            };
            let run = test.record()?;
            for count in self.counts.split(',') {
                let count = count.parse().with_context(|| format!("{count:?}"))?;
                println!("| {shape} {}", row(&run, count)?);
            }
        }
        Ok(())
    }

    fn scenario(&self, depth: u32) -> Scenario {
        let depth = depth.to_string();
        let counts = self.counts.split(',').flat_map(|n| ["--count", n]);
        let mut command = vec![PROGRAM, "--parent", BENCH, "--depth", &depth];
        command.extend(counts);
        Scenario {
            services: vec![Service {
                name: BENCH.into(),
                command: command.into_iter().map(String::from).collect(),
                cgroup: "loads".into(),
                // What the kernel still does after the boot is over by then.
                start_ms: 5000,
                ..Service::default()
            }],
            // Makes its parent a memcg that has memcgs.
            cgroups: vec![Cgroup {
                path: format!("{BENCH}/x"),
                ..Cgroup::default()
            }],
            until: Some(BENCH.into()),
            limit_s: 3000,
            sample_ms: 10_000,
            counted: true,
            ..Scenario::default()
        }
    }
}

/// The line of one number of memcgs.
fn row(run: &Run, count: u64) -> Result<String> {
    let (_, code, _) = run.exited(BENCH).context("the benchmark goes on")?;
    let words = || run.lines(BENCH).map(|(_, line)| line);
    ensure!(code == Some(0), "{}", words().last().unwrap_or_default());
    let took = |name: &str| {
        run.reports(BENCH)
            .find_map(|(_, report)| match report {
                Report::Looked {
                    way,
                    memcgs,
                    median_ns,
                    ..
                } if way == name && memcgs == count => Some(median_ns),
                _ => None,
            })
            .with_context(|| format!("nothing about {name}"))
    };
    let mut line = format!("| {count} |");
    for way in WAYS {
        line.push_str(&format!(" {} |", took(way)? / count));
    }
    let (bpf, reader) = (took("bpf")?, took("reader")?);
    Ok(format!(
        "{line} {:.0} | {bpf} |",
        reader as f64 / bpf as f64
    ))
}
