//! Kills a memcg with all below it, or one process.

use super::Done;
use crate::sense::tree::Tree;
use crate::sys;
use lowtide_judge::Outcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::mem::MaybeUninit;
use std::time::Instant;

/// Bytes of `cgroup.procs` read to speed up the exit of a victim's processes: some 500 of them.
const PROCS: usize = 4096;
/// Levels below a victim that its processes are looked for in.
const DEPTH: usize = 6;

/// A memcg that was killed and may not have exited yet.
pub struct Victim {
    events: OwnedFd,
}

impl Victim {
    /// Waits until nothing runs in it any more; `false` when `deadline` passed first.
    pub fn wait_gone(&self, deadline: Instant) -> bool {
        loop {
            // Reading arms the next POLLPRI, so read first, then wait.
            if !self.is_populated() {
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
            let mut fds = [PollFd::new(&self.events, PollFlags::PRI)];
            // EINTR and the like: the loop looks again anyway.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    fn is_populated(&self) -> bool {
        let mut buffer = [0; 128];
        // ENODEV: the cgroup itself is gone.
        match rustix::io::pread(&self.events, &mut buffer, 0) {
            Ok(n) => buffer[..n].windows(11).any(|w| w == b"populated 1"),
            Err(_) => false,
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
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            })?
        }
        Err(error) => return Err(error),
    }
    // Victims that do not get to run give their memory back all the same. Best effort: whoever
    // has exited by itself is no error.
    let _ = each_process(&dir, DEPTH, &mut |pidfd| drop(sys::process_mrelease(pidfd)));
    Ok(Done {
        outcome: Outcome::Killed,
        victim: Some(Victim { events }),
    })
}

/// Sends a signal to every process in and below the cgroup `id`, for it to end by itself.
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone, `EINVAL` for no
/// signal of this kernel.
pub fn ask(tree: &Tree, id: u64, signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    let dir = open_victim(tree, id)?;
    each_process(&dir, DEPTH, &mut |pidfd| {
        // Whoever has exited meanwhile is no error.
        let _ = pidfd_send_signal(pidfd, signal);
    })
}

/// `EPERM` where the agent or init is in it or below it, `ESTALE` when it is gone.
pub(super) fn open_victim(tree: &Tree, id: u64) -> io::Result<OwnedFd> {
    if tree.holds_protected(id) {
        return Err(Errno::PERM.into());
    }
    tree.open_id(id)
}

/// Calls `f` with a pidfd of each process in the cgroup and `depth` levels below it, at most
/// [`PROCS`] bytes of pids a cgroup.
///
/// A pid taken from `cgroup.procs` may be reused before it is opened; the pidfd is checked to be
/// still in this cgroup by reading the list again.
fn each_process(dir: &OwnedFd, depth: usize, f: &mut dyn FnMut(BorrowedFd<'_>)) -> io::Result<()> {
    let mut pids = heapless::Vec::<(Pid, OwnedFd), 64>::new();
    let mut buffer = [0; PROCS];
    for pid in self::pids(dir.as_fd(), &mut buffer)? {
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
            && pids.push((pid, pidfd)).is_err()
        {
            break;
        }
    }
    let procs = open_at(dir, "cgroup.procs", OFlags::RDONLY)?;
    let still_there = read(&procs, &mut buffer)?;
    for (pid, pidfd) in &pids {
        if parse_pids(still_there).any(|p| p == *pid) {
            f(pidfd.as_fd());
        }
    }
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

/// The processes in the cgroup itself, as many as `buffer` holds.
pub(super) fn pids<'a>(
    dir: BorrowedFd<'_>,
    buffer: &'a mut [u8],
) -> io::Result<impl Iterator<Item = Pid> + use<'a>> {
    let procs = open_at(dir, "cgroup.procs", OFlags::RDONLY)?;
    Ok(parse_pids(read(&procs, buffer)?))
}

fn read<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let n = rustix::io::read(fd, &mut *buffer)?;
    Ok(&buffer[..n])
}

/// The pids of `cgroup.procs`, one a line; a last line cut short is left out.
fn parse_pids(text: &[u8]) -> impl Iterator<Item = Pid> + '_ {
    text.split_inclusive(|b| *b == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .filter_map(|line| core::str::from_utf8(line).ok()?.parse().ok())
        .filter_map(Pid::from_raw)
}

fn open_at(dir: impl AsFd, name: &str, how: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        name,
        how | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_cut_short_is_left_out() {
        let pids: Vec<_> = parse_pids(b"12\n7\n34").map(Pid::as_raw_pid).collect();
        assert_eq!(pids, [12, 7]);
    }

    #[test]
    fn pid_0_of_a_foreign_namespace_is_left_out() {
        assert_eq!(parse_pids(b"0\n5\n").count(), 1);
    }
}
