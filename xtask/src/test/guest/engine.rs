//! Which engine is chosen, and that each of them finds the victim.

use super::{Case, PLAIN};
use crate::scenario::checks::{only_the_hog_goes, says};
use crate::scenario::variants::{hybrid, in_a_container, in_one_cgroup};
use crate::scenario::{fast_hog, load, with_config};
use crate::test::loads::KERNEL_MB;
use anyhow::ensure;
use lowtide_guest::Scenario;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "the_procfs_engine_where_all_share_a_cgroup",
        scenario: || in_one_cgroup(fast_hog()),
        check: |run| {
            says(run, "all share one memory cgroup")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_procfs_engine_without_the_memory_controller",
        append: "cgroup_disable=memory",
        scenario: || in_one_cgroup(fast_hog()),
        check: |run| {
            says(run, "the kernel has no memory controller")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_procfs_engine_on_a_hybrid_host",
        kernel: Some("6.1"),
        scenario: || hybrid(fast_hog()),
        check: |run| {
            says(run, "the memory controller is on cgroup v1")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_in_a_container",
        scenario: || in_a_container(fast_hog()),
        check: |run| {
            says(run, "is not the root of the cgroup tree")?;
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_device_without_the_memory_to_load_a_program_has_the_cgroupfs_engine",
        memory_mb: 64 + KERNEL_MB,
        scenario: || {
            let mut scenario = with_config("");
            let holds = load("holds", "loads", &["sleeper", "--size", "12M"]);
            scenario.services[0].after = Some(holds.name.clone());
            scenario.services.push(holds);
            Scenario {
                until: None,
                limit_s: 5,
                counted: true,
                ..scenario
            }
        },
        check: |run| {
            says(
                run,
                "not the kfunc engine: the kernel must have 8M of memory",
            )?;
            says(run, "cgroupfs engine")?;
            ensure!(run.exited("lowtide").is_none(), "the agent ends");
            Ok(())
        },
        ..PLAIN
    },
];
