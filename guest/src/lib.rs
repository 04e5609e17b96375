//! What a guest is told to do ([`Scenario`]) and what it says while doing it ([`Event`], one JSON
//! object a line), shared by the guest's init and the host that boots it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the virtio port that carries the events.
pub const EVENT_PORT: &str = "lowtide.events";
/// Where the init finds its [`Scenario`].
pub const SCENARIO_FILE: &str = "/scenario.json";
/// Kernel modules to load before anything else, one a line, dependencies first: the file name and,
/// behind a blank, its parameters.
pub const MODULE_LIST: &str = "/lib/modules/load";
/// Where the cgroup v2 tree is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The block device that [`Scenario::disk_mb`] gives: a link to one of [`Scenario::disk`].
pub const DISK: &str = "/dev/flash";

/// One run of a guest.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// Files under `/proc/sys` and what to write to them.
    pub sysctls: BTreeMap<String, String>,
    /// Swap to compressed memory.
    pub zram: Option<Zram>,
    /// Size in MiB of an empty disk, [`DISK`]; 0 for none. Reads of it go through the page cache
    /// and refault as those of any file.
    pub disk_mb: u32,
    /// Text files to install, by absolute path.
    pub files: BTreeMap<String, String>,
    /// Cgroups to make, parents before children; those of the services are made anyway.
    pub cgroups: Vec<Cgroup>,
    pub services: Vec<Service>,
    /// Files to hand out as [`What::File`] at the end.
    pub collect: Vec<String>,
    /// Program that becomes PID 1 once all is set up, as on a device with systemd. The init goes on as
    /// its child.
    pub pid_1: Option<String>,
    /// The guest ends when this service has exited (or been killed) for the last time, instead of
    /// at the time limit.
    pub until: Option<String>,
    /// How long to go on after `until`.
    pub linger_ms: u64,
    /// Time from boot at which the guest ends in any case; 0 for [`Scenario::LIMIT_S`].
    pub limit_s: u64,
    /// The guest is to be restarted by one of its services or by its watchdog, and so does not come to
    /// its own end.
    pub restarts: bool,
    /// A restart does not end it: it boots once more, with the same memory, and goes on to its own end. An
    /// event [`What::Booted`] tells the two apart.
    pub boots_again: bool,
    /// It has a watchdog.
    pub watchdog: bool,
    /// Kernel modules beside those of every guest, each with its parameters.
    pub modules: BTreeMap<String, String>,
    /// Time between two [`Sample`]s; 0 for [`Scenario::SAMPLE_MS`].
    pub sample_ms: u64,
    /// A nanosecond in the guest is an instruction that its processor ran: what is measured does not
    /// depend on what else the host does.
    pub counted: bool,
    /// Processors; 0: one where instructions are counted, and else two. Counted ones take turns, so that
    /// each is as fast as its part of the one.
    pub processors: u32,
}

/// The bytes that a name stands for, in which `%XX` is the byte of that hexadecimal number: cgroups and
/// processes may have names that are no text. `%25` is a percent sign; one that no such number follows
/// is itself.
pub fn bytes(name: &str) -> Vec<u8> {
    let mut rest = name.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        let number = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(number.unwrap_or(*first));
        rest = if number.is_some() { &after[2..] } else { after };
    }
    bytes
}

impl Scenario {
    pub const LIMIT_S: u64 = 60;
    pub const SAMPLE_MS: u64 = 100;

