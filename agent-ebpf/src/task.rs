//! Processes, and ending them.

use crate::kernel::{Cgroup, constant, field, rcu_read_lock, rcu_read_unlock};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use lowtide_common::TaskLayout;

/// `struct bpf_iter_task`, opaque.
#[repr(C, align(8))]
pub struct IterTask([u64; 3]);
#[repr(C)]
pub struct Task([u8; 0]);

unsafe extern "C" {
    fn bpf_iter_task_new(iter: *mut IterTask, task: *mut Task, flags: u32) -> i32;
    fn bpf_iter_task_next(iter: *mut IterTask) -> *mut Task;
    fn bpf_iter_task_destroy(iter: *mut IterTask);
    fn bpf_cgroup_from_id(id: u64) -> *mut Cgroup;
    fn bpf_cgroup_release(cgroup: *mut Cgroup);
    fn bpf_task_under_cgroup(task: *mut Task, ancestor: *mut Cgroup) -> i64;
    fn bpf_task_acquire(task: *mut Task) -> *mut Task;
    fn bpf_task_release(task: *mut Task);
    fn bpf_send_signal_task(task: *mut Task, signal: i32, kind: u32, value: u64) -> i32;
}

/// Read-only once loaded.
#[unsafe(no_mangle)]
static TASK: TaskLayout = TaskLayout {
    flags: 0,
    tgid: 0,
    exit_state: 0,
    signal: 0,
    signal_flags: 0,
    oom_memcg: 0,
    oom_gfp_mask: 0,
    oom_order: 0,
    gfp_fs: 0,
};

/// include/linux/sched.h
const PF_EXITING: u32 = 0x4;
const PF_KTHREAD: u32 = 0x20_0000;

macro_rules! layout {
    ($field:ident) => {
        constant(&TASK.$field)
    };
}

/// A thread that is in a cgroup or below it and has not ended.
pub struct Member {
    task: *mut Task,
    flags: u32,
}

impl Member {
    /// Whether its process is on its way out: killed, or ending by itself. What was started after a kill is
    /// not.
    #[inline(always)]
    pub fn is_dying(&self) -> bool {
        /// include/linux/sched/signal.h
        const SIGNAL_GROUP_EXIT: u32 = 0x4;
        // SAFETY: offsets from the running kernel's BTF, on pointers that the kernel gave.
        let of_process: u32 = unsafe {
            let signal: *const u8 = field(self.task, layout!(signal));
            field(signal, layout!(signal_flags))
        };
        self.flags & PF_EXITING != 0 || of_process & SIGNAL_GROUP_EXIT != 0
    }

    #[inline(always)]
    fn tgid(&self) -> u32 {
        // SAFETY: as above.
        unsafe { field(self.task, layout!(tgid)) }
    }
}

/// Every [`Member`] of a cgroup that is no kernel thread. Threads, not processes: the first of a process
/// may have ended before the others.
#[inline(always)]
pub fn each(cgroup: u64, mut visit: impl FnMut(Member)) {
    /// `BPF_TASK_ITER_ALL_THREADS`
    const ALL_THREADS: u32 = 1;
    // SAFETY: kfuncs called as the kernel prescribes; the verifier refuses the program otherwise.
    unsafe {
        let cgroup = bpf_cgroup_from_id(cgroup);
        if cgroup.is_null() {
            return;
        }
        let mut iter = MaybeUninit::<IterTask>::uninit();
        rcu_read_lock();
        bpf_iter_task_new(iter.as_mut_ptr(), null_mut(), ALL_THREADS);
        loop {
            let task = bpf_iter_task_next(iter.as_mut_ptr());
            if task.is_null() {
                break;
            }
            let flags: u32 = field(task, layout!(flags));
            let ended: u32 = field(task, layout!(exit_state));
            if flags & PF_KTHREAD != 0 || ended != 0 || bpf_task_under_cgroup(task, cgroup) != 1 {
                continue;
            }
            visit(Member { task, flags });
        }
        bpf_iter_task_destroy(iter.as_mut_ptr());
        rcu_read_unlock();
        bpf_cgroup_release(cgroup);
    }
}

/// Sends SIGKILL to every process in a cgroup and below it, but to pid 1 and the agent; `sent` is told
/// what came of each signal.
#[inline(always)]
pub fn end(cgroup: u64, agent: u32, mut sent: impl FnMut(i32)) {
    /// `PIDTYPE_TGID`: to the process as a whole.
    const TGID: u32 = 1;
    const SIGKILL: i32 = 9;
    each(cgroup, |member| {
        let tgid = member.tgid();
        // One that exits takes no signal.
        if member.flags & PF_EXITING != 0 || tgid == 1 || tgid == agent {
            return;
        }
        // SAFETY: as above; the reference taken is given back.
        unsafe {
            let held = bpf_task_acquire(member.task);
            if held.is_null() {
                return;
            }
            let error = bpf_send_signal_task(held, SIGKILL, TGID, 0);
            bpf_task_release(held);
            sent(error);
        }
    });
}

/// `struct oom_control`: a call of the kernel's OOM killer.
pub struct Oom(*const u8);

impl Oom {
    /// # Safety
    /// `context` must be that of a program on entry of `out_of_memory()`.
    #[inline(always)]
    pub unsafe fn of(context: *const u64) -> Self {
        // SAFETY: by the caller's word.
        Self(unsafe { *context } as *const u8)
    }

    /// Whether the system as a whole has run out, and the kernel kills for it: not for a limit, not
    /// because somebody asked for it (`order` -1), and not where the caller only has to try again.
    #[inline(always)]
    pub fn is_global(self) -> bool {
        // SAFETY: offsets from the running kernel's BTF, on the argument that the verifier knows.
        unsafe {
            let memcg: u64 = field(self.0, layout!(oom_memcg));
            let gfp: u32 = field(self.0, layout!(oom_gfp_mask));
            let order: i32 = field(self.0, layout!(oom_order));
            memcg == 0 && order >= 0 && gfp & layout!(gfp_fs) as u32 != 0
        }
    }
}
