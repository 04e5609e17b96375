//! One situation, one verdict.

mod common;

use common::*;
use lowtide_common::{NEVER, Row, Rule};
use lowtide_judge::*;

#[test]
fn without_a_trigger_nothing_happens_however_little_is_left() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 100 * MIB, 0)];
    let verdict = judge(&policy, &memory(MIB), &rows, &mut history, 0);
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
        row(9, 900, MIB / 2, 0),
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
            (9, Reason::TooLittle)
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
            rule: Rule {
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
    history.record(&policy, &first, &[KILLED]);
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
    history.record(&policy, &first, &[KILLED]);
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
    history.record(&policy, &first, &[ASKED]);
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
    history.record(&policy, &first, &[Outcome::DONE]);
    // Whatever it gives back meanwhile: it is the one that is about to be asked.
    let waiting = judged(&policy, 8 * MIB, &rows(MIB), &mut history, 100);
    assert_eq!(waiting.why, Why::Preparing { id: 7, until: 150 });
    let asked = judged(&policy, 8 * MIB, &rows(60 * MIB), &mut history, 150);
    assert!(
        matches!(asked.action, Action::Terminate { target, grace_ms: 150 } if target.id == 7),
        "{:?}",
        asked.action
    );
    history.record(&policy, &asked, &[ASKED]);
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
    history.record(&policy, &first, &[Outcome::DONE]);
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
    history.record(&policy, &first, &[ASKED]);
    for left in [MIB, 4096] {
        let exiting = judged(&policy, 8 * MIB, &rows(left), &mut history, 100);
        assert_eq!(exiting.why, Why::InGrace { id: 7, until: 300 });
    }
    let gone = [row(8, 500, 60 * MIB, 0)];
    // Its memory comes back a moment after it has left the survey.
    let back = judged(&policy, 8 * MIB, &gone, &mut history, 150);
    assert_eq!(back.why, Why::StillExiting { id: 7 });
    let next = judged(&policy, 8 * MIB, &gone, &mut history, 250);
    assert!(
        matches!(next.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        next.action
    );
}

#[test]
fn memory_of_one_that_was_asked_is_waited_for_while_it_is_given_back() {
    let (policy, mut history) = (policy(), History::default());
    let mut hog = row(7, 800, 60 * MIB, 0);
    hog.rule.group = 1;
    let sensor = row(8, 100, 20 * MIB, 0);
    judged(&policy, 14 * MIB, &[hog, sensor], &mut history, 0);
    let asked = judged(&policy, 8 * MIB, &[hog, sensor], &mut history, 100);
    assert!(
        matches!(asked.action, Action::Terminate { .. }),
        "{asked:?}"
    );
    history.record(&policy, &asked, &[ASKED]);
    // It has let go of its pages, and they are not free yet.
    let exiting = row(7, 800, MIB, 0);
    let after = judged(&policy, 8 * MIB, &[exiting, sensor], &mut history, 106);
    assert_eq!(after.action, Action::Nothing, "{after:?}");
    // Only by how much is there is it time for the next.
    let late = judged(&policy, MIB, &[exiting, sensor], &mut history, 200);
    let ids: Vec<_> = late.victims().map(|victim| victim.row.id).collect();
    assert_eq!(ids, [7]);
}

#[test]
fn grace_shrinks_when_memory_runs_out_faster() {
    let (policy, mut history) = (policy(), History::default());
    let mut asked = row(7, 900, 60 * MIB, 0);
    asked.rule.group = 1;
    history.look(&policy, &memory(108 * MIB), 0);
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
    history.look(&policy, &memory(108 * MIB), 0);
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
    let rows = |file| [row(7, 800, 60 * MIB, file)];
    let first = judged(&policy, 8 * MIB, &rows(30 * MIB), &mut history, 0);
    let Action::Reclaim { bytes, .. } = first.action else {
        panic!("{:?}", first.action)
    };
    history.record(&policy, &first, &[Outcome::reclaimed(bytes)]);
    let second = judged(&policy, 8 * MIB, &rows(30 * MIB - bytes), &mut history, 50);
    assert!(
        matches!(second.action, Action::Reclaim { .. }),
        "within its time: {:?}",
        second.action
    );
    history.record(&policy, &second, &[Outcome::reclaimed(bytes)]);
    let third = judged(
        &policy,
        8 * MIB,
        &rows(30 * MIB - 2 * bytes),
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
    let rows = |file| [row(7, 800, 60 * MIB, file)];
    let first = judged(&policy, 8 * MIB, &rows(30 * MIB), &mut history, 0);
    history.record(&policy, &first, &[Outcome::reclaimed(4 * MIB)]);
    // 6 %: above critical's confirm of 4 %, below its relief of 8 %.
    let second = judged(&policy, TOTAL * 6 / 100, &rows(26 * MIB), &mut history, 20);
    assert!(
        matches!(second.action, Action::Reclaim { .. }),
        "{:?}",
        second.action
    );
    assert_eq!(second.why, Why::UntilRelief(Level::Critical));
}

/// A name for each group of a hundred ids.
fn name(row: &Row) -> u64 {
    1 + row.id / 100
}

/// Kills what is chosen among `rows`, which is gone at once and leaves plenty. Returns its id, and
/// how often it had come back.
fn killed(policy: &Policy, rows: &[Row], history: &mut History, now: Millis) -> Option<(u64, u8)> {
    history.woken(now);
    let short = memory(4 * MIB);
    let verdict = judge_named(policy, &short, rows, history, now, &name);
    let outcome = |victim: &Judged| Outcome::ended(name(&victim.row));
    let outcomes: Vec<_> = verdict.victims().map(outcome).collect();
    history.record(policy, &verdict, &outcomes);
    let victim = verdict.victims().next()?;
    let plenty = memory(4 * MIB + victim.frees);
    history.record_exit(victim.row.id, Some(&plenty), now + 10);
    Some((victim.row.id, victim.returns))
}

#[test]
fn what_comes_back_pays_alone_however_often() {
    let (policy, mut history) = (policy(), History::default());
    let spare = row(90, 300, 60 * MIB, 0);
    for i in 0..8 {
        let rows = [row(100 + i, 500, 60 * MIB, 0), spare];
        let victim = killed(&policy, &rows, &mut history, i * 5_000);
        assert_eq!(victim, Some((100 + i, i as u8)));
    }
}

#[test]
fn what_was_there_before_has_not_come_back() {
    let (policy, mut history) = (policy(), History::default());
    let mut workers: Vec<_> = (0..5).map(|i| row(100 + i, 800, 60 * MIB, 0)).collect();
    for i in 0..5 {
        let victim = killed(&policy, &workers, &mut history, i * 5_000);
        assert_eq!(victim, Some((100 + i, 0)));
        workers.remove(0);
    }
}

#[test]
fn another_name_has_not_come_back() {
    let (policy, mut history) = (policy(), History::default());
    for i in 0..4 {
        let rows = [row(100 * i, 800, 60 * MIB, 0)];
        let victim = killed(&policy, &rows, &mut history, i * 5_000);
        assert_eq!(victim, Some((100 * i, 0)));
    }
}

#[test]
fn a_cgroup_started_anew_in_place_has_come_back() {
    let (policy, mut history) = (policy(), History::default());
    for i in 0..3 {
        let rows = [row(7, 800, 60 * MIB, 0)];
        let victim = killed(&policy, &rows, &mut history, u64::from(i) * 5_000);
        assert_eq!(victim, Some((7, i)));
    }
}

#[test]
fn one_that_ends_after_relief_is_seen_to_have_ended_and_so_to_come_back() {
    let (policy, mut history) = (policy(), History::default());
    let mut row = row(7, 800, 60 * MIB, 0);
    (row.rule.group, row.rule.flags) = (1, Rule::UNIT);
    for returns in 0..3 {
        let start = returns * 5_000;
        let asked = judged(&policy, 8 * MIB, &[row], &mut history, start);
        assert!(
            matches!(asked.action, Action::Terminate { .. }),
            "{asked:?}"
        );
        assert_eq!(u64::from(asked.judged[0].returns), returns);
        history.record(&policy, &asked, &[ASKED]);
        // Most of its memory is back, and it is still there.
        let relieved = judge(&policy, &memory(64 * MIB), &[row], &mut history, start + 20);
        assert_eq!(relieved.action, Action::Nothing);
        history.record(&policy, &relieved, &[]);
        assert!(
            relieved.look_again_ms.is_some_and(|ms| ms <= 50),
            "{relieved:?}"
        );
        let later = start + 70;
        assert!(
            history
                .look(&policy, &memory(68 * MIB), later)
                .wants_survey()
        );
        judge(
            &policy,
            &memory(68 * MIB),
            &[self::row(8, 100, 8 * MIB, 0)],
            &mut history,
            later,
        );
        assert!(
            !history
                .look(&policy, &memory(68 * MIB), later + 50)
                .wants_survey()
        );
    }
}

#[test]
fn the_next_process_of_a_cgroup_has_not_come_back() {
    let (policy, mut history) = (policy(), History::default());
    let mut storm = row(7, 800, 60 * MIB, 0);
    storm.rule.flags = Rule::PROCESS;
    for i in 0..4 {
        let victim = killed(&policy, &[storm], &mut history, i * 5_000);
        assert_eq!(victim, Some((7, 0)));
    }
}

#[test]
fn a_return_long_after_the_end_does_not_count() {
    let (policy, mut history) = (policy(), History::default());
    for i in 0..3 {
        let now = i * (u64::from(policy.restart_window_ms) + 1);
        let victim = killed(
            &policy,
            &[row(100 + i, 800, 60 * MIB, 0)],
            &mut history,
            now,
        );
        assert_eq!(victim, Some((100 + i, 0)));
    }
}

#[test]
fn what_keeps_coming_back_is_not_asked_any_more_and_goes_first_of_its_equals() {
    let (policy, mut history) = (policy(), History::default());
    let asked = |id, anon| {
        let mut row = row(id, 900, anon, 0);
        row.rule.group = 1;
        row
    };
    for i in 0..u64::from(policy.restarts) {
        let now = i * 5_000;
        history.woken(now);
        let rows = [asked(100 + i, 60 * MIB)];
        let short = memory(4 * MIB);
        let verdict = judge_named(&policy, &short, &rows, &mut history, now, &name);
        assert!(
            matches!(verdict.action, Action::Terminate { .. }),
            "{i}: {:?}",
            verdict.action
        );
        let outcome = Outcome::ended(name(&rows[0]));
        history.record(&policy, &verdict, &[outcome]);
        history.woken(now + 200);
        let relieved = judge(
            &policy,
            &memory(TOTAL / 2),
            &[row(90, 10, MIB, 0)],
            &mut history,
            now + 200,
        );
        history.record(&policy, &relieved, &[]);
    }
    history.woken(20_000);
    let rows = [asked(91, 90 * MIB), asked(200 - 1, 60 * MIB)];
    let verdict = judge_named(
        &policy,
        &memory(4 * MIB),
        &rows,
        &mut history,
        20_000,
        &name,
    );
    assert_eq!(verdict.action, Action::Kill { target: rows[1] });
    assert_eq!(verdict.judged[0].returns, 3);
    assert_eq!(verdict.judged[1].reason, Reason::Steady);
}

/// Kills the first of `rows` at 500 ms at this pace, and leaves as much as before at its exit; what is
/// done next, once its memory had the time to come back.
fn after_nothing_came_back(rows: &[Row], a_second: u64) -> Verdict {
    let (policy, mut history) = (policy(), History::default());
    judged(&policy, 4 * MIB + a_second / 2, rows, &mut history, 0);
    let verdict = judged(&policy, 4 * MIB, rows, &mut history, 500);
    history.record(&policy, &verdict, &[KILLED]);
    history.record_exit(rows[0].id, Some(&memory(4 * MIB)), 520);
    let too_early = judged(&policy, 4 * MIB, rows, &mut history, 530);
    assert_eq!(too_early.judged[0].reason, Reason::Chosen);
    judged(&policy, 4 * MIB, rows, &mut history, 620)
}

#[test]
fn an_end_that_brought_nothing_is_not_tried_again() {
    let rows = [row(7, 800, 60 * MIB, 0), row(8, 700, 60 * MIB, 0)];
    let next = after_nothing_came_back(&rows, 2 * MIB);
    assert_eq!(next.action, Action::Kill { target: rows[1] });
    assert_eq!(next.judged[1].reason, Reason::InVain);
}

#[test]
fn an_end_was_not_in_vain_where_what_it_brought_was_taken_at_once() {
    let rows = [row(7, 800, 8 * MIB, 0)];
    let next = after_nothing_came_back(&rows, 200 * MIB);
    assert_eq!(next.action, Action::Kill { target: rows[0] });
}

#[test]
fn a_file_in_a_tmpfs_counts_for_what_grows_by_it_and_not_for_what_once_wrote_it() {
    let (policy, mut history) = (policy(), History::default());
    let writer = |shmem| Row {
        shmem,
        file: shmem,
        ..row(7, 500, MIB, 0)
    };
    let hog = row(8, 500, 40 * MIB, 0);
    let verdict = judged(&policy, 4 * MIB, &[writer(60 * MIB), hog], &mut history, 0);
    assert_eq!(verdict.action, Action::Kill { target: hog });
    let mut history = History::default();
    judged(&policy, 9 * MIB, &[writer(60 * MIB), hog], &mut history, 0);
    let rows = [writer(62 * MIB), hog];
    let verdict = judged(&policy, 4 * MIB, &rows, &mut history, 100);
    assert_eq!(verdict.action, Action::Kill { target: rows[0] });
}

#[test]
fn a_file_in_a_tmpfs_that_grows_by_fits_and_starts_grows() {
    let (policy, mut history) = (policy(), History::default());
    // 1 MiB every 200 ms, looked at more often than that.
    let rows = |now: u64| {
        let writer = Row {
            shmem: 40 * MIB + now / 200 * MIB,
            file: 40 * MIB + now / 200 * MIB,
            ..row(7, 900, MIB / 2, 0)
        };
        [writer, row(8, 100, 40 * MIB, 0)]
    };
    for now in (0..1_990).step_by(50) {
        judged(&policy, 9 * MIB, &rows(now), &mut history, now);
    }
    let verdict = judged(&policy, 4 * MIB, &rows(1_990), &mut history, 1_990);
    let [writer, _] = rows(1_990);
    assert_eq!(verdict.action, Action::Kill { target: writer });
}

#[test]
fn mapped_shared_memory_ends_with_its_owner() {
    let row = Row {
        shmem: 60 * MIB,
        file: 60 * MIB,
        file_mapped: 60 * MIB,
        ..row(7, 500, MIB, 0)
    };
    let verdict = judged(&policy(), 4 * MIB, &[row], &mut History::default(), 0);
    assert_eq!(verdict.judged[0].frees, 61 * MIB);
}

#[test]
fn what_grows_by_files_in_a_tmpfs_is_measured_where_there_is_time() {
    let (policy, mut history) = (policy(), History::default());
    let writer = Row {
        shmem: 60 * MIB,
        file: 60 * MIB,
        ..row(7, 900, MIB / 2, 0)
    };
    let rows = [writer, row(8, 100, 40 * MIB, 0)];
    let _ = history.look(&policy, &memory(10 * MIB), 0);
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 1_000);
    assert_eq!(verdict.why, Why::Measuring);
    let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 1_100);
    assert_eq!(verdict.action, Action::Kill { target: rows[1] });
}

