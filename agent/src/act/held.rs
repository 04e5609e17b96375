//! The cgroups that are held back, for the case that the agent panics: it ends at once then, and what is
//! frozen would be so until another agent starts.

use rustix::fd::OwnedFd;
use std::panic;
use std::sync::{Mutex, TryLockError};

/// Cgroups that are held back at a time.
pub const FROZEN: usize = 8;

/// cgroup.freeze of each, open, so that letting it go takes one system call.
static HELD: Mutex<heapless::Vec<(u64, OwnedFd), FROZEN>> = Mutex::new(heapless::Vec::new());

/// The cgroup `id` is held back by this file of it. Allocates nothing.
pub fn hold(id: u64, freeze: OwnedFd) {
    let_go(id);
    if let Ok(mut held) = HELD.lock() {
        // There is room for as many as are held back at a time.
        let _ = held.push((id, freeze));
    }
}

/// It is not any more.
pub fn let_go(id: u64) {
    if let Ok(mut held) = HELD.lock() {
        held.retain(|(other, _)| *other != id);
    }
}

/// From now on a panic lets go all that are held back, before anything is said of it.
pub fn let_go_at_panic() {
    let say = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // The one that panics may have the lock, or another one that did.
        let held = match HELD.try_lock() {
            Ok(held) => Some(held),
            Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        for (_, freeze) in held.iter().flat_map(|held| held.iter()) {
            let _ = rustix::io::write(freeze, b"0");
        }
        drop(held);
        say(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.expect("a file").into()
    }

    #[test]
    fn a_panic_lets_go_what_is_held_back_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a directory");
        let (held, gone) = (dir.path().join("held"), dir.path().join("gone"));
        hold(1, open(&held));
        hold(2, open(&gone));
        let_go(2);
        let_go_at_panic();
        let panicked = panic::catch_unwind(|| panic!("so be it"));
        assert!(panicked.is_err());
        assert_eq!(fs::read(&held).expect("it is there"), b"0");
        assert_eq!(fs::read(&gone).expect("it is there"), b"");
        let_go(1);
    }
}
