//! The loads that all other cases rest on are what they say, by what the kernel shows of them.

use super::{Case, PLAIN};
use crate::scenario::scripts::{TEST, passed, scripted};
use lowtide_guest::{Cgroup, Scenario};

/// The cases of this topic.
pub const CASES: &[Case] = &[Case {
    name: "loads_are_what_they_say",
    scenario: loads,
    check: passed,
    ..PLAIN
}];

/// A user has a cgroup of its own, and there is no agent.
fn loads() -> Scenario {
    let mut scenario = scripted("loads", &[]);
    scenario.services.retain(|service| service.name == TEST);
    for service in &mut scenario.services {
        service.after = None;
    }
    scenario.disk_mb = 0;
    for path in ["user/own", "user/own/init"] {
        scenario.cgroups.push(Cgroup {
            path: path.into(),
            owner: Some(1000),
            ..Cgroup::default()
        });
    }
    Scenario {
        counted: true,
        ..scenario
    }
}
