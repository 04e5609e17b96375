//! Word to the service manager that started the agent (sd_notify(3)).

use rustix::time::{ClockId, clock_gettime};
use std::env;
use std::ffi::OsStr;
use std::fmt::{Arguments, Write as _};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::{Duration, Instant};

/// Longest message; the rest is cut.
const MESSAGE: usize = 256;

/// Never waits, and after `connect` allocates nothing and looks up no path: a
/// sign of life has to get out when memory is short and the service manager itself stalls. What
/// it has no room for is dropped. Does nothing where no service manager listens.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
}

#[derive(Debug)]
struct Watchdog {
    /// Half of the time after which the agent counts as hung.
    interval: Duration,
    due: Instant,
}

impl Manager {
    /// The one that this process was started by, from `NOTIFY_SOCKET`, `WATCHDOG_USEC` and
    /// `WATCHDOG_PID`.
    pub fn from_env() -> io::Result<Self> {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self::default());
        };
        let number = |name| env::var(name).ok()?.parse().ok();
        let meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|us| meant && *us > 0);
        Self::connect(&address, watchdog.map(Duration::from_micros))
    }

    /// `address` is a path, or an abstract name after an `@`; after `watchdog` without a sign of
    /// life the agent counts as hung.
    fn connect(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(address),
        }?;
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: Some(socket),
            watchdog: watchdog.map(|limit| Watchdog {
                interval: limit / 2,
                due: Instant::now(),
            }),
        })
    }

    /// What `systemctl status` shows: a line of text.
    pub fn status(&self, text: Arguments<'_>) {
        self.send(format_args!("STATUS={text}"));
    }

    /// Armed, at the start or after a reload.
    pub fn ready(&self) {
        self.send(format_args!("READY=1"));
    }

    /// The config is being read anew; [`ready`](Self::ready) follows.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(format_args!("RELOADING=1\nMONOTONIC_USEC={us}"));
    }

    pub fn stopping(&self) {
        self.send(format_args!("STOPPING=1"));
    }

    /// A sign of life, if one is due.
    pub fn alive(&mut self, now: Instant) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|w| w.due <= now) else {
            return;
        };
        watchdog.due = now + watchdog.interval;
        self.send(format_args!("WATCHDOG=1"));
    }

    /// When the next sign of life is due; never where none was asked for.
    pub fn alive_due(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.due)
    }

    fn send(&self, text: Arguments<'_>) {
        let Some(socket) = &self.socket else { return };
        let mut message = heapless::String::<MESSAGE>::new();
        // An error means that it was cut, which is what the bound is for.
        let _ = message.write_fmt(text);
        let _ = socket.send(message.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    /// A service manager's end, under a name of this test's own, and the agent's.
    fn pair(name: &str, watchdog: Option<Duration>) -> (UnixDatagram, Manager) {
        let name = format!("lowtide-test-{}-{name}", process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = format!("@{name}");
        let manager = Manager::connect(OsStr::new(&address), watchdog).unwrap();
        (socket, manager)
    }

    fn received(socket: &UnixDatagram) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 2 * MESSAGE];
        while let Ok(length) = socket.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        messages
    }

    #[test]
    fn says_what_it_is_about() {
        let (socket, manager) = pair("states", None);
        manager.status(format_args!("{} triggers", 3));
        manager.ready();
        manager.reloading();
        manager.stopping();
        let [status, ready, reloading, stopping] = &received(&socket)[..] else {
            panic!("not four messages");
        };
        assert_eq!(status, "STATUS=3 triggers");
        assert_eq!(ready, "READY=1");
        assert_eq!(stopping, "STOPPING=1");
        let us = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(us.parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn takes_paths_too() {
        let path = env::temp_dir().join(format!("lowtide-test-{}", process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::connect(path.as_os_str(), None);
        std::fs::remove_file(&path).unwrap();
        manager.unwrap().ready();
        assert_eq!(received(&socket), ["READY=1"]);
    }

    #[test]
    fn shows_signs_of_life_at_half_the_limit() {
        let (socket, mut manager) = pair("alive", Some(WATCHDOG));
        let start = manager.alive_due().unwrap();
        manager.alive(start);
        let half = start + WATCHDOG / 2;
        assert_eq!(manager.alive_due(), Some(half));
        manager.alive(half - Duration::from_micros(1));
        assert_eq!(received(&socket), ["WATCHDOG=1"]);
        manager.alive(half);
        assert_eq!(received(&socket), ["WATCHDOG=1"]);
    }

    #[test]
    fn shows_none_unasked() {
        let (socket, mut manager) = pair("unasked", None);
        manager.alive(Instant::now() + WATCHDOG);
        assert_eq!(manager.alive_due(), None);
        assert_eq!(received(&socket), [""; 0]);
    }

    /// With a socket that waits this test would never end.
    #[test]
    fn does_not_wait_for_a_manager_that_stalls() {
        let (socket, manager) = pair("stalls", None);
        for _ in 0..10_000 {
            manager.ready();
        }
        assert!(received(&socket).len() < 10_000);
    }

    #[test]
    fn cuts_what_is_too_long() {
        let (socket, manager) = pair("long", None);
        manager.status(format_args!("{:1$}", "", 2 * MESSAGE));
        assert_eq!(received(&socket)[0].len(), MESSAGE);
    }
}
