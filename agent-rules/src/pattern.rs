//! Globs on cgroup paths, program paths and process names.

use fast_glob::ErrorKind;
use std::cmp::Ordering;

/// Longest pattern; cgroup paths on devices are a fraction of it.
const MAX: usize = 256;

/// A glob: `*` and `?` within one component, `**` over any number of components, `[a-z]`,
/// `{a,b}`; everything else, a backslash too, stands for itself (systemd names cgroups with
/// `\x2d`). A slash at the start or the end means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    written: Box<str>,
    /// As `fast_glob` wants it.
    pattern: Box<str>,
    literal: bool,
    /// Bytes that stand for themselves.
    weight: usize,
}

impl Glob {
    /// The error says what is wrong with it.
    pub fn new(written: &str) -> Result<Self, String> {
        let trimmed = written.trim_matches('/');
        if trimmed.is_empty() {
            return Err("an empty pattern matches nothing".to_owned());
        }
        if trimmed.len() > MAX {
            return Err(format!("a pattern longer than {MAX} bytes"));
        }
        if trimmed.chars().any(char::is_control) {
            return Err("a control character in a pattern".to_owned());
        }
        let mut pattern = trimmed.replace('\\', "\\\\");
        if pattern.starts_with('!') {
            pattern.insert(0, '\\');
        }
        fast_glob::validate(&pattern).map_err(|e| said(e.kind).to_owned())?;
        Ok(Self {
            written: written.into(),
            pattern: pattern.into(),
            literal: !trimmed.contains(['*', '?', '[', '{']),
            weight: weight(trimmed),
        })
    }

    pub fn as_written(&self) -> &str {
        &self.written
    }

    /// The literal text that it stands for, where it is one.
    pub fn literal(&self) -> Option<&str> {
        self.literal.then(|| self.written.trim_matches('/'))
    }

    /// Whether it is the same pattern, however it is written.
    pub fn same_as(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }

    /// `text` without slashes around it; any bytes, as names are.
    pub fn matches(&self, text: &[u8]) -> bool {
        match self.literal() {
            Some(literal) => literal.as_bytes() == text,
            None => fast_glob::glob_match(&*self.pattern, text),
        }
    }

    /// Says which of two that match the same text is the more specific: `Greater` when it is
    /// `self`. A literal beats a glob, more literal bytes beat fewer.
    pub fn specificity(&self, other: &Self) -> Ordering {
        (self.literal, self.weight).cmp(&(other.literal, other.weight))
    }
}

/// In the words of this dialect, where a backslash escapes nothing.
const fn said(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::UnclosedBrace => "a `{` without its `}`; `[{]` is the character itself",
        ErrorKind::UnclosedBracket => "a `[` without its `]`; `[[]` is the character itself",
        ErrorKind::TrailingBackslash => "a backslash at the end",
        ErrorKind::BraceNestingTooDeep => "`{` nested deeper than 10 levels",
        ErrorKind::TooManyBraceGroups => "more than 10 `{`",
        _ => "not a pattern",
    }
}

/// Bytes outside wildcards, classes and alternatives.
fn weight(pattern: &str) -> usize {
    let (mut weight, mut depth) = (0, 0_usize);
    for byte in pattern.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'*' | b'?' => {}
            _ if depth == 0 => weight += 1,
            _ => {}
        }
    }
    weight
}
