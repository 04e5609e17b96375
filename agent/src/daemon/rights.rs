//! Which rights the work needs, what is lost without each of them, and that all others are given up: a
//! unit of systemd leaves the agent few, procd and sysvinit leave it all of root's.

use crate::config::Loaded;
use crate::tell::Log;
use lowtide_judge::Step;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
    set_capabilities, set_no_new_privs,
};
use std::io;

/// A capability, and what is lost without it.
struct Right {
    set: CapabilitySet,
    name: &'static str,
    lost: &'static str,
}

const fn right(set: CapabilitySet, name: &'static str, lost: &'static str) -> Right {
    Right { set, name, lost }
}

/// Where another part of the start finds out by itself, it says so itself: opening cgroups by id, raising
/// the priority, locking memory, loading BPF programs.
const WORK: [Right; 4] = [
    right(
        CapabilitySet::DAC_OVERRIDE,
        "DAC_OVERRIDE",
        "cgroup files and oom_score_adj that belong to other users stay as they are",
    ),
    right(
        CapabilitySet::KILL,
        "KILL",
        "processes of other users take no signal from the agent",
    ),
    right(
        CapabilitySet::SYS_PTRACE,
        "SYS_PTRACE",
        "the programs that other users run are not seen",
    ),
    right(
        CapabilitySet::SYS_RESOURCE,
        "SYS_RESOURCE",
        "triggers take windows in multiples of 2s only, and no oom_score_adj is lowered",
    ),
];
const BOOT: Right = right(
    CapabilitySet::SYS_BOOT,
    "SYS_BOOT",
    "the device is not rebooted",
);

/// What any config may need, also one that a reload brings: `CapabilityBoundingSet=` of the unit.
const KEPT: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_BOOT);

/// Gives up every right that no config needs, for this thread and all that it starts later: to be done
/// while there is no other. CAP_SYS_ADMIN stays where it takes that to turn the BPF JIT on.
///
/// The set that programs start with is left as it is: commands of the config have all of root's rights,
/// where [`forbid_more`] does not forbid it.
pub fn give_up_others(is_jit_off: bool) -> io::Result<()> {
    let found = capabilities(None)?;
    let mut kept = found.permitted & KEPT;
    if is_jit_off {
        kept |= found.permitted & CapabilitySet::SYS_ADMIN;
    }
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: found.effective & kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// No program that this thread and those that it starts later run has more rights than the agent has. Not
/// where the config has commands: one may start a service anew, which then had no more rights than that.
pub fn forbid_more(config: &Loaded) -> io::Result<()> {
    if config.hooks.is_empty() {
        set_no_new_privs(true)?;
    }
    Ok(())
}

/// Of this config.
fn needed(config: &Loaded) -> impl Iterator<Item = &'static Right> {
    let policy = &config.policy;
    let mut levels = policy.levels.iter();
    let reboots =
        policy.reboot_after_ms > 0 && levels.any(|level| level.actions.contains(&Step::Reboot));
    WORK.iter().chain(reboots.then_some(&BOOT))
}

/// Says what the config needs a right for that the agent has not.
pub fn tell_missing(config: &Loaded, log: &mut Log) {
    let Ok(found) = capabilities(None) else {
        return;
    };
    for right in needed(config) {
        if !found.effective.contains(right.set) {
            log.warning(format_args!("without CAP_{} {}", right.name, right.lost));
        }
    }
    if !config.hooks.is_empty() && no_new_privs().unwrap_or(false) {
        log.warning(format_args!(
            "commands have no more rights than the agent, until it is started anew"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_the_unit_leaves() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../pkg/lowtide.service");
        let unit = std::fs::read_to_string(unit).expect("the unit");
        let lines = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut named: Vec<_> = lines.flat_map(str::split_ascii_whitespace).collect();
        let mut kept: Vec<_> = KEPT
            .iter_names()
            .map(|(name, _)| format!("CAP_{name}"))
            .collect();
        named.sort_unstable();
        kept.sort_unstable();
        assert_eq!(kept, named);
    }

    #[test]
    fn a_thread_that_gave_up_its_rights_has_no_others() {
        let left = std::thread::spawn(|| {
            give_up_others(false).expect("they are its own");
            capabilities(None).expect("of its own")
        });
        let left = left.join().expect("it ends");
        assert!((left.permitted - KEPT).is_empty());
        assert_eq!(left.effective, left.permitted);
    }

    fn reboots(config: &str) -> bool {
        let config = crate::config::parse("t", config).expect("a config");
        needed(&config).any(|right| right.set == CapabilitySet::SYS_BOOT)
    }

    #[test]
    fn the_right_to_reboot_is_missed_by_a_config_that_asks_for_it() {
        assert!(!reboots(""));
        assert!(reboots(
            "[level.critical]\nactions = [\"kill\", \"reboot\"]\n[limits]\nreboot_after = \"10s\"\n"
        ));
    }
}
