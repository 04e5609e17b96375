//! `lowtide record`: what the agent sees, decides and does, in a file for a desk.

use super::log::ago;
use super::output::complain;
use crate::config::Matcher;
use crate::escaped::Escaped;
use crate::sense::Surveyor;
use crate::sense::choose::{self, Wanted};
use crate::sense::meminfo::Meminfo;
use crate::sense::process::Id;
use crate::sense::status::Status;
use crate::sense::tree::{PATH, Tree};
use crate::tell::recorder::SOCKET;
use crate::tell::recording::{self, Cgroup, Event, SampleWriter, Split, split_body};
use crate::units::Size;
use lowtide_common::{Request, Row, Rule};
use lowtide_judge::{Group, Unit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Most bytes of the file, and as many of the one before it.
const SIZE: u64 = 4 << 20;
/// Seconds between two looks at all cgroups.
const EVERY: u64 = 10;
/// Most seconds: a day.
const LONGEST_PAUSE: u64 = 86_400;
/// Least time between two of these.
const SOONEST: Duration = Duration::from_secs(1);
/// Time between two writes to the disk itself: what a cut of power takes along.
const SYNC: Duration = Duration::from_secs(60);
/// To the next try where the agent is in an episode.
const RETRY: Duration = Duration::from_secs(1);
/// Rows for cgroups that come while the survey runs.
const SPARE_ROWS: u32 = 256;
/// Attributes of one cgroup, and bytes of each.
const ATTRIBUTES: usize = 8;

/// Records what the running agent sees, decides and does into a file, for `lowtide-desk` to judge again by
/// another config. Ends at Ctrl-C, after the time given, or with the agent; the file is whole at any
/// moment.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "record")]
pub struct Record {
    /// the file to be made; it must not be there yet
    #[argh(positional, arg_name = "file")]
    file: PathBuf,
    /// end after so many minutes
    #[argh(option, arg_name = "number")]
    minutes: Option<u64>,
    /// time between two looks at all cgroups, as 10s or 1m (10s)
    #[argh(option, arg_name = "time", from_str_fn(ago), default = "EVERY")]
    every: u64,
    /// most bytes of the file, as 512K or 4M (4M); a full one becomes FILE.1 in the place of the one before
    #[argh(option, arg_name = "size", from_str_fn(size), default = "SIZE")]
    size: u64,
}

fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size as 512K or 4M");
    let (number, shift) = match text.chars().last() {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let size = number.checked_mul(1 << shift).ok_or_else(wrong)?;
    // Less than what a recording begins with.
    if size < 64 << 10 {
        return Err(format!("{text:?} is too little: at least 64K"));
    }
    Ok(size)
}

impl Record {
    /// Fails when no agent answers, or the file cannot be written.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        match self.record() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                complain(format_args!("lowtide record: {why}"));
                ExitCode::FAILURE
            }
        }
    }

    fn record(&self) -> Result<(), String> {
        let of_file = |error: io::Error| format!("{}: {error}", self.file.display());
        let length = |minutes: u64| Duration::from_secs(minutes.saturating_mul(60));
        // More than the clock knows is for ever.
        let end = self
            .minutes
            .and_then(|minutes| Instant::now().checked_add(length(minutes)));
        let mut sampler =
            Sampler::open().map_err(|error| format!("looking at the device: {error}"))?;
        let mut written = 0;
        loop {
            let agent = ask()?;
            let file = create(&self.file).map_err(of_file)?;
            let mut tape = Tape::begin(file).map_err(of_file)?;
            if written == 0 {
                complain(format_args!(
                    "lowtide record: the agent is recorded into {}",
                    self.file.display()
                ));
            }
            sampler.begin();
            let ended = tape.run(&agent, &mut sampler, self, end)?;
            written += tape.length;
            let _ = tape.file.sync_data();
            if ended != Ended::Full {
                let how = match ended {
                    Ended::Agent => "the agent has ended",
                    _ => "the time is over",
                };
                complain(format_args!(
                    "lowtide record: {how}; {} are in {}",
                    Size(written),
                    self.file.display()
                ));
                return Ok(());
            }
            fs::rename(&self.file, before(&self.file)).map_err(of_file)?;
        }
    }
}

fn before(file: &Path) -> PathBuf {
    crate::tell::decisions::before(file)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Time,
    Agent,
    Full,
}

