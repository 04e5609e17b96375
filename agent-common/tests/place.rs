//! What may be done to a memcg where it stands in the tree.

use lowtide_common::{Above, NEVER, Placed, Request, Row, Rule};

const REQUEST: Request = Request {
    worth: 0,
    classified_up_to: 100,
    fallback: Rule::UNTOUCHABLE,
    within: 0,
    flags: 0,
    _reserved: 0,
};

const fn rule(kill: u16, reclaim: u16, flags: u16) -> Rule {
    Rule {
        kill,
        reclaim,
        group: 3,
        flags,
    }
}

/// Right below the cgroup 1 of the rule 500, 600: the row and what may be done to it.
fn placed(id: u64, level: u16, listed: Option<Rule>, leaf: bool, populated: bool) -> (Row, Placed) {
    let above = Above::root(&REQUEST).child(1, Some(rule(500, 600, 0)), false);
    let mut row = Row {
        id,
        level,
        ..Row::ZERO
    };
    let (child, placed) = above.place(&REQUEST, &mut row, listed, leaf, populated);
    assert_eq!((child.id, child.rule, row.parent), (id, row.rule, 1));
    (row, placed)
}

#[test]
fn new_is_what_was_made_after_the_last_word_and_has_no_rule() {
    let is_new = |id, level, listed| placed(id, level, listed, true, true).1.new;
    let listed = Some(rule(1, 1, 0));
    assert!(is_new(101, 1, None));
    assert!(is_new(101, 2, None));
    assert!(!is_new(100, 1, None));
    assert!(!is_new(99, 1, None));
    assert!(!is_new(101, 0, None));
    assert!(!is_new(101, 1, listed));
    assert!(!is_new(99, 0, listed));
}

#[test]
fn a_rule_that_says_to_inherit_is_the_one_above() {
    let in_force = |flags| placed(5, 2, Some(rule(9, 9, flags)), true, true).0.rule;
    assert_eq!(in_force(0), rule(9, 9, 0));
    assert_eq!(in_force(Rule::UNIT), rule(9, 9, Rule::UNIT));
    assert_eq!(in_force(Rule::INHERIT), rule(500, 600, 0));
    assert_eq!(in_force(Rule::INHERIT | Rule::UNIT), rule(500, 600, 0));
}

/// Whether it is killable, would be but for its rule, and is reclaimable.
fn may(listed: Option<Rule>, leaf: bool, populated: bool) -> [bool; 3] {
    let (_, placed) = placed(5, 2, listed, leaf, populated);
    [placed.killable, placed.never, placed.reclaimable]
}

#[test]
fn what_may_be_done_goes_by_the_place_and_the_rule() {
    assert_eq!(may(None, true, true), [true, false, true]);
    // No process is in it.
    assert_eq!(may(None, true, false), [false, false, true]);
    // What is below it is ranked in its place, unless it is a unit.
    assert_eq!(may(None, false, true), [false, false, false]);
    let unit = |kill, reclaim| Some(rule(kill, reclaim, Rule::UNIT));
    assert_eq!(may(unit(9, 9), false, true), [true, false, true]);
    assert_eq!(may(unit(NEVER, 9), false, true), [false, true, true]);
    assert_eq!(may(unit(9, NEVER), false, true), [true, false, false]);
    assert_eq!(may(unit(NEVER, NEVER), false, true), [false, true, false]);
    // Neither for the place nor for the rule.
    assert_eq!(may(Some(rule(NEVER, NEVER, 0)), false, true), [false; 3]);
    assert_eq!(may(Some(rule(NEVER, NEVER, 0)), true, false), [false; 3]);
}

#[test]
fn nothing_may_be_done_to_what_is_new() {
    let (row, placed) = placed(101, 1, None, true, true);
    assert_ne!(row.flags & Row::KILLABLE, 0);
    assert!(placed.new);
    assert_eq!(
        [placed.killable, placed.never, placed.reclaimable],
        [false; 3]
    );
}
