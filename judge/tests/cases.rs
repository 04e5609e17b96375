//! One situation, one verdict.

mod common;

use common::*;
use lowtide_common::{NEVER, Row};
use lowtide_judge::*;

#[test]
fn without_a_trigger_nothing_happens_however_little_is_left() {
    let (policy, history) = (policy(), History::default());
    let rows = [row(7, 800, 100 * MIB, 0)];
    let verdict = judge(&policy, &memory(MIB), &survey(&rows, MIB), &history, 0);
    assert_eq!(
        (verdict.action, verdict.why, verdict.look_again_ms),
        (Action::Nothing, Why::Calm, None)
    );
}

#[test]
fn a_trigger_is_no_verdict() {
    let rows = [row(7, 800, 100 * MIB, 50 * MIB)];
    let verdict = judged(&policy(), 128 * MIB, &rows, &mut History::default(), 0);
    assert_eq!(
        (verdict.action, verdict.why),
        (Action::Nothing, Why::NotConfirmed)
    );
    assert!(
        verdict.look_again_ms.is_some(),
        "a fast hog between two triggers must be seen"
    );
}

#[test]
fn reclaim_comes_before_the_kill() {
    let rows = [row(7, 800, 100 * MIB, 0), row(8, 100, 0, 30 * MIB)];
    let verdict = judged(&policy(), 8 * MIB, &rows, &mut History::default(), 0);
    assert!(
        matches!(verdict.action, Action::Reclaim { target, .. } if target.id == 8),
        "{:?}",
        verdict.action
    );
}

#[test]
fn the_first_in_rank_dies_when_there_is_nothing_to_reclaim() {
    let rows = [
        row(7, 500, 100 * MIB, 0),
        row(8, 800, 60 * MIB, 0),
        row(9, 900, MIB, 0),
        row(10, NEVER, 150 * MIB, 0),
    ];
    let verdict = judged(&policy(), 8 * MIB, &rows, &mut History::default(), 0);
    assert!(
        matches!(verdict.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        verdict.action
    );
    let reasons: Vec<_> = verdict
        .judged
        .iter()
        .map(|j| (j.row.id, j.reason))
        .collect();
    assert_eq!(
        reasons,
        [
            (8, Reason::Chosen),
            (7, Reason::LowerPriority),
            (9, Reason::NotEnough)
        ]
    );
}

#[test]
fn file_cache_does_not_make_a_victim() {
    let cached = Row {
        file: 200 * MIB,
        ..row(7, 800, MIB, 0)
    };
    let rows = [
        Row {
            rule: lowtide_common::Rule {
                reclaim: NEVER,
                ..cached.rule
            },
            ..cached
        },
        row(8, 800, 20 * MIB, 0),
    ];
    let verdict = judged(&policy(), 8 * MIB, &rows, &mut History::default(), 0);
    assert!(
        matches!(verdict.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        verdict.action
    );
}

#[test]
fn one_victim_at_a_time() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 0), row(8, 700, 60 * MIB, 0)];
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    history.note(&policy, &first, Some(Outcome::Killed), 0);
    let while_exiting = judged(&policy, 8 * MIB, &rows, &mut history, 10);
    assert_eq!(
        (while_exiting.action, while_exiting.why),
        (Action::Nothing, Why::StillExiting { id: 7 })
    );
}

#[test]
fn a_victim_that_does_not_exit_is_passed_over() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 0), row(8, 700, 60 * MIB, 0)];
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    history.note(&policy, &first, Some(Outcome::Killed), 0);
    let later = judged(
        &policy,
        8 * MIB,
        &rows,
        &mut history,
        u64::from(policy.exit_ms) + 1,
    );
    assert!(
        matches!(later.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        later.action
    );
    assert!(
        later
            .judged
            .iter()
            .any(|j| j.row.id == 7 && j.reason == Reason::Stuck)
    );
}

