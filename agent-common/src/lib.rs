//! The records that the BPF program and the agent share.
//!
//! Everything is `repr(C)`, made of fixed-size integers and free of padding, so that both sides
//! see the same bytes on every architecture. All sizes are in bytes, all times in nanoseconds.
#![no_std]
#![deny(unsafe_code)]
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod best;
mod place;
mod words;

pub use best::Best;
pub use place::Placed;
pub use words::copy;

/// Candidates kept per action, whatever the number of memcgs.
pub const CANDIDATES: usize = 16;
/// Ids of not yet classified memcgs that one survey can report.
pub const UNCLASSIFIED: usize = 512;
/// Deepest memcg level that is walked with inheritance; deeper ones inherit from this level.
pub const MAX_DEPTH: usize = 32;
/// The priority that means "leave it alone".
pub const NEVER: u16 = u16::MAX;
/// The group index of a memcg that no `[[group]]` covers.
pub const NO_GROUP: u16 = u16::MAX;

/// What the config says about one memcg. The value of the policy map, whose key is the cgroup id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Kill priority 0..=1000, higher goes first, or [`NEVER`].
    pub kill: u16,
    /// Reclaim priority 0..=1000, higher goes first, or [`NEVER`].
    pub reclaim: u16,
    /// Index of the `[[group]]` in the config, or [`NO_GROUP`].
    pub group: u16,
    /// [`Rule::UNIT`] and friends.
    pub flags: u16,
}

impl Rule {
    /// The memcg is killed as a whole: its descendants are part of it and no candidates of their
    /// own. Without it every populated leaf below is a candidate by itself.
    pub const UNIT: u16 = 1;
    /// No rule of its own: looked at, and found to inherit from its nearest ancestor.
    pub const INHERIT: u16 = 2;
    /// Candidates are this memcg's processes, not the memcg.
    pub const PROCESS: u16 = 4;
    /// systemd asks that it be spared (`ManagedOOMPreference=`): it is the last of its number, or
    /// [`NEVER`] killed.
    pub const AVOID: u16 = 8;

    /// Nothing is known about it, so nothing may happen to it.
    pub const UNTOUCHABLE: Self = Self {
        kill: NEVER,
        reclaim: NEVER,
        group: NO_GROUP,
        flags: 0,
    };

    /// The kill priority with what is to be avoided behind the others of its number: twice the
    /// number, and one more unless [`Rule::AVOID`]. 0..=2001, or more for [`NEVER`].
    pub const fn kill_turn(&self) -> u16 {
        (self.kill << 1) | (self.flags & Self::AVOID == 0) as u16
    }
}

/// What the walk from the root passes down to the memcgs below one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Above {
    /// cgroup id; 0 above the root.
    pub id: u64,
    /// The rule in force.
    pub rule: Rule,
    state: u64,
}

impl Above {
    /// A new memcg: its rule and that of all below it are not known yet.
    const UNDECIDED: u64 = 1;
    /// Part of a unit that is killed as a whole.
    const IN_UNIT: u64 = 2;
    /// Not within what is asked for.
    const OUTSIDE: u64 = 4;

    /// Above the root.
    #[inline(always)]
    pub const fn root(request: &Request) -> Self {
        Self {
            id: 0,
            rule: request.fallback,
            state: if request.within == 0 {
                0
            } else {
                Self::OUTSIDE
            },
        }
    }

    /// The same where the ranking begins.
    #[inline(always)]
    const fn entered(self) -> Self {
        Self {
            state: self.state & Self::UNDECIDED,
            ..self
        }
    }

    /// The same for what is below the child `id`, which has a rule of its `own`, or inherits this
    /// one, or is `new` and not known yet.
    #[inline(always)]
    pub fn child(&self, id: u64, own: Option<Rule>, new: bool) -> Self {
        let as_unit = own.is_some_and(|rule| rule.flags & Rule::UNIT != 0);
        Self {
            id,
            rule: own.unwrap_or(self.rule),
            state: self.state & Self::OUTSIDE
                | if new || (own.is_none() && self.state & Self::UNDECIDED != 0) {
                    Self::UNDECIDED
                } else if as_unit || self.state & Self::IN_UNIT != 0 {
                    Self::IN_UNIT
                } else {
                    0
                },
        }
    }

