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

/// Processes of one cgroup looked at in one go, and at most so many times: a service that forks
/// faster than it is signalled does not keep the agent busy for ever.
const BATCH: usize = 64;
const BATCHES: usize = 64;
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
/// [`BATCH`] times [`BATCHES`] a cgroup.
///
/// A pid taken from `cgroup.procs` may be reused before it is opened; the pidfd is checked to be
/// still in this cgroup by reading the list again.
fn each_process(dir: &OwnedFd, depth: usize, f: &mut dyn FnMut(BorrowedFd<'_>)) -> io::Result<()> {
    let mut listed = Pids::of(dir.as_fd())?;
    for _ in 0..BATCHES {
        let mut pids = heapless::Vec::<(Pid, OwnedFd), BATCH>::new();
        let mut ended = true;
        for pid in listed.by_ref().take(BATCH) {
            ended = false;
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                // Cannot fail: at most BATCH are taken.
                let _ = pids.push((pid, pidfd));
            }
        }
        if ended {
            break;
        }
        for still_there in Pids::of(dir.as_fd())? {
            if let Some((_, pidfd)) = pids.iter().find(|(pid, _)| *pid == still_there) {
                f(pidfd.as_fd());
            }
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

/// The processes in a cgroup itself, as `cgroup.procs` lists them. Allocates nothing.
pub(super) struct Pids {
    procs: OwnedFd,
    /// What was read and not yet handed out: `buffer[start..end]`.
    buffer: [u8; 512],
    start: usize,
    end: usize,
}

impl Pids {
    pub(super) fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        open_at(dir, "cgroup.procs", OFlags::RDONLY).map(Self::listed_in)
    }

    fn listed_in(procs: OwnedFd) -> Self {
        Self {
            procs,
            buffer: [0; 512],
            start: 0,
            end: 0,
        }
    }
}

impl Iterator for Pids {
    type Item = Pid;

    fn next(&mut self) -> Option<Pid> {
        loop {
            let unread = &self.buffer[self.start..self.end];
            if let Some(length) = unread.iter().position(|b| *b == b'\n') {
                let line = core::str::from_utf8(&unread[..length]).ok();
                self.start += length + 1;
                // 0 is a process of a foreign pid namespace.
                if let Some(pid) = line.and_then(|l| l.parse().ok()).and_then(Pid::from_raw) {
                    return Some(pid);
                }
                continue;
            }
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            match rustix::io::read(&self.procs, &mut self.buffer[self.end..]) {
                // The end, or ENODEV: the cgroup has been removed.
                Ok(0) | Err(_) => return None,
                Ok(n) => self.end += n,
            }
        }
    }
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
    use rustix::fs::MemfdFlags;

    fn listed(text: &str) -> Vec<i32> {
        let file = rustix::fs::memfd_create("procs", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::pwrite(&file, text.as_bytes(), 0).unwrap();
        Pids::listed_in(file).map(Pid::as_raw_pid).collect()
    }

    #[test]
    fn a_pid_that_two_reads_cut_is_whole() {
        let pids: Vec<i32> = (1..2000).collect();
        let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        assert_eq!(listed(&text), pids);
    }

    #[test]
    fn a_last_line_cut_short_and_pid_0_are_left_out() {
        assert_eq!(listed("0\n12\n7\n34"), [12, 7]);
    }
}
