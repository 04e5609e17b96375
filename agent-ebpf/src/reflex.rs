//! The reflex: where the agent does not answer in time, memory that is taken ends the first of the
//! configured order right there, in the kernel. Shares the rules, the walk and the ranking with the
//! survey; see `lowtide_common::Reflex` for what it shares with the agent.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use core::ptr::{read_volatile, write_volatile};
use lowtide_common::{Deed, Hook, Reflex, Row, Rule, copy};
use lowtide_ebpf::kernel::{self, Css, Node, with_memcg};
use lowtide_ebpf::memory::{self, Free};
use lowtide_ebpf::place::Place;
use lowtide_ebpf::replace;
use lowtide_ebpf::task::{self, Oom};

/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;
/// `BPF_RB_FORCE_WAKEUP`
const FORCE_WAKEUP: u64 = 2;

/// The config, by cgroup id: the survey's own map.
#[map]
static RULES: HashMap<u64, Rule> = HashMap::with_max_entries(1, NO_PREALLOC);
/// Shared with the agent.
#[map]
static REFLEX: Array<Reflex> = Array::with_max_entries(1, MMAPABLE);
/// What was done; its size is the agent's to choose.
#[map]
static DEEDS: RingBuf = RingBuf::with_byte_size(4096, 0);
/// Belongs to the run that is `busy`.
#[map]
static RUN: Array<Run> = Array::with_max_entries(1, 0);

/// What a run begins with at 0 has others between: side by side it would become a memset, which the verifier
/// does not take.
struct Run {
    place: Place,
    best_key: u64,
    /// The last victim, for a while.
    last: u64,
    /// Threads in it whose process is on its way out.
    dying: u64,
    /// cgroup id that is passed over.
    over: u64,
    /// Threads in the last victim that were started since.
    living: u64,
    deed: Deed,
    /// What the end of the largest without a rule yet would free.
    unknown: u64,
}

#[inline(always)]
fn shared() -> Option<*mut Reflex> {
    REFLEX.get_ptr_mut(0)
}

/// # Safety
/// The caller must be the run that is `busy`.
#[inline(always)]
unsafe fn run() -> Option<&'static mut Run> {
    // SAFETY: the value of a one-element map, which exists for ever; the rest by the caller's word.
    unsafe { Some(&mut *RUN.get_ptr_mut(0)?) }
}

macro_rules! get {
    ($shared:ident . $field:ident) => {
        // SAFETY: a place within the map's value; volatile, as others write at any time.
        unsafe { read_volatile(&raw const (*$shared).$field) }
    };
}
macro_rules! set {
    ($shared:ident . $field:ident = $value:expr) => {
        // SAFETY: as for `get`; one side alone writes each word.
        unsafe { write_volatile(&raw mut (*$shared).$field, $value) }
    };
}

/// Once for each 64 pages that are charged to a memcg, by whatever takes them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/page_counter_try_charge")]
pub fn charge(_: *const u64) -> i32 {
    early(Hook::Charge as u64);
    0
}

/// For what is charged to no memcg: a zone is below its low watermark.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/wakeup_kswapd")]
pub fn kswapd(_: *const u64) -> i32 {
    early(Hook::Kswapd as u64);
    0
}

/// Direct reclaim: the kernel's OOM killer may come next.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/try_to_free_pages")]
pub fn reclaim(_: *const u64) -> i32 {
    let Some(shared) = shared() else { return 0 };
    let mark = get!(shared.mark) as i64;
    if get!(shared.mode) & Reflex::ARMED == 0 {
        return 0;
    }
    let free = Free::read();
    if free.pages >= mark {
        return 0;
    }
    let available = free.available();
    // With swap that is left, little available memory is no end.
    if available >= mark || memory::free_swap() > get!(shared.swap_mark) as i64 {
        return 0;
    }
    act(Hook::Reclaim as u64, available);
    0
}

