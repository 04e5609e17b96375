//! What lowtide changes on cgroups and their processes, and the way back.
//!
//! Every change is in the journal before it is made, and the journal outlives the agent in
//! [`STATE`]: it is undone when the agent stops, when the config no longer wants it, and at the
//! next start when the agent died in between. A value that another program changed meanwhile stays.

use super::held::{self, FROZEN};
use super::kill::open_victim;
use super::only::{Only, another_runs};
use crate::sense::members::{self, Process};
use crate::sense::tree::Tree;
use crate::tell::Log;
use lowtide_judge::DOMAINS;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

/// Where the journal outlives the agent; on a tmpfs, as it means nothing after a boot.
pub const STATE: &str = "/run/lowtide/undo";
/// Changes in force at a time; what exceeds them is not made.
const SLOTS: usize = 256;
/// Bytes of a slot in the state file. A page holds a whole number of them, so that a write of one
/// never ends half way because the agent is killed.
const SLOT: usize = 128;
/// Where the kernel's settings of memory are.
const VM: &str = "/proc/sys/vm";
const WATERMARK_SCALE: &str = "watermark_scale_factor";
/// Part of each zone that the lists of all processors may hold: a tenth of the shipped critical mark. The
/// kernel's own least is its low watermark, 2 % of a device of 50 MB and 0.5 % of one of 1 GB.
const LIST_FRACTION: i64 = 256;
const SCORE: &str = Setting::OomScore.file();
/// Of linux/magic.h.
const TMPFS_MAGIC: u32 = 0x0102_1994;
const RAMFS_MAGIC: u32 = 0x8584_58f6;

/// What can be set on a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// memory.min, bytes.
    Min,
    /// memory.low, bytes.
    Low,
    /// memory.high, bytes.
    High,
    /// memory.oom.group, 0 or 1.
    OomGroup,
    /// cgroup.freeze, 0 or 1.
    Freeze,
    /// vm.watermark_boost_factor of the system, whose id is 0.
    WatermarkBoost,
    /// vm.percpu_pagelist_high_fraction of the system; 0: as large as the kernel likes.
    PageLists,
    /// oom_score_adj of the processes in it, -1000 to 1000.
    OomScore,
    /// The same of single processes, wherever they are: such a change is of all that have `ours`, which
    /// is its id, too. `before` is 0.
    ProcessScore,
}

impl Setting {
    const ALL: [Self; 9] = [
        Self::Min,
        Self::Low,
        Self::High,
        Self::OomGroup,
        Self::Freeze,
        Self::WatermarkBoost,
        Self::PageLists,
        Self::OomScore,
        Self::ProcessScore,
    ];

    /// The file that holds it.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Min => "memory.min",
            Self::Low => "memory.low",
            Self::High => "memory.high",
            Self::OomGroup => "memory.oom.group",
            Self::Freeze => "cgroup.freeze",
            Self::WatermarkBoost => "watermark_boost_factor",
            Self::PageLists => "percpu_pagelist_high_fraction",
            Self::OomScore => "oom_score_adj",
            Self::ProcessScore => "processes",
        }
    }

    /// Whether it is of the system as a whole, in [`VM`].
    const fn is_of_system(self) -> bool {
        matches!(self, Self::WatermarkBoost | Self::PageLists)
    }

    /// What is in force; `max` is [`i64::MAX`].
    fn read(self, dir: BorrowedFd<'_>) -> io::Result<i64> {
        if self == Self::OomScore {
            return common_score(dir);
        }
        read_value(dir, self.file())
    }

    /// Replaces `from` by `to`. Only processes that are at `from` are touched: one with a value of
    /// its own keeps it.
    fn write(self, dir: BorrowedFd<'_>, from: i64, to: i64) -> io::Result<()> {
        if self == Self::OomScore {
            return each_process(dir, &mut |process| {
                let process = process.dir.as_fd();
                if read_value(process, self.file())? == from {
                    write_value(process, self.file(), to)?;
                }
                Ok(())
            });
        }
        write_value(dir, self.file(), to)
    }
}

/// One change: undone by putting `before` where `ours` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// cgroup id.
    id: u64,
    setting: Setting,
    before: i64,
    ours: i64,
}

