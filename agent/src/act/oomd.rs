//! What systemd-oomd leaves on the cgroup of a unit that it kills in, and systemd looks for when nothing
//! is left in it: the unit's result is `oom-kill` then, and the journal says how many processes went
//! (`increment_oomd_xattr` of src/oom/oomd-util.c, `unit_check_oomd_kill` of src/core/unit.c).

use crate::sense::text::digits;
use rustix::fd::BorrowedFd;
use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use std::ffi::CStr;
use std::fmt::Write as _;
use std::path::Path;

/// Kills that were decided on.
const OOMS: &CStr = c"user.oomd_ooms";
/// Processes that were killed.
const KILL: &CStr = c"user.oomd_kill";

/// Whether there is a systemd to look for it, as sd_booted(3) tells.
pub fn is_wanted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Marks a cgroup in which so many processes were killed. Allocates nothing here; the kernel does.
pub fn mark(dir: BorrowedFd<'_>, processes: u64) {
    increment(dir, KILL, processes);
    increment(dir, OOMS, 1);
}

/// A mark that cannot be set is done without: it is for reading alone.
fn increment(dir: BorrowedFd<'_>, name: &CStr, by: u64) {
    let mut found = [0; 20];
    let before = fgetxattr(dir, name, &mut found).ok();
    let before: Option<u64> = before.and_then(|length| digits(found.get(..length)?));
    // u64::MAX has 20 digits.
    let mut value = heapless::String::<20>::new();
    if write!(value, "{}", before.unwrap_or(0).saturating_add(by)).is_ok() {
        let _ = fsetxattr(dir, name, value.as_bytes(), XattrFlags::empty());
    }
}
