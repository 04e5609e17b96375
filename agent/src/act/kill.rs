//! Kills a memcg with all below it, or one process.

use super::Done;
use super::mrelease::{Killed, Releaser};
use super::process;
use crate::config::Loaded;
use crate::sense::members::{self, Process, is_shielded};
use crate::sense::process::{Id, is_protected};
use crate::sense::tree::Tree;
use crate::sense::victim::Victim;
use crate::sense::walk::each_below;
use lowtide_common::Row;
use lowtide_judge::Outcome;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use std::io;
use std::ops::ControlFlow;

/// Sends SIGKILL to every process in and below the cgroup of the target; where one of them is never to
/// be touched, as may be known only now, to the first in rank alone, see [`process()`].
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone; where the cgroup cannot be
/// killed as a whole, what the last signal was refused with, if all were.
pub fn memcg(
    tree: &Tree,
    target: &Row,
    worth: u64,
    config: &Loaded,
    releaser: &Releaser,
) -> io::Result<Done> {
    let dir = open_victim(tree, target.id)?;
    if shields(tree, &dir, target, config) {
        return process(tree, target, worth, config, releaser);
    }
    let victim = to_wait_for(&dir);
    let killed = open_at(&dir, "cgroup.kill", OFlags::WRONLY)
        .and_then(|kill| Ok(rustix::io::write(&kill, b"1")?));
    // Not there before Linux 5.14; refused where the agent may not write, and of a threaded cgroup.
    if killed.is_err() {
        signal_each(dir.as_fd(), Signal::KILL)?;
    }
    let done = Done {
        victim,
        ..Done::only(Outcome::DONE)
    };
    releaser.release(Killed::Memcg(dir));
    Ok(done)
}

/// Sends SIGKILL to the target, where that is a process, or to the process of the target that is
/// first in rank, see [`process::first`].
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone, `ESRCH` when none of
/// its processes may be killed.
pub fn process(
    tree: &Tree,
    target: &Row,
    worth: u64,
    config: &Loaded,
    releaser: &Releaser,
) -> io::Result<Done> {
    let process = first(tree, target, worth, config)?;
    let name = process.name();
    pidfd_send_signal(&process.pidfd, Signal::KILL)?;
    let done = Done::only(Outcome::DONE);
    if let Ok(pidfd) = process.pidfd.try_clone() {
        let memcg = if target.flags & Row::PROCESS == 0 {
            target.id
        } else {
            // 0 where there are no cgroups.
            target.parent
        };
        let is_marked = releaser.marks() && memcg != 0;
        let memcg = is_marked.then(|| tree.open_id(memcg).ok()).flatten();
        releaser.release(Killed::Process { pidfd, memcg });
    }
    Ok(Done {
        process: Some(name),
        victim: Some(Victim::Process(process.pidfd)),
        ..done
    })
}

/// Sends a signal to every process in and below the cgroup of the target, for it to end by itself; as
/// [`memcg`], to one alone where another is never to be touched.
///
/// `EPERM` for the cgroup of the agent or of init, `ESTALE` when it is gone, `EINVAL` for no
/// signal of this kernel; what the last signal was refused with, if all were.
pub fn ask(
    tree: &Tree,
    target: &Row,
    signal: i32,
    worth: u64,
    config: &Loaded,
) -> io::Result<Done> {
    let named = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    let dir = open_victim(tree, target.id)?;
    if shields(tree, &dir, target, config) {
        return ask_process(tree, target, signal, worth, config);
    }
    let victim = to_wait_for(&dir);
    signal_each(dir.as_fd(), named)?;
    Ok(Done {
        victim,
        ..Done::only(Outcome::DONE)
    })
}

/// Sends a signal to the process that [`process()`] would kill; errors as there and of [`ask`].
pub fn ask_process(
    tree: &Tree,
    target: &Row,
    signal: i32,
    worth: u64,
    config: &Loaded,
) -> io::Result<Done> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    let process = first(tree, target, worth, config)?;
    pidfd_send_signal(&process.pidfd, signal)?;
    Ok(Done {
        process: Some(process.name()),
        victim: Some(Victim::Process(process.pidfd)),
        ..Done::only(Outcome::DONE)
    })
}

/// `EPERM` where a process in the target is never to be touched, so that it cannot be held back as a
/// whole.
pub(super) fn without_shielded(tree: &Tree, target: &Row, config: &Loaded) -> io::Result<()> {
    let dir = open_victim(tree, target.id)?;
    if shields(tree, &dir, target, config) {
        return Err(Errno::PERM.into());
    }
    Ok(())
}

/// Whether a process in it is never to be touched.
fn shields(tree: &Tree, dir: &OwnedFd, target: &Row, config: &Loaded) -> bool {
    let rule = process::rule_in(target, config);
    is_shielded(dir.as_fd(), rule, &config.matcher, tree)
}

/// The process that is meant where it is not the whole target.
fn first(tree: &Tree, target: &Row, worth: u64, config: &Loaded) -> io::Result<Process> {
    if target.flags & Row::PROCESS != 0 {
        let id = Id(target.id);
        if id.pid().is_some_and(is_protected) {
            return Err(Errno::PERM.into());
        }
        return Process::of(id);
    }
    let dir = open_victim(tree, target.id)?;
    process::first(tree, dir.as_fd(), target, worth, config)
}

/// `EPERM` where the agent or init is in it or below it, `ESTALE` when it is gone.
pub(super) fn open_victim(tree: &Tree, id: u64) -> io::Result<OwnedFd> {
    if tree.holds_protected(id) {
        return Err(Errno::PERM.into());
    }
    tree.open_id(id)
}

/// Sends a signal to each process in and below a cgroup. An error where there are some, and none got
/// it; one that has exited meanwhile is none.
fn signal_each(dir: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let (mut reached, mut refused) = (false, None);
    each_process(dir, &mut |pidfd| {
        match pidfd_send_signal(pidfd, signal) {
            Ok(()) => reached = true,
            Err(Errno::SRCH) => {}
            Err(error) => refused = Some(error),
        }
        Ok(())
    })?;
    match refused {
        Some(error) if !reached => Err(error.into()),
        _ => Ok(()),
    }
}

/// Calls `f` with a pidfd of each process in and below the cgroup. An error where its own processes
/// cannot be listed; a cgroup below it that cannot be has gone.
pub(super) fn each_process(
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    members::each(dir, &mut |_, pidfd| f(pidfd.as_fd()))?;
    let _ = each_below(dir, &mut |cgroup| {
        if let Ok(dir) = cgroup.open() {
            let _ = members::each(dir.as_fd(), &mut |_, pidfd| f(pidfd.as_fd()));
        }
        ControlFlow::Continue(())
    });
    Ok(())
}

/// A cgroup whose end is waited for. An error may not be there a second time; without it the victim counts as
/// still exiting, and what is started in its place meanwhile is passed over, for something of a lower number.
fn to_wait_for(dir: &OwnedFd) -> Option<Victim> {
    let open = || open_at(dir, "cgroup.events", OFlags::RDONLY);
    open().or_else(|_| open()).ok().map(Victim::Memcg)
}

fn open_at(dir: impl AsFd, name: &str, how: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(
        dir,
        name,
        how | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}
