//! Which process is meant: a pid alone may mean another one a moment later.

use super::members::Process;
use super::status::{Comm, STATUS, Status};
use super::text::{digits, read_part};
use super::tree::{INHERITS, OwnRule, PATH, Tree};
use lowtide_common::Rule;
pub use lowtide_rules::ProcessInfo;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt::Write as _;
use std::io;
use std::mem::MaybeUninit;

/// `PID_MAX_LIMIT` of a 64-bit kernel is 2^22.
const PID_BITS: u32 = 22;

/// A process to be told of.
#[derive(Clone, Debug)]
pub struct Name {
    pub pid: Pid,
    pub name: Comm,
}

/// A process for as long as the machine runs: its pid, and above that the time of its start in
/// ticks since boot, so that whoever has the pid later has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

impl Id {
    const fn new(pid: Pid, start: u64) -> Self {
        Self(start << PID_BITS | pid.as_raw_pid() as u64)
    }

    pub const fn pid(self) -> Option<Pid> {
        Pid::from_raw(self.raw_pid())
    }

    pub const fn raw_pid(self) -> i32 {
        (self.0 & ((1 << PID_BITS) - 1)) as i32
    }

    /// Of the process whose directory in /proc this is.
    pub fn of(pid: Pid, dir: impl AsFd) -> io::Result<Self> {
        let mut buffer = [0; 1024];
        let text = read_at(dir, c"stat", &mut buffer)?;
        start(text)
            .map(|start| Self::new(pid, start))
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Its pidfd and its directory in /proc; `ESRCH` when it has exited.
    pub fn open(self) -> io::Result<(OwnedFd, OwnedFd)> {
        let pid = self.pid().ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let dir = directory(pid)?;
        // The one that the pidfd was taken of is the one that is read: had it exited in between,
        // the pid would be that of a process with a later start.
        if Self::of(pid, &dir)? == self {
            Ok((pidfd, dir))
        } else {
            Err(Errno::SRCH.into())
        }
    }

    /// The rule of its own that it has where processes are looked at one by one; that of none
    /// when it has exited.
    pub fn own_rule(self, fallback: Rule, rules: &dyn OwnRule, tree: &Tree) -> Rule {
        let member = Process::of(self).and_then(|process| process.member(fallback, rules, tree));
        let Ok(Some(member)) = member else {
            return Rule::UNTOUCHABLE;
        };
        member.own.map_or(INHERITS, |own| own.rule)
    }
}

/// Init and the agent itself: never touched, whatever the config says.
pub fn is_protected(pid: Pid) -> bool {
    pid == Pid::INIT || pid == rustix::process::getpid()
}

/// The directory of a process in /proc.
pub fn directory(pid: Pid) -> io::Result<OwnedFd> {
    let mut path = heapless::String::<24>::new();
    // Cannot overflow: ten digits at most.
    let _ = write!(path, "/proc/{}", pid.as_raw_pid());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path.as_str(), flags, Mode::empty())?)
}

/// The target of `exe`; `None` where it cannot be read, as of a kernel thread.
pub fn program(dir: impl AsFd, buffer: &mut [MaybeUninit<u8>; PATH]) -> Option<&[u8]> {
    let (path, _) = rustix::fs::readlinkat_raw(dir, c"exe", buffer).ok()?;
    Some(path)
}

/// The text of a file in the directory, as much as the buffer takes.
pub fn read_at<'a>(
    dir: impl AsFd,
    file: &std::ffi::CStr,
    buffer: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let file = rustix::fs::openat(dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let n = rustix::io::read(&file, &mut *buffer)?;
    Ok(read_part(buffer, n))
}

/// The same of a file of the process that has this pid now, whichever that is.
pub fn read_of<'a>(pid: Pid, file: &str, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut path = heapless::String::<48>::new();
    // Cannot overflow: ten digits at most, and the names of files are short.
    let _ = write!(path, "/proc/{}/{file}", pid.as_raw_pid());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.as_str(), flags, Mode::empty())?;
    let n = rustix::io::read(&file, &mut *buffer)?;
    Ok(read_part(buffer, n))
}

/// The status file of a process whose directory this is; where its first thread has ended, that of
/// one that has not; and how much of `buffer` is what it says. `ESRCH` when all have. Allocates nothing.
pub fn open_status(dir: impl AsFd, buffer: &mut [u8; STATUS]) -> io::Result<(OwnedFd, usize)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let status = rustix::fs::openat(&dir, c"status", flags, Mode::empty())?;
    let text = read_status(&status, buffer)?;
    let length = text.0.len();
    if !text.is_headless() {
        return Ok((status, length));
    }
    let flags = flags | OFlags::DIRECTORY;
    let tasks = rustix::fs::openat(&dir, c"task", flags, Mode::empty())?;
    let mut listed = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&tasks, &mut listed);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let mut path = heapless::String::<24>::new();
        let name = core::str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
        // A thread id has ten digits at most; `.` has a status of its own, which is a directory.
        if name.starts_with('.') || write!(path, "{name}/status").is_err() {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let status = rustix::fs::openat(&tasks, path.as_str(), flags, Mode::empty());
        // One that cannot be read has ended meanwhile.
        if let Ok(status) = status
            && let Ok(text) = read_status(&status, buffer)
            && text.has_memory()
        {
            let length = text.0.len();
            return Ok((status, length));
        }
    }
    Err(Errno::SRCH.into())
}

/// What a status file says now.
pub fn read_status<'a>(status: &OwnedFd, buffer: &'a mut [u8; STATUS]) -> io::Result<Status<'a>> {
    let n = rustix::io::pread(status, &mut buffer[..], 0)?;
    Ok(Status(read_part(buffer, n)))
}

/// `starttime`, field 22 of /proc/PID/stat (proc_pid_stat(5)). The name before it, in
/// parentheses, may have anything in it.
pub(crate) fn start(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|b| *b == b')')?;
    let fields = stat.get(name_end.saturating_add(2)..)?;
    digits(fields.split(|b| *b == b' ').nth(22 - 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_stands_behind_any_name() {
        let stat =
            b"42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 777 1000 20 1844\n";
        assert_eq!(start(stat), Some(777));
        assert_eq!(start(b""), None);
        assert_eq!(start(b"42 (x)"), None);
    }

    #[test]
    fn this_process_is_found_by_its_id_and_not_by_another_start() {
        let pid = rustix::process::getpid();
        let id = Id::of(pid, directory(pid).unwrap()).unwrap();
        assert_eq!(id.pid(), Some(pid));
        assert!(id.open().is_ok());
        let earlier = Id(id.0 - (1 << PID_BITS));
        assert_eq!(earlier.pid(), Some(pid));
        assert!(earlier.open().is_err());
    }
}
