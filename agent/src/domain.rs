//! What is judged by itself, with triggers and a history of its own: the system, or a cgroup within
//! its own limit.

use crate::sense::limited::Limited;
use crate::sense::psi::{self, Triggers};
use lowtide_judge::{History, Memory, Millis, Trigger, Why};
use rustix::fd::{AsFd, OwnedFd};
use smol::Async;
use std::io;
use std::task::{Context, Waker};
use std::time::Instant;

/// A cgroup whose group has a trigger.
pub struct OwnTrigger {
    /// cgroup id.
    pub id: u64,
    /// Below the cgroup root, as it is shown.
    pub path: String,
    pub dir: OwnedFd,
    pub trigger: Trigger,
}

pub struct Domain {
    cgroup: Option<(Limited, Trigger)>,
    /// [`Limited::stalled_us`] when the watch began.
    stalled_before_us: u64,
    /// `in /PATH: ` for lines about a cgroup; empty for the system.
    pub place: String,
    pub triggers: Async<Triggers>,
    pub history: History,
    /// Its last verdict belongs to an episode that has not ended.
    pub acts: bool,
    /// When to look again without a trigger.
    pub look_again: Option<Instant>,
    /// What the last line about doing nothing said, so that it is said once.
    pub last_why: Option<Why>,
}

impl Domain {
    pub fn system(triggers: Triggers) -> io::Result<Self> {
        Self::new(None, String::new(), triggers)
    }

    pub fn cgroup(own: &OwnTrigger) -> io::Result<Self> {
        let mut triggers = Triggers::new()?;
        triggers.arm(own.dir.as_fd(), psi::CGROUP, &own.trigger)?;
        let limited = Limited::open(own.dir.as_fd())?;
        Self::new(
            Some((limited, own.trigger)),
            format!("in /{}: ", own.path),
            triggers,
        )
    }

    fn new(
        cgroup: Option<(Limited, Trigger)>,
        place: String,
        triggers: Triggers,
    ) -> io::Result<Self> {
        let limited = cgroup.as_ref().map(|(limited, _)| limited);
        Ok(Self {
            stalled_before_us: limited.map_or(0, Limited::stalled_us),
            cgroup,
            place,
            triggers: Async::new_nonblocking(triggers)?,
            history: History::default(),
            acts: false,
            look_again: None,
            last_why: None,
        })
    }

    /// Replaces its triggers. What fired and was not yet looked at counts all the same.
    pub fn rearm(&mut self, triggers: Triggers, now: Millis) -> io::Result<()> {
        let new = Async::new_nonblocking(triggers)?;
        let mut context = Context::from_waker(Waker::noop());
        let woke = self.triggers.poll_readable(&mut context).is_ready();
        self.take_fired(woke, now)?;
        self.triggers = new;
        Ok(())
    }

    pub fn is_system(&self) -> bool {
        self.cgroup.is_none()
    }

    pub fn watches(&self, own: &OwnTrigger) -> bool {
        let cgroup = self.cgroup.as_ref();
        cgroup.is_some_and(|(limited, trigger)| limited.id == own.id && *trigger == own.trigger)
    }

    /// Whether there is anything that could be short in it alone.
    pub fn has_limit(&self) -> bool {
        let cgroup = self.cgroup.as_ref();
        cgroup.is_none_or(|(limited, _)| limited.limit().is_ok_and(|limit| limit.is_some()))
    }

    /// Its figures, given the system's; see [`Limited::read`].
    pub fn memory(&self, system: &Memory) -> io::Result<Option<Memory>> {
        match &self.cgroup {
            Some((limited, _)) => limited.read(system),
            None => Ok(Some(*system)),
        }
    }

    /// [`Limited::stalled_us`] since the watch began; 0 for the system.
    pub fn stalled_in_limit_us(&self) -> u64 {
        let cgroup = self.cgroup.as_ref();
        let stalled = cgroup.map_or(0, |(limited, _)| limited.stalled_us());
        stalled.saturating_sub(self.stalled_before_us)
    }

    /// Takes in what fired, see [`Triggers::take`]; whether anything did.
    pub fn take_fired(&mut self, woke: bool, now: Millis) -> io::Result<bool> {
        if self.triggers.get_ref().take()? || woke {
            self.history.woken(now);
            return Ok(true);
        }
        Ok(false)
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.look_again.is_some_and(|at| at <= now)
    }

    /// Nothing can be short in it.
    pub fn rest(&mut self) {
        (self.acts, self.look_again) = (false, None);
    }
}
