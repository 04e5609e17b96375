//! What is measured beside lowtide, how each is set, and how it gets into a guest.

use crate::build::programs::Programs;
use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::{self, CONFIG, GATEWAY, LIFELINE, SENSOR};
use crate::test::loads::KERNEL_MB;
use crate::vm::kernel::Kernel;
use crate::vm::{GUEST, Guest};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Cgroup, Scenario};
use std::fs;
use std::path::{Path, PathBuf};

/// Debian release that the peers are from.
const SUITE: &str = "trixie";
/// Of the agent.
const AGENT_CGROUP: &str = "lowtide";
/// How long the agent's service is gone when it ended, as under systemd.
const RESTART_MS: u64 = 100;

/// Something that is to keep a device from running out of memory.
pub struct Agent {
    pub name: &'static str,
    /// How it is set, for the report.
    pub settings: &'static str,
    /// What its process is named; nothing without one.
    pub program: &'static str,
    image: Option<&'static Image>,
    /// What the shell waits with before others are told that it runs.
    ready: &'static str,
    /// What the shell starts it with.
    command: &'static str,
    /// What its unit asks for, as the kernel takes it.
    memory_low: Option<&'static str>,
    /// Its config: where files lie, and their text.
    config: &'static [(&'static str, &'static str)],
    /// What has to be PID 1 for it.
    pid_1: Option<&'static str>,
    /// Attribute of the directories of those cgroups that are not to be touched.
    spare: Option<&'static str>,
}

/// A peer's program with what it is linked to, from Debian's packages.
struct Image {
    packages: &'static [&'static str],
    /// Files and directories below /usr.
    parts: &'static [&'static str],
}

const EARLYOOM: Image = Image {
    packages: &["earlyoom", "libc6"],
    parts: &["bin/earlyoom", "lib/x86_64-linux-gnu/libc.so.6"],
};

const NOHANG: Image = Image {
    packages: &[
        "libc6",
        "libexpat1",
        "libffi8",
        "libpython3.13-minimal",
        "libpython3.13-stdlib",
        "nohang",
        "python3.13-minimal",
        "zlib1g",
    ],
    parts: &[
        "bin/python3.13",
        "lib/python3.13",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libexpat.so.1",
        "lib/x86_64-linux-gnu/libffi.so.8",
        "lib/x86_64-linux-gnu/libm.so.6",
        "lib/x86_64-linux-gnu/libz.so.1",
        "sbin/nohang",
        "share/nohang",
    ],
};

const OOMD: Image = Image {
    packages: &[
        "libc6",
        "libcap2",
        "libgcc-s1",
        "libjsoncpp26",
        "libstdc++6",
        "libsystemd0",
        "oomd",
    ],
    parts: &[
        "bin/oomd",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libcap.so.2",
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
        "lib/x86_64-linux-gnu/libjsoncpp.so.26",
        "lib/x86_64-linux-gnu/libm.so.6",
        "lib/x86_64-linux-gnu/libstdc++.so.6",
        "lib/x86_64-linux-gnu/libsystemd.so.0",
    ],
};

/// With the parts of systemd that it does not run without.
const SYSTEMD_OOMD: Image = Image {
    packages: &[
        "libacl1",
        "libapparmor1",
        "libaudit1",
        "libblkid1",
        "libc6",
        "libcap-ng0",
        "libcap2",
        "libcrypt1",
        "libmount1",
        "libpam0g",
        "libpcre2-8-0",
        "libseccomp2",
        "libselinux1",
        "libssl3t64",
        "libsystemd-shared",
        "libzstd1",
        "systemd",
        "systemd-oomd",
        "zlib1g",
    ],
    parts: &[
        "lib/systemd/systemd-oomd",
        "lib/systemd/oomd.conf.d",
        "lib/systemd/system/-.slice.d",
        "lib/systemd/system/systemd-oomd.service",
        "lib/systemd/system/systemd-oomd.socket",
        "lib/systemd/systemd",
        "lib/systemd/systemd-executor",
        "lib/x86_64-linux-gnu/libacl.so.1",
        "lib/x86_64-linux-gnu/libapparmor.so.1",
        "lib/x86_64-linux-gnu/libaudit.so.1",
        "lib/x86_64-linux-gnu/libblkid.so.1",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libcap-ng.so.0",
        "lib/x86_64-linux-gnu/libcap.so.2",
        "lib/x86_64-linux-gnu/libcrypt.so.1",
        "lib/x86_64-linux-gnu/libcrypto.so.3",
        "lib/x86_64-linux-gnu/libm.so.6",
        "lib/x86_64-linux-gnu/libmount.so.1",
        "lib/x86_64-linux-gnu/libpam.so.0",
        "lib/x86_64-linux-gnu/libpcre2-8.so.0",
        "lib/x86_64-linux-gnu/libseccomp.so.2",
        "lib/x86_64-linux-gnu/libselinux.so.1",
        "lib/x86_64-linux-gnu/libz.so.1",
        "lib/x86_64-linux-gnu/libzstd.so.1",
        "lib/x86_64-linux-gnu/systemd",
    ],
};

