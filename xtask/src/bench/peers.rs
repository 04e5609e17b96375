//! lowtide and its peers under the same loads, each in a guest of its own.

use super::record::{self, Of, Place, Record};
use crate::apt::Apt;
use crate::dirs;
use crate::guest_tests;
use crate::kernel::{self, Kernel};
use crate::loads::{Cell, KERNEL_MB, Swap};
use crate::programs::{self, Profile, Programs};
use crate::qemu;
use crate::scenarios::{self, CONFIG};
use crate::shell::{output, say};
use crate::target::Arch;
use crate::vm::{GUEST, Guest, Run};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide_guest::{Cgroup, Scenario};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

/// Debian release that the peers are from.
const SUITE: &str = "trixie";
/// From the agent's first line to the load: Python takes that long to be ready.
const READY_MS: u64 = 6000;
const SAMPLE_MS: u64 = 50;
/// Of the agent.
const AGENT_CGROUP: &str = "lowtide";
/// How long the agent's service is gone when it ended, as under systemd.
const RESTART_MS: u64 = 100;

struct Load {
    name: &'static str,
    /// How the device swaps under it.
    swap: Swap,
    /// From boot until nothing new is to be expected of it.
    limit_s: u64,
}

const LOADS: [Load; 6] = [
    Load::new("fast-hog", Swap::None, 20),
    Load::new("slow-leak", Swap::None, 60),
    Load::new("fork-storm", Swap::None, 20),
    Load::new("refault", Swap::None, 24),
    Load::new("tmpfs", Swap::None, 40),
    Load::new("zram-thrash", Swap::Zram, 30),
];

impl Load {
    const fn new(name: &'static str, swap: Swap, limit_s: u64) -> Self {
        Self {
            name,
            swap,
            limit_s,
        }
    }
}

/// One load on one device.
struct Case {
    place: Place,
    cell: Cell,
    limit_s: u64,
}

