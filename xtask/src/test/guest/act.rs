//! Every step beside the kill: reclaim, throttle, hooks, reboot, watchdog.

use super::{Case, PLAIN};
use crate::scenario::checks::says;
use crate::scenario::scripts::{TEST, early, passed, scripted, without_cache};
use crate::scenario::{CONFIG, DEVICE, idle};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::{Cgroup, Scenario};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "cache_is_given_back_in_order_and_nobody_goes",
        scenario: reclaim,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "what_grows_is_held_back_and_let_go",
        scenario: throttle,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "under_pressure_the_agent_waits_for_no_page",
        scenario: ready,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "commands_run_before_and_after_and_hold_up_no_kill",
        scenario: commands,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "a_device_that_stalls_for_ever_restarts_if_the_config_says_so",
        scenario: || Scenario {
            restarts: true,
            ..hopeless("2s")
        },
        check: |run| says(run, "rebooting: nothing was left to do"),
        ..PLAIN
    },
    Case {
        name: "a_device_that_stalls_for_ever_goes_on_if_the_config_says_nothing",
        scenario: || hopeless("0s"),
        check: |run| says(run, "critical confirmed, nothing left to do"),
        ..PLAIN
    },
    Case {
        name: "a_watchdog_restarts_a_device_that_stalls_for_ever",
        scenario: watchdog,
        check: watchdog_restarts,
        ..PLAIN
    },
];

/// There is always a wish for more memory to be available, and file cache may be given back for it.
fn reclaim() -> Scenario {
    let mut scenario = scripted("reclaim", &[]);
    let wish = "[level.strained]\n\
                confirm = { available_below = \"97%\" }\n\
                relief = { available_above = \"98%\" }\n";
    let gateway = "name    = \"gateway\"\n";
    let device = DEVICE.replace(gateway, &format!("{gateway}reclaim = \"never\"\n"));
    let group = |name, reclaim| {
        format!("[[group]]\nname = \"{name}\"\nreclaim = {reclaim}\ncgroups = [\"apps/{name}\"]\n")
    };
    let groups = [
        group("second", "300"),
        group("kept", "\"never\""),
        group("first", "900"),
        group("pressed", "\"never\""),
    ];
    scenario
        .files
        .insert(CONFIG.into(), format!("{wish}{device}{}", groups.concat()));
    scenario.disk_mb = 96;
    scenario.counted = true;
    scenario
}

/// Two configs that hold back what grows, for a short and for a long time.
fn throttle() -> Scenario {
    let mut scenario = scripted("throttle", &[]);
    without_cache(&mut scenario);
    for time in ["2s", "10min"] {
        scenario.files.insert(
            format!("/etc/lowtide/throttle-{time}.toml"),
            early(&["throttle"], &format!("throttle = \"{time}\"")),
        );
    }
    scenario
}

/// Configs that reclaim and then end the hog, each in another way. Stacks begin where they always do.
fn ready() -> Scenario {
    let mut scenario = scripted("ready", &[]);
    let sysctls = &mut scenario.sysctls;
    sysctls.insert("kernel/randomize_va_space".into(), "0".into());
    for engine in ["kfunc", "cgroupfs"] {
        for action in ["kill", "terminate"] {
            for unit in ["cgroup", "process"] {
                let config = early(&["reclaim", action], &format!("unit = \"{unit}\""));
                scenario.files.insert(
                    format!("/etc/lowtide/{engine}-{action}-{unit}.toml"),
                    format!("{config}\n[engine]\nkind = \"{engine}\"\n"),
                );
            }
        }
    }
    scenario.counted = true;
    scenario
}

/// Configs with commands before and after a kill: that tell what it is about, and that hang or are
/// missing.
fn commands() -> Scenario {
    let mut scenario = scripted("commands", &[]);
    without_cache(&mut scenario);
    let tell = "\"/bin/sh\", \"-c\", \"echo $LOWTIDE_WHEN $LOWTIDE_GROUP $LOWTIDE_CGROUP: $LOWTIDE_REASON >> /run/told\"";
    for (name, before, after) in [
        ("tell", tell, tell),
        (
            "hang",
            "\"/bin/busybox\", \"sleep\", \"3600\"",
            "\"/no/such\"",
        ),
    ] {
        let keys = format!("grace = \"2s\"\nbefore = [{before}]\nafter = [{after}]");
        // The service is started anew by the test, over and over.
        let limits = "[limits]\ncommand = \"1s\"\nrestarts = 0\n";
        scenario.files.insert(
            format!("/etc/lowtide/commands-{name}.toml"),
            format!("{limits}{}", early(&["terminate", "kill"], &keys)),
        );
    }
    scenario.counted = true;
    scenario
}

/// A device that stalls, where nothing may be killed.
fn hopeless(reboot_after: &str) -> Scenario {
    let mut scenario = idle();
    // The gateway's cache does not fit.
    scenario.cgroups.push(Cgroup {
        path: "apps/gateway".into(),
        attributes: [("memory.high".into(), "12M".into())].into(),
        ..Cgroup::default()
    });
    let config = format!(
        "[level.critical]\n\
         confirm = {{ available_below = \"99%\" }}\n\
         relief = {{ available_above = \"99.5%\" }}\n\
         actions = [\"kill\", \"reboot\"]\n\
         [limits]\nreboot_after = \"{reboot_after}\"\n\
         [everything_else]\nkill = \"never\"\n"
    );
    scenario.files.insert(CONFIG.into(), config);
    Scenario {
        limit_s: 30,
        ..scenario
    }
}

/// Configs with a watchdog: for a device at rest, for one that is not there, and for one on which memory
/// is always short and nothing may be killed.
fn watchdog() -> Scenario {
    let mut scenario = scripted("watchdog", &[]);
    without_cache(&mut scenario);
    for (name, device, below) in [
        ("calm", "/dev/watchdog", "1%"),
        ("missing", "/dev/none", "1%"),
        ("hopeless", "/dev/watchdog", "99%"),
    ] {
        let config = format!(
            "[level.critical]\n\
             confirm = {{ available_below = \"{below}\" }}\n\
             relief = {{ available_above = \"99.5%\" }}\n\
             actions = [\"kill\", \"watchdog\"]\n\
             [limits]\nreboot_after = \"2s\"\n\
             [watchdog]\ndevice = \"{device}\"\n\
             [everything_else]\nkill = \"never\"\n"
        );
        let path = format!("/etc/lowtide/{name}.toml");
        scenario.files.insert(path, config);
    }
    Scenario {
        restarts: true,
        watchdog: true,
        counted: true,
        ..scenario
    }
}

/// All that the script had to say before the device was restarted is good.
fn watchdog_restarts(run: &Run) -> Result<()> {
    let mut last = None;
    for (_, line) in run.lines(TEST) {
        ensure!(!line.starts_with("failed: "), "{line}");
        last = Some(line).filter(|l| l.starts_with("ok: ")).or(last);
    }
    ensure!(
        last.is_some_and(|line| line.contains("no more signs of life")),
        "the last thing that was good: {last:?}"
    );
    Ok(())
}