    /// Whether the rule in force is known: only then may anything be done.
    #[inline(always)]
    pub fn is_decided(&self) -> bool {
        self.state & Self::UNDECIDED == 0
    }

    /// Flags of a child's [`Row`].
    #[inline(always)]
    pub fn row_flags(&self, own: Option<Rule>, leaf: bool, populated: bool) -> u16 {
        let ranked = self.state & (Self::IN_UNIT | Self::OUTSIDE) == 0;
        let as_unit = own.is_some_and(|rule| rule.flags & Rule::UNIT != 0);
        let mut flags = 0;
        if populated {
            flags |= Row::POPULATED;
        }
        if leaf {
            flags |= Row::LEAF;
        }
        if (as_unit || leaf) && ranked && self.id != 0 {
            flags |= Row::RECLAIMABLE;
            if populated {
                flags |= Row::KILLABLE;
            }
        }
        flags
    }
}

/// What one memcg uses and suffers; figures are hierarchical (the memcg with its descendants).
///
/// At most 128 bytes, which a BPF program copies without a call.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// cgroup id: the kernfs node id, as `name_to_handle_at` gives it.
    pub id: u64,
    /// cgroup id of the parent, 0 for the root.
    pub parent: u64,
    pub usage: u64,
    pub anon: u64,
    pub file: u64,
    /// tmpfs, memfd and shared anonymous memory; part of `file`.
    pub shmem: u64,
    /// File pages (shmem included) that are mapped into a process.
    pub file_mapped: u64,
    pub swap: u64,
    /// Pages refaulted since boot (workingset_refault_anon).
    pub refault_anon: u64,
    /// Pages refaulted since boot (workingset_refault_file).
    pub refault_file: u64,
    pub psi_some_ns: u64,
    pub psi_full_ns: u64,
    /// memory.events: times throttled at memory.high.
    pub event_high: u32,
    /// memory.events: times at memory.max.
    pub event_max: u32,
    /// memory.events: processes killed by the kernel OOM killer.
    pub event_oom_kill: u32,
    /// Depth below the root, which has level 0.
    pub level: u16,
    /// [`Row::POPULATED`] and friends.
    pub flags: u16,
    /// The rule in force: its own, or the nearest ancestor's.
    pub rule: Rule,
}

impl Row {
    /// There are processes in it or below it.
    pub const POPULATED: u16 = 1;
    /// No memcg below it.
    pub const LEAF: u16 = 2;
    /// It can be killed as it stands: a unit, or a leaf outside any unit.
    pub const KILLABLE: u16 = 4;
    /// As [`Row::KILLABLE`], with or without processes in it.
    pub const RECLAIMABLE: u16 = 8;
    /// No memcg but one process; the id is one of the agent's own making.
    pub const PROCESS: u16 = 16;

    pub const ZERO: Self = Self {
        id: 0,
        parent: 0,
        usage: 0,
        anon: 0,
        file: 0,
        shmem: 0,
        file_mapped: 0,
        swap: 0,
        refault_anon: 0,
        refault_file: 0,
        psi_some_ns: 0,
        psi_full_ns: 0,
        event_high: 0,
        event_max: 0,
        event_oom_kill: 0,
        level: 0,
        flags: 0,
        rule: Rule::UNTOUCHABLE,
    };

    /// Bytes that come back when all its processes die: anonymous memory, shared memory, and swap,
    /// which on zram is RAM too. File cache is not counted: reclaim gets it without a kill.
    ///
    /// Shared memory counts although a file left in a tmpfs outlives its writer: whether it is one
    /// that still grows by it, the judge knows.
    pub const fn freed_by_kill(&self) -> u64 {
        self.anon
            .saturating_add(self.shmem)
            .saturating_add(self.swap)
    }

