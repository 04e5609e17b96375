//! What the rules say about one memcg of a walk: the same for all programs.

use lowtide_common::{Above, MAX_DEPTH, NEVER, Request, Row, Rule};

/// What may be done to a memcg as it stands.
pub struct Placed {
    /// It has no rule yet, and so has nothing below it.
    pub new: bool,
    pub killable: bool,
    /// It would be, but its rule says never.
    pub never: bool,
    pub reclaimable: bool,
}

/// Finds the rule in force for a row whose `id` and `level` are known, given what is `listed` for it;
/// `above` is kept by level, for the memcgs below.
#[inline(always)]
pub fn place(row: &mut Row, above: &mut [Above; MAX_DEPTH], request: &Request, listed: Option<Rule>, leaf: bool, populated: bool) -> Placed {
    let level = (row.level as usize).min(MAX_DEPTH - 2);
    let new = listed.is_none() && level > 0 && row.id > request.classified_up_to;
    let own = listed.filter(|rule| rule.flags & Rule::INHERIT == 0);
    let (over, own) = request.begins_at(row.id, above[level], own);
    let child = over.child(row.id, own, new);
    above[level + 1] = child;
    row.parent = over.id;
    row.flags = over.row_flags(own, leaf, populated);
    row.rule = child.rule;
    let may = |flag| child.is_decided() && row.flags & flag != 0;
    Placed {
        new,
        killable: may(Row::KILLABLE) && row.rule.kill != NEVER,
        never: may(Row::KILLABLE) && row.rule.kill == NEVER,
        reclaimable: may(Row::RECLAIMABLE) && row.rule.reclaim != NEVER,
    }
}
