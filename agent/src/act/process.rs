//! One process: what is read of it and what is sent to it is the same one's, whatever its pid means
//! by then. Nothing here allocates.

use crate::config::Loaded;
use crate::sense::process::{
    Id, Name, ProcessInfo, directory, is_protected, open_status, program, read_status,
};
use crate::sense::status::{STATUS, Status};
use crate::sense::tree::PATH;
use lowtide_common::{NEVER, Row, key};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::cmp::Reverse;
use std::io;
use std::mem::MaybeUninit;

/// Processes of one cgroup looked at in one go, and at most so many times: a service that forks
/// faster than it is signalled does not keep the agent busy for ever.
const BATCH: usize = 64;
const BATCHES: usize = 64;

/// A process and the directory of it in /proc, which stay those of this one.
pub struct Process {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub dir: OwnedFd,
}

impl Process {
    /// Costs the kernel memory, for what it shows in /proc. `ESRCH` or `ENOENT` when it has exited.
    pub fn open(pid: Pid, pidfd: OwnedFd) -> io::Result<Self> {
        let dir = directory(pid)?;
        // Until its pidfd says that it has exited, its pid is nobody else's.
        if has_exited(&pidfd) {
            return Err(Errno::SRCH.into());
        }
        Ok(Self { pid, pidfd, dir })
    }

    /// The process of this id; `ESRCH` or `ENOENT` when it has exited.
    pub fn of(id: Id) -> io::Result<Self> {
        let pid = id.pid().ok_or(Errno::SRCH)?;
        let (pidfd, dir) = id.open()?;
        Ok(Self { pid, pidfd, dir })
    }

    pub fn name(&self) -> Name {
        let mut buffer = [0; STATUS];
        let status = self.status(&mut buffer).map(Status::name);
        Name {
            pid: self.pid,
            name: status.unwrap_or_default(),
        }
    }

    /// The kill priority of its group, or of everything else; `None` for what is never touched, and
    /// for what has no memory, as kernel threads.
    pub fn priority(&self, config: &Loaded) -> io::Result<Option<u16>> {
        let rest = config.policy.fallback.kill;
        let mut buffer = [0; STATUS];
        if is_protected(self.pid) || !self.status(&mut buffer)?.has_memory() {
            return Ok(None);
        }
        Ok(Some(self.own_priority(config)?.unwrap_or(rest)))
    }

    /// That of the group whose pattern on processes it fits.
    fn own_priority(&self, config: &Loaded) -> io::Result<Option<u16>> {
        if !config.matcher.wants_processes() {
            return Ok(None);
        }
        let mut buffer = [0; STATUS];
        let status = self.status(&mut buffer)?;
        let mut exe = [MaybeUninit::uninit(); PATH];
        let process = ProcessInfo {
            name: &status.name(),
            exe: config
                .matcher
                .wants_programs()
                .then(|| program(&self.dir, &mut exe))
                .flatten(),
            uid: status.effective_user().ok_or(io::ErrorKind::InvalidData)?,
        };
        let group = config.matcher.process(&process);
        Ok(group.map(|group| config.policy.group(group).kill))
    }

    /// Its kill priority and the bytes that it frees; `None` for one that is never killed. A
    /// pattern on processes says more of it than `priority`, its cgroup's.
    fn rank(&self, config: &Loaded, priority: u16) -> io::Result<Option<(u16, u64)>> {
        if is_protected(self.pid) {
            return Ok(None);
        }
        let mut buffer = [0; STATUS];
        let status = self.status(&mut buffer)?;
        let kill = self.own_priority(config)?.unwrap_or(priority);
        Ok((kill != NEVER).then(|| (kill, status.freed_by_kill())))
    }

    fn status<'a>(&self, buffer: &'a mut [u8; STATUS]) -> io::Result<Status<'a>> {
        read_status(&open_status(&self.dir)?, buffer)
    }
}

/// Whether all of it has exited.
pub fn has_exited(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Calls `f` with pid and pidfd of each process in the cgroup itself, at most [`BATCH`] times
/// [`BATCHES`]. An error of one does not keep it from the others; the first of them is returned.
///
/// A pid taken from `cgroup.procs` may be reused before it is opened; the pidfd is checked to be
/// still in this cgroup by reading the list again. Not by /proc, which would make the kernel
/// allocate an inode for each of them at a time when it has no memory.
pub fn each(
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(Pid, OwnedFd) -> io::Result<()>,
) -> io::Result<()> {
    let mut listed = Pids::of(dir)?;
    let mut done = Ok(());
    for _ in 0..BATCHES {
        let mut opened = heapless::Vec::<(Pid, OwnedFd), BATCH>::new();
        let mut ended = true;
        for pid in listed.by_ref().take(BATCH) {
            ended = false;
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                // Cannot fail: at most BATCH are taken.
                let _ = opened.push((pid, pidfd));
            }
        }
        if ended {
            break;
        }
        for still_there in Pids::of(dir)? {
            if let Some(i) = opened.iter().position(|(pid, _)| *pid == still_there) {
                let (pid, pidfd) = opened.swap_remove(i);
                done = done.and(f(pid, pidfd));
            }
        }
    }
    done
}

/// The processes in a cgroup itself, as `cgroup.procs` lists them.
struct Pids {
    procs: OwnedFd,
    /// What was read and not yet handed out: `buffer[start..end]`.
    buffer: [u8; 512],
    start: usize,
    end: usize,
}

impl Pids {
    fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(dir, c"cgroup.procs", flags, Mode::empty())?;
        Ok(Self::listed_in(procs))
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

/// The process of the cgroup that is to go first, in the order of [`Row::kill_key`]. `ESRCH` where
/// there is none that may go.
pub fn first(
    dir: BorrowedFd<'_>,
    cgroup: &Row,
    worth: u64,
    config: &Loaded,
) -> io::Result<Process> {
    let mut best = None;
    each(dir, &mut |pid, pidfd| {
        // One that cannot be read has exited.
        let Ok(process) = Process::open(pid, pidfd) else {
            return Ok(());
        };
        if let Ok(Some((kill, freed))) = process.rank(config, cgroup.rule.kill) {
            let key = (key(kill, freed, worth), Reverse(process.pid.as_raw_pid()));
            if freed > 0 && best.as_ref().is_none_or(|(rank, _)| key > *rank) {
                best = Some((key, process));
            }
        }
        Ok(())
    })?;
    best.map(|(_, process)| process)
        .ok_or_else(|| Errno::SRCH.into())
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

    #[test]
    fn this_process_is_found_and_never_killed() {
        let config = crate::config::parse("t", "").expect("what is built in");
        let pid = rustix::process::getpid();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
        let own = Process::open(pid, pidfd).expect("it runs");
        assert_eq!(own.rank(&config, 500).expect("it can be read"), None);
    }
}
