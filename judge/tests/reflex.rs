//! When the reflex may act.

mod common;

use common::{MIB, TOTAL, policy};
use lowtide_judge::{Amount, Condition, Level, Marks, Stall, Step, Term, reflex_marks};

const CRITICAL: usize = 1;
const SWAP: u64 = 100 * MIB;

#[test]
fn half_of_the_mark_of_the_level_that_kills() {
    assert_eq!(Level::CONFIGURED[CRITICAL], Level::Critical);
    let marks = reflex_marks(&policy(), 10_000, 0).unwrap();
    assert_eq!((marks.available, marks.swap_free), (200, u64::MAX));
}

#[test]
fn with_swap_left_it_waits_for_half_of_that_mark_too() {
    let mut policy = policy();
    policy.levels[CRITICAL].confirm = Condition::all(&[
        Term::AvailableBelow(Amount::Permyriad(400)),
        Term::SwapFreeBelow(Amount::Permyriad(1_000)),
    ])
    .unwrap();
    let marks = reflex_marks(&policy, TOTAL, SWAP).unwrap();
    assert_eq!(marks.swap_free, 5 * MIB);
}

#[test]
fn what_needs_a_rate_is_left_to_the_agent() {
    let mut policy = policy();
    let stalls = [
        Term::AvailableBelow(Amount::Permyriad(900)),
        Term::PressureAbove(Stall::Full, 3_000),
    ];
    policy.levels[CRITICAL].confirm = Condition::all(&stalls).unwrap();
    assert_eq!(reflex_marks(&policy, TOTAL, SWAP), None);
}

#[test]
fn a_policy_that_never_kills_has_no_reflex() {
    let mut policy = policy();
    for level in &mut policy.levels {
        level.actions.retain(|step| *step != Step::Kill);
    }
    assert_eq!(reflex_marks(&policy, TOTAL, SWAP), None::<Marks>);
}
