//! The last step of a policy that asks for it.

use rustix::system::{RebootCommand, reboot};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// For what is dirty to be written out; a device that stalls may never come to the end of that.
const SYNC: Duration = Duration::from_secs(5);
/// For whatever reads the log to take in why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Leaves [`LAST_WORDS`] for the log, writes out what is dirty, as far as that goes in [`SYNC`], and
/// restarts the machine. Returns only
/// on failure, with the reason: `EPERM` without CAP_SYS_BOOT.
pub fn now() -> io::Error {
    thread::sleep(LAST_WORDS);
    allocating(sync);
    match reboot(RebootCommand::Restart) {
        Ok(()) => io::ErrorKind::Other.into(),
        Err(error) => error.into(),
    }
}

fn sync() {
    let (done, synced) = mpsc::channel();
    let sync = thread::Builder::new().spawn(move || {
        rustix::fs::sync();
        // Fails when the restart waits no longer.
        let _ = done.send(());
    });
    if sync.is_ok() {
        let _ = synced.recv_timeout(SYNC);
    }
}

/// A thread takes memory. Nothing is left to be done that could be held up by that.
#[cfg(feature = "abort-on-alloc")]
fn allocating(f: impl FnOnce()) {
    assert_no_alloc::permit_alloc(f);
}

#[cfg(not(feature = "abort-on-alloc"))]
fn allocating(f: impl FnOnce()) {
    f();
}
