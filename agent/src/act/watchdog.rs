//! The hardware's watchdog: it restarts the device unless it is given signs of life
//! (Documentation/watchdog/watchdog-api.rst).

use crate::sys;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::CStr;
use std::io;
use std::time::{Duration, Instant};

/// Signs of life within its timeout.
const WITHIN: u32 = 3;
/// What stops it when it is written before the device is closed.
const MAGIC_CLOSE: &[u8] = b"V";

/// A watchdog that runs. When it is dropped it is stopped, where it can be.
pub struct Watchdog {
    device: OwnedFd,
    interval: Duration,
    /// `None` when it is to restart the device.
    due: Option<Instant>,
}

impl Watchdog {
    /// Opens the device, which starts it. `EBUSY`: another process has it open.
    pub fn open(path: &CStr) -> io::Result<Self> {
        let device =
            rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let timeout = sys::watchdog_timeout(&device).inspect_err(|_| stop(&device))?;
        Ok(Self {
            device,
            interval: timeout / WITHIN,
            due: Some(Instant::now()),
        })
    }

    /// A sign of life, if one is due.
    pub fn alive(&mut self, now: Instant) {
        if let Some(due) = self.due.filter(|due| *due <= now) {
            let _ = rustix::io::write(&self.device, b"\0");
            self.due = Some(due.max(now) + self.interval);
        }
    }

    /// When the next sign of life is due; never when there is to be none.
    pub fn alive_due(&self) -> Option<Instant> {
        self.due
    }

    /// No more signs of life; whether there were any until now.
    pub fn starve(&mut self) -> bool {
        self.due.take().is_some()
    }

    /// Signs of life again; whether there were none until now.
    pub fn feed(&mut self) -> bool {
        self.due
            .replace(self.due.unwrap_or_else(Instant::now))
            .is_none()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        stop(&self.device);
    }
}

/// A kernel with CONFIG_WATCHDOG_NOWAYOUT goes on all the same.
fn stop(device: &OwnedFd) {
    let _ = rustix::io::write(device, MAGIC_CLOSE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn it_is_fed_in_time_until_it_is_starved_and_stopped_at_the_end() {
        let (mut read, write) = io::pipe().unwrap();
        let now = Instant::now();
        let interval = Duration::from_secs(10);
        let mut watchdog = Watchdog {
            device: write.into(),
            interval,
            due: Some(now),
        };
        watchdog.alive(now);
        watchdog.alive(now + interval / 2);
        assert_eq!(watchdog.alive_due(), Some(now + interval));
        watchdog.alive(now + interval);
        assert!(watchdog.starve());
        assert!(!watchdog.starve());
        watchdog.alive(now + 2 * interval);
        assert_eq!(watchdog.alive_due(), None);
        assert!(watchdog.feed());
        assert!(!watchdog.feed());
        watchdog.alive(now + 3 * interval);
        drop(watchdog);
        let mut written = Vec::new();
        read.read_to_end(&mut written).unwrap();
        assert_eq!(written, b"\0\0\0V");
    }
}
