//! The best few of any number, which the BPF programs and the agent's own engines keep alike.

use lowtide_common::{Best, CANDIDATES, Row};
use proptest::prelude::*;
use std::cmp::Reverse;

proptest! {
    /// As sorting them all would: by key, then by id; 0 is no candidate.
    #[test]
    fn the_best_are_kept_in_order(
        keys in proptest::collection::vec(0_u64..40, 0..100),
        ids in Just((1_u64..=100).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let all: Vec<_> = keys.into_iter().zip(ids).collect();
        let mut best = Best::new((0, 0));
        for &(key, id) in &all {
            let before: Vec<_> = best.iter().copied().collect();
            let would = best.would_keep(key, id);
            best.keep(key, id, &(key, id));
            let after: Vec<_> = best.iter().copied().collect();
            prop_assert_eq!(would, after.contains(&(key, id)));
            prop_assert_eq!(would, before != after);
        }
        let mut expected = all;
        expected.retain(|(key, _)| *key > 0);
        expected.sort_by_key(|&(key, id)| (Reverse(key), id));
        expected.truncate(CANDIDATES);
        prop_assert_eq!(best.iter().copied().collect::<Vec<_>>(), expected);
        best.clear();
        prop_assert_eq!(best.iter().count(), 0);
    }
}

#[test]
fn rows_are_copied_out_as_they_are_ranked() {
    let mut best = Best::new(Row::ZERO);
    for id in 1..=20 {
        let row = Row { id, ..Row::ZERO };
        best.keep(id % 7 + 1, id, &row);
    }
    let mut out = [Row::ZERO; CANDIDATES];
    assert_eq!(best.copy_to(&mut out), 16);
    let ids = out.map(|row| row.id);
    assert_eq!(
        ids,
        [6, 13, 20, 5, 12, 19, 4, 11, 18, 3, 10, 17, 2, 9, 16, 1]
    );
}

#[test]
fn one_that_is_kept_is_not_kept_again() {
    let mut best = Best::new(0);
    for id in 1..=CANDIDATES as u64 {
        best.keep(7, id, &id);
    }
    let last = CANDIDATES as u64;
    assert!(!best.would_keep(7, last));
    assert!(best.would_keep(7, last - 1) && best.would_keep(8, last));
}
