//! The commands of the user's that accompany a kill.

use super::model::{Document, Group, Ranks};
use super::read::Setting;
use super::value::Program;
use std::ffi::CString;

/// Of each group: the program and its arguments; empty for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    groups: Vec<Pair>,
    fallback: Pair,
    /// How long one may take before it is killed.
    pub limit_ms: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Pair {
    before: Vec<CString>,
    after: Vec<CString>,
}

impl Pair {
    /// What is not set is as in `fallback`.
    fn new(before: &Setting<Program>, after: &Setting<Program>, fallback: &Self) -> Self {
        let own = |setting: &Setting<Program>| setting.as_ref().map(|set| set.value.0.clone());
        Self {
            before: own(before).unwrap_or_else(|| fallback.before.clone()),
            after: own(after).unwrap_or_else(|| fallback.after.clone()),
        }
    }
}

impl Commands {
    pub(super) fn new(document: &Document, limit_ms: u32) -> Self {
        let Ranks { before, after, .. } = &document.everything_else;
        let fallback = Pair::new(before, after, &Pair::default());
        let group = |group: &Group| Pair::new(&group.before, &group.after, &fallback);
        Self {
            groups: document.group.0.iter().map(|(_, g)| group(g)).collect(),
            fallback,
            limit_ms,
        }
    }

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