#[test]
fn who_is_asked_has_its_grace_and_then_dies() {
    let (policy, mut history) = (policy(), History::default());
    let mut asked = row(7, 900, 60 * MIB, 0);
    asked.rule.group = 1;
    let first = judged(&policy, 8 * MIB, &[asked], &mut history, 0);
    assert!(
        matches!(first.action, Action::Terminate { grace_ms: 300, .. }),
        "{:?}",
        first.action
    );
    history.note(&policy, &first, Some(Outcome::Asked), 0);
    let waiting = judged(&policy, 8 * MIB, &[asked], &mut history, 100);
    assert_eq!(waiting.why, Why::InGrace { id: 7, until: 300 });
    let after = judged(&policy, 8 * MIB, &[asked], &mut history, 300);
    assert!(
        matches!(after.action, Action::Kill { .. }),
        "{:?}",
        after.action
    );
}

#[test]
fn the_command_before_has_half_of_the_grace_and_holds_up_no_kill() {
    let (mut policy, mut history) = (policy(), History::default());
    policy.groups[1].before = true;
    let rows = |left| with_group([row(7, 900, left, 0), row(8, 500, 60 * MIB, 0)], 1);
    let first = judged(&policy, 8 * MIB, &rows(60 * MIB), &mut history, 0);
    assert!(
        matches!(first.action, Action::Prepare { target, for_ms: 150 } if target.id == 7),
        "{:?}",
        first.action
    );
    history.note(&policy, &first, Some(Outcome::Prepared), 0);
    // Whatever it gives back meanwhile: it is the one that is about to be asked.
    let waiting = judged(&policy, 8 * MIB, &rows(MIB), &mut history, 100);
    assert_eq!(waiting.why, Why::Preparing { id: 7, until: 150 });
    let asked = judged(&policy, 8 * MIB, &rows(60 * MIB), &mut history, 150);
    assert!(
        matches!(asked.action, Action::Terminate { target, grace_ms: 150 } if target.id == 7),
        "{:?}",
        asked.action
    );
    history.note(&policy, &asked, Some(Outcome::Asked), 150);
    let after = judged(&policy, 8 * MIB, &rows(60 * MIB), &mut history, 300);
    assert!(
        matches!(after.action, Action::Kill { target } if target.id == 7),
        "{:?}",
        after.action
    );
}

#[test]
fn the_command_before_has_no_time_when_memory_runs_out_faster() {
    let (mut policy, mut history) = (policy(), History::default());
    policy.groups[1].before = true;
    let rows = with_group([row(7, 900, 60 * MIB, 0)], 1);
    let first = judged(&policy, 9 * MIB, &rows, &mut history, 0);
    assert!(matches!(first.action, Action::Prepare { .. }));
    history.note(&policy, &first, Some(Outcome::Prepared), 0);
    // 8 MiB went in 100 ms: what is left lasts 12 ms.
    let next = judged(&policy, MIB, &rows, &mut history, 100);
    assert!(
        matches!(next.action, Action::Kill { .. }),
        "{:?}",
        next.action
    );
}

#[test]
fn nobody_else_goes_while_who_was_asked_exits() {
    let (policy, mut history) = (policy(), History::default());
    let rows = |left| with_group([row(7, 900, left, 0), row(8, 500, 60 * MIB, 0)], 1);
    let first = judged(&policy, 8 * MIB, &rows(60 * MIB), &mut history, 0);
    assert_eq!(first.action.target().map(|t| t.id), Some(7));
    history.note(&policy, &first, Some(Outcome::Asked), 0);
    for left in [MIB, 4096] {
        let exiting = judged(&policy, 8 * MIB, &rows(left), &mut history, 100);
        assert_eq!(exiting.why, Why::InGrace { id: 7, until: 300 });
    }
    let gone = [row(8, 500, 60 * MIB, 0)];
    let next = judged(&policy, 8 * MIB, &gone, &mut history, 150);
    assert!(
        matches!(next.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        next.action
    );
}

#[test]
fn grace_shrinks_when_memory_runs_out_faster() {
    let (policy, mut history) = (policy(), History::default());
    let mut asked = row(7, 900, 60 * MIB, 0);
    asked.rule.group = 1;
    history.observe(&memory(108 * MIB), 0);
    let verdict = judged(&policy, 8 * MIB, &[asked], &mut history, 500);
    // 100 MiB went in 500 ms: 8 MiB last 40 ms, half of it is the grace.
    assert!(
        matches!(verdict.action, Action::Terminate { grace_ms: 20, .. }),
        "{:?}",
        verdict.action
    );
}

#[test]
fn no_time_is_lost_on_reclaim_when_memory_runs_out_faster() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 30 * MIB)];
    history.observe(&memory(108 * MIB), 0);
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 500);
    assert!(
        matches!(verdict.action, Action::Kill { .. }),
        "{:?}",
        verdict.action
    );
}