/// What is left of `systemctl enable` and of the package's own set-up.
const TARGET: (&str, &str) = (
    "/etc/systemd/system/default.target",
    "[Unit]\nDefaultDependencies=no\nRequires=systemd-oomd.service\n",
);
const PASSWD: (&str, &str) = (
    "/etc/passwd",
    "root:x:0:0::/:/bin/sh\nsystemd-oom:x:990:990::/:/bin/sh\n",
);
const GROUP: (&str, &str) = ("/etc/group", "root:x:0:\nsystemd-oom:x:990:\n");

/// systemd starts it, and it is there as long as this.
const BY_SYSTEMD: Agent = Agent {
    program: "systemd-oomd",
    image: Some(&SYSTEMD_OOMD),
    ready: "echo -1000 > /proc/self/oom_score_adj; until pid=$(pidof systemd-oomd); do sleep 0.1; done",
    command: "while kill -0 $pid; do sleep 1; done",
    pid_1: Some("/usr/lib/systemd/systemd"),
    config: &[TARGET, PASSWD, GROUP],
    ..PLAIN
};

pub const AGENTS: &[Agent] = &[
    Agent {
        name: "lowtide",
        settings: "as shipped, with the groups of the device",
        program: "lowtide",
        ..PLAIN
    },
    Agent {
        name: "none",
        settings: "the kernel's OOM killer alone",
        ..PLAIN
    },
    Agent {
        name: "earlyoom",
        settings: "1.8.2 as Debian ships it: `-r 3600`, `Nice=-20`, `OOMScoreAdjust=-100`",
        program: "earlyoom",
        image: Some(&EARLYOOM),
        command: "echo -100 > /proc/self/oom_score_adj; renice -n -20 $$ > /dev/null; \
                  exec earlyoom -r 3600",
        ..PLAIN
    },
    Agent {
        name: "earlyoom, tuned",
        settings: "`-m 10,5 -s 100,100 -r 0 -p --prefer ^media$ --avoid ^(lifeline|sensor|gateway)$`: \
                   swap not waited for, told who matters; `OOMScoreAdjust=-1000`",
        program: "earlyoom",
        image: Some(&EARLYOOM),
        command: "echo -1000 > /proc/self/oom_score_adj; renice -n -20 $$ > /dev/null; \
                  exec earlyoom -m 10,5 -s 100,100 -r 0 -p --prefer '^media$' --avoid '^(lifeline|sensor|gateway)$'",
        ..PLAIN
    },
    Agent {
        name: "nohang",
        settings: "0.2.0 as Debian ships it",
        program: "python3.13",
        image: Some(&NOHANG),
        command: "exec python3.13 -S -u /usr/sbin/nohang --monitor --config /usr/share/nohang/nohang.conf",
        ..PLAIN
    },
    Agent {
        name: "nohang, tuned",
        settings: "10 % (ask) and 5 % (kill) kept unused instead of 5 % and 2 %, PSI some of ten \
                   seconds above 10 % for a second, zram looked at, up to 50 looks a second, told by \
                   cgroup who matters, one second to end, nothing printed; `OOMScoreAdjust=-1000`",
        program: "python3.13",
        image: Some(&NOHANG),
        command: "echo -1000 > /proc/self/oom_score_adj; \
                  exec python3.13 -S -u /usr/sbin/nohang --monitor --config /etc/nohang/nohang.conf",
        config: &[("/etc/nohang/nohang.conf", include_str!("nohang-tuned.conf"))],
        ..PLAIN
    },
    Agent {
        name: "oomd",
        settings: "0.5.0 with the rules that Debian ships and `MemoryLow=64M`, but told the right \
                   cgroup tree (Debian's own line names one that a host without cgroup v1 does not \
                   have)",
        program: "oomd",
        image: Some(&OOMD),
        command: "exec oomd --interval 1 --config /etc/oomd/oomd.json --cgroup-fs /sys/fs/cgroup",
        memory_low: Some("64M"),
        config: &[("/etc/oomd/oomd.json", include_str!("oomd-shipped.json"))],
        ..PLAIN
    },
    Agent {
        name: "oomd, tuned",
        settings: "kills the largest service when the services' PSI some of ten seconds is above 10 % \
                   for a second, or the largest in swap when less than 10 % of it is free; \
                   `MemoryLow=64M`, `OOMScoreAdjust=-1000`",
        program: "oomd",
        image: Some(&OOMD),
        command: "echo -1000 > /proc/self/oom_score_adj; \
                  exec oomd --interval 1 --config /etc/oomd/oomd.json --cgroup-fs /sys/fs/cgroup",
        memory_low: Some("64M"),
        config: &[("/etc/oomd/oomd.json", include_str!("oomd-tuned.json"))],
        ..PLAIN
    },
    Agent {
        name: "systemd-oomd",
        settings: "257 under systemd as Debian ships it, which has it look after the sessions of users \
                   and not after services",
        ..BY_SYSTEMD
    },
    Agent {
        name: "systemd-oomd, tuned",
        settings: "`ManagedOOMMemoryPressure=kill` for `system.slice` above 1 % for a second, \
                   `ManagedOOMSwap=kill` for all when more than 70 % of memory and swap are used, \
                   those who matter marked as `ManagedOOMPreference=omit` marks them",
        config: &[
            TARGET,
            PASSWD,
            GROUP,
            (
                "/etc/systemd/oomd.conf.d/tuned.conf",
                "[OOM]\nDefaultMemoryPressureDurationSec=1s\nSwapUsedLimit=70%\n",
            ),
            (
                "/etc/systemd/system/system.slice.d/tuned.conf",
                "[Slice]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=1%\n",
            ),
            (
                "/etc/systemd/system/-.slice.d/tuned.conf",
                "[Slice]\nManagedOOMSwap=kill\n",
            ),
        ],
        spare: Some("user.oomd_omit"),
        ..BY_SYSTEMD
    },
];