impl Change {
    fn line(&self) -> heapless::String<SLOT> {
        let mut line = heapless::String::new();
        let Self {
            id,
            setting,
            before,
            ours,
        } = self;
        // Cannot overflow: three numbers of at most 20 characters and a name of 29.
        let _ = write!(line, "{id} {} ", setting.file());
        let _ = write_number(&mut line, *before);
        let _ = line.push(' ');
        let _ = write_number(&mut line, *ours);
        line
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let id = words.next()?.parse().ok()?;
        let file = words.next()?;
        Some(Self {
            id,
            setting: Setting::ALL.into_iter().find(|s| s.file() == file)?,
            before: parse_number(words.next()?)?,
            ours: parse_number(words.next()?)?,
        })
    }
}

/// The one place from where cgroups are changed in a way that lasts.
pub struct Settings {
    #[expect(dead_code, reason = "held for as long as the agent runs")]
    only: Only,
    /// `None` where there is nowhere to keep it: then nothing is changed at all.
    state: Option<OwnedFd>,
    changes: Box<[Option<Change>; SLOTS]>,
    frozen: heapless::Vec<(u64, Instant), FROZEN>,
    /// What was said not to work, so that it is said once.
    said: heapless::Vec<(u64, Setting), SLOTS>,
    /// Cgroups whose memory.high is left alone.
    unbraked: heapless::Vec<u64, DOMAINS>,
}

