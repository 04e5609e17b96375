//! Where the kernel is faster than the agent: its own OOM killer has to choose as the config says.

use super::{Case, PLAIN};
use crate::scenario::scripts::{TEST, passed, scripted, without_cache};
use crate::scenario::variants::in_one_cgroup;
use crate::scenario::{CONFIG, DEVICE, HOG, HOG_CGROUP, SENSOR, load};
use crate::vm::GUEST;
use anyhow::ensure;
use lowtide_guest::Scenario;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "the_kernel_kills_the_configured_victim",
        scenario: || kernel_oom(&["agent"]),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_by_itself_kills_the_largest",
        scenario: || kernel_oom(&[]),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_kills_the_configured_process",
        append: "cgroup_disable=memory",
        scenario: processes,
        check: |run| {
            passed(run)?;
            let mut lines = run.lines(TEST);
            let said = "group media and 0 others: protect, protect_low, throttle and trigger need";
            ensure!(
                lines.any(|(_, line)| line.contains(said)),
                "no word about protect"
            );
            Ok(())
        },
        ..PLAIN
    },
];

/// What is ranked first is many small processes; what grows when the script says so is the sensor.
fn kernel_oom(arguments: &[&str]) -> Scenario {
    let mut scenario = scripted("oom", arguments);
    let grow = format!(
        "until [ -e /run/grow ]; do sleep 0.1; done; exec {GUEST} hog --rate 20M --cap 120M"
    );
    for service in &mut scenario.services {
        if service.name == SENSOR {
            service.command = ["/bin/sh", "-c", &grow].map(String::from).to_vec();
        }
    }
    scenario.services.push(load(
        HOG,
        HOG_CGROUP,
        &["forkstorm", "--rate", "10", "--size", "4M", "--max", "16"],
    ));
    scenario
}

/// A test script on a device that starts all services in one cgroup, and asks for what only cgroups can
/// have.
fn processes() -> Scenario {
    let mut scenario = scripted("processes", &[]);
    without_cache(&mut scenario);
    let media = "name    = \"media\"\n";
    let protected = DEVICE.replace(media, &format!("{media}protect = \"1M\"\n"));
    scenario.files.insert(CONFIG.into(), protected);
    scenario.counted = true;
    in_one_cgroup(scenario)
}
