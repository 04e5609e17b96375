//! The engine for kernels with the memcg kfuncs (Linux 7.0 and later): the survey runs in the
//! kernel as a BPF program.

mod bpf;
mod btf;
mod elf;
mod mapped;

use super::Engine;
use aya::maps::{HashMap, Map, MapData};
use aya_obj::{EbpfSectionKind, Object};
use btf::{Btf, Wanted};
use lowtide_common::{KernelLayout, Request, Row, Rule, Survey};
use mapped::Mapped;
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::collections::HashSet;
use std::{fmt, io};

/// Built by `cargo xtask build-ebpf` from `agent-ebpf/`; the same for every architecture.
static OBJECT: &[u8] = include_bytes!("survey.bpf.o");

/// Where the kernel shows its BTF.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";
/// The switch of the BPF JIT.
pub const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";

/// What the program calls, by the kernel's names.
pub const KFUNCS: [&str; 12] = [
    "bpf_get_root_mem_cgroup",
    "bpf_get_mem_cgroup",
    "bpf_put_mem_cgroup",
    "bpf_mem_cgroup_usage",
    "bpf_mem_cgroup_page_state",
    "bpf_mem_cgroup_memory_events",
    "bpf_mem_cgroup_flush_stats",
    "bpf_iter_css_new",
    "bpf_iter_css_next",
    "bpf_iter_css_destroy",
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
];

/// Names in the kernel's BTF that [`KernelLayout`] is made from, in the order of `layout_of`.
const LAYOUT: [Wanted<'static>; 27] = [
    Wanted::Member("mem_cgroup", "css"),
    Wanted::Member("cgroup_subsys_state", "cgroup"),
    Wanted::Member("cgroup_subsys_state", "flags"),
    Wanted::Member("cgroup_subsys_state", "children"),
    Wanted::Member("cgroup", "kn"),
    Wanted::Member("cgroup", "level"),
    Wanted::Member("cgroup", "nr_populated_domain_children"),
    Wanted::Member("cgroup", "nr_populated_threaded_children"),
    Wanted::Member("kernfs_node", "id"),
    Wanted::Enumerator("CSS_ONLINE"),
    Wanted::Enumerator("NR_ANON_MAPPED"),
    Wanted::Enumerator("NR_FILE_PAGES"),
    Wanted::Enumerator("NR_FILE_MAPPED"),
    Wanted::Enumerator("NR_SHMEM"),
    Wanted::Enumerator("MEMCG_SWAP"),
    Wanted::Enumerator("WORKINGSET_REFAULT_ANON"),
    Wanted::Enumerator("WORKINGSET_REFAULT_FILE"),
    Wanted::Enumerator("MEMCG_HIGH"),
    Wanted::Enumerator("MEMCG_MAX"),
    Wanted::Enumerator("MEMCG_OOM_KILL"),
    // One of the two: the counter moved from the cgroup into its css in Linux 7.3.
    Wanted::Member("cgroup", "nr_populated_csets"),
    Wanted::Member("cgroup", "self"),
    Wanted::Member("cgroup_subsys_state", "nr_populated_csets"),
    // Only with PSI:
    Wanted::Member("cgroup", "psi"),
    Wanted::Member("psi_group", "total"),
    Wanted::Enumerator("PSI_MEM_SOME"),
    Wanted::Enumerator("PSI_MEM_FULL"),
];

