//! What must not end the agent or make it mute.

use super::{Case, PLAIN};
use crate::scenario::checks::{only_the_hog_goes, says};
use crate::scenario::fast_hog;
use crate::scenario::variants::{with_load, with_more_config};
use anyhow::ensure;
use lowtide_guest::{Report, Scenario};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "cgroups_vanish_during_the_walk",
        // How many there are does not depend on the host.
        scenario: || Scenario {
            counted: true,
            ..with_load(fast_hog(), "churn", &["churn"])
        },
        check: |run| {
            let made = run.reports("churn").filter_map(|(_, report)| match report {
                Report::Made { cgroups } => Some(cgroups),
                _ => None,
            });
            ensure!(
                made.max().unwrap_or(0) >= 1000,
                "hardly any cgroup came and went"
            );
            says(run, "not /apps/sensor (group sensor, priority 100, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_while_cgroups_vanish",
        scenario: || {
            let hog = with_more_config(fast_hog(), CGROUPFS);
            with_load(hog, "churn", &["churn"])
        },
        check: |run| {
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
];

const CGROUPFS: &str = "[engine]\nkind = \"cgroupfs\"\n";
