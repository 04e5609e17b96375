//! Tell: what was seen and done, in words, to stderr, syslog and the kernel log.

pub mod json;
pub mod manager;
pub mod table;
pub mod words;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use std::fmt::{Arguments, Write as _};
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::net::UnixDatagram;

/// Longest line; a longer one is cut.
const LINE: usize = 480;
/// Before each line where nothing else says whose it is.
const NAME: &str = "lowtide: ";

/// Facility `daemon` of syslog (RFC 3164), where the priority of a message takes it.
const DAEMON: u8 = 3 << 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Info,
    Notice,
    Warning,
    Error,
}

impl Weight {
    /// Severity of syslog.
    const fn severity(self) -> u8 {
        match self {
            Self::Info => 6,
            Self::Notice => 5,
            Self::Warning => 4,
            Self::Error => 3,
        }
    }
}

/// Writes without ever waiting for a reader: under memory pressure the one who reads the log may
/// be stalled, and the agent must not stall with it. A line that cannot be written is dropped.
pub struct Log {
    /// stderr is the journal.
    journal: bool,
    syslog: Option<UnixDatagram>,
    kmsg: Option<File>,
}

impl Log {
    /// Only to stderr, for commands that a person runs.
    pub fn stderr() -> Self {
        Self {
            journal: false,
            syslog: None,
            kmsg: None,
        }
    }

    /// To stderr, to syslog where a daemon listens that is not the journal behind stderr, and what
    /// was done also to the kernel log, which survives in pstore.
    pub fn open() -> Self {
        let journal = stderr_is_journal();
        let connect = || {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect("/dev/log").ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        Self {
            journal,
            syslog: if journal { None } else { connect() },
            kmsg: File::options().write(true).open("/dev/kmsg").ok(),
        }
    }

    pub fn info(&mut self, text: Arguments<'_>) {
        self.say(Weight::Info, text);
    }

    /// Something was done to somebody.
    pub fn notice(&mut self, text: Arguments<'_>) {
        self.say(Weight::Notice, text);
    }

    pub fn warning(&mut self, text: Arguments<'_>) {
        self.say(Weight::Warning, text);
    }

    pub fn error(&mut self, text: Arguments<'_>) {
        self.say(Weight::Error, text);
    }

    fn say(&mut self, weight: Weight, text: Arguments<'_>) {
        let mut line = heapless::String::<LINE>::new();
        // An error means that the line was cut, which is what the bound is for.
        let _ = line.write_fmt(text);
        let stderr = std::io::stderr();
        if is_writable(&stderr) {
            let severity = for_journal(weight);
            let prefix = if self.journal { &severity } else { NAME };
            write_line(stderr.lock(), prefix, &line);
        }
        if let Some(syslog) = &self.syslog {
            let _ = syslog.send(for_syslog(weight, &line).as_bytes());
        }
        if let Some(kmsg) = self.kmsg.as_mut().filter(|_| weight >= Weight::Notice) {
            write_line(kmsg, NAME, &line);
        }
    }
}

/// A message as a daemon takes it on its local socket. It puts the time in by itself.
fn for_syslog(weight: Weight, line: &str) -> heapless::String<{ LINE + 32 }> {
    let mut message = heapless::String::new();
    let priority = DAEMON | weight.severity();
    // There is room for the longest line.
    let _ = write!(
        message,
        "<{priority}>lowtide[{}]: {line}",
        std::process::id()
    );
    message
}

/// What the journal takes the severity of a line from.
fn for_journal(weight: Weight) -> heapless::String<4> {
    let mut prefix = heapless::String::new();
    let _ = write!(prefix, "<{}>", weight.severity());
    prefix
}

/// In one call, so that it is one record. It is dropped where it cannot be written.
fn write_line(mut to: impl std::io::Write, prefix: &str, line: &str) {
    let parts = [prefix, line, "\n"].map(|part| IoSlice::new(part.as_bytes()));
    let _ = to.write_vectored(&parts);
}

/// Whether systemd says so, in `JOURNAL_STREAM`, of the file that stderr is.
fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    let stat = rustix::fs::fstat(std::io::stderr());
    stream.is_ok_and(|s| stat.is_ok_and(|stat| s == format!("{}:{}", stat.st_dev, stat.st_ino)))
}

/// A pipe that polls as writable takes a whole line without waiting.
fn is_writable(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_line_fits_a_syslog_message() {
        let line = "x".repeat(LINE);
        let id = std::process::id();
        assert_eq!(
            for_syslog(Weight::Error, &line).as_str(),
            format!("<27>lowtide[{id}]: {line}")
        );
    }
}
