//! What the kernel shows, and the tree of cgroups.

use super::{CGROUPFS, Fault, PLAIN, add_group, deep, faulty, in_mounts_of_its_own, shell};
use crate::scenario::checks::live;
use crate::scenario::variants::{with_load, with_more_config};
use crate::scenario::{GATEWAY, LIFELINE, SENSOR, fast_hog};
use lowtide_guest::{CGROUP_ROOT, Scenario};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "no_btf",
        injected: "the kernel shows no BTF",
        wanted: "said; cgroupfs engine; the configured victim goes, nothing else",
        scenario: || shell(fast_hog(), "mount -t tmpfs tmpfs /sys/kernel/btf"),
        says: &["no kernel BTF", "cgroupfs engine"],
        ..PLAIN
    },
    Fault {
        name: "cgroups_are_read_only",
        injected: "cgroup2 is mounted read-only: cgroup.kill fails with EROFS",
        wanted: "said; the victim takes signals one by one; the configured victim goes, nothing else",
        every_run: true,
        scenario: || faulty(fast_hog(), &["--read-only", CGROUP_ROOT]),
        says: &["victims take signals one by one"],
        ..PLAIN
    },
    Fault {
        name: "nested_1500_deep",
        injected: "1,500 cgroups, each in the one before, when the agent starts",
        memory_mb: 512,
        scenario: || deep(fast_hog()),
        ..PLAIN
    },
    Fault {
        name: "nested_1500_deep_by_file",
        injected: "1,500 cgroups, each in the one before, when the agent starts; cgroupfs engine",
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
        name: "own_cgroup_at_one_mib",
        injected: "memory.max of the agent's own cgroup is 1 MiB",
        scenario: || shell(fast_hog(), "echo 1M > /sys/fs/cgroup/lowtide/memory.max"),
        check: |run| live(run, &[SENSOR, GATEWAY, LIFELINE]),
        ..PLAIN
    },
    Fault {
        name: "btf_is_cut",
        injected: "the kernel's BTF ends after 100,000 bytes",
        wanted: "said; cgroupfs engine; the configured victim goes, nothing else",
        scenario: || {
            let cut = "head -c 100000 /sys/kernel/btf/vmlinux > /tmp/btf && \
                       mount --bind /tmp/btf /sys/kernel/btf/vmlinux";
            shell(fast_hog(), cut)
        },
        says: &["cgroupfs engine"],
        ..PLAIN
    },
    Fault {
        name: "lockdown",
        injected: "the kernel is locked down for confidentiality: BPF programs may not read its memory",
        wanted: "neither watch nor reflex, said; the configured victim goes, nothing else",
        scenario: || {
            // Not by the kernel's command line, as the guest's modules have no signature.
            let lock = "mount -t securityfs none /sys/kernel/security; \
                        echo confidentiality > /sys/kernel/security/lockdown";
            shell(fast_hog(), lock)
        },
        says: &[
            "no watch: the kernel is locked down",
            "kfunc engine, woken by PSI and ballast",
        ],
        ..PLAIN
    },
    Fault {
        name: "cgroups_elsewhere",
        injected: "cgroup2 is mounted at /tmp/cg",
        scenario: || {
            let elsewhere = format!(
                "mkdir /tmp/cg && mount --bind {CGROUP_ROOT} /tmp/cg && umount {CGROUP_ROOT}"
            );
            in_mounts_of_its_own(fast_hog(), &elsewhere)
        },
        ..PLAIN
    },
    Fault {
        name: "cgroups_mounted_late",
        injected: "cgroup2 is mounted two seconds after the agent's start",
        wanted: "procfs engine, said; the victim goes, nothing else",
        scenario: || {
            let late = format!(
                "umount {CGROUP_ROOT} && {{ sleep 2; mount -t cgroup2 none {CGROUP_ROOT}; }} & true"
            );
            in_mounts_of_its_own(fast_hog(), &late)
        },
        says: &["procfs engine"],
        ..PLAIN
    },
    Fault {
        name: "cgroups_unmounted",
        injected: "cgroup2 is unmounted a second and a half after the agent's start",
        scenario: || unmounted(fast_hog()),
        ..PLAIN
    },
    Fault {
        name: "cgroups_unmounted_by_file",
        injected: "cgroup2 is unmounted a second and a half after the agent's start; cgroupfs engine",
        scenario: || unmounted(with_more_config(fast_hog(), CGROUPFS)),
        ..PLAIN
    },
    Fault {
        name: "ten_thousand_cgroups",
        injected: "10,000 cgroups",
        memory_mb: 1024,
        scenario: || with_load(fast_hog(), "many", &["many", "--count", "10000"]),
        ..PLAIN
    },
];

/// Of the mounts that the agent sees, after its start.
fn unmounted(scenario: Scenario) -> Scenario {
    let gone = format!("{{ usleep 1500000; umount -l {CGROUP_ROOT}; }} & true");
    in_mounts_of_its_own(scenario, &gone)
}