impl Settings {
    /// Opens [`STATE`] and undoes what an agent left behind that died. Where it cannot be made or has
    /// no room, nothing can be set. Fails when another agent runs.
    pub fn open(tree: &Tree, log: &mut Log) -> io::Result<Self> {
        let mut this = Self {
            only: Only::claim(log)?,
            state: None,
            changes: Box::new([None; SLOTS]),
            frozen: heapless::Vec::new(),
            said: heapless::Vec::new(),
            unbraked: heapless::Vec::new(),
        };
        match this.open_state(tree, log) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(another_runs()),
            Err(error) => {
                this.state = None;
                log.warning(format_args!(
                    "{STATE}: {error}: nothing can be protected or held back"
                ));
            }
            Ok(()) => {}
        }
        Ok(this)
    }

    /// `WouldBlock`: another agent has it.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "as many slots as the array has"
    )]
    fn open_state(&mut self, tree: &Tree, log: &mut Log) -> io::Result<()> {
        let state = state_file()?;
        // A second one that is told apart: its claim may be in another network namespace. Where files
        // cannot be locked, the claim alone counts.
        if rustix::fs::flock(&state, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN)
        {
            return Err(Errno::AGAIN.into());
        }
        let mut slot = [0; SLOT];
        for (i, change) in self.changes.iter_mut().enumerate() {
            let n = rustix::io::pread(&state, &mut slot, (i * SLOT) as u64)?;
            let text = slot.get(..n).map(core::str::from_utf8);
            *change = text.and_then(Result::ok).and_then(Change::parse);
        }
        self.state = Some(state);
        if self.len() > 0 {
            log.notice(format_args!(
                "undoing {} settings that an agent left behind",
                self.len()
            ));
        }
        self.undo_all(tree);
        // All pages are there from now on: writing a slot takes no memory.
        for i in 0..SLOTS {
            self.keep(i, None)?;
        }
        Ok(())
    }

    /// Whether there is a journal, and so anything can be set.
    pub fn is_possible(&self) -> bool {
        self.state.is_some()
    }

    /// Whether it is to be said that this does not work on this cgroup: once.
    pub fn is_news(&mut self, id: u64, setting: Setting) -> bool {
        !self.said.contains(&(id, setting)) && self.said.push((id, setting)).is_ok()
    }

    /// From now on all is news again, and to be tried again.
    pub fn forget_said(&mut self) {
        self.said.clear();
        self.unbraked.clear();
    }

    /// Takes the memory.high that lowtide set from the cgroup `id`, for good; whether there was any.
    /// A process that is made to wait by it would never get on.
    pub fn unbrake(&mut self, tree: &Tree, id: u64) -> bool {
        let Some(slot) = self.find(id, Setting::High) else {
            return false;
        };
        self.undo(tree, slot);
        self.unbraked.push(id).is_ok()
    }

    /// Changes in force.
    /// What a slot holds.
    fn change(&self, slot: usize) -> Option<Change> {
        self.changes.get(slot).copied().flatten()
    }

    fn len(&self) -> usize {
        self.changes.iter().flatten().count()
    }

    /// What is in force without what lowtide did.
    pub fn without_us(&self, dir: BorrowedFd<'_>, id: u64, setting: Setting) -> io::Result<i64> {
        let now = setting.read(dir)?;
        let change = self.find(id, setting).and_then(|i| self.change(i));
        Ok(change.filter(|c| c.ours == now).map_or(now, |c| c.before))
    }

    /// Sets `value` on the cgroup `id`, open as `dir`. Sizes are rounded down to pages, as the
    /// kernel does.
    ///
    /// `ENOENT`: this cgroup has no such file. `ENOSPC`: the journal is full. `EROFS`: there is
    /// nowhere to keep the journal.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the remainder is no more than what it is of"
    )]
    pub fn set(
        &mut self,
        dir: BorrowedFd<'_>,
        id: u64,
        setting: Setting,
        value: i64,
    ) -> io::Result<()> {
        let value = match setting {
            Setting::Min | Setting::Low | Setting::High if value < i64::MAX => {
                value - value % rustix::param::page_size() as i64
            }
            _ => value,
        };
        if setting == Setting::High && self.unbraked.contains(&id) {
            return Ok(());
        }
        let known = self.find(id, setting);
        let change = known.and_then(|i| self.change(i));
        let now = match change {
            // Processes come and go: the new ones follow.
            Some(change) if setting == Setting::OomScore && change.ours == value => {
                return setting.write(dir, change.before, value);
            }
            Some(change) if setting == Setting::OomScore => change.ours,
            _ => setting.read(dir)?,
        };
        if now == value {
            return Ok(());
        }
        let before = match change {
            Some(change) if change.ours == now => change.before,
            // Another program has changed it since: it keeps its value.
            Some(_) => return Ok(()),
            None => now,
        };
        // A second entry first and the old one gone last: whenever the agent dies, one of them
        // tells what is in force.
        let slot = self.changes.iter().position(Option::is_none);
        let slot = slot.ok_or(Errno::NOSPC)?;
        self.keep(
            slot,
            Some(Change {
                id,
                setting,
                before,
                ours: value,
            }),
        )?;
        let done = setting.write(dir, now, value);
        let obsolete = if done.is_ok() { known } else { Some(slot) };
        if let Some(obsolete) = obsolete {
            self.keep(obsolete, None)?;
        }
        done
    }

    /// Gives each process the oom_score_adj that `wanted` has for it, but none that has one from
    /// another program: one that is neither 0 nor what lowtide set. Returns those in force.
    pub fn score_processes(
        &mut self,
        wanted: &dyn Fn(&Process) -> io::Result<Option<i64>>,
    ) -> io::Result<Vec<i64>> {
        let mut scores = Vec::new();
        all_processes(&mut |process| self.score_process(&process, wanted, &mut scores))?;
        Ok(scores)
    }

    /// The same of the processes in one cgroup; adds to those in force.
    pub fn score_members(
        &mut self,
        dir: BorrowedFd<'_>,
        wanted: &dyn Fn(&Process) -> io::Result<Option<i64>>,
        in_force: &mut Vec<i64>,
    ) -> io::Result<()> {
        each_process(dir, &mut |process| {
            self.score_process(process, wanted, in_force)
        })
    }

    fn score_process(
        &mut self,
        process: &Process,
        wanted: &dyn Fn(&Process) -> io::Result<Option<i64>>,
        in_force: &mut Vec<i64>,
    ) -> io::Result<()> {
        let dir = process.dir.as_fd();
        let (Some(score), now) = (wanted(process)?, read_value(dir, SCORE)?) else {
            return Ok(());
        };
        let known = |score: i64| self.find(score as u64, Setting::ProcessScore);
        if now != score && (now == 0 || known(now).is_some() || self.is_protection(now)) {
            if score != 0 && known(score).is_none() {
                let slot = self.changes.iter().position(Option::is_none);
                let change = Change {
                    id: score as u64,
                    setting: Setting::ProcessScore,
                    before: 0,
                    ours: score,
                };
                self.keep(slot.ok_or(Errno::NOSPC)?, Some(change))?;
            }
            write_value(dir, SCORE, score)?;
        }
        if !in_force.contains(&score) {
            in_force.push(score);
        }
        Ok(())
    }

    /// Takes from the processes in the cgroup what lowtide protected them with where they, or those
    /// that they come from, were before; `score` is what they have here.
    pub fn end_protection_from_elsewhere(
        &mut self,
        dir: BorrowedFd<'_>,
        score: i64,
    ) -> io::Result<()> {
        each_process(dir, &mut |process| {
            let dir = process.dir.as_fd();
            let now = read_value(dir, SCORE)?;
            if now != score && self.is_protection(now) {
                write_value(dir, SCORE, score)?;
            }
            Ok(())
        })
    }

    /// Whether lowtide gave a process this oom_score_adj, and it keeps one that has it from being killed.
    fn is_protection(&self, score: i64) -> bool {
        let scores = |c: &Change| matches!(c.setting, Setting::OomScore | Setting::ProcessScore);
        let mut ours = self.changes.iter().flatten().filter(|c| scores(c));
        score < 0 && ours.any(|change| change.ours == score)
    }

    /// Keeps the watermarks of free memory where they are, for as long as the agent runs, and takes a
    /// boost away that is there already.
    ///
    /// Fragmentation raises them for a while (mm/page_alloc.c, `boost_watermark`), and kswapd brings
    /// them down again. Where it has given up, as without swap after the kernel's OOM killer, they stay:
    /// the next OOM kill then comes with some MB free, before a level's mark is reached.
    pub fn stop_watermark_boost(&mut self) -> io::Result<()> {
        let dir = open_vm()?;
        self.set(dir.as_fd(), 0, Setting::WatermarkBoost, 0)?;
        // Whatever is written, the watermarks are computed anew, without a boost.
        let scale = read_value(dir.as_fd(), WATERMARK_SCALE)?;
        write_value(dir.as_fd(), WATERMARK_SCALE, scale)
    }

    /// Keeps the lists of free pages of single processors small, for as long as the agent runs, unless
    /// somebody has set their size.
    ///
    /// Left alone they hold up to an eighth of a zone since Linux 6.7 (mm/page_alloc.c, `pcp->high`).
    /// MemFree and MemAvailable leave them out: what a victim gave back is not seen for seconds. What
    /// allocates on another processor, or of another kind, does not get them either, and where nothing can
    /// be reclaimed the kernel's OOM killer comes before they are emptied.
    pub fn limit_page_lists(&mut self) -> io::Result<()> {
        let dir = open_vm()?;
        if read_value(dir.as_fd(), Setting::PageLists.file())? != 0 {
            return Ok(());
        }
        self.set(dir.as_fd(), 0, Setting::PageLists, LIST_FRACTION)
    }

    /// Undoes every change on a cgroup for which `wanted` is false.
    pub fn retain(&mut self, tree: &Tree, wanted: impl Fn(u64, Setting) -> bool) {
        let of_cgroup = |c: &Change| !c.setting.is_of_system();
        for i in 0..SLOTS {
            if self
                .change(i)
                .is_some_and(|c| of_cgroup(&c) && !wanted(c.id, c.setting))
            {
                self.undo(tree, i);
            }
        }
    }

    /// Leaves every cgroup as it was found.
    pub fn undo_all(&mut self, tree: &Tree) {
        while let Some((id, _)) = self.frozen.pop() {
            held::let_go(id);
        }
        for slot in 0..SLOTS {
            self.undo(tree, slot);
        }
    }

    /// Holds back all in and below the cgroup `id` by `cgroup.freeze`, for `limit`. Allocates
    /// nothing.
    ///
    /// Not by memory.high: where nothing is left to reclaim, a process over it loops in the kernel
    /// reclaiming in vain, for ever and at the cost of the CPU, and is no longer stopped by a
    /// fall in pressure either. A frozen cgroup costs nothing, can be killed as it is, and goes
    /// on as if nothing had been.
    ///
    /// `EPERM` where the agent or init is in it or below it, `ESTALE` when it is gone, `ENOENT`
    /// where there is no cgroup.freeze (before Linux 5.2).
    pub fn freeze(&mut self, tree: &Tree, id: u64, limit: Duration) -> io::Result<()> {
        if self.frozen.is_full() {
            return Err(Errno::NOSPC.into());
        }
        let dir = open_victim(tree, id)?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let freeze = rustix::fs::openat(&dir, Setting::Freeze.file(), flags, Mode::empty())?;
        held::hold(id, freeze);
        if let Err(error) = self.set(dir.as_fd(), id, Setting::Freeze, 1) {
            held::let_go(id);
            return Err(error);
        }
        self.frozen.retain(|(frozen, _)| *frozen != id);
        // Cannot fail: there was room.
        let _ = self.frozen.push((id, Instant::now() + limit));
        Ok(())
    }

    /// Lets go those that `which` picks by cgroup id and the time until which it is held back; returns how
    /// many that were. Allocates nothing.
    #[expect(clippy::arithmetic_side_effects, reason = "none is added")]
    pub fn thaw(&mut self, tree: &Tree, which: impl Fn(u64, Instant) -> bool) -> usize {
        let before = self.frozen.len();
        while let Some(i) = self
            .frozen
            .iter()
            .position(|(id, until)| which(*id, *until))
        {
            let (id, _) = self.frozen.swap_remove(i);
            held::let_go(id);
            if let Some(slot) = self.find(id, Setting::Freeze) {
                self.undo(tree, slot);
            }
        }
        before - self.frozen.len()
    }

    /// When the next one is to be let go.
    pub fn next_thaw(&self) -> Option<Instant> {
        self.frozen.iter().map(|(_, until)| *until).min()
    }

    fn find(&self, id: u64, setting: Setting) -> Option<usize> {
        self.changes
            .iter()
            .position(|c| c.is_some_and(|c| c.id == id && c.setting == setting))
    }

    fn undo(&mut self, tree: &Tree, slot: usize) {
        let Some(change) = self.change(slot) else {
            return;
        };
        // A cgroup that is gone took its settings along. Nothing better can be done about any
        // other error than to forget it, too.
        let everywhere = || {
            all_processes(&mut |process| {
                let dir = process.dir.as_fd();
                if read_value(dir, SCORE)? == change.ours {
                    write_value(dir, SCORE, change.before)?;
                }
                Ok(())
            })
        };
        let _ = if change.setting.is_of_system() {
            open_vm().and_then(|dir| {
                let now = read_value(dir.as_fd(), change.setting.file())?;
                if now == change.ours {
                    write_value(dir.as_fd(), change.setting.file(), change.before)?;
                }
                Ok(())
            })
        } else if change.setting == Setting::ProcessScore {
            everywhere()
        } else {
            tree.open_id(change.id).and_then(|dir| {
                let setting = change.setting;
                // Processes are compared one by one as they are written.
                if setting == Setting::OomScore || setting.read(dir.as_fd())? == change.ours {
                    setting.write(dir.as_fd(), change.ours, change.before)?;
                }
                Ok(())
            })
        };
        let _ = self.keep(slot, None);
        // A process that left the cgroup meanwhile took the protection along.
        let was_protection = change.setting == Setting::OomScore && change.ours < 0;
        if was_protection && !self.is_protection(change.ours) {
            let _ = everywhere();
        }
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "as many slots as the array has"
    )]
    fn keep(&mut self, slot: usize, change: Option<Change>) -> io::Result<()> {
        let state = self.state.as_ref().ok_or(Errno::ROFS)?;
        *self.changes.get_mut(slot).ok_or(Errno::NOSPC)? = change;
        let mut text = [b' '; SLOT];
        text[SLOT - 1] = b'\n';
        if let Some(change) = change {
            for (byte, of_line) in text.iter_mut().zip(change.line().as_bytes()) {
                *byte = *of_line;
            }
        }
        rustix::io::pwrite(state, &text, (slot * SLOT) as u64)?;
        Ok(())
    }
}

