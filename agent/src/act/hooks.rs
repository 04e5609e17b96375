//! The user's commands before and after a kill.
//!
//! A process of its own runs them: from trigger to kill the agent only puts a record into a pipe,
//! which takes it at once or not at all. That process is there before memory is short, is neither
//! locked in memory nor kept from the kernel's OOM killer, and ends with the agent.
//!
//! What it starts runs in a cgroup of its own, [`CGROUP`], which is ranked as any other: a service that
//! a command leaves in the background has no share in the agent's protection.

use crate::config::{self, Loaded};
use crate::sense::process::{Id, Name};
use crate::sense::tree::{PATH, Tree};
use crate::sense::victim::Victim;
use crate::sys;
use crate::tell::Log;
use crate::tell::words::Because;
use lowtide_common::Row;
use lowtide_judge::Verdict;
use rustix::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, kill_process_group, pidfd_open, waitpid,
};
use std::ffi::{CStr, CString, OsStr};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// What the process that runs them is called.
const NAME: &CStr = c"lowtide-commands";
/// The cgroup of what it starts, beside that of the agent.
const CGROUP: &str = "lowtide-commands";
/// What a command has in its environment besides what it is told.
const SEARCHED: (&str, &str) = (
    "PATH",
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
);
/// Bytes of a record: `PIPE_BUF`, the most that a pipe takes as a whole or not at all (pipe(7)).
pub(crate) const RECORD: usize = 4096;
/// For how long it is looked whether a victim that was asked, and is not killed after all, ends.
const ASKED: Duration = Duration::from_secs(60);
/// Between two such looks.
const LOOK: Duration = Duration::from_secs(1);

/// When a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

impl When {
    const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// One command to run: a limit in milliseconds, the number of its words, the words and then the
/// environment, each with a zero behind it; the rest is zero.
pub(crate) struct Record {
    bytes: [u8; RECORD],
    length: usize,
}

impl Record {
    const HEAD: usize = 5;

    fn new(words: &[CString], limit_ms: u32) -> Self {
        let mut bytes = [0; RECORD];
        bytes[..4].copy_from_slice(&limit_ms.to_ne_bytes());
        bytes[4] = words.len() as u8;
        let mut this = Self {
            bytes,
            length: Self::HEAD,
        };
        // The config takes no words that do not fit.
        for word in words {
            let _ = this.push(word.as_bytes_with_nul());
        }
        this
    }

