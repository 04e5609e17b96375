//! The watch: wakes the agent once less memory is available than its mark. Runs in whatever takes
//! memory, whenever it is charged; needs no memcg kfunc.
#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use core::ptr::{read_volatile, write_volatile};
use lowtide_common::Watching;
use lowtide_ebpf::memory::Free;
use lowtide_ebpf::replace;

/// `BPF_F_MMAPABLE`
const MMAPABLE: u32 = 1 << 10;
/// `BPF_RB_FORCE_WAKEUP`
const FORCE_WAKEUP: u64 = 2;

/// Shared with the agent.
#[map]
static WATCHING: Array<Watching> = Array::with_max_entries(1, MMAPABLE);
/// Wakes the agent; its size is the agent's to choose.
#[map]
static ALARMS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Once for each 64 pages that are charged to a memcg, by whatever takes them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/page_counter_try_charge")]
pub fn charge(_: *const u64) -> i32 {
    look();
    0
}

/// For what is charged to no memcg: a zone is below its low watermark.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/wakeup_kswapd")]
pub fn kswapd(_: *const u64) -> i32 {
    look();
    0
}

#[inline(always)]
fn look() {
    let Some(watching) = WATCHING.get_ptr_mut(0) else { return };
    // SAFETY: the only value of a map, which exists for ever. Each word is written by one side alone,
    // but for `alarm_ns`, which is only replaced; volatile, as the agent writes at any time.
    unsafe {
        let mark = read_volatile(&raw const (*watching).mark) as i64;
        if mark == 0 {
            return;
        }
        let free = Free::read();
        if free.pages >= mark {
            return;
        }
        let available = free.available();
        if available >= mark {
            return;
        }
        let now = bpf_ktime_get_ns();
        let last = read_volatile(&raw const (*watching).alarm_ns);
        let quiet_until = read_volatile(&raw const (*watching).quiet_until_ns);
        if now < quiet_until || now < last + Watching::PAUSE_NS {
            return;
        }
        if !replace(&raw mut (*watching).alarm_ns, last, now) {
            return;
        }
        write_volatile(&raw mut (*watching).available, available.max(0) as u64);
        let _ = ALARMS.output::<u64>(&now, FORCE_WAKEUP);
    }
}

include!("program.rs");
