//! What wakes the agent: the watch, PSI, the ballast, time; and that nothing does at rest.

use super::{Case, PLAIN};
use crate::scenario::checks::{live, only_the_hog_goes, says};
use crate::scenario::rest::{measured, quiet};
use crate::scenario::scripts::without_cache;
use crate::scenario::variants::{in_one_cgroup, with_more_config};
use crate::scenario::{GATEWAY, HOG, LIFELINE, SENSOR, fast_hog, idle};
use crate::test::loads::{self, KERNEL_MB};
use crate::vm::{GUEST, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Scenario, Service};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "without_memory_cgroups_and_psi_memory_is_looked_at_by_time",
        append: "psi=0 cgroup_disable=memory",
        scenario: || unwatched(in_one_cgroup(fast_hog())),
        check: |run| {
            says(run, "boot it with psi=1")?;
            says(run, "procfs engine, woken by time")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_watch_wakes_before_the_end_on_64_mb",
        memory_mb: 64 + KERNEL_MB,
        scenario: || without_warning("200M"),
        check: watched,
        ..PLAIN
    },
    Case {
        name: "the_watch_wakes_before_the_end_on_128_mb_without_psi",
        memory_mb: 128 + KERNEL_MB,
        append: "psi=0",
        scenario: || without_warning("200M"),
        check: |run| {
            says(run, "woken by watch, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_watch_wakes_before_the_end_on_256_mb_with_6_12",
        kernel: Some("6.12"),
        scenario: || without_warning("200M"),
        check: watched,
        ..PLAIN
    },
    Case {
        name: "the_ballast_wakes_before_the_end",
        memory_mb: 128 + KERNEL_MB,
        append: "psi=0",
        scenario: || unwatched(without_warning("200M")),
        check: warned_by_ballast,
        ..PLAIN
    },
    Case {
        name: "the_ballast_wakes_before_the_end_on_64_mb_with_6_1",
        kernel: Some("6.1"),
        memory_mb: 64 + KERNEL_MB,
        append: "psi=0",
        scenario: || unwatched(without_warning("200M")),
        check: warned_by_ballast,
        ..PLAIN
    },
    Case {
        name: "the_ballast_wakes_for_a_slow_leak",
        memory_mb: 64 + KERNEL_MB,
        append: "psi=0",
        scenario: || unwatched(without_warning("2M")),
        check: warned_by_ballast,
        ..PLAIN
    },
    Case {
        name: "the_ballast_wakes_for_a_slow_leak_with_6_1",
        kernel: Some("6.1"),
        memory_mb: 64 + KERNEL_MB,
        append: "psi=0",
        scenario: || unwatched(without_warning("2M")),
        check: warned_by_ballast,
        ..PLAIN
    },
    Case {
        name: "the_ballast_wakes_an_agent_that_starts_in_the_root_cgroup",
        append: "psi=0",
        scenario: || {
            let scenario = without_warning("200M");
            unwatched(in_one_cgroup(scenario))
        },
        check: |run| {
            says(run, "procfs engine, woken by ballast, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "what_an_ended_process_leaves_counts_at_once",
        scenario: || listed(0),
        check: |run| {
            let (most, total) = (most_listed(run)?, loads::mem_total_kb(run) * 1024);
            ensure!(
                most < total / 128,
                "{most} of {total} bytes were in the lists of one processor"
            );
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        // The control, and what somebody chose stays.
        name: "with_long_lists_of_free_pages_it_does_not",
        scenario: || listed(8),
        check: |run| {
            let (most, total) = (most_listed(run)?, loads::mem_total_kb(run) * 1024);
            ensure!(
                most > total / 32,
                "{most} of {total} bytes were in the lists of one processor"
            );
            let chosen = run.files().find(|(path, _)| *path == FRACTION);
            let chosen = chosen.context("no fraction")?.1.trim();
            ensure!(chosen == "8", "the fraction is {chosen}");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_watch_and_psi",
        scenario: || quiet("", 0),
        check: |run| asleep(run, "woken by watch and PSI, "),
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_cgroupfs_engine_and_the_ballast_alone",
        append: "psi=0",
        scenario: || unwatched(quiet("[engine]\nkind = \"cgroupfs\"\n", 0)),
        check: |run| asleep(run, "cgroupfs engine, woken by ballast, "),
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_procfs_engine_and_the_watch_alone",
        append: "psi=0",
        scenario: || quiet("[engine]\nkind = \"procfs\"\n", 0),
        check: |run| asleep(run, "procfs engine, woken by watch, "),
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_kfunc_engine_without_psi",
        append: "psi=0",
        scenario: || quiet("", 0),
        check: |run| asleep(run, "kfunc engine, woken by watch, "),
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_cgroupfs_engine_and_psi",
        scenario: || quiet("[engine]\nkind = \"cgroupfs\"\n", 0),
        check: |run| asleep(run, "cgroupfs engine, woken by watch and PSI, "),
        ..PLAIN
    },
    Case {
        name: "asleep_with_the_procfs_engine_and_psi",
        scenario: || quiet("[engine]\nkind = \"procfs\"\n", 0),
        check: |run| asleep(run, "procfs engine, woken by watch and PSI, "),
        ..PLAIN
    },
    Case {
        name: "what_is_read_again_and_again_does_not_wake_the_watch",
        memory_mb: 64 + KERNEL_MB,
        append: "psi=0",
        scenario: || refaults("", "32M"),
        check: |run| {
            says(run, "woken by watch, ")?;
            let Woken { wakeups, .. } = woken(run)?;
            ensure!(wakeups == 0, "it woke {wakeups} times in 10 s");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "what_is_read_again_and_again_wakes_psi",
        memory_mb: 64 + KERNEL_MB,
        scenario: || unwatched(refaults("[wake]\nballast = \"off\"\n", "32M")),
        check: |run| {
            says(run, "woken by PSI, ")?;
            let Woken { wakeups, alarms } = woken(run)?;
            ensure!(alarms > 0, "there was no load");
            ensure!(wakeups > MOST_WATCHED, "it woke {wakeups} times in 10 s");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "where_there_is_a_watch_as_well_it_does_not_look_all_the_time",
        memory_mb: 64 + KERNEL_MB,
        scenario: || refaults("", "32M"),
        check: |run| {
            says(run, "woken by watch and PSI, ")?;
            let Woken { wakeups, alarms } = woken(run)?;
            ensure!(alarms > 0, "there was no load");
            ensure!(wakeups < MOST_WATCHED, "it woke {wakeups} times in 10 s");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "what_is_read_again_and_again_wakes_the_ballast_once_a_second",
        memory_mb: 64 + KERNEL_MB,
        append: "psi=0",
        scenario: || unwatched(refaults("", "1G")),
        check: |run| {
            says(run, "woken by ballast, ")?;
            let Woken { alarms, .. } = woken(run)?;
            ensure!((1..=11).contains(&alarms), "{alarms} alarms in 10 s");
            Ok(())
        },
        ..PLAIN
    },
];

/// Service that tells how often the agent woke up.
const COUNTS: &str = "counts";
/// Two triggers a second at most, four looks a second at stalls, and some more.
const MOST_WATCHED: u64 = 80;

/// More files than fit are read, again and again.
fn refaults(config: &str, rate: &str) -> Scenario {
    let mut scenario = with_more_config(idle(), config);
    let script = r#"
        count() { lowtide status --json | sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p"; }
        sleep 6; woken=$(count wakeups); alarms=$(count alarms); sleep 10
        alarms=$(($(count alarms) - alarms)); woken=$(($(count wakeups) - woken - 3))
        grep workingset_refault_file /proc/vmstat
        echo "woken $woken"; echo "alarms $alarms""#;
    for service in &mut scenario.services {
        let load: &[&str] = match service.name.as_str() {
            SENSOR => &["sleeper", "--size", "6M"],
            GATEWAY => &["refault", "--size", "120M", "--rate", rate],
            _ => continue,
        };
        let command = [GUEST].iter().chain(load);
        service.command = command.map(|word| (*word).to_owned()).collect();
    }
    scenario.services.push(Service {
        name: COUNTS.into(),
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        cgroup: "lifeline/counts".into(),
        after: Some("lowtide".into()),
        ..Service::default()
    });
    Scenario {
        until: Some(COUNTS.into()),
        disk_mb: 128,
        limit_s: 60,
        ..scenario
    }
}

/// What the agent counts in 10 s.
struct Woken {
    /// Without the asking for that.
    wakeups: u64,
    alarms: u64,
}

/// Nobody has to go for what is read.
fn woken(run: &Run) -> Result<Woken> {
    live(run, &[SENSOR, GATEWAY, LIFELINE])?;
    let number = |before: &str| {
        let mut lines = run.lines(COUNTS);
        let number = lines.find_map(|(_, line)| line.strip_prefix(before)?.trim().parse().ok());
        number.with_context(|| format!("{COUNTS} does not say {before:?}"))
    };
    let refaults: u64 = number("workingset_refault_file ")?;
    ensure!(refaults > 10_000, "{refaults} refaults");
    Ok(Woken {
        wakeups: number("woken ")?,
        alarms: number("alarms ")?,
    })
}

/// A service eats so much a second, and nothing can be reclaimed: no stall comes before the end.
pub fn without_warning(rate: &str) -> Scenario {
    let mut scenario = fast_hog();
    without_cache(&mut scenario);
    for service in &mut scenario.services {
        let load: &[&str] = match service.name.as_str() {
            HOG => &["hog", "--rate", rate],
            SENSOR => &["sleeper", "--size", "6M"],
            _ => continue,
        };
        let command = [GUEST].iter().chain(load);
        service.command = command.map(|word| (*word).to_owned()).collect();
    }
    scenario.counted = true;
    scenario
}

/// Service that tells how many pages are in the lists of single processors, each time there are more.
const LISTS: &str = "lists";
const FRACTION: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

/// The hog is large when it goes, on a device whose lists of free pages were made so long; 0: as they are.
fn listed(fraction: u32) -> Scenario {
    let mut scenario = without_warning("100M");
    let count = "awk '/count:/ { s += $2 } END { print s }' /proc/zoneinfo";
    let script = format!(
        "m=0; while :; do n=$({count}); [ $n -gt $m ] && m=$n && echo listed $n; sleep 0.05; done"
    );
    scenario.services.push(Service {
        name: LISTS.into(),
        command: ["/bin/sh", "-c", &script].map(String::from).to_vec(),
        cgroup: "lifeline/lists".into(),
        after: Some("lowtide".into()),
        // What was in the lists before they were limited leaves them within a second.
        start_ms: 1000,
        ..Service::default()
    });
    if fraction > 0 {
        let chosen = (
            "vm/percpu_pagelist_high_fraction".into(),
            fraction.to_string(),
        );
        scenario.sysctls.extend([chosen]);
    }
    scenario.collect.push(FRACTION.into());
    scenario
}

/// Bytes.
fn most_listed(run: &Run) -> Result<u64> {
    let lines = run
        .lines(LISTS)
        .filter_map(|(_, line)| line.strip_prefix("listed ")?.trim().parse::<u64>().ok());
    Ok(lines.max().context("nothing is listed")? * 4096)
}

/// The kernel hides its addresses, so that no program can watch its memory.
fn unwatched(mut scenario: Scenario) -> Scenario {
    let hidden = ("kernel/kptr_restrict".into(), "2".into());
    scenario.sysctls.extend([hidden]);
    scenario
}

/// The watch woke the agent in time.
fn watched(run: &Run) -> Result<()> {
    says(run, "woken by watch and PSI, ")?;
    says(run, " us after the mark")?;
    only_the_hog_goes(run)
}

/// The ballast woke the agent in time: there was nothing else that could have.
fn warned_by_ballast(run: &Run) -> Result<()> {
    says(run, "no watch: the kernel hides its addresses")?;
    says(run, "woken by ballast, ")?;
    only_the_hog_goes(run)
}

/// By the kernel's counters no thread of the agent woke up for a minute.
fn asleep(run: &Run, woken_by: &str) -> Result<()> {
    says(run, woken_by)?;
    let (cost, _) = measured(run)?;
    ensure!(cost.quiet_ms >= 60_000, "{} ms looked at", cost.quiet_ms);
    ensure!(cost.sleeps == 0, "it woke {} times", cost.sleeps);
    Ok(())
}
