//! The commands of the user's that accompany a kill.

use std::ffi::CString;

/// Of each group: the program and its arguments; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    pub groups: Vec<Pair>,
    /// Of what no group covers.
    pub fallback: Pair,
    /// How long one may take before it is killed.
    pub limit_ms: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pair {
    pub before: Vec<CString>,
    pub after: Vec<CString>,
}

impl Hooks {
    fn pair(&self, group: u16) -> &Pair {
        let own = self.groups.get(usize::from(group));
        own.unwrap_or(&self.fallback)
    }

    /// What runs before one of this group is asked to stop or killed.
    pub fn before(&self, group: u16) -> &[CString] {
        &self.pair(group).before
    }

    /// What runs when it has ended.
    pub fn after(&self, group: u16) -> &[CString] {
        &self.pair(group).after
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        let mut all = self.groups.iter().chain([&self.fallback]);
        all.all(|pair| pair.before.is_empty() && pair.after.is_empty())
    }
}
