//! System calls, rights and room that the agent is refused.

use super::{CGROUPFS, Fault, PLAIN, faulty, refused, shell, without};
use crate::scenario::checks::says;
use crate::scenario::fast_hog;
use crate::scenario::variants::with_more_config;
use anyhow::{Context as _, ensure};
use lowtide_guest::{CGROUP_ROOT, Scenario};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "bpf_refused",
        injected: "bpf(2) fails with EPERM, as under a filter of system calls",
        wanted: "cgroupfs engine; the configured victim goes, nothing else",
        every_run: true,
        scenario: || refused(fast_hog(), &["bpf=EPERM"]),
        says: &[
            "not the kfunc engine: not permitted to load BPF programs",
            "cgroupfs engine",
        ],
        ..PLAIN
    },
    Fault {
        name: "without_bpf_rights",
        injected: "no CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
        wanted: "cgroupfs engine; the configured victim goes, nothing else",
        scenario: || without(&["CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN"]),
        says: &["cgroupfs engine"],
        ..PLAIN
    },
    Fault {
        name: "open_by_handle_refused",
        injected: "open_by_handle_at(2) fails with EPERM",
        wanted: "said; cgroups are looked for by name; the configured victim goes, nothing else",
        every_run: true,
        scenario: || refused(fast_hog(), &["open_by_handle_at=EPERM"]),
        says: &["kfunc engine", "cgroups cannot be opened by their ids"],
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
        says: &["cgroupfs engine", "cgroups cannot be opened by their ids"],
        ..PLAIN
    },
    Fault {
        name: "without_dac_read_search",
        injected: "no CAP_DAC_READ_SEARCH",
        wanted: "said; cgroups are looked for by name; the configured victim goes, nothing else",
        scenario: || without(&["CAP_DAC_READ_SEARCH"]),
        says: &["cgroups cannot be opened by their ids"],
        ..PLAIN
    },
    Fault {
        name: "without_kill",
        injected: "no CAP_KILL",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_KILL"]),
        says: &["without CAP_KILL"],
        ..PLAIN
    },
    Fault {
        name: "without_sys_resource",
        injected: "no CAP_SYS_RESOURCE: the kernel refuses the PSI trigger",
        wanted: "said; the watch alone wakes the agent; the configured victim goes, nothing else",
        every_run: true,
        scenario: || without(&["CAP_SYS_RESOURCE"]),
        says: &["without CAP_SYS_RESOURCE", "woken by watch, "],
        ..PLAIN
    },
    Fault {
        name: "without_sys_ptrace",
        injected: "no CAP_SYS_PTRACE",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_SYS_PTRACE"]),
        says: &["without CAP_SYS_PTRACE"],
        ..PLAIN
    },
    Fault {
        name: "without_dac_override",
        injected: "no CAP_DAC_OVERRIDE",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_DAC_OVERRIDE"]),
        says: &["without CAP_DAC_OVERRIDE"],
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
        says: &["could not lock its memory", "could not raise its priority"],
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
        says: &["nothing tells of cgroups as they are made"],
        ..PLAIN
    },
    Fault {
        name: "no_file_locks",
        injected: "flock(2) fails with ENOSYS",
        scenario: || refused(fast_hog(), &["flock=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "no_local_sockets",
        injected: "socket(2) fails with EPERM",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || refused(fast_hog(), &["socket=EPERM"]),
        says: &["a second agent would not be told apart"],
        ..PLAIN
    },
    Fault {
        name: "no_mrelease",
        injected: "process_mrelease(2) fails with ENOSYS, as before Linux 5.15",
        scenario: || refused(fast_hog(), &["process_mrelease=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "no_pidfds",
        injected: "pidfd_open(2) fails with ENOSYS, as before Linux 5.3",
        scenario: || refused(fast_hog(), &["pidfd_open=ENOSYS"]),
        ..PLAIN
    },
    Fault {
        name: "files_have_no_size",
        injected: "RLIMIT_FSIZE is 0",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || faulty(fast_hog(), &["--limit", "FSIZE=0"]),
        says: &["nothing can be protected or held back"],
        ..PLAIN
    },
    Fault {
        name: "a_hundred_descriptors",
        injected: "RLIMIT_NOFILE is 100",
        scenario: || faulty(fast_hog(), &["--limit", "NOFILE=100"]),
        ..PLAIN
    },
    Fault {
        name: "a_hundred_descriptors_by_file",
        injected: "RLIMIT_NOFILE is 100; cgroupfs engine",
        scenario: || {
            let hog = with_more_config(fast_hog(), CGROUPFS);
            faulty(hog, &["--limit", "NOFILE=100"])
        },
        ..PLAIN
    },
    Fault {
        name: "a_small_stack",
        injected: "RLIMIT_STACK is 128 KiB",
        scenario: || faulty(fast_hog(), &["--limit", "STACK=131072"]),
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
        name: "without_syslog",
        injected: "no CAP_SYSLOG: /proc/kallsyms shows no address",
        scenario: || without(&["CAP_SYSLOG"]),
        ..PLAIN
    },
    Fault {
        name: "without_sys_admin",
        injected: "no CAP_SYS_ADMIN",
        scenario: || without(&["CAP_SYS_ADMIN"]),
        ..PLAIN
    },
    Fault {
        name: "without_perfmon",
        injected: "no CAP_PERFMON and CAP_SYS_ADMIN",
        scenario: || without(&["CAP_PERFMON", "CAP_SYS_ADMIN"]),
        ..PLAIN
    },
    Fault {
        name: "without_sys_nice",
        injected: "no CAP_SYS_NICE",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || without(&["CAP_SYS_NICE"]),
        says: &["could not raise its priority"],
        ..PLAIN
    },
    Fault {
        name: "without_sys_boot",
        injected: "no CAP_SYS_BOOT",
        scenario: || without(&["CAP_SYS_BOOT"]),
        ..PLAIN
    },
    Fault {
        name: "little_address_space",
        injected: "RLIMIT_AS is 24 MiB",
        scenario: || faulty(fast_hog(), &["--limit", "AS=25165824"]),
        ..PLAIN
    },
    Fault {
        name: "little_data",
        injected: "RLIMIT_DATA is 4 MiB",
        scenario: || faulty(fast_hog(), &["--limit", "DATA=4194304"]),
        ..PLAIN
    },
    Fault {
        name: "no_queued_signals",
        injected: "RLIMIT_SIGPENDING is 0",
        scenario: || faulty(fast_hog(), &["--limit", "SIGPENDING=0"]),
        ..PLAIN
    },
];
