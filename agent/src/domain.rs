//! What is judged by itself, with alarms and a history of its own: the system, or a cgroup within
//! its own limit.

use crate::sense::alarms::{Alarms, Fired};
use crate::sense::limited::Limited;
use crate::sense::psi;
use crate::sense::victim::Victim;
use lowtide_common::Row;
use lowtide_judge::{DOMAINS, History, Memory, Millis, Trigger, Why};
use rustix::fd::{AsFd, OwnedFd};
use smol::Async;
use std::io;
use std::task::{Context, Poll, Waker};
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

/// Names one domain: the id of its cgroup, or 0 for the system. The kernel gives no cgroup id twice, so
/// that of a domain which is gone finds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainId(u64);

impl DomainId {
    pub const SYSTEM: Self = Self(0);

    /// cgroup id; 0 of the system.
    pub const fn cgroup(self) -> u64 {
        self.0
    }
}

/// The system, and the cgroups that are watched over by themselves.
pub struct Domains {
    system: Domain,
    cgroups: heapless::Vec<Box<Domain>, DOMAINS>,
}

impl Domains {
    pub const fn new(system: Domain) -> Self {
        Self {
            system,
            cgroups: heapless::Vec::new(),
        }
    }

    pub const fn system(&mut self) -> &mut Domain {
        &mut self.system
    }

    pub fn iter(&self) -> impl Iterator<Item = &Domain> {
        std::iter::once(&self.system).chain(self.cgroups.iter().map(Box::as_ref))
    }

    /// `None` when it is no longer watched over.
    pub fn get_mut(&mut self, id: DomainId) -> Option<&mut Domain> {
        if id == DomainId::SYSTEM {
            return Some(&mut self.system);
        }
        let mut cgroups = self.cgroups.iter_mut().map(Box::as_mut);
        cgroups.find(|domain| domain.id == id)
    }

    /// The system first. Those may be gone by the time that their turn comes.
    pub fn ids(&self) -> heapless::Vec<DomainId, { DOMAINS + 1 }> {
        self.iter().map(|domain| domain.id).collect()
    }

    pub fn watches(&self, own: &OwnTrigger) -> bool {
        self.cgroups.iter().any(|domain| domain.watches(own))
    }

    /// Whether there are as many cgroups as can be watched over.
    pub fn is_full(&self) -> bool {
        self.cgroups.is_full()
    }

    /// One that does not fit is dropped, see [`is_full`](Self::is_full).
    pub fn add(&mut self, cgroup: Domain) {
        let _ = self.cgroups.push(Box::new(cgroup));
    }

    /// Watches over no cgroups any more but these.
    pub fn retain(&mut self, wanted: &[OwnTrigger]) {
        self.cgroups
            .retain(|domain| wanted.iter().any(|own| domain.watches(own)));
    }

    /// The system stays.
    pub fn remove(&mut self, id: DomainId) {
        self.cgroups.retain(|domain| domain.id != id);
    }

    /// Whether an episode goes on in any of them.
    pub fn any_acts(&self) -> bool {
        self.iter().any(|domain| domain.acts)
    }

    /// When the first of them is to be looked at without a trigger.
    pub fn next_look(&self) -> Option<Instant> {
        self.iter().filter_map(|domain| domain.look_again).min()
    }

    /// [`Domain::stalled_in_limit_us`] of all.
    pub fn stalled_in_limit_us(&self) -> u64 {
        self.iter().map(Domain::stalled_in_limit_us).sum()
    }

    /// The first of them in which a trigger fired, or can fire no more, and why.
    pub fn poll_fired(&self, context: &mut Context<'_>) -> Poll<(DomainId, io::Result<()>)> {
        let fired = self.iter().find_map(|domain| {
            let poll = domain.alarms.poll_readable(context);
            poll.is_ready()
                .then(|| poll.map(|polled| (domain.id, polled)))
        });
        fired.unwrap_or(Poll::Pending)
    }
}

pub struct Domain {
    pub id: DomainId,
    cgroup: Option<(Limited, Trigger)>,
    /// [`Limited::stalled_us`] when the watch began.
    stalled_before_us: u64,
    /// `in /PATH: ` for lines about a cgroup; empty for the system.
    pub place: String,
    pub alarms: Async<Alarms>,
    pub history: History,
    /// What was asked to stop last, until it has exited.
    pub asked: Option<(Row, Victim)>,
    /// Its last verdict belongs to an episode that has not ended.
    pub acts: bool,
    /// When to look again without a trigger.
    pub look_again: Option<Instant>,
    /// What the last line about doing nothing said, so that it is said once.
    pub last_why: Option<Why>,
    /// It is awake because the config is another one, or the first, and no alarm has come since.
    by_config: bool,
}

impl Domain {
    pub fn system(alarms: Alarms) -> io::Result<Self> {
        Self::new(DomainId::SYSTEM, None, String::new(), alarms)
    }

