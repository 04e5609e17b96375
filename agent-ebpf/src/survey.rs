//! The survey: one walk over every memcg that applies the configured priorities and keeps the best
//! candidates. Runs in the kernel, on demand; see `lowtide_common` for what goes in and out.
#![no_std]
#![no_main]

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use lowtide_ebpf::kernel::{self, Css, Node, with_memcg};
use lowtide_common::{Best, Request, Row, Rule, Survey, UNCLASSIFIED, copy};
use lowtide_ebpf::place::Place;

/// `BPF_F_NO_PREALLOC`: entries cost memory only once there are any.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;

/// The config, by cgroup id.
#[map]
static RULES: HashMap<u64, Rule> = HashMap::with_max_entries(1, NO_PREALLOC);
/// The answer, mapped into the agent.
#[map]
static SURVEY: Array<Survey> = Array::with_max_entries(1, MMAPABLE);
/// Every row, for showing.
#[map]
static ROWS: Array<Row> = Array::with_max_entries(1, MMAPABLE);
#[map]
static WALK: Array<Walk> = Array::with_max_entries(1, 0);

/// State of one run; too large for the stack.
struct Walk {
    place: Place,
    /// Ranks of the memcg that it has come to; 0 where it is none of the best.
    kill_key: u64,
    reclaim_key: u64,
    /// What the largest that is never killed would free, and whether the row is that.
    never_frees: u64,
    is_largest_never: u64,
    kill: Best<Row>,
    reclaim: Best<Row>,
}

/// The answer and the state of the run.
///
/// # Safety
/// The caller must be the only one that holds them.
#[inline(always)]
unsafe fn maps() -> Option<(&'static mut Survey, &'static mut Walk)> {
    // SAFETY: values of one-element maps, which exist for ever; runs are one at a time, as only
    // the agent starts them, and the rest is by the caller's word.
    unsafe { Some((&mut *SURVEY.get_ptr_mut(0)?, &mut *WALK.get_ptr_mut(0)?)) }
}

/// Runs as BPF_PROG_TYPE_SYSCALL, sleepable. Returns 0, or 1 where the kernel gives no root memcg.
///
/// The section name is one that the ELF reader knows; the agent sets the type itself.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub fn survey(request: *const Request) -> i32 {
    // SAFETY: nothing else is running; `request` is the context that the kernel copied in.
    let Some((_, walk)) = (unsafe { maps() }) else { return 1 };
    // SAFETY: as above.
    walk.place.begin(unsafe { &*request });
    begin();
    let found_root = kernel::walk::<true>(visit);
    finish();
    if found_root { 0 } else { 1 }
}

/// Empties the answer.
///
/// A function like this one, which takes nothing and returns an integer, is verified once, by itself:
/// the agent declares it global. A branch that the walk's loop takes itself comes close to doubling
/// the ways through it that the verifier follows.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begin() -> i32 {
    // SAFETY: nothing else is running.
    let Some((out, walk)) = (unsafe { maps() }) else { return 0 };
    out.memcgs = 0;
    out.dying = 0;
    copy(&mut out.highest_id, &0);
    out.unclassified_len = 0;
    out.rows_len = 0;
    copy(&mut out.largest_never, &Row::ZERO);
    walk.never_frees = 0;
    walk.kill.clear();
    walk.reclaim.clear();
    1
}

/// Takes the figures that ranking needs; the others only for a row that is kept.
#[inline(always)]
fn visit(css: *mut Css) {
    let node = Node::of(css);
    // SAFETY: not used beyond the next call.
    let Some((out, walk)) = (unsafe { maps() }) else { return };
    if !node.is_online() {
        out.dying += 1;
        return;
    }
    with_memcg(css, |memcg| {
        walk.place.enter(node, memcg);
        walk.place.row.anon = memcg.anon();
        if rank() == 0 {
            return;
        }
        // SAFETY: as above.
        let Some((_, walk)) = (unsafe { maps() }) else { return };
        let row = &mut walk.place.row;
        row.file_mapped = memcg.file_mapped();
        row.refault_anon = memcg.refault_anon();
        row.refault_file = memcg.refault_file();
        row.event_high = memcg.event_high();
        row.event_max = memcg.event_max();
        row.event_oom_kill = memcg.event_oom_kill();
        (row.psi_some_ns, row.psi_full_ns) = node.pressure();
        keep();
    });
}

/// Finds the rule in force, what may be done to the memcg as it stands, and its ranks. Returns
/// whether its row has to be kept.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rank() -> i32 {
    // SAFETY: the caller uses them no more.
    let Some((out, walk)) = (unsafe { maps() }) else { return 0 };
    // SAFETY: the value is read once, and a torn read is bounded to one survey: only the agent
    // writes, and it does not while it runs the program.
    let listed = unsafe { RULES.get(walk.place.row.id) }.copied();
    let placed = walk.place.place(listed);
    let (row, request) = (&walk.place.row, &walk.place.request);
    if placed.new {
        let at = out.unclassified_len as usize;
        if at < UNCLASSIFIED {
            out.unclassified[at] = row.id;
        }
        out.unclassified_len += 1;
    }
    out.highest_id = out.highest_id.max(row.id);
    if row.level > 0 {
        out.memcgs += 1;
    }
    let is_largest = placed.never && row.freed_by_kill() > walk.never_frees;
    walk.is_largest_never = is_largest as u64;
    if is_largest {
        walk.never_frees = row.freed_by_kill();
    }
    let kill = if placed.killable { row.kill_key(request.worth) } else { 0 };
    let reclaim = if placed.reclaimable { row.reclaim_key(request.worth) } else { 0 };
    walk.kill_key = if walk.kill.would_keep(kill, row.id) { kill } else { 0 };
    walk.reclaim_key = if walk.reclaim.would_keep(reclaim, row.id) { reclaim } else { 0 };
    let all = row.level == 0 || request.flags & Request::ALL_ROWS != 0;
    (all || walk.kill_key | walk.reclaim_key | walk.is_largest_never != 0) as i32
}

/// Puts the row where it belongs.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn keep() -> i32 {
    // SAFETY: the caller uses them no more.
    let Some((out, walk)) = (unsafe { maps() }) else { return 0 };
    if walk.place.row.level == 0 {
        copy(&mut out.system, &walk.place.row);
    }
    if walk.is_largest_never != 0 {
        copy(&mut out.largest_never, &walk.place.row);
    }
    let row = &walk.place.row;
    if walk.kill_key != 0 {
        walk.kill.keep_for_worst(walk.kill_key, row.id, row);
    }
    if walk.reclaim_key != 0 {
        walk.reclaim.keep_for_worst(walk.reclaim_key, row.id, row);
    }
    if walk.place.request.flags & Request::ALL_ROWS != 0 {
        if let Some(slot) = ROWS.get_ptr_mut(out.rows_len) {
            // SAFETY: the map's own element.
            copy(unsafe { &mut *slot }, &walk.place.row);
        }
        out.rows_len += 1;
    }
    1
}

/// Copies the best into the answer.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn finish() -> i32 {
    // SAFETY: nothing else is running.
    let Some((out, walk)) = (unsafe { maps() }) else { return 0 };
    out.kill_len = walk.kill.copy_to(&mut out.kill);
    out.reclaim_len = walk.reclaim.copy_to(&mut out.reclaim);
    1
}

include!("program.rs");
