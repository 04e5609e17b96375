//! The reflex: where the agent cannot answer, the kernel itself ends the first of the configured order
//! (`agent-ebpf/src/reflex.rs`). It shares the survey's rules, walk and ranking.
//!
//! The agent says what it may do, and when it has looked itself; see `lowtide_common::Reflex`.

mod pins;

use crate::sense::bpf::{
    self, KernelBtf, Kind, Mapped, Missing, Object, Ring, Wanted, attach, objects, refused,
};
use crate::sense::kfunc::{self, in_either_form};
use crate::sense::watch::{self, memory_layout};
use lowtide_common::{Deed, KernelLayout, MemoryLayout, Reflex as Shared, Request, TaskLayout};
use lowtide_judge::Marks;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};
use std::io;
use std::mem::{offset_of, size_of};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

pub use pins::{PINS, deeds_but, remove_all_but};

/// The programs, the functions that they run in, and whether they belong to the floor: those run
/// where the kernel's OOM killer may come next, the others also before.
const HOOKS: [(&str, &str, bool); 4] = [
    ("oom", "out_of_memory", true),
    ("reclaim", "try_to_free_pages", true),
    ("charge", "page_counter_try_charge", false),
    ("kswapd", "wakeup_kswapd", false),
];

/// What the programs call, by the kernel's names. `bpf_send_signal_task` came with Linux 6.18, all of
/// them are there since 7.0.
const KFUNCS: [&str; 19] = [
    "bpf_get_root_mem_cgroup",
    "bpf_get_mem_cgroup",
    "bpf_put_mem_cgroup",
    "bpf_mem_cgroup_usage",
    "bpf_mem_cgroup_page_state",
    "bpf_iter_css_new",
    "bpf_iter_css_next",
    "bpf_iter_css_destroy",
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
    "bpf_iter_task_new",
    "bpf_iter_task_next",
    "bpf_iter_task_destroy",
    "bpf_cgroup_from_id",
    "bpf_cgroup_release",
    "bpf_task_under_cgroup",
    "bpf_task_acquire",
    "bpf_task_release",
    "bpf_send_signal_task",
];

/// Names in the kernel's BTF that [`TaskLayout`] is made from, in the order of [`task_layout`].
const TASK: [Wanted<'static>; 9] = [
    Wanted::Member("task_struct", "flags"),
    Wanted::Member("task_struct", "tgid"),
    Wanted::Member("task_struct", "exit_state"),
    Wanted::Member("task_struct", "signal"),
    Wanted::Member("signal_struct", "flags"),
    Wanted::Member("oom_control", "memcg"),
    Wanted::Member("oom_control", "gfp_mask"),
    Wanted::Member("oom_control", "order"),
    Wanted::Enumerator("___GFP_FS_BIT"),
];

/// What the config lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// Below how much; `None`: it does nothing.
    pub marks: Option<Marks>,
    /// Also before the kernel's OOM killer is next.
    pub early: bool,
    /// What the agent gets first, where it acts early.
    pub patience: Duration,
    /// Kills in 10 s.
    pub budget: u32,
}

/// Name of the map that the programs and the agent share.
const SHARED: &str = "REFLEX";

/// Disarms every reflex there is in the kernel, whatever became of its agent, and takes away what keeps
/// it; returns how many there were.
pub fn disarm_all() -> io::Result<usize> {
    let maps = bpf::maps_named(SHARED, size_of::<Shared>() as u32)?;
    for map in &maps {
        let shared = Mapped::words(map.as_fd(), page_size(), 0, true)?;
        shared.word(offset_of!(Shared, mode) / 8).store(0, Release);
    }
    remove_all_but(None)?;
    Ok(maps.len())
}

/// Loaded and attached; closing it ends it, unless it is pinned.
pub struct Reflex {
    shared: Mapped,
    deeds: Ring,
    maps: [OwnedFd; 2],
    links: Vec<OwnedFd>,
    /// Kept so that the kernel shows what verifying them took (/proc/PID/fdinfo).
    _programs: Vec<OwnedFd>,
    /// Of its pins, where it is to outlive the agent.
    generation: Option<u64>,
}

