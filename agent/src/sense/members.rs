//! The processes of one cgroup: what they are by themselves, where a pattern names them. What is read
//! of one and what is sent to it is the same one's, whatever its pid means by then. Nothing here
//! allocates.

use super::interrupt::may_work_again;
use super::process::{Id, Name, ProcessInfo, directory, open_status, program, read_at, read_of};
use super::status::{STATUS, Status};
use super::text::{read_part, signed};
use super::tree::{OwnRule, PATH, Ruled, Tree};
use super::walk::each_below;
use lowtide_common::{NEVER, NO_GROUP, Row, Rule};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

/// Processes of one cgroup looked at in one go, and at most so many times: a service that forks
/// faster than it is signalled does not keep the agent busy for ever.
const BATCH: usize = 64;
const BATCHES: usize = 64;
/// Processes of a victim that are looked at before it is signalled.
const LOOKED_AT: u32 = 256;

/// oom_score_adj of a process that the kernel's OOM killer leaves alone.
const ADJ_NEVER: i64 = -1000;

/// A process and the directory of it in /proc, which stay those of this one.
pub struct Process {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub dir: OwnedFd,
}

/// What a process is by itself.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The rule of the pattern that names it; `None`: its cgroup's counts.
    pub own: Option<Ruled>,
    /// Its figures, with the rule in force.
    pub row: Row,
}

impl Process {
    /// Costs the kernel memory, for what it shows in /proc. `ESRCH` or `ENOENT` when it has exited.
    pub fn open(pid: Pid, pidfd: OwnedFd) -> io::Result<Self> {
        let dir = directory(pid)?;
        // Until its pidfd says that it has exited, its pid is no other process's.
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

    /// What it is in a cgroup with the rule `cgroup`, or where there are none with that of
    /// everything else; `None` without memory, as a kernel thread, or when it is exiting.
    ///
    /// The agent and init are never touched, nor is what the kernel's OOM killer may not take: its
    /// oom_score_adj takes a right to set, and the agent sets it on no other process.
    pub fn member(
        &self,
        cgroup: Rule,
        rules: &dyn OwnRule,
        tree: &Tree,
    ) -> io::Result<Option<Member>> {
        let mut buffer = [0; STATUS];
        let status = self.status(&mut buffer)?;
        let Some(uid) = status.user().filter(|_| status.has_memory()) else {
            return Ok(None);
        };
        let shielded =
            tree.is_protected_process(self.pid.as_raw_pid()) || self.score()? == ADJ_NEVER;
        let own = if shielded {
            Some(Ruled::NEVER)
        } else {
            let mut exe = [MaybeUninit::uninit(); PATH];
            let wants_program = rules.wants_programs();
            let process = ProcessInfo {
                name: &status.name(),
                exe: wants_program
                    .then(|| program(&self.dir, &mut exe))
                    .flatten(),
                uid,
                is_roots: uid == 0 && !status.is_contained(),
            };
            rules.process_rule(&process, cgroup)
        };
        let row = Row {
            rule: Rule {
                flags: Rule::PROCESS | cgroup.flags & Rule::AVOID,
                ..own.map_or(cgroup, |own| own.rule)
            },
            ..status.row()
        };
        Ok(Some(Member { own, row }))
    }

    /// Its oom_score_adj.
    fn score(&self) -> io::Result<i64> {
        let mut buffer = [0; 16];
        let text = read_at(&self.dir, c"oom_score_adj", &mut buffer)?;
        signed(text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn status<'a>(&self, buffer: &'a mut [u8; STATUS]) -> io::Result<Status<'a>> {
        let (_, length) = open_status(&self.dir, buffer)?;
        Ok(Status(read_part(buffer, length)))
    }
}

/// What the processes of a cgroup come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    all: u32,
    never: u32,
    /// Named by a pattern of their own.
    named: u32,
    /// The rule of the first of these, and whether all of them have the same.
    first: Option<Ruled>,
    differ: bool,
    /// The highest kill priority of those that may be killed.
    highest: u16,
}