#[test]
fn several_go_together_where_there_is_no_time_for_one_after_the_other() {
    let (policy, mut history) = (policy(), History::default());
    let workers = (0..10).map(|i| row(100 + i, 800, 3 * MIB, 0));
    let rows: Vec<_> = workers.chain([row(7, 100, 60 * MIB, 0)]).collect();
    // 200 MiB a second: what is left lasts 25 ms.
    judged(&policy, 105 * MIB, &rows, &mut history, 0);
    let verdict = judged(&policy, 5 * MIB, &rows, &mut history, 500);
    let victims: Vec<_> = verdict.victims().map(|v| v.row.id).collect();
    // 15.5 MiB are missing.
    assert_eq!(victims, [100, 101, 102, 103, 104, 105]);
    history.record(&policy, &verdict, &[KILLED; 6]);
    for id in 100..106 {
        let waiting = judged(&policy, 5 * MIB, &rows, &mut history, 510);
        assert_eq!(waiting.why, Why::StillExiting { id });
        history.record_exit(id, Some(&memory(6 * MIB)), 510);
    }
    let verdict = judged(&policy, 5 * MIB, &rows[6..], &mut history, 520);
    assert_eq!(verdict.action.target().map(|t| t.id), Some(106));
}

#[test]
fn a_lower_number_goes_along_only_where_the_higher_ones_buy_no_time() {
    let (policy, mut history) = (policy(), History::default());
    let storm = (0..3).map(|i| row(100 + i, 600, 4 * MIB, 0));
    let rows: Vec<_> = storm.chain([row(7, 100, 60 * MIB, 0)]).collect();
    // 50 MiB a second: the 5 MiB that are left last 100 ms, with 12 MiB more 340 ms.
    let mut slower = history.clone();
    judged(&policy, 30 * MIB, &rows, &mut slower, 0);
    let verdict = judged(&policy, 5 * MIB, &rows, &mut slower, 500);
    let victims: Vec<_> = verdict.victims().map(|v| v.row.id).collect();
    assert_eq!(victims, [100, 101, 102]);
    // 200 MiB a second: with 12 MiB more they last 85 ms, too little for another look and its victim.
    judged(&policy, 105 * MIB, &rows, &mut history, 0);
    let verdict = judged(&policy, 5 * MIB, &rows, &mut history, 500);
    let victims: Vec<_> = verdict.victims().map(|v| v.row.id).collect();
    assert_eq!(victims, [100, 101, 102, 7]);
}

