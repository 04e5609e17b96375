//! Tell: what was seen and done, in words, to stderr, syslog and the kernel log.

pub mod json;
pub mod manager;
pub mod table;
pub mod words;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use std::fmt::{Arguments, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

/// Longest line; a longer one is cut.
const LINE: usize = 480;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Info,
    Notice,
    Warning,
    Error,
}

/// Writes without ever waiting for a reader: under memory pressure the one who reads the log may
/// be stalled, and the agent must not stall with it. A line that cannot be written is dropped.
pub struct Log {
    syslog: Option<Logger<LoggerBackend, Formatter3164>>,
    kmsg: Option<File>,
}

impl Log {
    /// Only to stderr, for commands that a person runs.
    pub fn stderr() -> Self {
        Self {
            syslog: None,
            kmsg: None,
        }
    }

    /// To stderr, to syslog where a daemon listens, and what was done also to the kernel log,
    /// which survives in pstore.
    pub fn open() -> Self {
        let connect = || {
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect("/dev/log").ok()?;
            socket.set_nonblocking(true).ok()?;
            Some(socket)
        };
        let formatter = Formatter3164 {
            facility: Facility::LOG_DAEMON,
            hostname: None,
            process: "lowtide".into(),
            pid: std::process::id(),
        };
        Self {
            syslog: connect().map(|socket| Logger::new(LoggerBackend::Unix(socket), formatter)),
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
        let mut framed = heapless::String::<{ LINE + 16 }>::new();
        let _ = writeln!(framed, "lowtide: {line}");
        let stderr = std::io::stderr();
        if is_writable(&stderr) {
            let _ = stderr.lock().write_all(framed.as_bytes());
        }
        if let Some(syslog) = &mut self.syslog {
            let _ = match weight {
                Weight::Info => syslog.info(&line),
                Weight::Notice => syslog.notice(&line),
                Weight::Warning => syslog.warning(&line),
                Weight::Error => syslog.err(&line),
            };
        }
        if let Some(kmsg) = self.kmsg.as_mut().filter(|_| weight >= Weight::Notice) {
            let _ = kmsg.write_all(framed.as_bytes());
        }
    }
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