    /// Bytes of file cache that reclaim can take: shmem has no file behind it.
    pub const fn reclaimable_file(&self) -> u64 {
        self.file.saturating_sub(self.shmem)
    }

    /// Rank among kill candidates, higher goes first; ties go to the lower id.
    ///
    /// The priority decides, then what is freed. A row that frees less than `worth` comes after all
    /// that free as much.
    pub const fn kill_key(&self, worth: u64) -> u64 {
        key(self.rule.kill_turn(), self.freed_by_kill(), worth)
    }

    /// Rank among reclaim candidates, by the same order as [`Row::kill_key`] over the file cache
    /// that reclaim can take. Anonymous memory does not count: the kernel moves it to swap by
    /// itself, and on zram that turns memory into CPU load.
    pub const fn reclaim_key(&self, worth: u64) -> u64 {
        key(self.rule.reclaim, self.reclaimable_file(), worth)
    }
}

/// 1 bit "worth it", 11 bits priority, 52 bits of 4 KiB pages (more than any machine has).
pub const fn key(priority: u16, bytes: u64, worth: u64) -> u64 {
    (((bytes >= worth) as u64) << 63)
        | (((priority & 0x7ff) as u64) << 52)
        | ((bytes >> 12) & ((1 << 52) - 1))
}

/// A [`key`] without the size: whether it is worth it, and the priority.
pub const fn without_size(key: u64) -> u64 {
    key >> 52
}

/// A variable of the kernel, by name, and its address once that is found.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Ends with a 0.
    pub name: [u8; Self::NAME],
    pub address: u64,
}

impl Symbol {
    /// Bytes of a name, with the 0 at its end.
    pub const NAME: usize = 32;
}

/// What user space asks of one survey.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes that one has to free at least; what frees less ranks behind all others.
    pub worth: u64,
    /// Every cgroup id up to this one was classified; a higher one without an entry in the policy
    /// map is new and is reported in `unclassified` instead of being ranked. Ids only grow: kernfs
    /// hands them out cyclically with a generation above.
    pub classified_up_to: u64,
    /// For memcgs that no rule covers; also the root's.
    pub fallback: Rule,
    /// Ranks only what is within this cgroup; 0: everything. The cgroup itself is no unit then: it
    /// is ranked only where nothing is below it.
    pub within: u64,
    /// [`Request::ALL_ROWS`] or 0.
    pub flags: u32,
    pub _reserved: u32,
}

impl Request {
    /// Fill the table of all rows too (for showing).
    pub const ALL_ROWS: u32 = 1;

    /// What is above the cgroup `id` and the rule of its `own`, as far as this request goes.
    #[inline(always)]
    pub fn begins_at(&self, id: u64, above: Above, own: Option<Rule>) -> (Above, Option<Rule>) {
        if id != self.within {
            return (above, own);
        }
        let part = |rule: Rule| Rule {
            flags: rule.flags & !Rule::UNIT,
            ..rule
        };
        (above.entered(), own.map(part))
    }
}

/// What one survey answers. Fixed size: the ranking covers every memcg however many there are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The root memcg: totals of the system.
    pub system: Row,
    /// What may not be killed and would free most, among those that are [`Row::KILLABLE`]; id 0 where
    /// there is none.
    pub largest_never: Row,
    /// Highest id that was seen, of a cgroup or, where those are the rows, of a process.
    pub highest_id: u64,
    /// Memcgs that were walked, the root and dying ones not counted.
    pub memcgs: u32,
    /// Memcgs that are being removed but still hold memory; never ranked.
    pub dying: u32,
    /// Entries used in `kill`.
    pub kill_len: u32,
    /// Entries used in `reclaim`.
    pub reclaim_len: u32,
    /// New memcgs that need classifying before they can be ranked; may exceed
    /// [`UNCLASSIFIED`], then the list below holds the first of them.
    pub unclassified_len: u32,
    /// Rows of the table of all rows that this survey wanted to write; may exceed its size.
    pub rows_len: u32,
    /// Best kill candidates, best first.
    pub kill: [Row; CANDIDATES],
    /// Best reclaim candidates, best first.
    pub reclaim: [Row; CANDIDATES],
    /// cgroup ids.
    pub unclassified: [u64; UNCLASSIFIED],
}

