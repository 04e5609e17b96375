//! `cargo xtask faults`: what a device may lack, refuse or do to the agent, one fault at a time, and what
//! must come of it. What counts is what the guest's kernel says, and what the agent does.

mod agent;
mod rights;
mod system;
mod victims;

use crate::build::programs::{self, Profile, Programs};
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::checks::{only_the_hog_goes, says};
use crate::scenario::variants::with_load;
use crate::scenario::{CONFIG, HOG, fast_hog, load};
use crate::test::harness::{Ended, Test, Tries, carry_out, verdict};
use crate::vm::kernel::{self, Kernel};
use crate::vm::{GUEST, Guest, Run, qemu};
use anyhow::{Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Scenario, Service};
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

/// One fault and what must come of it.
struct Fault {
    name: &'static str,
    /// What is wrong, in the words of docs/faults.md.
    injected: &'static str,
    /// What must come of it, in the same words.
    wanted: &'static str,
    kernel: Option<&'static str>,
    memory_mb: u32,
    append: &'static str,
    /// Part of `cargo xtask test`.
    every_run: bool,
    scenario: fn() -> Scenario,
    /// Words of the agent.
    says: &'static [&'static str],
    check: fn(&Run) -> Result<()>,
}

const PLAIN: Fault = Fault {
    name: "",
    injected: "",
    wanted: "the configured victim goes, nothing else",
    kernel: None,
    memory_mb: 256,
    append: "",
    every_run: false,
    scenario: fast_hog,
    says: &[],
    check: only_the_hog_goes,
};

/// Each by what it is done to.
const FAULTS: [&[Fault]; 4] = [
    rights::FAULTS,
    system::FAULTS,
    agent::FAULTS,
    victims::FAULTS,
];

const CGROUPFS: &str = "[engine]\nkind = \"cgroupfs\"\n";
const SECOND: &str = "second";
const CROWD: &str = "crowd";

/// run the agent with one fault at a time and write docs/faults.md
#[derive(FromArgs)]
#[argh(subcommand, name = "faults")]
pub struct Faults {
    /// only faults whose name contains this; writes nothing
    #[argh(positional)]
    filter: Option<String>,
}

