//! What a name may protect: one that any user can choose is no reason to spare anything.

use lowtide_common::Rule;

/// A rule that a pattern gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruled {
    pub rule: Rule,
    /// What the pattern matched was chosen by somebody with rights: it may be protected, too.
    pub trusted: bool,
}

impl Ruled {
    pub const NEVER: Self = Self {
        rule: Rule::UNTOUCHABLE,
        trusted: true,
    };
}

/// Who chose what a cgroup is called and marked with. Whoever may write a directory names what is in
/// it, and marks the directory itself: a name or an attribute that somebody without rights could have
/// chosen lets nothing go later than it would without.
#[derive(Clone, Copy, Debug)]
pub struct Chosen {
    /// The name of each cgroup on the path was chosen by root.
    pub path_by_root: bool,
    /// So were its attributes.
    pub marks_by_root: bool,
    /// The rule that it has without any.
    pub above: Rule,
}

impl Chosen {
    /// All of it.
    pub const BY_ROOT: Self = Self {
        path_by_root: true,
        marks_by_root: true,
        above: Rule::UNTOUCHABLE,
    };
}

/// Priorities by whose turn comes first, the highest first: `never` is the last, though its number is
/// the highest.
pub const fn turn(priority: u16) -> u16 {
    priority.wrapping_add(1)
}
