//! A cgroup with a limit of its own, looked at as if it were a system of its own.

use super::text::{digits, pairs, read_part, stall_total};
use crate::sys;
use lowtide_judge::Memory;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;

/// A memory.stat of Linux 7.3 has 2 KB.
const BUFFER: usize = 8 * 1024;
/// memory.pressure is two lines of five numbers.
const PRESSURE: usize = 256;

pub struct Limited {
    /// cgroup id.
    pub id: u64,
    max: OwnedFd,
    high: OwnedFd,
    usage: OwnedFd,
    stat: OwnedFd,
    pressure: OwnedFd,
    /// `memory.swap.current` and `.max`; missing where the kernel counts no swap.
    swap: Option<(OwnedFd, OwnedFd)>,
}

impl Limited {
    /// `dir` is the directory of the cgroup. `ENOENT` for the root, and without the memory
    /// controller.
    pub fn open(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let open = |name| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        };
        Ok(Self {
            id: sys::cgroup_id(dir, c"")?,
            max: open(c"memory.max")?,
            high: open(c"memory.high")?,
            usage: open(c"memory.current")?,
            stat: open(c"memory.stat")?,
            pressure: open(c"memory.pressure")?,
            swap: open(c"memory.swap.current")
                .and_then(|used| Ok((used, open(c"memory.swap.max")?)))
                .ok(),
        })
    }

    /// The lower one of memory.max and memory.high, in bytes; `None` without either.
    pub fn limit(&self) -> io::Result<Option<u64>> {
        let limits = [number(&self.max)?, number(&self.high)?];
        Ok(limits.into_iter().flatten().min())
    }

    /// Its figures; `None` without a limit, where all that is short is the `system`'s. What zram
    /// holds for it is not known, and 0. Allocates nothing. `ENODEV` when it is gone.
    pub fn read(&self, system: &Memory) -> io::Result<Option<Memory>> {
        let Some(total) = self.limit()? else {
            return Ok(None);
        };
        let mut memory = Memory {
            within: self.id,
            total,
            psi: true,
            ..Memory::default()
        };
        let mut shmem = 0;
        let mut buffer = [0; BUFFER];
        for (key, value) in pairs(read(&self.stat, &mut buffer)?) {
            match key {
                b"inactive_anon" | b"active_anon" => {
                    memory.swappable = memory.swappable.saturating_add(value);
                }
                b"file" => memory.file = value,
                b"shmem" => shmem = value,
                b"workingset_refault_anon" | b"workingset_refault_file" => {
                    memory.refaults = memory.refaults.saturating_add(value);
                }
                _ => {}
            }
        }
        memory.file = memory.file.saturating_sub(shmem);
        let used = number(&self.usage)?.unwrap_or(0);
        memory.available = total.saturating_sub(used.saturating_sub(memory.file));
        if let Some((used, max)) = &self.swap {
            let max = number(max)?.unwrap_or(u64::MAX);
            memory.swap_total = system.swap_total.min(max);
            memory.swap_free = max
                .saturating_sub(number(used)?.unwrap_or(0))
                .min(system.swap_free);
        }
        let text = read(&self.pressure, &mut buffer)?;
        memory.psi_some_us = stall_total(text, b"some").unwrap_or(0);
        memory.psi_full_us = stall_total(text, b"full").unwrap_or(0);
        Ok(Some(memory))
    }

    /// Time that some task in it stalled within the limit, in microseconds; 0 without one, and when
    /// it is gone. Allocates nothing.
    pub fn stalled_us(&self) -> u64 {
        if !self.limit().is_ok_and(|limit| limit.is_some()) {
            return 0;
        }
        let mut buffer = [0; PRESSURE];
        let text = read(&self.pressure, &mut buffer).unwrap_or_default();
        stall_total(text, b"some").unwrap_or(0)
    }
}

fn read(file: impl AsFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let n = rustix::io::pread(file, &mut *buffer, 0)?;
    Ok(read_part(buffer, n))
}

/// `None` for `max`.
fn number(file: &OwnedFd) -> io::Result<Option<u64>> {
    Ok(digits(read(file, &mut [0; 32])?))
}
