//! `cargo xtask faults`: what a device may lack, refuse or do to the agent, one fault at a time, and what
//! must come of it. What counts is what the guest's kernel says, and what the agent does.

use crate::build::programs::{self, Profile, Programs};
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::checks::{live, only_the_hog_goes, says};
use crate::scenario::variants::{in_one_cgroup, with_load, with_more_config};
use crate::scenario::{CONFIG, GATEWAY, HOG, LIFELINE, SENSOR, fast_hog, load};
use crate::test::harness::{Ended, Test, Tries, carry_out, verdict};
use crate::vm::kernel::{self, Kernel};
use crate::vm::{AGENT, GUEST, Guest, Run, qemu};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{CGROUP_ROOT, Scenario, Service};
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
    check: fn(&Run) -> Result<()>,
}

const PLAIN: Fault = Fault {
    name: "",
    injected: "",
    wanted: "",
    kernel: None,
    memory_mb: 256,
    append: "",
    every_run: false,
    scenario: fast_hog,
    check: only_the_hog_goes,
};

/// What [`only_the_hog_goes`] means, in a table.
const VICTIM: &str = "the configured victim goes, nothing else";

const FAULTS: &[Fault] = &[
    Fault {
        name: "bpf_refused",
        injected: "bpf(2) fails with EPERM, as under a filter of system calls",
        wanted: "cgroupfs engine; the configured victim goes, nothing else",
        every_run: true,
        scenario: || refused(fast_hog(), &["bpf=EPERM"]),
        check: |run| {
            says(
                run,
                "not the kfunc engine: not permitted to load BPF programs",
            )?;
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_bpf_rights",
        injected: "no CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
        wanted: "cgroupfs engine; the configured victim goes, nothing else",
        scenario: || without(&["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]),
        check: |run| {
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "no_btf",
        injected: "the kernel shows no BTF",
        wanted: "said; cgroupfs engine; the configured victim goes, nothing else",
        scenario: || shell(fast_hog(), "mount -t tmpfs tmpfs /sys/kernel/btf"),
        check: |run| {
            says(run, "no kernel BTF")?;
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "open_by_handle_refused",
        injected: "open_by_handle_at(2) fails with EPERM",
        wanted: "said; cgroups are looked for by name; the configured victim goes, nothing else",
        every_run: true,
        scenario: || refused(fast_hog(), &["open_by_handle_at=EPERM"]),
        check: |run| {
            says(run, "kfunc engine")?;
            says(run, "cgroups cannot be opened by their ids")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "no_handles_at_all",
        injected: "open_by_handle_at(2) and name_to_handle_at(2) fail with ENOSYS; cgroupfs engine",
        wanted: "said; cgroups are looked for by name; the configured victim goes, nothing else",
        scenario: || {
            let calls = ["open_by_handle_at=ENOSYS", "name_to_handle_at=ENOSYS"];
            refused(with_more_config(fast_hog(), CGROUPFS), &calls)
        },
        check: |run| {
            says(run, "cgroupfs engine")?;
            says(run, "cgroups cannot be opened by their ids")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_dac_read_search",
        injected: "no CAP_DAC_READ_SEARCH",
        wanted: "said; cgroups are looked for by name; the configured victim goes, nothing else",
        scenario: || without(&["CAP_DAC_READ_SEARCH"]),
        check: |run| {
            says(run, "cgroups cannot be opened by their ids")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_kill",
        injected: "no CAP_KILL",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_KILL"]),
        check: |run| {
            says(run, "without CAP_KILL")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_sys_resource",
        injected: "no CAP_SYS_RESOURCE: the kernel refuses the PSI trigger",
        wanted: "said; the watch alone wakes the agent; the configured victim goes, nothing else",
        every_run: true,
        scenario: || without(&["CAP_SYS_RESOURCE"]),
        check: |run| {
            says(run, "without CAP_SYS_RESOURCE")?;
            says(run, "woken by watch, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_sys_ptrace",
        injected: "no CAP_SYS_PTRACE",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_SYS_PTRACE"]),
        check: |run| {
            says(run, "without CAP_SYS_PTRACE")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_dac_override",
        injected: "no CAP_DAC_OVERRIDE",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_DAC_OVERRIDE"]),
        check: |run| {
            says(run, "without CAP_DAC_OVERRIDE")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "without_priority_and_locked_memory",
        injected: "no CAP_SYS_NICE and CAP_IPC_LOCK, 64 KiB of locked memory",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || {
            faulty(
                fast_hog(),
                &[
                    "--without",
                    "CAP_SYS_NICE",
                    "--without",
                    "CAP_IPC_LOCK",
                    "--without",
                    "CAP_SYS_RESOURCE",
                    "--limit",
                    "MEMLOCK=65536",
                ],
            )
        },
        check: |run| {
            says(run, "could not lock its memory")?;
            says(run, "could not raise its priority")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "little_locked_memory",
        injected: "no CAP_IPC_LOCK and CAP_SYS_RESOURCE, 4 MiB of locked memory",
        wanted: "only what is there at the start is locked; the configured victim goes, nothing else",
        scenario: || {
            let keys = [
                "--without",
                "CAP_IPC_LOCK",
                "--without",
                "CAP_SYS_RESOURCE",
                "--limit",
                "MEMLOCK=4194304",
            ];
            faulty(fast_hog(), &keys)
        },
        ..PLAIN
    },
    Fault {
        name: "no_inotify_instance",
        injected: "inotify_init1(2) fails with EMFILE: the user has no instance left",
        wanted: "said; the configured victim goes, nothing else",
        every_run: true,
        scenario: || refused(fast_hog(), &["inotify_init1=EMFILE"]),
        check: |run| {
            says(run, "nothing tells of cgroups as they are made")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "no_file_locks",
        injected: "flock(2) fails with ENOSYS",
        wanted: VICTIM,
        scenario: || refused(fast_hog(), &["flock=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "no_local_sockets",
        injected: "socket(2) fails with EPERM",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || refused(fast_hog(), &["socket=EPERM"]),
        check: |run| {
            says(run, "a second agent would not be told apart")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "no_mrelease",
        injected: "process_mrelease(2) fails with ENOSYS, as before Linux 5.15",
        wanted: VICTIM,
        scenario: || refused(fast_hog(), &["process_mrelease=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "no_pidfds",
        injected: "pidfd_open(2) fails with ENOSYS, as before Linux 5.3",
        wanted: VICTIM,
        scenario: || refused(fast_hog(), &["pidfd_open=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "run_is_full",
        injected: "/run is full at the start",
        wanted: "said; the configured victim goes, nothing else",
        every_run: true,
        scenario: || {
            shell(
                fast_hog(),
                "mkdir -p /run/lowtide && mount -t tmpfs -o size=4k tmpfs /run/lowtide && \
                 cat /dev/zero > /run/lowtide/full",
            )
        },
        check: |run| {
            says(run, "nothing can be protected or held back")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "run_is_read_only",
        injected: "/run is read-only from the start",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || faulty(fast_hog(), &["--read-only", "/run"]),
        check: |run| {
            says(run, "nothing can be protected or held back")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "undo_file_is_noise",
        injected: "the undo file is 64 KiB of noise",
        wanted: VICTIM,
        scenario: || {
            shell(
                fast_hog(),
                "mkdir -p /run/lowtide && head -c 65536 /dev/urandom > /run/lowtide/undo",
            )
        },
        ..PLAIN
    },
    Fault {
        name: "files_have_no_size",
        injected: "RLIMIT_FSIZE is 0",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || faulty(fast_hog(), &["--limit", "FSIZE=0"]),
        check: |run| {
            says(run, "nothing can be protected or held back")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "a_hundred_descriptors",
        injected: "RLIMIT_NOFILE is 100",
        wanted: VICTIM,
        scenario: || faulty(fast_hog(), &["--limit", "NOFILE=100"]),
        ..PLAIN
    },
    Fault {
        name: "a_hundred_descriptors_by_file",
        injected: "RLIMIT_NOFILE is 100; cgroupfs engine",
        wanted: VICTIM,
        scenario: || {
            let hog = with_more_config(fast_hog(), CGROUPFS);
            faulty(hog, &["--limit", "NOFILE=100"])
        },
        ..PLAIN
    },
    Fault {
        name: "a_small_stack",
        injected: "RLIMIT_STACK is 128 KiB",
        wanted: VICTIM,
        scenario: || faulty(fast_hog(), &["--limit", "STACK=131072"]),
        ..PLAIN
    },
    Fault {
        name: "cgroups_are_read_only",
        injected: "cgroup2 is mounted read-only: cgroup.kill fails with EROFS",
        wanted: "said; the victim takes signals one by one; the configured victim goes, nothing else",
        every_run: true,
        scenario: || faulty(fast_hog(), &["--read-only", CGROUP_ROOT]),
        check: |run| {
            says(run, "victims take signals one by one")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "a_second_agent",
        injected: "the undo file is deleted, and a second agent is started",
        wanted: "the second one says that another runs, and ends; the configured victim goes, nothing else",
        every_run: true,
        scenario: || {
            let mut scenario = fast_hog();
            let command = format!("rm /run/lowtide/undo; exec {AGENT} run --config {CONFIG}");
            scenario.services.push(Service {
                name: SECOND.into(),
                command: ["/bin/sh", "-c", &command].map(String::from).to_vec(),
                cgroup: SECOND.into(),
                after: Some("lowtide".into()),
                ..Service::default()
            });
            scenario
        },
        check: |run| {
            let (_, code, _) = run.exited(SECOND).context("both agents run")?;
            ensure!(code == Some(1), "the second agent ends with {code:?}");
            let mut lines = run.lines(SECOND);
            ensure!(
                lines.any(|(_, line)| line.contains("another lowtide runs")),
                "the second agent does not say why"
            );
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "nested_1500_deep",
        injected: "1,500 cgroups, each in the one before, when the agent starts",
        wanted: VICTIM,
        memory_mb: 512,
        scenario: || deep(fast_hog()),
        ..PLAIN
    },
    Fault {
        name: "nested_1500_deep_by_file",
        injected: "1,500 cgroups, each in the one before, when the agent starts; cgroupfs engine",
        wanted: VICTIM,
        memory_mb: 512,
        scenario: || deep(with_more_config(fast_hog(), CGROUPFS)),
        ..PLAIN
    },
    Fault {
        name: "policy_map_is_full",
        injected: "5,000 cgroups that a group covers, and room for the rules of 4,096",
        wanted: "the configured victim goes, nothing else",
        memory_mb: 768,
        scenario: || {
            let hog = with_more_config(fast_hog(), "");
            let mut hog = with_load(hog, "many", &["many", "--count", "5000"]);
            add_group(
                &mut hog,
                "[[group]]\nname = \"many\"\nkill = 300\ncgroups = [\"many/*\"]\n",
            );
            hog
        },
        ..PLAIN
    },
    Fault {
        name: "policy_map_of_the_dead",
        injected: "cgroups that a group covers come and go, 300 at a time, thousands in all",
        wanted: VICTIM,
        scenario: || {
            let hog = with_load(fast_hog(), "churn", &["churn", "--count", "300"]);
            let mut hog = Scenario {
                counted: true,
                ..hog
            };
            add_group(
                &mut hog,
                "[[group]]\nname = \"churn\"\nkill = 300\ncgroups = [\"churn/*\"]\n",
            );
            hog
        },
        ..PLAIN
    },
    Fault {
        name: "the_log_is_closed",
        injected: "stderr is closed, and there is no /dev/kmsg",
        wanted: VICTIM,
        scenario: || {
            let command = format!("echo on; rm /dev/kmsg; exec {AGENT} run --config {CONFIG} 2>&-");
            instead(fast_hog(), &["/bin/sh", "-c", &command])
        },
        ..PLAIN
    },
    Fault {
        name: "the_log_is_full",
        injected: "stderr is a pipe that nothing reads, and full",
        wanted: VICTIM,
        scenario: || {
            let command = format!(
                "echo on; mkfifo /run/log; sleep 1000 < /run/log & \
                 exec 2> /run/log; dd if=/dev/zero bs=65536 count=1 >&2 2> /dev/null; \
                 exec {AGENT} run --config {CONFIG}"
            );
            instead(fast_hog(), &["/bin/sh", "-c", &command])
        },
        ..PLAIN
    },
    Fault {
        name: "a_storm_of_reloads",
        injected: "SIGHUP twenty times a second",
        wanted: VICTIM,
        scenario: || {
            beside(
                fast_hog(),
                "while :; do kill -HUP $(pidof lowtide); usleep 50000; done",
            )
        },
        check: |run| {
            says(run, "reloaded: ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "a_broken_file_under_pressure",
        injected: "the config is replaced by a broken one and reloaded, again and again",
        wanted: "refused; the running config stays; the configured victim goes, nothing else",
        scenario: || {
            let command = format!(
                "echo 'kill = [' > {CONFIG}; while :; do kill -HUP $(pidof lowtide); usleep 300000; done"
            );
            beside(fast_hog(), &command)
        },
        check: |run| {
            says(run, "reload refused, the running config stays")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "the_clock_jumps",
        injected: "the time of day jumps by years, back and forth, ten times a second",
        wanted: VICTIM,
        scenario: || {
            beside(
                fast_hog(),
                "while :; do date -s @1000000000; date -s @2000000000; usleep 100000; done > /dev/null",
            )
        },
        ..PLAIN
    },
    Fault {
        name: "stopped_for_a_second",
        injected: "the agent is stopped for a second, every other second",
        wanted: "it goes on where it was",
        scenario: || {
            let mut scenario = fast_hog();
            for service in &mut scenario.services {
                if service.name == HOG {
                    service.command = [GUEST, "hog", "--rate", "8M"].map(String::from).to_vec();
                }
            }
            beside(
                scenario,
                "while :; do kill -STOP $(pidof lowtide); sleep 1; kill -CONT $(pidof lowtide); sleep 1; done",
            )
        },
        check: |run| live(run, &[SENSOR, GATEWAY, LIFELINE, "lowtide"]),
        ..PLAIN
    },
    Fault {
        name: "own_cgroup_at_one_mib",
        injected: "memory.max of the agent's own cgroup is 1 MiB",
        wanted: VICTIM,
        scenario: || shell(fast_hog(), "echo 1M > /sys/fs/cgroup/lowtide/memory.max"),
        check: |run| live(run, &[SENSOR, GATEWAY, LIFELINE]),
        ..PLAIN
    },
    Fault {
        name: "no_threads",
        injected: "pids.max of the agent's cgroup is 1: no thread can be started",
        wanted: "an error that says so, and exit code 1",
        scenario: || {
            let limit = format!("{CGROUP_ROOT}/lowtide/pids.max");
            Scenario {
                until: Some("lowtide".into()),
                limit_s: 30,
                ..shell(fast_hog(), &format!("echo 1 > {limit}"))
            }
        },
        check: |run| {
            says(run, "no thread can be started")?;
            let (_, code, _) = run.exited("lowtide").context("it goes on")?;
            ensure!(code == Some(1), "it ends with {code:?}");
            Ok(())
        },
        ..PLAIN
    },
    Fault {
        name: "a_thousand_processes",
        injected: "1,100 processes, the hog last, and room for 1,024; procfs engine",
        wanted: VICTIM,
        memory_mb: 768,
        append: "cgroup_disable=memory",
        scenario: || {
            let mut scenario = in_one_cgroup(fast_hog());
            let crowd =
                "i=0; while [ $i -lt 1100 ]; do sleep 1000 & i=$((i+1)); done; echo there; wait";
            let mut crowd = Service {
                name: CROWD.into(),
                command: ["/bin/sh", "-c", crowd].map(String::from).to_vec(),
                ..Service::default()
            };
            crowd.cgroup.clear();
            for service in &mut scenario.services {
                if service.name == HOG {
                    service.after = Some(CROWD.into());
                }
            }
            scenario.services.push(crowd);
            scenario
        },
        ..PLAIN
    },
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
        let faults: Vec<_> = FAULTS.iter().filter(|f| wanted(f.name)).collect();
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
    tests(&FAULTS.iter().filter(wanted).collect::<Vec<_>>())
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
            check: Box::new(self.check),
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

/// With a command of the shell beside the agent.
fn beside(mut scenario: Scenario, command: &str) -> Scenario {
    scenario.services.push(Service {
        after: Some("lowtide".into()),
        command: ["/bin/sh", "-c", command].map(String::from).to_vec(),
        ..load("beside", "beside", &[])
    });
    scenario
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
        for fault in FAULTS {
            assert!(!(fault.scenario)().services.is_empty(), "{}", fault.name);
            assert!(
                !fault.injected.is_empty() && !fault.wanted.is_empty(),
                "{}",
                fault.name
            );
        }
        let names: BTreeSet<_> = FAULTS.iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), FAULTS.len());
    }
}
