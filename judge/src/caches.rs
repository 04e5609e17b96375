//! Caches that were taken back, and whether they were read again at once.

use crate::history::{Millis, push_bounded};
use heapless::Deque;
use lowtide_common::{CANDIDATES, Row};

const PAGE: u64 = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    id: u64,
    bytes: u64,
    /// workingset_refault_file of it before, in pages.
    refaults: u64,
    /// Of its cache when some was taken last.
    left: u64,
    /// When that was.
    at: Millis,
}

/// Until relief, or until it is too long ago to say anything: where the agent sleeps between two alarms, the next
/// one is about the same shortage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caches(Deque<Taken, CANDIDATES>);

impl Caches {
    pub(crate) fn record(&mut self, row: &Row, bytes: u64, at: Millis) {
        let left = row.reclaimable_file().saturating_sub(bytes);
        if let Some(taken) = self.0.iter_mut().find(|taken| taken.id == row.id) {
            taken.bytes = taken.bytes.saturating_add(bytes);
            (taken.left, taken.at) = (left, at);
        } else {
            let taken = Taken {
                id: row.id,
                bytes,
                refaults: row.refault_file,
                left,
                at,
            };
            push_bounded(&mut self.0, taken);
        }
    }

    /// Whether a quarter of what was taken was read again. The kernel counts that only while it knows what was
    /// taken, which of a small cgroup it forgets with the reclaim itself; its cache grows all the same.
    pub(crate) fn is_read_back(&self, row: &Row) -> bool {
        let mut taken = self.0.iter().filter(|taken| taken.bytes > 0);
        taken.find(|taken| taken.id == row.id).is_some_and(|taken| {
            let refaults = row.refault_file.saturating_sub(taken.refaults);
            let grown = row.reclaimable_file().saturating_sub(taken.left);
            refaults.saturating_mul(PAGE).max(grown) > taken.bytes / 4
        })
    }

    pub(crate) fn forget(&mut self, since: Millis) {
        self.0.retain(|taken| taken.at >= since);
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
        caches.record(&row(1, 100), 4 * 8 * PAGE, 0);
        assert!(!caches.is_read_back(&row(1, 108)));
        assert!(caches.is_read_back(&row(1, 109)));
        assert!(!caches.is_read_back(&row(2, 109)));
    }

    #[test]
    fn a_cache_is_read_back_when_it_has_grown_by_more_than_a_quarter_of_what_was_taken() {
        let cache = |pages: u64| Row {
            file: pages * PAGE,
            ..row(1, 100)
        };
        let mut caches = Caches::default();
        caches.record(&cache(100), 40 * PAGE, 0);
        assert!(!caches.is_read_back(&cache(70)));
        assert!(caches.is_read_back(&cache(71)));
        caches.record(&cache(65), 20 * PAGE, 0);
        assert!(!caches.is_read_back(&cache(60)));
        assert!(caches.is_read_back(&cache(61)));
    }

    #[test]
    fn where_nothing_could_be_taken_nothing_is_read_back() {
        let mut caches = Caches::default();
        caches.record(&row(1, 100), 0, 0);
        assert!(!caches.is_read_back(&row(1, 200)));
    }

    #[test]
    fn what_was_taken_twice_counts_together() {
        let mut caches = Caches::default();
        caches.record(&row(1, 100), 4 * 8 * PAGE, 0);
        caches.record(&row(1, 108), 4 * 8 * PAGE, 0);
        assert!(!caches.is_read_back(&row(1, 116)));
        assert!(caches.is_read_back(&row(1, 117)));
    }
}
