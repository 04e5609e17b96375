//! Which cgroups and processes a group means, and what the agent sets on them.

use super::{Case, PLAIN};
use crate::scenario::scripts::{TEST, passed, scripted, without_cache};
use crate::scenario::{CONFIG, DEVICE};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::Scenario;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "protection_holds_and_goes_with_the_agent",
        scenario: protect,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_without_pressure",
        scenario: births,
        check: born_in_peace,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_on_6_1",
        kernel: Some("6.1"),
        scenario: births,
        check: born_in_peace,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_what_root_called_so_and_a_process_shields_itself",
        scenario: || names("kfunc"),
        check: shown_escaped,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_what_root_called_so_with_the_cgroupfs_engine",
        scenario: || names("cgroupfs"),
        check: shown_escaped,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_root_s_process_with_the_procfs_engine",
        scenario: names_of_processes,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "cgroups_that_are_no_memcgs_count_for_the_one_above",
        scenario: uncounted,
        check: passed,
        ..PLAIN
    },
];

/// The gateway's cache is protected in the config of the system, and not in another.
fn protect() -> Scenario {
    let mut scenario = scripted("protect", &[]);
    let gateway = "name    = \"gateway\"\n";
    let protected = DEVICE.replace(gateway, &format!("{gateway}protect = \"16M\"\n"));
    scenario.files.extend([
        (CONFIG.into(), protected),
        ("/etc/lowtide/unprotected.toml".into(), DEVICE.into()),
    ]);
    scenario
}

/// The config has a group for a cgroup that is not there yet, and there is plenty of memory.
fn births() -> Scenario {
    let mut scenario = scripted("births", &[]);
    without_cache(&mut scenario);
    let late =
        "[[group]]\nname = \"late\"\nkill = 100\nprotect = \"4M\"\ncgroups = [\"apps/late\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{DEVICE}{late}"));
    scenario.counted = true;
    scenario
}

/// The script passed, and nothing had to wake the agent for that.
fn born_in_peace(run: &Run) -> Result<()> {
    passed(run)?;
    let mut lines = run.lines(TEST);
    let fired = lines.find(|(_, line)| line.contains("no level's condition holds"));
    ensure!(fired.is_none(), "it woke");
    Ok(())
}

/// Kills as soon as 25 % are left.
const EARLY: &str = "\
    [level.critical]\n\
    confirm = { available_below = \"25%\" }\n\
    relief = { available_above = \"32%\" }\n\
    actions = [\"kill\"]\n";

/// Groups that name processes, one by bytes, and cgroups that root makes and a user could make as well.
fn names(engine: &str) -> Scenario {
    let mut scenario = scripted("names", &[]);
    without_cache(&mut scenario);
    let groups = "[[group]]\nname = \"services\"\nkill = \"never\"\n\
                  processes = [\"mysqld\", \"asterisk\", \"ip…*\"]\n\
                  [[group]]\nname = \"precious\"\nkill = \"never\"\nprotect = \"4M\"\n\
                  cgroups = [\"user/deleg/precious*\", \"user/kept/precious*\"]\n\
                  [[group]]\nname = \"brokers\"\nkill = \"never\"\ncontainers = [\"brok*\"]\n\
                  [[group]]\nname = \"web\"\nkill = 300\ncontainers = [\"web\"]\n\
                  [[group]]\nname = \"device\"\nkill = \"never\"\ncgroups = [\"lifeline/**\"]\n\
                  [[group]]\nname = \"sensor\"\nkill = 100\ncgroups = [\"apps/sensor\"]\n";
    scenario.files.insert(
        CONFIG.into(),
        format!("{EARLY}{groups}[engine]\nkind = \"{engine}\"\n"),
    );
    scenario.counted = true;
    scenario
}

/// The script passed, and what was killed had bytes in its name that were spelled out in the log.
fn shown_escaped(run: &Run) -> Result<()> {
    passed(run)?;
    let mut lines = run.lines(TEST);
    let raw = lines.find(|(_, line)| line.contains(|c: char| c.is_control() && c != '\t'));
    ensure!(raw.is_none(), "control characters in {raw:?}");
    let mut lines = run.lines(TEST);
    ensure!(
        lines.any(|(_, line)| line.contains(r"precious\xff\x1b[2J\x0d") && line.contains("kill")),
        "no line of the log has the name of the victim"
    );
    Ok(())
}

/// Processes named alike are root's and a user's, or those of the user whom a pattern names.
fn names_of_processes() -> Scenario {
    let mut scenario = scripted("names_of_processes", &[]);
    without_cache(&mut scenario);
    let groups = "[[group]]\nname = \"bytes\"\nkill = \"never\"\nprocesses = [\"ip…*\"]\n\
                  [[group]]\nname = \"kept\"\nkill = \"never\"\n\
                  processes = [{ name = \"kept\", user = 33 }]\n\
                  [[group]]\nname = \"served\"\nkill = 100\nprocesses = [\"served\"]\n\
                  [engine]\nkind = \"procfs\"\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{EARLY}{groups}"));
    scenario.counted = true;
    scenario
}

/// Some cgroups have the memory controller off in those below them.
fn uncounted() -> Scenario {
    let mut scenario = scripted("uncounted", &[]);
    let groups = "[[group]]\nname = \"shop\"\nkill = \"never\"\ncgroups = [\"apps/shop/inner\"]\n\
                  [[group]]\nname = \"stall\"\nkill = 900\ncgroups = [\"apps/stall/inner\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{DEVICE}{groups}"));
    scenario
}
