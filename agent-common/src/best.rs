//! The best few of any number, in bounded memory.

use crate::{CANDIDATES, Row, copy};

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// 0: the place is free.
    key: u64,
    id: u64,
    /// Which of `kept` it is.
    slot: u64,
}

/// The best [`CANDIDATES`], best first: by key, the highest first, and then by id, the lowest first. A key
/// of 0 is no candidate.
///
/// The order is kept apart from what is kept, so that one more moves three words each.
#[derive(Clone, Copy, Debug)]
pub struct Best<T> {
    order: [Entry; CANDIDATES],
    kept: [T; CANDIDATES],
}

impl<T: Copy> Best<T> {
    /// Without any; `empty` fills the places.
    pub fn new(empty: T) -> Self {
        let free = Entry {
            key: 0,
            id: 0,
            slot: 0,
        };
        let mut best = Self {
            order: [free; CANDIDATES],
            kept: [empty; CANDIDATES],
        };
        best.clear();
        best
    }

    /// Keeps none.
    #[inline(always)]
    pub fn clear(&mut self) {
        for (i, entry) in self.order.iter_mut().enumerate() {
            let free = Entry {
                key: 0,
                id: 0,
                slot: i as u64,
            };
            copy(entry, &free);
        }
    }

    /// Whether one with this key and id belongs to the best so far.
    #[inline(always)]
    pub fn would_keep(&self, key: u64, id: u64) -> bool {
        is_before(key, id, &self.order[CANDIDATES - 1])
    }

    /// Keeps it if it belongs to the best so far.
    pub fn keep(&mut self, key: u64, id: u64, what: &T) {
        if self.would_keep(key, id) {
            self.keep_for_worst(key, id, what);
        }
    }

    /// Keeps it in place of the worst. Only for one that [`Best::would_keep`]: for who has asked already.
    #[inline(always)]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "places of the array; the verifier wants plain steps"
    )]
    pub fn keep_for_worst(&mut self, key: u64, id: u64, what: &T) {
        let slot = self.order[CANDIDATES - 1].slot;
        copy(&mut self.kept[slot as usize & (CANDIDATES - 1)], what);
        let new = Entry { key, id, slot };
        let mut at = CANDIDATES - 1;
        while at > 0 && is_before(key, id, &self.order[at - 1]) {
            let worse = self.order[at - 1];
            copy(&mut self.order[at], &worse);
            at -= 1;
        }
        copy(&mut self.order[at], &new);
    }

    /// What is kept, best first.
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "a place of the array by its bits")]
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let used = self.order.iter().filter(|entry| entry.key != 0);
        used.map(|entry| &self.kept[entry.slot as usize & (CANDIDATES - 1)])
    }
}

impl Best<Row> {
    /// Copies the rows out, best first; returns how many. Each place has its own, for the verifier.
    #[inline(always)]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "as many as there are places, each by its bits"
    )]
    pub fn copy_to(&self, out: &mut [Row; CANDIDATES]) -> u32 {
        let mut n = 0;
        for (entry, out) in self.order.iter().zip(out.iter_mut()) {
            if entry.key != 0 {
                copy(out, &self.kept[entry.slot as usize & (CANDIDATES - 1)]);
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
