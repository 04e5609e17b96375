//! The history: the records made lately in memory, all of them in a bounded file on /run, in a file of
//! the user's where the config names one, and in what the kernel keeps over a restart (pstore), so that the
//! reason for it outlives it.

use super::record::{LONGEST, Record, Stamp};
use heapless::HistoryBuf;
use rustix::fs::{CWD, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::ffi::CString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

/// The file that is always written; a restart of the device empties it.
pub const RUN_FILE: &str = "/run/lowtide/history";
/// Most bytes of it, and as many again of the one before it.
const RUN_SIZE: u64 = 32 << 10;
/// Where the kernel's pstore takes text of user space, which outlives a restart.
const PMSG: &str = "/dev/pmsg0";
/// Where pstore says what it keeps the kernel's log in.
const BACKEND: &str = "/sys/module/pstore/parameters/backend";
/// Of a record in the kernel's log: debug, so that no console shows it, and a mark to find it by.
const IN_KERNEL_LOG: &str = "<15>lowtide-record: ";
/// Records kept in memory.
pub const RECENT: usize = 12;
/// Enough for opening, appending to and renaming a file.
const STACK: usize = 16 << 10;

type Line = heapless::String<LONGEST>;

pub struct Decisions {
    boot: heapless::String<32>,
    recent: Box<HistoryBuf<Line, RECENT>>,
    /// So many of the newest are not in the file yet.
    unsaved: usize,
    run: Bounded,
    kept: Option<Kept>,
    persistent: Option<Persistent>,
}

impl Decisions {
    pub fn open() -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            boot: id
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(32)
                .collect(),
            recent: touched(),
            unsaved: 0,
            run: Bounded::new(Path::new(RUN_FILE), RUN_SIZE),
            kept: None,
            persistent: Persistent::open(),
        }
    }

    /// From now on records go to this file as well, of `size` bytes at most and as many of the one
    /// before it; `None`: to no file that outlives a restart.
    pub fn keep_in(&mut self, file: Option<(&Path, u64)>) {
        self.kept = file.map(|(path, size)| Kept {
            file: Bounded::new(path, size),
            unsaved: self.kept.as_ref().map_or(0, |kept| kept.unsaved),
            writer: None,
        });
    }

    /// The kernel's id of this boot, 32 hex digits.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Begins a record of this moment.
    pub fn begin(&self, kind: &str) -> Record {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up_ms = up.tv_sec as u64 * 1_000 + up.tv_nsec as u64 / 1_000_000;
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        Record::begin(
            kind,
            &Stamp {
                boot: self.boot.clone(),
                up_ms,
                time: time.map_or(0, |time| time.as_secs()),
            },
        )
    }

    /// Takes in a start, a stop, or a change of the config.
    pub fn event(&mut self, kind: &str, what: impl Display) {
        let mut record = self.begin(kind);
        record
            .text("version", env!("CARGO_PKG_VERSION"))
            .text("status", what);
        self.push(record);
    }

    /// Takes in a record. It is in memory, and in the kernel's persistent memory, when this returns;
    /// in files after [`Decisions::save`]. Allocates nothing and waits for no disk.
    pub fn push(&mut self, record: Record) {
        let line = record.end();
        if let Some(persistent) = &mut self.persistent {
            persistent.write(&line);
        }
        self.recent.write(line);
        self.unsaved = (self.unsaved + 1).min(RECENT);
        if let Some(kept) = &mut self.kept {
            kept.unsaved = (kept.unsaved + 1).min(RECENT);
        }
    }

    /// The newest records, oldest first, each a line.
    pub fn recent(&self) -> impl Iterator<Item = &str> {
        self.recent.oldest_ordered().map(heapless::String::as_str)
    }

    /// Writes what is in no file yet. Not for times of pressure: it takes memory, and on a slow disk
    /// time, though not the caller's. An error is of the file on /run.
    pub fn save(&mut self) -> io::Result<()> {
        if let Some(kept) = &mut self.kept {
            kept.save(&self.recent);
        }
        if self.unsaved > 0 {
            let lines = self.recent.oldest_ordered();
            let lines = lines.skip(self.recent.len() - self.unsaved);
            self.run.append(lines.map(|line| line.as_bytes()))?;
            self.unsaved = 0;
        }
        Ok(())
    }
}

/// What outlives a restart of the device: text of user space where pstore takes it, and else the kernel's
/// log, which pstore keeps when the kernel restarts or panics.
pub struct Persistent {
    file: File,
    before: &'static str,
}

impl Persistent {
    /// `None` where the kernel keeps neither.
    pub fn open() -> Option<Self> {
        let open = |path| File::options().write(true).open(path).ok();
        let at_once = open(PMSG).map(|file| Self { file, before: "" });
        at_once.or_else(|| {
            let backend = std::fs::read_to_string(BACKEND).ok()?;
            let none = ["", "(null)", "N"].contains(&backend.trim());
            let file = open("/dev/kmsg").filter(|_| !none)?;
            let before = IN_KERNEL_LOG;
            Some(Self { file, before })
        })
    }

