//! A kernel array map, or file, seen through a memory mapping.

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ptr::NonNull;

/// A read-only mapping.
pub struct Mapped {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps a BPF map that `length` bytes of values are in; what programs write shows.
    pub fn map(fd: impl AsFd, length: usize) -> io::Result<Self> {
        Self::new(fd, length, MapFlags::SHARED)
    }

    /// Maps the first `length` bytes of a file. BTF in sysfs can be mapped in no other way.
    pub fn file(fd: impl AsFd, length: usize) -> io::Result<Self> {
        Self::new(fd, length, MapFlags::PRIVATE)
    }

    fn new(fd: impl AsFd, length: usize, flags: MapFlags) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let at = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, flags, fd, 0)? };
        NonNull::new(at.cast())
            .map(|at| Self { at, length })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and readable.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.length) }
    }

    /// The values of an array map made of `T`.
    ///
    /// # Safety
    /// Every bit pattern must be a `T`, the map must hold `T`s, and nobody may write to it while
    /// the slice is in use.
    pub unsafe fn values<T: Copy>(&self) -> &[T] {
        debug_assert!(align_of::<T>() <= 4096, "a mapping begins at a page");
        // SAFETY: by the caller's word, and as in `bytes`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast(), self.length / size_of::<T>()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; every borrow has ended.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.length) };
    }
}