/// Asks the agent for what it sees; waits for the end of an episode.
fn ask() -> Result<Agent, String> {
    loop {
        let agent = connected().map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "no agent runs here; `lowtide run --dry-run` is one that does nothing".to_owned()
            }
            ErrorKind::PermissionDenied => "only root may record".to_owned(),
            _ => format!("asking the agent: {error}"),
        })?;
        match agent {
            Asked::Begins(agent) => return Ok(agent),
            Asked::Refused(why) if why.contains("episode") => std::thread::sleep(RETRY),
            Asked::Refused(why) => return Err(why),
        }
    }
}

enum Asked {
    Begins(Agent),
    Refused(String),
}

/// The connection, and what has come of it and is not written yet.
struct Agent {
    stream: UnixStream,
    first: Vec<u8>,
    begin: recording::Begin,
}

fn connected() -> io::Result<Asked> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    let mut stream = UnixStream::from(socket);
    let mut first = Vec::new();
    loop {
        if let Split::Body(body, _) = split_body(&first) {
            let event = recording::event(body);
            return match event {
                Some(Event::Begin(begin)) => Ok(Asked::Begins(Agent {
                    stream,
                    begin,
                    first,
                })),
                Some(Event::Refused(why)) => Ok(Asked::Refused(why)),
                _ => Err(io::Error::other(
                    "the agent that runs is of another version",
                )),
            };
        }
        if read_some(&mut stream, &mut first)? == 0 {
            return Err(ErrorKind::ConnectionRefused.into());
        }
    }
}

fn read_some(stream: &mut UnixStream, to: &mut Vec<u8>) -> io::Result<usize> {
    let mut part = [0; 4096];
    let got = stream.read(&mut part)?;
    to.extend_from_slice(&part[..got]);
    Ok(got)
}

/// A new file, which nobody else reads: it says what runs on the device.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)
}

/// The file that is written. A frame is written as a whole.
struct Tape {
    file: File,
    length: u64,
    frames: Vec<u8>,
}

impl Tape {
    fn begin(mut file: File) -> io::Result<Self> {
        let header = recording::header();
        file.write_all(&header)?;
        Ok(Self {
            file,
            length: header.len() as u64,
            frames: Vec::new(),
        })
    }

    fn add(&mut self, body: &[u8]) {
        recording::frame(&mut self.frames, body);
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all(&self.frames)?;
        self.length += self.frames.len() as u64;
        self.frames.clear();
        Ok(())
    }

    fn run(
        &mut self,
        agent: &Agent,
        sampler: &mut Sampler,
        asked: &Record,
        end: Option<Instant>,
    ) -> Result<Ended, String> {
        let of_file = |error: io::Error| format!("{}: {error}", asked.file.display());
        let mut stream = agent.stream.try_clone().map_err(of_file)?;
        let mut pending = agent.first.clone();
        let every = Duration::from_secs(asked.every.clamp(1, LONGEST_PAUSE));
        let mut next = Instant::now();
        let mut sampled = None::<Instant>;
        let mut synced = Instant::now();
        loop {
            while let Split::Body(body, rest) = split_body(&pending) {
                self.add(body);
                pending = rest.to_vec();
                // What an episode was about is named while it is there.
                next = next.min(sampled.map_or(next, |sampled| sampled + SOONEST));
            }
            let now = Instant::now();
            if now >= next {
                sampler.sample(&agent.begin, &mut |body| self.add(body));
                sampled = Some(now);
                next = now + every;
            }
            self.write().map_err(of_file)?;
            if synced + SYNC <= now {
                self.file.sync_data().map_err(of_file)?;
                synced = now;
            }
            if end.is_some_and(|end| now >= end) {
                return Ok(Ended::Time);
            }
            if self.length >= asked.size {
                return Ok(Ended::Full);
            }
            let until = end.map_or(next, |end| end.min(next));
            let mut fds = [PollFd::new(&stream, PollFlags::IN)];
            let wait = until.saturating_duration_since(Instant::now());
            let wait = Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: wait.subsec_nanos().into(),
            };
            if poll(&mut fds, Some(&wait)).is_ok_and(|ready| ready > 0)
                && read_some(&mut stream, &mut pending).unwrap_or(0) == 0
            {
                return Ok(Ended::Agent);
            }
        }
    }
}

/// Looks at all cgroups, or processes, and says once what each is called.
struct Sampler {
    surveyor: Surveyor,
    meminfo: Meminfo,
    named: HashSet<u64>,
    writer: SampleWriter,
}

