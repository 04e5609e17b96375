//! What is available in the whole system, by the kernel's own counters.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use core::ptr::read_volatile;
use lowtide_common::MemoryLayout;

/// Read-only once loaded. The counters are in no BTF: the agent asks the kernel
/// for their addresses.
#[unsafe(no_mangle)]
static MEMORY: MemoryLayout = MemoryLayout::ZERO;

macro_rules! memory {
    ($field:ident) => {{
        // SAFETY: a reference is valid for reads; volatile, as the loader changes the value.
        unsafe { read_volatile(&MEMORY.$field) }
    }};
}

/// One of the kernel's `long` counters, which may be below zero for a moment.
#[inline(always)]
fn counter(base: u64, index: u64) -> i64 {
    let mut value = 0i64;
    // SAFETY: a read that cannot fault; where it fails the value stays 0.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, (base + index * 8) as *const _) };
    value.max(0)
}

/// Free pages that the kernel gives to any process, and what it keeps back beside them.
#[derive(Clone, Copy)]
pub struct Free {
    pub pages: i64,
    reserve: i64,
}

impl Free {
    /// Two reads.
    #[inline(always)]
    pub fn read() -> Self {
        let reserve = counter(memory!(totalreserve_pages), 0);
        let pages = counter(memory!(vm_zone_stat), memory!(nr_free_pages)) - reserve;
        Self { pages, reserve }
    }

    /// Pages that can be had without swapping: MemAvailable as `si_mem_available()` of mm/show_mem.c
    /// has it, but for the low watermarks, in place of which all of `totalreserve_pages` stands. It
    /// is never above MemAvailable.
    #[inline(always)]
    pub fn available(self) -> i64 {
        let stat = memory!(vm_node_stat);
        let file = counter(stat, memory!(nr_active_file)) + counter(stat, memory!(nr_inactive_file));
        let slab = counter(stat, memory!(nr_slab_reclaimable));
        let part = |pages: i64| pages - (pages / 2).min(self.reserve);
        self.pages + part(file) + part(slab)
    }
}

/// Free pages of swap.
#[inline(always)]
pub fn free_swap() -> i64 {
    if memory!(nr_swap_pages) == 0 {
        return 0;
    }
    counter(memory!(nr_swap_pages), 0)
}
