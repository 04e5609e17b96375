//! The best few of any number, in bounded memory.

use lowtide_common::{CANDIDATES, Row};

/// Best first: by key, the highest first, and then by id, the lowest first, as the BPF program does.
pub struct Best<T>(heapless::Vec<(u64, u64, T), CANDIDATES>);

impl<T> Default for Best<T> {
    fn default() -> Self {
        Self(heapless::Vec::new())
    }
}

impl<T> Best<T> {
    /// Keeps it if it is among the best so far, in place of the worst where there is no more room.
    pub fn keep(&mut self, key: u64, id: u64, what: T) {
        // As there, that is no candidate.
        if key == 0 {
            return;
        }
        let is_before = |kept: &(u64, u64, T)| kept.0 > key || kept.0 == key && kept.1 < id;
        let at = self.0.partition_point(is_before);
        if at < CANDIDATES {
            if self.0.is_full() {
                self.0.pop();
            }
            // There is room: the worst has just left.
            let _ = self.0.insert(at, (key, id, what));
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, _, what)| what)
    }
}

impl Best<Row> {
    /// Copies the rows out, best first; returns how many.
    pub fn copy_to(&self, out: &mut [Row; CANDIDATES]) -> u32 {
        for (out, row) in out.iter_mut().zip(self.iter()) {
            *out = *row;
        }
        self.0.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;

    proptest! {
        #[test]
        fn the_best_are_kept_in_order(
            keys in proptest::collection::vec(0_u64..40, 0..100),
        ) {
            let all: Vec<_> = keys.into_iter().zip(1_u64..).collect();
            let mut best = Best::default();
            for &(key, id) in &all {
                best.keep(key, id, (key, id));
            }
            let mut expected = all;
            expected.retain(|(key, _)| *key > 0);
            expected.sort_by_key(|&(key, id)| (Reverse(key), id));
            expected.truncate(CANDIDATES);
            prop_assert_eq!(best.iter().copied().collect::<Vec<_>>(), expected);
        }
    }
}
