//! Memory that is short within a limit of its own, while there is plenty outside.

use super::{Case, PLAIN};
use crate::scenario::checks::{live, never_says, only_the_hog_goes, oom_kills, says};
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