#[test]
fn where_there_is_time_one_goes_and_then_it_looks_again() {
    let (policy, mut history) = (policy(), History::default());
    let rows: Vec<_> = (0..10).map(|i| row(100 + i, 800, 3 * MIB, 0)).collect();
    judged(&policy, 6 * MIB, &rows, &mut history, 0);
    let verdict = judged(&policy, 5 * MIB, &rows, &mut history, 500);
    assert_eq!(verdict.victims().count(), 1);
}

#[test]
fn what_swap_takes_in_counts_in_the_pace() {
    let (policy, mut history) = (policy(), History::default());
    let mut asked = row(7, 900, 60 * MIB, 0);
    asked.rule.group = 1;
    let swapping = |swap_free| Memory {
        swap_total: 64 * MIB,
        swap_free,
        swappable: 60 * MIB,
        ..memory(8 * MIB)
    };
    history.look(&policy, &swapping(60 * MIB), 0);
    history.woken(500);
    let verdict = judge(&policy, &swapping(10 * MIB), &[asked], &mut history, 500);
    // 100 MiB a second: 8 MiB last 80 ms, half of which is the grace.
    assert!(
        matches!(verdict.action, Action::Terminate { grace_ms: 40, .. }),
        "{:?}",
        verdict.action
    );
}

