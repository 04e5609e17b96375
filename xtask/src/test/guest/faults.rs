//! What must not end the agent or make it mute.

use super::{Case, PLAIN};
use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::CONFIG;
use crate::scenario::checks::{only_the_hog_goes, says};
use crate::scenario::fast_hog;
use crate::scenario::scripts::{TEST, early, passed, scripted, without_cache};
use crate::scenario::variants::{with_load, with_more_config};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::{Report, Scenario};
use std::path::PathBuf;

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
    Case {
        name: "each_system_call_of_an_episode_fails_in_turn",
        scenario: || in_turn("EIO ENOMEM", "2", ""),
        files: strace,
        check: nothing_is_forgotten,
        ..PLAIN
    },
    // Hundreds of cases each, in minutes.
    Case {
        name: "each_of_several_system_calls_fails_in_turn_by_each_error",
        scenario: || in_turn(ERRORS, "3", ""),
        files: strace,
        check: nothing_is_forgotten,
        every_run: false,
        ..PLAIN
    },
    Case {
        name: "each_of_several_system_calls_fails_in_turn_with_the_cgroupfs_engine",
        scenario: || in_turn(ERRORS, "3", CGROUPFS),
        files: strace,
        check: nothing_is_forgotten,
        every_run: false,
        ..PLAIN
    },
];

/// What a kernel that is short, busy, hardened or wrong says.
const ERRORS: &str = "EIO ENOMEM EINTR EAGAIN ENOENT EPERM ESRCH";

fn nothing_is_forgotten(run: &Run) -> Result<()> {
    passed(run)?;
    let forgotten = run
        .lines(TEST)
        .find(|(_, line)| line.contains("kill /apps/media (") && !line.contains("(group media,"));
    ensure!(forgotten.is_none(), "its rule was lost: {forgotten:?}");
    Ok(())
}

/// The device with its memory used up over and over, while a call of the agent's fails with each of `errors`
/// in turn, the first `most` of each name; `more` is of its config.
fn in_turn(errors: &str, most: &str, more: &str) -> Scenario {
    let mut scenario = scripted("turn", &[errors, most]);
    without_cache(&mut scenario);
    let config = format!("{more}{}", early(&["kill"], ""));
    scenario.files.insert(CONFIG.into(), config);
    scenario.counted = true;
    scenario.limit_s = 900;
    scenario
}

/// Debian's strace, and what it is linked with.
pub fn strace() -> Result<Vec<(PathBuf, String)>> {
    let dir = dirs::cache("strace")?.join(TRIXIE);
    dirs::make_once(&dir, |into| {
        let packages = ["libc6", "libgcc-s1", "liblzma5", "libunwind8", "strace"];
        Apt::open(TRIXIE, Arch::X86_64.debian())?.unpack(&packages, into)
    })?;
    let place = |part| (dir.join("usr").join(part), format!("/{part}"));
    Ok(["bin/strace", "lib/x86_64-linux-gnu", "lib64"]
        .map(place)
        .into())
}

const TRIXIE: &str = "trixie";

const CGROUPFS: &str = "[engine]\nkind = \"cgroupfs\"\n";
