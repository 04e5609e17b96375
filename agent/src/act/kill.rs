//! Kills a memcg with all below it, or one process.

use super::Done;
use super::process::{self, Process};
use crate::config::Loaded;
use crate::sense::process::{Id, is_protected};
use crate::sense::tree::Tree;
use crate::sys;
use lowtide_common::Row;
use lowtide_judge::Outcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::mem::MaybeUninit;
use std::time::Instant;

/// Levels below a victim that its processes are looked for in.
const DEPTH: usize = 6;

/// Who was killed, or asked to stop, and may not have exited yet.
pub enum Victim {
    /// A memcg, by its `cgroup.events`.
    Memcg(OwnedFd),
    /// A process, by its pidfd.
    Process(OwnedFd),
}

impl Victim {
    /// Waits until nothing runs in it any more; `false` when `deadline` passed first.
    pub fn wait_gone(&self, deadline: Instant) -> bool {
        loop {
            // Reading arms the next POLLPRI, so look first, then wait.
            if self.is_gone() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [match self {
                Self::Memcg(events) => PollFd::new(events, PollFlags::PRI),
                Self::Process(pidfd) => PollFd::new(pidfd, PollFlags::IN),
            }];
            // EINTR and the like: the loop looks again anyway.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    /// Whether nothing runs in it any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Memcg(events) => {
                let mut buffer = [0; 128];
                // ENODEV: the cgroup itself is gone.
                rustix::io::pread(events, &mut buffer, 0).map_or(true, |n| {
                    !buffer[..n].windows(11).any(|w| w == b"populated 1")
                })
            }
            Self::Process(pidfd) => process::has_exited(pidfd),
        }
    }
}

/// Sends SIGKILL to every process in and below the cgroup `id`.
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone.
pub fn memcg(tree: &Tree, id: u64) -> io::Result<Done> {
    let dir = open_victim(tree, id)?;
    let events = open_at(&dir, "cgroup.events", OFlags::RDONLY)?;
    match open_at(&dir, "cgroup.kill", OFlags::WRONLY) {
        Ok(kill) => drop(rustix::io::write(&kill, b"1")?),
        // Before Linux 5.14.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            each_process(&dir, DEPTH, &mut |pidfd| {
                // Whoever has exited meanwhile is no error.
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            })?
        }
        Err(error) => return Err(error),
    }
    let done = Done {
        victim: Some(Victim::Memcg(events)),
        ..Done::only(Outcome::Killed)
    };
    // Victims that do not get to run give their memory back all the same.
    let _ = each_process(&dir, DEPTH, &mut |pidfd| give_back(pidfd));
    Ok(done)
}

/// Sends SIGKILL to the target, where that is a process, or to the process of the target that is
/// first in rank, see [`process::first`].
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone, `ESRCH` when none of
/// its processes may be killed.
pub fn process(tree: &Tree, target: &Row, enough: u64, config: &Loaded) -> io::Result<Done> {
    let process = first(tree, target, enough, config)?;
    let name = process.name();
    pidfd_send_signal(&process.pidfd, Signal::KILL)?;
    let done = Done::only(Outcome::Killed);
    give_back(process.pidfd.as_fd());
    Ok(Done {
        process: Some(name),
        victim: Some(Victim::Process(process.pidfd)),
        ..done
    })
}

/// Gives back the memory of a process that was killed, best effort: it may be faster. That of 500 MB in
/// zram takes a fifth of a second, in which others that can go on do.
fn give_back(pidfd: BorrowedFd<'_>) {
    let _ = sys::take_turns();
    let _ = sys::process_mrelease(pidfd);
    let _ = sys::run_first();
}

/// Sends a signal to every process in and below the cgroup `id`, for it to end by itself.
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone, `EINVAL` for no
/// signal of this kernel.
pub fn ask(tree: &Tree, id: u64, signal: i32) -> io::Result<Done> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    let dir = open_victim(tree, id)?;
    let events = open_at(&dir, "cgroup.events", OFlags::RDONLY)?;
    each_process(&dir, DEPTH, &mut |pidfd| {
        let _ = pidfd_send_signal(pidfd, signal);
    })?;
    Ok(Done {
        victim: Some(Victim::Memcg(events)),
        ..Done::only(Outcome::Asked)
    })
}

/// Sends a signal to the process that [`process()`] would kill; errors as there and of [`ask`].
pub fn ask_process(
    tree: &Tree,
    target: &Row,
    signal: i32,
    enough: u64,
    config: &Loaded,
) -> io::Result<Done> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    let process = first(tree, target, enough, config)?;
    pidfd_send_signal(&process.pidfd, signal)?;
    Ok(Done {
        process: Some(process.name()),
        victim: Some(Victim::Process(process.pidfd)),
        ..Done::only(Outcome::Asked)
    })
}

/// The process that is meant where it is not the whole target.
fn first(tree: &Tree, target: &Row, enough: u64, config: &Loaded) -> io::Result<Process> {
    if target.flags & Row::PROCESS != 0 {
        let id = Id(target.id);
        if id.pid().is_some_and(is_protected) {
            return Err(Errno::PERM.into());
        }
        return Process::of(id);
    }
    let dir = open_victim(tree, target.id)?;
    process::first(dir.as_fd(), target, enough, config)
}

/// `EPERM` where the agent or init is in it or below it, `ESTALE` when it is gone.
pub(super) fn open_victim(tree: &Tree, id: u64) -> io::Result<OwnedFd> {
    if tree.holds_protected(id) {
        return Err(Errno::PERM.into());
    }
    tree.open_id(id)
}

/// Calls `f` with a pidfd of each process in the cgroup and `depth` levels below it.
fn each_process(dir: &OwnedFd, depth: usize, f: &mut dyn FnMut(BorrowedFd<'_>)) -> io::Result<()> {
    process::each(dir.as_fd(), &mut |_, pidfd| {
        f(pidfd.as_fd());
        Ok(())
    })?;
    if depth == 0 {
        return Ok(());
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_type() == FileType::Directory
            && !matches!(entry.file_name().to_bytes(), b"." | b"..")
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // It may have vanished meanwhile, and its processes with it.
            if let Ok(child) = rustix::fs::openat(dir, entry.file_name(), flags, Mode::empty()) {
                let _ = each_process(&child, depth - 1, f);
            }
        }
    }
    Ok(())
}

fn open_at(dir: impl AsFd, name: &str, how: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        name,
        how | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