#[test]
fn what_a_victim_gave_back_does_not_hide_the_pace() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 0)];
    judged(&policy, 54 * MIB, &rows, &mut history, 0);
    let verdict = judged(&policy, 4 * MIB, &rows, &mut history, 500);
    history.record(&policy, &verdict, &[KILLED]);
    history.record_exit(7, Some(&memory(64 * MIB)), 510);
    let later = judged(&policy, 54 * MIB, &rows, &mut history, 600);
    assert_eq!(later.rates.map(|r| r.pace), Some(100 * MIB));
}

#[test]
fn swap_that_nothing_can_go_to_is_no_free_swap() {
    let locked = Memory {
        swap_total: 64 * MIB,
        swap_free: 64 * MIB,
        swappable: 2 * MIB,
        ..memory(8 * MIB)
    };
    let below = Term::SwapFreeBelow(Amount::Permyriad(1000));
    assert!(below.holds(&locked, None));
    let swappable = Memory {
        swappable: 100 * MIB,
        ..locked
    };
    assert!(!below.holds(&swappable, None));
}

/// As the default config has it.
fn critical_without_swap() -> Policy {
    let terms = [
        Term::AvailableBelow(Amount::Permyriad(400)),
        Term::SwapFreeBelow(Amount::Permyriad(1000)),
    ];
    let mut policy = policy();
    policy.levels[1].confirm = Condition::all(&terms).unwrap();
    policy
}

#[test]
fn what_swap_takes_as_it_comes_does_not_use_it_up() {
    let policy = critical_without_swap();
    let rows = [row(7, 800, 4 * MIB, 0)];
    let figures = |available, swap_free, swappable| Memory {
        swap_total: 64 * MIB,
        swap_free,
        swappable,
        ..memory(available)
    };
    let before = figures(6 * MIB, 40 * MIB, 8 * MIB);
    let after = |kept: u64, later: &Memory| {
        let mut history = History::default();
        history.woken(0);
        history.look(&policy, &before, 0);
        let mut look = history.look(&policy, later, 120);
        look.keep_in_ram(kept);
        look.judge(&survey(&rows, 0), &[0; lowtide_common::CANDIDATES])
            .action
    };
    // 12 MiB were taken, and 16 have gone to swap.
    let taken = figures(3 * MIB, 24 * MIB, 4 * MIB);
    let absorbed = after(0, &taken);
    assert!(matches!(absorbed, Action::Nothing), "{absorbed:?}");
    // They may not go there, by the limits of their cgroup.
    let kept = after(2 * MIB, &taken);
    assert!(matches!(kept, Action::Kill { .. }), "{kept:?}");
    // What is taken is locked in memory, and swap took most of the others' for it.
    let locked = after(0, &figures(3 * MIB, 34 * MIB, 2 * MIB));
    assert!(matches!(locked, Action::Kill { .. }), "{locked:?}");
    // Hardly any swap is free.
    let used_up = after(0, &figures(3 * MIB, 5 * MIB, 4 * MIB));
    assert!(matches!(used_up, Action::Kill { .. }), "{used_up:?}");
}