    /// Whether a record is kept as soon as it is written, and not only when the kernel ends in order.
    pub const fn at_once(&self) -> bool {
        self.before.is_empty()
    }

    fn write(&mut self, line: &str) {
        let parts = [self.before, line].map(|part| IoSlice::new(part.as_bytes()));
        let skip = usize::from(self.at_once());
        let _ = self
            .file
            .write_vectored(parts.get(skip..).unwrap_or_default());
    }
}

/// The record in a line of what pstore kept: as it is, or behind its mark in the kernel's log.
pub fn in_line(line: &str) -> &str {
    let mark = IN_KERNEL_LOG.split_at("<15>".len()).1;
    line.split_once(mark).map_or(line, |(_, record)| record)
}

/// Room for the records, in memory as a whole: the first touch of a page under pressure may wait for it.
fn touched() -> Box<HistoryBuf<Line, RECENT>> {
    let mut recent = Box::new(HistoryBuf::new());
    for _ in 0..RECENT {
        let mut line = Line::new();
        while line.push(' ').is_ok() {}
        recent.write(line);
    }
    recent.clear();
    recent
}

/// The file that the config names: it may be on flash, so a thread writes it.
struct Kept {
    file: Bounded,
    unsaved: usize,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl Kept {
    fn save(&mut self, recent: &HistoryBuf<Line, RECENT>) {
        // What a writer that is still at it does not take is taken by the next.
        if self.unsaved == 0 || self.writer.as_ref().is_some_and(|w| !w.is_finished()) {
            return;
        }
        let lines = recent.oldest_ordered().skip(recent.len() - self.unsaved);
        let lines: Vec<Line> = lines.cloned().collect();
        let file = self.file.clone();
        let writer = Builder::new()
            .stack_size(STACK)
            .spawn(move || file.append(lines.iter().map(|line| line.as_bytes())));
        if let Ok(writer) = writer {
            self.writer = Some(writer);
            self.unsaved = 0;
        }
    }
}

/// A file of at most `size` bytes; one that is full becomes `PATH.1` in place of the one before.
#[derive(Clone)]
struct Bounded {
    path: CString,
    before: CString,
    size: u64,
}

/// Where the records are that no longer fit into `path`.
pub fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

impl Bounded {
    fn new(path: &Path, size: u64) -> Self {
        let c = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        Self {
            path: c(path),
            before: c(&before(path)),
            size,
        }
    }

    /// Appends lines. After an error some of the last may be missing; those before are whole.
    fn append<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut file = self.open()?;
        let mut len = end_of_last_line(&file)?;
        for line in lines {
            if len > 0 && len + line.len() as u64 > self.size {
                rustix::fs::renameat(CWD, &self.path, CWD, &self.before)?;
                file = self.open()?;
                len = 0;
            }
            if let Err(error) = write_all(&file, line) {
                // Half a line helps no reader.
                let _ = rustix::fs::ftruncate(&file, len);
                return Err(error);
            }
            len += line.len() as u64;
        }
        Ok(())
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(rustix::fs::openat(
            CWD,
            &self.path,
            flags,
            Mode::RUSR | Mode::WUSR | Mode::RGRP,
        )?)
    }
}

/// Takes off what a write that was cut left behind the last line, and returns the length.
fn end_of_last_line(file: &OwnedFd) -> io::Result<u64> {
    let len = rustix::fs::seek(file, SeekFrom::End(0))?;
    let mut tail = [0; LONGEST];
    let start = len.saturating_sub(LONGEST as u64);
    let got = rustix::io::pread(file, &mut tail, start)?;
    let tail = tail.get(..got).unwrap_or_default();
    let keep = match tail.iter().rposition(|b| *b == b'\n') {
        Some(at) => start + at as u64 + 1,
        // No line of this program's is as long: somebody else's file is left as it is, on a line
        // of its own.
        None if start > 0 => {
            write_all(file, b"\n")?;
            return Ok(len + 1);
        }
        None => 0,
    };
    if keep < len {
        rustix::fs::ftruncate(file, keep)?;
    }
    Ok(keep)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn append(file: &Bounded, text: &str) {
        file.append([text.as_bytes()].into_iter()).unwrap();
    }

    #[test]
    fn a_full_file_makes_room_and_the_one_before_it_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let file = Bounded::new(&path, 10);
        for text in ["one\n", "two\n", "three\n", "four\n", "five\n"] {
            append(&file, text);
        }
        assert_eq!(lines(&before(&path)), ["three"]);
        assert_eq!(lines(&path), ["four", "five"]);
    }

    #[test]
    fn a_file_that_was_cut_loses_its_last_line_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let file = Bounded::new(&path, 1_000);
        append(&file, "one\n");
        append(&file, "two\n");
        let cut = fs::read(&path).unwrap().len() as u64 - 2;
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(cut)
            .unwrap();
        append(&file, "three\n");
        assert_eq!(lines(&path), ["one", "three"]);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("history"), dir.path().join("other"));
        std::os::unix::fs::symlink(&other, &path).unwrap();
        let file = Bounded::new(&path, 1_000);
        assert!(file.append([b"one\n".as_slice()].into_iter()).is_err());
        assert!(!other.exists());
    }
}
