//! Configs that are wrong, and configs that are exchanged while the agent runs.

use super::{Case, PLAIN};
use crate::scenario::scripts::{passed, scripted};
use crate::scenario::{GATEWAY, HOG_CGROUP, with_config};
use anyhow::{Context as _, ensure};
use lowtide_guest::Scenario;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "a_bad_config_is_refused_with_its_place",
        scenario: || with_config("[wake]\ntrigger = \"lots\"\n"),
        check: |run| {
            let (_, code, _) = run.exited("lowtide").context("the agent goes on")?;
            ensure!(code.is_some_and(|c| c != 0), "the agent ends with {code:?}");
            ensure!(
                run.lines("lowtide")
                    .any(|(_, line)| line.contains("config.toml:2")),
                "no line names file and line"
            );
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "a_config_is_checked_and_exchanged_while_the_agent_runs",
        scenario: reload,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "a_reload_is_judged_at_once_where_no_alarm_comes",
        scenario: reload_at_rest,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "no_signal_is_lost_whenever_it_comes",
        scenario: signals,
        check: passed,
        ..PLAIN
    },
];

/// Signals at all times: two configs that can be told apart by what the kernel shows.
fn signals() -> Scenario {
    let mut scenario = scripted("signals", &[]);
    for (name, size) in [("one", "1M"), ("two", "2M")] {
        let config = format!(
            "[[group]]\nname = \"media\"\nkill = 100\ncgroups = [\"{HOG_CGROUP}\"]\nprotect = \"{size}\"\n"
        );
        scenario
            .files
            .insert(format!("/etc/lowtide/{name}.toml"), config);
    }
    scenario
}

/// Nothing is short by the first config, all the time by the second; nothing moves, and nothing stalls.
fn reload_at_rest() -> Scenario {
    let mut scenario = scripted("reload_at_rest", &[]);
    scenario.services.retain(|service| service.name != GATEWAY);
    scenario.services.iter_mut().for_each(|service| {
        if service.after.as_deref() == Some(GATEWAY) {
            service.after = None;
        }
    });
    let config = |level: &str| {
        format!(
            "{level}[everything_else]\nkill = \"never\"\n\
             [[group]]\nname = \"media\"\ncgroups = [\"{HOG_CGROUP}\"]\nkill = 800\n"
        )
    };
    let short = "[level.critical]\nconfirm = { available_below = \"99%\" }\n\
                 relief = { available_above = \"99.5%\" }\nactions = [\"kill\"]\n";
    scenario.files.extend([
        ("/etc/lowtide/nothing.toml".into(), config("")),
        ("/etc/lowtide/media.toml".into(), config(short)),
        (
            "/etc/lowtide/lifeline.toml".into(),
            "[[group]]\nname = \"lifeline\"\ncgroups = [\"only/this\"]\n".into(),
        ),
    ]);
    scenario
}

/// Configs that are exchanged while the agent runs: what goes is the hog, or nothing, and one that is
/// wrong; and one to check that is right but means nothing on this device.
fn reload() -> Scenario {
    let mut scenario = scripted("reload", &[]);
    let config = |hog: &str| {
        format!(
            "[level.critical]\n\
             confirm = {{ available_below = \"99%\" }}\n\
             relief = {{ available_above = \"99.5%\" }}\n\
             actions = [\"kill\"]\n\
             [everything_else]\nkill = \"never\"\n\
             [[group]]\nname = \"media\"\ncgroups = [\"{HOG_CGROUP}\"]\nkill = {hog}\n"
        )
    };
    scenario.files.extend([
        (
            "/etc/lowtide/nothing.toml".into(),
            config("\"never\"\nprotect = \"1M\""),
        ),
        ("/etc/lowtide/media.toml".into(), config("800")),
        ("/etc/lowtide/wrong.toml".into(), config("\"nevr\"")),
        (
            "/etc/lowtide/runs.toml".into(),
            config("800\nafter = [\"/bin/busybox\", \"touch\", \"/run/has-run\"]"),
        ),
        (
            "/etc/lowtide/idle.toml".into(),
            "[[group]]\nname = \"ghost\"\ncgroups = [\"no/such\"]\n\
             [[group]]\nname = \"media\"\ncgroups = [\"apps/*\"]\ntrigger = \"some 20ms/500ms\"\n"
                .into(),
        ),
    ]);
    scenario
}