#[test]
fn what_its_limits_keep_from_swap_is_no_reason_to_wait() {
    let policy = critical_without_swap();
    let figures = Memory {
        swap_total: 128 * MIB,
        swap_free: 120 * MIB,
        swappable: 100 * MIB,
        ..memory(8 * MIB)
    };
    let rows = [row(7, 800, 90 * MIB, 0)];
    let mut history = History::default();
    history.woken(0);
    let mut look = history.look(&policy, &figures, 0);
    assert!(look.wants_swap_limits());
    look.keep_in_ram(90 * MIB);
    let verdict = look.judge(&survey(&rows, 0), &[0; lowtide_common::CANDIDATES]);
    assert!(matches!(verdict.action, Action::Kill { .. }), "{verdict:?}");
    // Where there is enough, or no swap, it is not asked for.
    let plenty = Memory {
        available: 40 * MIB,
        ..figures
    };
    assert!(!history.look(&policy, &plenty, 10).wants_swap_limits());
    assert!(
        !history
            .look(&policy, &memory(8 * MIB), 20)
            .wants_swap_limits()
    );
}

#[test]
fn a_cache_that_is_read_back_at_once_is_not_taken_again_in_the_episode() {
    let (policy, mut history) = (policy(), History::default());
    let cache = |refault_file| Row {
        refault_file,
        ..row(7, 200, 0, 30 * MIB)
    };
    let verdict = judged(&policy, 25 * MIB, &[cache(0)], &mut history, 0);
    assert!(matches!(verdict.action, Action::Reclaim { .. }));
    history.record(&policy, &verdict, &[Outcome::reclaimed(4 * MIB)]);
    for (now, refaults) in [(100, 1024), (2_600, 1024), (60_000, 1024)] {
        let verdict = judged(&policy, 25 * MIB, &[cache(refaults)], &mut history, now);
        assert_eq!(verdict.action, Action::Nothing, "at {now}");
        history.record(&policy, &verdict, &[]);
    }
    let relieved = judged(&policy, TOTAL / 2, &[cache(1024)], &mut history, 61_000);
    history.record(&policy, &relieved, &[]);
    let verdict = judged(&policy, 25 * MIB, &[cache(1024)], &mut history, 66_000);
    assert!(matches!(verdict.action, Action::Reclaim { .. }));
}

/// Between two alarms the agent sleeps, and what is short is short all the same.
#[test]
fn a_cache_that_is_read_back_is_left_alone_until_relief_or_for_the_window() {
    let (policy, mut history) = (policy(), History::default());
    let cache = [row(7, 200, 0, 30 * MIB)];
    let verdict = judged(&policy, 25 * MIB, &cache, &mut history, 0);
    history.record(&policy, &verdict, &[Outcome::reclaimed(4 * MIB)]);
    let mut reclaims = |at, fired, available| {
        if fired {
            history.woken(at);
        }
        let verdict = judge(&policy, &memory(available), &cache, &mut history, at);
        let reclaims = matches!(verdict.action, Action::Reclaim { .. });
        let outcome = reclaims.then(|| Outcome::reclaimed(4 * MIB));
        history.record(&policy, &verdict, outcome.as_slice());
        reclaims
    };
    assert!(!reclaims(10_000, false, 25 * MIB), "asleep");
    assert!(!reclaims(12_000, true, 25 * MIB), "grown again");
    assert!(!reclaims(20_000, false, TOTAL / 2), "relieved");
    assert!(reclaims(22_000, true, 25 * MIB), "after relief");
    assert!(!reclaims(30_000, false, 25 * MIB), "asleep");
    assert!(reclaims(90_000, true, 25 * MIB), "after the window");
}

#[test]
fn the_largest_that_may_not_be_touched_is_named() {
    let rows = [row(7, NEVER, 100 * MIB, 0), row(8, NEVER, 10 * MIB, 0)];
    let verdict = judged(&policy(), 4 * MIB, &rows, &mut History::default(), 0);
    assert_eq!(verdict.untouchable, Some(rows[0]));
    let verdict = judged(&policy(), 4 * MIB, &[], &mut History::default(), 0);
    assert_eq!(verdict.untouchable, None);
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
        history.record(&policy, &verdict, &[KILLED]);
        history.record_exit(100 + i, Some(&memory(68 * MIB)), now);
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
    history.record(&policy, &hopeless, &[]);
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
        (1_010, Action::Watchdog, Some(Outcome::DONE)),
        (9_000, Action::Watchdog, None),
    ] {
        let verdict = judged(&policy, 4 * MIB, &[], &mut history, now);
        assert_eq!(verdict.action, action, "at {now}");
        history.record(&policy, &verdict, outcome.as_slice());
    }
    history.reconfigured(9_000);
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
        (1_000, Action::Watchdog),
        (1_100, Action::Watchdog),
    ] {
        let verdict = judged(&policy, 4 * MIB, &[], &mut history, now);
        assert_eq!((verdict.action, verdict.helpless), (action, true));
        history.record(&policy, &verdict, &[]);
    }
    let victim = [row(7, 800, 60 * MIB, 0)];
    let verdict = judged(&policy, 4 * MIB, &victim, &mut history, 1_200);
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
    let verdict = judge(&policy, &inside, &[], &mut history, 0);
    assert_eq!((verdict.why, verdict.look_again_ms), (Why::Calm, None));
    history.woken(0);
    for now in [0, 1_000] {
        let verdict = judge(&policy, &inside, &[], &mut history, now);
        assert!(verdict.helpless && verdict.action == Action::Nothing);
        history.record(&policy, &verdict, &[]);
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
        history.look(&policy, &before, 0);
        history.woken(2_000);
        let now = Memory {
            psi_some_us: 1_800_000,
            psi_limited_us: limited_us,
            ..before
        };
        history.look(&policy, &now, 2_000);
        let verdict = judge(&policy, &now, &rows, &mut history, 2_000);
        let killed = matches!(verdict.action, Action::Kill { .. });
        assert_eq!(killed, goes, "{limited_us} us: {:?}", verdict.why);
    }
}

