//! lowtide and its peers under the same loads, each in a guest of its own.

use super::agents::{self, Agent};
use super::record::{self, Of, Place, Record};
use crate::build::programs::{self, Profile, Programs};
use crate::host::dirs;
use crate::host::shell::{output, say};
use crate::host::toolchain::Arch;
use crate::scenario::HOG;
use crate::test::harness;
use crate::test::loads::{Cell, Swap};
use crate::vm::Run;
use crate::vm::kernel::{self, Kernel};
use crate::vm::qemu;
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::Scenario;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

/// From the agent's first line to the load: Python takes that long to be ready.
const READY_MS: u64 = 6000;
const SAMPLE_MS: u64 = 50;

struct Load {
    name: &'static str,
    /// How the device swaps under it.
    swap: Swap,
    /// From boot until nothing new is to be expected of it.
    limit_s: u64,
}

const LOADS: [Load; 6] = [
    Load::new("fast-hog", Swap::None, 20),
    Load::new("slow-leak", Swap::None, 60),
    Load::new("fork-storm", Swap::None, 20),
    Load::new("refault", Swap::None, 24),
    Load::new("tmpfs", Swap::None, 40),
    Load::new("zram-thrash", Swap::Zram, 30),
];

impl Load {
    const fn new(name: &'static str, swap: Swap, limit_s: u64) -> Self {
        Self {
            name,
            swap,
            limit_s,
        }
    }
}

/// One load on one device.
struct Case {
    place: Place,
    cell: Cell,
    limit_s: u64,
}

/// run lowtide and its peers under the same loads, and keep a JSON line of each run
#[derive(FromArgs)]
#[argh(subcommand, name = "peers")]
pub struct Peers {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// sizes of the device in MiB; 128,256,512 if absent
    #[argh(option, default = "String::from(\"128,256,512\")")]
    memory: String,
    /// only these loads, e.g. fast-hog,refault
    #[argh(option)]
    load: Option<String>,
    /// only these agents, e.g. "lowtide,oomd"; "oomd" is also "oomd, tuned"
    #[argh(option)]
    agent: Option<String>,
    /// runs of each cell
    #[argh(option, default = "5")]
    runs: u32,
    /// where the lines are added; docs/bench/peers.jsonl if absent
    #[argh(option)]
    out: Option<PathBuf>,
}

impl Peers {
    pub fn run(self) -> Result<()> {
        let agents = agents::named(self.agent.as_deref())?;
        let mut cases = Vec::new();
        for size in self.memory.split(',') {
            let memory_mb = size
                .parse()
                .with_context(|| format!("{size:?} is no size"))?;
            for load in LOADS
                .iter()
                .filter(|load| agents::among(self.load.as_deref(), load.name))
            {
                cases.push(Case {
                    place: Place {
                        load: load.name.to_owned(),
                        memory_mb,
                        swap: load.swap.name().to_owned(),
                    },
                    cell: Cell::find(load.name, memory_mb, load.swap).context("no such load")?,
                    limit_s: load.limit_s,
                });
            }
        }
        ensure!(!cases.is_empty(), "no such load");

        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        let commit = output(
            Command::new("git")
                .current_dir(dirs::workspace())
                .args(["describe", "--always", "--dirty"]),
        )?;
        let out = self.out.unwrap_or_else(record::kept);
        let before = record::read(&out)?;
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut runs = Vec::new();
        for round in 1..=self.runs {
            for case in &cases {
                for agent in &agents {
                    let same = |r: &&Record| r.of.place == case.place && r.of.agent == agent.name;
                    let of = Of {
                        agent: agent.name.to_owned(),
                        place: case.place.clone(),
                        run: before.iter().filter(same).count() as u32 + round,
                        kernel: kernel.release.clone(),
                        commit: commit.trim().to_owned(),
                    };
                    runs.push((*agent, case, of));
                }
            }
        }
        let kept = Mutex::new(File::options().append(true).create(true).open(&out)?);
        let done = harness::in_parallel(&runs, |(agent, case, of)| {
            let record = case
                .measure(agent, of, &kernel, &programs)
                .inspect_err(|error| say(format_args!("{error:#}")))?;
            let line = serde_json::to_string(&record)?;
            writeln!(kept.lock().expect("no panic under it"), "{line}")?;
            Ok(())
        });
        done.into_iter().collect()
    }
}

impl Case {
    /// Runs this agent once under the load.
    fn measure(
        &self,
        agent: &Agent,
        of: &Of,
        kernel: &Kernel,
        programs: &Programs,
    ) -> Result<Record> {
        let head = format!(
            "{} {} {} #{}",
            of.place.load, of.place.memory_mb, of.agent, of.run
        );
        let start = Instant::now();
        let mut events = Vec::new();
        let ended = agent
            .guest(self.scenario(), self.place.memory_mb, kernel, programs)?
            .run(|event| events.push(event.clone()));
        let name = head.replace([',', '#'], "").replace(' ', "_");
        harness::keep(&format!("bench_peers_{name}"), &events)?;
        let failure = ended.err().map(|error| {
            let all = format!("{error:#}");
            let panic = all.lines().find(|line| line.contains("Kernel panic"));
            panic.or(all.lines().next()).unwrap_or_default().to_owned()
        });
        let record = Record::new(of.clone(), self.cell, &Run { events }, failure)
            .with_context(|| head.clone())?;
        say(format_args!(
            "{head}: {:?}, relief {:?} ms, done in {} s",
            record.outcome,
            record.relief_ms,
            start.elapsed().as_secs()
        ));
        Ok(record)
    }

    fn scenario(&self) -> Scenario {
        let mut scenario = self.cell.scenario();
        for service in &mut scenario.services {
            if service.name == HOG {
                service.start_ms = READY_MS;
            }
        }
        Scenario {
            limit_s: self.limit_s,
            sample_ms: SAMPLE_MS,
            ..scenario
        }
    }
}
