//! BPF programs: fitted to the running kernel, loaded, attached. By hand where aya 0.14 would read the
//! kernel's type information into 16 to 25 MB of heap, or knows no such program type; its maps and its
//! reader of the object are used.

#![expect(
    clippy::indexing_slicing,
    reason = "at the start; readers of the kernel's data are fuzzed"
)]

mod btf;
mod call;
mod elf;
pub mod kallsyms;
mod mapped;
mod object;
mod ring;

pub use btf::{Btf, Wanted};
pub use call::{attach, maps_named, pin, pinned, run};
pub use mapped::Mapped;
pub use object::{Kind, Object};
pub use ring::Ring;

use rustix::fd::AsFd;
use std::{fmt, fs, io};

/// Built by `cargo xtask build-ebpf` from `agent-ebpf/`; the same for every architecture. They lie with
/// the cold code, as only what loads them reads them.
pub mod objects {
    macro_rules! object {
        ($name:ident, $file:literal) => {
            #[unsafe(link_section = "lowtide_cold_data")]
            pub static $name: [u8; include_bytes!($file).len()] = *include_bytes!($file);
        };
    }
    object!(SURVEY, "survey.bpf.o");
    object!(REFLEX, "reflex.bpf.o");
    object!(WATCH, "watch.bpf.o");
    object!(SYMBOLS, "symbols.bpf.o");
}

/// What must be available for a BPF program to be loaded: a kernel that runs out of memory while it
/// verifies one panics. The agent's cgroup, to which the verifier's memory is charged, peaks at 1.8 MB
/// with Linux 7.3.4 and at 1.2 MB with 7.0.13. Four times that, as verifiers differ; the guest tests
/// `verifying_takes_little_memory` hold both to half of it.
pub const LOADING: u64 = 8 << 20;

/// Where the kernel shows its BTF.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The switch of the BPF JIT.
pub const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// Why a program cannot run here: one line that says what to do about it.
#[derive(Debug)]
pub enum Missing {
    Btf(io::Error),
    MalformedBtf,
    Kfunc(String),
    Layout(Wanted<'static>),
    /// A function of the kernel that no program can be attached to, and why.
    Attach(&'static str, io::Error),
    /// A function of the kernel that is not there to attach to.
    Hook(&'static str),
    Symbols(io::Error),
    Symbol(&'static str),
    HiddenSymbols,
    Jit,
    Lockdown,
    Permission,
    /// The program or a map was refused; the verifier's words where they were asked for.
    Refused {
        what: String,
        verifier: String,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Btf(error) => {
                write!(f, "no kernel BTF ({BTF}: {error}); {}", remedy(error))
            }
            Self::MalformedBtf => write!(f, "{BTF} is not BTF"),
            Self::Kfunc(name) => write!(
                f,
                "the kernel has no kfunc {name}; memcg kfuncs come with Linux 7.0"
            ),
            Self::Layout(Wanted::Member(s, m)) => {
                write!(f, "the kernel's struct {s} has no member {m}")
            }
            Self::Layout(Wanted::Func(name) | Wanted::Enumerator(name)) => {
                write!(
                    f,
                    "the kernel's BTF has no {name}; build it with CONFIG_MEMCG=y and CONFIG_SWAP=y"
                )
            }
            Self::Attach(function, error) => write!(
                f,
                "the kernel lets no program run in {function}: {error}; build it with \
                 CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE=y"
            ),
            Self::Hook(function) => write!(
                f,
                "the kernel has no function {function} that a program could run in"
            ),
            Self::Symbols(error) => write!(
                f,
                "/proc/kallsyms: {error}; build the kernel with CONFIG_KALLSYMS_ALL=y"
            ),
            Self::Symbol(name) => write!(
                f,
                "/proc/kallsyms has no {name}; build the kernel with CONFIG_KALLSYMS_ALL=y"
            ),
            Self::HiddenSymbols => f.write_str(
                "the kernel hides its addresses; run with CAP_SYSLOG, and with \
                 kernel.kptr_restrict at 0 or 1",
            ),
            Self::Lockdown => f.write_str(
                "the kernel is locked down: programs may not read its memory; \
                 boot it with lockdown=integrity or none",
            ),
            Self::Jit => write!(f, "the BPF JIT is off; write 1 to {JIT}"),
            Self::Permission => {
                f.write_str("not permitted to load BPF programs; run as root or with CAP_SYS_ADMIN")
            }
            Self::Refused { what, verifier } if verifier.is_empty() => write!(f, "{what}"),
            Self::Refused { what, verifier } => write!(f, "{what}; the verifier says:\n{verifier}"),
        }
    }
}

impl std::error::Error for Missing {}

/// What to do where the kernel's BTF cannot be had.
fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT) => "build the kernel with CONFIG_DEBUG_INFO_BTF=y",
        Some(libc::EPERM | libc::EACCES) => "run as root",
        // All memory of the agent is locked, and this is some MiB of it.
        Some(libc::EAGAIN | libc::ENOMEM) => {
            "raise the limit on locked memory (RLIMIT_MEMLOCK, LimitMEMLOCK= of systemd), or run with \
             CAP_IPC_LOCK"
        }
        _ => "the kernel must let the agent map it",
    }
}

pub fn refused(what: impl fmt::Display) -> Missing {
    Missing::Refused {
        what: what.to_string(),
        verifier: String::new(),
    }
}

pub fn is_jit_off() -> bool {
    fs::read_to_string(JIT).is_ok_and(|value| value.trim() == "0")
}

/// Whether the kernel is locked down so far that no program may read its memory.
fn is_locked_down() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

/// The kernel's BTF, in memory for as long as this lives: mapped where the kernel can (Linux 6.16),
/// otherwise a copy of its some 5 MB.
pub enum KernelBtf {
    Mapped(Mapped),
    Copied(Vec<u8>),
}

impl KernelBtf {
    pub fn open() -> Result<Self, Missing> {
        let file = fs::File::open(BTF).map_err(Missing::Btf)?;
        let length = file.metadata().map_err(Missing::Btf)?.len() as usize;
        match Mapped::file(file.as_fd(), length) {
            Ok(mapped) => Ok(Self::Mapped(mapped)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                fs::read(BTF).map(Self::Copied).map_err(Missing::Btf)
            }
            Err(error) => Err(Missing::Btf(error)),
        }
    }

    pub fn types(&self) -> Result<Btf<'_>, Missing> {
        let bytes = match self {
            Self::Mapped(mapped) => mapped.bytes(),
            Self::Copied(bytes) => bytes,
        };
        Btf::new(bytes).ok_or(Missing::MalformedBtf)
    }
}

/// Resolves the calls of `kfuncs` in an object by the BTF ids that were found for them, in the same
/// order.
pub fn resolve(object: &mut [u8], kfuncs: &[&str], ids: &[Option<u64>]) -> Result<usize, Missing> {
    elf::resolve(object, |name| {
        let index = kfuncs.iter().position(|k| *k == name)?;
        ids.get(index)?.and_then(|id| u32::try_from(id).ok())
    })
    .map_err(|error| match error {
        elf::Unresolved::Missing(name) => Missing::Kfunc(name),
        elf::Unresolved::Malformed => refused(error),
    })
}