#[test]
fn a_stall_counts_when_it_lasts() {
    let mut policy = policy();
    policy.levels[1].confirm = Condition::all(&[Term::PressureAbove(Stall::Full, 3_000)]).unwrap();
    let rows = [row(7, 800, 100 * MIB, 0)];
    // Percent of the time, for so many tenths of a second; whether one goes at the end of it.
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
            history.look(&policy, &now, 0);
            let mut at = 0;
            for (percent, tenths) in stall {
                let end = at + tenths * 100;
                while at < end {
                    let ms = every_ms.min(end - at);
                    at += ms;
                    now.psi_full_us += percent * ms * 10;
                    now.psi_some_us = now.psi_full_us;
                    history.look(&policy, &now, at);
                }
            }
            history.woken(at);
            let verdict = judge(&policy, &now, &rows, &mut history, at);
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
        history.record(&policy, &verdict, &[]);
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
    let (policy, mut history) = (policy(), History::default());
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
        let verdict = judge(&policy, &memory, &rows, &mut history, 0);
        assert!(
            matches!(verdict.action, Action::Kill { .. }),
            "{:?}",
            verdict.action
        );
        let plenty = Memory {
            available: 200 * MIB,
            ..memory
        };
        let verdict = judge(&policy, &plenty, &rows, &mut history, 0);
        assert_eq!(verdict.action, Action::Nothing);
        assert!(
            verdict.look_again_ms.is_some(),
            "nothing else would wake it"
        );
    }
}

/// Judges and carries out, as the daemon does on each look.
fn look(
    policy: &Policy,
    available: u64,
    rows: &[Row],
    history: &mut History,
    now: Millis,
) -> Verdict {
    let verdict = judged(policy, available, rows, history, now);
    let outcome = match verdict.action {
        Action::Throttle { .. } => &[Outcome::DONE][..],
        Action::Kill { .. } => &[KILLED],
        _ => &[],
    };
    history.record(policy, &verdict, outcome);
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
        "one look does not tell which grows"
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
        row.rule.flags = Rule::PROCESS;
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
    let mut outlook = Outlook::new(&policy, &plenty);
    let four_percent = TOTAL / 25;
    let rows = [row(7, 800, 100 * MIB, 0), row(8, 100, 50 * MIB, 0)];
    let look = outlook.look();
    let survey = survey(&rows, look.worth());
    let verdict = look.judge(&survey, &[0; lowtide_common::CANDIDATES]);
    assert!(verdict.memory.available.abs_diff(four_percent) < 4096);
    assert!(verdict.enough.abs_diff(four_percent) < 4096);
    assert_eq!(verdict.action, Action::Kill { target: rows[0] });
    assert_eq!(verdict.why, Why::Confirmed(Level::Critical));
}

/// Ids of those that go one after the other, each gone at once, until relief.
fn goes(policy: &Policy, mut available: u64, mut rows: Vec<Row>) -> Vec<u64> {
    let (mut history, mut gone) = (History::default(), Vec::new());
    for now in (0..).step_by(300).take(100) {
        let verdict = judged(policy, available, &rows, &mut history, now);
        let Action::Kill { target } = verdict.action else {
            break;
        };
        history.record(policy, &verdict, &[KILLED]);
        available += target.freed_by_kill();
        history.record_exit(target.id, Some(&memory(available)), now);
        gone.push(target.id);
        rows.retain(|row| row.id != target.id);
    }
    gone
}

#[test]
fn one_that_frees_enough_alone_is_no_reason_to_pass_over_a_higher_number() {
    let rows = [
        row(7, 900, 6 * MIB, 0),
        row(8, 500, 12 * MIB, 0),
        row(9, 100, 60 * MIB, 0),
        row(10, NEVER, 150 * MIB, 0),
    ];
    // Critical below 10.2 MiB: after the first it still is, after the second no more.
    assert_eq!(goes(&policy(), 2 * MIB, rows.to_vec()), [7, 8]);
    assert_eq!(goes(&policy(), 6 * MIB, rows.to_vec()), [7]);
}

#[test]
fn many_small_ones_of_a_higher_number_go_before_a_large_one_of_a_lower() {
    let workers = (0..15).map(|i| row(100 + i, 800, 3 * MIB, 0));
    let rows: Vec<_> = [row(7, 100, 20 * MIB, 0)]
        .into_iter()
        .chain(workers)
        .collect();
    assert_eq!(goes(&policy(), 3 * MIB, rows), [100, 101, 102]);
}

#[test]
fn what_would_hardly_help_comes_last() {
    // 10.5 MiB are missing, a sixteenth of which is 0.7.
    let rows = [row(7, 900, MIB / 2, 0), row(8, 100, MIB, 0)];
    assert_eq!(goes(&policy(), 10 * MIB, rows.to_vec()), [8]);
    assert_eq!(goes(&policy(), 10 * MIB, rows[..1].to_vec()), [7]);
    let mut policy = policy();
    policy.worth_permyriad = 0;
    assert_eq!(goes(&policy, 10 * MIB, rows.to_vec()), [7]);
}

/// Of marks at 4 and 12 % the one that is crossed next; below both the lower one, for the next alarm.
#[test]
fn the_next_mark_follows_what_is_available() {
    let mut policy = policy();
    let (critical, strained) = (TOTAL * 4 / 100, TOTAL * 12 / 100);
    let next = |policy: &Policy, available| policy.next_mark(&memory(available));
    let near = |mark: Option<u64>, of: u64| mark.is_some_and(|mark| mark.abs_diff(of) < 4096);
    assert!(near(next(&policy, TOTAL / 2), strained));
    assert!(near(next(&policy, TOTAL / 10), critical));
    assert!(near(next(&policy, TOTAL / 100), critical));
    policy.levels[1].actions.clear();
    assert!(near(next(&policy, TOTAL / 100), strained));
    policy.levels[0].actions.clear();
    assert_eq!(next(&policy, TOTAL / 2), None);
}

