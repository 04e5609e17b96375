#![allow(dead_code, reason = "each test file uses its own part")]
//! A device with 256 MiB and a policy like the shipped one.

use lowtide_common::{CANDIDATES, NO_GROUP, Row, Rule, Survey};
use lowtide_judge::*;

pub const MIB: u64 = 1 << 20;
pub const TOTAL: u64 = 256 * MIB;

fn level(below: Amount, above: Amount, actions: &[Step]) -> LevelPolicy {
    LevelPolicy {
        confirm: Condition::all(&[Term::AvailableBelow(below)]).unwrap(),
        relief: Condition::all(&[Term::AvailableAbove(above)]).unwrap(),
        actions: heapless::Vec::from_slice(actions).unwrap(),
    }
}

pub fn policy() -> Policy {
    use Amount::Permyriad as P;
    let group = |name: &str, kill, grace_ms| Group {
        name: heapless::String::try_from(name).unwrap(),
        kill,
        grace_ms,
        ..Group::everything_else()
    };
    Policy {
        levels: [
            level(P(1200), P(1600), &[Step::Reclaim]),
            level(
                P(400),
                P(800),
                &[Step::Reclaim, Step::Terminate, Step::Kill],
            ),
        ],
        groups: heapless::Vec::from_slice(&[group("media", 800, 0), group("asked", 900, 300)])
            .unwrap(),
        fallback: Group::everything_else(),
        quiet_ms: 3_000,
        exit_ms: 2_000,
        reclaim_ms: 300,
        worth_permyriad: 625,
        restarts: 3,
        restart_window_ms: 60_000,
        reboot_after_ms: 0,
    }
}

/// The same, but in place of reclaim the group `media` may be held back for a second, and then is
/// killed.
pub fn throttling() -> Policy {
    let mut policy = policy();
    policy.levels[1].actions = heapless::Vec::from_slice(&[Step::Throttle, Step::Kill]).unwrap();
    policy.groups[0].throttle_ms = 1_000;
    policy
}

/// A row of the group `media`.
pub fn media(id: u64, anon: u64) -> Row {
    let mut row = row(id, 800, anon, 0);
    row.rule.group = 0;
    row
}

pub fn memory(available: u64) -> Memory {
    Memory {
        total: TOTAL,
        available,
        file: TOTAL / 2,
        psi: true,
        ..Memory::default()
    }
}

pub fn row(id: u64, kill: u16, anon: u64, file: u64) -> Row {
    Row {
        id,
        parent: 1,
        usage: anon + file,
        anon,
        file,
        level: 1,
        flags: Row::POPULATED | Row::KILLABLE,
        rule: Rule {
            kill,
            reclaim: kill,
            group: NO_GROUP,
            flags: Rule::UNIT,
        },
        ..Row::ZERO
    }
}

/// A survey as an engine would rank these rows.
pub fn survey(rows: &[Row], worth: u64) -> Survey {
    let mut survey = Survey::EMPTY;
    let mut fill = |list: fn(&mut Survey) -> (&mut [Row; CANDIDATES], &mut u32),
                    key: &dyn Fn(&Row) -> u64,
                    keep: &dyn Fn(&Row) -> bool| {
        let mut rows: Vec<Row> = rows.iter().copied().filter(|r| keep(r)).collect();
        rows.sort_by_key(|r| (std::cmp::Reverse(key(r)), r.id));
        rows.truncate(CANDIDATES);
        let (into, len) = list(&mut survey);
        into[..rows.len()].copy_from_slice(&rows);
        *len = rows.len() as u32;
    };
    fill(
        |s| (&mut s.kill, &mut s.kill_len),
        &|r| r.kill_key(worth),
        &|r| r.rule.kill != lowtide_common::NEVER,
    );
    fill(
        |s| (&mut s.reclaim, &mut s.reclaim_len),
        &|r| r.reclaim_key(worth),
        &|r| r.rule.reclaim != lowtide_common::NEVER,
    );
    let never = rows.iter().filter(|r| r.rule.kill == lowtide_common::NEVER);
    survey.largest_never = never
        .max_by_key(|r| r.freed_by_kill())
        .copied()
        .unwrap_or(Row::ZERO);
    survey.highest_id = rows.iter().map(|r| r.id).max().unwrap_or(0);
    survey
}

pub const KILLED: Outcome = Outcome::DONE;
pub const ASKED: Outcome = Outcome::DONE;

/// Judges these rows on these figures.
pub fn judge(
    policy: &Policy,
    memory: &Memory,
    rows: &[Row],
    history: &mut History,
    now: Millis,
) -> Verdict {
    judge_named(policy, memory, rows, history, now, &|_| 0)
}

/// The same where rows have names; one is asked for only where it counts.
pub fn judge_named(
    policy: &Policy,
    memory: &Memory,
    rows: &[Row],
    history: &mut History,
    now: Millis,
    name: &dyn Fn(&Row) -> u64,
) -> Verdict {
    let look = history.look(policy, memory, now);
    let survey = survey(rows, look.worth());
    let mut names = [0; CANDIDATES];
    for (slot, row) in names.iter_mut().zip(survey.kill()) {
        if look.wants_name(row) {
            *slot = name(row);
        }
    }
    look.judge(&survey, &names)
}

/// Judges these rows with an alarm at `now`.
pub fn judged(
    policy: &Policy,
    available: u64,
    rows: &[Row],
    history: &mut History,
    now: Millis,
) -> Verdict {
    history.woken(now);
    judge(policy, &memory(available), rows, history, now)
}