fn open_vm() -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(VM, flags, Mode::empty())?)
}

/// Makes the directory and the file [`STATE`].
fn state_file() -> io::Result<OwnedFd> {
    if let Some(dir) = std::path::Path::new(STATE).parent() {
        std::fs::create_dir_all(dir)?;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(STATE, flags, Mode::RUSR | Mode::WUSR)?;
    // After a boot the same cgroup ids mean others.
    match rustix::fs::fstatfs(&file)?.f_type as u32 {
        TMPFS_MAGIC | RAMFS_MAGIC => Ok(file),
        _ => Err(io::Error::other("not on a tmpfs")),
    }
}

/// The oom_score_adj that most likely was not chosen for one process alone: 0 where any has it,
/// else that of the first. `ENOENT` without processes.
fn common_score(dir: BorrowedFd<'_>) -> io::Result<i64> {
    let mut common = None;
    each_process(dir, &mut |process| {
        let score = read_value(process.dir.as_fd(), Setting::OomScore.file())?;
        if common.is_none() || score == 0 {
            common = Some(score);
        }
        Ok(())
    })?;
    common.ok_or_else(|| Errno::NOENT.into())
}

/// Calls `f` with each process in the cgroup. One that exits meanwhile is no error.
fn each_process(
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(&Process) -> io::Result<()>,
) -> io::Result<()> {
    members::each(dir, &mut |pid, pidfd| {
        let done = Process::open(pid, pidfd).and_then(|process| f(&process));
        match done {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
                Err(error)
            }
            _ => Ok(()),
        }
    })
}

