//! The engine for devices without memory cgroups to choose from: each process is a candidate by
//! itself, read through a status file that stays open.

use super::process::{Id, directory, open_status, read_status};
use super::status::{Comm, STATUS, Status};
use super::text::read_part;
use super::walk::open_dir;
use super::{Engine, spare_descriptors};
use lowtide_common::{Best, NEVER, Request, Row, Rule, Survey};
use lowtide_judge::Unit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::mem::MaybeUninit;

/// Processes beyond the table whose size is looked at in one survey.
const LOOKED_AT: u32 = 256;

struct Known {
    id: Id,
    /// What came back if it died, when it was read last.
    size: u64,
    /// Found in the last listing.
    listed: bool,
    kind: Kind,
}

enum Kind {
    User {
        status: OwnedFd,
        /// `None`: not classified yet.
        rule: Option<Rule>,
        /// What its rule was found by: another program or user makes another process of it.
        was: (Comm, u32),
    },
    /// A kernel thread, or exiting; its pidfd says when the pid becomes free for another.
    WithoutMemory { pidfd: OwnedFd },
}

pub struct Procfs {
    proc_dir: OwnedFd,
    /// By pid, which is the order that /proc lists them in.
    known: Vec<Known>,
    room: usize,
    left_out: u32,
    /// Of those beyond the table, the pid from which on they are looked at the next time.
    turn: i32,
    survey: Box<Survey>,
    rows: Vec<Row>,
}

impl Procfs {
    /// `room` is how many processes are looked at, where there are descriptors for so many; `rows`
    /// is how many a survey with [`Request::ALL_ROWS`] can show.
    pub fn open(room: usize, rows: usize) -> io::Result<Self> {
        let room = room.min(spare_descriptors()?);
        let mut this = Self {
            proc_dir: open_dir(rustix::fs::CWD, c"/proc")?,
            known: Vec::with_capacity(room),
            room,
            left_out: 0,
            turn: 0,
            survey: Box::new(Survey::EMPTY),
            rows: Vec::with_capacity(rows),
        };
        this.list()?;
        Ok(this)
    }

    /// Finds out what came and what went since the last time.
    #[expect(clippy::arithmetic_side_effects, reason = "a count of what is there")]
    fn list(&mut self) -> io::Result<()> {
        for known in &mut self.known {
            known.listed = false;
        }
        self.left_out = 0;
        rustix::fs::seek(&self.proc_dir, SeekFrom::Start(0))?;
        let Self {
            proc_dir,
            known,
            room,
            left_out,
            turn,
            ..
        } = self;
        let (mut looked_at, mut next_turn) = (0, 0);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(proc_dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = core::str::from_utf8(entry.file_name().to_bytes());
            let Some(pid) = name
                .ok()
                .and_then(|name| name.parse().ok())
                .and_then(Pid::from_raw)
            else {
                continue;
            };
            match known.binary_search_by_key(&pid.as_raw_pid(), Known::pid) {
                Ok(at) => {
                    if let Some(known) = known.get_mut(at) {
                        known.listed = known.is_there() || known.reopen();
                    }
                }
                Err(_) if known.len() == *room => {
                    *left_out += 1;
                    if looked_at == LOOKED_AT && next_turn == 0 {
                        next_turn = pid.as_raw_pid();
                    } else if looked_at < LOOKED_AT && pid.as_raw_pid() >= *turn {
                        looked_at += 1;
                        if let Ok(new) = Known::open(pid) {
                            replace_smallest(known, new);
                        }
                    }
                }
                // One that cannot be opened has exited.
                Err(at) => {
                    if let Ok(new) = Known::open(pid) {
                        known.insert(at, new);
                    }
                }
            }
        }
        *turn = next_turn;
        known.retain(|known| known.listed);
        Ok(())
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a count of what is there")]
    fn rank(&mut self, request: &Request) {
        let Self {
            known,
            survey,
            rows,
            ..
        } = self;
        **survey = Survey {
            // The list behind `unclassified_len` needs no clearing.
            unclassified: survey.unclassified,
            ..Survey::EMPTY
        };
        rows.clear();
        let mut kill = Best::new(Row::ZERO);
        for known in known {
            let measured = known.measure().or_else(|error| {
                if known.reopen() {
                    known.measure()
                } else {
                    Err(error)
                }
            });
            let Ok(Some((mut row, rule))) = measured else {
                continue;
            };
            survey.memcgs += 1;
            survey.highest_id = survey.highest_id.max(row.id);
            match rule {
                None => {
                    let at = survey.unclassified_len as usize;
                    if let Some(slot) = survey.unclassified.get_mut(at) {
                        *slot = known.id.0;
                    }
                    survey.unclassified_len += 1;
                }
                Some(rule) => {
                    let inherits = rule.flags & Rule::INHERIT != 0;
                    row.rule = if inherits { request.fallback } else { rule };
                    row.flags |= Row::KILLABLE;
                    if row.rule.kill != NEVER {
                        kill.keep(row.kill_key(request.worth), row.id, &row);
                    } else if row.freed_by_kill() > survey.largest_never.freed_by_kill() {
                        survey.largest_never = row;
                    }
                }
            }
            if request.flags & Request::ALL_ROWS != 0 {
                if rows.len() < rows.capacity() {
                    rows.push(row);
                }
                survey.rows_len += 1;
            }
        }
        survey.kill_len = kill.copy_to(&mut survey.kill);
    }

    fn find(&mut self, id: u64) -> Option<&mut Known> {
        let at = self
            .known
            .binary_search_by_key(&Id(id).raw_pid(), Known::pid);
        at.ok()
            .and_then(|at| self.known.get_mut(at))
            .filter(|known| known.id == Id(id))
    }
}

impl Known {
    fn pid(&self) -> i32 {
        self.id.raw_pid()
    }

