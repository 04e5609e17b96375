//! The order in which candidates go, and what speaks against each.

use crate::evidence::Memory;
use crate::history::window;
use crate::look::Look;
use crate::policy::{Amount, LevelPolicy, Policy, Step};
use crate::verdict::{Judged, Reason};
use core::cmp::Reverse;
use lowtide_common::{NEVER, Row, key, without_size};

/// What gives less is not worth the disturbance, however little is missing.
pub(crate) const WORTHWHILE: u64 = 256 * 1024;

impl Look<'_> {
    /// Gives every row the reason why it is killed or not, and sorts them, the chosen one first.
    /// For any number of rows; a verdict has those of its survey.
    pub fn rank_kill(&self, judged: &mut [Judged]) {
        let (worth, asked) = (self.worth(), self.history.asked());
        let since = window(self.policy, self.now);
        for j in judged.iter_mut() {
            j.frees = self.frees(&j.row);
            j.returns = self.history.ends.returns(&j.row, j.name, since);
            j.reason = self.kill_objection(j);
        }
        let is_asked = |j: &Judged| Some(j.row.id) == asked;
        judged.sort_unstable_by_key(|j| {
            let turn = match j.reason {
                // It shrinks while it exits: that must not make room for a second victim.
                Reason::Chosen | Reason::FreesNothing if is_asked(j) => 0,
                Reason::Chosen => 1,
                _ => 2_u8,
            };
            // The order of the engines; among equals of it, what loops goes before what frees more.
            let key = key(j.row.rule.kill_turn(), j.frees, worth);
            (
                turn,
                Reverse(without_size(key)),
                !self.loops(j),
                Reverse(key),
                j.row.id,
            )
        });
        if let Some(first) = judged.first_mut()
            && first.reason == Reason::FreesNothing
            && is_asked(first)
        {
            first.reason = Reason::Chosen;
        }
        self.explain_order(
            worth,
            |row| row.rule.kill,
            |row| row.rule.kill_turn(),
            judged,
        );
    }

    /// The same for reclaim.
    pub fn rank_reclaim(&self, worth: u64, judged: &mut [Judged]) {
        for j in judged.iter_mut() {
            j.frees = j.row.reclaimable_file();
            j.reason = self.reclaim_objection(&j.row);
        }
        judged.sort_unstable_by_key(|j| {
            (
                j.reason != Reason::Chosen,
                Reverse(j.row.reclaim_key(worth)),
                j.row.id,
            )
        });
        let priority = |row: &Row| row.rule.reclaim;
        self.explain_order(worth, priority, priority, judged);
    }

    /// Whether it came back as often as the policy lets pass.
    pub(crate) fn loops(&self, judged: &Judged) -> bool {
        self.policy.restarts > 0 && judged.returns >= self.policy.restarts
    }

    /// Bytes that come back when it ends. A file in a tmpfs that is not mapped outlives its writer:
    /// it counts only for what grows by it right now, as nothing but its end stops that.
    fn frees(&self, row: &Row) -> u64 {
        let stays = row.shmem.saturating_sub(row.file_mapped);
        if self.history.shmem_growth(row, self.now) >= WORTHWHILE {
            return row.freed_by_kill();
        }
        row.freed_by_kill().saturating_sub(stays)
    }

    /// Why those behind the first are not it.
    fn explain_order(
        &self,
        worth: u64,
        priority: impl Fn(&Row) -> u16,
        turn: impl Fn(&Row) -> u16,
        judged: &mut [Judged],
    ) {
        let Some((best, others)) = judged.split_first_mut() else {
            return;
        };
        if best.reason != Reason::Chosen {
            return;
        }
        for j in others.iter_mut().filter(|j| j.reason == Reason::Chosen) {
            j.reason = if best.frees >= worth && j.frees < worth {
                Reason::TooLittle
            } else if priority(&j.row) < priority(&best.row) {
                Reason::LowerPriority
            } else if turn(&j.row) < turn(&best.row) {
                Reason::Avoided
            } else if self.loops(best) && !self.loops(j) {
                Reason::Steady
            } else {
                Reason::FreesLess
            };
        }
    }

    /// What speaks against killing it, or `Chosen` when nothing does.
    fn kill_objection(&self, judged: &Judged) -> Reason {
        let row = &judged.row;
        let since = window(self.policy, self.now);
        let tried = self.history.attempt(row.id, Step::Kill);
        if row.rule.kill == NEVER || row.level == 0 {
            Reason::Never
        } else if judged.frees < WORTHWHILE {
            Reason::FreesNothing
        } else if tried.is_some_and(|until| self.now < until) {
            Reason::Stuck
        } else if self.history.ends.was_in_vain(row, judged.name, since) {
            Reason::InVain
        } else {
            Reason::Chosen
        }
    }

    /// The same for reclaim.
    fn reclaim_objection(&self, row: &Row) -> Reason {
        let tried = self.history.attempt(row.id, Step::Reclaim);
        if row.rule.reclaim == NEVER || row.level == 0 {
            Reason::Never
        } else if row.reclaimable_file() < WORTHWHILE {
            Reason::FreesNothing
        } else if tried.is_some_and(|until| self.now < until) {
            Reason::Stuck
        } else if self.history.caches.is_read_back(row) {
            Reason::ReadBack
        } else {
            Reason::Chosen
        }
    }
}

pub(crate) fn chosen(judged: &[Judged]) -> Option<Row> {
    judged
        .first()
        .filter(|j| j.reason == Reason::Chosen)
        .map(|j| j.row)
}

impl LevelPolicy {
    /// Bytes missing to the relief mark: what an action should bring. At least [`WORTHWHILE`], so
    /// that there is always something to ask for.
    pub(crate) fn enough(&self, memory: &Memory) -> u64 {
        self.relief
            .available_mark(memory.total)
            .or(self.confirm.available_mark(memory.total))
            .unwrap_or(0)
            .saturating_sub(memory.available)
            .max(WORTHWHILE)
    }
}

impl Policy {
    /// Bytes missing to the relief mark of the highest level that does anything.
    pub fn enough(&self, memory: &Memory) -> u64 {
        let mut levels = self.levels.iter().rev();
        levels
            .find(|level| !level.actions.is_empty())
            .map_or(WORTHWHILE, |level| level.enough(memory))
    }

    /// Bytes that one victim or cache has to bring at least where `enough` are missing: what brings
    /// less comes last. At least [`WORTHWHILE`].
    pub fn worth(&self, enough: u64) -> u64 {
        Amount::Permyriad(self.worth_permyriad)
            .of(enough)
            .max(WORTHWHILE)
    }
}