/// Something that is to keep a device from running out of memory.
pub struct Agent {
    pub name: &'static str,
    /// How it is set, for the report.
    pub settings: &'static str,
    image: Option<&'static Image>,
    /// What the shell starts it with.
    command: &'static str,
    /// What its unit asks for, as the kernel takes it.
    memory_low: Option<&'static str>,
    /// Its config: where it lies, and the text.
    config: Option<(&'static str, &'static str)>,
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

pub const AGENTS: &[Agent] = &[
    Agent {
        name: "lowtide",
        settings: "as shipped, with the groups of the device",
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
        image: Some(&EARLYOOM),
        command: "echo -100 > /proc/self/oom_score_adj; renice -n -20 $$ > /dev/null; \
                  exec earlyoom -r 3600",
        ..PLAIN
    },
    Agent {
        name: "earlyoom, tuned",
        settings: "`-m 10,5 -s 100,100 -r 0 -p --prefer ^media$ --avoid ^(lifeline|sensor|gateway)$`: \
                   swap not waited for, told who matters; `OOMScoreAdjust=-1000`",
        image: Some(&EARLYOOM),
        command: "echo -1000 > /proc/self/oom_score_adj; renice -n -20 $$ > /dev/null; \
                  exec earlyoom -m 10,5 -s 100,100 -r 0 -p --prefer '^media$' --avoid '^(lifeline|sensor|gateway)$'",
        ..PLAIN
    },
    Agent {
        name: "nohang",
        settings: "0.2.0 as Debian ships it",
        image: Some(&NOHANG),
        command: "exec python3.13 -S -u /usr/sbin/nohang --monitor --config /usr/share/nohang/nohang.conf",
        ..PLAIN
    },
    Agent {
        name: "nohang, tuned",
        settings: "10 % (ask) and 5 % (kill) kept unused instead of 5 % and 2 %, PSI some of ten \
                   seconds above 10 % for a second, zram looked at, up to 50 looks a second, told by \
                   cgroup who matters, one second to end, nothing printed; `OOMScoreAdjust=-1000`",
        image: Some(&NOHANG),
        command: "echo -1000 > /proc/self/oom_score_adj; \
                  exec python3.13 -S -u /usr/sbin/nohang --monitor --config /etc/nohang/nohang.conf",
        config: Some(("/etc/nohang/nohang.conf", include_str!("nohang-tuned.conf"))),
        ..PLAIN
    },
    Agent {
        name: "oomd",
        settings: "0.5.0 with the rules that Debian ships and `MemoryLow=64M`, but told the right \
                   cgroup tree (Debian's own line names one that a host without cgroup v1 does not \
                   have)",
        image: Some(&OOMD),
        command: "exec oomd --interval 1 --config /etc/oomd/oomd.json --cgroup-fs /sys/fs/cgroup",
        memory_low: Some("64M"),
        config: Some(("/etc/oomd/oomd.json", include_str!("oomd-shipped.json"))),
    },
    Agent {
        name: "oomd, tuned",
        settings: "kills the largest service when the services' PSI some of ten seconds is above 10 % \
                   for a second, or the largest in swap when less than 10 % of it is free; \
                   `MemoryLow=64M`, `OOMScoreAdjust=-1000`",
        image: Some(&OOMD),
        command: "echo -1000 > /proc/self/oom_score_adj; \
                  exec oomd --interval 1 --config /etc/oomd/oomd.json --cgroup-fs /sys/fs/cgroup",
        memory_low: Some("64M"),
        config: Some(("/etc/oomd/oomd.json", include_str!("oomd-tuned.json"))),
    },
];

/// Nothing at all, or with the name `lowtide` that.
const PLAIN: Agent = Agent {
    name: "",
    settings: "",
    image: None,
    command: "",
    memory_low: None,
    config: None,
};

/// run lowtide and its peers under the same loads, and keep a JSON line of each run
#[derive(FromArgs)]
#[argh(subcommand, name = "peers")]
pub struct Peers {
    /// kernel version, e.g. 7.2; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// sizes of the device in MiB; 128,256,512 if absent
    #[argh(option, default = "String::from(\"128,256,512\")")]
    memory: String,
    /// only these loads, e.g. fast-hog,refault
    #[argh(option)]
    load: Option<String>,
    /// only these agents, e.g. "lowtide,oomd"; "oomd" is also "oomd, tuned"
    #[argh(option)]
    agent: Option<String>,
    /// runs of each cell
    #[argh(option, default = "5")]
    runs: u32,
    /// where the lines are added; docs/bench/peers.jsonl if absent
    #[argh(option)]
    out: Option<PathBuf>,
}

impl Peers {
    pub fn run(self) -> Result<()> {
        let among = |list: &Option<String>, name: &str| {
            list.as_ref()
                .is_none_or(|l| l.split(',').any(|n| n == name))
        };
        let agents: Vec<_> = AGENTS
            .iter()
            .filter(|a| among(&self.agent, a.name.split(',').next().unwrap_or_default()))
            .collect();
        ensure!(!agents.is_empty(), "no such agent");
        let mut cases = Vec::new();
        for size in self.memory.split(',') {
            let memory_mb = size
                .parse()
                .with_context(|| format!("{size:?} is no size"))?;
            for load in LOADS.iter().filter(|load| among(&self.load, load.name)) {
                cases.push(Case {
                    place: Place {
                        load: load.name.to_owned(),
                        memory_mb,
                        swap: load.swap.name().to_owned(),
                    },
                    cell: Cell::find(load.name, memory_mb, load.swap).context("no such load")?,
                    limit_s: load.limit_s,
                });
            }
        }
        ensure!(!cases.is_empty(), "no such load");

        let arch = Arch::X86_64;
        let kernel = kernel::find(arch, self.kernel.as_deref())?;
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Release)?;
        let commit = output(
            Command::new("git")
                .current_dir(dirs::workspace())
                .args(["describe", "--always", "--dirty"]),
        )?;
        let out = self.out.unwrap_or_else(record::kept);
        let before = record::read(&out)?;
        if let Some(parent) = out.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut runs = Vec::new();
        for round in 1..=self.runs {
            for case in &cases {
                for agent in &agents {
                    let same = |r: &&Record| r.of.place == case.place && r.of.agent == agent.name;
                    let of = Of {
                        agent: agent.name.to_owned(),
                        place: case.place.clone(),
                        run: before.iter().filter(same).count() as u32 + round,
                        kernel: kernel.release.clone(),
                        commit: commit.trim().to_owned(),
                    };
                    runs.push((*agent, case, of));
                }
            }
        }
        let kept = Mutex::new(File::options().append(true).create(true).open(&out)?);
        let done = guest_tests::in_parallel(&runs, |(agent, case, of)| {
            let record = agent
                .measure(case, of, &kernel, &programs)
                .inspect_err(|error| say(format_args!("{error:#}")))?;
            let line = serde_json::to_string(&record)?;
            writeln!(kept.lock().expect("no panic under it"), "{line}")?;
            Ok(())
        });
        done.into_iter().collect()
    }
}

