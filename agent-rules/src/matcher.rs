//! Which group a cgroup or a process belongs to. Matching neither allocates nor fails.

use super::pattern::Glob;
use super::place::{At, Layer};
use super::preference::Preference;
use super::trust::{Chosen, Ruled, turn};
use lowtide_common::{NEVER, NO_GROUP, Rule};
use lowtide_judge::{Policy, Unit};
use std::cmp::{Ordering, Reverse};
use std::ffi::{CStr, CString};
use std::fmt;

/// Longest value of an attribute that is compared.
pub const ATTRIBUTE: usize = 64;

/// In the place of an attribute's name, which begins with `user.`: what the container in the cgroup is
/// called.
pub const CONTAINER: &CStr = c"container";

/// Longest name of a container.
pub const CONTAINER_NAME: usize = 128;

/// Reads an extended attribute of the cgroup in question, or for [`CONTAINER`] the name of its
/// container, into the buffer; `None` when it has none of that name.
pub type Lookup<'a> = &'a mut dyn FnMut(&CStr, &mut [u8]) -> Option<usize>;

/// What is matched about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo<'a> {
    /// What the kernel calls it, as /proc/PID/comm has it.
    pub name: &'a [u8],
    /// Target of /proc/PID/exe; `None` where it cannot be read.
    pub exe: Option<&'a [u8]>,
    /// Effective user.
    pub uid: u32,
    /// It is root's, and not that of a container, whose root anybody may be.
    pub is_roots: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobPattern {
    pub glob: Glob,
    pub group: u16,
    pub at: At,
    pub layer: Layer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributePattern {
    pub name: CString,
    pub value: Option<String>,
    pub group: u16,
    pub at: At,
    pub layer: Layer,
}

impl AttributePattern {
    pub fn matches(&self, lookup: Lookup<'_>) -> bool {
        let mut buffer = [0; ATTRIBUTE];
        let Some(length) = lookup(&self.name, &mut buffer) else {
            return false;
        };
        self.value
            .as_ref()
            .is_none_or(|value| buffer.get(..length) == Some(value.as_bytes()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPattern {
    pub name: Option<Glob>,
    pub exe: Option<Glob>,
    pub uid: Option<u32>,
    pub group: u16,
    pub at: At,
    pub layer: Layer,
}

impl ProcessPattern {
    pub fn same_as(&self, other: &Self) -> bool {
        let same = |a: &Option<Glob>, b: &Option<Glob>| match (a, b) {
            (Some(a), Some(b)) => a.same_as(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same(&self.name, &other.name) && same(&self.exe, &other.exe) && self.uid == other.uid
    }

    pub fn matches(&self, process: &ProcessInfo<'_>) -> bool {
        let exe = process.exe.map(trimmed);
        self.name.as_ref().is_none_or(|g| g.matches(process.name))
            && self
                .exe
                .as_ref()
                .is_none_or(|g| exe.is_some_and(|e| g.matches(e)))
            && self.uid.is_none_or(|uid| uid == process.uid)
    }

    /// The program says more than the name, and the name more than the user.
    fn specificity(&self, other: &Self) -> Ordering {
        let globs = |a: &Option<Glob>, b: &Option<Glob>| match (a, b) {
            (Some(a), Some(b)) => a.specificity(b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        };
        globs(&self.exe, &other.exe)
            .then_with(|| globs(&self.name, &other.name))
            .then_with(|| self.uid.is_some().cmp(&other.uid.is_some()))
    }
}

impl fmt::Display for ProcessPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let globs = [&self.name, &self.exe].into_iter().flatten();
        let mut parts: Vec<_> = globs.map(|g| g.as_written().to_owned()).collect();
        parts.extend(self.uid.map(|uid| format!("user {uid}")));
        f.write_str(&parts.join(" + "))
    }
}

/// A match of a pattern.
#[derive(Clone, Copy)]
struct Claim {
    group: u16,
    /// What matched was chosen by somebody with rights.
    trusted: bool,
}

impl Claim {
    const fn new(group: u16, trusted: bool) -> Self {
        Self { group, trusted }
    }
}

/// The patterns of all groups, the most specific first; among equally specific ones that of the
/// higher layer, then that of the group that is killed last, so that a tie is never to the harm of
/// what matters more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    /// Of each group.
    rules: Vec<Rule>,
    pub attributes: Vec<AttributePattern>,
    /// On the names of containers.
    pub containers: Vec<GlobPattern>,
    pub cgroups: Vec<GlobPattern>,
    pub processes: Vec<ProcessPattern>,
}

impl Matcher {
    pub fn new(
        policy: &Policy,
        mut attributes: Vec<AttributePattern>,
        mut containers: Vec<GlobPattern>,
        mut cgroups: Vec<GlobPattern>,
        mut processes: Vec<ProcessPattern>,
    ) -> Self {
        let kill = |group: u16| {
            // `never` is last to be killed, though its number is the highest.
            policy.group(group).kill.wrapping_add(1)
        };
        attributes.sort_by_key(|p| (p.value.is_none(), Reverse(p.layer), kill(p.group)));
        for globs in [&mut containers, &mut cgroups] {
            globs.sort_by(|a, b| {
                b.glob
                    .specificity(&a.glob)
                    .then_with(|| b.layer.cmp(&a.layer))
                    .then_with(|| kill(a.group).cmp(&kill(b.group)))
            });
        }
        processes.sort_by(|a, b| {
            b.specificity(a)
                .then_with(|| b.layer.cmp(&a.layer))
                .then_with(|| kill(a.group).cmp(&kill(b.group)))
        });
        Self {
            rules: (0..policy.groups.len() as u16)
                .map(|group| rule(policy, group))
                .collect(),
            attributes,
            containers,
            cgroups,
            processes,
        }
    }

    /// The group of the cgroup at `path` (below the cgroup root) by a match of its own; `None` when
    /// it has none and belongs where its parent belongs.
    pub fn cgroup(&self, path: &[u8], attribute: Lookup<'_>) -> Option<u16> {
        let claim = self.claim_of_cgroup(path, &Chosen::BY_ROOT, attribute);
        claim.map(|claim| claim.group)
    }

    /// The same, but only what somebody with rights chose brings forward.
    fn claim_of_cgroup(
        &self,
        path: &[u8],
        chosen: &Chosen,
        attribute: Lookup<'_>,
    ) -> Option<Claim> {
        let path = trimmed(path);
        if path.is_empty() {
            return None;
        }
        let marks = self.attributes.iter();
        let mut marks = marks.map(|p| (p, Claim::new(p.group, chosen.marks_by_root)));
        let marked = marks
            .find(|(p, claim)| self.counts(*claim, chosen.above) && p.matches(&mut *attribute));
        let first = |globs: &[GlobPattern], name: &[u8]| {
            let mut claims = globs
                .iter()
                .map(|p| (p, Claim::new(p.group, chosen.path_by_root)));
            let counts = |claim: &Claim| self.counts(*claim, chosen.above);
            let named = claims.find(|(p, claim)| counts(claim) && p.glob.matches(name));
            named.map(|(_, claim)| claim)
        };
        marked
            .map(|(_, claim)| claim)
            .or_else(|| {
                if self.containers.is_empty() {
                    return None;
                }
                let mut name = [0; CONTAINER_NAME];
                let length = attribute(CONTAINER, &mut name)?;
                first(&self.containers, name.get(..length)?)
            })
            .or_else(|| first(&self.cgroups, path))
    }

    /// Whether a match counts for what has the rule `above` without it: what anybody could have
    /// chosen lets nothing go later.
    fn counts(&self, claim: Claim, above: Rule) -> bool {
        let rule = self.rules.get(usize::from(claim.group));
        claim.trusted || rule.is_some_and(|rule| turn(rule.kill) >= turn(above.kill))
    }

    /// What [`cgroup`](Self::cgroup) gives a cgroup, as far as somebody with rights chose it, and what
    /// systemd says of it.
    pub fn cgroup_rule(
        &self,
        path: &[u8],
        chosen: &Chosen,
        attribute: Lookup<'_>,
    ) -> Option<Ruled> {
        let claim = self.claim_of_cgroup(path, chosen, &mut *attribute);
        let own = claim.and_then(|claim| self.ruled(claim, chosen.above));
        match Preference::of(chosen, attribute) {
            Some(preference) => Some(preference.applied(own, chosen.above)),
            None => own,
        }
    }

    /// What [`process`](Self::process) gives a process.
    pub fn process_rule(&self, process: &ProcessInfo<'_>, above: Rule) -> Option<Ruled> {
        self.ruled(self.claim_of_process(process, above)?, above)
    }

    fn ruled(&self, claim: Claim, above: Rule) -> Option<Ruled> {
        let mut rule = *self.rules.get(usize::from(claim.group))?;
        if !claim.trusted && turn(rule.reclaim) < turn(above.reclaim) {
            rule.reclaim = above.reclaim;
        }
        Some(Ruled {
            rule,
            trusted: claim.trusted,
        })
    }

    /// The group of the nearest cgroup at or above `path` that has a glob, and the path of that
    /// cgroup. Attributes are not asked for.
    pub fn nearest<'p>(&self, path: &'p [u8]) -> Option<(u16, &'p [u8])> {
        let mut path = trimmed(path);
        loop {
            if let Some(group) = self.cgroup(path, &mut |_, _| None) {
                return Some((group, path));
            }
            path = &path[..path.iter().rposition(|b| *b == b'/')?];
        }
    }

    /// The group of a process by a pattern on processes, where it has the rule `above` without one.
    /// What it calls itself, and what it runs, protects only root's processes and those of a user
    /// whom the pattern names.
    pub fn process(&self, process: &ProcessInfo<'_>, above: Rule) -> Option<u16> {
        let claim = self.claim_of_process(process, above);
        claim.map(|claim| claim.group)
    }

    fn claim_of_process(&self, process: &ProcessInfo<'_>, above: Rule) -> Option<Claim> {
        let patterns = self.processes.iter();
        let mut patterns =
            patterns.map(|p| (p, Claim::new(p.group, p.uid.is_some() || process.is_roots)));
        let found = patterns.find(|(p, claim)| self.counts(*claim, above) && p.matches(process));
        found.map(|(_, claim)| claim)
    }

    /// What applies to a group.
    pub fn rule_of(&self, group: u16) -> Option<Rule> {
        self.rules.get(usize::from(group)).copied()
    }

    /// Whether any group asks for extended attributes.
    pub fn wants_attributes(&self) -> bool {
        !self.attributes.is_empty()
    }

    /// Whether any group asks for the program of a process.
    pub fn wants_programs(&self) -> bool {
        self.processes.iter().any(|p| p.exe.is_some())
    }

    /// Whether a group that is never killed asks for a process of this name, or for one by no name;
    /// without a name, whether it asks for any.
    pub fn may_spare(&self, name: Option<&[u8]>) -> bool {
        let is_never = |group| self.rule_of(group).is_some_and(|rule| rule.kill == NEVER);
        let fits = |glob: &Glob| name.is_none_or(|name| glob.matches(name));
        let mut patterns = self.processes.iter();
        patterns.any(|p| is_never(p.group) && p.name.as_ref().is_none_or(fits))
    }

    /// Whether any group asks for processes.
    pub fn wants_processes(&self) -> bool {
        !self.processes.is_empty()
    }
}

/// Without slashes around it.
fn trimmed(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] | [rest @ .., b'/'] = path {
        path = rest;
    }
    path
}

/// The rule of a group, or of everything else for [`NO_GROUP`].
pub fn rule(policy: &Policy, group: u16) -> Rule {
    let table = policy.group(group);
    let flags = match table.unit {
        // A unit begins where a pattern says so; what no pattern covers is killed leaf by leaf.
        Unit::Cgroup if group == NO_GROUP => 0,
        Unit::Cgroup => Rule::UNIT,
        Unit::Process => Rule::PROCESS,
    };
    Rule {
        kill: table.kill,
        reclaim: table.reclaim,
        group,
        flags,
    }
}
