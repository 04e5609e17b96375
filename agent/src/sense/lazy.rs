//! Memory that is freed lazily: the kernel takes it whenever it wants to, without swap and without I/O.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munlock, munmap};
use rustix::param::page_size;
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// Pages that can be counted: 16 MiB of the smallest.
const PAGES: usize = 4096;

pub struct LazyPages {
    at: NonNull<c_void>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for LazyPages {}

impl LazyPages {
    /// `length` bytes, at most 16 MiB. `EINVAL`: the kernel frees nothing lazily.
    #[expect(clippy::arithmetic_side_effects, reason = "a page has bytes")]
    pub fn new(length: u64) -> io::Result<Self> {
        let length = (length as usize).next_multiple_of(page_size());
        if length / page_size() > PAGES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (rights, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), length, rights, kind)? };
        let at = NonNull::new(at).ok_or(io::ErrorKind::OutOfMemory)?;
        let this = Self { at, length };
        // All that the agent maps is locked, and what is locked cannot be freed lazily.
        // SAFETY: a range of the mapping's own.
        unsafe { munlock(this.at.as_ptr(), length)? };
        this.fill()?;
        Ok(this)
    }

    /// Has all of it in memory, and gives it to the kernel for when it wants it.
    pub fn fill(&self) -> io::Result<()> {
        for offset in (0..self.length).step_by(page_size()) {
            // SAFETY: a byte of the mapping, which is writable; volatile, as nothing ever reads it.
            unsafe { self.at.cast::<u8>().add(offset).write_volatile(1) };
        }
        // SAFETY: a range of the mapping's own, whose contents mean nothing.
        unsafe { madvise(self.at.as_ptr(), self.length, Advice::LinuxFree)? };
        Ok(())
    }

    pub fn length(&self) -> u64 {
        self.length as u64
    }

    /// Bytes that the kernel has not taken yet. Allocates nothing.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "no more than the mapping has"
    )]
    pub fn left(&self) -> u64 {
        let mut resident = [0_u8; PAGES];
        // SAFETY: a range of the mapping's own; a byte is written for each of its pages, of which there
        // are at most PAGES.
        let result = unsafe { libc::mincore(self.at.as_ptr(), self.length, resident.as_mut_ptr()) };
        if result != 0 {
            return 0;
        }
        let pages = resident.iter().filter(|page| **page & 1 != 0).count();
        (pages * page_size()) as u64
    }
}

impl Drop for LazyPages {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it any more.
        let _ = unsafe { munmap(self.at.as_ptr(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_yet_is_counted() {
        let pages = LazyPages::new(1 << 20).unwrap();
        assert_eq!(pages.length(), 1 << 20);
        assert_eq!(pages.left(), 1 << 20);
        // SAFETY: a range of the mapping's own.
        unsafe { madvise(pages.at.as_ptr(), 512 << 10, Advice::LinuxDontNeed).unwrap() };
        assert_eq!(pages.left(), 512 << 10);
        pages.fill().unwrap();
        assert_eq!(pages.left(), 1 << 20);
    }

    #[test]
    fn no_more_than_can_be_counted() {
        assert!(LazyPages::new(1 << 30).is_err());
    }
}
