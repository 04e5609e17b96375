//! The last step of a policy that asks for it.

use rustix::system::{RebootCommand, reboot};
use std::io;

/// Writes out what is dirty and restarts the machine at once. Returns only on failure: `EPERM`
/// without CAP_SYS_BOOT.
pub fn now() -> io::Result<()> {
    rustix::fs::sync();
    Ok(reboot(RebootCommand::Restart)?)
}