impl Agent {
    /// Runs it once under this load.
    fn measure(
        &self,
        case: &Case,
        of: &Of,
        kernel: &Kernel,
        programs: &Programs,
    ) -> Result<Record> {
        let head = format!(
            "{} {} {} #{}",
            of.place.load, of.place.memory_mb, of.agent, of.run
        );
        let start = Instant::now();
        let mut events = Vec::new();
        let ended = self
            .guest(case, kernel, programs)?
            .run(|event| events.push(event.clone()));
        let failure = ended.err().map(|error| {
            let all = format!("{error:#}");
            let panic = all.lines().find(|line| line.contains("Kernel panic"));
            panic.or(all.lines().next()).unwrap_or_default().to_owned()
        });
        let record = Record::new(of.clone(), case.cell, &Run { events }, failure)
            .with_context(|| head.clone())?;
        say(format_args!(
            "{head}: {:?}, relief {:?} ms, done in {} s",
            record.outcome,
            record.relief_ms,
            start.elapsed().as_secs()
        ));
        Ok(record)
    }

    /// The device with this load and this agent.
    fn guest(&self, case: &Case, kernel: &Kernel, programs: &Programs) -> Result<Guest> {
        let mut scenario = named_as_on_a_device(case.cell.scenario());
        if self.name == "none" {
            scenario = scenarios::without_agent(scenario);
        }
        for service in &mut scenario.services {
            if service.name == "lowtide" {
                self.name.clone_into(&mut service.name);
                service.restart_ms = RESTART_MS;
                if !self.command.is_empty() {
                    // What all wait for: not every peer says a word.
                    let command = format!("echo started; {}", self.command);
                    service.command = ["/bin/sh", "-c", &command].map(String::from).to_vec();
                }
            }
            if service.after.as_deref() == Some("lowtide") {
                service.after = Some(self.name.into());
            }
            if service.name == scenarios::HOG {
                service.start_ms = READY_MS;
            }
        }
        if let Some(low) = self.memory_low {
            scenario.cgroups.push(Cgroup {
                path: AGENT_CGROUP.into(),
                attributes: [("memory.low".into(), low.into())].into(),
            });
        }
        let mut files = Vec::new();
        if let Some((path, text)) = self.config {
            scenario.files.insert(path.into(), text.into());
        }
        if let Some(image) = self.image {
            files = image.files()?;
        }
        // Otherwise what a device has on flash would be taken from its memory.
        let image_mb = files
            .iter()
            .map(|(host, _)| size(host))
            .sum::<Result<u64>>()?
            >> 20;
        scenario.limit_s = case.limit_s;
        scenario.sample_ms = SAMPLE_MS;
        scenario.counted = true;
        Ok(Guest {
            kernel: kernel.clone(),
            programs: programs.clone(),
            memory_mb: case.place.memory_mb + KERNEL_MB + u32::try_from(image_mb)?,
            scenario,
            files,
            append: String::new(),
        })
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
fn size(path: &Path) -> Result<u64> {
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