#[test]
fn reclaim_that_brings_no_relief_is_given_up() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 30 * MIB)];
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    let Action::Reclaim { bytes, .. } = first.action else {
        panic!("{:?}", first.action)
    };
    history.note(&policy, &first, Some(Outcome::Reclaimed { bytes }), 0);
    let second = judged(&policy, 8 * MIB, &rows, &mut history, 50);
    assert!(
        matches!(second.action, Action::Reclaim { .. }),
        "within its time: {:?}",
        second.action
    );
    history.note(&policy, &second, Some(Outcome::Reclaimed { bytes }), 50);
    let third = judged(
        &policy,
        8 * MIB,
        &rows,
        &mut history,
        u64::from(policy.reclaim_ms),
    );
    assert!(
        matches!(third.action, Action::Kill { .. }),
        "{:?}",
        third.action
    );
}

#[test]
fn reclaim_is_for_the_relief_of_its_own_level() {
    let rows = [row(7, 800, 60 * MIB, 30 * MIB)];
    let verdict = judged(&policy(), 25 * MIB, &rows, &mut History::default(), 0);
    // Triggers of both levels fired: critical's relief is at 8 %, strained's at 16 %.
    assert!(
        matches!(verdict.action, Action::Reclaim { bytes, .. } if bytes == TOTAL * 16 / 100 - 25 * MIB),
        "{:?}",
        verdict.action
    );
}

#[test]
fn between_confirm_and_relief_only_reclaim_goes_on() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 30 * MIB)];
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    history.note(
        &policy,
        &first,
        Some(Outcome::Reclaimed { bytes: 4 * MIB }),
        0,
    );
    // 6 %: above critical's confirm of 4 %, below its relief of 8 %.
    let second = judged(&policy, TOTAL * 6 / 100, &rows, &mut history, 20);
    assert!(
        matches!(second.action, Action::Reclaim { .. }),
        "{:?}",
        second.action
    );
    assert_eq!(second.why, Why::UntilRelief(Level::Critical));
}

#[test]
fn who_comes_back_after_every_kill_is_passed_over_for_the_next() {
    let (policy, mut history) = (policy(), History::default());
    for i in 0..3 {
        let now = i * 5_000;
        let rows = [row(100 + i, 800, 60 * MIB, 0), row(8, 700, 60 * MIB, 0)];
        let verdict = judged(&policy, 8 * MIB, &with_group(rows, 0), &mut history, now);
        assert_eq!(
            verdict.action.target().map(|t| t.id),
            Some(100 + i),
            "{:?}",
            verdict.action
        );
        history.note(&policy, &verdict, Some(Outcome::Killed), now);
        history.gone();
    }
    let rows = with_group([row(103, 800, 60 * MIB, 0), row(8, 700, 60 * MIB, 0)], 0);
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 15_000);
    assert_eq!(
        verdict.action.target().map(|t| t.id),
        Some(8),
        "{:?}",
        verdict.action
    );
    assert!(
        verdict
            .judged
            .iter()
            .any(|j| j.reason == Reason::Restarting(3))
    );
    history.note(&policy, &verdict, Some(Outcome::Killed), 15_000);
    history.gone();
    let rows = with_group([row(104, 800, 60 * MIB, 0), row(9, 700, 60 * MIB, 0)], 0);
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 20_000);
    assert_eq!(
        verdict.action.target().map(|t| t.id),
        Some(104),
        "one of the others is enough: {:?}",
        verdict.action
    );
}

