//! What ends the sleep, behind one descriptor: the watch, a PSI trigger, the ballast. An alarm is never a
//! verdict.

use super::ballast::Ballast;
#[cfg(feature = "bpf")]
use super::watch::Watch;
use lowtide_judge::Memory;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::param::page_size;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

/// After an alarm that nothing was done about, the time to the next one; doubled from one to the next.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// After so long without one, the next is the first again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Part of the ballast that has to be gone for the kernel to have taken from it, and how long that counts.
const TAKEN_PART: u64 = 16;
const TAKEN: Duration = Duration::from_millis(250);

/// Epoll data of each source.
const TRIGGER: u64 = 0;
#[cfg(feature = "bpf")]
const WATCH: u64 = 1;
const BALLAST: u64 = 2;

/// What ended the sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fired {
    pub trigger: bool,
    pub ballast: bool,
    /// How long ago less was available than the watch's mark.
    pub watch: Option<Duration>,
}

impl Fired {
    pub fn any(&self) -> bool {
        self.trigger || self.ballast || self.watch.is_some()
    }
}

/// Where it stands after a look at the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Bytes available.
    pub available: u64,
    /// The mark of available memory that is of interest next, in bytes; 0: none.
    pub mark: u64,
    /// Bytes that are left out of what is available as watermarks are raised.
    pub boost: u64,
    /// Something was done.
    pub acted: bool,
    /// Asleep from now on.
    pub calm: bool,
    /// At most so long without an alarm.
    pub quiet: Duration,
}

/// Alarms behind one epoll set.
///
/// A file of PSI always polls as readable, as that of the ballast does; only `POLLPRI` is an alarm. The
/// set asks for that alone, so that it is readable exactly when there is one. A firing of a trigger is
/// reported to one poll only (psi_trigger_poll in kernel/sched/psi.c): waiting on the set already
/// consumes it, so after a wake-up [`Alarms::take`] may find nothing.
pub struct Alarms {
    set: OwnedFd,
    /// Closing the file disarms it.
    trigger: Option<OwnedFd>,
    #[cfg(feature = "bpf")]
    watch: Option<Watch>,
    ballast: Option<Ballast>,
    /// What the watch found, and what was available besides: its figure is never above MemAvailable.
    #[cfg(feature = "bpf")]
    found: Cell<Option<u64>>,
    #[cfg(feature = "bpf")]
    below: Cell<u64>,
    /// The watch or the ballast has fired since the last stand.
    alarmed: Cell<bool>,
    /// In it neither is heard.
    pause: Cell<Pause>,
    /// The mark that is watched for, in bytes.
    mark: Cell<u64>,
    /// The ballast has fired, and is not waited for yet.
    deaf: Cell<bool>,
    /// The ballast can be waited for no more.
    lost: Cell<bool>,
    /// Bytes of the ballast that were left when the kernel last took some, and pages that had been read in
    /// again by then.
    left: Cell<u64>,
    refaults: Cell<u64>,
    /// When it took some as it found nothing else.
    taken_at: Cell<Option<Instant>>,
}

impl Alarms {
    /// With a trigger alone; see [`super::psi::arm`].
    pub fn new(trigger: Option<OwnedFd>) -> io::Result<Self> {
        let mut this = Self {
            set: epoll::create(CreateFlags::CLOEXEC)?,
            trigger: None,
            #[cfg(feature = "bpf")]
            watch: None,
            ballast: None,
            #[cfg(feature = "bpf")]
            found: Cell::new(None),
            #[cfg(feature = "bpf")]
            below: Cell::new(0),
            alarmed: Cell::new(false),
            pause: Cell::default(),
            mark: Cell::new(0),
            deaf: Cell::new(false),
            lost: Cell::new(false),
            left: Cell::new(0),
            refaults: Cell::new(0),
            taken_at: Cell::new(None),
        };
        this.set_trigger(trigger)?;
        Ok(this)
    }