impl Tally {
    /// Of the processes in the cgroup of the directory and below it. Those that exit meanwhile are left out;
    /// an error where one could not be read that may be there.
    pub fn of(
        dir: BorrowedFd<'_>,
        cgroup: Rule,
        rules: &dyn OwnRule,
        tree: &Tree,
    ) -> io::Result<Self> {
        let mut tally = Self::default();
        let mut left = u32::MAX;
        let listed = each_member(dir, cgroup, rules, tree, &mut left, &mut |member, _| {
            tally.add(member);
        });
        match listed {
            Err(error) if may_work_again(&error) => Err(error),
            _ => Ok(tally),
        }
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a count of what is there")]
    fn add(&mut self, member: &Member) {
        let kill = member.row.rule.kill;
        self.all += 1;
        if kill == NEVER {
            self.never += 1;
        } else {
            self.highest = self.highest.max(kill);
        }
        let Some(own) = member.own else { return };
        self.named += 1;
        match &mut self.first {
            None => self.first = Some(own),
            Some(first) => {
                self.differ |= first.rule.group != own.rule.group;
                first.trusted &= own.trusted;
            }
        }
    }

    /// The rule that a cgroup has for its processes, where a pattern names it (`own`) or what is
    /// above it counts (`above`). `None`: it has none of its own.
    ///
    /// One that is never touched shields itself, and not the others: those are taken one by one
    /// then. Processes that all belong to one group take a cgroup along that no pattern names; where
    /// they differ, each is ranked by itself.
    pub fn rule(&self, own: Option<Ruled>, above: Rule) -> Option<Ruled> {
        let base = own.map_or(above, |own| own.rule);
        let is_named = base.group != NO_GROUP;
        if self.all == 0 || is_named && (base.kill == NEVER || self.never == 0) {
            return own;
        }
        let is_omitted = base.kill == NEVER && base.flags & Rule::AVOID != 0;
        if self.named == 0 || is_omitted {
            return own;
        }
        if self.never == self.all {
            return self.first.map(|first| Ruled {
                rule: Rule {
                    kill: NEVER,
                    flags: 0,
                    ..first.rule
                },
                ..first
            });
        }
        if !is_named && self.named == self.all && !self.differ {
            return self.first;
        }
        let trusted = own.is_some_and(|own| own.trusted);
        Some(Ruled {
            rule: Rule {
                kill: self.highest,
                flags: Rule::PROCESS | base.flags & Rule::AVOID,
                ..base
            },
            trusted,
        })
    }
}

/// Whether a process in the cgroup of the directory, or below it, is never to be touched. Of many,
/// the first that are listed are looked at.
///
/// Stands between a verdict and its signal: what speaks for that costs two small reads for each, and only
/// where something does are they looked at as a whole.
pub fn is_shielded(dir: BorrowedFd<'_>, cgroup: Rule, rules: &dyn OwnRule, tree: &Tree) -> bool {
    let mut left = LOOKED_AT;
    let mut look = |dir: BorrowedFd<'_>| {
        Pids::of(dir).is_ok_and(|mut pids| {
            pids.any(|pid| {
                let looks = left > 0;
                left = left.saturating_sub(1);
                looks && may_be_shielded(pid, rules, tree)
            })
        })
    };
    let mut may_be = look(dir);
    if !may_be {
        let _ = each_below(dir, &mut |below| {
            may_be = below.open().is_ok_and(|dir| look(dir.as_fd()));
            match may_be {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
    }
    may_be && is_any_never(dir, cgroup, rules, tree)
}

/// What the process of this pid is by now is not asked for: one that has exited shields nothing.
fn may_be_shielded(pid: Pid, rules: &dyn OwnRule, tree: &Tree) -> bool {
    let mut buffer = [0; 32];
    if tree.is_protected_process(pid.as_raw_pid()) {
        return true;
    }
    let score = read_of(pid, "oom_score_adj", &mut buffer).map(signed);
    if score.is_ok_and(|score| score == Some(ADJ_NEVER)) {
        return true;
    }
    rules.may_spare(None)
        && read_of(pid, "comm", &mut buffer)
            .is_ok_and(|name| rules.may_spare(Some(name.strip_suffix(b"\n").unwrap_or(name))))
}

/// Of the first processes in the cgroup of the directory, and below it.
fn is_any_never(dir: BorrowedFd<'_>, cgroup: Rule, rules: &dyn OwnRule, tree: &Tree) -> bool {
    let mut found = false;
    let mut left = LOOKED_AT;
    let _ = each_member(dir, cgroup, rules, tree, &mut left, &mut |member, _| {
        found |= member.row.rule.kill == NEVER;
    });
    found
}

/// Calls `f` with each process that has memory in the cgroup of the directory, whose rule is
/// `cgroup`, and below it, as long as any are `left` to be looked at. What has gone is left out; an error
/// where the cgroup itself has, or something could not be read that may be there: the others are called
/// with all the same.
#[expect(clippy::arithmetic_side_effects, reason = "it is not 0")]
pub fn each_member(
    dir: BorrowedFd<'_>,
    cgroup: Rule,
    rules: &dyn OwnRule,
    tree: &Tree,
    left: &mut u32,
    f: &mut dyn FnMut(&Member, Process),
) -> io::Result<()> {
    let mut look = |pid, pidfd| {
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        let read = Process::open(pid, pidfd)
            .and_then(|process| Ok((process.member(cgroup, rules, tree)?, process)));
        match read {
            Ok((Some(member), process)) => f(&member, process),
            Ok((None, _)) => {}
            Err(error) if may_work_again(&error) => return Err(error),
            // It has exited.
            Err(_) => {}
        }
        Ok(())
    };
    let mut done = each(dir, &mut look);
    let _ = each_below(dir, &mut |below| {
        let below = below.open().and_then(|dir| each(dir.as_fd(), &mut look));
        if let Err(error) = below
            && may_work_again(&error)
            && done.is_ok()
        {
            done = Err(error);
        }
        ControlFlow::Continue(())
    });
    done
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
        let mut again = Pids::of(dir)?;
        for still_there in again.by_ref() {
            if let Some(i) = opened.iter().position(|(pid, _)| *pid == still_there) {
                let (pid, pidfd) = opened.swap_remove(i);
                done = done.and(f(pid, pidfd));
            }
        }
        done = done.and(again.end);
    }
    done.and(listed.end)
}

/// The processes in a cgroup itself, as `cgroup.procs` lists them.
struct Pids {
    procs: OwnedFd,
    /// What was read and not yet handed out: `buffer[start..filled]`.
    buffer: [u8; 512],
    start: usize,
    filled: usize,
    /// What the list ended with.
    end: io::Result<()>,
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
            filled: 0,
            end: Ok(()),
        }
    }
}