#[test]
fn who_ends_when_asked_comes_back_all_the_same() {
    let (policy, mut history) = (policy(), History::default());
    // A supervisor that uses the same cgroup again: the id stays.
    let rows = [row(7, 900, 60 * MIB, 0), row(8, 100, 60 * MIB, 0)];
    let rows = with_group(rows, 1);
    for i in 0..3 {
        let now = i * 5_000;
        let verdict = judged(&policy, 8 * MIB, &rows, &mut history, now);
        assert!(
            matches!(verdict.action, Action::Terminate { target, .. } if target.id == 7),
            "round {i}: {:?}",
            verdict.action
        );
        history.note(&policy, &verdict, Some(Outcome::Asked), now);
        let relieved = judged(&policy, 100 * MIB, &rows, &mut history, now + 200);
        assert_eq!(relieved.why, Why::Relieved(Level::Critical));
        history.note(&policy, &relieved, None, now + 200);
    }
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 15_000);
    assert_eq!(verdict.action.target().map(|t| t.id), Some(8));
}

fn with_group<const N: usize>(mut rows: [Row; N], group: u16) -> [Row; N] {
    rows[0].rule.group = group;
    rows
}

#[test]
fn the_only_candidate_dies_however_often_it_comes_back() {
    let (policy, mut history) = (policy(), History::default());
    for i in 0..6 {
        let now = i * 5_000;
        let verdict = judged(
            &policy,
            8 * MIB,
            &[row(100 + i, 800, 60 * MIB, 0)],
            &mut history,
            now,
        );
        assert!(
            matches!(verdict.action, Action::Kill { .. }),
            "kill {i}: {:?}",
            verdict.action
        );
        history.note(&policy, &verdict, Some(Outcome::Killed), now);
        history.gone();
    }
}

#[test]
fn a_reboot_needs_the_policy_to_say_so_and_time_without_a_way_out() {
    let mut policy = policy();
    policy.levels[1].actions.push(Step::Reboot).unwrap();
    let mut history = History::default();
    let hopeless = judged(&policy, 4 * MIB, &[], &mut history, 0);
    assert!(hopeless.helpless && hopeless.action == Action::Nothing);
    policy.reboot_after_ms = 1_000;
    history.note(&policy, &hopeless, None, 0);
    assert_eq!(
        judged(&policy, 4 * MIB, &[], &mut history, 999).action,
        Action::Nothing
    );
    assert_eq!(
        judged(&policy, 4 * MIB, &[], &mut history, 1_000).action,
        Action::Reboot
    );
}

#[test]
fn a_reboot_that_failed_is_tried_again_under_another_config_only() {
    let mut policy = policy();
    let actions = &mut policy.levels[1].actions;
    actions.extend([Step::Reboot, Step::Watchdog]);
    policy.reboot_after_ms = 1_000;
    let mut history = History::default();
    for (now, action, outcome) in [
        (0, Action::Nothing, None),
        (1_000, Action::Reboot, Some(Outcome::Failed { errno: 1 })),
        (1_010, Action::Starve, Some(Outcome::Starved)),
        (9_000, Action::Starve, None),
    ] {
        let verdict = judged(&policy, 4 * MIB, &[], &mut history, now);
        assert_eq!(verdict.action, action, "at {now}");
        history.note(&policy, &verdict, outcome, now);
    }
    history.reconfigured();
    let verdict = judged(&policy, 4 * MIB, &[], &mut history, 9_010);
    assert_eq!(verdict.action, Action::Reboot);
}

#[test]
fn a_watchdog_is_starved_for_as_long_as_nothing_is_left() {
    let mut policy = policy();
    policy.levels[1].actions.push(Step::Watchdog).unwrap();
    policy.reboot_after_ms = 1_000;
    let mut history = History::default();
    for (now, action) in [
        (0, Action::Nothing),
        (1_000, Action::Starve),
        (1_100, Action::Starve),
    ] {
        let verdict = judged(&policy, 4 * MIB, &[], &mut history, now);
        assert_eq!((verdict.action, verdict.helpless), (action, true));
        history.note(&policy, &verdict, None, now);
    }
    let somebody = [row(7, 800, 60 * MIB, 0)];
    let verdict = judged(&policy, 4 * MIB, &somebody, &mut history, 1_200);
    assert!(matches!(verdict.action, Action::Kill { .. }) && !verdict.helpless);
}