impl Faults {
    pub fn run(self) -> Result<ExitCode> {
        let wanted = |name: &str| self.filter.as_ref().is_none_or(|f| name.contains(f));
        let faults: Vec<_> = FAULTS
            .into_iter()
            .flatten()
            .filter(|f| wanted(f.name))
            .collect();
        ensure!(!faults.is_empty(), "no such fault");
        let tests = tests(&faults)?;
        let ended = carry_out(&tests, Tries::Once)?;
        if self.filter.is_none() {
            let path = dirs::workspace().join("docs/faults.md");
            fs::write(&path, page(&faults, &ended))?;
        }
        Ok(if ended.iter().all(|ended| ended.is_ok()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The part for every test run, of that what a filter leaves.
pub fn for_every_run(filter: Option<&str>) -> Result<Vec<Test>> {
    let wanted = |fault: &&Fault| {
        fault.every_run && filter.is_none_or(|f| format!("fault_{}", fault.name).contains(f))
    };
    tests(
        &FAULTS
            .into_iter()
            .flatten()
            .filter(wanted)
            .collect::<Vec<_>>(),
    )
}

fn tests(faults: &[&Fault]) -> Result<Vec<Test>> {
    if faults.is_empty() {
        return Ok(Vec::new());
    }
    let arch = Arch::X86_64;
    qemu::install(arch)?;
    let programs = programs::build(arch, Profile::Guest)?;
    let test = |fault: &&Fault| Ok(fault.test(kernel::find(arch, fault.kernel)?, &programs));
    faults.iter().map(test).collect()
}

impl Fault {
    fn test(&self, kernel: Kernel, programs: &Programs) -> Test {
        Test {
            name: format!("fault_{}", self.name),
            guest: Guest {
                kernel,
                programs: programs.clone(),
                memory_mb: self.memory_mb,
                scenario: (self.scenario)(),
                files: Vec::new(),
                append: self.append.to_owned(),
            },
            check: {
                let (words, check) = (self.says, self.check);
                Box::new(move |run| {
                    words.iter().try_for_each(|words| says(run, words))?;
                    check(run)
                })
            },
        }
    }
}

fn page(faults: &[&Fault], ended: &[Ended]) -> String {
    let mut page = String::from(
        "# Faults\n\n\
         What a device may lack, refuse or do to the agent, one at a time, while a load takes 20 MB a \
         second; what has to come of it, and whether it did. Made by `cargo xtask faults`, which runs each \
         row in a guest of its own; x86_64, the newest kernel unless the row says another.\n\n\
         | fault | what must come of it | |\n|---|---|---|\n",
    );
    for (fault, ended) in faults.iter().zip(ended) {
        let kernel = fault.kernel.map(|k| format!(" (Linux {k})"));
        let _ = writeln!(
            page,
            "| {}{} | {} | {} |",
            fault.injected,
            kernel.unwrap_or_default(),
            fault.wanted,
            verdict(ended.is_ok())
        );
    }
    page
}

/// The agent behind something that runs it.
fn behind(mut scenario: Scenario, first: &[&str]) -> Scenario {
    for service in &mut scenario.services {
        if service.name == "lowtide" {
            let first = first.iter().map(|word| (*word).to_owned());
            service.command.splice(0..0, first);
        }
    }
    scenario
}

fn instead(mut scenario: Scenario, command: &[&str]) -> Scenario {
    for service in &mut scenario.services {
        if service.name == "lowtide" {
            service.command = command.iter().map(|word| (*word).to_owned()).collect();
        }
    }
    scenario
}

/// The agent as `faulty` runs it with these options.
fn faulty(scenario: Scenario, options: &[&str]) -> Scenario {
    let first: Vec<_> = [GUEST, "faulty"]
        .into_iter()
        .chain(options.iter().copied())
        .collect();
    behind(scenario, &first)
}

fn refused(scenario: Scenario, calls: &[&str]) -> Scenario {
    let options: Vec<_> = calls.iter().flat_map(|call| ["--refuse", call]).collect();
    faulty(scenario, &options)
}

fn without(capabilities: &[&str]) -> Scenario {
    let options: Vec<_> = capabilities
        .iter()
        .flat_map(|capability| ["--without", capability])
        .collect();
    faulty(fast_hog(), &options)
}

/// The agent after a command of the shell, whatever that comes to.
fn shell(scenario: Scenario, command: &str) -> Scenario {
    let command = format!("{{ {command}; }} > /dev/null 2>&1; exec \"$@\"");
    behind(scenario, &["/bin/sh", "-c", &command, "sh"])
}

/// The same in a mount namespace of its own.
fn in_mounts_of_its_own(scenario: Scenario, command: &str) -> Scenario {
    behind(shell(scenario, command), &["/bin/busybox", "unshare", "-m"])
}

/// With a command of the shell beside the agent.
fn beside(mut scenario: Scenario, command: &str) -> Scenario {
    scenario.services.push(beside_alone(command));
    scenario
}

/// A command of the shell that starts when the agent has said its first line.
fn beside_alone(command: &str) -> Service {
    Service {
        after: Some("lowtide".into()),
        command: ["/bin/sh", "-c", command].map(String::from).to_vec(),
        ..load("beside", "beside", &[])
    }
}

fn deep(scenario: Scenario) -> Scenario {
    let many = ["many", "--count", "1500", "--depth", "1500"];
    let mut scenario = with_load(scenario, "many", &many);
    for service in &mut scenario.services {
        match service.name.as_str() {
            "many" => service.after = None,
            "lowtide" => service.after = Some("many".into()),
            HOG => service.after = Some("lowtide".into()),
            _ => {}
        }
    }
    Scenario {
        limit_s: 180,
        ..scenario
    }
}

fn add_group(scenario: &mut Scenario, group: &str) {
    scenario
        .files
        .entry(CONFIG.into())
        .or_default()
        .push_str(group);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_can_be_made_and_has_a_name_and_words_of_its_own() {
        for fault in FAULTS.into_iter().flatten() {
            assert!(!(fault.scenario)().services.is_empty(), "{}", fault.name);
            assert!(
                !fault.injected.is_empty() && !fault.wanted.is_empty(),
                "{}",
                fault.name
            );
        }
        let names: BTreeSet<_> = FAULTS
            .into_iter()
            .flatten()
            .map(|fault| fault.name)
            .collect();
        assert_eq!(names.len(), FAULTS.into_iter().flatten().count());
    }
}