impl Sampler {
    fn open() -> io::Result<Self> {
        let agent = super::explain::agent();
        let protected: Vec<_> = agent.into_iter().chain([1]).collect();
        let tree = Tree::protecting(&protected)?;
        let wanted = Wanted {
            kind: None,
            bpf_jit: false,
            rows: super::explain::rows_wanted(&tree) + SPARE_ROWS,
            verifier_log: false,
        };
        let chosen = choose::open(&wanted, &tree)?;
        Ok(Self {
            surveyor: Surveyor::new(chosen.engine, tree),
            meminfo: Meminfo::open()?,
            named: HashSet::new(),
            writer: SampleWriter::default(),
        })
    }

    /// In a new file.
    fn begin(&mut self) {
        self.named.clear();
        self.writer = SampleWriter::default();
    }

    /// One that cannot be had is left out.
    fn sample(&mut self, begin: &recording::Begin, add: &mut dyn FnMut(&[u8])) {
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let up_ms = monotonic.tv_sec as u64 * 1_000 + monotonic.tv_nsec as u64 / 1_000_000;
        let at = begin.at + up_ms.saturating_sub(begin.up_ms);
        let matcher = Matcher::default();
        let fallback = Rule {
            kill: Group::everything_else().kill,
            reclaim: Group::everything_else().reclaim,
            group: lowtide_common::NO_GROUP,
            flags: 0,
        };
        let Ok(memory) = self.meminfo.read() else {
            return;
        };
        let surveyed = self
            .surveyor
            .survey(0, 0, fallback, Request::ALL_ROWS, &matcher);
        if surveyed.is_err() {
            return;
        }
        let mut rows = self.surveyor.rows().to_vec();
        rows.sort_unstable_by_key(|row| row.id);
        rows.dedup_by_key(|row| row.id);
        let mut body = Vec::new();
        for row in rows.iter().filter(|row| row.id != 0) {
            if self.named.insert(row.id) {
                body.clear();
                self.writer.cgroup(&mut body, &self.named_row(row));
                add(&body);
            }
        }
        self.named
            .retain(|id| rows.binary_search_by_key(id, |row| row.id).is_ok());
        body.clear();
        self.writer.sample(&mut body, at, &memory, rows);
        add(&body);
    }

    fn named_row(&self, row: &Row) -> Cgroup {
        let mut cgroup = Cgroup {
            id: row.id,
            ..Cgroup::default()
        };
        if self.surveyor.unit() == Unit::Process {
            process(&mut cgroup);
            return cgroup;
        }
        let tree = &self.surveyor.tree;
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let Ok(dir) = tree.open_id(row.id) else {
            return cgroup;
        };
        if let Ok(path) = tree.path_of(dir.as_fd(), &mut buffer) {
            cgroup.name = path.to_vec();
            if let Ok(chosen) = tree.chosen(path) {
                cgroup.path_by_root = chosen.path_by_root;
                cgroup.marks_by_root = chosen.marks_by_root;
            }
        }
        cgroup.protected = tree.is_protected(row.id);
        let mut names = [0; 1024];
        let listed = rustix::fs::flistxattr(&dir, &mut names[..]).unwrap_or(0);
        let names = names[..listed].split(|b| *b == 0).filter_map(|name| {
            let name = std::str::from_utf8(name).ok()?;
            (name.starts_with("user.") || name.starts_with("trusted.")).then_some(name)
        });
        for name in names.take(ATTRIBUTES) {
            let mut value = [0; 256];
            // A longer one is compared by no config.
            if let Ok(length) = rustix::fs::fgetxattr(&dir, name, &mut value[..]) {
                let value = value[..length].to_vec();
                cgroup.attributes.push((name.to_owned(), value));
            }
        }
        cgroup
    }
}

/// What a process is called, and what a config can match of it.
fn process(cgroup: &mut Cgroup) {
    let pid = Id(cgroup.id).raw_pid();
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let status = read("status");
    let status = Status(&status);
    let name = status.name();
    cgroup.name = format!("{pid} ({})", Escaped(&name)).into_bytes();
    let mut matched = |key: &str, value: Vec<u8>| cgroup.attributes.push((key.to_owned(), value));
    matched(recording::NAME, name.to_vec());
    if let Ok(exe) = fs::read_link(format!("/proc/{pid}/exe")) {
        matched(recording::EXE, exe.into_os_string().into_encoded_bytes());
    }
    if let Some(user) = status.user() {
        matched(recording::USER, user.to_string().into_bytes());
        if user == 0 && !status.is_contained() {
            matched(recording::IS_ROOTS, Vec::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("512K"), Ok(512 << 10));
        assert_eq!(size("4M"), Ok(4 << 20));
        for wrong in ["", "M", "1", "-1M", "4G", "99999999999999999999M"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }
}
