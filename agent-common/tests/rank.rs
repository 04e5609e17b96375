//! The order of candidates, and what the walk passes down, bit by bit.

use lowtide_common::{
    Above, NEVER, NO_GROUP, Request, Row, Rule, Survey, UNCLASSIFIED, key, without_size,
};

const REQUEST: Request = Request {
    worth: 0,
    classified_up_to: 0,
    fallback: Rule::UNTOUCHABLE,
    within: 0,
    flags: 0,
    _reserved: 0,
};

const fn rule(kill: u16, flags: u16) -> Rule {
    Rule {
        kill,
        reclaim: kill + 1,
        group: 3,
        flags,
    }
}

#[test]
fn what_is_worth_it_comes_first_then_the_priority_then_the_size() {
    assert_eq!(key(0, 0, 1), 0);
    assert_eq!(key(0, 0, 0), 1 << 63);
    assert_eq!(key(0, 5, 5), 1 << 63);
    assert_eq!(key(0, 4, 5), 0);
    assert_eq!(key(1, 0, 1), 1 << 52);
    assert_eq!(key(1000, 0, 1), 1000 << 52);
    // Eleven bits, which hold every priority.
    assert_eq!(key(0x7ff, 0, 1), 0x7ff << 52);
    assert_eq!(key(0x800, 0, 1), 0);
    assert_eq!(key(0, 4095, u64::MAX), 0);
    assert_eq!(key(0, 4096, u64::MAX), 1);
    assert_eq!(key(0, (1 << 40) + 8192, u64::MAX), (1 << 28) + 2);
    assert_eq!(key(0, u64::MAX - 1, u64::MAX), (1 << 52) - 1);
    assert_eq!(key(7, 12_288, 12_288), 1 << 63 | 7 << 52 | 3);
}

#[test]
fn without_its_size_a_key_is_whether_it_is_worth_it_and_the_priority() {
    assert_eq!(without_size(key(7, 12_288, 12_288)), 0x800 | 7);
    assert_eq!(without_size(key(0x7ff, u64::MAX - 1, u64::MAX)), 0x7ff);
    assert_eq!(without_size(key(0, 4096, u64::MAX)), 0);
}

#[test]
fn a_row_is_ranked_by_its_own_priority_for_what_would_come_back() {
    let row = Row {
        anon: 1 << 20,
        shmem: 2 << 20,
        swap: 4 << 20,
        file: 10 << 20,
        rule: rule(500, 0),
        ..Row::ZERO
    };
    assert_eq!(row.freed_by_kill(), 7 << 20);
    assert_eq!(row.reclaimable_file(), 8 << 20);
    assert_eq!(row.kill_key(7 << 20), key(1001, 7 << 20, 0));
    assert_eq!(row.kill_key((7 << 20) + 1), key(1001, 7 << 20, u64::MAX));
    assert_eq!(row.reclaim_key(8 << 20), key(501, 8 << 20, 0));
    assert_eq!(row.reclaim_key((8 << 20) + 1), key(501, 8 << 20, u64::MAX));
}

#[test]
fn what_is_to_be_avoided_is_the_last_of_its_number() {
    let turn = |kill, flags| rule(kill, flags).kill_turn();
    for kill in 0..1000 {
        assert!(turn(kill, Rule::AVOID) < turn(kill, 0));
        assert!(turn(kill, 0) < turn(kill + 1, Rule::AVOID));
    }
    // Eleven bits of the key hold it.
    assert!(turn(1000, 0) < 0x800);
}

#[test]
fn a_rule_of_its_own_is_in_force_and_one_above_where_there_is_none() {
    let root = Above::root(&REQUEST);
    assert_eq!((root.id, root.rule), (0, Rule::UNTOUCHABLE));
    assert!(root.is_decided());
    let own = root.child(5, Some(rule(9, 0)), false);
    assert_eq!((own.id, own.rule), (5, rule(9, 0)));
    let below = own.child(6, None, false);
    assert_eq!((below.id, below.rule), (6, rule(9, 0)));
    assert!(own.is_decided() && below.is_decided());
}

#[test]
fn what_is_new_is_not_known_nor_is_what_inherits_from_it() {
    let root = Above::root(&REQUEST);
    let new = root.child(5, None, true);
    assert!(!new.is_decided());
    assert!(!new.child(6, None, false).is_decided());
    assert!(new.child(6, Some(rule(1, 0)), false).is_decided());
    assert!(!new.child(6, Some(rule(1, 0)), true).is_decided());
    assert!(root.child(7, None, false).is_decided());
}

