//! Tell: what was seen and done, in words, to stderr, syslog and the kernel log.

pub mod civil;
pub mod decisions;
pub mod journal;
pub mod manager;
pub mod reading;
pub mod record;
pub mod recorder;
pub mod recording;
pub mod socket;
pub mod table;
pub mod version;
pub mod words;

use crate::units::Plain;
use journal::{Field, Journal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use std::fmt::{Arguments, Write as _};
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::net::UnixDatagram;
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

/// Longest line; a longer one is cut.
const LINE: usize = 480;
/// Before each line where nothing else says whose it is.
const NAME: &str = "lowtide: ";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    Info,
    Notice,
    Warning,
    Error,
}

impl Weight {
    const fn severity(self) -> Severity {
        match self {
            Self::Info => Severity::LOG_INFO,
            Self::Notice => Severity::LOG_NOTICE,
            Self::Warning => Severity::LOG_WARNING,
            Self::Error => Severity::LOG_ERR,
        }
    }
}

/// Writes without ever waiting for a reader: under memory pressure the one who reads the log may
/// be stalled, and the agent must not stall with it. A line that cannot be written is dropped.
pub struct Log {
    to_syslog: ToSyslog,
    /// Where stderr is the journal, and it takes fields.
    journal: Option<Journal>,
    kmsg: Option<File>,
}

/// Whether and how lines get to a syslog daemon.
enum ToSyslog {
    /// Only a person reads them.
    Never,
    /// stderr is the journal.
    Journal,
    /// No daemon listens; it is tried with each line, as the daemon starts after the agent at boot.
    Unconnected,
    Connected(Logger<LoggerBackend, Untimed>),
}

impl Log {
    /// Only to stderr, for commands that a person runs.
    pub fn stderr() -> Self {
        Self {
            to_syslog: ToSyslog::Never,
            journal: None,
            kmsg: None,
        }
    }

    /// To stderr, to syslog where a daemon listens that is not the journal behind stderr, and what
    /// was done also to the kernel log, which survives in pstore.
    pub fn open() -> Self {
        let is_journal = stderr_is_journal();
        Self {
            to_syslog: match is_journal {
                true => ToSyslog::Journal,
                false => ToSyslog::Unconnected,
            },
            journal: is_journal.then(|| Journal::connect().ok()).flatten(),
            kmsg: File::options().write(true).open("/dev/kmsg").ok(),
        }
    }

    pub fn info(&mut self, text: Arguments<'_>) {
        self.say(Weight::Info, text);
    }

    /// Something was done to a cgroup or a process.
    pub fn notice(&mut self, text: Arguments<'_>) {
        self.say(Weight::Notice, text);
    }

    pub fn warning(&mut self, text: Arguments<'_>) {
        self.say(Weight::Warning, text);
    }

    pub fn error(&mut self, text: Arguments<'_>) {
        self.say(Weight::Error, text);
    }

    /// For a line that has an explanation in the catalog: the journal gets these fields with it.
    pub fn with<'a>(&'a mut self, id: &'static str, fields: &'a [Field<'a>]) -> With<'a> {
        With {
            log: self,
            id,
            fields,
        }
    }

    fn say(&mut self, weight: Weight, text: Arguments<'_>) {
        self.say_with(weight, None, text);
    }

    fn say_with(
        &mut self,
        weight: Weight,
        with: Option<(&'static str, &[Field<'_>])>,
        text: Arguments<'_>,
    ) {
        let mut line = heapless::String::<LINE>::new();
        // An error means that the line was cut, which is what the bound is for.
        let _ = write!(line, "{}", Plain(text));
        self.tell_readers(weight, with, &line);
        if let Some(kmsg) = self.kmsg.as_mut().filter(|_| weight >= Weight::Notice) {
            write_line(kmsg, NAME, &line);
        }
    }

