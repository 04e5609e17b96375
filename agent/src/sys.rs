//! The system calls that no safe crate offers: cgroups by id, and memory of a dying process.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::{CStr, c_int, c_uint};
use std::io;

/// `FILEID_KERNFS`: the handle is a 64-bit kernfs node id, which is the cgroup id.
const FILEID_KERNFS: c_int = 0xfe;

/// `struct file_handle` with room for a kernfs id.
#[repr(C)]
struct KernfsHandle {
    handle_bytes: c_uint,
    handle_type: c_int,
    // The kernel's `f_handle` has no alignment: as two words it follows without padding.
    id: [u32; 2],
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The cgroup id of the directory `path` below `dir`.
pub fn cgroup_id(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<u64> {
    let mut handle = KernfsHandle {
        handle_bytes: 8,
        handle_type: 0,
        id: [0; 2],
    };
    let mut mount_id: c_int = 0;
    // SAFETY: `handle` has the layout of struct file_handle and says how large it is; both
    // pointers outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            if path.is_empty() {
                libc::AT_EMPTY_PATH
            } else {
                0
            },
        )
    })?;
    if handle.handle_type != FILEID_KERNFS || handle.handle_bytes != 8 {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "not a kernfs handle: is this cgroup2?",
        ));
    }
    let [a, b] = handle.id.map(u32::to_ne_bytes);
    Ok(u64::from_ne_bytes([
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3],
    ]))
}

/// Opens the directory of the cgroup `id`; `root` is any open directory of the same mount.
/// `ESTALE` when the cgroup is gone. Needs CAP_DAC_READ_SEARCH.
pub fn open_cgroup(root: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let b = id.to_ne_bytes();
    let mut handle = KernfsHandle {
        handle_bytes: 8,
        handle_type: FILEID_KERNFS,
        id: [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        ],
    };
    // SAFETY: `handle` has the layout of struct file_handle and outlives the call.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            root.as_raw_fd(),
            &raw mut handle,
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    })?;
    // SAFETY: the kernel just gave this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Gives back the memory of a process that was killed, without waiting for it to be scheduled.
/// `ESRCH` when it is already gone.
pub fn process_mrelease(pidfd: impl AsFd) -> io::Result<()> {
    /// The same on every architecture (include/uapi/asm-generic/unistd.h); the libc crate does not
    /// have it for riscv64 with musl.
    const SYS_PROCESS_MRELEASE: libc::c_long = 448;
    // SAFETY: takes a descriptor and flags, no pointers.
    check(unsafe { libc::syscall(SYS_PROCESS_MRELEASE, pidfd.as_fd().as_raw_fd(), 0) }).map(drop)
}