    /// What [`DISK`] is. In a counted guest it answers by the guest's own clock: one outside would
    /// answer by the host's.
    pub const fn disk(&self) -> &'static str {
        if self.counted { "nullb0" } else { "nvme0n1" }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zram {
    pub size_mb: u32,
    /// Compressor as the kernel names it; the kernel's default if absent.
    #[serde(default)]
    pub algorithm: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cgroup {
    /// Relative to the root of the tree; `%XX` is a byte, see [`bytes`].
    pub path: String,
    /// Interface files and what to write to them, e.g. `"memory.max": "64M"`.
    pub attributes: BTreeMap<String, String>,
    /// Extended attributes of its directory, e.g. `"user.oomd_omit": "1"`.
    pub xattrs: BTreeMap<String, String>,
    /// User that it is delegated to: owns its directory, and the files by which processes and
    /// controllers get into it, but none of its limits.
    pub owner: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    pub name: String,
    pub command: Vec<String>,
    /// Cgroup to run in, relative to the root of the tree; the root itself if empty. `%XX` is a byte, see
    /// [`bytes`].
    pub cgroup: String,
    /// Not before this other service has written its first line.
    pub after: Option<String>,
    /// Time to the start, from the end of the set-up or from that line.
    pub start_ms: u64,
    /// Started again this long after it ended; 0 for never.
    pub restart_ms: u64,
}

/// Something that happened in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since boot (`CLOCK_MONOTONIC`).
    pub t: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The init runs and has read its scenario.
    Booted {
        kernel: String,
        mem_total_kb: u64,
    },
    Started {
        service: String,
        pid: i32,
    },
    /// A service ended: exactly one of `code` and `signal` is there.
    Exited {
        service: String,
        pid: i32,
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// A line that a service wrote to stdout or stderr.
    Line {
        service: String,
        line: String,
    },
    /// A line of the kernel's log, level warning or more urgent.
    Kernel {
        line: String,
    },
    Sample(Sample),
    /// A file named by [`Scenario::collect`]; `text` is absent if it could not be read.
    File {
        path: String,
        text: Option<String>,
    },
    /// A part of the scenario that this kernel did not let the init carry out.
    Refused {
        what: String,
        error: String,
    },
    /// The last event. `timeout` says that it was the time limit that ended the run.
    Ended {
        timeout: bool,
    },
}

/// What the guest's memory is like at one moment. Figures that this kernel does not have are 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    pub free_kb: u64,
    pub available_kb: u64,
    pub swap_free_kb: u64,
    /// Total stall time since boot.
    pub some_us: u64,
    pub full_us: u64,
    /// Processes killed by the kernel's OOM killer since boot, in memcgs or globally.
    pub oom_kills: u64,
    /// By path, the cgroups that services run in.
    pub cgroups: BTreeMap<String, CgroupSample>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CgroupSample {
    pub current_kb: u64,
    /// `oom_kill` of memory.events.
    pub oom_kills: u64,
}

/// What a load writes to stdout, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// Bytes that a hog, a tmpfs filler or a sleeper holds.
    Holds {
        bytes: u64,
    },
    /// The load has all that it was told to take.
    Full,
    /// Once a second: ticks so far and the worst delay of a tick, in this second and ever.
    Heartbeat {
        ticks: u64,
        gap_us: u64,
        worst_us: u64,
    },
    /// One pass over the working set is done.
    Pass {
        number: u64,
        ms: u64,
    },
    /// Children started so far.
    Forks {
        count: u64,
    },
    /// Children of a fork storm that have ended so far, which none does by itself.
    Lost {
        count: u64,
    },
    /// A worker, or a run of what is supervised, ended: exactly one of `code` and `signal` is there.
    Ended {
        number: u64,
        code: Option<i32>,
        signal: Option<i32>,
    },
    /// Things that a soak let happen so far.
    Soaked {
        steps: u64,
    },
    /// Cgroups made.
    Made {
        cgroups: u64,
    },
    Footprint(Footprint),
    /// How long something took that was done as fast as possible.
    Took {
        what: String,
        ns: u64,
    },
    /// What a look at all memcgs took, in one way.
    Looked {
        way: String,
        memcgs: u64,
        median_ns: u64,
        min_ns: u64,
        max_ns: u64,
    },
}

/// What a service costs while it does nothing: the sum over its processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    pub processes: u64,
    pub threads: u64,
    pub pss_kb: u64,
    /// The most that was ever resident at once.
    pub peak_kb: u64,
    /// PSS in kB by mapping, each named by what it maps and its permissions.
    pub mappings: BTreeMap<String, u64>,
    /// `memory.current` of the cgroup of the first process, in bytes; absent without a memory
    /// controller.
    pub cgroup_bytes: Option<u64>,
    /// What that is made of, in bytes: the figures of `memory.stat` that are not 0.
    pub charged: BTreeMap<String, u64>,
    /// Bytes of the kernel's in that once it has dropped the dentries and inodes that it can.
    pub kernel_bytes: Option<u64>,
    /// How often a thread went to sleep again during `quiet_ms`.
    pub sleeps: u64,
    /// System calls during `quiet_ms`, where they were to be counted.
    pub syscalls: Option<u64>,
    pub quiet_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_have_any_byte() {
        assert_eq!(bytes("apps/a%ff%25"), b"apps/a\xff%");
        assert_eq!(bytes("100%"), b"100%");
        assert_eq!(bytes("%zz"), b"%zz");
    }
}
