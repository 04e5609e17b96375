//! Memory that is short within a limit of its own, while there is plenty outside.

use super::{Case, PLAIN};
use crate::scenario::checks::{live, never_says, only_the_hog_goes, oom_kills, says};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::with_more_config;
use crate::scenario::{CONFIG, DEVICE, GATEWAY, HOG, LIFELINE, SENSOR, fast_hog, load};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::{Cgroup, Scenario, Zram};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "pressure_inside_a_limit_is_solved_inside",
        scenario: || boxed(OWN_TRIGGER),
        check: |run| {
            says(run, "in /box: critical")?;
            solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "pressure_inside_a_limit_is_solved_inside_on_6_12",
        kernel: Some("6.12"),
        scenario: || boxed(OWN_TRIGGER),
        check: |run| {
            says(run, "cgroupfs engine")?;
            solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "who_thrashes_in_a_limit_is_told_from_a_system_that_is_short",
        scenario: || thrashing_box(", limited_below = \"50%\""),
        check: |run| {
            says(run, "in /box: critical")?;
            solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "stalls_alone_do_not_tell_a_limit_from_the_system",
        scenario: || thrashing_box(""),
        check: taken_for_the_system,
        ..PLAIN
    },
    Case {
        name: "where_nobody_may_go_inside_a_limit_the_kernel_decides_in_the_end",
        scenario: || hopeless_box(OWN_TRIGGER),
        check: |run| {
            says(run, "its limit is the kernel's to keep")?;
            ensure!(oom_kills(run) > 0, "the kernel kills nothing");
            ensure!(run.exited(SENSOR).is_none(), "what is outside goes");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "without_a_trigger_inside_a_limit_the_kernel_kills",
        scenario: || boxed(""),
        check: left_to_the_kernel,
        ..PLAIN
    },
    Case {
        name: "of_equals_inside_a_limit_the_largest_goes_but_not_one_with_a_score_of_never",
        scenario: || as_upstream(OWN_TRIGGER),
        check: |run| {
            says(run, "in /apps: critical")?;
            ensure!(run.exited("thirty").is_some(), "the 30 MB are still there");
            live(run, &["ten", "forty", "twenty", LIFELINE, "lowtide"])?;
            ensure!(oom_kills(run) == 0, "the kernel kills");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "of_equals_inside_a_limit_the_kernel_takes_others_as_well",
        scenario: || as_upstream(""),
        check: |run| {
            ensure!(oom_kills(run) > 0, "the box was never short");
            ensure!(
                run.exited("ten").is_some(),
                "what has the highest score is still there"
            );
            live(run, &["forty", LIFELINE, "lowtide"])
        },
        ..PLAIN
    },
];

const OWN_TRIGGER: &str = "trigger = \"some 20ms/500ms\"";

/// Worth less than all others, and not in the box.
const SPARE: &str = "spare";

/// The gateway and the hog share a box with a limit of its own, and there is plenty outside, where
/// the one stands that would go first. `keys` are more for the box's group.
fn boxed(keys: &str) -> Scenario {
    let mut scenario = fast_hog();
    scenario.counted = true;
    for service in &mut scenario.services {
        if [GATEWAY, HOG].contains(&service.name.as_str()) {
            service.cgroup = format!("box/{}", service.name);
        }
    }
    scenario
        .services
        .push(load(SPARE, SPARE, &["sleeper", "--size", "20M"]));
    scenario.cgroups.push(Cgroup {
        path: "box".into(),
        attributes: [("memory.max".into(), "64M".into())].into(),
        ..Cgroup::default()
    });
    let inside = DEVICE
        .replace("apps/gateway", "box/gateway")
        .replace("apps/media", "box/media");
    let config = format!(
        "{inside}\n\
         [[group]]\nname = \"spare\"\nkill = 900\ncgroups = [\"spare\"]\n\
         [[group]]\nname = \"box\"\ncgroups = [\"box\"]\n{keys}\n"
    );
    scenario.files.insert(CONFIG.into(), config);
    scenario
}

/// The tree of the kernel's own test of BPF OOM handlers (tools/testing/selftests/bpf, test_oom), all of one
/// priority: a parent with a limit, in it 10 MB with the highest score, 40 MB with the lowest, and 30 and
/// 20 MB. What comes last is more than fits.
fn as_upstream(keys: &str) -> Scenario {
    let leaves = [
        ("forty", "40M", "-1000"),
        ("thirty", "30M", "0"),
        ("ten", "10M", "1000"),
        ("twenty", "20M", "0"),
    ];
    let mut tree = Tree::new().group("box", Kill::At(500), "apps", keys);
    for (i, (name, size, score)) in (1..).zip(leaves) {
        let run = ["as", "--oom-score-adj", score, "sleeper", "--size", size];
        tree = tree.runs(name, Kill::At(500), &run);
        tree = tree.last(|service| service.start_ms = i * 500);
    }
    let mut scenario = tree.scenario();
    scenario.cgroups.push(Cgroup {
        path: "apps".into(),
        attributes: [("memory.max".into(), "92M".into())].into(),
        ..Cgroup::default()
    });
    scenario.limit_s = 8;
    scenario
}

/// A hog thrashes in the limit of its box while there is plenty outside. All stalls count as the
/// system's own too; `more` of the system's condition can tell.
fn thrashing_box(more: &str) -> Scenario {
    let mut scenario = boxed("trigger = \"some 20ms/500ms\"");
    let hog = ["hog", "--hot", "--rate", "40M", "--cap", "100M"];
    for service in &mut scenario.services {
        if service.name == HOG {
            service.command.truncate(1);
            service.command.extend(hog.map(String::from));
        }
    }
    scenario.zram = Some(Zram {
        size_mb: 128,
        algorithm: None,
    });
    let stalled = format!("[level.critical]\nconfirm = {{ some_above = \"10%\"{more} }}\n");
    with_more_config(scenario, &stalled)
}

/// Nothing may be killed, in the box or outside.
fn hopeless_box(trigger: &str) -> Scenario {
    let mut scenario = boxed(trigger);
    for config in scenario.files.values_mut() {
        for kill in [100, 200, 800] {
            *config = config.replace(&format!("kill    = {kill}\n"), "kill    = \"never\"\n");
        }
    }
    scenario.counted = true;
    let rest = "[limits]\nexit = \"1s\"\n[everything_else]\nkill = \"never\"\n";
    with_more_config(scenario, rest)
}

/// Stalls in a box are taken for the system's: what is outside goes.
fn taken_for_the_system(run: &Run) -> Result<()> {
    ensure!(run.exited(SPARE).is_some(), "nothing outside goes");
    Ok(())
}

/// What is short in the box is solved in the box.
fn solved_inside(run: &Run) -> Result<()> {
    ensure!(run.exited(SPARE).is_none(), "what is outside goes");
    only_the_hog_goes(run)
}

/// Without a trigger of its own the box is the kernel's to solve: the agent does nothing.
fn left_to_the_kernel(run: &Run) -> Result<()> {
    ensure!(oom_kills(run) > 0, "the box was never short");
    // The kernel may take the gateway as well, while the hog is still exiting.
    live(run, &[SPARE, SENSOR, LIFELINE, "lowtide"])?;
    for action in ["reclaim", "throttle", "terminate", "kill"] {
        never_says(run, &format!("{action} /"))?;
    }
    Ok(())
}