#[test]
fn what_is_short_within_a_limit_restarts_nothing_and_is_not_looked_at_by_time() {
    let mut policy = policy();
    policy.levels[1].actions = heapless::Vec::from_slice(&[Step::Reboot]).unwrap();
    policy.reboot_after_ms = 1;
    let inside = Memory {
        within: 7,
        file: 0,
        ..memory(4 * MIB)
    };
    let mut history = History::default();
    let verdict = judge(
        &policy,
        &inside,
        &lowtide_common::Survey::EMPTY,
        &history,
        0,
    );
    assert_eq!((verdict.why, verdict.look_again_ms), (Why::Calm, None));
    history.woken(0);
    for now in [0, 1_000] {
        let verdict = judge(
            &policy,
            &inside,
            &lowtide_common::Survey::EMPTY,
            &history,
            now,
        );
        assert!(verdict.helpless && verdict.action == Action::Nothing);
        history.note(&policy, &verdict, None, now);
    }
}

#[test]
fn who_thrashes_in_its_own_limit_is_told_from_a_system_that_is_short() {
    let mut policy = policy();
    let stalled = Term::PressureAbove(Stall::Some, 5_000);
    policy.levels[1].confirm = Condition::all(&[stalled, Term::LimitedBelow(5_000)]).unwrap();
    let rows = [row(7, 800, 100 * MIB, 0)];
    // Stalled for nine tenths of two seconds, and so much of that within limits.
    for (limited_us, goes) in [
        (0, true),
        (600_000, true),
        (1_600_000, false),
        (4_000_000, false),
    ] {
        let mut history = History::default();
        let before = memory(128 * MIB);
        history.observe(&before, 0);
        history.woken(2_000);
        let now = Memory {
            psi_some_us: 1_800_000,
            psi_limited_us: limited_us,
            ..before
        };
        history.observe(&now, 2_000);
        let verdict = judge(&policy, &now, &survey(&rows, MIB), &history, 2_000);
        let killed = matches!(verdict.action, Action::Kill { .. });
        assert_eq!(killed, goes, "{limited_us} us: {:?}", verdict.why);
    }
}

#[test]
fn a_stall_counts_when_it_lasts() {
    let mut policy = policy();
    policy.levels[1].confirm = Condition::all(&[Term::PressureAbove(Stall::Full, 3_000)]).unwrap();
    let rows = [row(7, 800, 100 * MIB, 0)];
    // Percent of the time, for so many tenths of a second; whether somebody goes at the end of it.
    for (stall, goes) in [
        (&[(90, 12)][..], false),
        (&[(90, 17)], true),
        (&[(40, 8), (50, 9)], true),
        (&[(20, 17)], false),
        (&[(90, 15), (0, 2)], false),
        (&[(0, 3), (90, 14)], false),
        (&[(90, 8), (0, 2), (90, 8)], false),
        // zram-absorb on 512 MB: memory went to swap for good, and once more when that was over.
        (
            &[(0, 1), (37, 1), (90, 2), (74, 7), (0, 2), (19, 1), (92, 3)],
            false,
        ),
        // zram-churn on 512 MB.
        (&[(88, 10), (67, 1), (45, 1), (85, 5)], true),
    ] {
        // However often it is looked at.
        for every_ms in [5, 20, 35, 100] {
            let (mut history, mut now) = (History::default(), memory(128 * MIB));
            history.observe(&now, 0);
            let mut at = 0;
            for (percent, tenths) in stall {
                let end = at + tenths * 100;
                while at < end {
                    let ms = every_ms.min(end - at);
                    at += ms;
                    now.psi_full_us += percent * ms * 10;
                    now.psi_some_us = now.psi_full_us;
                    history.observe(&now, at);
                }
            }
            history.woken(at);
            let verdict = judge(&policy, &now, &survey(&rows, MIB), &history, at);
            let killed = matches!(verdict.action, Action::Kill { .. });
            assert_eq!(
                killed, goes,
                "{stall:?} every {every_ms} ms: {:?}",
                verdict.rates
            );
        }
    }
}

#[test]
fn calm_again_after_the_quiet_time() {
    let (policy, mut history) = (policy(), History::default());
    history.woken(0);
    assert!(history.is_awake(&policy, u64::from(policy.quiet_ms) - 1));
    assert!(!history.is_awake(&policy, u64::from(policy.quiet_ms)));
}