    /// Another trigger, or none, in place of the one it had.
    pub fn set_trigger(&mut self, trigger: Option<OwnedFd>) -> io::Result<()> {
        if let Some(trigger) = &trigger {
            self.add(trigger, TRIGGER, EventFlags::PRI)?;
        }
        // Closing the old one takes it out of the set.
        self.trigger = trigger;
        Ok(())
    }

    #[cfg(feature = "bpf")]
    pub fn with_watch(mut self, watch: Watch) -> io::Result<Self> {
        self.add(&watch, WATCH, EventFlags::IN)?;
        self.watch = Some(watch);
        Ok(self)
    }

    pub fn with_ballast(mut self, ballast: Ballast) -> io::Result<Self> {
        self.add(&ballast, BALLAST, EventFlags::PRI | EventFlags::ONESHOT)?;
        self.left.set(ballast.size());
        self.ballast = Some(ballast);
        Ok(self)
    }

    fn add(&self, source: impl AsFd, data: u64, flags: EventFlags) -> io::Result<()> {
        epoll::add(&self.set, source, EventData::new_u64(data), flags)?;
        Ok(())
    }

    pub fn has_trigger(&self) -> bool {
        self.trigger.is_some()
    }

    #[cfg(feature = "bpf")]
    pub fn has_watch(&self) -> bool {
        self.watch.is_some()
    }

    #[cfg(not(feature = "bpf"))]
    pub fn has_watch(&self) -> bool {
        false
    }

    /// The watch wakes the agent from now on.
    #[cfg(feature = "bpf")]
    fn watches(&self) -> bool {
        self.has_watch() && !self.pause.get().lasts(self.mark.get(), Instant::now())
    }

    #[cfg(not(feature = "bpf"))]
    fn watches(&self) -> bool {
        false
    }

    /// Brings the figures of the system in line with what the agent itself knows of them: which alarms
    /// come, and what its ballast makes seem available. Allocates nothing.
    pub fn correct(&self, memory: &mut Memory) {
        memory.psi = self.has_trigger();
        memory.told = self.watches();
        let Some(ballast) = &self.ballast else { return };
        let (size, left) = (ballast.size(), ballast.left());
        // One of which not even half is left gives no more warning.
        memory.told |= !self.lost.get() && !self.deaf.get() && left >= size / 2;
        memory.available = memory.available.saturating_sub(left);
        memory.file = memory.file.saturating_sub(left);
        let taken = self.left.get().saturating_sub(left);
        if taken > size / TAKEN_PART {
            self.left.set(left);
            let before = self.refaults.replace(memory.refaults);
            let refaults = memory.refaults.saturating_sub(before);
            if found_nothing_else(taken, refaults) {
                self.taken_at.set(Some(Instant::now()));
            }
        }
        // Then, of what counts as available, only what is free is: reclaimable slab and the last of the
        // cache are often not to be had.
        let taken = self.taken_at.get();
        if taken.is_some_and(|at| at.elapsed() < TAKEN) {
            memory.available = memory.available.min(memory.free);
        }
    }

