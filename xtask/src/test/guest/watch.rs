//! The agent's BPF programs: what they cost to load, and what they see.

use super::{Case, PLAIN};
use crate::scenario::checks::says;
use crate::scenario::with_config;
use crate::test::loads::KERNEL_MB;
use crate::vm::Run;
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Scenario, Service};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "verifying_takes_little_memory",
        memory_mb: 64 + KERNEL_MB,
        scenario: verified,
        check: verified_cheaply,
        ..PLAIN
    },
    Case {
        name: "verifying_takes_little_memory_on_7_0",
        kernel: Some("7.0"),
        memory_mb: 64 + KERNEL_MB,
        scenario: verified,
        check: verified_cheaply,
        ..PLAIN
    },
];

/// The service that tells what the verifier did with the agent's program.
const VERIFIED: &str = "verified";

/// The most that the agent's cgroup ever took.
const AGENTS_PEAK: &str = "/sys/fs/cgroup/lowtide/memory.peak";

/// The agent alone, until its program is looked up in the kernel.
fn verified() -> Scenario {
    let mut scenario = with_config("");
    scenario.services.push(Service {
        name: VERIFIED.into(),
        command: [
            "/bin/sh",
            "-c",
            "cat /proc/[0-9]*/fdinfo/* | grep verified_insns",
        ]
        .map(String::from)
        .to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..Service::default()
    });
    Scenario {
        until: Some(VERIFIED.into()),
        collect: vec![AGENTS_PEAK.into()],
        counted: true,
        ..scenario
    }
}

/// Instructions that the verifier may process, of the million at which it gives up. 7.0.13 processes
/// 10,784 and 7.3.4 10,664; when the functions of the program were verified inside the loop that calls
/// them, it was 998,712 in 466 MB, and 43,780 in 24 MB.
const VERIFIED_INSNS: u64 = 16_000;
/// The survey, and the reflex twice.
const PROGRAMS: usize = 3;
/// Memory of the agent's cgroup, to which the verifier's is charged, in bytes.
const LOADING: u64 = 4 << 20;

/// The kernel loaded the program on a small device, and by its own count that was little work.
fn verified_cheaply(run: &Run) -> Result<()> {
    says(run, "kfunc engine, ")?;
    let insns = run.lines(VERIFIED).filter_map(|(_, line)| {
        line.strip_prefix("verified_insns:")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let insns: Vec<_> = insns.collect();
    ensure!(
        insns.len() >= PROGRAMS,
        "{} programs in the agent's descriptors",
        insns.len()
    );
    ensure!(
        insns.iter().all(|insns| *insns <= VERIFIED_INSNS),
        "the verifier processed {insns:?} instructions"
    );
    let peak = run
        .files()
        .find_map(|(path, text)| (path == AGENTS_PEAK).then_some(text));
    let peak = peak.context("no memory.peak")?.trim().parse::<u64>()?;
    ensure!(peak <= LOADING, "the agent's cgroup took {peak} bytes");
    Ok(())
}