/// Calls `f` with each process that there is. An error of one does not keep it from the others; the
/// first of them is returned. One that exits meanwhile is no error.
fn all_processes(f: &mut dyn FnMut(Process) -> io::Result<()>) -> io::Result<()> {
    let proc = rustix::fs::open("/proc", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut done = Ok(());
    for entry in rustix::fs::Dir::read_from(proc)? {
        let entry = entry?;
        let number = entry.file_name().to_str().ok().and_then(|n| n.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw) else {
            continue;
        };
        let process = pidfd_open(pid, PidfdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|pidfd| Process::open(pid, pidfd));
        match process.and_then(&mut *f) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
                done = done.and(Err(error));
            }
            _ => {}
        }
    }
    done
}

pub(super) fn read_value(dir: BorrowedFd<'_>, file: &str) -> io::Result<i64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    let mut buffer = [0; 32];
    let n = rustix::io::read(&file, &mut buffer)?;
    let text = buffer.get(..n).map(core::str::from_utf8);
    text.and_then(Result::ok)
        .and_then(|text| parse_number(text.trim_end()))
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn write_value(dir: BorrowedFd<'_>, file: &str, value: i64) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    let mut text = heapless::String::<24>::new();
    let _ = write_number(&mut text, value);
    rustix::io::write(&file, text.as_bytes())?;
    Ok(())
}

/// `max` is [`i64::MAX`].
fn parse_number(text: &str) -> Option<i64> {
    if text == "max" {
        return Some(i64::MAX);
    }
    text.parse().ok()
}

fn write_number(to: &mut dyn std::fmt::Write, value: i64) -> std::fmt::Result {
    if value == i64::MAX {
        return to.write_str("max");
    }
    write!(to, "{value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_change_reads_back_as_it_was_kept(
            id: u64,
            setting in proptest::sample::select(&Setting::ALL[..]),
            before in prop_oneof![Just(i64::MAX), any::<i64>()],
            ours: i64,
        ) {
            let change = Change { id, setting, before, ours };
            let line = change.line();
            prop_assert!(line.len() < SLOT);
            prop_assert_eq!(Change::parse(&line), Some(change));
        }
    }

    #[test]
    fn an_empty_slot_is_no_change() {
        assert_eq!(Change::parse(&" ".repeat(SLOT)), None);
        assert_eq!(Change::parse(""), None);
    }
}
