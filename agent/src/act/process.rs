//! The process of a cgroup that is meant where it is not the whole cgroup. Nothing here allocates.

use crate::config::{Loaded, rule};
use crate::sense::members::{Process, each_member};
use crate::sense::rule_within;
use crate::sense::tree::Tree;
use lowtide_common::{NEVER, NO_GROUP, Row, Rule};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use std::cmp::Reverse;
use std::io;

/// The rule of processes in the cgroup of a row that none of their own names.
pub fn rule_in(cgroup: &Row, config: &Loaded) -> Rule {
    let fallback = rule(&config.policy, NO_GROUP);
    rule_within(cgroup, fallback, &config.matcher)
}

/// The process of the cgroup, or below it, that is to go first, in the order of [`Row::kill_key`].
/// `ESRCH` where there is none that may go.
pub fn first(
    tree: &Tree,
    dir: BorrowedFd<'_>,
    cgroup: &Row,
    worth: u64,
    config: &Loaded,
) -> io::Result<Process> {
    let (mut best, mut left) = (None, u32::MAX);
    let rules = &config.matcher;
    let listed = each_member(
        dir,
        rule_in(cgroup, config),
        rules,
        tree,
        &mut left,
        &mut |member, process| {
            let key = (
                member.row.kill_key(worth),
                Reverse(process.pid.as_raw_pid()),
            );
            let may_go = member.row.rule.kill != NEVER && member.row.freed_by_kill() > 0;
            if may_go && best.as_ref().is_none_or(|(rank, _)| key > *rank) {
                best = Some((key, process));
            }
        },
    );
    // Where one could not be read, the first of the others goes.
    match best {
        Some((_, process)) => Ok(process),
        None => Err(listed.err().unwrap_or_else(|| Errno::SRCH.into())),
    }
}
