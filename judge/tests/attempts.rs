//! What was tried before, and what came of it, decides what is tried next.

mod common;

use common::*;
use lowtide_common::Row;
use lowtide_judge::*;

const FAILED: Outcome = Outcome::Failed { errno: 5 };

fn asked(id: u64) -> Row {
    let mut asked = row(id, 900, 60 * MIB, 0);
    asked.rule.group = 1;
    asked
}

#[test]
fn what_could_not_be_held_back_is_not_waited_for() {
    for (outcome, waits) in [(Outcome::DONE, true), (FAILED, false)] {
        let (policy, mut history) = (throttling(), History::default());
        let rows = [media(7, 60 * MIB)];
        // Which one grows is seen at a second look.
        judged(&policy, 8 * MIB, &[media(7, 20 * MIB)], &mut history, 0);
        let first = judged(&policy, 8 * MIB, &rows, &mut history, 100);
        assert!(
            matches!(first.action, Action::Throttle { .. }),
            "{:?}",
            first.action
        );
        history.record(&policy, &first, &[outcome]);
        let next = judged(&policy, 8 * MIB, &rows, &mut history, 110);
        assert_eq!(next.action == Action::Nothing, waits, "{:?}", next.why);
        assert_eq!(
            matches!(next.action, Action::Kill { .. }),
            !waits,
            "{:?}",
            next.why
        );
    }
}

#[test]
fn a_command_before_that_could_not_be_started_is_not_waited_for() {
    let (mut policy, mut history) = (policy(), History::default());
    policy.groups[1].before = true;
    let first = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 0);
    assert!(
        matches!(first.action, Action::Prepare { .. }),
        "{:?}",
        first.action
    );
    history.record(&policy, &first, &[FAILED]);
    let next = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 1);
    assert!(
        matches!(next.action, Action::Terminate { .. }),
        "{:?}",
        next.action
    );
}

#[test]
fn what_could_not_be_asked_to_stop_is_killed() {
    let (policy, mut history) = (policy(), History::default());
    let first = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 0);
    assert!(
        matches!(first.action, Action::Terminate { .. }),
        "{:?}",
        first.action
    );
    history.record(&policy, &first, &[FAILED]);
    let next = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 1);
    assert!(
        matches!(next.action, Action::Kill { target } if target.id == 7),
        "{:?}",
        next.action
    );
}

#[test]
fn in_the_next_episode_it_is_asked_anew() {
    let (policy, mut history) = (policy(), History::default());
    let first = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 0);
    history.record(&policy, &first, &[ASKED]);
    let relieved = judged(&policy, 100 * MIB, &[asked(7)], &mut history, 100);
    assert_eq!(relieved.action, Action::Nothing);
    history.record(&policy, &relieved, &[]);
    let again = judged(&policy, 8 * MIB, &[asked(7)], &mut history, 20_000);
    assert!(
        matches!(again.action, Action::Terminate { grace_ms, .. } if grace_ms > 200),
        "{:?}",
        again.action
    );
}

/// An eighth of what was asked for is worth another try, less is not.
#[test]
fn a_cache_that_gave_hardly_anything_is_left_alone_for_the_quiet_time() {
    for (part, again) in [(8, true), (9, false)] {
        let (policy, mut history) = (policy(), History::default());
        let rows = |file| [row(7, 800, 60 * MIB, file)];
        let first = judged(&policy, 25 * MIB, &rows(60 * MIB), &mut history, 0);
        let Action::Reclaim { bytes, .. } = first.action else {
            panic!("{:?}", first.action);
        };
        history.record(&policy, &first, &[Outcome::reclaimed(bytes / part)]);
        let left = 60 * MIB - bytes / part;
        let next = judged(&policy, 25 * MIB, &rows(left), &mut history, 20);
        let reclaims = matches!(next.action, Action::Reclaim { .. });
        assert_eq!(reclaims, again, "an {part}th: {:?}", next.why);
    }
}

/// What was asked and then killed has ended once: it counts as one return.
#[test]
fn an_end_after_the_grace_is_no_second_end() {
    let (policy, mut history) = (policy(), History::default());
    let mut returns = Vec::new();
    for id in [7, 8, 9] {
        let now = 1_000 + 2_000 * (id - 7);
        let rows = [asked(id)];
        let name = |_: &Row| 42;
        // The one before is found gone, and its memory has had its time.
        judged(&policy, 8 * MIB, &rows, &mut history, now - 100);
        history.woken(now);
        let first = judge_named(&policy, &memory(8 * MIB), &rows, &mut history, now, &name);
        assert!(
            matches!(first.action, Action::Terminate { .. }),
            "{:?}",
            first.why
        );
        returns.push(first.judged.first().map(|judged| judged.returns));
        let done = Outcome::Done { bytes: 0, name: 42 };
        history.record(&policy, &first, &[done]);
        let now = now + 300;
        history.woken(now);
        let then = judge_named(&policy, &memory(8 * MIB), &rows, &mut history, now, &name);
        assert!(
            matches!(then.action, Action::Kill { .. }),
            "{:?}",
            then.action
        );
        history.record(&policy, &then, &[done]);
        history.record_exit(id, Some(&memory(60 * MIB)), now + 50);
    }
    assert_eq!(returns, [Some(0), Some(1), Some(2)]);
}

#[test]
fn what_was_asked_and_is_gone_has_a_tenth_of_a_second_for_its_memory() {
    let (policy, mut history) = (policy(), History::default());
    let other = row(8, 500, 60 * MIB, 0);
    let first = judged(&policy, 8 * MIB, &[asked(7), other], &mut history, 0);
    history.record(&policy, &first, &[ASKED]);
    let gone = judged(&policy, 8 * MIB, &[other], &mut history, 20);
    assert_eq!(gone.why, Why::StillExiting { id: 7 });
    // Looked at again when that time is over at the latest.
    assert!(
        gone.look_again_ms.is_some_and(|ms| ms <= 100),
        "{:?}",
        gone.look_again_ms
    );
    let just_before = judged(&policy, 8 * MIB, &[other], &mut history, 119);
    assert_eq!(just_before.why, Why::StillExiting { id: 7 });
    let over = judged(&policy, 8 * MIB, &[other], &mut history, 120);
    assert!(
        matches!(over.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        over.action
    );
}
