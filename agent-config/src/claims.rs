//! Which patterns belong to which group.

use super::model::Document;
use super::problem::{Problem, Problems};
use super::read::{Set, Setting};
use super::source::{Root, Sources};
use super::value::{Process, User};
use lowtide_common::NEVER;
use lowtide_judge::Policy;
use lowtide_rules::Layer;
use lowtide_rules::{At, AttributePattern, Glob, GlobPattern, Matcher, ProcessPattern};
use std::cell::OnceCell;

/// The kernel keeps this much of a process's name (TASK_COMM_LEN without the end).
const COMM: usize = 15;

/// Gathers the patterns of all groups. Users are those of `root`.
pub(super) fn matcher(
    document: &Document,
    policy: &Policy,
    sources: &Sources,
    root: &Root,
    problems: &mut Problems,
) -> Matcher {
    let mut claims = Claims {
        sources,
        problems,
        root,
        passwd: OnceCell::new(),
    };
    claims.matcher(document, policy)
}

/// Id of the users' group whose members may ask the agent. One that `root` does not have is said: nobody but root may
/// ask then.
pub(super) fn askers(
    document: &Document,
    sources: &Sources,
    root: &Root,
    problems: &mut Problems,
) -> Option<u32> {
    let set = document.status.group.as_ref()?;
    let name = set.value.0.as_str();
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let path = root.join("etc/group");
    let found = match root.read(&path) {
        // group(5): name, password, id, members.
        Ok(text) => id_of(&text, name).ok_or_else(|| "no such group here".to_owned()),
        Err(why) => Err(format!("{}: {why}", path.display())),
    };
    found
        .map_err(|why| {
            problems.warning(|| {
                let message = format!("{name:?}: {why}, so root alone may ask the agent");
                Problem::at(sources, set.at, "status.group", message)
            });
        })
        .ok()
}

/// The number in the third field of the line that begins with `name`, as in passwd(5) and group(5).
fn id_of(text: &str, name: &str) -> Option<u32> {
    let entries = text.lines().map(|line| line.split(':'));
    entries
        .filter_map(|mut fields| (fields.next() == Some(name)).then_some(fields))
        .find_map(|mut fields| fields.nth(1)?.parse().ok())
}

/// Drops the patterns that a group of a higher layer has taken over: they never count.
pub(super) fn drop_taken_over(document: &mut Document, sources: &Sources) {
    let groups = &mut document.group.0;
    let cgroups = groups.iter_mut().filter_map(|(_, g)| g.cgroups.as_mut());
    let lists: Vec<_> = cgroups.map(|set| &mut set.value.0).collect();
    drop_from(lists, sources, Glob::same_as);
    let containers = groups.iter_mut().filter_map(|(_, g)| g.containers.as_mut());
    let lists: Vec<_> = containers.map(|set| &mut set.value.0).collect();
    drop_from(lists, sources, Glob::same_as);
    let processes = groups.iter_mut().filter_map(|(_, g)| g.processes.as_mut());
    let lists: Vec<_> = processes.map(|set| &mut set.value.0).collect();
    drop_from(lists, sources, Process::same_as);
}

/// `lists` are of different groups.
fn drop_from<T: Clone>(
    mut lists: Vec<&mut Vec<Set<T>>>,
    sources: &Sources,
    same: impl Fn(&T, &T) -> bool,
) {
    let claims: Vec<(usize, Set<T>)> = lists
        .iter()
        .enumerate()
        .flat_map(|(i, list)| list.iter().map(move |set| (i, set.clone())))
        .collect();
    let layer = |set: &Set<T>| sources.layer(set.at.source);
    for (i, list) in lists.iter_mut().enumerate() {
        list.retain(|own| {
            !claims.iter().any(|(j, claim)| {
                *j != i && layer(claim) > layer(own) && same(&claim.value, &own.value)
            })
        });
    }
}

