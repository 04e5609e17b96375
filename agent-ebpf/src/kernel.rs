//! The kernel's side: kfuncs by the kernel's own names, and reads of its structures at the offsets
//! that the agent took from the running kernel's BTF.
//!
//! The kfunc calls leave the compiler as calls to undefined symbols; the agent resolves them by
//! name before it loads the program.

use core::mem::MaybeUninit;
use core::ptr::read_volatile;
use lowtide_common::KernelLayout;

/// `struct bpf_iter_css`, opaque.
#[repr(C, align(8))]
pub struct IterCss([u64; 3]);
#[repr(C)]
pub struct MemCgroup([u8; 0]);
#[repr(C)]
pub struct Css([u8; 0]);
#[repr(C)]
pub struct Cgroup([u8; 0]);

/// `BPF_CGROUP_ITER_DESCENDANTS_PRE`
const DESCENDANTS_PRE: u32 = 2;

unsafe extern "C" {
    #[link_name = "bpf_rcu_read_lock"]
    pub(crate) fn rcu_read_lock();
    #[link_name = "bpf_rcu_read_unlock"]
    pub(crate) fn rcu_read_unlock();
    fn bpf_get_root_mem_cgroup() -> *mut MemCgroup;
    fn bpf_get_mem_cgroup(css: *mut Css) -> *mut MemCgroup;
    fn bpf_put_mem_cgroup(memcg: *mut MemCgroup);
    fn bpf_mem_cgroup_flush_stats(memcg: *mut MemCgroup);
    fn bpf_mem_cgroup_usage(memcg: *mut MemCgroup) -> u64;
    fn bpf_mem_cgroup_page_state(memcg: *mut MemCgroup, index: i32) -> u64;
    fn bpf_mem_cgroup_memory_events(memcg: *mut MemCgroup, event: u32) -> u64;
    fn bpf_iter_css_new(iter: *mut IterCss, start: *mut Css, flags: u32) -> i32;
    fn bpf_iter_css_next(iter: *mut IterCss) -> *mut Css;
    fn bpf_iter_css_destroy(iter: *mut IterCss);
}

/// Read-only once loaded, so that the verifier takes each field as a constant.
#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout {
    mem_cgroup_css: 0,
    css_cgroup: 0,
    css_flags: 0,
    css_children: 0,
    cgroup_kn: 0,
    cgroup_level: 0,
    cgroup_populated_csets: 0,
    cgroup_populated_domains: 0,
    cgroup_populated_threaded: 0,
    kernfs_node_id: 0,
    cgroup_psi: 0,
    psi_mem_some: 0,
    psi_mem_full: 0,
    css_online: 0,
    nr_anon_mapped: 0,
    nr_file_pages: 0,
    nr_file_mapped: 0,
    nr_shmem: 0,
    memcg_swap: 0,
    refault_anon: 0,
    refault_file: 0,
    memcg_high: 0,
    memcg_max: 0,
    memcg_oom_kill: 0,
    root_is_held: 0,
};

/// The value that the agent put in place, not the zero that the compiler sees.
#[inline(always)]
pub(crate) fn constant(field: &'static u64) -> u64 {
    // SAFETY: a reference is valid for reads; volatile, as the loader changes the value.
    unsafe { read_volatile(field) }
}

macro_rules! layout {
    ($field:ident) => {
        constant(&LAYOUT.$field)
    };
}

/// Reads a field of a kernel structure that the verifier knows the type of.
///
/// # Safety
/// `base` must come from the kernel and `offset` be that of a `T` in it.
#[inline(always)]
pub(crate) unsafe fn field<T, S>(base: *const S, offset: u64) -> T {
    // SAFETY: by the caller's word; the verifier checks it again and turns it into a load that
    // cannot fault.
    unsafe { read_volatile(base.cast::<u8>().add(offset as usize).cast::<T>()) }
}

/// Walks every memcg from the root down, parents before children, under the RCU read lock.
///
/// `FLUSH`: statistics that are pending are flushed first, which sleeps. `visit` gets a css that is
/// valid for the call. Returns false where the kernel gives no root.
#[inline(always)]
pub fn walk<const FLUSH: bool>(mut visit: impl FnMut(*mut Css)) -> bool {
    // SAFETY: kfuncs called as the kernel prescribes; the verifier refuses the program otherwise:
    // the root is checked, flushed outside the RCU section (that sleeps), and put at the end.
    unsafe {
        let root = bpf_get_root_mem_cgroup();
        if root.is_null() {
            return false;
        }
        if FLUSH {
            bpf_mem_cgroup_flush_stats(root);
        }
        let mut iter = MaybeUninit::<IterCss>::uninit();
        rcu_read_lock();
        let start = root.cast::<u8>().add(layout!(mem_cgroup_css) as usize).cast();
        bpf_iter_css_new(iter.as_mut_ptr(), start, DESCENDANTS_PRE);
        loop {
            let css = bpf_iter_css_next(iter.as_mut_ptr());
            if css.is_null() {
                break;
            }
            visit(css);
        }
        bpf_iter_css_destroy(iter.as_mut_ptr());
        rcu_read_unlock();
        if layout!(root_is_held) != 0 {
            bpf_put_mem_cgroup(root);
        }
    }
    true
}

