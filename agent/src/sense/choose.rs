//! Which engine the evidence comes from: the best one that works here, found by trying.

use super::Engine;
use super::cgroupfs::Cgroupfs;
use super::kfunc::{self, Kfunc, Missing};
use super::tree::Tree;
use std::io;

/// Memcgs that can have a rule of their own, and that an engine in user space looks at.
const MEMCGS: u32 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Kfunc,
    Cgroupfs,
}

/// What the config and the command line ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: the best that works.
    pub kind: Option<Kind>,
    /// Turn the BPF JIT on where it is off: without it the kernel refuses every program that calls
    /// a kfunc. riscv64 boots so.
    pub bpf_jit: bool,
    /// Rows that a survey with [`lowtide_common::Request::ALL_ROWS`] can show; at least 1.
    pub rows: u32,
    /// Keep the verifier's words when it refuses.
    pub verifier_log: bool,
}

pub struct Chosen {
    pub engine: Box<dyn Engine>,
    /// What was changed on the system, and why a better engine does not work: a line each.
    pub notes: Vec<String>,
}

/// Opens the engine. An error when the one that is wanted, or none at all, works here.
pub fn open(wanted: &Wanted, tree: &Tree) -> io::Result<Chosen> {
    let mut notes = Vec::new();
    if wanted.kind != Some(Kind::Cgroupfs) {
        match kfunc(wanted, &mut notes) {
            Ok(engine) => {
                return Ok(Chosen {
                    engine: Box::new(engine),
                    notes,
                });
            }
            Err(missing) if wanted.kind == Some(Kind::Kfunc) => {
                return Err(io::Error::other(missing.to_string()));
            }
            Err(missing) => notes.push(format!("not the kfunc engine: {missing}")),
        }
    }
    let engine = Cgroupfs::open(tree, MEMCGS as usize, wanted.rows as usize)
        .map_err(|error| io::Error::new(error.kind(), format!("{NO_MEMCG}: {error}")))?;
    Ok(Chosen {
        engine: Box::new(engine),
        notes,
    })
}

const NO_MEMCG: &str = "no memory controller in the cgroup2 hierarchy; build the kernel with \
     CONFIG_MEMCG=y, and see that its command line does not have cgroup_disable=memory and has \
     cgroup_enable=memory where it is off by default";

fn kfunc(wanted: &Wanted, notes: &mut Vec<String>) -> Result<Kfunc, Missing> {
    let options = kfunc::Options {
        max_rules: MEMCGS,
        rows: wanted.rows,
        verifier_log: wanted.verifier_log,
    };
    let first = Kfunc::open(&options);
    if !(wanted.bpf_jit && matches!(first, Err(Missing::Jit))) {
        return first;
    }
    match std::fs::write(kfunc::JIT, "1") {
        Ok(()) => {
            notes.push(format!(
                "turned the BPF JIT on ({} was 0); `bpf_jit = false` under [engine] forbids it",
                kfunc::JIT
            ));
            Kfunc::open(&options)
        }
        Err(_) => first,
    }
}
