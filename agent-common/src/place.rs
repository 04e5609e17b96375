//! What the rules say about one memcg of the walk.

use crate::{Above, NEVER, Request, Row, Rule};

/// What may be done to a memcg as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// It has no rule yet, and so has nothing below it.
    pub new: bool,
    pub killable: bool,
    /// It would be, but its rule says never.
    pub never: bool,
    pub reclaimable: bool,
}

impl Above {
    /// Finds the rule in force for a memcg right below this one, given what is `listed` for it: fills in
    /// parent, rule and flags of its `row`, which has its id and level. Returns what is above the memcgs
    /// below it, and what may be done to it.
    #[inline(always)]
    pub fn place(
        &self,
        request: &Request,
        row: &mut Row,
        listed: Option<Rule>,
        leaf: bool,
        populated: bool,
    ) -> (Self, Placed) {
        let new = listed.is_none() && row.level > 0 && row.id > request.classified_up_to;
        let own = listed.filter(|rule| rule.flags & Rule::INHERIT == 0);
        let (over, own) = request.begins_at(row.id, *self, own);
        let child = over.child(row.id, own, new);
        row.parent = over.id;
        row.flags = over.row_flags(own, leaf, populated);
        row.rule = child.rule;
        let (flags, rule) = (row.flags, row.rule);
        let may = |flag| child.is_decided() && flags & flag != 0;
        let placed = Placed {
            new,
            killable: may(Row::KILLABLE) && rule.kill != NEVER,
            never: may(Row::KILLABLE) && rule.kill == NEVER,
            reclaimable: may(Row::RECLAIMABLE) && rule.reclaim != NEVER,
        };
        (child, placed)
    }
}
