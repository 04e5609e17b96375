//! Which rules another config would have given the cgroups of a recording, and what a survey by them would
//! have found.

use lowtide::sense::tree::is_split_by;
use lowtide::tell::recording::{Cgroup, EXE, IS_ROOTS, Looked, NAME, USER};
use lowtide_common::{Above, CANDIDATES, NEVER, NO_GROUP, Request, Row, Rule, Survey};
use lowtide_config::{Loaded, Matcher, ProcessInfo, rule};
use lowtide_rules::Chosen;
use std::cmp::Reverse;
use std::collections::HashMap;

/// What is known of cgroups, and of processes, by id.
pub type Known = HashMap<u64, Cgroup>;

/// The survey that an engine would have made at this look by the rules of `config`: of all cgroups as the
/// last sample has them, with what the look itself found.
pub fn survey(
    config: &Loaded,
    known: &Known,
    sample: &[Row],
    looked: &Looked,
    worth: u64,
) -> Survey {
    let fallback = rule(&config.policy, NO_GROUP);
    let request = Request {
        worth,
        classified_up_to: u64::MAX,
        fallback,
        within: looked.memory.within,
        flags: 0,
        _reserved: 0,
    };
    let mut rows = merged(sample, looked);
    rows.sort_by_key(|row| (row.level, row.id));
    let own = own_rules(config, known, &rows, fallback);
    let over_root = Above::root(&request);
    let mut above = HashMap::<u64, Above>::new();
    let mut survey = Survey::EMPTY;
    let (mut kill, mut reclaim) = (Vec::new(), Vec::new());
    survey.highest_id = rows.iter().map(|row| row.id).max().unwrap_or(0);
    for row in &mut rows {
        let own = own.get(&row.id).copied();
        if row.flags & Row::PROCESS != 0 {
            let of_cgroup = above.get(&row.parent).map(|above| above.rule);
            row.rule = Rule {
                flags: Rule::PROCESS,
                ..own.or(of_cgroup).unwrap_or(row.rule)
            };
        } else {
            let over = above.get(&row.parent).unwrap_or(&over_root);
            let (over, own) = request.begins_at(row.id, *over, own);
            let here = over.child(row.id, own, false);
            let (leaf, populated) = (row.flags & Row::LEAF != 0, row.flags & Row::POPULATED != 0);
            row.flags = over.row_flags(own, leaf, populated);
            row.rule = here.rule;
            above.insert(row.id, here);
            if row.level > 0 {
                survey.memcgs += 1;
            }
        }
    }
    // Processes of a cgroup stand for it where they are ranked one by one.
    let apart = |row: &Row| {
        let is_of = |process: &Row| process.flags & Row::PROCESS != 0 && process.parent == row.id;
        row.flags & Row::PROCESS == 0
            && row.rule.flags & Rule::PROCESS != 0
            && rows.iter().any(is_of)
    };
    for row in &rows {
        let is_process = row.flags & Row::PROCESS != 0;
        let of_cgroup = above.get(&row.parent).map(|above| above.rule.flags);
        let counts = match of_cgroup {
            Some(flags) if is_process => flags & Rule::PROCESS != 0,
            _ => !apart(row),
        };
        if counts && row.flags & Row::KILLABLE != 0 {
            if row.rule.kill != NEVER {
                kill.push(*row);
            } else if row.freed_by_kill() > survey.largest_never.freed_by_kill() {
                survey.largest_never = *row;
            }
        }
        if row.flags & Row::RECLAIMABLE != 0 && row.rule.reclaim != NEVER {
            reclaim.push(*row);
        }
    }
    survey.kill_len = best(&mut survey.kill, kill, |row| row.kill_key(worth));
    survey.reclaim_len = best(&mut survey.reclaim, reclaim, |row| row.reclaim_key(worth));
    survey
}

/// The candidates of an engine's, as many as there is room for.
fn best(into: &mut [Row; CANDIDATES], mut rows: Vec<Row>, key: impl Fn(&Row) -> u64) -> u32 {
    rows.sort_by_key(|row| (Reverse(key(row)), row.id));
    rows.truncate(CANDIDATES);
    into[..rows.len()].copy_from_slice(&rows);
    rows.len() as u32
}

/// Figures of the look are newer than those of the sample, and what is at hand only there came since.
fn merged(sample: &[Row], looked: &Looked) -> Vec<Row> {
    let mut rows = sample.to_vec();
    let Some(survey) = &looked.survey else {
        return rows;
    };
    let never = Some(&survey.largest_never).filter(|row| row.id != 0);
    for row in survey.kill().iter().chain(survey.reclaim()).chain(never) {
        match rows.iter_mut().find(|other| other.id == row.id) {
            Some(other) => {
                // Whether anything is below it is known from all of them alone.
                let flags = other.flags & Row::LEAF | row.flags & !Row::LEAF;
                *other = Row { flags, ..*row };
            }
            None => rows.push(*row),
        }
    }
    rows
}

/// The rule of its own that each has by a pattern, units that hold others split up.
fn own_rules(config: &Loaded, known: &Known, rows: &[Row], fallback: Rule) -> HashMap<u64, Rule> {
    let mut own = HashMap::<u64, Rule>::new();
    // In force, parents first.
    let mut in_force = HashMap::<u64, Rule>::new();
    let parents: HashMap<u64, u64> = rows.iter().map(|row| (row.id, row.parent)).collect();
    for row in rows {
        let above = in_force.get(&row.parent).copied().unwrap_or(fallback);
        let found = known
            .get(&row.id)
            .and_then(|cgroup| rule_of(&config.matcher, cgroup, row, above));
        in_force.insert(row.id, found.unwrap_or(above));
        let Some(found) = found else { continue };
        own.insert(row.id, found);
        let mut ancestor = row.parent;
        while let Some(next) = parents.get(&ancestor) {
            if let Some(unit) = own.get_mut(&ancestor)
                && is_split_by(*unit, found)
            {
                unit.flags &= !Rule::UNIT;
            }
            ancestor = *next;
        }
    }
    own
}

fn rule_of(matcher: &Matcher, cgroup: &Cgroup, row: &Row, above: Rule) -> Option<Rule> {
    if cgroup.protected {
        return Some(Rule::UNTOUCHABLE);
    }
    let attribute = |name: &str| {
        let found = cgroup.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_slice())
    };
    if row.flags & Row::PROCESS != 0 {
        let user = attribute(USER).and_then(|user| std::str::from_utf8(user).ok()?.parse().ok());
        let process = ProcessInfo {
            name: attribute(NAME)?,
            exe: attribute(EXE),
            uid: user?,
            is_roots: attribute(IS_ROOTS).is_some(),
        };
        return matcher.process_rule(&process, above).map(|own| own.rule);
    }
    let chosen = Chosen {
        path_by_root: cgroup.path_by_root,
        marks_by_root: cgroup.marks_by_root,
        above,
    };
    let own = matcher.cgroup_rule(&cgroup.name, &chosen, &mut |name, buffer| {
        let value = attribute(name.to_str().ok()?)?;
        buffer.get_mut(..value.len())?.copy_from_slice(value);
        Some(value.len())
    });
    own.map(|own| own.rule)
}