    /// What fired since the last call; the trigger where the set `woke` and it is not known what did.
    /// Does not wait, allocates nothing.
    pub fn take(&self, woke: bool) -> Fired {
        let mut fired = Fired::default();
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; 4];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let events = epoll::wait(&self.set, &mut events, Some(&now));
        let (events, _) = events.unwrap_or((&mut [], &mut []));
        for event in events {
            let flags = event.flags;
            match event.data.u64() {
                TRIGGER => fired.trigger |= flags.contains(EventFlags::PRI),
                BALLAST => fired.ballast = true,
                _ => fired.watch = self.take_watch(),
            }
        }
        if fired.ballast {
            self.deaf.set(true);
        }
        fired.trigger |= woke && !fired.any() && self.has_trigger();
        self.alarmed
            .set(self.alarmed.get() || fired.ballast || fired.watch.is_some());
        fired
    }

    #[cfg(feature = "bpf")]
    fn take_watch(&self) -> Option<Duration> {
        let alarm = self.watch.as_ref()?.take()?;
        self.found.set(Some(alarm.available));
        Some(super::watch::now().saturating_sub(alarm.at))
    }

    #[cfg(not(feature = "bpf"))]
    fn take_watch(&self) -> Option<Duration> {
        None
    }

    /// Makes ready for the next alarm. Allocates nothing.
    pub fn follow(&self, stand: &Stand) {
        let at = self.alarmed.replace(false).then_some(self.mark.get());
        self.pause
            .set(self.pause.get().next(stand, at, Instant::now()));
        self.mark.set(stand.mark);
        self.follow_with_watch(stand);
        if let Some(ballast) = &self.ballast
            && let Err(_) = self.follow_with_ballast(ballast, stand)
        {
            self.lost.set(true);
        }
    }

    fn follow_with_ballast(&self, ballast: &Ballast, stand: &Stand) -> io::Result<()> {
        if stand.calm && ballast.left() < ballast.size() && stand.available / 2 > ballast.size() {
            ballast.refill()?;
            self.left.set(ballast.size());
        }
        if self.deaf.get() && (stand.calm || !self.pause.get().lasts(u64::MAX, Instant::now())) {
            ballast.acknowledge()?;
            let flags = EventFlags::PRI | EventFlags::ONESHOT;
            epoll::modify(&self.set, ballast, EventData::new_u64(BALLAST), flags)?;
            self.deaf.set(false);
        }
        Ok(())
    }

    #[cfg(feature = "bpf")]
    fn follow_with_watch(&self, stand: &Stand) {
        let Some(watch) = &self.watch else { return };
        let left = self.ballast.as_ref().map_or(0, Ballast::left);
        let hidden = stand.boost.saturating_add(left);
        // An alarm that came too early says by how much its figure is below MemAvailable.
        if let Some(found) = self.found.take()
            && !stand.acted
        {
            let below = stand.available.saturating_add(hidden).saturating_sub(found);
            self.below.set(below.min(stand.mark / 2));
        }
        watch.set_mark(match stand.mark {
            0 => 0,
            mark => mark.saturating_add(hidden).saturating_sub(self.below.get()),
        });
        watch.set_quiet(self.pause.get().left(stand.mark, Instant::now()));
    }

    #[cfg(not(feature = "bpf"))]
    fn follow_with_watch(&self, _: &Stand) {}
}

/// Whether the kernel took so many bytes of the ballast because there was nothing else: not where it gave
/// up more of the cache, which was read in again meanwhile.
fn found_nothing_else(taken: u64, refaults: u64) -> bool {
    refaults.saturating_mul(page_size() as u64) < taken
}

/// Follows an alarm that nothing was done about, so that what goes on does not wake the agent over and
/// over: meanwhile the figures are looked at by time. Over once something is done; a mark below that of the
/// alarm is another matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pause {
    since: Option<Instant>,
    length: Duration,
    /// Of the alarm, in bytes.
    mark: u64,
}

impl Pause {
    /// What is left of it for this mark.
    fn left(&self, mark: u64, now: Instant) -> Duration {
        let since = self.since.filter(|_| mark >= self.mark);
        since.map_or(Duration::ZERO, |since| {
            self.length.saturating_sub(now.duration_since(since))
        })
    }

    fn lasts(&self, mark: u64, now: Instant) -> bool {
        !self.left(mark, now).is_zero()
    }

    /// After a look, and the alarm before it, if there was one, at this mark.
    fn next(self, stand: &Stand, alarm: Option<u64>, now: Instant) -> Self {
        if stand.acted {
            return Self::default();
        }
        let Some(mark) = alarm else { return self };
        let [shortest, longest] = PAUSES;
        let is_remembered = |since| now.duration_since(since) < FORGOTTEN;
        let last = if self.since.is_some_and(is_remembered) {
            self.length
        } else {
            Duration::ZERO
        };
        Self {
            since: Some(now),
            length: (last * 2).clamp(shortest, longest).min(stand.quiet / 2),
            mark,
        }
    }
}

