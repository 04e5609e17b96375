//! PSI poll triggers.

use lowtide_judge::Trigger;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::io;

/// The system's own PSI file.
pub const SYSTEM: &str = "/proc/pressure/memory";
/// That of a cgroup, in its directory.
pub const CGROUP: &str = "memory.pressure";

/// Arms a trigger on the PSI file at `file` below `dir`; it polls as urgent when it fires, and is armed
/// until it is closed. `EINVAL`: the kernel takes no such window (500 ms to 10 s, without
/// CAP_SYS_RESOURCE multiples of 2 s only); `EOPNOTSUPP`: PSI is off by command line.
pub fn arm(dir: BorrowedFd<'_>, file: &str, trigger: &Trigger) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    let line = format!(
        "{} {} {}\0",
        trigger.stall.name(),
        trigger.stall_us,
        trigger.window_us
    );
    rustix::io::write(&fd, line.as_bytes())?;
    Ok(fd)
}

/// Arms a trigger on the system and drops it; the error says why the kernel refuses, and what to
/// do about it.
pub fn try_trigger(trigger: &Trigger) -> Result<(), String> {
    use std::io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, Unsupported};
    let armed = arm(CWD, SYSTEM, trigger);
    armed.map(drop).map_err(|error| match error.kind() {
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
