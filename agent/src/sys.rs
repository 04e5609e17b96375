//! The system calls that no safe crate offers: cgroups by id, memory of a dying process, which pages
//! stay in memory, and starting a program without an allocation between fork and exec.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::AtFlags;
use rustix::mm::{Advice, madvise, mlock, munlock};
use rustix::param::page_size;
use rustix::process::Pid;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;
use std::slice;
use std::time::Duration;

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

/// What a system call returned, or the error that it left in errno.
pub fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Whether the process at the other end of a socket was in a group of users when it connected, beside its own
/// (`SO_PEERGROUPS`, Linux 4.13). Of a process in more groups than 64 it is not said.
pub fn is_peer_in_group(socket: BorrowedFd<'_>, group: u32) -> bool {
    let mut groups = [0_u32; 64];
    let mut len = size_of_val(&groups) as libc::socklen_t;
    // SAFETY: the kernel writes `len` bytes at most, which is what the array has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &mut len,
        )
    };
    let count = len as usize / size_of::<u32>();
    result == 0 && groups.iter().take(count).any(|id| *id == group)
}

/// The cgroup id of the directory `path` below `dir`. Where no handle is to be had, as under a filter
/// of system calls, or in a copy of a tree, that is its inode number.
pub fn cgroup_id(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<u64> {
    handle_of(dir, path).or_else(|error| match error.raw_os_error() {
        // In a copy: no handle at all, one of another length, or one of another kind.
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP | libc::EOVERFLOW)
        | None => {
            let stat = if path.is_empty() {
                rustix::fs::fstat(dir)
            } else {
                rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW)
            };
            Ok(stat?.st_ino)
        }
        _ => Err(error),
    })
}

/// The cgroup id of an entry of the directory `dir`, with the inode number that its listing shows.
pub fn cgroup_id_of_entry(dir: BorrowedFd<'_>, name: &CStr, inode: u64) -> io::Result<u64> {
    // Where a word has 64 bits, so has an inode number, and it is the id.
    if cfg!(target_pointer_width = "64") {
        Ok(inode)
    } else {
        cgroup_id(dir, name)
    }
}

/// Whether a directory with this inode number is the cgroup `id`: a kernel of 32 bits shows the lower
/// half (`kernfs_ino` of linux/kernfs.h).
pub fn is_inode_of(inode: u64, id: u64) -> bool {
    inode == id || inode == u64::from(id as u32)
}

fn handle_of(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<u64> {
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
    const SYS_PROCESS_MRELEASE: c_long = 448;
    // SAFETY: takes a descriptor and flags, no pointers.
    check(unsafe { libc::syscall(SYS_PROCESS_MRELEASE, pidfd.as_fd().as_raw_fd(), 0) }).map(drop)
}

/// `EFBIG` is all that comes of a write beyond RLIMIT_FSIZE from now on, and not SIGXFSZ as well.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: no handler is installed.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has this thread run before all that is not real-time; what it starts does not inherit that. `EPERM`
/// without `CAP_SYS_NICE`, and where a kernel gives real-time a share by cgroup.
///
/// Such a thread also gets at half of the memory that the kernel keeps back (`ALLOC_MIN_RESERVE` of
/// mm/page_alloc.c), where others have to reclaim for what their system calls need.
pub fn run_first() -> io::Result<()> {
    schedule(0, libc::SCHED_FIFO, 1)
}

/// The same for all threads that there are now.
pub fn all_run_first() -> io::Result<()> {
    for thread in std::fs::read_dir("/proc/self/task")? {
        if let Some(id) = thread?.file_name().to_str().and_then(|id| id.parse().ok()) {
            schedule(id, libc::SCHED_FIFO, 1)?;
        }
    }
    Ok(())
}

/// Has this thread take turns with all others, as its nice value says, until it is to run first again.
pub fn take_turns() -> io::Result<()> {
    schedule(0, libc::SCHED_OTHER, 0)
}

/// A thread by its id, or the caller, which is 0.
fn schedule(thread: c_int, policy: c_int, priority: c_int) -> io::Result<()> {
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel's `struct sched_param` is this one int, which it only reads. The function of
    // musl by this name does nothing.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            thread,
            policy,
            &raw const priority,
        )
    })
    .map(drop)
}

/// Where code lies that an episode does not need (`cold.ld`), in whole pages; empty in a program that
/// was linked without.
pub fn cold_code() -> Range<usize> {
    unsafe extern "C" {
        // The linker's, for each section that is named like an identifier.
        #[link_name = "__start_lowtide_cold"]
        safe static START: u8;
        #[link_name = "__stop_lowtide_cold"]
        safe static STOP: u8;
    }
    let page = page_size();
    let start = (&raw const START).addr().next_multiple_of(page);
    let stop = (&raw const STOP).addr() / page * page;
    start..stop.max(start)
}

