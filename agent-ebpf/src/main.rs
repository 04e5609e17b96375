//! The survey: one walk over every memcg that applies the configured priorities and keeps the best
//! candidates. Runs in the kernel, on demand; see `lowtide_common` for what goes in and out.
#![no_std]
#![no_main]

mod best;
mod kernel;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use best::{Best, copy};
use kernel::{Memcg, Node, walk, with_memcg};
use lowtide_common::{Above, MAX_DEPTH, NEVER, Request, Row, Rule, Survey, UNCLASSIFIED};

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
    /// Entry 0 stands above the root; that of level n is entry n + 1.
    above: [Above; MAX_DEPTH],
    row: Row,
    kill: Best,
    reclaim: Best,
}

/// Runs as BPF_PROG_TYPE_SYSCALL, sleepable. Returns 0, or 1 where the kernel gives no root memcg.
///
/// The section name is one that the ELF reader knows; the agent sets the type itself.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
pub fn survey(request: *const Request) -> i32 {
    let (Some(out), Some(state)) = (SURVEY.get_ptr_mut(0), WALK.get_ptr_mut(0)) else { return 1 };
    // SAFETY: values of one-element maps, which exist for ever; runs are one at a time, as only
    // the agent starts them. `request` is the context that the kernel copied in.
    let (out, state, request) = unsafe { (&mut *out, &mut *state, &*request) };
    out.memcgs = 0;
    out.dying = 0;
    out.highest_id = 0;
    out.unclassified_len = 0;
    out.rows_len = 0;
    state.above[0] = Above::root(request);
    state.kill.clear();
    state.reclaim.clear();
    let found_root = walk(|css| {
        let node = Node::of(css);
        if !node.is_online() {
            out.dying += 1;
            return;
        }
        let known = place(node, request, out, state);
        with_memcg(css, |memcg| measure(node, memcg, known, request, out, state));
    });
    out.kill_len = state.kill.copy_to(&mut out.kill);
    out.reclaim_len = state.reclaim.copy_to(&mut out.reclaim);
    if found_root { 0 } else { 1 }
}

/// Finds the rule in force and what may be done to the memcg as it stands, and starts its row.
/// Returns false for a new one that nothing is known about.
#[inline(always)]
fn place(node: Node, request: &Request, out: &mut Survey, state: &mut Walk) -> bool {
    let level = (node.level as usize).min(MAX_DEPTH - 2);
    // SAFETY: the value is read once, and a torn read is bounded to one survey: only the agent
    // writes, and it does not while it runs the program.
    let own = unsafe { RULES.get(node.id) }.filter(|rule| rule.flags & Rule::INHERIT == 0).copied();
    let (above, own) = request.begins_at(node.id, state.above[level], own);
    let listed = RULES.get_ptr(node.id).is_some();
    let new = !listed && level > 0 && node.id > request.classified_up_to;
    if new {
        let at = out.unclassified_len as usize;
        if at < UNCLASSIFIED {
            out.unclassified[at] = node.id;
        }
        out.unclassified_len += 1;
    }
    if node.id > out.highest_id {
        out.highest_id = node.id;
    }
    let child = above.child(node.id, own, new);
    state.above[level + 1] = child;
    let row = &mut state.row;
    row.id = node.id;
    row.parent = above.id;
    row.level = node.level;
    row.flags = above.row_flags(own, node.is_leaf(), node.is_populated());
    row.rule = child.rule;
    child.is_decided()
}

/// Takes the figures that ranking needs; the others only for a row that is kept.
#[inline(always)]
fn measure(node: Node, memcg: Memcg, known: bool, request: &Request, out: &mut Survey, state: &mut Walk) {
    let row = &mut state.row;
    row.usage = memcg.usage();
    row.anon = memcg.anon();
    row.file = memcg.file();
    row.file_mapped = memcg.file_mapped();
    row.shmem = memcg.shmem();
    row.swap = memcg.swap();
    if row.level == 0 {
        rest(node, memcg, row);
        copy(&mut out.system, row);
    } else {
        out.memcgs += 1;
    }
    let may = |flag| known && row.flags & flag != 0;
    let killable = may(Row::KILLABLE) && row.rule.kill != NEVER;
    let kill = if killable { row.kill_key(request.enough) } else { 0 };
    let reclaimable = may(Row::RECLAIMABLE) && row.rule.reclaim != NEVER;
    let reclaim = if reclaimable { row.reclaim_key(request.enough) } else { 0 };
    let all_rows = request.flags & Request::ALL_ROWS != 0;
    let best_kill = kill != 0 && state.kill.would_keep(kill, row.id);
    let best_reclaim = reclaim != 0 && state.reclaim.would_keep(reclaim, row.id);
    if !(best_kill || best_reclaim || all_rows) {
        return;
    }
    rest(node, memcg, row);
    if best_kill {
        state.kill.keep(kill, row);
    }
    if best_reclaim {
        state.reclaim.keep(reclaim, row);
    }
    if all_rows {
        if let Some(slot) = ROWS.get_ptr_mut(out.rows_len) {
            // SAFETY: the map's own element.
            copy(unsafe { &mut *slot }, row);
        }
        out.rows_len += 1;
    }
}

#[inline(always)]
fn rest(node: Node, memcg: Memcg, row: &mut Row) {
    row.refault_anon = memcg.refault_anon();
    row.refault_file = memcg.refault_file();
    row.event_high = memcg.event_high();
    row.event_max = memcg.event_max();
    row.event_oom_kill = memcg.event_oom_kill();
    (row.psi_some_ns, row.psi_full_ns) = node.pressure();
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kfuncs are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