/// The kernel's OOM killer kills next.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/out_of_memory")]
pub fn oom(context: *const u64) -> i32 {
    let Some(shared) = shared() else { return 0 };
    // SAFETY: the first argument, which the verifier knows the type of.
    if get!(shared.mode) & Reflex::ARMED == 0 || !unsafe { Oom::of(context) }.is_global() {
        return 0;
    }
    act(Hook::Oom as u64, Free::read().available());
    0
}

/// Acts only if the agent has not answered in time.
#[inline(always)]
fn early(hook: u64) {
    let Some(shared) = shared() else { return };
    if get!(shared.mode) & Reflex::EARLY == 0 {
        return;
    }
    let mark = get!(shared.mark) as i64;
    let free = Free::read();
    let available = if free.pages >= mark { free.pages } else { free.available() };
    if available >= mark {
        if get!(shared.breach_ns) != 0 {
            set!(shared.breach_ns = 0);
        }
        return;
    }
    if memory::free_swap() > get!(shared.swap_mark) as i64 {
        return;
    }
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    let breach = get!(shared.breach_ns);
    if breach == 0 {
        set!(shared.breach_ns = now);
        if get!(shared.patience_ns) > 0 {
            return;
        }
    }
    let since = breach.max(get!(shared.attended_ns));
    if now < since + get!(shared.patience_ns) {
        return;
    }
    act(hook, available);
}

/// Ends one victim, or helps the last one to end, unless it is not the time for it.
#[inline(always)]
fn act(hook: u64, available: i64) {
    let Some(shared) = shared() else { return };
    // SAFETY: takes nothing.
    let now = unsafe { bpf_ktime_get_ns() };
    // The agent's own victim is still on its way out, or a look was a moment ago.
    if now < get!(shared.acting_until_ns) || now < get!(shared.look_again_ns) {
        return;
    }
    let (kills, victim_ns) = (get!(shared.kills), get!(shared.victim_ns));
    if kills >= get!(shared.budget) && get!(shared.attended_ns) <= victim_ns {
        // It stands down until the agent attends.
        set!(shared.stood_down = 1);
        return;
    }
    // SAFETY: a word of the map's value.
    if !unsafe { replace(&raw mut (*shared).busy, 0, 1) } {
        return;
    }
    set!(shared.look_again_ns = now + Reflex::LOOK_NS);
    // SAFETY: this is the run that is busy.
    if let Some(run) = unsafe { run() } {
        copy(&mut run.deed, &Deed::NOTHING);
        run.deed.at_ns = now;
        run.deed.hook = hook;
        run.deed.available = available.max(0) as u64;
        walk_and_take();
    }
    set!(shared.busy = 0);
}

/// One run. A function by itself, which takes nothing and returns an integer, so that it is verified
/// once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_and_take() -> i32 {
    begin();
    remains();
    if waits() == 0 {
        kernel::walk::<false>(visit);
        take();
    }
    1
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin() -> i32 {
    let Some(shared) = shared() else { return 0 };
    // SAFETY: only called by the run that is busy.
    let Some(run) = (unsafe { run() }) else { return 0 };
    // SAFETY: a torn read is bounded to this run: ids only grow, and the rest is as configured.
    run.place.begin(unsafe { &(*shared).request });
    run.best_key = 0;
    run.unknown = 0;
    run.dying = 0;
    run.living = 0;
    let passed = run.deed.at_ns - get!(shared.victim_ns);
    run.last = if passed < Reflex::EXCLUDED_NS { get!(shared.victim) } else { 0 };
    // What was spent before the agent attended, or before the window, does not count any more.
    if get!(shared.attended_ns) > get!(shared.victim_ns) || run.deed.at_ns - get!(shared.first_ns) > Reflex::WINDOW_NS {
        set!(shared.kills = 0);
        set!(shared.stood_down = 0);
    }
    1
}

/// Looks at what is in the last victim.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remains() -> i32 {
    // SAFETY: only called by the run that is busy.
    let Some(seen) = (unsafe { run() }) else { return 0 };
    if seen.last == 0 {
        return 0;
    }
    task::each(seen.last, |member| {
        // SAFETY: as above.
        let Some(run) = (unsafe { run() }) else { return };
        if member.is_dying() {
            run.dying += 1;
        } else {
            run.living += 1;
        }
    });
    1
}