    fn push(&mut self, bytes: &[u8]) -> fmt::Result {
        // The last byte stays zero.
        let end = self.length.saturating_add(bytes.len());
        let free = self.bytes[..RECORD - 1].get_mut(self.length..end);
        free.ok_or(fmt::Error)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// One variable of the environment; left out where it does not fit.
    fn set(&mut self, name: &str, value: impl fmt::Display) {
        let before = self.length;
        let written = write!(self, "{name}={value}\0");
        self.keep(before, written);
    }

    /// The same of a value that may be any bytes, in parts.
    fn set_bytes(&mut self, name: &str, value: &[&[u8]]) {
        let before = self.length;
        let mut written = write!(self, "{name}=");
        for part in value.iter().chain(&[&b"\0"[..]]) {
            written = written.and_then(|()| self.push(part));
        }
        self.keep(before, written);
    }

    /// Takes out what was begun at `before` where it did not fit.
    fn keep(&mut self, before: usize, written: fmt::Result) {
        if written.is_err() {
            if let Some(begun) = self.bytes.get_mut(before..) {
                begun.fill(0);
            }
            self.length = before;
        }
    }

    /// Limit, words and environment.
    pub(crate) fn parse(bytes: &[u8; RECORD]) -> Option<(Duration, Vec<&CStr>, Vec<&CStr>)> {
        let (head, mut rest) = bytes.split_first_chunk::<{ Self::HEAD }>()?;
        let [a, b, c, d, count] = *head;
        let limit = u32::from_ne_bytes([a, b, c, d]);
        let mut next = || {
            let word = CStr::from_bytes_until_nul(rest).ok()?;
            rest = rest.get(word.to_bytes_with_nul().len()..)?;
            Some(word)
        };
        let words = (0..count).map_while(|_| next()).collect();
        let variables = std::iter::from_fn(next).take_while(|word| !word.is_empty());
        let limit = Duration::from_millis(limit.into());
        Some((limit, words, variables.collect()))
    }
}

impl fmt::Write for Record {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

/// The process that runs the commands, as the agent has it.
struct Runner {
    pid: Pid,
    /// Does not block.
    pipe: OwnedFd,
}

impl Runner {
    fn start() -> io::Result<Self> {
        use rustix::pipe::{PipeFlags, pipe_with};
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&write, true)?;
        // So that its log knows what stderr is.
        let journal = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let journal = CString::new(format!("JOURNAL_STREAM={journal}"))?;
        let pid = sys::spawn(c"/proc/self/exe", &[NAME], &[&journal], read.as_fd())?;
        Ok(Self { pid, pipe: write })
    }
}

/// Whose end is waited for, to run the command after it.
struct Awaited {
    record: Record,
    /// The victim that was asked, and until when it is looked whether it has ended.
    asked: Option<(Victim, Instant)>,
}

/// Has the commands run that the config names. Nothing here waits for any of them.
#[derive(Default)]
pub struct Hooks {
    runner: Option<Runner>,
    /// The victim that the command before has been started for in this episode.
    begun: Option<u64>,
    awaited: Option<Awaited>,
    /// Why one was not run, for the log.
    failed: Option<Errno>,
}

/// What a command is told of.
#[derive(Clone, Copy)]
pub struct About<'a> {
    pub config: &'a Loaded,
    pub tree: &'a Tree,
    pub verdict: &'a Verdict,
    pub target: &'a Row,
}

impl About<'_> {
    fn record(&self, when: When, words: &[CString], process: Option<&Name>) -> Record {
        let Self { target, .. } = self;
        let mut record = Record::new(words, self.config.hooks.limit_ms);
        record.set("LOWTIDE_WHEN", when.name());
        let group = &self.config.policy.group(target.rule.group).name;
        record.set("LOWTIDE_GROUP", group);
        let (cgroup, pid) = if target.flags & Row::PROCESS != 0 {
            (target.parent, Id(target.id).pid())
        } else {
            (target.id, process.map(|name| name.pid))
        };
        let mut buffer = [MaybeUninit::uninit(); PATH];
        // That of a process may not be known.
        let dir = (cgroup != 0).then(|| self.tree.open_id(cgroup));
        if let Some(Ok(dir)) = dir
            && let Ok(path) = self.tree.path_of(dir.as_fd(), &mut buffer)
        {
            record.set_bytes("LOWTIDE_CGROUP", &[b"/", path]);
        }
        if let Some(pid) = pid {
            record.set("LOWTIDE_PID", pid.as_raw_pid());
        }
        record.set("LOWTIDE_FREES", target.freed_by_kill());
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let reason = Because::new(self.verdict, self.tree, &mut buffer);
        record.set("LOWTIDE_REASON", reason);
        record
    }
}

impl Hooks {
    /// Makes sure that the process that runs them is there where there are any. Not for times of
    /// pressure.
    pub fn prepare(&mut self, wanted: &config::Hooks, log: &mut Log) {
        let ended = |runner: &mut Runner| {
            let status = waitpid(Some(runner.pid), WaitOptions::NOHANG);
            !matches!(status, Ok(None))
        };
        if self.runner.take_if(ended).is_some() {
            log.warning(format_args!("what runs the commands had ended"));
        }
        if self.runner.is_none() && !wanted.is_empty() {
            match Runner::start() {
                Ok(runner) => self.runner = Some(runner),
                Err(error) => log.error(format_args!("no commands are run: {error}")),
            }
        }
    }

    /// Starts the command before, if there is one and it was not started for this one yet.
    pub fn before(&mut self, about: About<'_>) -> io::Result<()> {
        let words = about.config.hooks.before(about.target.rule.group);
        let begun = self.begun.replace(about.target.id);
        if words.is_empty() || begun == self.begun {
            return Ok(());
        }
        let record = about.record(When::Before, words, None);
        self.run(&record)
            .inspect_err(|errno| self.failed = Some(*errno))?;
        Ok(())
    }

    /// It was asked to stop, or killed: the command after is run at its end.
    pub fn await_end(&mut self, about: About<'_>, process: Option<&Name>, asked: Option<Victim>) {
        let words = about.config.hooks.after(about.target.rule.group);
        self.awaited = (!words.is_empty()).then(|| Awaited {
            record: about.record(When::After, words, process),
            asked: asked.map(|victim| (victim, Instant::now() + ASKED)),
        });
    }

