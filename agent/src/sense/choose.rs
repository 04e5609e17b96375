//! Which engine the evidence comes from: the best one that works here, found by trying.

use super::Engine;
#[cfg(feature = "bpf")]
use super::bpf::{self, Missing};
use super::cgroupfs::Cgroupfs;
#[cfg(feature = "bpf")]
use super::kfunc::{self, Kfunc};
#[cfg(feature = "bpf")]
use super::meminfo::Meminfo;
use super::procfs::Procfs;
use super::tree::Tree;
use crate::config::{EngineChoice, EngineKind as Kind};
#[cfg(feature = "bpf")]
use crate::units::Size;
use lowtide_common::{Request, Rule};
use std::io;
use std::os::unix::ffi::OsStrExt as _;

/// Memcgs that can have a rule of their own, and that an engine in user space looks at.
const MEMCGS: u32 = 4096;

/// Processes that the engine on those looks at.
const PROCESSES: usize = 1024;

/// What the config and the command line ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: the best that works.
    pub kind: Option<Kind>,
    /// See [`EngineChoice::bpf_jit`].
    pub bpf_jit: bool,
    /// Rows that a survey with [`lowtide_common::Request::ALL_ROWS`] can show; at least 1.
    pub rows: u32,
    /// Keep the verifier's words when it refuses.
    pub verifier_log: bool,
}

impl From<EngineChoice> for Wanted {
    fn from(choice: EngineChoice) -> Self {
        Self {
            kind: choice.kind,
            bpf_jit: choice.bpf_jit,
            rows: 1,
            verifier_log: false,
        }
    }
}

pub struct Chosen {
    pub engine: Box<dyn Engine>,
    /// What was changed on the system, and why a better engine does not work: a line each.
    pub notes: Vec<String>,
}

/// Opens the engine. An error when the one that is wanted does not work here.
pub fn open(wanted: &Wanted, tree: &Tree) -> io::Result<Chosen> {
    let mut notes = Vec::new();
    let without_memcgs = no_memcgs(tree);
    let kinds = match (&wanted.kind, &without_memcgs) {
        (Some(kind), _) => std::slice::from_ref(kind),
        (None, None) => &[Kind::Kfunc, Kind::Cgroupfs, Kind::Procfs][..],
        (None, Some(why)) => {
            notes.push(format!("not the engines on cgroups: {why}"));
            &[Kind::Procfs]
        }
    };
    let mut refused = String::new();
    for kind in kinds {
        let opened = match (kind, &without_memcgs) {
            (Kind::Procfs, _) => procfs(wanted),
            (_, Some(why)) => Err(why.to_string()),
            (Kind::Kfunc, None) => kfunc(wanted, tree, &mut notes),
            (Kind::Cgroupfs, None) => cgroupfs(wanted, tree),
        };
        match opened.and_then(tried) {
            Ok(engine) => return Ok(Chosen { engine, notes }),
            Err(why) => {
                refused = format!("not the {} engine: {why}", kind.name());
                notes.push(refused.clone());
            }
        }
    }
    Err(io::Error::other(refused))
}

/// It has to answer once: what may be opened need not be permitted to run.
fn tried(mut engine: Box<dyn Engine>) -> Result<Box<dyn Engine>, String> {
    let request = Request {
        worth: 0,
        classified_up_to: u64::MAX,
        fallback: Rule::UNTOUCHABLE,
        within: 0,
        flags: 0,
        _reserved: 0,
    };
    match engine.run(&request) {
        Ok(()) => Ok(engine),
        Err(error) => Err(format!("it does not run: {error}")),
    }
}