    fn tell_readers(
        &mut self,
        weight: Weight,
        with: Option<(&'static str, &[Field<'_>])>,
        line: &str,
    ) {
        if let (Some((id, fields)), Some(journal)) = (with, &self.journal)
            && journal.send(weight, id, fields, line).is_ok()
        {
            return;
        }
        let stderr = io::stderr();
        if is_writable(&stderr) {
            let severity = for_journal(weight);
            let journal = matches!(self.to_syslog, ToSyslog::Journal);
            let prefix = if journal { &severity } else { NAME };
            write_line(stderr.lock(), prefix, line);
        }
        self.to_syslog.say(weight, line);
    }
}

/// A line that is about to be said, with fields for the journal.
pub struct With<'a> {
    log: &'a mut Log,
    id: &'static str,
    fields: &'a [Field<'a>],
}

impl With<'_> {
    pub fn info(self, text: Arguments<'_>) {
        self.say(Weight::Info, text);
    }

    pub fn notice(self, text: Arguments<'_>) {
        self.say(Weight::Notice, text);
    }

    pub fn error(self, text: Arguments<'_>) {
        self.say(Weight::Error, text);
    }

    fn say(self, weight: Weight, text: Arguments<'_>) {
        let with = (self.id, self.fields);
        self.log.say_with(weight, Some(with), text);
    }
}

impl ToSyslog {
    fn say(&mut self, weight: Weight, line: &str) {
        // Once more where the daemon was started anew since the last line.
        for _ in 0..2 {
            if let Self::Unconnected = self {
                *self = connect().map_or(Self::Unconnected, Self::Connected);
            }
            let Self::Connected(syslog) = self else {
                return;
            };
            let sent = syslog
                .formatter
                .format(&mut syslog.backend, weight.severity(), line);
            match sent {
                Err(syslog::Error::Write(error)) if error.kind() != ErrorKind::WouldBlock => {
                    *self = Self::Unconnected;
                }
                _ => return,
            }
        }
    }
}

/// To the daemon that listens, if one does, without ever waiting for it. Allocates nothing, which
/// `syslog::unix` does.
fn connect() -> io::Result<Logger<LoggerBackend, Untimed>> {
    let socket = UnixDatagram::unbound()?;
    socket.connect("/dev/log")?;
    socket.set_nonblocking(true)?;
    Ok(Logger::new(LoggerBackend::Unix(socket), Untimed))
}

/// A message as a daemon takes it on its local socket (RFC 3164). It puts the time in by itself; the
/// formats of the crate do that, too, which takes the time zones into the binary, and allocates.
struct Untimed;

impl LogFormat<&str> for Untimed {
    fn format<W: Write>(&self, to: &mut W, severity: Severity, line: &str) -> syslog::Result<()> {
        let mut message = heapless::String::<{ LINE + 32 }>::new();
        let priority = Facility::LOG_DAEMON as u8 | severity as u8;
        // There is room for the longest line.
        let _ = write!(
            message,
            "<{priority}>lowtide[{}]: {line}",
            std::process::id()
        );
        to.write_all(message.as_bytes())
            .map_err(syslog::Error::Write)
    }
}

/// What the journal takes the severity of a line from.
fn for_journal(weight: Weight) -> heapless::String<4> {
    let mut prefix = heapless::String::new();
    let _ = write!(prefix, "<{}>", weight.severity() as u8);
    prefix
}

/// In one call, so that it is one record. It is dropped where it cannot be written.
fn write_line(mut to: impl Write, prefix: &str, line: &str) {
    let parts = [prefix, line, "\n"].map(|part| IoSlice::new(part.as_bytes()));
    let _ = to.write_vectored(&parts);
}

/// Whether systemd says so, in `JOURNAL_STREAM`, of the file that stderr is.
fn stderr_is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM");
    let stat = rustix::fs::fstat(io::stderr());
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
        let mut sent = Vec::new();
        let severity = Weight::Error.severity();
        Untimed.format(&mut sent, severity, line.as_str()).unwrap();
        assert_eq!(sent, format!("<27>lowtide[{id}]: {line}").into_bytes());
    }
}