impl Reflex {
    /// Attached in the functions that `early` asks for, and told to do nothing yet. `rules` is the
    /// survey's policy map. Everything that can fail fails here.
    pub fn open(rules: BorrowedFd<'_>, early: bool, verifier_log: bool) -> Result<Self, Missing> {
        let mut object = objects::REFLEX.to_vec();
        let fit = Fit::to_kernel(&mut object)?;
        in_either_form(fit.kernel, |kernel| {
            Self::load(&object, kernel, &fit, rules, early, verifier_log)
        })
    }

    fn load(
        object: &[u8],
        kernel: &KernelLayout,
        fit: &Fit,
        rules: BorrowedFd<'_>,
        early: bool,
        verifier_log: bool,
    ) -> Result<Self, Missing> {
        let constants = [
            ("LAYOUT", kfunc::as_bytes(kernel)),
            ("MEMORY", watch::as_bytes(&fit.memory)),
            ("TASK", as_bytes(&fit.task)),
        ];
        let sizes = [("DEEDS", Ring::smallest())];
        let mut object = Object::open(object, &constants, &sizes, &[("RULES", rules)])?;
        let (mut links, mut programs) = (Vec::new(), Vec::new());
        for ((program, function, floor), found) in HOOKS.into_iter().zip(fit.functions) {
            if !floor && !early {
                continue;
            }
            let id = found.ok_or(Missing::Hook(function))?;
            let program = object.load(program, Kind::Entry(id), verifier_log)?;
            links.push(attach(&program).map_err(|error| Missing::Attach(function, error))?);
            programs.push(program);
        }
        let shared = object.take_map(SHARED)?;
        let deeds = object.take_map("DEEDS")?;
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(refused);
        let maps = [own(shared.fd().as_fd())?, own(deeds.fd().as_fd())?];
        let mapped = Mapped::words(maps[0].as_fd(), page_size(), 0, true);
        Ok(Self {
            shared: mapped.map_err(refused)?,
            deeds: Ring::new(maps[1].as_fd(), Ring::smallest())?,
            maps,
            links,
            _programs: programs,
            generation: None,
        })
    }

    /// Lets it act from now on as the config says, for `agent` in the cgroup `own_cgroup`.
    #[expect(clippy::arithmetic_side_effects, reason = "a page has bytes")]
    pub fn arm(&self, orders: &Orders, request: &Request, own_cgroup: u64, agent: u32) {
        // Nothing between the old orders and the new ones.
        self.disarm();
        let Some(marks) = orders.marks else { return };
        let pages = |bytes: u64| (bytes / page_size() as u64).min(i64::MAX as u64);
        self.set(offset_of!(Shared, mark), pages(marks.available));
        self.set(offset_of!(Shared, swap_mark), pages(marks.swap_free));
        self.set(offset_of!(Shared, patience_ns), nanos(orders.patience));
        self.set(offset_of!(Shared, budget), orders.budget.into());
        self.set(offset_of!(Shared, own_cgroup), own_cgroup);
        self.set(offset_of!(Shared, agent), agent.into());
        self.set_request(request);
        let early = if orders.early { Shared::EARLY } else { 0 };
        self.attend(Duration::ZERO);
        self.word(offset_of!(Shared, mode))
            .store(Shared::ARMED | early, Release);
    }

    /// It does nothing until it is armed.
    pub fn disarm(&self) {
        self.word(offset_of!(Shared, mode)).store(0, Release);
    }

    /// How it ranks. cgroups above `classified_up_to` without a rule are not touched.
    #[expect(clippy::arithmetic_side_effects, reason = "words of a record")]
    pub fn set_request(&self, request: &Request) {
        let first = offset_of!(Shared, request);
        for (index, word) in words_of(request).into_iter().enumerate() {
            self.set(first + 8 * index, word);
        }
    }

    /// The agent has had a look, and goes on by itself for so `long`: the reflex has its budget again,
    /// and its patience begins after that.
    pub fn attend(&self, long: Duration) {
        let until = now().saturating_add(long);
        self.set(offset_of!(Shared, attended_ns), nanos(until));
    }

    /// The agent has a victim of its own on its way out, for at most so long; zero: not any more.
    pub fn give_time(&self, length: Duration) {
        let until = if length.is_zero() {
            0
        } else {
            nanos(now().saturating_add(length))
        };
        self.set(offset_of!(Shared, acting_until_ns), until);
    }