/// Until relief the actions of critical go on; what is said is what holds.
#[test]
fn no_level_is_said_that_does_not_hold() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [media(1, 60)];
    for (available, level) in [
        (128, Level::Alert),
        (25, Level::Strained),
        (8, Level::Critical),
        (15, Level::Strained),
        (19, Level::Strained),
        (64, Level::Alert),
    ] {
        let verdict = judged(&policy, available * MIB, &rows, &mut history, 0);
        assert_eq!(verdict.level, level, "{available}M: {:?}", verdict.why);
        history.note(&policy, &verdict, None, 0);
    }
}

#[test]
fn without_swap_its_free_share_is_below_every_mark() {
    let memory = memory(0);
    assert!(Term::SwapFreeBelow(Amount::Bytes(0)).holds(&memory, None));
    assert!(!Term::SwapFreeAbove(Amount::Bytes(0)).holds(&memory, None));
}

#[test]
fn where_no_stall_comes_first_the_figures_alone_count() {
    let (policy, history) = (policy(), History::default());
    let rows = [row(7, 800, 100 * MIB, 0)];
    for memory in [
        Memory {
            file: MIB,
            ..memory(8 * MIB)
        },
        Memory {
            psi: false,
            ..memory(8 * MIB)
        },
    ] {
        let verdict = judge(&policy, &memory, &survey(&rows, MIB), &history, 0);
        assert!(
            matches!(verdict.action, Action::Kill { .. }),
            "{:?}",
            verdict.action
        );
        let plenty = Memory {
            available: 200 * MIB,
            ..memory
        };
        let verdict = judge(&policy, &plenty, &survey(&rows, MIB), &history, 0);
        assert_eq!(verdict.action, Action::Nothing);
        assert!(
            verdict.look_again_ms.is_some(),
            "nothing else would wake it"
        );
    }
}

/// Judges and remembers, as the daemon does on each look.
fn look(
    policy: &Policy,
    available: u64,
    rows: &[Row],
    history: &mut History,
    now: Millis,
) -> Verdict {
    let verdict = judged(policy, available, rows, history, now);
    history.remember(rows, now);
    let outcome = match verdict.action {
        Action::Throttle { .. } => Some(Outcome::Throttled),
        Action::Kill { .. } => Some(Outcome::Killed),
        _ => None,
    };
    history.note(policy, &verdict, outcome, now);
    verdict
}

#[test]
fn who_grows_is_held_back_and_not_who_is_large() {
    let (policy, mut history) = (throttling(), History::default());
    let first = look(
        &policy,
        8 * MIB,
        &[media(7, 20 * MIB), media(8, 90 * MIB)],
        &mut history,
        0,
    );
    assert_eq!(
        (first.action, first.why),
        (Action::Nothing, Why::Measuring),
        "one look does not tell who grows"
    );
    let second = look(
        &policy,
        8 * MIB,
        &[media(7, 21 * MIB), media(8, 90 * MIB)],
        &mut history,
        50,
    );
    assert!(
        matches!(second.action, Action::Throttle { target, for_ms: 1_000 } if target.id == 7),
        "{:?}",
        second.action
    );
}

#[test]
fn growth_of_long_ago_does_not_count() {
    let (policy, mut history) = (throttling(), History::default());
    look(&policy, 8 * MIB, &[media(7, 20 * MIB)], &mut history, 0);
    let later = look(
        &policy,
        8 * MIB,
        &[media(7, 90 * MIB)],
        &mut history,
        60_000,
    );
    assert_eq!(later.why, Why::Measuring);
}

#[test]
fn where_nobody_grows_the_next_step_comes() {
    let (policy, mut history) = (throttling(), History::default());
    let rows = [media(7, 20 * MIB)];
    let first = look(&policy, 8 * MIB, &rows, &mut history, 0);
    assert_eq!(first.why, Why::Measuring);
    let second = look(&policy, 8 * MIB, &rows, &mut history, 200);
    assert!(
        matches!(second.action, Action::Kill { .. }),
        "{:?}",
        second.action
    );
}

