//! Processes that are hard to find, or to end.

use super::{CROWD, Fault, PLAIN};
use crate::scenario::checks::{live, no_kernel_kill, victims};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::in_one_cgroup;
use crate::scenario::{HOG, LIFELINE, fast_hog};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::{CGROUP_ROOT, Scenario, Service};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "a_thousand_processes",
        injected: "1,100 processes, the hog last, and room for 1,024; procfs engine",
        memory_mb: 768,
        append: "cgroup_disable=memory",
        scenario: || {
            let mut scenario = in_one_cgroup(fast_hog());
            let crowd =
                "i=0; while [ $i -lt 1100 ]; do sleep 1000 & i=$((i+1)); done; echo there; wait";
            let mut crowd = Service {
                name: CROWD.into(),
                command: ["/bin/sh", "-c", crowd].map(String::from).to_vec(),
                ..Service::default()
            };
            crowd.cgroup.clear();
            for service in &mut scenario.services {
                if service.name == HOG {
                    service.after = Some(CROWD.into());
                }
            }
            scenario.services.push(crowd);
            scenario
        },
        ..PLAIN
    },
    Fault {
        name: "victim_is_frozen",
        injected: "the victim's cgroup is frozen when the kill comes",
        scenario: || frozen("echo 1 > cgroup.freeze", "cat cgroup.events"),
        check: |run| the_frozen_one_goes(run, "frozen 1"),
        ..PLAIN
    },
    Fault {
        name: "victim_is_stopped",
        injected: "the victim is stopped (SIGSTOP) when the kill comes",
        scenario: || {
            frozen(
                "kill -STOP $(cat cgroup.procs)",
                "grep State /proc/$(cat cgroup.procs)/status",
            )
        },
        check: |run| the_frozen_one_goes(run, "T (stopped)"),
        ..PLAIN
    },
    Fault {
        name: "victim_is_traced",
        injected: "the victim is traced by a process that never waits for it",
        scenario: || hog_as("--traced"),
        ..PLAIN
    },
    Fault {
        name: "victim_is_in_vfork",
        injected: "a thread of the victim waits in vfork(2) for a child that shares its memory and stays",
        scenario: || hog_as("--in-vfork"),
        ..PLAIN
    },
    Fault {
        name: "victim_is_in_vfork_by_process",
        injected: "the same; all services in one cgroup, procfs engine",
        append: "cgroup_disable=memory",
        scenario: || in_one_cgroup(hog_as("--in-vfork")),
        ..PLAIN
    },
    Fault {
        name: "victim_in_another_pid_namespace",
        injected: "the victim is pid 1 of a pid namespace",
        scenario: || {
            let mut scenario = fast_hog();
            for hog in scenario.services.iter_mut().filter(|s| s.name == HOG) {
                let first = ["/bin/busybox", "unshare", "-p", "-f"].map(String::from);
                hog.command.splice(0..0, first);
            }
            scenario
        },
        ..PLAIN
    },
];

/// A hog that stands at a third of the RAM, has this done to it in its cgroup, which is shown, and goes before
/// what takes the rest.
fn frozen(command: &str, show: &str) -> Scenario {
    let mut scenario = Tree::new()
        .runs(
            "media",
            Kill::At(900),
            &["hog", "--rate", "40M", "--cap", "60M"],
        )
        .holds("sensor", Kill::At(100), "10M")
        .grows("indexer", Kill::At(800), "20M")
        .last(|service| service.start_ms = 3000)
        .scenario();
    let mut done = super::beside_alone(&format!(
        "cd {CGROUP_ROOT}/apps/media; usleep 2500000; {command}; usleep 100000; {show}; sleep 1000"
    ));
    done.after = Some("media".into());
    scenario.services.push(done);
    scenario
}

/// As it is shown to be, the first of the order goes first, then what grows.
fn the_frozen_one_goes(run: &Run, shown: &str) -> Result<()> {
    let mut lines = run.lines("beside");
    ensure!(lines.any(|(_, line)| line.contains(shown)), "not {shown}");
    victims(run, &["media", "indexer"])?;
    live(run, &["sensor", LIFELINE, "lowtide"])?;
    no_kernel_kill(run)
}

fn hog_as(option: &str) -> Scenario {
    let mut scenario = fast_hog();
    for hog in scenario.services.iter_mut().filter(|s| s.name == HOG) {
        hog.command.splice(1..1, ["as", option].map(String::from));
    }
    scenario
}
