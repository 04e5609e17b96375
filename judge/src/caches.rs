//! Caches that were given back, and whether they were read again at once.

use crate::history::push_bounded;
use heapless::Deque;
use lowtide_common::{CANDIDATES, Row};

const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    id: u64,
    bytes: u64,
    /// workingset_refault_file of it before, in pages.
    refaults: u64,
}

/// Of one episode.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caches(Deque<Taken, CANDIDATES>);

impl Caches {
    pub(crate) fn record(&mut self, row: &Row, bytes: u64) {
        if let Some(taken) = self.0.iter_mut().find(|taken| taken.id == row.id) {
            taken.bytes = taken.bytes.saturating_add(bytes);
        } else {
            let taken = Taken {
                id: row.id,
                bytes,
                refaults: row.refault_file,
            };
            push_bounded(&mut self.0, taken);
        }
    }

    /// Whether a quarter of what it gave was read again.
    pub(crate) fn is_read_back(&self, row: &Row) -> bool {
        let taken = self.0.iter().find(|taken| taken.id == row.id);
        taken.is_some_and(|taken| {
            let read = row.refault_file.saturating_sub(taken.refaults);
            read.saturating_mul(PAGE) > taken.bytes / 4
        })
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64, refaults: u64) -> Row {
        Row {
            id,
            refault_file: refaults,
            ..Row::ZERO
        }
    }

    #[test]
    fn a_cache_is_read_back_when_more_than_a_quarter_of_it_is() {
        let mut caches = Caches::default();
        caches.record(&row(1, 100), 4 * 8 * PAGE);
        assert!(!caches.is_read_back(&row(1, 108)));
        assert!(caches.is_read_back(&row(1, 109)));
        assert!(!caches.is_read_back(&row(2, 109)));
    }

    #[test]
    fn what_was_taken_twice_counts_together() {
        let mut caches = Caches::default();
        caches.record(&row(1, 100), 4 * 8 * PAGE);
        caches.record(&row(1, 108), 4 * 8 * PAGE);
        assert!(!caches.is_read_back(&row(1, 116)));
        assert!(caches.is_read_back(&row(1, 117)));
    }
}
