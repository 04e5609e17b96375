//! How figures and verdicts read.

use crate::escaped::Escaped;
use crate::sense::containers::Containers;
use crate::sense::members::Process;
use crate::sense::process::{Id, Name};
use crate::sense::tree::{PATH, Tree};
use crate::units::{Permyriad, Size};
use lowtide_common::Row;
use lowtide_judge::{Judged, Level, Policy, Unit, Verdict, Why};
use rustix::fd::AsFd as _;
use std::fmt::{self, Display, Formatter};
use std::mem::MaybeUninit;

/// How a victim reads, in the log as in what is kept: `group media, priority 800, usage 160M, frees 152M`.
pub struct Ranked<'a> {
    pub group: &'a str,
    pub kill: u64,
    pub usage: u64,
    pub frees: u64,
}

impl Display for Ranked<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            kill,
            usage,
            frees,
        } = self;
        let (usage, frees) = (Size(*usage), Size(*frees));
        write!(
            f,
            "group {group}, priority {kill}, usage {usage}, frees {frees}"
        )
    }
}

/// One memcg as evidence.
pub struct Target<'a>(pub &'a Policy, pub &'a Judged);

impl Display for Target<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(policy, judged) = self;
        let row = &judged.row;
        let ranked = Ranked {
            group: &policy.group(row.rule.group).name,
            kill: row.rule.kill.into(),
            usage: row.usage,
            frees: judged.frees,
        };
        write!(f, "{ranked}")
    }
}

/// What something is done to: `/apps/media`, `123 (ffmpeg) of /apps/media`, or `123 (ffmpeg)`
/// where processes are looked at one by one.
pub struct Named<'a> {
    process: Option<Name>,
    /// `None` where a process is all there is to name.
    cgroup: Option<&'a [u8]>,
    containers: &'a Containers,
}

impl<'a> Named<'a> {
    /// `process` is the one of the target that was meant, where it is not all of it. A process that has
    /// exited has no name any more.
    pub fn new(
        tree: &'a Tree,
        target: &Row,
        process: Option<&'a Name>,
        buffer: &'a mut [MaybeUninit<u8>; PATH],
    ) -> Self {
        let is_process = target.flags & Row::PROCESS != 0;
        let process = match process {
            Some(process) => Some(process.clone()),
            None if is_process => Process::of(Id(target.id)).ok().map(|it| it.name()),
            None => None,
        };
        // That of a process may not be known.
        let id = if is_process { target.parent } else { target.id };
        let cgroup = (id != 0).then(|| {
            let dir = tree.open_id(id).ok();
            let path = dir.and_then(|dir| tree.path_of(dir.as_fd(), buffer).ok());
            path.unwrap_or(b"(gone)")
        });
        Self {
            process,
            cgroup,
            containers: tree.containers(),
        }
    }
}

impl Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(Name { pid, name }) = &self.process {
            write!(f, "{} ({})", pid.as_raw_pid(), Escaped(name))?;
        }
        match (&self.process, self.cgroup) {
            (Some(_), Some(path)) => write!(f, " of /{}", self.containers.shown(path)),
            (None, Some(path)) => write!(f, "/{}", self.containers.shown(path)),
            (Some(_), None) => Ok(()),
            (None, None) => f.write_str("a process that has exited"),
        }
    }
}

/// What there are many of.
pub struct Many(pub Unit);

impl Display for Many {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Unit::Cgroup => "cgroups",
            Unit::Process => "processes",
        })
    }
}

/// The figures a verdict was made on: `available 9.8M of 236M (4 %), some 31 %, full 12 %`.
pub struct Figures<'a>(pub &'a Verdict);

impl Display for Figures<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let m = &self.0.memory;
        let share = m.available.saturating_mul(10_000) / m.total.max(1);
        write!(
            f,
            "available {} of {} ({})",
            Size(m.available),
            Size(m.total),
            Permyriad(share)
        )?;
        if m.swap_total > 0 {
            write!(
                f,
                ", swap free {} of {}",
                Size(m.swap_free),
                Size(m.swap_total)
            )?;
        }
        if let Some(r) = &self.0.rates {
            write!(
                f,
                ", stalled some {} full {}, {} refaults/s",
                Permyriad(r.stalled.some_permyriad.into()),
                Permyriad(r.stalled.full_permyriad.into()),
                r.refaults
            )?;
        }
        Ok(())
    }
}