#[test]
fn what_an_alarm_tells_is_not_looked_at_by_time() {
    let policy = policy();
    let untold = Memory {
        file: 0,
        ..memory(TOTAL / 2)
    };
    for (told, looks) in [(false, true), (true, false)] {
        let memory = Memory { told, ..untold };
        let verdict = judge(&policy, &memory, &[], &mut History::default(), 0);
        assert_eq!(verdict.look_again_ms.is_some(), looks, "told: {told}");
    }
}

/// A stall next to a mark: an alarm that tells of the mark spares the looks in between.
#[test]
fn a_mark_that_an_alarm_tells_of_does_not_set_the_pace() {
    let policy = policy();
    let highest = policy.next_mark(&memory(TOTAL)).unwrap();
    let pace = |available, told| {
        let memory = Memory {
            told,
            ..memory(available)
        };
        let mut history = History::default();
        history.woken(0);
        let look = history.look(&policy, &memory, 0);
        look.judge(&survey(&[], 0), &[0; lowtide_common::CANDIDATES])
            .look_again_ms
    };
    assert_eq!(pace(highest + MIB, false), Some(5));
    assert_eq!(pace(highest + MIB, true), Some(250));
    // Below one of them, what else its level asks for can come at any time.
    assert_eq!(pace(highest - MIB, true), pace(highest - MIB, false));
}

#[test]
fn what_holds_when_a_config_comes_into_force_waits_for_no_alarm() {
    let policy = policy();
    let memory = Memory {
        told: true,
        ..memory(4 * MIB)
    };
    let survey = survey(&[media(1, 50 * MIB)], 0);
    let mut history = History::default();
    let names = [0; lowtide_common::CANDIDATES];
    let asleep = history.look(&policy, &memory, 0).judge(&survey, &names);
    assert_eq!(asleep.level, Level::Calm);
    history.reconfigured(10);
    let look = history.look(&policy, &memory, 10);
    assert_eq!(look.judge(&survey, &names).level, Level::Critical);
}

/// A grace, or the time until the last resort, may be longer than an alarm counts.
#[test]
fn what_goes_on_is_looked_at_until_it_is_over() {
    let mut policy = policy();
    policy.levels[1].actions.push(Step::Reboot).unwrap();
    policy.reboot_after_ms = 30_000;
    let memory = Memory {
        told: true,
        ..memory(4 * MIB)
    };
    let (survey, names) = (survey(&[], 0), [0; lowtide_common::CANDIDATES]);
    let mut history = History::default();
    history.woken(0);
    let mut last = Action::Nothing;
    for now in (0..=31_000).step_by(500) {
        let verdict = history.look(&policy, &memory, now).judge(&survey, &names);
        assert_eq!(verdict.level, Level::Critical, "at {now}");
        history.record(&policy, &verdict, &[]);
        last = verdict.action;
        if last == Action::Nothing {
            assert!(verdict.look_again_ms.is_some(), "at {now}");
        }
    }
    assert_eq!(last, Action::Reboot);
}

/// A kill may fail as any call may, and as memory is short: for one that failed once nothing else goes.
#[test]
fn a_kill_that_failed_is_tried_once_more_before_the_next_goes() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 0), row(8, 500, 60 * MIB, 0)];
    let victim = |verdict: &Verdict| match verdict.action {
        Action::Kill { target } => Some(target.id),
        _ => None,
    };
    let failed = Outcome::Failed { errno: 5 };
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    assert_eq!(victim(&first), Some(7));
    history.record(&policy, &first, &[failed]);
    let second = judged(&policy, 8 * MIB, &rows, &mut history, 5);
    assert_eq!(victim(&second), Some(7), "{:?}", second.why);
    history.record(&policy, &second, &[failed]);
    let third = judged(&policy, 8 * MIB, &rows, &mut history, 10);
    assert_eq!(victim(&third), Some(8), "{:?}", third.why);
}

/// What could not be killed since it had gone by itself gives its memory back like any other victim.
#[test]
fn the_memory_of_a_victim_that_was_gone_already_is_waited_for() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 60 * MIB, 0), row(8, 500, 60 * MIB, 0)];
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    history.record(&policy, &first, &[Outcome::Failed { errno: 116 }]);
    let waits = judged(&policy, 8 * MIB, &rows[1..], &mut history, 5);
    assert_eq!(waits.action, Action::Nothing, "{:?}", waits.why);
    let back = judged(&policy, 60 * MIB, &rows[1..], &mut history, 50);
    assert_eq!(back.action, Action::Nothing, "{:?}", back.why);

    let mut history = History::default();
    let first = judged(&policy, 8 * MIB, &rows, &mut history, 0);
    history.record(&policy, &first, &[Outcome::Failed { errno: 116 }]);
    judged(&policy, 8 * MIB, &rows[1..], &mut history, 5);
    let not_back = judged(&policy, 8 * MIB, &rows[1..], &mut history, 500);
    assert!(
        matches!(not_back.action, Action::Kill { target } if target.id == 8),
        "{:?}",
        not_back.why
    );
}

/// Bytes at a time.
type Available<'a> = &'a dyn Fn(Millis) -> u64;

/// Asks 7 (20 MB), which is gone when it is looked at next, and looks each 50 ms while so much is available;
/// what is to end next, and when.
fn next_after_one_that_went(available: Available<'_>) -> Option<(u64, Millis)> {
    let (policy, mut history) = (policy(), History::default());
    let rows = with_group([row(7, 900, 20 * MIB, 0), row(8, 100, 60 * MIB, 0)], 1);
    let asked = judged(&policy, 5 * MIB, &rows, &mut history, 0);
    assert!(
        matches!(asked.action, Action::Terminate { .. }),
        "{asked:?}"
    );
    history.record(&policy, &asked, &[ASKED]);
    next(&policy, &mut history, &rows[1..], available)
}