/// Why this engine cannot run here: one line that says what to do about it.
#[derive(Debug)]
pub enum Missing {
    Btf(io::Error),
    MalformedBtf,
    Kfunc(String),
    Layout(Wanted<'static>),
    Jit,
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
                write!(
                    f,
                    "no kernel BTF ({BTF}: {error}); build the kernel with CONFIG_DEBUG_INFO_BTF=y"
                )
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

fn refused(what: impl fmt::Display) -> Missing {
    Missing::Refused {
        what: what.to_string(),
        verifier: String::new(),
    }
}

/// How large the engine may grow.
pub struct Options {
    /// cgroups that can have a rule of their own.
    pub max_rules: u32,
    /// Rows that a survey with [`Request::ALL_ROWS`] can show.
    pub rows: u32,
    /// Keep the verifier's words when it refuses.
    pub verifier_log: bool,
}

pub struct Kfunc {
    program: OwnedFd,
    rules: HashMap<MapData, u64, u64>,
    survey: Mapped,
    rows: Mapped,
}

impl Kfunc {
    /// Loads the program for the running kernel. Everything that can fail fails here.
    pub fn open(options: &Options) -> Result<Self, Missing> {
        let mut object = OBJECT.to_vec();
        let layout = fit_to_kernel(&mut object)?;
        let mut object = Object::parse(&object).map_err(refused)?;
        let layout = as_bytes(&layout);
        object
            .patch_map_data([("LAYOUT", (layout, true))].into_iter().collect())
            .map_err(refused)?;
        let mut maps = Vec::new();
        for (name, mut map) in object.maps.drain() {
            match name.as_str() {
                "RULES" => map.set_max_entries(options.max_rules),
                "ROWS" => map.set_max_entries(options.rows),
                _ => {}
            }
            let data = MapData::create(map.clone(), &name, None).map_err(map_refused)?;
            if map.section_kind() == EbpfSectionKind::Rodata {
                bpf::set_value(data.fd(), map.data())
                    .and_then(|()| bpf::freeze(data.fd()))
                    .map_err(refused)?;
            }
            maps.push((name, data, map));
        }
        let text = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect::<HashSet<_>>();
        let fds = maps
            .iter()
            .map(|(name, data, map)| (name.as_str(), data.fd().as_fd().as_raw_fd(), map));
        object.relocate_maps(fds, &text).map_err(refused)?;
        object.relocate_calls(&text).map_err(refused)?;
        let program = object
            .programs
            .get("survey")
            .ok_or_else(|| refused("the BPF object has no program"))?;
        let code = &object.functions[&program.function_key()].instructions;
        let program = load(code, &object.license, options.verifier_log)?;
        let mut take = |name: &str| {
            let at = maps.iter().position(|(n, _, _)| n == name);
            at.map(|at| maps.swap_remove(at).1)
                .ok_or_else(|| refused(format_args!("the BPF object has no map {name}")))
        };
        let rules = HashMap::try_from(Map::HashMap(take("RULES")?)).map_err(refused)?;
        let survey = Mapped::map(take("SURVEY")?.fd(), size_of::<Survey>()).map_err(refused)?;
        let rows = Mapped::map(take("ROWS")?.fd(), size_of::<Row>() * options.rows as usize)
            .map_err(refused)?;
        Ok(Self {
            program,
            rules,
            survey,
            rows,
        })
    }
}

impl Engine for Kfunc {
    fn name(&self) -> &'static str {
        "kfunc"
    }

    fn run(&mut self, request: &Request) -> io::Result<()> {
        match bpf::run(&self.program, request)? {
            0 => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the kernel gives no root memcg",
            )),
        }
    }

    fn survey(&self) -> &Survey {
        // SAFETY: the map holds one `Survey`, plain integers; only a run writes it, which takes
        // `&mut self`.
        let values = unsafe { self.survey.values::<Survey>() };
        values.first().unwrap_or(&Survey::EMPTY)
    }

    fn rows(&self) -> &[Row] {
        // SAFETY: the map holds `Row`s, plain integers; only a run writes it, which takes
        // `&mut self`.
        let rows = unsafe { self.rows.values::<Row>() };
        &rows[..rows.len().min(self.survey().rows_len as usize)]
    }

    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()> {
        self.rules
            .insert(id, as_word(rule), 0)
            .map_err(io::Error::other)
    }

    fn forget_all(&mut self) -> io::Result<()> {
        let ids = self
            .rules
            .keys()
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)?;
        ids.iter()
            .try_for_each(|id| self.rules.remove(id).map_err(io::Error::other))
    }
}

/// Which kfuncs the running kernel has, in the order of [`KFUNCS`].
pub fn kfuncs_here() -> Result<[bool; KFUNCS.len()], Missing> {
    let btf = map_btf()?;
    let found = Btf::new(btf.bytes())
        .ok_or(Missing::MalformedBtf)?
        .find(&KFUNCS.map(Wanted::Func));
    Ok(found.map(|id| id.is_some()))
}

fn map_btf() -> Result<Mapped, Missing> {
    let file = std::fs::File::open(BTF).map_err(Missing::Btf)?;
    let length = file.metadata().map_err(Missing::Btf)?.len();
    // Since Linux 6.16; kernels before have no memcg kfuncs either.
    Mapped::file(&file, length as usize).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Missing::Kfunc(KFUNCS[0].to_owned()),
        _ => Missing::Btf(error),
    })
}

