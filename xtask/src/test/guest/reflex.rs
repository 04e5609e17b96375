//! Where the kernel is faster than the agent: the reflex, and behind it the kernel's own OOM killer, have
//! to choose as the config says.

use super::{Case, PLAIN};
use crate::scenario::checks::{
    kernel_kills, live, never_says, no_kernel_kill, only_the_hog_goes, says,
};
use crate::scenario::scripts::{TEST, passed, scripted, without_cache};
use crate::scenario::variants::{in_one_cgroup, with_more_config};
use crate::scenario::{CONFIG, DEVICE, GATEWAY, HOG, HOG_CGROUP, LIFELINE, SENSOR, fast_hog, load};
use crate::vm::GUEST;
use anyhow::ensure;
use lowtide_guest::{Scenario, Service};

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
    Case {
        name: "where_the_agent_is_stopped_the_reflex_takes_the_victim",
        scenario: || without_answer("", STOP, &["hog", "--rate", "200M"]),
        check: |run| {
            says(run, "the reflex killed /apps/media (group media, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "without_a_reflex_the_kernel_kills_where_the_agent_is_stopped",
        scenario: || without_answer(OFF, STOP, &["hog", "--rate", "200M"]),
        check: |run| {
            never_says(run, "the reflex")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_reflex_ends_a_fork_storm",
        scenario: || without_answer(ON, STOP, &["forkstorm", "--rate", "50", "--size", "8M"]),
        check: |run| {
            says(run, "the reflex killed /apps/media (group media, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "while_the_agent_answers_the_reflex_does_nothing",
        scenario: || Scenario {
            counted: true,
            ..with_hog(ON, &["hog", "--rate", "200M"])
        },
        check: |run| {
            never_says(run, "the reflex killed")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_reflex_that_survives_takes_the_victim_of_a_dead_agent",
        scenario: || without_answer(SURVIVES, KILL, &["hog", "--rate", "200M"]),
        check: |run| {
            let told = run
                .lines(STOPPER)
                .any(|(_, line)| line.contains("the reflex killed /apps/media (group media, "));
            ensure!(told, "the next agent does not tell of it");
            let mut lines = run.lines(STOPPER);
            ensure!(
                lines.any(|(_, line)| line == "pins after the end: 0"),
                "something stays pinned"
            );
            live(run, &[SENSOR, GATEWAY, LIFELINE])?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_reflex_that_does_not_survive_ends_with_the_agent",
        scenario: || without_answer("", KILL, &["hog", "--rate", "200M"]),
        check: kernel_kills,
        ..PLAIN
    },
];

const OFF: &str = "[reflex]\nkill = \"off\"\n";
const ON: &str = "[reflex]\nkill = \"on\"\n";
const SURVIVES: &str = "[reflex]\nsurvive = true\n";

/// The service that sees to it that the agent does not answer.
const STOPPER: &str = "stopper";
/// The agent goes on after a while.
const STOP: &str = "kill -STOP $(pidof lowtide); echo stopped; sleep 5; \
    kill -CONT $(pidof lowtide); sleep 1";
/// Another agent comes after a while, and is stopped in order.
const KILL: &str = "kill -KILL $(pidof lowtide); echo killed; sleep 5; \
    lowtide run --config /etc/lowtide/config.toml & sleep 3; kill $!; wait $!; \
    echo pins after the end: $(ls /sys/fs/bpf/lowtide 2>/dev/null | wc -l)";

/// The device with a load that grows without end in place of the hog.
fn with_hog(config: &str, arguments: &[&str]) -> Scenario {
    let mut scenario = with_more_config(fast_hog(), config);
    for service in &mut scenario.services {
        if service.name == HOG {
            service.command = load(HOG, HOG_CGROUP, arguments).command;
        }
    }
    scenario
}

/// The same, and a script has the agent not answer before the load begins.
fn without_answer(config: &str, script: &str, arguments: &[&str]) -> Scenario {
    let mut scenario = with_hog(config, arguments);
    for service in &mut scenario.services {
        if service.name == HOG {
            service.after = Some(STOPPER.into());
        }
        if service.name == "lowtide" {
            let run = format!(
                "mount -t bpf none /sys/fs/bpf; exec {}",
                service.command.join(" ")
            );
            service.command = ["/bin/sh", "-c", &run].map(String::from).to_vec();
        }
    }
    scenario.services.push(Service {
        name: STOPPER.into(),
        command: ["/bin/sh", "-c", script].map(String::from).to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..Service::default()
    });
    Scenario {
        until: Some(STOPPER.into()),
        counted: true,
        ..scenario
    }
}

/// What is ranked first is many small processes; what grows when the script says so is the sensor.
fn kernel_oom(arguments: &[&str]) -> Scenario {
    let mut scenario = scripted("oom", arguments);
    scenario
        .files
        .entry(CONFIG.into())
        .or_default()
        .insert_str(0, OFF);
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
