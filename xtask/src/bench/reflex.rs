//! `cargo xtask bench reflex`: how long the reflex takes in a page fault, and what its programs
//! cost.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::tree::{Kill, Tree};
use crate::test::harness::{self, Test};
use crate::vm::kernel;
use crate::vm::qemu;
use crate::vm::{GUEST, Guest, Run};
use anyhow::{Context as _, Result};
use argh::FromArgs;
use lowtide_guest::{Cgroup, Scenario, Service};

/// how long the reflex takes from its hook to the last SIGKILL, by processes of the victim and by memcgs
/// that are walked, and what its programs and maps cost
#[derive(FromArgs)]
#[argh(subcommand, name = "reflex")]
pub struct Reflex {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
}

const MEMORY_MB: u32 = 512;
const STOPPER: &str = "stopper";

/// Processes of the victim, and memcgs beside it.
const SIZES: [(usize, usize); 5] = [(1, 10), (8, 10), (100, 10), (1, 100), (1, 1000)];

impl Reflex {
    pub fn run(self) -> Result<()> {
        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        println!(
            "Linux {}; microseconds, of a million instructions each\n\n\
             | processes of the victim | other memcgs | threads signalled | hook to last SIGKILL, us |\n\
             |---|---|---|---|",
            kernel.release
        );
        let runs = harness::in_parallel(&SIZES, |(processes, memcgs)| {
            let test = Test {
                name: format!("bench_reflex_{processes}_{memcgs}"),
                guest: Guest {
                    kernel: kernel.clone(),
                    programs: programs.clone(),
                    memory_mb: MEMORY_MB,
                    scenario: scenario(*processes, *memcgs),
                    files: Vec::new(),
                    append: String::new(),
                },
                check: Box::new(|_| Ok(())),
            };
            let run = test.record()?;
            let (signalled, us) = killed(&run)?;
            println!("| {processes} | {memcgs} | {signalled} | {us} |");
            Ok(run)
        });
        let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
        println!("\nThe agent's BPF objects, watch and survey among them:");
        let objects = runs.first().context("no run")?.lines(STOPPER);
        for (_, line) in objects.filter(|(_, line)| line.starts_with("bpf ")) {
            println!("{line}");
        }
        Ok(())
    }
}

/// The agent is stopped; then the victim grows.
fn scenario(processes: usize, memcgs: usize) -> Scenario {
    let fdinfo = "for f in /proc/$(pidof lowtide)/fdinfo/*; do \
        grep -q -e ^prog_type -e ^map_type $f && \
        echo bpf $(grep -h -e ^prog_type -e ^map_type -e ^memlock -e ^verified_insns $f); done";
    let script = format!(
        "{fdinfo}; kill -STOP $(pidof lowtide); echo stopped; sleep 6; \
         kill -CONT $(pidof lowtide); sleep 1"
    );
    let victim = format!(
        "for i in $(seq 2 {processes}); do {GUEST} sleeper --size 64K >/dev/null & done; \
         sleep 1; exec {GUEST} hog --rate 200M"
    );
    let mut scenario = Tree::new()
        .holds("sensor", Kill::At(100), "20M")
        .runs("media", Kill::At(800), &[])
        .last(|service| {
            service.command = ["/bin/sh", "-c", &victim].map(String::from).to_vec();
            service.after = Some(STOPPER.into());
        })
        .config("[reflex]\nkill = \"on\"\n")
        .scenario();
    scenario.services.push(Service {
        name: STOPPER.into(),
        command: ["/bin/sh", "-c", &script].map(String::from).to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 2000,
        ..Service::default()
    });
    scenario.cgroups.extend((0..memcgs).map(|index| Cgroup {
        path: format!("others/{index}"),
        ..Cgroup::default()
    }));
    Scenario {
        until: Some(STOPPER.into()),
        limit_s: 60,
        ..scenario
    }
}

/// Threads that were signalled, and microseconds.
fn killed(run: &Run) -> Result<(u64, u64)> {
    let mut lines = run.lines("lowtide").map(|(_, line)| line);
    let line = lines
        .find(|line| line.contains("the reflex killed /apps/media"))
        .context("the reflex did not take the victim")?;
    let before = |word: &str| {
        let (text, _) = line.rsplit_once(word)?;
        text.rsplit([' ', ':'])
            .find(|word| !word.is_empty())?
            .parse()
            .ok()
    };
    let signalled = before(" threads signalled").context("no number of threads")?;
    let us = before(" us").context("no time")?;
    Ok((signalled, us))
}