/// Calls `f` with the memcg of a css, holding a reference; `false` when it is being freed.
#[inline(always)]
pub fn with_memcg(css: *mut Css, f: impl FnOnce(Memcg)) -> bool {
    // SAFETY: `css` is the iterator's; the reference taken is given back.
    unsafe {
        let memcg = bpf_get_mem_cgroup(css);
        if memcg.is_null() {
            return false;
        }
        f(Memcg(memcg));
        bpf_put_mem_cgroup(memcg);
    }
    true
}

/// A memcg that is referenced.
#[derive(Clone, Copy)]
pub struct Memcg(*mut MemCgroup);

impl Memcg {
    #[inline(always)]
    pub fn usage(self) -> u64 {
        // SAFETY: the reference is held.
        unsafe { bpf_mem_cgroup_usage(self.0) }
    }

    /// A counter of memory.stat in its own unit; 0 where the kernel does not have it.
    #[inline(always)]
    fn state(self, index: u64) -> u64 {
        // SAFETY: the reference is held; the kernel checks the index.
        let value = unsafe { bpf_mem_cgroup_page_state(self.0, index as i32) };
        if value == u64::MAX { 0 } else { value }
    }

    #[inline(always)]
    fn event(self, event: u64) -> u32 {
        // SAFETY: as above.
        unsafe { bpf_mem_cgroup_memory_events(self.0, event as u32) as u32 }
    }

    #[inline(always)]
    pub fn anon(self) -> u64 {
        self.state(layout!(nr_anon_mapped))
    }
    #[inline(always)]
    pub fn file(self) -> u64 {
        self.state(layout!(nr_file_pages))
    }
    #[inline(always)]
    pub fn file_mapped(self) -> u64 {
        self.state(layout!(nr_file_mapped))
    }
    #[inline(always)]
    pub fn shmem(self) -> u64 {
        self.state(layout!(nr_shmem))
    }
    #[inline(always)]
    pub fn swap(self) -> u64 {
        self.state(layout!(memcg_swap))
    }
    #[inline(always)]
    pub fn refault_anon(self) -> u64 {
        self.state(layout!(refault_anon))
    }
    #[inline(always)]
    pub fn refault_file(self) -> u64 {
        self.state(layout!(refault_file))
    }
    #[inline(always)]
    pub fn event_high(self) -> u32 {
        self.event(layout!(memcg_high))
    }
    #[inline(always)]
    pub fn event_max(self) -> u32 {
        self.event(layout!(memcg_max))
    }
    #[inline(always)]
    pub fn event_oom_kill(self) -> u32 {
        self.event(layout!(memcg_oom_kill))
    }
}

/// What the cgroup of a css tells by itself.
#[derive(Clone, Copy)]
pub struct Node {
    css: *mut Css,
    cgroup: *mut Cgroup,
    pub id: u64,
    pub level: u16,
}

impl Node {
    #[inline(always)]
    pub fn of(css: *mut Css) -> Self {
        // SAFETY: offsets from the running kernel's BTF, on pointers that the kernel gave.
        unsafe {
            let cgroup: *mut Cgroup = field(css, layout!(css_cgroup));
            let kn: *mut u8 = field(cgroup, layout!(cgroup_kn));
            Self { css, cgroup, id: field(kn, layout!(kernfs_node_id)), level: field::<i32, _>(cgroup, layout!(cgroup_level)) as u16 }
        }
    }

    #[inline(always)]
    pub fn is_online(self) -> bool {
        // SAFETY: as above.
        let flags: u32 = unsafe { field(self.css, layout!(css_flags)) };
        flags & layout!(css_online) as u32 != 0
    }

    /// How far its list of children is from pointing at itself: 0 when no memcg is below it.
    #[inline(always)]
    pub fn children(self) -> u64 {
        // SAFETY: as above.
        let first: u64 = unsafe { field(self.css, layout!(css_children)) };
        first - (self.css as u64 + layout!(css_children))
    }

    /// 0 when no process is in it or below it.
    #[inline(always)]
    pub fn populated(self) -> u64 {
        // SAFETY: as above.
        unsafe {
            let csets: u32 = field(self.cgroup, layout!(cgroup_populated_csets));
            let domains: u32 = field(self.cgroup, layout!(cgroup_populated_domains));
            let threaded: u32 = field(self.cgroup, layout!(cgroup_populated_threaded));
            (csets | domains | threaded) as u64
        }
    }

    /// Time stalled on memory in nanoseconds, (some, full).
    #[inline(always)]
    pub fn pressure(self) -> (u64, u64) {
        if layout!(cgroup_psi) == 0 {
            return (0, 0);
        }
        // SAFETY: as above.
        unsafe {
            let psi: *mut u8 = field(self.cgroup, layout!(cgroup_psi));
            (field(psi, layout!(psi_mem_some)), field(psi, layout!(psi_mem_full)))
        }
    }
}
