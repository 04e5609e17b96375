//! What was killed, or asked to stop: whether it has ended.

use super::members::has_exited;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use std::time::Instant;

/// Victims that were killed, or asked to stop, and may not have exited yet.
pub enum Victim {
    /// A memcg, by its `cgroup.events`.
    Memcg(OwnedFd),
    /// A process, by its pidfd.
    Process(OwnedFd),
}

impl Victim {
    /// The same once more; `None` where no descriptor is left.
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Memcg(events) => events.try_clone().map(Self::Memcg),
            Self::Process(pidfd) => pidfd.try_clone().map(Self::Process),
        }
        .ok()
    }

    /// Waits until nothing runs in it any more; `false` when `deadline` passed first.
    pub fn wait_gone(&self, deadline: Instant) -> bool {
        loop {
            // Reading arms the next POLLPRI, so look first, then wait.
            if self.is_gone() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [match self {
                Self::Memcg(events) => PollFd::new(events, PollFlags::PRI),
                Self::Process(pidfd) => PollFd::new(pidfd, PollFlags::IN),
            }];
            // EINTR and the like: the loop looks again anyway.
            let _ = poll(&mut fds, Some(&timeout));
        }
    }

    /// Whether nothing runs in it any more.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Memcg(events) => {
                let mut buffer = [0; 128];
                // ENODEV: the cgroup itself is gone.
                rustix::io::pread(events, &mut buffer, 0).map_or(true, |n| {
                    let mut words = buffer.get(..n).unwrap_or_default().windows(11);
                    !words.any(|w| w == b"populated 1")
                })
            }
            Self::Process(pidfd) => has_exited(pidfd),
        }
    }
}