impl Survey {
    pub const EMPTY: Self = Self {
        system: Row::ZERO,
        largest_never: Row::ZERO,
        highest_id: 0,
        memcgs: 0,
        dying: 0,
        kill_len: 0,
        reclaim_len: 0,
        unclassified_len: 0,
        rows_len: 0,
        kill: [Row::ZERO; CANDIDATES],
        reclaim: [Row::ZERO; CANDIDATES],
        unclassified: [0; UNCLASSIFIED],
    };

    /// Kill candidates, best first.
    pub fn kill(&self) -> &[Row] {
        let used = self.kill.get(..self.kill_len as usize);
        used.unwrap_or(&self.kill)
    }

    /// Reclaim candidates, best first.
    pub fn reclaim(&self) -> &[Row] {
        let used = self.reclaim.get(..self.reclaim_len as usize);
        used.unwrap_or(&self.reclaim)
    }

    /// Ids of memcgs that need classifying.
    pub fn unclassified(&self) -> &[u64] {
        let used = self.unclassified.get(..self.unclassified_len as usize);
        used.unwrap_or(&self.unclassified)
    }
}

/// Where the running kernel keeps what the BPF program reads: byte offsets, and values of enums.
/// The agent fills it in from the kernel's BTF before the program is loaded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelLayout {
    pub mem_cgroup_css: u64,
    pub css_cgroup: u64,
    pub css_flags: u64,
    pub css_children: u64,
    pub cgroup_kn: u64,
    pub cgroup_level: u64,
    pub cgroup_populated_csets: u64,
    pub cgroup_populated_domains: u64,
    pub cgroup_populated_threaded: u64,
    pub kernfs_node_id: u64,
    /// 0 where the kernel has no PSI.
    pub cgroup_psi: u64,
    /// Of `psi_group.total[PSI_AVGS][PSI_MEM_SOME]`, from the start of the group.
    pub psi_mem_some: u64,
    pub psi_mem_full: u64,
    pub css_online: u64,
    pub nr_anon_mapped: u64,
    pub nr_file_pages: u64,
    pub nr_file_mapped: u64,
    pub nr_shmem: u64,
    pub memcg_swap: u64,
    pub refault_anon: u64,
    pub refault_file: u64,
    pub memcg_high: u64,
    pub memcg_max: u64,
    pub memcg_oom_kill: u64,
    /// 1 where `bpf_get_root_mem_cgroup()` takes a reference, which is given back then; 0 where it does
    /// not, and giving one back is refused.
    pub root_is_held: u64,
}

/// What the watch and the agent share: each word is written by one side and read by the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watching {
    /// The agent's: wakes it once fewer pages are available; 0: never.
    pub mark: u64,
    /// The agent's: no alarm before this time of CLOCK_MONOTONIC.
    pub quiet_until_ns: u64,
    /// The watch's: time of the last alarm.
    pub alarm_ns: u64,
    /// The watch's: pages available then.
    pub available: u64,
}

impl Watching {
    /// Least time between two alarms.
    pub const PAUSE_NS: u64 = 10_000_000;
}

/// Where the running kernel counts its memory: addresses of its counters, from /proc/kallsyms, and the
/// places in them, from its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLayout {
    pub vm_zone_stat: u64,
    pub vm_node_stat: u64,
    pub totalreserve_pages: u64,
    /// 0 where the kernel has no swap.
    pub nr_swap_pages: u64,
    pub nr_free_pages: u64,
    pub nr_active_file: u64,
    pub nr_inactive_file: u64,
    pub nr_slab_reclaimable: u64,
}

impl MemoryLayout {
    pub const ZERO: Self = Self {
        vm_zone_stat: 0,
        vm_node_stat: 0,
        totalreserve_pages: 0,
        nr_swap_pages: 0,
        nr_free_pages: 0,
        nr_active_file: 0,
        nr_inactive_file: 0,
        nr_slab_reclaimable: 0,
    };
}

