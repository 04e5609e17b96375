//! The policy map: which rule belongs to which cgroup id, in the kernel.

use crate::sys;
use aya::maps::{HashMap, MapData, MapError};
use lowtide_common::{NEVER, Rule};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::io::Errno;
use std::io;

/// A map of fixed size. Entries of cgroups that are gone make room when it is full. Where all are
/// alive, a rule that says never has room before any other, and one that goes without inherits.
///
/// Allocates nothing once it is made.
pub struct Rules {
    map: HashMap<MapData, u64, u64>,
    room: usize,
    /// The root directory of the cgroups.
    root: OwnedFd,
    /// Entries set since those of the dead were taken out.
    set: usize,
    /// Rules that found no room since then.
    refused: u32,
    /// The map was full of the living: until the next [`tidy`](Self::tidy) it is not gone through again.
    full: bool,
    /// Nor is it for a rule that does not say never.
    all_never: bool,
    /// Ids to remove: the map is not changed while it is read.
    leaving: Vec<u64>,
}

impl Rules {
    pub fn new(map: HashMap<MapData, u64, u64>, room: usize, root: OwnedFd) -> Self {
        Self {
            map,
            room,
            root,
            set: 0,
            refused: 0,
            full: false,
            all_never: false,
            leaving: Vec::with_capacity(room),
        }
    }

    /// Rules that found no room.
    pub fn refused(&self) -> u32 {
        self.refused
    }

    /// An error only where the kernel refuses for another reason than that the map is full.
    pub fn set(&mut self, id: u64, rule: Rule) -> io::Result<()> {
        self.set = self.set.saturating_add(1);
        if !self.is_full(id, rule)? {
            return Ok(());
        }
        // Once: where all are alive it takes long, and frees nothing.
        if !self.full {
            self.take_out_dead()?;
            if !self.is_full(id, rule)? {
                return Ok(());
            }
            self.full = true;
        }
        self.refused = self.refused.saturating_add(1);
        let says_never = rule.kill == NEVER && rule.flags & Rule::INHERIT == 0;
        if says_never && !self.all_never {
            self.all_never = !self.give_up_one()?;
            if !self.all_never {
                self.is_full(id, rule)?;
            }
        }
        Ok(())
    }

    /// Takes the rule of a cgroup away, if it has one.
    pub fn remove(&mut self, id: u64) -> io::Result<()> {
        match self.map.remove(&id).map_err(os_error) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            removed => removed,
        }
    }

    /// Takes out every rule for which `wanted` is false.
    #[expect(clippy::arithmetic_side_effects, reason = "a count of what is there")]
    pub fn retain(&mut self, mut wanted: impl FnMut(u64, Rule) -> bool) -> io::Result<()> {
        self.leaving.clear();
        let mut left = 0;
        for entry in self.map.iter() {
            let (id, word) = entry.map_err(os_error)?;
            if wanted(id, of_word(word)) {
                left += 1;
            } else if self.leaving.len() < self.leaving.capacity() {
                self.leaving.push(id);
            }
        }
        while let Some(id) = self.leaving.pop() {
            self.remove(id)?;
        }
        (self.set, self.refused) = (left, 0);
        (self.full, self.all_never) = (false, false);
        Ok(())
    }

    /// Takes out the entries of the dead before there is no room. Not for times of pressure.
    pub fn tidy(&mut self) {
        (self.full, self.all_never) = (false, false);
        if self.set > self.room / 2 {
            // Where that cannot be done now, it is done when there is no room.
            let _ = self.take_out_dead();
        }
    }

    /// Also what only marks a cgroup as looked at: it is looked at once more.
    fn take_out_dead(&mut self) -> io::Result<()> {
        let Ok(root) = self.root.try_clone() else {
            return Ok(());
        };
        self.retain(|id, rule| rule.flags & Rule::INHERIT == 0 && is_there(&root, id))
    }

    /// Takes out one rule that does not say never; whether there was any.
    fn give_up_one(&mut self) -> io::Result<bool> {
        for entry in self.map.iter() {
            let (id, word) = entry.map_err(os_error)?;
            if of_word(word).kill != NEVER {
                self.remove(id)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sets it, unless there is no room for it.
    fn is_full(&mut self, id: u64, rule: Rule) -> io::Result<bool> {
        match self.map.insert(id, as_word(rule), 0).map_err(os_error) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Where the kernel does not say that it is gone, it is taken to be there.
fn is_there(root: &OwnedFd, id: u64) -> bool {
    let opened = sys::open_cgroup(root.as_fd(), id);
    !opened.is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
}

/// What the system call said.
fn os_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound | MapError::ElementNotFound => Errno::NOENT.into(),
        _ => Errno::IO.into(),
    }
}

/// A rule as the map's value; both sides see the same eight bytes.
fn as_word(rule: Rule) -> u64 {
    let [k0, k1] = rule.kill.to_ne_bytes();
    let [r0, r1] = rule.reclaim.to_ne_bytes();
    let [g0, g1] = rule.group.to_ne_bytes();
    let [f0, f1] = rule.flags.to_ne_bytes();
    u64::from_ne_bytes([k0, k1, r0, r1, g0, g1, f0, f1])
}

fn of_word(word: u64) -> Rule {
    let [k0, k1, r0, r1, g0, g1, f0, f1] = word.to_ne_bytes();
    Rule {
        kill: u16::from_ne_bytes([k0, k1]),
        reclaim: u16::from_ne_bytes([r0, r1]),
        group: u16::from_ne_bytes([g0, g1]),
        flags: u16::from_ne_bytes([f0, f1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rule_reads_back_as_it_was_set(kill: u16, reclaim: u16, group: u16, flags: u16) {
            let rule = Rule { kill, reclaim, group, flags };
            prop_assert_eq!(of_word(as_word(rule)), rule);
        }
    }
}