/// Up to the moment when 7 is held back, from 50 to 1050 ms.
fn held_back(policy: &Policy) -> History {
    let mut history = History::default();
    look(policy, 9 * MIB, &[media(7, 20 * MIB)], &mut history, 0);
    let verdict = look(policy, 8 * MIB, &[media(7, 21 * MIB)], &mut history, 50);
    assert!(
        matches!(verdict.action, Action::Throttle { .. }),
        "{:?}",
        verdict.action
    );
    history
}

#[test]
fn throttling_has_its_time_and_is_not_repeated_when_it_did_not_help() {
    let policy = throttling();
    let mut history = held_back(&policy);
    let rows = [media(7, 21 * MIB)];
    let meanwhile = look(&policy, 8 * MIB, &rows, &mut history, 1_049);
    assert_eq!(
        meanwhile.why,
        Why::HeldBack {
            id: 7,
            until: 1_050
        }
    );
    let grown = [media(7, 23 * MIB)];
    let after = look(&policy, 8 * MIB, &grown, &mut history, 1_050);
    assert!(
        matches!(after.action, Action::Kill { target } if target.id == 7),
        "{:?}",
        after.action
    );
}

#[test]
fn memory_that_falls_on_ends_the_wait() {
    let policy = throttling();
    let mut history = held_back(&policy);
    let rows = [media(7, 21 * MIB)];
    let verdict = look(&policy, 3 * MIB, &rows, &mut history, 100);
    assert!(
        matches!(verdict.action, Action::Kill { .. }),
        "{:?}",
        verdict.action
    );
}

#[test]
fn another_that_grows_is_held_back_as_well() {
    let policy = throttling();
    let mut history = held_back(&policy);
    let rows = |other| [media(7, 21 * MIB), media(8, other)];
    look(&policy, 8 * MIB, &rows(10 * MIB), &mut history, 200);
    let verdict = look(&policy, 8 * MIB, &rows(11 * MIB), &mut history, 250);
    assert!(
        matches!(verdict.action, Action::Throttle { target, .. } if target.id == 8),
        "{:?}",
        verdict.action
    );
}

#[test]
fn after_relief_it_may_be_held_back_again() {
    let policy = throttling();
    let mut history = held_back(&policy);
    let relieved = look(&policy, TOTAL / 2, &[media(7, 21 * MIB)], &mut history, 500);
    assert_eq!(relieved.why, Why::Relieved(Level::Critical));
    let again = look(&policy, 8 * MIB, &[media(7, 40 * MIB)], &mut history, 900);
    assert!(
        matches!(again.action, Action::Throttle { .. }),
        "{:?}",
        again.action
    );
}

#[test]
fn whose_cgroup_is_shared_is_not_held_back() {
    let (policy, mut history) = (throttling(), History::default());
    let shared = |anon| {
        let mut row = media(7, anon);
        row.rule.flags = lowtide_common::Rule::PROCESS;
        [row]
    };
    look(&policy, 8 * MIB, &shared(20 * MIB), &mut history, 0);
    let verdict = look(&policy, 8 * MIB, &shared(40 * MIB), &mut history, 200);
    assert!(
        !matches!(verdict.action, Action::Throttle { .. }),
        "{:?}",
        verdict.action
    );
}

#[test]
fn at_the_outlook_every_level_is_confirmed_and_as_little_left_as_the_last_one_waits_for() {
    let (policy, plenty) = (policy(), memory(200 * MIB));
    let outlook = Outlook::new(&policy, &plenty);
    let four_percent = TOTAL / 25;
    assert!(outlook.memory.available.abs_diff(four_percent) < 4096);
    assert!(outlook.enough().abs_diff(four_percent) < 4096);
    let rows = [row(7, 800, 100 * MIB, 0), row(8, 100, 50 * MIB, 0)];
    let survey = survey(&rows, outlook.enough());
    let verdict = judge(
        &outlook.policy,
        &outlook.memory,
        &survey,
        &outlook.history,
        0,
    );
    assert_eq!(verdict.action, Action::Kill { target: rows[0] });
    assert_eq!(verdict.why, Why::Confirmed(Level::Critical));
}