/// Flags of a child with this rule of its own below `above`.
fn flags(above: &Above, own: Option<Rule>) -> [u16; 4] {
    [(false, false), (false, true), (true, false), (true, true)]
        .map(|(leaf, populated)| above.row_flags(own, leaf, populated))
}

const POPULATED: u16 = Row::POPULATED;
const LEAF: u16 = Row::LEAF;
const RANKED: u16 = Row::RECLAIMABLE;
const KILLABLE: u16 = Row::RECLAIMABLE | Row::KILLABLE;

#[test]
fn leaves_and_units_are_ranked_and_nothing_within_a_unit() {
    let root = Above::root(&REQUEST);
    let unit = Some(rule(9, Rule::UNIT));
    let leaves = [0, POPULATED, LEAF | RANKED, LEAF | POPULATED | KILLABLE];
    let units = [
        RANKED,
        POPULATED | KILLABLE,
        LEAF | RANKED,
        LEAF | POPULATED | KILLABLE,
    ];
    let unranked = [0, POPULATED, LEAF, LEAF | POPULATED];
    // The root itself is no candidate.
    assert_eq!(flags(&root, None), unranked);
    assert_eq!(flags(&root, unit), unranked);
    let child = root.child(5, Some(rule(1, 0)), false);
    assert_eq!(flags(&child, None), leaves);
    assert_eq!(flags(&child, Some(rule(1, Rule::PROCESS))), leaves);
    assert_eq!(flags(&child, unit), units);
    let in_unit = child.child(6, unit, false);
    assert_eq!(flags(&in_unit, None), unranked);
    assert_eq!(flags(&in_unit, unit), unranked);
    // It goes on below, whatever has a rule of its own there.
    let deeper = in_unit.child(7, Some(rule(1, 0)), false);
    assert_eq!(flags(&deeper, None), unranked);
    assert!(deeper.is_decided());
}

#[test]
fn within_a_cgroup_nothing_outside_it_is_ranked_and_the_cgroup_is_no_unit() {
    let within = Request {
        within: 5,
        ..REQUEST
    };
    let root = Above::root(&within);
    let outside = root.child(4, Some(rule(1, 0)), false);
    let unranked = [0, POPULATED, LEAF, LEAF | POPULATED];
    assert_eq!(flags(&outside, None), unranked);
    assert_eq!(flags(&outside.child(6, None, false), None), unranked);
    let unit = rule(9, Rule::UNIT | Rule::PROCESS);
    let (above, own) = within.begins_at(5, outside, Some(unit));
    assert_eq!(own, Some(rule(9, Rule::PROCESS)));
    assert_eq!(
        above.row_flags(own, true, true),
        LEAF | POPULATED | KILLABLE
    );
    assert_eq!(above.row_flags(own, false, true), POPULATED);
    let (still, same) = within.begins_at(6, outside, Some(unit));
    assert_eq!((still, same), (outside, Some(unit)));
    // What is not known above is not known in it.
    let (above, _) = within.begins_at(5, root.child(4, None, true), None);
    assert!(!above.is_decided());
}

#[test]
fn a_survey_lists_as_many_as_it_has() {
    let mut survey = Survey::EMPTY;
    assert!(survey.unclassified().is_empty());
    assert!(survey.kill().is_empty() && survey.reclaim().is_empty());
    survey.unclassified_len = 2;
    (survey.unclassified[0], survey.unclassified[1]) = (7, 8);
    assert_eq!(survey.unclassified(), [7, 8]);
    survey.unclassified_len = u32::MAX;
    assert_eq!(survey.unclassified().len(), UNCLASSIFIED);
    (survey.kill_len, survey.reclaim_len) = (3, 2);
    assert_eq!((survey.kill().len(), survey.reclaim().len()), (3, 2));
}

#[test]
fn nothing_may_happen_to_what_is_not_known() {
    let Rule {
        kill,
        reclaim,
        group,
        flags,
    } = Rule::UNTOUCHABLE;
    assert_eq!((kill, reclaim, group, flags), (NEVER, NEVER, NO_GROUP, 0));
}
