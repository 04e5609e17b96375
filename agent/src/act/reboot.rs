//! The last step of a policy that asks for it.

use rustix::system::{RebootCommand, reboot};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// For what is dirty to be written out; a device that stalls may never come to the end of that.
const SYNC: Duration = Duration::from_secs(5);

/// Writes out what is dirty, as far as that goes in [`SYNC`], and restarts the machine. Returns only
/// on failure: `EPERM` without CAP_SYS_BOOT.
pub fn now() -> io::Result<()> {
    let (done, synced) = mpsc::channel();
    let sync = thread::Builder::new().spawn(move || {
        rustix::fs::sync();
        // Nobody waits any more.
        let _ = done.send(());
    });
    if sync.is_ok() {
        let _ = synced.recv_timeout(SYNC);
    }
    Ok(reboot(RebootCommand::Restart)?)
}
