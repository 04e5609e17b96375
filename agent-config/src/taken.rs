//! Protection that a layer takes away from what a lower one had as `never`, mostly unawares: a list
//! takes the place of the one below it.

use super::model::{Document, Group};
use super::problem::{Problem, Problems};
use super::read::Set;
use super::source::Sources;
use super::value::{Priority, Process};
use lowtide_common::NEVER;
use lowtide_rules::{At, Glob};

/// Patterns that are named in one warning.
const NAMED: usize = 12;

/// Patterns of the groups that are never killed, with the names of those.
#[derive(Default)]
pub(super) struct Protected {
    cgroups: Vec<(String, Glob)>,
    processes: Vec<(String, Process)>,
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

fn globs(group: &Group) -> impl Iterator<Item = &Set<Glob>> {
    group.cgroups.iter().flat_map(|list| &list.value.0)
}

fn processes(group: &Group) -> impl Iterator<Item = &Set<Process>> {
    group.processes.iter().flat_map(|list| &list.value.0)
}

impl Protected {
    /// Adds what a document protects.
    pub fn note(&mut self, document: &Document) {
        for (_, group) in &document.group.0 {
            let mut group = group.clone();
            group.join_lists();
            if is_never(&group) {
                let owner = name(&group);
                self.cgroups
                    .extend(globs(&group).map(|g| (owner.to_owned(), g.value.clone())));
                self.processes
                    .extend(processes(&group).map(|p| (owner.to_owned(), p.value.clone())));
            }
        }
    }

    /// Warns of what the whole of the config no longer protects.
    pub fn warn(&self, document: &Document, sources: &Sources, problems: &mut Problems) {
        let groups = || document.group.0.iter().map(|(_, group)| group);
        let mut lost: Vec<(At, &str, &'static str, Vec<String>)> = Vec::new();
        let mut lose = |owner: &str, taker: Option<At>, key: &'static str, shown: String| {
            let Some(group) = groups().find(|group| name(group) == owner) else {
                return;
            };
            let list = match key {
                "cgroups" => group.cgroups.as_ref().map(|set| set.at),
                _ => group.processes.as_ref().map(|set| set.at),
            };
            let kill = group.kill.as_ref().map(|set| set.at);
            let cause = taker.or(if is_never(group) { list } else { kill });
            let Some(at) = cause else { return };
            let known = lost.iter_mut().find(|(a, _, k, _)| *a == at && *k == key);
            match known {
                Some((.., patterns)) if patterns.contains(&shown) => {}
                Some((.., patterns)) => patterns.push(shown),
                None => lost.push((at, name(group), key, vec![shown])),
            }
        };
        for (owner, glob) in &self.cgroups {
            let having = |group: &&Group| globs(group).any(|g| g.value.same_as(glob));
            if !groups().any(|group| is_never(group) && having(&group)) {
                let taker = groups()
                    .filter(|group| name(group) != owner.as_str())
                    .find(having);
                let taker = taker.and_then(|group| globs(group).find(|g| g.value.same_as(glob)));
                lose(
                    owner,
                    taker.map(|g| g.at),
                    "cgroups",
                    glob.as_written().to_owned(),
                );
            }
        }
        for (owner, process) in &self.processes {
            let having = |group: &&Group| processes(group).any(|p| p.value.same_as(process));
            if !groups().any(|group| is_never(group) && having(&group)) {
                let taker = groups()
                    .filter(|group| name(group) != owner.as_str())
                    .find(having);
                let taker =
                    taker.and_then(|group| processes(group).find(|p| p.value.same_as(process)));
                lose(owner, taker.map(|p| p.at), "processes", process.to_string());
            }
        }
        for (at, group, key, mut patterns) in lost {
            let more = patterns.len().saturating_sub(NAMED);
            patterns.truncate(NAMED);
            let mut list = patterns.join(", ");
            if more > 0 {
                list += &format!(" and {more} more");
            }
            let mut owners = groups().filter(|other| name(other) == group);
            let is_list = owners.any(|owner| {
                let lists = [
                    owner.cgroups.as_ref().map(|set| set.at),
                    owner.processes.as_ref().map(|set| set.at),
                ];
                lists.contains(&Some(at))
            });
            problems.warning(|| Problem {
                help: is_list.then(|| format!("`{key}_add` adds to what {group} has")),
                ..Problem::at(
                    sources,
                    at,
                    format!("group.{key}"),
                    format!("no longer protected as {group}: {list}"),
                )
            });
        }
    }
}
