//! The best few of any number of rows, in bounded memory.

use core::ptr::{read_volatile, write_volatile};
use lowtide_common::{CANDIDATES, Row};

#[derive(Clone, Copy)]
struct Entry {
    /// 0: the place is free.
    key: u64,
    id: u64,
    /// Which of `rows` it is.
    slot: u64,
}

/// Best first. The order is kept apart from the rows, so that keeping one more moves three words
/// and not the rows.
pub struct Best {
    order: [Entry; CANDIDATES],
    rows: [Row; CANDIDATES],
}

impl Best {
    #[inline(always)]
    pub fn clear(&mut self) {
        for (i, entry) in self.order.iter_mut().enumerate() {
            copy(entry, &Entry { key: 0, id: 0, slot: i as u64 });
        }
    }

    /// Whether a row with this key and id belongs to the best so far.
    #[inline(always)]
    pub fn would_keep(&self, key: u64, id: u64) -> bool {
        is_before(key, id, &self.order[CANDIDATES - 1])
    }

    /// Keeps a row in place of the worst one. Only for one that [`Best::would_keep`].
    #[inline(always)]
    pub fn keep(&mut self, key: u64, row: &Row) {
        let slot = self.order[CANDIDATES - 1].slot;
        copy(&mut self.rows[slot as usize & (CANDIDATES - 1)], row);
        let new = Entry { key, id: row.id, slot };
        let mut at = CANDIDATES - 1;
        while at > 0 && is_before(key, row.id, &self.order[at - 1]) {
            let worse = self.order[at - 1];
            copy(&mut self.order[at], &worse);
            at -= 1;
        }
        copy(&mut self.order[at], &new);
    }

    /// Copies the rows out, best first; returns how many.
    #[inline(always)]
    pub fn copy_to(&self, out: &mut [Row; CANDIDATES]) -> u32 {
        let mut n = 0;
        for (entry, out) in self.order.iter().zip(out.iter_mut()) {
            if entry.key != 0 {
                copy(out, &self.rows[entry.slot as usize & (CANDIDATES - 1)]);
                n += 1;
            }
        }
        n
    }
}

#[inline(always)]
fn is_before(key: u64, id: u64, other: &Entry) -> bool {
    key > other.key || (key == other.key && id < other.id)
}

/// Copies word by word, in place: a call of memcpy would be verified byte by byte, each time anew.
#[inline(always)]
pub fn copy<T: Copy>(to: &mut T, from: &T) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let (to, from) = ((&raw mut *to).cast::<u64>(), (&raw const *from).cast::<u64>());
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: both are a whole number of aligned words; volatile, so that it stays a copy of
        // words.
        unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
    }
}
