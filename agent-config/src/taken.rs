//! Protection that a layer takes away from what a lower one had as `never`, mostly unawares: a list
//! takes the place of the one below it.

use super::model::{Document, Group};
use super::problem::{Problem, Problems};
use super::read::Set;
use super::source::Sources;
use super::value::{Attribute, Globs, Priority, Process};
use lowtide_common::NEVER;
use lowtide_rules::{At, Glob};
use std::fmt;

/// Patterns that are named in one warning.
const NAMED: usize = 12;

/// One entry of what says which cgroups and processes a group covers.
#[derive(Clone)]
enum Pattern {
    Cgroup(Glob),
    Container(Glob),
    Process(Process),
    Attribute(Attribute),
}

impl Pattern {
    fn key(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "cgroups",
            Self::Container(_) => "containers",
            Self::Process(_) => "processes",
            Self::Attribute(_) => "xattr",
        }
    }

    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cgroup(a), Self::Cgroup(b)) | (Self::Container(a), Self::Container(b)) => {
                a.same_as(b)
            }
            (Self::Process(a), Self::Process(b)) => a.same_as(b),
            (Self::Attribute(a), Self::Attribute(b)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(glob) | Self::Container(glob) => f.write_str(glob.as_written()),
            Self::Process(process) => write!(f, "{process}"),
            Self::Attribute(attribute) => write!(f, "{attribute}"),
        }
    }
}

fn is_never(group: &Group) -> bool {
    group
        .kill
        .as_ref()
        .is_some_and(|kill| kill.value == Priority(NEVER))
}

fn name(group: &Group) -> &str {
    group.name.as_ref().map_or("", |name| name.value.0.as_str())
}

/// What a group goes by, each with its place.
fn patterns(group: &Group) -> Vec<(At, Pattern)> {
    let globs = |list: &Option<Set<Globs>>, kind: fn(Glob) -> Pattern| {
        let globs = list.iter().flat_map(|list| &list.value.0);
        let globs = globs.map(|set| (set.at, kind(set.value.clone())));
        globs.collect::<Vec<_>>()
    };
    let mut all = globs(&group.cgroups, Pattern::Cgroup);
    all.extend(globs(&group.containers, Pattern::Container));
    let processes = group.processes.iter().flat_map(|list| &list.value.0);
    all.extend(processes.map(|set| (set.at, Pattern::Process(set.value.clone()))));
    let xattr = group.xattr.iter();
    all.extend(xattr.map(|set| (set.at, Pattern::Attribute(set.value.clone()))));
    all
}

/// Where a group says which it covers by this key.
fn place(group: &Group, key: &str) -> Option<At> {
    match key {
        "cgroups" => group.cgroups.as_ref().map(|set| set.at),
        "containers" => group.containers.as_ref().map(|set| set.at),
        "processes" => group.processes.as_ref().map(|set| set.at),
        _ => group.xattr.as_ref().map(|set| set.at),
    }
}

/// Patterns of the groups that are never killed, with the names of those.
#[derive(Default)]
pub(super) struct Protected(Vec<(String, Pattern)>);

/// Patterns that one place in a file takes away.
struct Lost<'a> {
    at: At,
    key: &'static str,
    group: &'a str,
    /// Its list took the place of the one that had them.
    by_list: bool,
    patterns: Vec<String>,
}

impl Protected {
    /// Adds what a document protects.
    pub fn note(&mut self, document: &Document) {
        for (_, group) in &document.group.0 {
            let mut group = group.clone();
            group.join_lists();
            if is_never(&group) {
                let owner = name(&group);
                let patterns = patterns(&group).into_iter();
                self.0
                    .extend(patterns.map(|(_, pattern)| (owner.to_owned(), pattern)));
            }
        }
    }

    /// Warns of what the whole of the config no longer protects.
    pub fn warn(&self, document: &Document, sources: &Sources, problems: &mut Problems) {
        let groups: Vec<_> = document.group.0.iter().map(|(_, group)| group).collect();
        let having = |group: &Group, wanted: &Pattern| {
            let mut patterns = patterns(group).into_iter();
            patterns.find(|(_, pattern)| pattern.same_as(wanted))
        };
        let mut lost: Vec<Lost<'_>> = Vec::new();
        for (owner, pattern) in &self.0 {
            let keeps = |group: &&Group| is_never(group) && having(group, pattern).is_some();
            if groups.iter().copied().any(|group| keeps(&group)) {
                continue;
            }
            let Some(group) = groups.iter().find(|group| name(group) == owner) else {
                continue;
            };
            let key = pattern.key();
            let mut others = groups.iter().filter(|group| name(group) != owner);
            let taker = others.find_map(|group| having(group, pattern));
            let list = place(group, key).filter(|_| is_never(group));
            let kill = group.kill.as_ref().map(|set| set.at);
            let cause = taker
                .map(|(at, _)| at)
                .or(if is_never(group) { list } else { kill });
            let Some(at) = cause else { continue };
            let shown = pattern.to_string();
            match lost.iter_mut().find(|l| l.at == at && l.key == key) {
                Some(known) if known.patterns.contains(&shown) => {}
                Some(known) => known.patterns.push(shown),
                None => lost.push(Lost {
                    at,
                    key,
                    group: name(group),
                    by_list: list == Some(at) && !matches!(pattern, Pattern::Attribute(_)),
                    patterns: vec![shown],
                }),
            }
        }
        for mut lost in lost {
            let (key, group) = (lost.key, lost.group);
            let more = lost.patterns.len().saturating_sub(NAMED);
            lost.patterns.truncate(NAMED);
            let mut list = lost.patterns.join(", ");
            if more > 0 {
                list += &format!(" and {more} more");
            }
            problems.warning(|| Problem {
                help: lost
                    .by_list
                    .then(|| format!("`{key}_add` adds to what {group} has")),
                ..Problem::at(
                    sources,
                    lost.at,
                    format!("group.{key}"),
                    format!("no longer protected as {group}: {list}"),
                )
            });
        }
    }
}
