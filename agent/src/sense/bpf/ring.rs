//! A ring buffer that programs write into, read without a system call or an allocation.

use super::mapped::Mapped;
use super::{Missing, refused};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::param::page_size;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Readable when there is a record. Layout: kernel/bpf/ringbuf.c.
pub struct Ring {
    map: OwnedFd,
    /// The reader's position: a page of its own, the only one that it may write.
    consumed: Mapped,
    /// The writer's position, a page, and behind it all data twice, so that no record is torn.
    produced: Mapped,
    size: usize,
}

impl Ring {
    /// Bytes of a ring that is as small as can be: the kernel wants whole pages, a power of two.
    pub fn smallest() -> u32 {
        page_size() as u32
    }

    /// Of a map of `size` bytes.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a page and twice a size of 32 bits"
    )]
    pub fn new(map: BorrowedFd<'_>, size: u32) -> Result<Self, Missing> {
        let (page, size) = (page_size(), size as usize);
        let consumed = Mapped::words(map, page, 0, true).map_err(refused)?;
        let produced = Mapped::words(map, page + 2 * size, page as u64, false).map_err(refused)?;
        Ok(Self {
            consumed,
            produced,
            size,
            map: map.try_clone_to_owned().map_err(refused)?,
        })
    }

    /// Drops all records there are; whether there were any.
    pub fn drain(&self) -> bool {
        let produced = self.produced.word(0).load(Acquire);
        let consumed = self.consumed.word(0);
        let any = consumed.load(Relaxed) != produced;
        consumed.store(produced, Release);
        any
    }

    /// The oldest record, if there is a whole one. Its words beyond `N` are dropped, and those that
    /// are missing are 0.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a position that never comes round, and words of the mapping"
    )]
    pub fn next<const N: usize>(&self) -> Option<[u64; N]> {
        /// `BPF_RINGBUF_BUSY_BIT`, `BPF_RINGBUF_DISCARD_BIT`
        const BUSY: u64 = 1 << 31;
        const DISCARDED: u64 = 1 << 30;
        loop {
            let consumed = self.consumed.word(0);
            let position = consumed.load(Relaxed);
            if position == self.produced.word(0).load(Acquire) {
                return None;
            }
            let first = page_size() / 8 + (position as usize & (self.size - 1)) / 8;
            let header = self.produced.word(first).load(Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let length = (header & (DISCARDED - 1)) as usize;
            let words = length.div_ceil(8).min(N);
            let mut record = [0; N];
            for (index, word) in record.iter_mut().take(words).enumerate() {
                *word = self.produced.word(first + 1 + index).load(Relaxed);
            }
            consumed.store(position + 8 + length.next_multiple_of(8) as u64, Release);
            if header & DISCARDED == 0 {
                return Some(record);
            }
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