/// What could have gone as well, and why it did not:
/// `/apps/sensor (group sensor, priority 100, usage 20M, frees 20M): lower priority`.
pub struct Other<'a> {
    named: Named<'a>,
    what: Target<'a>,
}

impl<'a> Other<'a> {
    pub fn new(
        policy: &'a Policy,
        tree: &'a Tree,
        other: &'a Judged,
        buffer: &'a mut [MaybeUninit<u8>; PATH],
    ) -> Self {
        Self {
            named: Named::new(tree, &other.row, None, buffer),
            what: Target(policy, other),
        }
    }
}

impl Display for Other<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { named, what } = self;
        write!(f, "{named} ({what}): {}", what.1.reason.text())
    }
}

/// Why the verdict is what it is.
pub struct Because<'a> {
    why: &'a Why,
    /// Named it is about.
    named: Option<Named<'a>>,
}

impl<'a> Because<'a> {
    /// Without a name: where it is about none.
    pub const fn of(why: &'a Why) -> Self {
        Self { why, named: None }
    }

    pub fn new(
        verdict: &'a Verdict,
        tree: &'a Tree,
        buffer: &'a mut [MaybeUninit<u8>; PATH],
    ) -> Self {
        let id = match verdict.why {
            Why::StillExiting { id }
            | Why::Preparing { id, .. }
            | Why::InGrace { id, .. }
            | Why::HeldBack { id, .. } => Some(id),
            _ => None,
        };
        let judged = verdict
            .judged
            .iter()
            .find(|judged| Some(judged.row.id) == id);
        Self {
            why: &verdict.why,
            named: judged.map(|judged| Named::new(tree, &judged.row, None, buffer)),
        }
    }

    /// With the level before it, where it does not name one itself.
    pub fn at(self, level: Level) -> At<'a> {
        At(level, self)
    }

    const fn names_level(&self) -> bool {
        matches!(
            self.why,
            Why::Confirmed(_) | Why::UntilRelief(_) | Why::Relieved(_) | Why::NothingLeft(_)
        )
    }
}

/// `critical confirmed`, `critical: /apps/media was asked to stop and has time left`.
pub struct At<'a>(Level, Because<'a>);

impl Display for At<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(level, because) = self;
        if !because.names_level() {
            write!(f, "{}: ", level.name())?;
        }
        write!(f, "{because}")
    }
}

impl Display for Because<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let named: &dyn Display = match &self.named {
            Some(named) => named,
            None => &"the victim",
        };
        match self.why {
            Why::Calm => f.write_str("no pressure"),
            Why::NotConfirmed => f.write_str("awake, no level's condition holds"),
            Why::Confirmed(l) => write!(f, "{} confirmed", l.name()),
            Why::UntilRelief(l) => write!(f, "{} until relief", l.name()),
            Why::Relieved(l) => write!(f, "{} relieved", l.name()),
            Why::StillExiting { .. } => write!(f, "{named} is still exiting"),
            Why::Preparing { .. } => {
                write!(f, "the command before the end of {named} has time left")
            }
            Why::InGrace { .. } => write!(f, "{named} was asked to stop and has time left"),
            Why::HeldBack { .. } => write!(f, "{named} is held back"),
            Why::Measuring => f.write_str("looking once more to see what grows"),
            Why::NothingLeft(l) => write!(f, "{} confirmed, nothing left to do", l.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sense::process::directory;
    use lowtide_common::{NO_GROUP, Rule};

    fn row(id: u64) -> Row {
        Row {
            id,
            parent: 0,
            rule: Rule {
                kill: 500,
                reclaim: 500,
                group: NO_GROUP,
                flags: 0,
            },
            flags: Row::PROCESS,
            ..Row::ZERO
        }
    }

    /// Also one that nothing was done to, as the next in order.
    #[test]
    fn a_process_is_named_as_long_as_it_runs() {
        let tree = Tree::open().unwrap();
        let pid = rustix::process::getpid();
        let id = Id::of(pid, directory(pid).unwrap()).unwrap();
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let named = Named::new(&tree, &row(id.0), None, &mut buffer).to_string();
        assert!(
            named.starts_with(&format!("{} (", pid.as_raw_pid())),
            "{named}"
        );
        // The same pid, of a process that has started before.
        let gone = row(u64::try_from(pid.as_raw_pid()).unwrap());
        let named = Named::new(&tree, &gone, None, &mut buffer).to_string();
        assert_eq!(named, "a process that has exited");
    }
}