    /// Its end has been waited for in vain: it is looked for as for one that was asked.
    pub fn still_there(&mut self, victim: Victim) {
        self.begun = None;
        if let Some(awaited) = &mut self.awaited {
            awaited.asked = Some((victim, Instant::now() + ASKED));
        }
    }

    /// An episode is over: the next victim is a new one.
    pub fn rest(&mut self) {
        self.begun = None;
    }

    /// The victim of a kill has ended.
    pub fn ended(&mut self) {
        self.begun = None;
        if let Some(awaited) = self.awaited.take() {
            self.failed = self.run(&awaited.record).err().or(self.failed);
        }
    }

    /// Looks whether the victim that was asked has ended by itself.
    pub fn look(&mut self) {
        let Some((victim, until)) = self.awaited.as_ref().and_then(|a| a.asked.as_ref()) else {
            return;
        };
        if victim.is_gone() {
            self.ended();
        } else if *until <= Instant::now() {
            self.awaited = None;
        }
    }

    /// When to look next.
    pub fn next_look(&self) -> Option<Instant> {
        let asked = self.awaited.as_ref()?.asked.as_ref();
        asked.map(|_| Instant::now() + LOOK)
    }

    /// Says why a command was not run.
    pub fn tell(&mut self, log: &mut Log) {
        match self.failed.take() {
            None => {}
            Some(Errno::AGAIN) => log.warning(format_args!(
                "a command was not run: those before it still run"
            )),
            Some(errno) => log.warning(format_args!("a command was not run: {errno}")),
        }
    }

    fn run(&self, record: &Record) -> Result<(), Errno> {
        let runner = self.runner.as_ref().ok_or(Errno::PIPE)?;
        rustix::io::write(&runner.pipe, &record.bytes).map(drop)
    }
}

/// Whether this process is the one that runs the commands.
pub fn is_meant() -> bool {
    std::env::args().next().as_deref() == NAME.to_str().ok()
}

/// Runs the commands whose records come in by the standard input, one after the other, until that
/// ends.
pub fn run_all() -> ExitCode {
    let mut log = Log::open();
    // What the agent is given so that it can act, they need not have.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    let _ = rustix::process::setpriority_process(None, 0);
    let place = make_cgroup().unwrap_or_else(|error| {
        log.warning(format_args!(
            "{CGROUP}: {error}: commands run in the cgroup of the agent, and share its protection"
        ));
        None
    });
    let mut record = [0; RECORD];
    // Whole, as it was written.
    while rustix::io::read(io::stdin(), &mut record) == Ok(RECORD) {
        let Some((limit, words, variables)) = Record::parse(&record) else {
            continue;
        };
        let Some(program) = words.first() else {
            continue;
        };
        let place = place.as_ref().map(|(_, procs)| procs.as_fd());
        let ended = start(&words, &variables, place).and_then(|pid| wait_for(pid, limit));
        if let Err(error) = ended {
            log.warning(format_args!("{}: {error}", program.to_string_lossy()));
        }
    }
    if let Some((dir, _)) = place {
        // Not while a command has left a process in it.
        let _ = std::fs::remove_dir(dir);
    }
    ExitCode::SUCCESS
}

/// Makes [`CGROUP`]; its directory, and its list of processes to be written to. `None` where there are
/// no memory cgroups to be told apart by.
fn make_cgroup() -> io::Result<Option<(PathBuf, File)>> {
    let tree = Tree::open()?;
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let Some(own) = own.map(|path| tree.mount().join(path)) else {
        return Ok(None);
    };
    // In the root itself, or below what divides its memory among those in it.
    let above = own.ancestors().skip(usize::from(own != tree.mount()));
    let divides = |dir: &&Path| {
        let on = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        on.split_whitespace()
            .any(|controller| controller == "memory")
    };
    let mut above = above.take_while(|dir| dir.starts_with(tree.mount()));
    let Some(above) = above.find(divides) else {
        return Ok(None);
    };
    let dir = above.join(CGROUP);
    std::fs::create_dir(&dir).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    let procs = File::options().write(true).open(dir.join("cgroup.procs"))?;
    Ok(Some((dir, procs)))
}