/// Nothing at all, or with the name `lowtide` that.
const PLAIN: Agent = Agent {
    name: "",
    settings: "",
    program: "",
    image: None,
    ready: "true",
    command: "",
    memory_low: None,
    config: &[],
    pid_1: None,
    spare: None,
};

/// Those of a list as `lowtide,oomd`, as shipped and tuned; all without a list.
pub fn named(list: Option<&str>) -> Result<Vec<&'static Agent>> {
    let agents: Vec<_> = AGENTS.iter().filter(|a| among(list, a.plain())).collect();
    ensure!(!agents.is_empty(), "no such agent");
    Ok(agents)
}

/// Each of them once: tuned, where it can be.
pub fn at_their_best() -> Vec<&'static Agent> {
    let settings = AGENTS.chunk_by(|a, b| a.plain() == b.plain());
    settings.filter_map(<[Agent]>::last).collect()
}

/// Whether a list names this; without one all are named.
pub fn among(list: Option<&str>, name: &str) -> bool {
    list.is_none_or(|l| l.split(',').any(|n| n == name))
}

impl Agent {
    /// Its name without how it is set.
    fn plain(&self) -> &'static str {
        self.name.split(',').next().unwrap_or_default()
    }

    /// A device of this scenario with this agent instead of lowtide.
    pub fn guest(
        &self,
        scenario: Scenario,
        memory_mb: u32,
        kernel: &Kernel,
        programs: &Programs,
    ) -> Result<Guest> {
        let mut scenario = named_as_on_a_device(scenario);
        if self.name == "none" {
            scenario = scenario::variants::without_agent(scenario);
        }
        for service in &mut scenario.services {
            if service.name == "lowtide" {
                self.name.clone_into(&mut service.name);
                service.restart_ms = RESTART_MS;
                if !self.command.is_empty() {
                    // What all wait for: not every peer says a word.
                    let command = format!("{}; echo started; {}", self.ready, self.command);
                    service.command = ["/bin/sh", "-c", &command].map(String::from).to_vec();
                }
            }
            if service.after.as_deref() == Some("lowtide") {
                service.after = Some(self.name.into());
            }
        }
        if let Some(low) = self.memory_low {
            scenario.cgroups.push(Cgroup {
                path: AGENT_CGROUP.into(),
                attributes: [("memory.low".into(), low.into())].into(),
                ..Cgroup::default()
            });
        }
        for (path, text) in self.config {
            scenario.files.insert((*path).into(), (*text).into());
        }
        scenario.pid_1 = self.pid_1.map(String::from);
        if let Some(attribute) = self.spare {
            for service in &scenario.services {
                if [LIFELINE, SENSOR, GATEWAY].contains(&&*service.name) {
                    scenario.cgroups.push(Cgroup {
                        path: service.cgroup.clone(),
                        xattrs: [(attribute.into(), "1".into())].into(),
                        ..Cgroup::default()
                    });
                }
            }
        }
        scenario.counted = true;
        let files = self.files()?;
        // Otherwise what a device has on flash would be taken from its memory.
        let image_mb = files
            .iter()
            .map(|(host, _)| size(host))
            .sum::<Result<u64>>()?
            >> 20;
        Ok(Guest {
            kernel: kernel.clone(),
            programs: programs.clone(),
            memory_mb: memory_mb + KERNEL_MB + u32::try_from(image_mb)?,
            scenario,
            files,
            append: String::new(),
        })
    }

    /// What goes into the guest for it, and where; nothing for lowtide, which is in every guest.
    pub fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        self.image.map_or_else(|| Ok(Vec::new()), Image::files)
    }
}

