//! PSI poll triggers: the agent sleeps on them and nothing else.

use lowtide_judge::Trigger;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;

/// The system's own PSI file.
pub const SYSTEM: &str = "/proc/pressure/memory";
/// That of a cgroup, in its directory.
pub const CGROUP: &str = "memory.pressure";

/// Armed triggers behind one epoll descriptor.
///
/// A PSI file always polls as readable; only `POLLPRI` means that the trigger fired. The inner
/// epoll set asks for that alone, so that whoever waits on the set as a whole sees it readable
/// exactly when a trigger fired. A firing is reported to one poll only (psi_trigger_poll in
/// kernel/sched/psi.c): waiting on the set already consumes it, so after a wake-up
/// [`Triggers::take`] may find nothing.
pub struct Triggers {
    set: OwnedFd,
    /// Closing the file disarms its trigger.
    armed: Vec<OwnedFd>,
}

impl Triggers {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            set: epoll::create(CreateFlags::CLOEXEC)?,
            armed: Vec::new(),
        })
    }

    /// Arms one trigger on the PSI file at `file` below `dir`. `EINVAL`: the kernel takes no such window (500 ms to 10 s,
    /// without CAP_SYS_RESOURCE multiples of 2 s only); `EOPNOTSUPP`: PSI is off by command line.
    pub fn arm(&mut self, dir: BorrowedFd<'_>, file: &str, trigger: &Trigger) -> io::Result<()> {
        let fd = rustix::fs::openat(
            dir,
            file,
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let line = format!(
            "{} {} {}\0",
            trigger.stall.name(),
            trigger.stall_us,
            trigger.window_us
        );
        rustix::io::write(&fd, line.as_bytes())?;
        epoll::add(
            &self.set,
            &fd,
            EventData::new_u64(self.armed.len() as u64),
            EventFlags::PRI,
        )?;
        self.armed.push(fd);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.armed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    /// Whether any fired since the last call. Does not wait.
    pub fn take(&self) -> io::Result<bool> {
        let mut events = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 16];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (events, _) = epoll::wait(&self.set, &mut events, Some(&now))?;
        Ok(events.iter().any(|event| {
            let flags = event.flags;
            flags.contains(EventFlags::PRI)
        }))
    }
}

/// Arms a trigger on the system and drops it; the error says why the kernel refuses, and what to
/// do about it.
pub fn try_trigger(trigger: &Trigger) -> Result<(), String> {
    use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, Unsupported};
    let armed = Triggers::new().and_then(|mut triggers| triggers.arm(CWD, SYSTEM, trigger));
    armed.map_err(|error| match error.kind() {
        NotFound | Unsupported => format!(
            "cannot fire: no {SYSTEM}; the kernel needs CONFIG_PSI, and `psi=1` on its command \
             line where it is off by default"
        ),
        PermissionDenied => "not tried: needs more rights, run it as root".to_owned(),
        InvalidInput => "the kernel refuses this trigger; without CAP_SYS_RESOURCE it takes \
                         windows in multiples of 2s only"
            .to_owned(),
        _ => format!("the kernel refuses this trigger: {error}"),
    })
}

impl AsFd for Triggers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}