    pub fn cgroup(own: &OwnTrigger) -> io::Result<Self> {
        let trigger = psi::arm(own.dir.as_fd(), psi::CGROUP, &own.trigger)?;
        let limited = Limited::open(own.dir.as_fd())?;
        Self::new(
            DomainId(own.id),
            Some((limited, own.trigger)),
            format!("in /{}: ", own.path),
            Alarms::new(Some(trigger))?,
        )
    }

    fn new(
        id: DomainId,
        cgroup: Option<(Limited, Trigger)>,
        place: String,
        alarms: Alarms,
    ) -> io::Result<Self> {
        let limited = cgroup.as_ref().map(|(limited, _)| limited);
        Ok(Self {
            id,
            stalled_before_us: limited.map_or(0, Limited::stalled_us),
            cgroup,
            place,
            alarms: Async::new_nonblocking(alarms)?,
            history: History::default(),
            asked: None,
            acts: false,
            look_again: None,
            last_why: None,
            by_config: false,
        })
    }

    /// Replaces its trigger; what fired and was not yet looked at counts all the same. The old one stays
    /// where the new one cannot be waited for.
    pub fn rearm(&mut self, trigger: Option<OwnedFd>, now: Millis) -> io::Result<()> {
        self.has_fired(now);
        let nothing = Async::new_nonblocking(Alarms::new(None)?)?;
        let mut alarms = std::mem::replace(&mut self.alarms, nothing).into_inner()?;
        let replaced = alarms.set_trigger(trigger);
        self.alarms = Async::new_nonblocking(alarms)?;
        replaced
    }

    /// The config is another one, or the first: it is looked at as after an alarm. That this finds nothing
    /// to do is no news.
    pub fn reconfigured(&mut self, now: Millis) {
        self.history.reconfigured(now);
        self.last_why = Some(Why::NotConfirmed);
        self.by_config = true;
    }

    /// From now on it is looked at by time.
    pub fn disarm(&mut self) -> io::Result<()> {
        self.alarms = Async::new_nonblocking(Alarms::new(None)?)?;
        Ok(())
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

    /// Takes in what fired, see [`Alarms::take`].
    pub fn take_fired(&mut self, woke: bool, now: Millis) -> Fired {
        let fired = self.alarms.get_ref().take(woke);
        if fired.any() {
            self.history.woken(now);
            if std::mem::take(&mut self.by_config) {
                self.last_why = None;
            }
        }
        fired
    }

    /// Whether an alarm came, as far as can be told without waiting. It counts for the history, and not a
    /// second time.
    pub fn has_fired(&mut self, now: Millis) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let woke = self.alarms.poll_readable(&mut context).is_ready();
        self.take_fired(woke, now).any()
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.look_again.is_some_and(|at| at <= now)
    }

    /// Nothing can be short in it.
    pub fn rest(&mut self) {
        (self.acts, self.look_again) = (false, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(id: u64) -> Domain {
        let alarms = Alarms::new(None).expect("an epoll set");
        Domain::new(DomainId(id), None, String::new(), alarms).expect("it can be polled")
    }

    fn domains() -> Domains {
        let mut domains = Domains::new(domain(0));
        domains.add(domain(7));
        domains.add(domain(9));
        domains
    }

    #[test]
    fn a_look_that_is_due_is_no_alarm() {
        let mut domain = domain(0);
        domain.look_again = Some(Instant::now());
        assert!(domain.is_due(Instant::now()));
        assert!(!domain.has_fired(0));
    }

    #[test]
    fn one_that_vanishes_while_all_are_gone_through_takes_no_other_along() {
        let mut domains = domains();
        let mut seen = Vec::new();
        for id in domains.ids() {
            if domains.get_mut(id).is_none() {
                continue;
            }
            seen.push(id);
            // As an episode does that finds its cgroup gone, or a settling that finds others gone.
            domains.remove(DomainId(7));
        }
        assert_eq!(seen, [DomainId::SYSTEM, DomainId(9)]);
        domains.retain(&[]);
        assert!(domains.get_mut(DomainId(9)).is_none());
    }

    #[test]
    fn the_system_is_always_there() {
        let mut domains = domains();
        domains.remove(DomainId::SYSTEM);
        domains.retain(&[]);
        assert_eq!(domains.ids(), [DomainId::SYSTEM]);
        assert!(domains.get_mut(DomainId::SYSTEM).is_some());
    }

    #[test]
    fn the_first_to_be_looked_at_says_when() {
        let mut domains = domains();
        assert_eq!(domains.next_look(), None);
        let now = Instant::now();
        domains.add(Domain {
            look_again: Some(now),
            ..domain(11)
        });
        domains.system().look_again = Some(now + std::time::Duration::from_secs(1));
        assert_eq!(domains.next_look(), Some(now));
    }
}