    fn open(pid: Pid) -> io::Result<Self> {
        // Before its directory: the process that is read there is the one that this means, or is not there at all.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let dir = directory(pid)?;
        let id = Id::of(pid, &dir)?;
        let mut buffer = [0; STATUS];
        let (status, length) = open_status(&dir, &mut buffer)?;
        let text = Status(read_part(&buffer, length));
        let has_memory = text.has_memory();
        Ok(Self {
            id,
            size: text.freed_by_kill(),
            listed: true,
            kind: if has_memory {
                Kind::User {
                    status,
                    rule: None,
                    was: Default::default(),
                }
            } else {
                Kind::WithoutMemory { pidfd }
            },
        })
    }

    /// Turns to the process that has its pid now; `false` where there is none.
    fn reopen(&mut self) -> bool {
        let new = self.id.pid().map(Self::open);
        new.and_then(Result::ok).map(|new| *self = new).is_some()
    }

    /// `false` where its pid may be another process's by now. Of one with memory that shows when it
    /// is read.
    fn is_there(&self) -> bool {
        let Kind::WithoutMemory { pidfd } = &self.kind else {
            return true;
        };
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        poll(&mut fds, Some(&at_once)) == Ok(0)
    }

    /// Its figures, and its rule if that is known; `None` for one without memory, `ESRCH` when it
    /// is gone. One that is exiting still counts: it has given its memory out of hand, and that is not
    /// back yet.
    fn measure(&mut self) -> io::Result<Option<(Row, Option<Rule>)>> {
        let Kind::User { status, rule, was } = &mut self.kind else {
            return Ok(None);
        };
        let mut buffer = [0; STATUS];
        let text = read_status(status, &mut buffer)?;
        if text.is_headless() {
            // Its other threads are to be found anew.
            return Err(Errno::SRCH.into());
        }
        let Some(user) = text.user().filter(|_| !text.has_exited()) else {
            return Ok(None);
        };
        let is = (text.name(), user);
        if *was != is {
            (*rule, *was) = (None, is);
        }
        // One that is exiting keeps its place in a full table.
        if text.has_memory() {
            self.size = text.freed_by_kill();
        }
        let row = Row {
            id: self.id.0,
            ..text.row()
        };
        Ok(Some((row, *rule)))
    }
}

/// Gives the place of the smallest to one that is larger.
fn replace_smallest(known: &mut Vec<Known>, new: Known) {
    let smallest = known.iter().enumerate().min_by_key(|(_, known)| known.size);
    if let Some((place, smallest)) = smallest
        && smallest.size < new.size
    {
        known.remove(place);
        let at = known.partition_point(|known| known.pid() < new.pid());
        known.insert(at, new);
    }
}

impl Engine for Procfs {
    fn name(&self) -> &'static str {
        "procfs"
    }

    fn unit(&self) -> Unit {
        Unit::Process
    }

    fn run(&mut self, request: &Request) -> io::Result<()> {
        self.list()?;
        self.rank(request);
        Ok(())
    }

    fn survey(&self) -> &Survey {
        &self.survey
    }

    fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn left_out(&self) -> u32 {
        self.left_out
    }

    fn classify(&mut self, id: u64, new: Rule) -> io::Result<()> {
        if let Some(Known {
            kind: Kind::User { rule, .. },
            ..
        }) = self.find(id)
        {
            *rule = Some(new);
        }
        Ok(())
    }

    fn forget_all(&mut self) -> io::Result<()> {
        for known in &mut self.known {
            if let Kind::User { rule, .. } = &mut known.kind {
                *rule = None;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_has_the_largest_after_some_surveys() {
        let mut all = Procfs::open(4096, 4096).unwrap();
        all.list().unwrap();
        let mut sizes: Vec<_> = all
            .known
            .iter()
            .map(|known| (known.size, known.pid()))
            .collect();
        sizes.sort_unstable();
        let (largest, _) = *sizes.last().unwrap();
        let mut small = Procfs::open(2, 2).unwrap();
        for _ in 0..=sizes.len() / LOOKED_AT as usize {
            small.list().unwrap();
        }
        assert_eq!(small.known.len(), 2);
        assert!(small.left_out() > 0);
        let kept = small.known.iter().map(|known| known.size).max();
        // Others run on this machine, and may have grown or ended meanwhile.
        assert!(kept.unwrap() >= largest / 2, "{kept:?} of {largest}");
    }

    #[test]
    fn this_process_is_listed_once_and_classified_for_good() {
        let mut engine = Procfs::open(4096, 4096).unwrap();
        let request = Request {
            worth: 0,
            classified_up_to: 0,
            fallback: Rule::UNTOUCHABLE,
            flags: Request::ALL_ROWS,
            within: 0,
            _reserved: 0,
        };
        engine.run(&request).unwrap();
        let pid = rustix::process::getpid();
        let own: Vec<_> = engine
            .rows()
            .iter()
            .filter(|row| Id(row.id).pid() == Some(pid))
            .collect();
        let [row] = own[..] else { panic!("{own:?}") };
        let id = row.id;
        assert!(row.anon > 0 && row.flags & Row::KILLABLE == 0);
        assert!(engine.survey().unclassified().contains(&id));
        engine.classify(id, Rule::UNTOUCHABLE).unwrap();
        engine.run(&request).unwrap();
        assert!(!engine.survey().unclassified().contains(&id));
        assert!(
            engine
                .rows()
                .iter()
                .any(|row| row.id == id && row.flags & Row::KILLABLE != 0)
        );
    }
}