impl Iterator for Pids {
    type Item = Pid;

    #[expect(clippy::arithmetic_side_effects, reason = "places in the buffer")]
    fn next(&mut self) -> Option<Pid> {
        loop {
            let unread = self.buffer.get(self.start..self.filled)?;
            if let Some(length) = unread.iter().position(|b| *b == b'\n') {
                let line = unread
                    .get(..length)
                    .and_then(|line| core::str::from_utf8(line).ok());
                self.start += length + 1;
                // 0 is a process of a foreign pid namespace.
                if let Some(pid) = line.and_then(|l| l.parse().ok()).and_then(Pid::from_raw) {
                    return Some(pid);
                }
                continue;
            }
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.start = 0;
            let room = self.buffer.get_mut(self.filled..)?;
            match rustix::io::read(&self.procs, room) {
                Ok(0) => return None,
                Ok(n) => self.filled += n,
                Err(error) => {
                    // With ENODEV the cgroup has been removed, and has no process any more.
                    let error = io::Error::from(error);
                    if may_work_again(&error) {
                        self.end = Err(error);
                    }
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::MemfdFlags;

    const REST: Rule = Rule {
        kill: 500,
        reclaim: 500,
        group: NO_GROUP,
        flags: 0,
    };

    /// The rule of a group; 0 is never killed.
    fn group(group: u16) -> Ruled {
        let kill = if group == 0 {
            NEVER
        } else {
            group.saturating_mul(100)
        };
        Ruled {
            rule: Rule {
                kill,
                reclaim: 500,
                group,
                flags: Rule::UNIT,
            },
            trusted: true,
        }
    }

    /// Processes of these groups, or of none, in a cgroup of `own` or of no group.
    fn tallied(own: Option<Ruled>, processes: &[Option<u16>]) -> Option<Ruled> {
        let base = own.map_or(REST, |own| own.rule);
        let mut tally = Tally::default();
        for process in processes {
            let own = process.map(group);
            let rule = own.map_or(base, |own| own.rule);
            let row = Row { rule, ..Row::ZERO };
            tally.add(&Member { own, row });
        }
        tally.rule(own, REST)
    }

    /// Nothing is at the address 0 of a process: reading there gives `EIO`.
    #[test]
    fn a_list_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let unreadable = std::fs::File::open("/proc/self/mem").unwrap();
        let mut pids = Pids::listed_in(unreadable.into());
        assert_eq!(pids.next(), None);
        let error = pids.end.unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));

        let ended = std::fs::File::open("/dev/null").unwrap();
        let mut pids = Pids::listed_in(ended.into());
        assert_eq!(pids.next(), None);
        assert!(pids.end.is_ok());
    }

    #[test]
    fn a_process_that_is_never_killed_shields_itself_alone() {
        for own in [None, Some(group(3))] {
            let ruled = tallied(own, &[Some(0), None, None]).expect("a rule of its own");
            assert_eq!(ruled.rule.flags, Rule::PROCESS);
            assert_ne!(ruled.rule.kill, NEVER);
        }
    }

    #[test]
    fn a_cgroup_with_none_but_such_processes_is_never_killed() {
        let ruled = tallied(Some(group(3)), &[Some(0), Some(0)]).expect("a rule of its own");
        assert_eq!((ruled.rule.kill, ruled.rule.group), (NEVER, 0));
        let ruled = tallied(None, &[Some(0)]).expect("a rule of its own");
        assert_eq!((ruled.rule.kill, ruled.rule.group), (NEVER, 0));
    }

    #[test]
    fn processes_of_one_group_take_a_cgroup_along_that_no_pattern_names() {
        assert_eq!(tallied(None, &[Some(2), Some(2)]), Some(group(2)));
        assert_eq!(tallied(Some(group(3)), &[Some(2), Some(2)]), Some(group(3)));
    }

    #[test]
    fn where_they_differ_each_is_ranked_by_itself() {
        for (processes, highest) in [
            (&[Some(2), None][..], 500),
            (&[Some(2), Some(7)], 700),
            (&[Some(7), Some(0), None], 700),
        ] {
            let ruled = tallied(None, processes).expect("a rule of its own");
            assert_eq!(
                (ruled.rule.flags, ruled.rule.kill),
                (Rule::PROCESS, highest)
            );
        }
    }

    #[test]
    fn without_a_word_on_processes_the_cgroup_decides() {
        for own in [None, Some(group(0)), Some(group(3))] {
            assert_eq!(tallied(own, &[]), own);
            assert_eq!(tallied(own, &[None, None]), own);
        }
        assert_eq!(tallied(Some(group(0)), &[Some(2), None]), Some(group(0)));
    }

    proptest! {
        #[test]
        fn no_cgroup_with_a_shielded_process_is_killed_as_a_whole(
            own in proptest::option::of(0_u16..9),
            processes in proptest::collection::vec(proptest::option::of(0_u16..9), 1..8),
        ) {
            let own = own.map(group);
            let rule = tallied(own, &processes).map_or(REST, |ruled| ruled.rule);
            if processes.contains(&Some(0)) {
                prop_assert!(rule.kill == NEVER || rule.flags & Rule::PROCESS != 0);
            }
        }
    }

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
}