/// `watch and PSI`
impl fmt::Display for Alarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let armed = [
            self.has_watch(),
            self.trigger.is_some(),
            self.ballast.is_some(),
        ];
        f.write_str(&names(armed))
    }
}

/// What wakes the agent, of the watch, PSI and the ballast those that there are; without any, time.
pub fn names(armed: [bool; 3]) -> String {
    let names = ["watch", "PSI", "ballast"].into_iter().zip(armed);
    let names: Vec<_> = names
        .filter_map(|(name, armed)| armed.then_some(name))
        .collect();
    match names[..] {
        [] => "time".to_owned(),
        [ref first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        [one, ..] => one.to_owned(),
    }
}

impl AsFd for Alarms {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: u64 = 10 << 20;

    fn stand(acted: bool, quiet: Duration) -> Stand {
        Stand {
            available: 0,
            mark: 0,
            boost: 0,
            acted,
            calm: false,
            quiet,
        }
    }

    #[test]
    fn pauses_grow_to_a_second_or_half_of_the_quiet_time() {
        let now = Instant::now();
        let after = |alarms, quiet| {
            let next = |pause: Pause, _| pause.next(&stand(false, quiet), Some(MARK), now);
            (0..alarms).fold(Pause::default(), next).length
        };
        assert_eq!(after(1, Duration::from_secs(2)), PAUSES[0]);
        assert_eq!(after(10, Duration::from_secs(2)), PAUSES[1]);
        let half = Duration::from_millis(300);
        assert_eq!(after(10, Duration::from_millis(600)), half);
    }

    #[test]
    fn a_pause_is_over_once_something_is_done_and_the_next_one_is_short() {
        let now = Instant::now();
        let idle = stand(false, Duration::from_secs(2));
        let pause = (0..10).fold(Pause::default(), |pause, _| {
            pause.next(&idle, Some(MARK), now)
        });
        let later = now + PAUSES[1] / 2;
        assert!(pause.next(&idle, None, later).lasts(MARK, later));
        let acted = pause.next(&stand(true, Duration::from_secs(2)), None, later);
        assert!(!acted.lasts(MARK, later));
        assert_eq!(acted.next(&idle, Some(MARK), later).length, PAUSES[0]);
    }

    #[test]
    fn a_pause_is_none_for_a_mark_below() {
        let now = Instant::now();
        let idle = stand(false, Duration::from_secs(2));
        let pause = Pause::default().next(&idle, Some(MARK), now);
        assert!(pause.lasts(MARK, now) && pause.lasts(2 * MARK, now));
        assert!(!pause.lasts(MARK / 2, now));
        assert!(!pause.lasts(MARK, now + PAUSES[0]));
    }

    #[test]
    fn what_was_long_ago_does_not_lengthen_a_pause() {
        let now = Instant::now();
        let idle = stand(false, Duration::from_secs(2));
        let pause = (0..10).fold(Pause::default(), |pause, _| {
            pause.next(&idle, Some(MARK), now)
        });
        let later = now + FORGOTTEN;
        assert_eq!(pause.next(&idle, Some(MARK), later).length, PAUSES[0]);
    }

    #[test]
    fn what_takes_from_the_ballast_beside_a_cache_that_is_read_again_has_found_something() {
        let page = page_size() as u64;
        assert!(found_nothing_else(128 << 10, 0));
        assert!(found_nothing_else(32 * page, 31));
        assert!(!found_nothing_else(32 * page, 32));
    }

    #[test]
    fn they_are_named_as_a_person_lists_them() {
        assert_eq!(names([true; 3]), "watch, PSI and ballast");
        assert_eq!(names([false, true, true]), "PSI and ballast");
        assert_eq!(names([true, false, false]), "watch");
    }

    #[test]
    fn without_a_source_time_is_all_there_is() {
        let alarms = Alarms::new(None).unwrap();
        assert_eq!(alarms.to_string(), "time");
        assert!(!alarms.has_trigger());
        assert_eq!(alarms.take(true), Fired::default());
    }
}
