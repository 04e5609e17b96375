//! Where a walk stands, and what the rules say about the memcg there: the same for all programs.

use crate::kernel::{Memcg, Node};
use lowtide_common::{Above, MAX_DEPTH, Placed, Request, Row, Rule, copy};

/// State of one walk; too large for the stack.
pub struct Place {
    pub request: Request,
    /// Entry 0 stands above the root; that of level n is entry n + 1.
    above: [Above; MAX_DEPTH],
    /// The memcg that the walk has come to.
    pub row: Row,
    /// What else is known of it, see [`Node`].
    children: u64,
    pub populated: u64,
}

impl Place {
    /// A walk begins that ranks as `request` says.
    #[inline(always)]
    pub fn begin(&mut self, request: &Request) {
        copy(&mut self.request, request);
        self.above[0] = Above::root(&self.request);
    }

    /// The walk comes to a memcg; takes the figures that ranking needs of every one.
    #[inline(always)]
    pub fn enter(&mut self, node: Node, memcg: Memcg) {
        self.children = node.children();
        self.populated = node.populated();
        let row = &mut self.row;
        row.id = node.id;
        row.level = node.level;
        row.usage = memcg.usage();
        row.file = memcg.file();
        row.shmem = memcg.shmem();
        row.swap = memcg.swap();
    }

    /// Finds the rule in force for the row, given what is `listed` for it; those above are kept by level,
    /// for the memcgs below.
    #[inline(always)]
    pub fn place(&mut self, listed: Option<Rule>) -> Placed {
        let Self { request, above, row, .. } = self;
        let level = (row.level as usize).min(MAX_DEPTH - 2);
        let (leaf, populated) = (self.children == 0, self.populated != 0);
        let (child, placed) = above[level].place(request, row, listed, leaf, populated);
        above[level + 1] = child;
        placed
    }
}
