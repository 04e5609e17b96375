//! The right victim among several, and the right part of it.

use super::{Case, PLAIN};
use crate::scenario::LIFELINE;
use crate::scenario::checks::{
    answers_after, by_signal, ends, kernel_kills, live, no_kernel_kill, says, says_in_order,
    victims,
};
use crate::scenario::scripts::{early, passed, scripted, without_cache};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::{in_one_cgroup, without_agent};
use crate::test::loads::KERNEL_MB;
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::Scenario;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "the_highest_number_goes_first_until_what_grows_is_gone",
        memory_mb: 64 + KERNEL_MB,
        scenario: || four_of_a_kind().scenario(),
        check: |run| {
            says(run, "kfunc engine")?;
            goes_by_number(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_highest_number_goes_first_with_the_cgroupfs_engine",
        memory_mb: 64 + KERNEL_MB,
        scenario: || {
            four_of_a_kind()
                .config("[engine]\nkind = \"cgroupfs\"\n")
                .scenario()
        },
        check: |run| {
            says(run, "cgroupfs engine")?;
            goes_by_number(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_highest_number_goes_first_among_processes",
        memory_mb: 64 + KERNEL_MB,
        scenario: || in_one_cgroup(four_of_a_kind().scenario()),
        check: |run| {
            says(run, "procfs engine")?;
            no_kernel_kill(run)?;
            victims(run, &["preview", "indexer", "media"])
        },
        ..PLAIN
    },
    Case {
        name: "without_the_agent_something_else_goes",
        memory_mb: 64 + KERNEL_MB,
        scenario: || without_agent(four_of_a_kind().scenario()),
        check: kernel_kills,
        ..PLAIN
    },
    Case {
        name: "a_process_whose_first_thread_has_ended_is_found",
        memory_mb: 64 + KERNEL_MB,
        scenario: || in_one_cgroup(without_leader()),
        check: |run| {
            says(run, "procfs engine")?;
            no_kernel_kill(run)?;
            victims(run, &["media"])
        },
        ..PLAIN
    },
    Case {
        name: "a_process_whose_first_thread_has_ended_presses",
        every_run: false,
        memory_mb: 64 + KERNEL_MB,
        scenario: || without_agent(in_one_cgroup(without_leader())),
        check: kernel_kills,
        ..PLAIN
    },
    Case {
        name: "many_small_processes_go_before_a_large_one_of_a_lower_number",
        memory_mb: 128 + KERNEL_MB,
        scenario: || in_one_cgroup(many_small_processes()),
        check: |run| {
            says(run, "procfs engine")?;
            no_kernel_kill(run)?;
            live(run, &["sensor", LIFELINE, "lowtide"])?;
            ensure!(ends(run).count() > 0, "none of them went");
            by_signal(run)
        },
        ..PLAIN
    },
    Case {
        name: "many_small_processes_press",
        every_run: false,
        memory_mb: 128 + KERNEL_MB,
        scenario: || without_agent(in_one_cgroup(many_small_processes())),
        check: kernel_kills,
        ..PLAIN
    },
    Case {
        name: "one_process_of_a_shared_cgroup_goes",
        scenario: process,
        check: passed,
        ..PLAIN
    },
];

/// What grows is third in the order. Those before it do not free what is missing, the others do.
fn four_of_a_kind() -> Tree {
    Tree::new()
        .holds("broker", Kill::At(100), "8M")
        .holds("preview", Kill::At(900), "2M")
        .holds("indexer", Kill::At(700), "2M")
        .grows("media", Kill::At(500), "4M")
}

/// It goes when the two before it in the order are gone, and nothing goes for it that is behind it.
fn goes_by_number(run: &Run) -> Result<()> {
    no_kernel_kill(run)?;
    // Those that go together end in either order; in which they were ended, the agent says.
    let mut ended: Vec<_> = ends(run).map(|(_, service, _)| service).collect();
    ended.sort_unstable();
    ensure!(ended == ["indexer", "media", "preview"], "ended: {ended:?}");
    by_signal(run)?;
    says_in_order(
        run,
        &[
            "terminate /apps/preview",
            "terminate /apps/indexer",
            "terminate /apps/media",
        ],
    )?;
    answers_after(run, LIFELINE, ends(run).last().map_or(0, |(t, ..)| t))
}

/// What grows is a process whose first thread has ended.
fn without_leader() -> Scenario {
    let hog = [
        "as",
        "--leader-ends",
        "--comm",
        "media",
        "hog",
        "--rate",
        "10M",
    ];
    let mut scenario = Tree::new()
        .holds("sensor", Kill::At(100), "8M")
        .runs("media", Kill::At(800), &hog)
        .last(|service| service.start_ms = 1000)
        .scenario();
    scenario.until = Some("media".into());
    scenario
}

/// A dozen of the same service, one after the other, each smaller than what is worth more.
fn many_small_processes() -> Scenario {
    let mut tree = Tree::new().holds("sensor", Kill::At(100), "20M");
    for n in 1..=12 {
        tree = tree
            .holds(&format!("php-fpm-{n}"), Kill::At(800), "8500K")
            .last(|service| service.start_ms = 1000 + 150 * n);
    }
    Scenario {
        limit_s: 10,
        ..tree.scenario()
    }
}

/// Configs that kill, or ask, one process of the hog's cgroup, and never the one named `precious`.
fn process() -> Scenario {
    let mut scenario = scripted("process", &[]);
    without_cache(&mut scenario);
    for action in ["kill", "terminate"] {
        let precious =
            "[[group]]\nname = \"precious\"\nkill = \"never\"\nprocesses = [\"precious\"]\n";
        scenario.files.insert(
            format!("/etc/lowtide/process-{action}.toml"),
            format!("{}{precious}", early(&[action], "unit = \"process\"")),
        );
    }
    scenario
}