/// Where the running kernel keeps what the reflex reads of processes, and of a call of its OOM killer:
/// byte offsets, and a bit of `gfp_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskLayout {
    pub flags: u64,
    pub tgid: u64,
    pub exit_state: u64,
    pub signal: u64,
    /// Of `struct signal_struct`.
    pub signal_flags: u64,
    pub oom_memcg: u64,
    pub oom_gfp_mask: u64,
    pub oom_order: u64,
    /// `__GFP_FS`
    pub gfp_fs: u64,
}

/// Bytes: what frees less is not worth a kill to the reflex.
pub const REFLEX_WORTH: u64 = 1 << 20;
// In pages it is not nothing.
const _: () = assert!(REFLEX_WORTH >= 1 << 12);

/// What the reflex and the agent share. Times are of CLOCK_MONOTONIC, marks in pages. Each word is
/// written by one side alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflex {
    /// The agent's: [`Reflex::ARMED`] and friends; 0: off.
    pub mode: u64,
    /// It may act below so many pages available.
    pub mark: u64,
    /// And only with no more free swap than this.
    pub swap_mark: u64,
    /// What the agent gets first, for the hooks that are early.
    pub patience_ns: u64,
    /// Kills within [`Reflex::WINDOW_NS`]; after that it stands down until the agent attends.
    pub budget: u64,
    /// cgroup id of the agent's own, which is never taken.
    pub own_cgroup: u64,
    /// Process id of the agent, which gets no signal.
    pub agent: u64,
    /// When the agent last had a look.
    pub attended_ns: u64,
    /// Until when the agent's own victim may take to end.
    pub acting_until_ns: u64,
    /// How the walk ranks.
    pub request: Request,
    /// The reflex's own from here on: since when less than the mark is available; 0: it is not.
    pub breach_ns: u64,
    /// 1: a run is under way.
    pub busy: u64,
    /// No look before this.
    pub look_again_ns: u64,
    /// cgroup id of the last victim, and when it was signalled.
    pub victim: u64,
    pub victim_ns: u64,
    /// Kills in the window that began at `first_ns`.
    pub kills: u64,
    pub first_ns: u64,
    /// Kills ever.
    pub fired: u64,
    /// 1: the budget was used up.
    pub stood_down: u64,
}

impl Reflex {
    /// Acts where the kernel's OOM killer is next.
    pub const ARMED: u64 = 1;
    /// Acts also earlier, where the agent does not answer within its patience.
    pub const EARLY: u64 = 2;

    /// The time that the budget is for.
    pub const WINDOW_NS: u64 = 10_000_000_000;
    /// Least time between two walks.
    pub const LOOK_NS: u64 = 1_000_000;
    /// How long a victim may take to end before the next is taken.
    pub const EXIT_NS: u64 = 500_000_000;
    /// How long a victim of which nothing is left but what does not end is passed over.
    pub const EXCLUDED_NS: u64 = 5_000_000_000;
}

/// What ran the reflex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Hook {
    Charge = 1,
    Kswapd,
    Reclaim,
    Oom,
}

/// A kill of the reflex, as it is told.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When it began, by CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// From there to the last signal.
    pub took_ns: u64,
    /// A [`Hook`].
    pub hook: u64,
    /// Pages available before.
    pub available: u64,
    /// cgroup id.
    pub victim: u64,
    /// Bytes that it used, and that its end frees.
    pub usage: u64,
    pub freed: u64,
    pub rule: Rule,
    /// Threads that took the signal, and those that did not.
    pub signalled: u32,
    pub refused: u32,
}

impl Deed {
    pub const NOTHING: Self = Self {
        at_ns: 0,
        took_ns: 0,
        hook: 0,
        available: 0,
        victim: 0,
        usage: 0,
        freed: 0,
        rule: Rule::UNTOUCHABLE,
        signalled: 0,
        refused: 0,
    };
}