/// Resolves the object's kfunc calls and finds the kernel's layout, in one pass over its BTF.
fn fit_to_kernel(object: &mut [u8]) -> Result<KernelLayout, Missing> {
    let btf = map_btf()?;
    let btf = Btf::new(btf.bytes()).ok_or(Missing::MalformedBtf)?;
    let mut wanted = [Wanted::Func(""); KFUNCS.len() + LAYOUT.len()];
    wanted[..KFUNCS.len()].copy_from_slice(&KFUNCS.map(Wanted::Func));
    wanted[KFUNCS.len()..].copy_from_slice(&LAYOUT);
    let found = btf.find(&wanted);
    let (ids, layout) = found.split_at(KFUNCS.len());
    elf::resolve(object, |name| {
        let at = KFUNCS.iter().position(|k| *k == name)?;
        ids[at].and_then(|id| u32::try_from(id).ok())
    })
    .map_err(|error| match error {
        elf::Unresolved::Missing(name) => Missing::Kfunc(name),
        elf::Unresolved::Malformed => refused(error),
    })?;
    layout_of(layout)
}

fn layout_of(found: &[Option<u64>]) -> Result<KernelLayout, Missing> {
    let mut values = LAYOUT.iter().zip(found);
    let mut next = || values.next().ok_or(Missing::MalformedBtf);
    let mut must = || {
        let (wanted, value) = next()?;
        value.ok_or(Missing::Layout(*wanted))
    };
    let mut layout = KernelLayout {
        mem_cgroup_css: must()?,
        css_cgroup: must()?,
        css_flags: must()?,
        css_children: must()?,
        cgroup_kn: must()?,
        cgroup_level: must()?,
        cgroup_populated_domains: must()?,
        cgroup_populated_threaded: must()?,
        kernfs_node_id: must()?,
        css_online: must()?,
        nr_anon_mapped: must()?,
        nr_file_pages: must()?,
        nr_file_mapped: must()?,
        nr_shmem: must()?,
        memcg_swap: must()?,
        refault_anon: must()?,
        refault_file: must()?,
        memcg_high: must()?,
        memcg_max: must()?,
        memcg_oom_kill: must()?,
        ..KernelLayout::default()
    };
    let (in_cgroup, css, in_css) = (must(), must(), must());
    layout.cgroup_populated_csets = in_cgroup.or_else(|_| Ok(css? + in_css?))?;
    if let (Ok(psi), Ok(total), Ok(some), Ok(full)) = (must(), must(), must(), must()) {
        // PSI_AVGS is the first of the aggregators, and every counter a u64.
        layout.cgroup_psi = psi;
        layout.psi_mem_some = total + 8 * some;
        layout.psi_mem_full = total + 8 * full;
    }
    Ok(layout)
}

fn load(
    code: &[aya_obj::generated::bpf_insn],
    license: &std::ffi::CStr,
    with_log: bool,
) -> Result<OwnedFd, Missing> {
    let mut log = if with_log {
        vec![0; 1 << 20]
    } else {
        Vec::new()
    };
    bpf::load(code, license, &mut log).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Missing::Permission,
        _ if is_jit_off() => Missing::Jit,
        _ => {
            let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            Missing::Refused {
                what: format!("the kernel refuses the BPF program: {error}"),
                verifier: String::from_utf8_lossy(&log[..end]).into_owned(),
            }
        }
    })
}

fn map_refused(error: aya::maps::MapError) -> Missing {
    match &error {
        aya::maps::MapError::CreateError { io_error, .. }
            if io_error.raw_os_error() == Some(libc::EPERM) =>
        {
            Missing::Permission
        }
        _ => refused(error),
    }
}

fn is_jit_off() -> bool {
    std::fs::read_to_string(JIT).is_ok_and(|value| value.trim() == "0")
}

/// A rule as the map's value; both sides see the same eight bytes.
fn as_word(rule: Rule) -> u64 {
    let [k0, k1] = rule.kill.to_ne_bytes();
    let [r0, r1] = rule.reclaim.to_ne_bytes();
    let [g0, g1] = rule.group.to_ne_bytes();
    let [f0, f1] = rule.flags.to_ne_bytes();
    u64::from_ne_bytes([k0, k1, r0, r1, g0, g1, f0, f1])
}

fn as_bytes(layout: &KernelLayout) -> &[u8] {
    // SAFETY: `repr(C)`, made of u64 only: no padding, and every byte is initialised.
    unsafe { std::slice::from_raw_parts((&raw const *layout).cast(), size_of::<KernelLayout>()) }
}
