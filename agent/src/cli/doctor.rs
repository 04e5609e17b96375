use super::output::{complain, print};
use super::trial;
#[cfg(feature = "bpf")]
use crate::act::reflex::Reflex;
use crate::config::{self, Ballast, Paths, Wake};
use crate::json::Json;
use crate::sense::alarms;
#[cfg(feature = "bpf")]
use crate::sense::arm;
use crate::sense::ballast;
#[cfg(feature = "bpf")]
use crate::sense::bpf;
use crate::sense::choose::{self, Chosen, Wanted, no_memcgs};
#[cfg(feature = "bpf")]
use crate::sense::kfunc::{self, KFUNCS};
use crate::sense::meminfo::{Meminfo, raised_marks};
use crate::sense::other_killers::other_killers;
use crate::sense::psi;
use crate::sense::tree::Tree;
use crate::sys;
use crate::tell::decisions::Persistent;
use crate::tell::table::{Column, Table};
use crate::units::Size;
use lowtide_judge::{Memory, Policy, Stall, Trigger};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Says what this kernel offers, which engine that gives, and what to set to get more.
/// Changes nothing, but for --test.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "doctor")]
pub struct Doctor {
    /// read this file instead of those of the system; may be given more than once, later ones
    /// set single keys over earlier ones
    #[argh(option, arg_name = "file")]
    config: Vec<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// show that the running agent acts: a child fills a cgroup that has a small limit of its own, and the
    /// agent is to end it. Asks before
    #[argh(switch)]
    test: bool,
    /// do not ask before --test
    #[argh(switch)]
    yes: bool,
}

impl Doctor {
    /// Fails when the agent could not run here.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        if self.test {
            return test(self.yes);
        }
        // A config that cannot be used is for `lowtide check` to tell.
        let any = Wanted {
            kind: None,
            bpf_jit: true,
            rows: 1,
            verifier_log: false,
        };
        let all = Wake {
            trigger: Some(TRIGGER),
            ballast: Ballast::Auto,
        };
        let config = config::load(&Paths::new(None, self.config)).ok();
        let policy = config.as_ref().map(|config| &config.policy);
        let (wanted, wake) = config
            .as_ref()
            .map_or((any, all), |config| (config.engine.into(), config.wake));
        match Diagnosis::make(&wanted, &wake, policy) {
            Ok(diagnosis) if self.json => print(diagnosis.json(), ExitCode::SUCCESS),
            Ok(diagnosis) => print(diagnosis.text(), ExitCode::SUCCESS),
            Err(error) => {
                complain(error);
                ExitCode::FAILURE
            }
        }
    }
}