/// The parts of the program that are mapped, in whole pages.
pub fn program() -> heapless::Vec<Range<usize>, 8> {
    /// Takes the first, which is the program itself, and no libraries.
    unsafe extern "C" fn take(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: by the contract of dl_iterate_phdr(3), for as long as this runs; `found` is below.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<heapless::Vec<_, 8>>()) };
        // SAFETY: so many headers are there.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let page = page_size();
        for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD) {
            let start = (info.dlpi_addr + header.p_vaddr) as usize;
            let end = start + header.p_memsz as usize;
            let _ = found.push(start / page * page..end.next_multiple_of(page));
        }
        1
    }
    let mut found = heapless::Vec::new();
    // SAFETY: `take` is called before this returns, with `found` as the only way to it.
    unsafe { libc::dl_iterate_phdr(Some(take), (&raw mut found).cast()) };
    found
}

/// Reads in the pages of a range of whole pages, all of them mapped, and locks them in memory.
pub fn keep_in_memory(pages: Range<usize>) -> io::Result<()> {
    let start = ptr::with_exposed_provenance_mut(pages.start);
    // SAFETY: nothing that is in the pages changes.
    Ok(unsafe { mlock(start, pages.len()) }?)
}

/// Neither locks [`cold_code`] in memory any longer nor maps it: it comes back when it is called.
pub fn let_cold_code_go() -> io::Result<()> {
    let pages = cold_code();
    let start = ptr::with_exposed_provenance_mut(pages.start);
    // SAFETY: code is never written to, so that what comes back is the same, from the file.
    unsafe {
        munlock(start, pages.len())?;
        madvise(start, pages.len(), Advice::LinuxDontNeed)?;
    }
    Ok(())
}

/// After how long without a sign of life a watchdog restarts the device; `ENOTTY` where it is none.
pub fn watchdog_timeout(device: impl AsFd) -> io::Result<Duration> {
    use rustix::ioctl::{Getter, ioctl, opcode};
    /// `WDIOC_GETTIMEOUT` of linux/watchdog.h.
    const GET_TIMEOUT: rustix::ioctl::Opcode = opcode::read::<c_int>(b'W', 7);
    // SAFETY: this request writes one int.
    let seconds: c_int = unsafe { ioctl(device, Getter::<GET_TIMEOUT, c_int>::new()) }?;
    Ok(Duration::from_secs(seconds.max(1) as u64))
}

/// Starts the program at a path, as the first of a process group of its own, with what `stdin` is
/// as its standard input and `environment` as all of its environment.
///
/// The error is that of what went wrong first, `execve` included.
pub fn spawn(
    program: &CStr,
    arguments: &[&CStr],
    environment: &[&CStr],
    stdin: BorrowedFd<'_>,
) -> io::Result<Pid> {
    let pointers = |words: &[&CStr]| -> Vec<*mut c_char> {
        let words = words.iter().map(|word| word.as_ptr().cast_mut());
        words.chain([ptr::null_mut()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // These give the errors as they are, not through errno.
    let done = |error: c_int| match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    };
    let mut actions = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let mut defaults = MaybeUninit::<libc::sigset_t>::uninit();
    let mut pid = 0;
    // SAFETY: each object is initialised by its `init` before it is used, and destroyed after
    // that; both lists end with a null pointer, and all that is pointed to outlives the calls.
    // Nothing writes through the pointers (posix_spawn(3p)).
    let spawned = unsafe {
        done(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        done(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
        // The standard library ignores SIGPIPE, which programs do not expect.
        libc::sigemptyset(defaults.as_mut_ptr());
        libc::sigaddset(defaults.as_mut_ptr(), libc::SIGPIPE);
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGDEF;
        let spawned = done(libc::posix_spawn_file_actions_adddup2(
            actions.as_mut_ptr(),
            stdin.as_raw_fd(),
            0,
        ))
        .and_then(|()| {
            let attributes = attributes.as_mut_ptr();
            done(libc::posix_spawnattr_setsigdefault(
                attributes,
                defaults.as_ptr(),
            ))?;
            done(libc::posix_spawnattr_setflags(attributes, flags as _))?;
            done(libc::posix_spawn(
                &raw mut pid,
                program.as_ptr(),
                actions.as_ptr(),
                attributes,
                arguments.as_ptr(),
                environment.as_ptr(),
            ))
        });
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        spawned
    };
    spawned.and_then(|()| Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::Other.into()))
}