struct Claims<'a> {
    sources: &'a Sources,
    problems: &'a mut Problems,
    root: &'a Root,
    passwd: OnceCell<Result<String, String>>,
}

impl Claims<'_> {
    fn error(&mut self, at: At, key: &str, message: impl Into<String>) {
        self.problems
            .error(|| Problem::at(self.sources, at, key, message));
    }

    fn matcher(&mut self, document: &Document, policy: &Policy) -> Matcher {
        let mut attributes: Vec<AttributePattern> = Vec::new();
        let mut containers: Vec<GlobPattern> = Vec::new();
        let mut cgroups: Vec<GlobPattern> = Vec::new();
        let mut processes: Vec<ProcessPattern> = Vec::new();
        for (index, (_, table)) in document.group.0.iter().enumerate() {
            // A policy holds no more than GROUPS.
            let group = index as u16;
            if let Some(set) = &table.xattr {
                let (name, value, at) = (set.value.name.clone(), set.value.value.clone(), set.at);
                let layer = self.sources.layer(at.source);
                let rival = attributes
                    .iter()
                    .filter(|p| p.group != group && p.layer == layer)
                    .find(|p| p.name == name && p.value == value);
                self.contested("group.xattr", at, rival.map(|p| p.at));
                attributes.push(AttributePattern {
                    name,
                    value,
                    group,
                    at,
                    layer,
                });
            }
            for set in table.containers.iter().flat_map(|globs| &globs.value.0) {
                let pattern = self.glob("group.containers", set, group, &containers);
                containers.push(pattern);
            }
            for set in table.cgroups.iter().flat_map(|globs| &globs.value.0) {
                let pattern = self.glob("group.cgroups", set, group, &cgroups);
                if policy.group(group).kill == NEVER {
                    self.anywhere(&pattern.glob, pattern.at, pattern.layer);
                }
                cgroups.push(pattern);
            }
            for set in table.processes.iter().flat_map(|list| &list.value.0) {
                let others = table.processes.iter().flat_map(|list| &list.value.0);
                let Some(pattern) = self.process(set, group, others) else {
                    continue;
                };
                let rival = processes
                    .iter()
                    .filter(|p| p.group != group && p.layer == pattern.layer)
                    .find(|p| p.same_as(&pattern));
                self.contested("group.processes", set.at, rival.map(|p| p.at));
                if policy.group(group).kill == NEVER {
                    self.of_root_alone(&pattern);
                }
                processes.push(pattern);
            }
        }
        Matcher::new(policy, attributes, containers, cgroups, processes)
    }

    /// A pattern of a list, with an error where one of `others` is the same.
    fn glob(
        &mut self,
        key: &str,
        set: &Set<Glob>,
        group: u16,
        others: &[GlobPattern],
    ) -> GlobPattern {
        let (glob, at) = (set.value.clone(), set.at);
        let layer = self.sources.layer(at.source);
        let rival = others
            .iter()
            .filter(|p| p.group != group && p.layer == layer)
            .find(|p| p.glob.same_as(&glob));
        self.contested(key, at, rival.map(|p| p.at));
        GlobPattern {
            glob,
            group,
            at,
            layer,
        }
    }

    /// Two groups cannot have the same pattern, unless a higher layer takes it over.
    fn contested(&mut self, key: &str, at: At, rival: Option<At>) {
        if let Some(rival) = rival {
            let first = self.sources.origin(rival);
            let message = format!("another group has the same pattern, at {first}");
            self.error(at, key, message);
        }
    }

    fn warn(&mut self, at: At, key: &str, message: String) {
        self.problems
            .warning(|| Problem::at(self.sources, at, key, message));
    }

    /// Whether it is in a file of the device, and not in one that is shipped.
    fn is_own(&self, at: At) -> bool {
        matches!(self.sources.layer(at.source), Layer::Device(_))
    }

    /// A protection that begins with `**/` is whoever's makes a cgroup of that name.
    fn anywhere(&mut self, glob: &Glob, at: At, layer: Layer) {
        let written = glob.as_written();
        if matches!(layer, Layer::Device(_)) && written.trim_start_matches('/').starts_with("**/") {
            let message = format!(
                "`{written}` protects a cgroup of that name wherever it is, also in a container with \
                 a tree of its own: begin with where services are put, as in `system.slice/…`"
            );
            self.warn(at, "group.cgroups", message);
        }
    }

    /// A name protects root's processes alone, unless a user is named with it. What is built in is
    /// root's everywhere, or has its users named there.
    fn of_root_alone(&mut self, pattern: &ProcessPattern) {
        let written = [&pattern.name, &pattern.exe].into_iter().flatten().next();
        let Some(written) = written.map(Glob::as_written) else {
            return;
        };
        let known = self.sources.built_in().contains(&format!("\"{written}\""));
        if pattern.uid.is_none() && !known && self.is_own(pattern.at) {
            let key = if pattern.name.is_some() {
                "name"
            } else {
                "exe"
            };
            let message = format!(
                "`{written}` protects root's processes alone, as anybody can have that name: for \
                 those of another user write {{ {key} = \"{written}\", user = \"…\" }}, \
                 for root's user = \"root\""
            );
            self.warn(pattern.at, "group.processes", message);
        }
    }

    /// `all` are those of the same group.
    fn process<'s>(
        &mut self,
        set: &Set<Process>,
        group: u16,
        mut all: impl Iterator<Item = &'s Set<Process>>,
    ) -> Option<ProcessPattern> {
        let glob = |setting: &Setting<Glob>| setting.as_ref().map(|s| s.value.clone());
        let table = &set.value;
        if table.name.is_none() && table.exe.is_none() && table.user.is_none() {
            self.error(
                set.at,
                "group.processes",
                "neither `name`, `exe` nor `user`",
            );
            return None;
        }
        if let Some(name) = &table.name
            && name.value.literal().is_some_and(|n| n.len() > COMM)
        {
            self.error(
                name.at,
                "group.processes",
                format!(
                    "the kernel keeps {COMM} bytes of a process's name: shorten it, or use `exe`"
                ),
            );
        }
        let uid = match &table.user {
            None => None,
            Some(set) => match &set.value {
                User::Id(id) => Some(*id),
                User::Name(name) => match self.user(name) {
                    Ok(id) => Some(id),
                    // What is shipped names users of more systems than any one device is; and where
                    // a process is named for several users, not all of them are here.
                    Err(_)
                        if !self.is_own(set.at)
                            || all.any(|other| is_instead_of(&other.value, table)) =>
                    {
                        return None;
                    }
                    Err(why) => {
                        let message = format!("{why}; the pattern matches nothing");
                        self.problems.warning(|| {
                            Problem::at(self.sources, set.at, "group.processes.user", message)
                        });
                        return None;
                    }
                },
            },
        };
        Some(ProcessPattern {
            name: glob(&table.name),
            exe: glob(&table.exe),
            uid,
            group,
            at: set.at,
            layer: self.sources.layer(set.at.source),
        })
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        // Also where there is no such file.
        if name == "root" {
            return Ok(0);
        }
        let passwd = self.passwd.get_or_init(|| {
            let path = self.root.join("etc/passwd");
            let text = self.root.read(&path);
            text.map_err(|why| format!("{}: {why}", path.display()))
        });
        id_of(passwd.as_ref()?, name).ok_or_else(|| "no such user here".to_owned())
    }
}

/// Whether a pattern takes the name of another one as well, as that of another user.
fn is_instead_of(other: &Process, table: &Process) -> bool {
    let (Some(name), Some(others)) = (&table.name, &other.name) else {
        return false;
    };
    let user = |process: &Process| process.user.as_ref().map(|user| user.value.clone());
    user(other) != user(table) && others.value.matches(name.value.as_written().as_bytes())
}