/// Whether the last victim has time left to end: what was started in it meanwhile is signalled with it, and
/// there is nothing more to tell. After that it is passed over where nothing is left but what does not end;
/// what came back in its place is a candidate like any other.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn waits() -> i32 {
    let Some(shared) = shared() else { return 1 };
    // SAFETY: only called by the run that is busy.
    let Some(run) = (unsafe { run() }) else { return 1 };
    run.over = if run.living == 0 { run.last } else { 0 };
    if run.dying == 0 || run.deed.at_ns >= get!(shared.victim_ns) + Reflex::EXIT_NS {
        return 0;
    }
    if run.living != 0 {
        task::end(run.last, get!(shared.agent) as u32, note);
    }
    1
}

#[inline(always)]
fn visit(css: *mut Css) {
    let node = Node::of(css);
    if !node.is_online() {
        return;
    }
    with_memcg(css, |memcg| {
        // SAFETY: only called by the run that is busy; not used beyond the next call.
        let Some(run) = (unsafe { run() }) else { return };
        run.place.enter(node, memcg);
        // The page counter is exact, and statistics may be two seconds old here, where nothing can
        // flush them: what the file cache leaves of it is what a kill frees.
        let row = &mut run.place.row;
        row.anon = row.usage.saturating_sub(row.file.max(row.shmem));
        rank();
    });
}

/// Keeps the memcg if it goes before all others so far.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rank() -> i32 {
    let Some(shared) = shared() else { return 0 };
    // SAFETY: only called by the run that is busy.
    let Some(run) = (unsafe { run() }) else { return 0 };
    // SAFETY: the value is read once; a torn read is bounded to this run.
    let listed = unsafe { RULES.get(run.place.row.id) }.copied();
    let placed = run.place.place(listed);
    let (row, worth) = (&run.place.row, run.place.request.worth);
    if row.id == run.over {
        return 0;
    }
    let freed = row.freed_by_kill();
    if placed.new && row.flags & Row::KILLABLE != 0 && freed > run.unknown {
        run.unknown = freed;
    }
    // The processes of one are candidates by themselves: which of them, only the agent can say.
    if !placed.killable || row.rule.flags & Rule::PROCESS != 0 || row.id == get!(shared.own_cgroup) {
        return 0;
    }
    if freed < worth {
        return 0;
    }
    let key = row.kill_key(worth);
    if key > run.best_key || (key == run.best_key && row.id < run.deed.victim) {
        run.best_key = key;
        run.deed.victim = row.id;
        run.deed.usage = row.usage;
        run.deed.freed = freed;
        run.deed.rule = row.rule;
    }
    1
}

/// What came of one signal.
#[inline(always)]
fn note(error: i32) {
    // SAFETY: only called by the run that is busy.
    let Some(run) = (unsafe { run() }) else { return };
    if error == 0 {
        run.deed.signalled += 1;
    } else {
        run.deed.refused += 1;
    }
}

/// Signals what the walk found.
#[inline(always)]
fn take() {
    let Some(shared) = shared() else { return };
    // SAFETY: this is the run that is busy.
    let Some(run) = (unsafe { run() }) else { return };
    let (now, victim) = (run.deed.at_ns, run.deed.victim);
    // What holds more than the victim, and came after the agent's last word, may be what grows: others would
    // go in vain, one after the other. The kernel's OOM killer goes by size.
    if victim == 0 || run.unknown > run.deed.freed {
        return;
    }
    task::end(victim, get!(shared.agent) as u32, note);
    if get!(shared.kills) == 0 {
        set!(shared.first_ns = now);
    }
    let (kills, fired) = (get!(shared.kills), get!(shared.fired));
    set!(shared.kills = kills + 1);
    set!(shared.fired = fired + 1);
    set!(shared.victim = victim);
    set!(shared.victim_ns = now);
    // SAFETY: takes nothing.
    run.deed.took_ns = unsafe { bpf_ktime_get_ns() } - now;
    let _ = DEEDS.output::<Deed>(&run.deed, FORCE_WAKEUP);
}

include!("program.rs");
