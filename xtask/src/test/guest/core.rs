//! The configured victim goes, and nothing else.

use super::{Case, PLAIN};
use crate::scenario::checks::{kernel_kills, only_the_hog_goes, says};
use crate::scenario::fast_hog;
use crate::scenario::variants::{with_load, with_more_config, without_agent};
use anyhow::ensure;
use lowtide_guest::{Report, Scenario};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "without_the_agent_the_kernel_kills",
        scenario: || without_agent(fast_hog()),
        check: kernel_kills,
        ..PLAIN
    },
    Case {
        name: "two_thousand_cgroups",
        memory_mb: 512,
        scenario: || two_thousand(fast_hog()),
        check: |run| {
            let made = Report::Made { cgroups: 2000 };
            ensure!(
                run.reports("many").any(|(_, r)| r == made),
                "the cgroups were not made"
            );
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_with_two_thousand_cgroups",
        memory_mb: 512,
        scenario: || two_thousand(with_more_config(fast_hog(), CGROUPFS)),
        check: |run| {
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
];

const CGROUPFS: &str = "[engine]\nkind = \"cgroupfs\"\n";

/// Beside so many cgroups. Not counted: making them is a long time of instructions.
fn two_thousand(scenario: Scenario) -> Scenario {
    Scenario {
        counted: false,
        ..with_load(scenario, "many", &["many", "--count", "2000"])
    }
}
