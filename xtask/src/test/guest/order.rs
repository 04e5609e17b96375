//! The right victim among several, and the right part of it.

use super::{Case, PLAIN};
use crate::scenario::checks::{
    answers_after, by_signal, ends, kernel_kills, live, no_kernel_kill, oom_kills, says,
    says_in_order, victims,
};
use crate::scenario::scripts::{early, passed, scripted, without_cache};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::{in_one_cgroup, without_agent};
use crate::scenario::{LIFELINE, load};
use crate::test::loads::KERNEL_MB;
use crate::vm::Run;
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Scenario, Service, What, Zram};

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
        name: "a_storm_of_processes_pays_alone",
        memory_mb: 64 + KERNEL_MB,
        scenario: || {
            let storm = ["forkstorm", "--rate", "8", "--size", "1M"];
            let tree = Tree::new()
                .holds("openvpn", Kill::At(100), "12M")
                .runs("adhoc", Kill::At(600), &storm)
                // What starts them is one of them, and comes back.
                .last(|service| (service.start_ms, service.restart_ms) = (1000, 200))
                .config("[everything_else]\nunit = \"process\"\n");
            Scenario {
                limit_s: 14,
                ..tree.scenario()
            }
        },
        check: |run| {
            no_kernel_kill(run)?;
            live(run, &["openvpn", LIFELINE, "lowtide"])?;
            let kills = |(_, line): &(u64, &str)| line.contains(" of /apps/adhoc");
            let kills = run.lines("lowtide").filter(kills).count();
            ensure!(kills > 4, "only {kills} of the storm went");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "a_writer_of_files_in_a_tmpfs_that_rests_stays",
        memory_mb: 96 + KERNEL_MB,
        scenario: || {
            let wrote = [
                "tmpfs",
                "--file",
                "/tmp/left",
                "--rate",
                "100M",
                "--cap",
                "30M",
            ];
            Tree::new()
                .holds("sensor", Kill::At(100), "4M")
                .runs("writer", Kill::At(900), &wrote)
                .grows("media", Kill::At(500), "8M")
                .scenario()
        },
        check: |run| {
            no_kernel_kill(run)?;
            victims(run, &["media"])
        },
        ..PLAIN
    },
    Case {
        name: "a_process_whose_first_thread_has_ended_is_found",
        memory_mb: 64 + KERNEL_MB,
        scenario: || {
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
            in_one_cgroup(scenario)
        },
        check: |run| {
            says(run, "procfs engine")?;
            no_kernel_kill(run)?;
            victims(run, &["media"])
        },
        ..PLAIN
    },
    Case {
        name: "after_an_oom_kill_before_its_start_the_agent_is_in_time_again",
        memory_mb: 96,
        scenario: || {
            let mut scenario = Tree::new()
                .holds("sensor", Kill::At(100), "2M")
                .grows("media", Kill::At(800), "2M")
                .last(|service| service.start_ms = 1000)
                .scenario();
            for (name, start_ms) in [("first", 0), ("second", 2000)] {
                let hog = load(name, "early", &["hog", "--rate", "200M"]);
                scenario.services.push(Service { start_ms, ..hog });
            }
            let agent = scenario.services.iter_mut().find(|s| s.name == "lowtide");
            agent.into_iter().for_each(|agent| agent.start_ms = 5000);
            scenario
        },
        check: |run| {
            // What the kernel took before the agent was there is not the agent's doing.
            let starts = run.events.iter().find_map(|e| match &e.what {
                What::Started { service, .. } if service == "lowtide" => Some(e.t),
                _ => None,
            });
            let starts = starts.context("the agent did not start")?;
            let samples = run.samples().take_while(|(t, _)| *t <= starts);
            let before = samples.last().map_or(0, |(_, sample)| sample.oom_kills);
            let kills = oom_kills(run);
            ensure!(before >= 2, "only {before} OOM kills before the agent");
            ensure!(
                kills == before,
                "the kernel counts {kills} OOM kills, {before} of them before the agent"
            );
            live(run, &["sensor", LIFELINE, "lowtide"])?;
            says(run, "kill /apps/media").or_else(|_| says(run, "terminate /apps/media"))
        },
        ..PLAIN
    },
    Case {
        name: "a_grace_does_not_outlive_what_swap_absorbs",
        memory_mb: 128 + KERNEL_MB,
        scenario: || {
            let leak = ["as", "--ignore-term", "hog", "--rate", "32M"];
            let mut scenario = Tree::new()
                .holds("sensor", Kill::At(100), "8M")
                .runs("media", Kill::At(800), &leak)
                .last(|service| service.start_ms = 1000)
                .config("[everything_else]\ngrace = \"2s\"\n")
                .scenario();
            scenario.until = Some("media".into());
            scenario.zram = Some(Zram {
                size_mb: 64,
                algorithm: None,
            });
            scenario
        },
        check: |run| {
            no_kernel_kill(run)?;
            // Whether there is the time to ask first depends on what is available at that moment, which
            // goes up and down while pages go to swap.
            victims(run, &["media"])?;
            says(run, "kill /apps/media").or_else(|_| says(run, "the reflex killed /apps/media"))
        },
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