/// The same, but kills it.
fn next_after_a_kill(available: Available<'_>) -> Option<(u64, Millis)> {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 20 * MIB, 0), row(8, 100, 60 * MIB, 0)];
    let killed = judged(&policy, 5 * MIB, &rows, &mut history, 0);
    assert!(matches!(killed.action, Action::Kill { .. }), "{killed:?}");
    history.record(&policy, &killed, &[KILLED]);
    history.record_exit(7, Some(&memory(available(50))), 50);
    next(&policy, &mut history, &rows[1..], available)
}

fn next(
    policy: &Policy,
    history: &mut History,
    rows: &[Row],
    available: Available<'_>,
) -> Option<(u64, Millis)> {
    (50..5_000).step_by(50).find_map(|now| {
        let verdict = judged(policy, available(now), rows, history, now);
        history.record(policy, &verdict, &[]);
        let target = verdict.action.target()?;
        verdict.action.ends().then_some((target.id, now))
    })
}

fn after_an_end(available: Available<'_>) -> [Option<(u64, Millis)>; 2] {
    [
        next_after_one_that_went(available),
        next_after_a_kill(available),
    ]
}

/// 425 MB of one process took 300 ms on a busy device after it was gone, and the next was asked too.
#[test]
fn memory_of_what_is_gone_is_waited_for_as_long_as_it_rises() {
    let rises = |now| 5 * MIB + now * 11 * MIB / 1_000;
    assert_eq!(after_an_end(&rises), [None; 2]);
}

#[test]
fn memory_of_what_is_gone_is_waited_for_no_longer_than_it_rises() {
    let stops = |now: Millis| 5 * MIB + now.min(350) * 11 * MIB / 1_000;
    assert_eq!(after_an_end(&stops), [Some((8, 450)); 2]);
    let never_rises = |_| 5 * MIB;
    assert_eq!(after_an_end(&never_rises), [Some((8, 150)); 2]);
    // In the time that a victim may take to be gone not even a tenth of it would be back.
    let hardly_rises = |now| 5 * MIB + now * MIB / 1_000;
    assert_eq!(after_an_end(&hardly_rises), [Some((8, 150)); 2]);
}

/// Near the kernel's OOM killer nothing is waited for that something else takes as it comes.
#[test]
fn memory_of_what_is_gone_is_not_waited_for_where_another_takes_it() {
    let is_taken = |now: Millis| match now {
        ..100 => 5 * MIB,
        100..150 => 7 * MIB,
        _ => 3 * MIB,
    };
    assert_eq!(after_an_end(&is_taken), [Some((8, 150)); 2]);
    let falls = |now: Millis| 5 * MIB - (now * 40 * MIB / 1_000).min(4 * MIB);
    assert_eq!(after_an_end(&falls), [Some((8, 100)); 2]);
}

#[test]
fn what_went_together_comes_back_together() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [
        row(7, 800, 12 * MIB, 0),
        row(8, 800, 3 * MIB, 0),
        row(9, 100, 60 * MIB, 0),
    ];
    judged(&policy, 60 * MIB, &rows, &mut history, 0);
    let killed = judged(&policy, 6 * MIB, &rows, &mut history, 100);
    let ids: Vec<_> = killed.victims().map(|victim| victim.row.id).collect();
    assert_eq!(ids, [7, 8]);
    history.record(&policy, &killed, &[KILLED; 2]);
    for id in ids {
        history.record_exit(id, Some(&memory(6 * MIB)), 110);
    }
    // More is back than the small one had, and it goes on.
    for (now, available) in [(150, 7), (200, 8), (250, 9)] {
        let verdict = judged(&policy, available * MIB, &rows[2..], &mut history, now);
        assert_eq!(verdict.action, Action::Nothing, "at {now}");
    }
}

/// At the end of its grace it holds hardly anything any more, and most of what it held is not free yet.
#[test]
fn what_was_asked_and_then_killed_is_to_bring_what_it_held_when_it_was_asked() {
    let (policy, mut history) = (policy(), History::default());
    let rows = |held| with_group([row(7, 900, held, 0), row(8, 100, 60 * MIB, 0)], 1);
    let asked = judged(&policy, 5 * MIB, &rows(20 * MIB), &mut history, 0);
    history.record(&policy, &asked, &[ASKED]);
    let killed = judged(&policy, 5 * MIB, &rows(4096), &mut history, 300);
    assert!(matches!(killed.action, Action::Kill { target } if target.id == 7));
    history.record(&policy, &killed, &[KILLED]);
    history.record_exit(7, Some(&memory(6 * MIB)), 310);
    let waits = judged(&policy, 7 * MIB, &rows(0)[1..], &mut history, 350);
    assert_eq!(waits.why, Why::StillExiting { id: 7 });
}

/// One that hangs in a system call does not hold back the next while something else takes all there is.
#[test]
fn a_victim_that_takes_long_to_exit_is_not_waited_for_until_nothing_is_left() {
    let (policy, mut history) = (policy(), History::default());
    let rows = [row(7, 800, 20 * MIB, 0), row(8, 100, 60 * MIB, 0)];
    let killed = judged(&policy, 5 * MIB, &rows, &mut history, 0);
    history.record(&policy, &killed, &[KILLED]);
    for (now, available) in [(50, 2), (150, 3), (1_000, 3)] {
        let waits = judged(&policy, available * MIB, &rows, &mut history, now);
        assert_eq!(waits.why, Why::StillExiting { id: 7 }, "at {now}");
    }
    let next = judged(&policy, 2 * MIB, &rows, &mut history, 1_020);
    assert_eq!(next.action, Action::Kill { target: rows[1] });
}