/// Services with the names that a device gives them: their cgroups are in `system.slice`, where some
/// peers look, and their processes are called as they are, which is what others go by.
fn named_as_on_a_device(mut scenario: Scenario) -> Scenario {
    let in_slice = |path: &str| path.replace("apps/", "system.slice/");
    for service in &mut scenario.services {
        service.cgroup = in_slice(&service.cgroup);
        if let Some((GUEST, arguments)) = service.command.split_first().map(|(p, a)| (&**p, a)) {
            let program = format!("/run/{}", service.name);
            let command = format!(
                "ln -s {GUEST} {program}; exec {program} {}",
                arguments.join(" ")
            );
            service.command = ["/bin/sh", "-c", &command].map(String::from).to_vec();
        }
    }
    for cgroup in &mut scenario.cgroups {
        cgroup.path = in_slice(&cgroup.path);
    }
    if let Some(config) = scenario.files.get_mut(CONFIG) {
        *config = in_slice(config);
    }
    scenario
}

impl Image {
    /// What goes into the guest, and where.
    fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        let dir =
            dirs::cache("peers")?.join(format!("{SUITE}-{}", self.parts[0].replace('/', "-")));
        dirs::make_once(&dir, |into| {
            Apt::open(SUITE, Arch::X86_64.debian())?.unpack(self.packages, into)
        })?;
        let usr = dir.join("usr");
        let mut files: Vec<_> = self
            .parts
            .iter()
            .map(|part| (usr.join(part), format!("/usr/{part}")))
            .collect();
        let loader = "lib64/ld-linux-x86-64.so.2";
        files.push((usr.join(loader), format!("/{loader}")));
        Ok(files)
    }
}

/// Of a file or of all below a directory, in bytes.
pub fn size(path: &Path) -> Result<u64> {
    let metadata = fs::metadata(path).with_context(|| format!("no {}", path.display()))?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    fs::read_dir(path)?
        .map(|entry| {
            let entry = entry?;
            // A link may lead nowhere, and is as small as nothing.
            if entry.file_type()?.is_symlink() {
                Ok(0)
            } else {
                size(&entry.path())
            }
        })
        .sum()
}