/// Starts a command as the first of a process group of its own, in the cgroup that `procs` lists the
/// processes of. The error is that of what went wrong first, `execve` included.
fn start(words: &[&CStr], variables: &[&CStr], procs: Option<BorrowedFd<'_>>) -> io::Result<Pid> {
    let os = |word: &CStr| OsStr::from_bytes(word.to_bytes()).to_owned();
    let (program, arguments) = words.split_first().ok_or(Errno::INVAL)?;
    let mut command = Command::new(os(program));
    command
        .args(arguments.iter().copied().map(os))
        .stdin(Stdio::null())
        .process_group(0)
        .env_clear()
        .env(SEARCHED.0, SEARCHED.1);
    for variable in variables {
        let mut parts = variable.to_bytes().splitn(2, |b| *b == b'=');
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }
    if let Some(procs) = procs {
        let procs = procs.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor is open for as long as the caller of `spawn` waits for this.
            let procs = unsafe { BorrowedFd::borrow_raw(procs) };
            // A command that cannot be moved runs where it is.
            let _ = rustix::io::write(procs, b"0");
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call and does nothing else.
        unsafe { command.pre_exec(enter) };
    }
    Ok(Pid::from_child(&command.spawn()?))
}

/// Waits for the first of a process group, for so long; then kills all of the group. The error says
/// how it ended, if not well.
fn wait_for(pid: Pid, limit: Duration) -> io::Result<()> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let in_time = Victim::Process(pidfd).wait_gone(Instant::now() + limit);
    if !in_time {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let Some((_, status)) = waitpid(Some(pid), WaitOptions::empty())? else {
        return Ok(());
    };
    let (code, signal) = (status.exit_status(), status.terminating_signal());
    Err(io::Error::other(match (code, signal) {
        _ if !in_time => format!("killed, not at its end after {} ms", limit.as_millis()),
        (Some(0), _) => return Ok(()),
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (code, _) => format!("exit code {}", code.unwrap_or(0)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(words: &[&str]) -> Vec<CString> {
        words.iter().map(|w| CString::new(*w).unwrap()).collect()
    }

    fn run(command: &[&str], limit: Duration) -> Result<(), String> {
        let words = words(command);
        let words: Vec<_> = words.iter().map(CString::as_c_str).collect();
        start(&words, &[c"LOWTIDE_WHEN=after"], None)
            .and_then(|pid| wait_for(pid, limit))
            .map_err(|error| error.to_string())
    }

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_made(
            command in prop::collection::vec("[^\0]{0,40}", 1..12),
            values in prop::collection::vec("[^\0]{0,1200}", 0..6),
            limit: u32,
        ) {
            let command: Vec<_> = command.iter().map(String::as_str).collect();
            let command = words(&command);
            let mut record = Record::new(&command, limit);
            for value in &values {
                record.set("X", value);
            }
            let (read_limit, read, variables) = Record::parse(&record.bytes).unwrap();
            prop_assert_eq!(read_limit, Duration::from_millis(limit.into()));
            prop_assert_eq!(read, command.iter().map(CString::as_c_str).collect::<Vec<_>>());
            // Those that fit, in their order.
            let mut left = values.iter();
            for variable in &variables {
                let value = variable.to_str().unwrap().strip_prefix("X=").unwrap();
                prop_assert!(left.any(|v| v == value));
            }
            let all = values.iter().map(|v| v.len().saturating_add(3)).sum::<usize>();
            let room = (RECORD - 1).saturating_sub(record.length);
            prop_assert!(variables.len() == values.len() || all > room);
        }
    }

    #[test]
    fn a_command_is_told_and_told_of() {
        let hour = Duration::from_secs(3600);
        let check = |code| ["/bin/sh", "-c", code];
        let exit = |code| run(&check(code), hour);
        assert_eq!(exit("[ $LOWTIDE_WHEN = after ]"), Ok(()));
        assert_eq!(exit("exit 7"), Err("exit code 7".into()));
        assert_eq!(exit("kill -9 $$"), Err("ended by signal 9".into()));
        let missing = run(&["/no/such"], hour).unwrap_err();
        assert!(missing.starts_with("No such file"), "{missing}");
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        let (mut read, write) = io::pipe().unwrap();
        // The pipe is held open by the child of the one that is waited for.
        let fd = std::os::fd::AsRawFd::as_raw_fd(&write);
        let hold = format!("sleep 3600 >/proc/{}/fd/{fd} & wait", std::process::id());
        let end = run(&["/bin/sh", "-c", &hold], Duration::from_millis(300));
        assert_eq!(end, Err("killed, not at its end after 300 ms".into()));
        drop(write);
        io::Read::read_to_end(&mut read, &mut Vec::new()).unwrap();
    }
}
