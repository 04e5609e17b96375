//! A kernel map, or file, seen through a memory mapping.

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A mapping; read-only but for [`Mapped::words`].
pub struct Mapped {
    at: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps a BPF map that `length` bytes of values are in; what programs write shows.
    pub fn map(fd: impl AsFd, length: usize) -> io::Result<Self> {
        Self::new(fd, length, 0, ProtFlags::READ, MapFlags::SHARED)
    }

    /// Maps the first `length` bytes of a file. BTF in sysfs can be mapped in no other way.
    pub fn file(fd: impl AsFd, length: usize) -> io::Result<Self> {
        Self::new(fd, length, 0, ProtFlags::READ, MapFlags::PRIVATE)
    }

    /// Maps `length` bytes of a BPF map from `offset` on, for [`Mapped::word`].
    pub fn words(fd: impl AsFd, length: usize, offset: u64, writable: bool) -> io::Result<Self> {
        let write = if writable {
            ProtFlags::WRITE
        } else {
            ProtFlags::empty()
        };
        Self::new(
            fd,
            length,
            offset,
            ProtFlags::READ | write,
            MapFlags::SHARED,
        )
    }

    fn new(
        fd: impl AsFd,
        length: usize,
        offset: u64,
        rights: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let at = unsafe { mmap(std::ptr::null_mut(), length, rights, flags, fd, offset)? };
        NonNull::new(at.cast())
            .map(|at| Self { at, length })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives, and readable.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.length) }
    }

    /// A word that the kernel's side reads or writes at any time. Only of what [`Mapped::words`]
    /// mapped, and only written where it mapped it so.
    #[expect(clippy::arithmetic_side_effects, reason = "words of the mapping")]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!((index + 1) * 8 <= self.length);
        // SAFETY: an aligned word of the mapping, which is there for as long as `self`; both sides
        // use whole words.
        unsafe { AtomicU64::from_ptr(self.at.as_ptr().cast::<u64>().add(index)) }
    }

    /// The values of an array map made of `T`.
    ///
    /// # Safety
    /// Every bit pattern must be a `T`, the map must hold `T`s, and nothing may write to it while
    /// the slice is in use.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "no type of such a map is empty"
    )]
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
