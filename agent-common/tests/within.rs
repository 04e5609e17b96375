//! What of a tree is ranked, as the engines walk it.

use lowtide_common::{Above, Request, Row, Rule};

/// `(id, parent, has a unit of its own)`; parents first.
const TREE: [(u64, u64, bool); 8] = [
    (1, 0, false),
    (2, 1, true),  // the box
    (3, 2, false), // a leaf in it
    (4, 2, true),  // a unit in it
    (5, 4, false), // part of that
    (6, 1, false), // a leaf beside it
    (7, 1, true),  // a unit beside it
    (8, 7, false), // part of that
];

/// Ids of those that can be killed when `within` is asked for.
fn ranked(within: u64) -> Vec<u64> {
    let request = Request {
        worth: 0,
        classified_up_to: u64::MAX,
        fallback: Rule::UNTOUCHABLE,
        within,
        flags: 0,
        _reserved: 0,
    };
    let mut above = vec![Above::root(&request)];
    let mut found = Vec::new();
    for (id, parent, unit) in TREE {
        let own = unit.then_some(Rule {
            flags: Rule::UNIT,
            ..Rule::UNTOUCHABLE
        });
        let over = *above.iter().find(|above| above.id == parent).unwrap();
        let (over, own) = request.begins_at(id, over, own);
        let leaf = !TREE.iter().any(|(_, parent, _)| *parent == id);
        if over.row_flags(own, leaf, true) & Row::KILLABLE != 0 {
            found.push(id);
        }
        above.push(over.child(id, own, false));
    }
    found
}

#[test]
fn of_everything_units_and_leaves_outside_them() {
    assert_eq!(ranked(0), [2, 6, 7]);
}

#[test]
fn within_a_cgroup_only_what_is_below_it() {
    assert_eq!(ranked(2), [3, 4]);
}

#[test]
fn a_leaf_is_all_there_is_within_it() {
    assert_eq!(ranked(6), [6]);
    assert_eq!(ranked(5), [5]);
}

#[test]
fn part_of_a_unit_stands_for_itself_when_asked_for() {
    assert_eq!(ranked(8), [8]);
}

#[test]
fn who_is_gone_has_nobody_in_it() {
    assert_eq!(ranked(9), []);
}
