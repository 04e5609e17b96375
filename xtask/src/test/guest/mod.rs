//! Tests of the agent on real kernels under real pressure. What counts is what the guest's kernel
//! says: its log, its counters, its cgroup files, and how processes ended.
//!
//! To add a case: write it into `CASES` of the file of its topic, with what only that topic needs below
//! it. A new topic is a file, and a line in [`TOPICS`].

mod act;
mod config;
mod core;
mod engine;
mod faults;
mod firmware;
mod limits;
mod loads;
mod names;
mod order;
mod reflex;
mod situations;
mod tell;
mod wake;
mod watch;

use super::harness::{Busy, Tally, Test, Tries, carry_out};
use super::matrix;
use crate::build::programs::{self, Profile, Programs};
use crate::host::toolchain::Arch;
use crate::scenario;
use crate::scenario::checks::{kernel_kills, only_the_hog_goes, says};
use crate::vm::kernel::{self, Kernel};
use crate::vm::{COUNTED_DISK, Guest, Run, qemu};
use anyhow::Result;
use lowtide_guest::Scenario;
use std::path::PathBuf;

const TOPICS: &[(&str, &[Case])] = &[
    ("act", act::CASES),
    ("config", config::CASES),
    ("core", core::CASES),
    ("engine", engine::CASES),
    ("faults", faults::CASES),
    ("firmware", firmware::CASES),
    ("limits", limits::CASES),
    ("loads", loads::CASES),
    ("names", names::CASES),
    ("order", order::CASES),
    ("reflex", reflex::CASES),
    ("situations", situations::CASES),
    ("tell", tell::CASES),
    ("wake", wake::CASES),
    ("watch", watch::CASES),
];

/// All cases, each with its full name, `topic::name`.
fn cases() -> impl Iterator<Item = (String, &'static Case)> {
    TOPICS.iter().flat_map(|(topic, cases)| {
        let named = move |case: &'static Case| (format!("{topic}::{}", case.name), case);
        cases.iter().map(named)
    })
}

/// A guest and what must be true of its run.
struct Case {
    name: &'static str,
    /// Also without a filter: the others are for who changes what they show.
    every_run: bool,
    /// Kernel version; the newest 7.x if absent.
    kernel: Option<&'static str>,
    memory_mb: u32,
    /// More for the kernel's command line.
    append: &'static str,
    scenario: fn() -> Scenario,
    /// More files and directories from the host, and where they go.
    files: fn() -> Result<Vec<(PathBuf, String)>>,
    check: fn(&Run) -> Result<()>,
}

/// A device of 256 MB with the newest kernel.
const PLAIN: Case = Case {
    name: "",
    every_run: true,
    kernel: None,
    memory_mb: 256,
    append: "",
    scenario: scenario::fast_hog,
    files: || Ok(Vec::new()),
    check: only_the_hog_goes,
};

impl Case {
    fn test(&self, name: String, kernel: Kernel, programs: &Programs) -> Result<Test> {
        Ok(Test {
            name,
            guest: Guest {
                kernel,
                programs: programs.clone(),
                memory_mb: self.memory_mb,
                scenario: (self.scenario)(),
                files: (self.files)()?,
                append: self.append.to_owned(),
            },
            check: Box::new(self.check),
        })
    }
}

/// Runs the cases and loads whose name contains the filter, and the part of the kernel matrix that
/// is for every run. Beside a load on all cores each has one try.
pub fn run(filter: Option<&str>, beside_load: bool) -> Result<Tally> {
    let arch = Arch::X86_64;
    let is_wanted = |name: &str| filter.is_none_or(|f| name.contains(f));
    let cases = cases()
        .filter(|(name, case)| is_wanted(name) && (case.every_run || filter.is_some()))
        .map(|(name, case)| Ok((name, case, kernel::find(arch, case.kernel)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut loads = super::loads::for_every_run();
    loads.retain(|cell| is_wanted(&cell.name()));
    let (mut tests, mut tally) = matrix::for_every_run(filter)?;
    tests.extend(super::faults::for_every_run(filter)?);
    if !(cases.is_empty() && loads.is_empty()) {
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Guest)?;
        for (name, case, kernel) in cases {
            tests.push(case.test(name, kernel, &programs)?);
        }
        if !loads.is_empty() {
            let kernel = kernel::find(arch, None)?;
            tests.extend(loads.iter().map(|l| l.test(kernel.clone(), &programs)));
        }
    }
    if beside_load && filter.is_none() {
        // What comes of the others does not depend on the host.
        tests.retain(|test| !test.guest.scenario.counted);
    }
    let (_load, tries) = match beside_load {
        true => (Some(Busy::start()), Tries::Once),
        false => (None, Tries::Twice),
    };
    for ended in carry_out(&tests, tries)? {
        tally.count_tried(ended);
    }
    Ok(tally)
}

/// [`scenario::fast_hog`] on a device of 256 MB. Where the archive holds a kernel without its modules
/// (7.0), the guest is not counted and has the disk that is built in.
pub fn fast_hog(kernel: Kernel, programs: &Programs) -> Result<Test> {
    let has_disk = kernel.has_module(COUNTED_DISK.0)?;
    let mut test = PLAIN.test("fast_hog".into(), kernel, programs)?;
    test.guest.scenario.counted &= has_disk;
    Ok(test)
}

/// Something takes memory so fast that no stall comes before the end, on a device of 128 MB.
pub fn without_warning(kernel: Kernel, programs: &Programs) -> Result<Test> {
    let case = Case {
        memory_mb: 128 + super::loads::KERNEL_MB,
        scenario: || wake::without_warning("200M"),
        ..PLAIN
    };
    case.test("without_warning".into(), kernel, programs)
}

/// The agent is stopped before something takes memory, on a device of 256 MB. With a kernel that runs no
/// reflex the agent says why, and the kernel's own OOM killer is next.
pub fn stopped(kernel: Kernel, programs: &Programs) -> Result<Test> {
    let has_disk = kernel.has_module(COUNTED_DISK.0)?;
    let case = Case {
        scenario: reflex::stopped,
        check: |run| match says(run, "no reflex, the kernel's own OOM killer is next: ") {
            Ok(()) => kernel_kills(run),
            Err(_) => reflex::reflex_takes_media(run),
        },
        ..PLAIN
    };
    let mut test = case.test("stopped".into(), kernel, programs)?;
    test.guest.scenario.counted &= has_disk;
    Ok(test)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// That is also: every script and file of the tree that a scenario names is there.
    #[test]
    fn every_scenario_can_be_made() {
        for (name, case) in cases() {
            let scenario = (case.scenario)();
            assert!(!scenario.services.is_empty(), "{name} runs nothing");
        }
    }

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: Vec<_> = cases().map(|(_, case)| case.name).collect();
        let once: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), once.len(), "{names:?}");
    }
}
