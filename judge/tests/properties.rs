//! What must hold for every tree and every amount of memory.

mod common;

use common::*;
use lowtide_common::{CANDIDATES, NEVER, Row, Rule};
use lowtide_judge::*;
use proptest::prelude::*;

fn priority() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0..=1000u16, 1 => Just(NEVER)]
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let one = (priority(), priority(), 0..64 * MIB, 0..64 * MIB);
    prop::collection::vec(one, 0..40).prop_map(|rows| {
        let with_id = |(i, (kill, reclaim, anon, file)): (usize, (u16, u16, u64, u64))| {
            let mut row = row(i as u64 + 2, kill, anon, file);
            row.rule.reclaim = reclaim;
            row
        };
        rows.into_iter().enumerate().map(with_id).collect()
    })
}

/// Rows with nothing to reclaim: the verdict is about kills.
fn anonymous() -> impl Strategy<Value = Vec<Row>> {
    rows().prop_map(|rows| {
        rows.into_iter()
            .map(|r| Row {
                file: 0,
                usage: r.anon,
                ..r
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn never_means_never(rows in rows(), available in 0..TOTAL) {
        let verdict = judged(&policy(), available, &rows, &mut History::default(), 0);
        match verdict.action {
            Action::Reclaim { target, .. } => prop_assert!(target.rule.reclaim != NEVER),
            Action::Terminate { target, .. } | Action::Kill { target } => prop_assert!(target.rule.kill != NEVER),
            _ => {}
        }
    }

    #[test]
    fn a_lower_number_never_goes_before_a_higher_one_that_is_worth_it(rows in anonymous(), available in 0..TOTAL / 25) {
        let verdict = judged(&policy(), available, &rows, &mut History::default(), 0);
        let worth = (verdict.enough / 16).max(256 << 10);
        let able = |r: &&Row| r.rule.kill != NEVER && r.freed_by_kill() >= worth;
        let best = rows.iter().filter(able).max_by_key(|r| (r.rule.kill, r.freed_by_kill(), std::cmp::Reverse(r.id)));
        match (verdict.action, best) {
            (Action::Kill { target }, Some(best)) => {
                prop_assert_eq!(target.rule.kill, best.rule.kill);
                prop_assert!(target.freed_by_kill() >> 12 >= best.freed_by_kill() >> 12, "of equals, what frees most");
            }
            (action, Some(_)) => prop_assert!(false, "{:?} with a victim at hand", action),
            _ => {}
        }
    }

    #[test]
    fn a_cache_of_a_lower_number_is_never_taken_before_a_higher_one_that_is_worth_it(rows in rows(), available in 0..TOTAL / 10) {
        let verdict = judged(&policy(), available, &rows, &mut History::default(), 0);
        let Action::Reclaim { target, .. } = verdict.action else { return Ok(()) };
        let enough = (TOTAL / 10_000 * 1600).saturating_sub(available);
        let worth = (enough / 16).max(256 << 10);
        let able = |r: &&Row| r.rule.reclaim != NEVER && r.reclaimable_file() >= worth;
        let best = rows.iter().filter(able).map(|r| r.rule.reclaim).max();
        prop_assert!(best.is_none_or(|best| target.rule.reclaim >= best));
    }

    /// What the engines keep the best by, in the kernel and outside: where no history speaks against it,
    /// the judge has the same order.
    #[test]
    fn the_order_is_that_of_the_engines(rows in rows(), avoided in any::<u64>(), available in 0..TOTAL / 25) {
        let avoid = |(i, mut row): (usize, Row)| {
            row.rule.flags |= if avoided >> i & 1 == 1 { Rule::AVOID } else { 0 };
            row
        };
        let mut rows: Vec<_> = rows.into_iter().enumerate().map(avoid).collect();
        let verdict = judged(&policy(), available, &rows, &mut History::default(), 0);
        let able = |row: &&Row| row.freed_by_kill() >= 256 << 10;
        rows.retain(|row| row.rule.kill != NEVER);
        rows.sort_by_key(|row| (std::cmp::Reverse(row.kill_key(verdict.worth)), row.id));
        // Those that free next to nothing have their place among what the engines keep.
        let engine: Vec<_> = rows.iter().take(CANDIDATES).filter(able).map(|row| row.id).collect();
        let judge = verdict.judged.iter().filter(|j| able(&&j.row)).map(|j| j.row.id);
        prop_assert_eq!(judge.take(engine.len()).collect::<Vec<_>>(), engine);
    }

    #[test]
    fn several_go_in_order_and_none_more_than_it_takes(rows in anonymous(), available in MIB..TOTAL / 26, fall in 0..TOTAL) {
        let (policy, mut history) = (policy(), History::default());
        judged(&policy, available + fall, &[], &mut history, 0);
        let verdict = judged(&policy, available, &rows, &mut history, 500);
        let victims: Vec<_> = verdict.victims().collect();
        let Some((last, before)) = victims.split_last() else { return Ok(()) };
        let sum: u64 = before.iter().map(|victim| victim.frees).sum();
        prop_assert!(before.is_empty() || sum < verdict.enough, "those before are enough");
        for stays in verdict.judged.iter().filter(|j| !victims.iter().any(|v| v.row.id == j.row.id)) {
            let helps = stays.reason.is_in_order() && stays.frees >= verdict.worth;
            prop_assert!(!helps || stays.row.rule.kill <= last.row.rule.kill, "{stays:?} stays");
        }
        if victims.len() > 1 {
            let pace = verdict.rates.map_or(0, |rates| rates.pace);
            let lasts_ms = available * 1_000 / pace.max(1);
            prop_assert!(lasts_ms < 50 * victims.len() as u64, "there is time for one after the other");
            for (goes, higher) in (1..).zip(victims.windows(2)).filter(|(_, two)| two[1].row.rule.kill < two[0].row.rule.kill) {
                let sum: u64 = victims[..goes].iter().map(|victim| victim.frees).sum();
                let lasts_ms = (available + sum) * 1_000 / pace;
                prop_assert!(lasts_ms < 50 * (goes as u64 + 1), "{higher:?}: the higher ones buy the time to look again");
            }
        }
    }

    #[test]
    fn nothing_of_a_lower_number_goes_for_what_comes_back(sizes in prop::collection::vec(2..40u64, 1..12), ms in prop::collection::vec(10..5_000u64, 12)) {
        let (policy, mut history) = (policy(), History::default());
        let spare = row(2, 300, 30 * MIB, 0);
        let mut now = 0;
        for (i, (size, ms)) in sizes.into_iter().zip(ms).enumerate() {
            let rows = [row(100 + i as u64, 500, size * MIB, 0), spare];
            history.woken(now);
            let verdict = judge_named(&policy, &memory(4 * MIB), &rows, &mut history, now, &|_| 1);
            prop_assert_eq!(verdict.action, Action::Kill { target: rows[0] });
            prop_assert_eq!(verdict.judged[0].returns, i as u8);
            history.record(&policy, &verdict, &[Outcome::ended(1)]);
            history.record_exit(rows[0].id, Some(&memory((4 + size) * MIB)), now + 5);
            now += ms;
        }
    }

    #[test]
    fn an_end_that_brought_nothing_is_not_tried_twice(sizes in prop::collection::vec(4..60u64, 2..8), a_second in 0..2u64) {
        let (policy, mut history) = (policy(), History::default());
        let mut rows: Vec<_> = (7..).zip(sizes).map(|(id, size)| row(id, 500 + id as u16, size * MIB, 0)).collect();
        let mut ended = Vec::new();
        judged(&policy, (4 + a_second / 2) * MIB, &rows, &mut history, 0);
        // Each comes back with the id it had, as a cgroup does.
        for turn in 1..20 {
            let now = turn * 500;
            let verdict = judged(&policy, 4 * MIB, &rows, &mut history, now);
            let Action::Kill { target } = verdict.action else { break };
            prop_assert!(!ended.contains(&target.id), "{} twice", target.id);
            ended.push(target.id);
            let outcomes: Vec<_> = verdict.victims().map(|_| KILLED).collect();
            history.record(&policy, &verdict, &outcomes);
            history.record_exit(target.id, Some(&memory(4 * MIB)), now + 20);
            judged(&policy, 4 * MIB, &rows, &mut history, now + 200);
            rows.rotate_left(1);
        }
        prop_assert_eq!(ended.len(), rows.len());
    }

    /// However large it is, however it ended, and whenever it is looked at.
    #[test]
    fn nothing_else_ends_while_memory_of_what_is_gone_rises(mib in 10..100u64, killed in any::<bool>(), looks in prop::collection::vec(5..45u64, 300), percent in 110..1_000u64) {
        let (policy, mut history) = (policy(), History::default());
        let mut rows = [row(7, 900, mib * MIB, 0), row(8, 100, 60 * MIB, 0)];
        rows[0].rule.group = if killed { 0 } else { 1 };
        let verdict = judged(&policy, 4 * MIB, &rows, &mut history, 0);
        prop_assert_eq!(verdict.action.target().map(|target| target.id), Some(7));
        prop_assert_eq!(killed, matches!(verdict.action, Action::Kill { .. }));
        history.record(&policy, &verdict, &[Outcome::DONE]);
        if killed { history.record_exit(7, Some(&memory(4 * MIB)), 0); }
        let (mut now, exit_ms) = (0, u64::from(policy.exit_ms));
        for ms in looks {
            now += ms;
            // At this pace it would be back in less time than a victim may take to be gone; what is less than
            // 256 KiB in a tenth of a second is noise.
            let pace = (mib * MIB * percent / 100 / exit_ms).max(3 << 10);
            let back = (pace * now).min(mib * MIB);
            if back >= mib * MIB / 2 { break }
            let verdict = judged(&policy, 4 * MIB + back, &rows[1..], &mut history, now);
            prop_assert!(!verdict.action.ends(), "{back} back after {now} ms");
            history.record(&policy, &verdict, &[]);
        }
    }

    /// The time that something is waited for is bounded, whatever becomes of memory meanwhile.
    #[test]
    fn the_next_goes_soon_after_memory_rises_no_more(mib in 10..60u64, killed in any::<bool>(), rises in prop::collection::vec(0..4 * MIB, 0..30), most in 4 * MIB..9 * MIB) {
        let (policy, mut history) = (policy(), History::default());
        let mut rows = [row(7, 900, mib * MIB, 0), row(8, 100, 60 * MIB, 0)];
        rows[0].rule.group = if killed { 0 } else { 1 };
        let verdict = judged(&policy, 4 * MIB, &rows, &mut history, 0);
        history.record(&policy, &verdict, &[Outcome::DONE]);
        if killed { history.record_exit(7, Some(&memory(4 * MIB)), 0); }
        let (mut now, mut available, mut last_rise) = (0, 4 * MIB, 0);
        loop {
            now += 10;
            let rise = rises.get(now as usize / 10).copied().unwrap_or(0).min(most.saturating_sub(available));
            available += rise;
            if rise > 0 { last_rise = now; }
            let verdict = judged(&policy, available, &rows[1..], &mut history, now);
            history.record(&policy, &verdict, &[]);
            if verdict.action.ends() { break }
            prop_assert!(now < last_rise + 120, "waits at {now}, last rise at {last_rise}");
        }
    }

    #[test]
    fn the_same_evidence_gives_the_same_verdict(rows in rows(), available in 0..TOTAL, turn in 0..40usize) {
        let verdict = judged(&policy(), available, &rows, &mut History::default(), 0);
        let mut turned = rows.clone();
        turned.rotate_left(turn.min(rows.len()));
        prop_assert_eq!(verdict, judged(&policy(), available, &turned, &mut History::default(), 0));
    }

    #[test]
    fn less_memory_never_gives_a_milder_action(rows in rows(), more in 0..TOTAL, less in 0..TOTAL) {
        let (less, more) = (less.min(more), less.max(more));
        let step = |available| judged(&policy(), available, &rows, &mut History::default(), 0).action.step();
        // With less memory more is needed, so reclaim may be found too little: then it is a kill.
        prop_assert!(step(less) >= step(more), "{:?} of {less}, {:?} of {more}", step(less), step(more));
    }

    #[test]
    fn an_episode_ends(rows in rows(), available in 0..TOTAL) {
        let (policy, mut history) = (policy(), History::default());
        let (mut rows, mut available, mut now) = (rows, available, 0);
        for _ in 0..200 {
            let verdict = judged(&policy, available, &rows, &mut history, now);
            let outcome = match verdict.action {
                Action::Nothing => return Ok(()),
                Action::Reclaim { target, bytes } => {
                    available += bytes;
                    for row in rows.iter_mut().filter(|r| r.id == target.id) { row.file -= bytes.min(row.file); }
                    Outcome::reclaimed(bytes)
                }
                Action::Kill { target } => {
                    available += target.freed_by_kill();
                    rows.retain(|r| r.id != target.id);
                    KILLED
                }
                other => { prop_assert!(false, "{other:?}"); return Ok(()); }
            };
            history.record(&policy, &verdict, &[outcome]);
            if let Some(target) = verdict.action.target() { history.record_exit(target.id, Some(&memory(available)), now); }
            now += 10;
        }
        prop_assert!(false, "still acting after 200 steps");
    }

    #[test]
    fn after_relief_it_does_nothing_until_the_next_confirm(rows in rows()) {
        let (policy, mut history) = (policy(), History::default());
        let verdict = judged(&policy, 8 * MIB, &rows, &mut history, 0);
        let outcome = verdict.action.target().map(|_| Outcome::reclaimed(MIB));
        history.record(&policy, &verdict, outcome.as_slice());
        let relieved = judged(&policy, TOTAL / 5, &rows, &mut history, 100);
        prop_assert_eq!(relieved.action, Action::Nothing);
        history.record(&policy, &relieved, &[]);
        // Between the marks nothing starts again: no flapping.
        let between = judged(&policy, TOTAL * 14 / 100, &rows, &mut history, 200);
        prop_assert_eq!(between.action, Action::Nothing);
    }

    #[test]
    fn nobody_is_held_back_twice_in_an_episode(growth in prop::collection::vec((0..4 * MIB, 0..4 * MIB, 5..300u64), 1..60)) {
        let (mut policy, mut history) = (throttling(), History::default());
        policy.levels[1].actions = heapless::Vec::from_slice(&[Step::Throttle]).unwrap();
        let (mut now, mut sizes, mut held) = (0, [20 * MIB; 3], Vec::new());
        for (a, b, ms) in growth {
            // The last one is never killed, and so never touched.
            let mut rows = [media(7, sizes[0]), media(8, sizes[1]), media(9, sizes[2])];
            rows[2].rule.kill = NEVER;
            let verdict = judged(&policy, 8 * MIB, &rows, &mut history, now);
            let outcome = verdict.action.target().map(|target| {
                held.push(target.id);
                Outcome::DONE
            });
            history.record(&policy, &verdict, outcome.as_slice());
            now += ms;
            sizes = [sizes[0] + a, sizes[1] + b, sizes[2] + 4 * MIB];
        }
        held.sort_unstable();
        prop_assert!(held.is_empty() || held == [7] || held == [8] || held == [7, 8], "{:?}", held);
    }

    #[test]
    fn the_ranking_of_all_is_the_order_in_which_the_judge_takes_them(rows in anonymous()) {
        let mut outlook = Outlook::new(&policy(), &memory(TOTAL / 2));
        let mut ranking: Vec<_> = rows.iter().map(Judged::new).collect();
        let look = outlook.look();
        let worth = look.worth();
        look.rank_kill(&mut ranking);
        let mut left = rows;
        for ranked in ranking {
            match outlook.look().judge(&survey(&left, worth), &[0; CANDIDATES]).action {
                Action::Kill { target } => prop_assert_eq!(target, ranked.row),
                _ => prop_assert!(matches!(ranked.reason, Reason::Never | Reason::FreesNothing)),
            }
            left.retain(|row| row.id != ranked.row.id);
        }
    }
}