/// Why there are no memory cgroups to choose from; `None` where there are.
pub fn no_memcgs(tree: &Tree) -> Option<&'static str> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !tree.lists(c"cgroup.controllers", "memory") {
        Some(if is_on_v1(&mounts) {
            "the memory controller is on cgroup v1; boot with cgroup_no_v1=memory, or on systemd \
             with systemd.unified_cgroup_hierarchy=1"
        } else if tree.root().is_err() {
            "no cgroup2 is mounted; `mount -t cgroup2 none /sys/fs/cgroup`, on a kernel with \
             CONFIG_MEMCG=y"
        } else {
            "the kernel has no memory controller; build it with CONFIG_MEMCG=y, and boot it without \
             cgroup_disable=memory, on a Raspberry Pi with cgroup_enable=memory"
        })
    } else if tree.lists(c"cgroup.subtree_control", "memory") && has_others(tree) {
        None
    } else {
        Some(
            "all share one memory cgroup; write +memory to cgroup.subtree_control and start each \
             service in a cgroup of its own to have it ranked as a whole",
        )
    }
}

/// Whether there is any cgroup below the root but the agent's: the ballast may have it make one for
/// itself where nothing else has any.
fn has_others(tree: &Tree) -> bool {
    let entries = std::fs::read_dir(tree.mount())
        .into_iter()
        .flatten()
        .flatten();
    let mut dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.any(|dir| {
        let id = tree.id_of(dir.file_name().as_bytes());
        id.is_ok_and(|id| !tree.is_own(id))
    })
}

fn is_on_v1(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(2);
        fields.next() == Some("cgroup")
            && fields
                .next()
                .is_some_and(|o| o.split(',').any(|o| o == "memory"))
    })
}

fn procfs(wanted: &Wanted) -> Result<Box<dyn Engine>, String> {
    let engine = Procfs::open(PROCESSES, wanted.rows as usize);
    engine.map(boxed).map_err(|error| format!("/proc: {error}"))
}

fn cgroupfs(wanted: &Wanted, tree: &Tree) -> Result<Box<dyn Engine>, String> {
    let engine = Cgroupfs::open(tree, MEMCGS as usize, wanted.rows as usize);
    engine.map(boxed).map_err(|error| error.to_string())
}

fn boxed(engine: impl Engine + 'static) -> Box<dyn Engine> {
    Box::new(engine)
}

#[cfg(not(feature = "bpf"))]
fn kfunc(_: &Wanted, _: &Tree, _: &mut Vec<String>) -> Result<Box<dyn Engine>, String> {
    Err("this lowtide is built without it".to_owned())
}

#[cfg(feature = "bpf")]
fn kfunc(wanted: &Wanted, tree: &Tree, notes: &mut Vec<String>) -> Result<Box<dyn Engine>, String> {
    // It would rank cgroups that cannot be seen from here.
    if tree.has(c"cgroup.type") {
        return Err(
            "/sys/fs/cgroup is not the root of the cgroup tree, as in a container; only what is \
             below it is looked at"
                .to_owned(),
        );
    }
    let available = Meminfo::open().and_then(|meminfo| meminfo.read());
    let available = available.map_or(0, |memory| memory.available);
    if available < bpf::LOADING {
        return Err(format!(
            "the kernel must have {} of memory to verify its program, and {} are available",
            Size(bpf::LOADING),
            Size(available)
        ));
    }
    let options = kfunc::Options {
        max_rules: MEMCGS,
        rows: wanted.rows,
        verifier_log: wanted.verifier_log,
    };
    let root = tree.root().map_err(|error| error.to_string())?;
    let mut opened = Kfunc::open(&options, root);
    if wanted.bpf_jit
        && matches!(opened, Err(Missing::Jit))
        && std::fs::write(bpf::JIT, "1").is_ok()
    {
        notes.push(format!(
            "turned the BPF JIT on ({} was 0); `bpf_jit = false` under [engine] forbids it",
            bpf::JIT
        ));
        opened = Kfunc::open(&options, root);
    }
    opened.map(boxed).map_err(|missing| missing.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_of_a_hybrid_host_is_seen() {
        let unified = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n";
        let memory = "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0\n";
        let cpu = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n";
        assert!(is_on_v1(&format!("{unified}{cpu}{memory}")));
        assert!(!is_on_v1(&format!("{unified}{cpu}")));
    }
}