fn test(is_agreed: bool) -> ExitCode {
    let shown = match is_agreed || trial::is_agreed().is_ok_and(|yes| yes) {
        true => trial::run(),
        false => Err(io::Error::other(
            "nothing was done; it wants a yes, or --yes",
        )),
    };
    match shown {
        Ok(text) => print(text, ExitCode::SUCCESS),
        Err(error) => {
            complain(format_args!("lowtide doctor --test: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One that any kernel with PSI takes.
const TRIGGER: Trigger = Trigger {
    stall: Stall::Some,
    stall_us: 50_000,
    window_us: 1_000_000,
};

/// What wakes the agent, as findings are named.
const WATCH: &str = "watch";
const PSI: &str = "PSI";
const BALLAST: &str = "ballast";

struct Diagnosis {
    release: String,
    /// What would wake the agent.
    woken_by: String,
    chosen: Chosen,
    findings: Vec<Finding>,
}

/// One thing that a kernel has or lacks.
struct Finding {
    name: String,
    has: bool,
    /// What is lost without it, and how to get it.
    lack: String,
}

impl Finding {
    fn new(name: impl Into<String>, has: bool, lack: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            has,
            lack: lack.into(),
        }
    }
}

impl Diagnosis {
    fn make(wanted: &Wanted, wake: &Wake, policy: Option<&Policy>) -> io::Result<Self> {
        let tree = Tree::open()?;
        let memory = Meminfo::open()?.read()?;
        let mut findings = vec![
            as_root(),
            watch(&memory),
            pressure(memory.psi),
            ballast(&tree, &memory),
        ];
        let woken_by = woken_by(&findings, wake);
        findings.push(cgroups(&tree));
        findings.extend(cgroup_files(&tree));
        findings.extend(bpf(wanted));
        // What the agent would change on the way is left as it is.
        let wanted = Wanted {
            bpf_jit: false,
            ..*wanted
        };
        let chosen = choose::open(&wanted, &tree)?;
        findings.extend(reflex(&chosen));
        findings.push(mrelease());
        findings.push(compaction());
        findings.push(swap());
        findings.push(alone());
        findings.push(outlives());
        findings.extend(policy.and_then(|policy| critical(policy, memory.total, raised_marks())));
        Ok(Self {
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            woken_by,
            chosen,
            findings,
        })
    }

    fn text(&self) -> String {
        let mut table = Table::new([Column::Text, Column::Text], ["", ""]);
        for finding in &self.findings {
            table.line([
                finding.name.clone(),
                if finding.has { "yes" } else { "no" }.to_owned(),
            ]);
        }
        let mut out = format!(
            "Linux {}: the {} engine, woken by {}\n",
            self.release,
            self.chosen.engine.name(),
            self.woken_by
        );
        out.push_str(&table.to_string());
        let lacks: Vec<_> = self.findings.iter().filter(|f| !f.has).collect();
        for same in lacks.chunk_by(|a, b| a.lack == b.lack) {
            let more = match same.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            out.push_str(&format!("\n{}{more}:\n", same[0].name));
            for line in wrapped(&same[0].lack) {
                out.push_str(&format!("  {line}\n"));
            }
        }
        out
    }

    fn json(&self) -> Json {
        let finding = |f: &Finding| {
            Json::Object(vec![
                ("name", Json::text(&f.name)),
                ("has", f.has.into()),
                ("lack", Json::text(&f.lack)),
            ])
        };
        Json::Object(vec![
            ("kernel", Json::text(&self.release)),
            ("engine", Json::text(self.chosen.engine.name())),
            ("woken_by", Json::text(&self.woken_by)),
            ("notes", self.chosen.notes.iter().map(Json::text).collect()),
            ("findings", self.findings.iter().map(finding).collect()),
        ])
    }
}

/// What takes rights seems to be missing without them.
fn as_root() -> Finding {
    Finding::new(
        "run as root",
        rustix::process::geteuid().is_root(),
        "what takes rights is said to be missing here, whatever the kernel has: run as root",
    )
}

/// The watch is opened and closed again.
#[cfg(feature = "bpf")]
fn watch(memory: &Memory) -> Finding {
    let lack = arm::watch(false, memory).err();
    let lack = lack.map(|why| format!("memory is not watched as it is taken: {why}"));
    Finding::new(WATCH, lack.is_none(), lack.unwrap_or_default())
}

#[cfg(not(feature = "bpf"))]
fn watch(_: &Memory) -> Finding {
    Finding::new(WATCH, false, "built without the feature `bpf`")
}

fn ballast(tree: &Tree, memory: &Memory) -> Finding {
    let lack = ballast::lacks(tree).or_else(|| ballast::size(None, memory.total).err());
    Finding::new(BALLAST, lack.is_none(), lack.unwrap_or_default())
}

/// `watch and PSI`, as the agent takes them by this config.
fn woken_by(alarms: &[Finding], wake: &Wake) -> String {
    let has = |name| alarms.iter().any(|alarm| alarm.name == name && alarm.has);
    let ballast = match wake.ballast {
        Ballast::Off => false,
        Ballast::Auto => !has(WATCH),
        Ballast::Bytes(_) => true,
    };
    alarms::names([
        has(WATCH),
        has(PSI) && wake.trigger.is_some(),
        has(BALLAST) && ballast,
    ])
}

fn pressure(has_psi: bool) -> Finding {
    let lack = if has_psi {
        match psi::try_trigger(&TRIGGER) {
            Ok(()) => return Finding::new(PSI, true, ""),
            Err(why) => return Finding::new(PSI, false, why),
        }
    } else if command_line("psi=0") {
        "off by `psi=0` on the kernel's command line"
    } else {
        "what thrashes is not seen; build the kernel with CONFIG_PSI=y and boot it with psi=1 \
         (OpenWrt: CONFIG_KERNEL_PSI=y; Yocto: DISTRO_FEATURES:append = \" lowtide\")"
    };
    Finding::new(PSI, false, lack)
}

fn cgroups(tree: &Tree) -> Finding {
    let lack = no_memcgs(tree);
    Finding::new("memory cgroups", lack.is_none(), lack.unwrap_or_default())
}

/// Files of a cgroup, and what is lost without them.
const FILES: [(&str, &str); 6] = [
    (
        "memory.reclaim",
        "file cache cannot be taken before a kill; Linux 5.19",
    ),
    (
        "cgroup.kill",
        "the processes of a cgroup are killed one by one; Linux 5.14",
    ),
    ("cgroup.freeze", "no cgroup can be held back; Linux 5.2"),
    (
        "memory.min",
        "no cgroup can be protected from reclaim; Linux 4.18",
    ),
    (
        "memory.oom.group",
        "the kernel's own OOM killer takes single processes; Linux 4.19",
    ),
    (
        "memory.pressure",
        "stalls of one cgroup are not seen; CONFIG_PSI=y",
    ),
];

fn cgroup_files(tree: &Tree) -> Vec<Finding> {
    let entries = fs::read_dir(tree.mount()).into_iter().flatten().flatten();
    let mut dirs = entries.map(|entry| entry.path());
    // The root has not all of them.
    let Some(memcg) = dirs.find(|dir| dir.join("memory.current").exists()) else {
        return Vec::new();
    };
    FILES
        .map(|(file, lack)| Finding::new(file, memcg.join(file).exists(), lack))
        .into()
}

#[cfg(not(feature = "bpf"))]
fn reflex(_: &Chosen) -> Vec<Finding> {
    Vec::new()
}

/// Loads it for a moment, told to do nothing.
#[cfg(feature = "bpf")]
fn reflex(chosen: &Chosen) -> Vec<Finding> {
    let lack = match chosen.engine.policy_map() {
        Some(rules) => Reflex::open(rules, true, false)
            .err()
            .map(|why| why.to_string()),
        None => Some("it needs the kfunc engine; Linux 7.0".to_owned()),
    };
    let has = lack.is_none();
    let mut findings = vec![Finding::new("reflex", has, lack.unwrap_or_default())];
    if asks_before_oom() {
        findings.push(Finding::new("BPF OOM handlers (bpf_oom_ops)", true, ""));
    }
    findings
}

/// Whether the kernel can ask a BPF program before its own OOM killer chooses. None that is released can.
#[cfg(feature = "bpf")]
fn asks_before_oom() -> bool {
    const HANDLER: bpf::Wanted<'_> = bpf::Wanted::Member("bpf_oom_ops", "handle_out_of_memory");
    let kernel = bpf::KernelBtf::open();
    let found = kernel.and_then(|kernel| Ok(kernel.types()?.find(&[HANDLER])));
    found.is_ok_and(|found| found.iter().any(Option::is_some))
}

/// What is missing of it does not matter.
#[cfg(not(feature = "bpf"))]
fn bpf(_: &Wanted) -> Vec<Finding> {
    Vec::new()
}

#[cfg(feature = "bpf")]
fn bpf(wanted: &Wanted) -> Vec<Finding> {
    let kernel = "kfunc engine only; Linux 7.0 with CONFIG_MEMCG=y";
    let btf = File::open(bpf::BTF).is_ok();
    let mut findings = vec![Finding::new(
        "kernel BTF",
        btf,
        "kfunc engine only; CONFIG_DEBUG_INFO_BTF=y (OpenWrt: CONFIG_KERNEL_DEBUG_INFO_BTF=y; \
         Yocto: KERNEL_DEBUG = \"True\")",
    )];
    if let Ok(here) = kfunc::kfuncs_here() {
        let kfuncs = KFUNCS.iter().zip(here);
        findings.extend(kfuncs.map(|(name, has)| Finding::new(*name, has, kernel)));
    } else if btf {
        findings.push(Finding::new(KFUNCS[0], false, kernel));
    }
    if let Ok(text) = fs::read_to_string(bpf::JIT) {
        let agent = if wanted.bpf_jit {
            "the agent turns it on where it needs it"
        } else {
            "kfunc engine only; the config forbids the agent to turn it on: bpf_jit = true under \
             [engine]"
        };
        findings.push(Finding::new("BPF JIT", text.trim() != "0", agent));
    }
    findings
}

fn mrelease() -> Finding {
    let has = File::open("/proc")
        .and_then(sys::process_mrelease)
        .is_err_and(|error| error.raw_os_error() != Some(libc::ENOSYS));
    Finding::new(
        "process_mrelease",
        has,
        "a victim's memory comes back when it is scheduled to exit, and not before; Linux 5.15",
    )
}

/// Measured: 4 to 8 ms of waiting now and then, on a device of 512 MB that thrashed.
fn compaction() -> Finding {
    let moves = fs::read_to_string("/proc/sys/vm/compact_unevictable_allowed");
    Finding::new(
        "locked pages stay",
        // Not there: there is no compaction.
        moves.map_or(true, |text| text.trim() == "0"),
        "the agent waits some milliseconds whenever compaction moves its pages; sysctl \
         vm.compact_unevictable_allowed=0",
    )
}

fn swap() -> Finding {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let zram = swaps.lines().any(|line| line.starts_with("/dev/zram"));
    let lack = if swaps.lines().count() > 1 {
        "swap is not zram: its figures are those of the swap space alone"
    } else {
        "no swap: memory ends with little warning; zram gives a warning and more room"
    };
    Finding::new("swap on zram", zram, lack)
}

/// Whether the reason for a restart outlives it, see [`Persistent`].
fn outlives() -> Finding {
    const REASON: &str = "/sys/module/ramoops/parameters/max_reason";
    // `KMSG_DUMP_SHUTDOWN` of the kernel's enum kmsg_dump_reason, which is a restart as well.
    const RESTART: u32 = 4;
    let reason = || fs::read_to_string(REASON).ok()?.trim().parse::<u32>().ok();
    let lack = match Persistent::open() {
        None => {
            "what was decided last is not known after a restart, but for what [history] keeps in a file; \
             memory for ramoops on the kernel's command line: see docs/monitoring.md"
        }
        Some(kept) if !kept.at_once() && reason().is_some_and(|reason| reason < RESTART) => {
            "the kernel keeps its log when it panics, and not when it restarts; ramoops.max_reason=4 on its \
             command line"
        }
        Some(_) => "",
    };
    Finding::new("reasons outlive a restart (pstore)", lack.is_empty(), lack)
}

/// Whether no other OOM killer runs.
fn alone() -> Finding {
    let others = other_killers();
    let lack = format!(
        "{} may kill first, and by another order; keep one of the two (systemctl disable --now NAME)",
        others.join(" and ")
    );
    Finding::new("the only OOM killer", others.is_empty(), lack)
}

/// Whether the level that kills holds before the kernel's OOM killer comes. That comes with `raised`
/// bytes available: MemAvailable leaves out the kernel's own marks, and not by how much they are raised
/// for a while after a shortage. `None` where it does not depend on available memory.
fn critical(policy: &Policy, total: u64, raised: u64) -> Option<Finding> {
    let level = policy.levels.last()?;
    let mark = level.confirm.available_mark(total)?;
    Some(Finding::new(
        "critical before the OOM killer",
        mark > raised,
        format!(
            "critical holds below {} available, and the kernel's OOM killer comes at about {}: its marks \
             are raised by so much after a shortage; a higher available_below, or sysctl \
             vm.watermark_boost_factor=0",
            Size(mark),
            Size(raised)
        ),
    ))
}

/// Lines of at most 90 characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.len() + word.len() < 90);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Whether a word is on the kernel's command line.
fn command_line(word: &str) -> bool {
    fs::read_to_string("/proc/cmdline")
        .is_ok_and(|line| line.split_ascii_whitespace().any(|w| w == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_below_the_kernels_is_said() {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/config.toml");
        let Ok(config) = config::load(&Paths::new(None, vec![shipped.into()])) else {
            panic!("the shipped config");
        };
        let policy = &config.policy;
        let total = 128 << 20;
        assert!(critical(policy, total, 0).unwrap().has);
        let raised = critical(policy, total, 12 << 20).unwrap();
        assert!(!raised.has);
        assert!(raised.lack.contains("at about 12M"), "{}", raised.lack);
    }
}
