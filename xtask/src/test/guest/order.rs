//! The right victim among several, and the right part of it.

use super::{Case, PLAIN};
use crate::scenario::LIFELINE;
use crate::scenario::checks::{answers_after, ends, no_kernel_kill, says, says_in_order, victims};
use crate::scenario::scripts::{early, passed, scripted, without_cache};
use crate::scenario::tree::{Kill, Tree};
use crate::test::loads::KERNEL_MB;
use crate::vm::Run;
use anyhow::Result;
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
        name: "one_process_of_a_shared_cgroup_goes",
        scenario: process,
        check: passed,
        ..PLAIN
    },
];

/// What grows is third in the order.
fn four_of_a_kind() -> Tree {
    Tree::new()
        .holds("broker", Kill::At(100), "4M")
        .holds("preview", Kill::At(900), "4M")
        .holds("indexer", Kill::At(700), "4M")
        .grows("media", Kill::At(500), "4M")
}

/// It goes when the two before it in the order are gone, and nothing goes for it that is behind it.
fn goes_by_number(run: &Run) -> Result<()> {
    no_kernel_kill(run)?;
    victims(run, &["preview", "indexer", "media"])?;
    says_in_order(
        run,
        &[
            "kill /apps/preview",
            "kill /apps/indexer",
            "kill /apps/media",
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