    /// The next of what it did that was not told yet.
    pub fn next_deed(&self) -> Option<Deed> {
        self.deeds.next().map(deed_of)
    }

    /// Whether it has used up its budget, and waits for the agent.
    pub fn stood_down(&self) -> bool {
        self.word(offset_of!(Shared, stood_down)).load(Relaxed) != 0
    }

    fn set(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Relaxed);
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        const { assert!(size_of::<Shared>() <= 4096) };
        self.shared.word(offset / 8)
    }
}

impl AsFd for Reflex {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.deeds.as_fd()
    }
}

fn now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos() as u64
}

const REQUEST_WORDS: usize = size_of::<Request>() / 8;
const DEED_WORDS: usize = size_of::<Deed>() / 8;

fn words_of(request: &Request) -> [u64; REQUEST_WORDS] {
    // SAFETY: `repr(C)`, made of integers without padding, as long as the array.
    unsafe { std::mem::transmute::<Request, [u64; REQUEST_WORDS]>(*request) }
}

fn deed_of(words: [u64; DEED_WORDS]) -> Deed {
    // SAFETY: `repr(C)`, made of integers without padding: any bits are one.
    unsafe { std::mem::transmute::<[u64; DEED_WORDS], Deed>(words) }
}

/// What the programs have to know of the running kernel.
struct Fit {
    kernel: KernelLayout,
    memory: MemoryLayout,
    task: TaskLayout,
    functions: [Option<u32>; 4],
}

impl Fit {
    /// Resolves the object's kfunc calls, in one pass over the kernel's BTF and one over its symbols.
    #[expect(clippy::arithmetic_side_effects, reason = "places of the array")]
    fn to_kernel(object: &mut [u8]) -> Result<Self, Missing> {
        const TASK_AT: usize = KFUNCS.len();
        const HOOKS_AT: usize = TASK_AT + TASK.len();
        const PLACES_AT: usize = HOOKS_AT + HOOKS.len();
        const LAYOUT_AT: usize = PLACES_AT + watch::PLACES.len();
        let mut wanted = [Wanted::Func(""); LAYOUT_AT + kfunc::LAYOUT.len()];
        wanted[..TASK_AT].copy_from_slice(&KFUNCS.map(Wanted::Func));
        wanted[TASK_AT..HOOKS_AT].copy_from_slice(&TASK);
        let functions = HOOKS.map(|(_, function, _)| Wanted::Func(function));
        wanted[HOOKS_AT..PLACES_AT].copy_from_slice(&functions);
        wanted[PLACES_AT..LAYOUT_AT].copy_from_slice(&watch::PLACES);
        wanted[LAYOUT_AT..].copy_from_slice(&kfunc::LAYOUT);
        let found = KernelBtf::open()?.types()?.find(&wanted);
        bpf::resolve(object, &KFUNCS, &found[..TASK_AT])?;
        Ok(Self {
            kernel: kfunc::layout_of(&found[LAYOUT_AT..])?,
            memory: memory_layout(&found[PLACES_AT..LAYOUT_AT])?,
            task: task_layout(&found[TASK_AT..HOOKS_AT])?,
            functions: std::array::from_fn(|index| {
                let found = found.get(HOOKS_AT + index).copied().flatten();
                found.and_then(|id| u32::try_from(id).ok())
            }),
        })
    }
}

fn task_layout(found: &[Option<u64>]) -> Result<TaskLayout, Missing> {
    let mut values = TASK.iter().zip(found);
    let mut next = || {
        let (wanted, value) = values.next().ok_or(Missing::MalformedBtf)?;
        value.ok_or(Missing::Layout(*wanted))
    };
    Ok(TaskLayout {
        flags: next()?,
        tgid: next()?,
        exit_state: next()?,
        signal: next()?,
        signal_flags: next()?,
        oom_memcg: next()?,
        oom_gfp_mask: next()?,
        oom_order: next()?,
        gfp_fs: 1 << next()?,
    })
}

fn as_bytes(layout: &TaskLayout) -> &[u8] {
    // SAFETY: `repr(C)`, made of u64 only: no padding, and every byte is initialised.
    unsafe { std::slice::from_raw_parts((&raw const *layout).cast(), size_of::<TaskLayout>()) }
}
