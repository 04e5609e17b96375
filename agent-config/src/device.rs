//! Whether a config can do anything on the device it is on.

use super::Loaded;
use super::problem::{Problem, Problems};
use super::source::Root;
use lowtide_common::{NEVER, NO_GROUP};
use lowtide_judge::{DOMAINS, Group, Level, Trigger};
use lowtide_rules::{At, CONTAINER, CONTAINER_NAME, Layer, ProcessInfo, escaped::Escaped};
use std::ffi::CStr;
use std::path::Path;

/// Unmatched patterns of one group that are named.
const NAMED: usize = 8;

/// What a device has to say to a config.
pub trait Device {
    /// Paths below the cgroup root, depth first; empty where there is no cgroup2.
    fn cgroups(&self) -> &[Vec<u8>];
    /// Reads an extended attribute of the cgroup at a path, or for [`CONTAINER`] the name of the
    /// container in it.
    fn attribute(&self, path: &[u8], name: &CStr, value: &mut [u8]) -> Option<usize>;
    /// Containers whose names cannot be known.
    fn unnamed_containers(&self) -> usize;
    fn has_process(&self, fits: &dyn Fn(&ProcessInfo<'_>) -> bool) -> bool;
    /// RAM in bytes.
    fn total(&self) -> u64;
    /// Arms a trigger on the system and drops it; the error says why the kernel refuses.
    fn arm(&self, trigger: &Trigger) -> Result<(), String>;
    /// Whether the cgroup at a path has a limit of its own.
    fn is_limited(&self, path: &[u8]) -> bool;
    /// Whether there is a program at a path that can be run.
    fn has_program(&self, path: &CStr) -> bool;
}

/// Whether it is meant for all devices of a kind.
fn is_shipped(layer: Layer) -> bool {
    matches!(layer, Layer::BuiltIn | Layer::Profile)
}

impl Loaded {
    /// What of the config cannot work on this device as it is now. Warnings only: services start
    /// later, and kernels are exchanged.
    pub fn idle_here(&self, device: &dyn Device) -> Problems {
        let mut problems = Problems::default();
        self.refused_trigger(device, &mut problems);
        self.marks(device.total(), &mut problems);
        self.protected(device.total(), &mut problems);
        self.unlimited(device, &mut problems);
        self.missing_programs(&|program| device.has_program(program), &mut problems);
        self.unmatched(device, &mut problems);
        self.unnamed(device, &mut problems);
        self.ties(device.cgroups(), &mut problems);
        self.all_never(device, &mut problems);
        problems
    }

    fn warn(&self, problems: &mut Problems, at: At, key: String, message: String) {
        problems.warning(|| Problem::at(&self.effective.sources, at, key, message));
    }

    fn refused_trigger(&self, device: &dyn Device, problems: &mut Problems) {
        let Some(set) = &self.effective.document.wake.trigger else {
            return;
        };
        if let Some(why) = set.value.0.and_then(|trigger| device.arm(&trigger).err()) {
            self.warn(problems, set.at, "wake.trigger".to_owned(), why);
        }
    }

    /// A trigger on a cgroup means something only where that has a limit; and there are only so
    /// many.
    fn unlimited(&self, device: &dyn Device, problems: &mut Problems) {
        let mut watched = 0;
        for (index, (_, table)) in self.effective.document.group.0.iter().enumerate() {
            let Some(set) = table.trigger.as_ref().filter(|set| set.value.0.is_some()) else {
                continue;
            };
            let own = |path: &&Vec<u8>| {
                let nearest = self.matcher.nearest(path);
                nearest.is_some_and(|(group, at)| usize::from(group) == index && at == **path)
            };
            let cgroups: Vec<_> = device.cgroups().iter().filter(own).collect();
            let key = || "group.trigger".to_owned();
            if let Some(path) = cgroups.iter().find(|path| !device.is_limited(path)) {
                let message = format!(
                    "{} has neither memory.max nor memory.high: nothing can be short in it alone",
                    Escaped(path)
                );
                self.warn(problems, set.at, key(), message);
            }
            let before = watched;
            watched += cgroups.len();
            if before <= DOMAINS && watched > DOMAINS {
                let message = format!(
                    "{watched} cgroups with a trigger up to here, and at most {DOMAINS} get theirs"
                );
                self.warn(problems, set.at, key(), message);
            }
        }
    }

    /// What of the config cannot work in an image that is not booted.
    pub fn idle_in(&self, root: &Path) -> Problems {
        let mut problems = Problems::default();
        if let Ok(root) = Root::open(root, false) {
            self.missing_programs(&|program| root.has_program(program), &mut problems);
        }
        problems
    }

    /// Patterns that match nothing on a device, of which only the names are known.
    pub fn unmatched_in(&self, device: &dyn Device) -> Problems {
        let mut problems = Problems::default();
        self.unmatched(device, &mut problems);
        self.unnamed(device, &mut problems);
        self.ties(device.cgroups(), &mut problems);
        problems
    }

    /// Commands that cannot be run.
    fn missing_programs(&self, is_there: &dyn Fn(&CStr) -> bool, problems: &mut Problems) {
        let document = &self.effective.document;
        let rest = &document.everything_else;
        let of_rest = [("everything_else", &rest.before, &rest.after)];
        let groups = document.group.0.iter();
        let groups = groups.map(|(_, group)| ("group", &group.before, &group.after));
        for (table, before, after) in of_rest.into_iter().chain(groups) {
            for (key, set) in [("before", before), ("after", after)] {
                if let Some(set) = set
                    && let Some(program) = set.value.0.first()
                    && !is_there(program)
                {
                    let message = format!("{}: no such program here", program.to_string_lossy());
                    self.warn(problems, set.at, format!("{table}.{key}"), message);
                }
            }
        }
    }

    /// Marks that are sizes in one place and shares in the other meet at some size of RAM.
    fn marks(&self, total: u64, problems: &mut Problems) {
        let tables = self.effective.document.level.tables();
        let levels = Level::CONFIGURED.into_iter().zip(tables);
        for ((level, table), policy) in levels.zip(&self.policy.levels) {
            let (Some(relief), Some(confirm)) = (
                policy.relief.available_mark(total),
                policy.confirm.available_mark(total),
            ) else {
                continue;
            };
            if let (Some(set), true) = (&table.relief, relief <= confirm) {
                let key = format!("level.{}.relief", level.name());
                let message = format!(
                    "with the {} MiB here it is not above what confirms the level",
                    total >> 20
                );
                self.warn(problems, set.at, key, message);
            }
        }
    }

    /// What is protected from reclaim is missing for all others.
    fn protected(&self, total: u64, problems: &mut Problems) {
        let protect = |group: &Group| group.protect.map_or(0, |amount| amount.of(total));
        let sum = self
            .policy
            .groups
            .iter()
            .map(protect)
            .fold(0, u64::saturating_add);
        let tables = self.effective.document.group.0.iter();
        let largest = tables
            .zip(&self.policy.groups)
            .max_by_key(|(_, group)| protect(group));
        if let Some(set) = largest.and_then(|((_, table), _)| table.protect.as_ref())
            && sum > total / 2
        {
            let message = format!(
                "all groups together protect {} of {} MiB",
                sum >> 20,
                total >> 20
            );
            self.warn(problems, set.at, "group.protect".to_owned(), message);
        }
    }

    fn unmatched(&self, device: &dyn Device, problems: &mut Problems) {
        for (index, (at, table)) in self.effective.document.group.0.iter().enumerate() {
            let group = index as u16;
            let mut patterns = 0;
            let mut unmatched = Vec::new();
            let mut first = None;
            // What is shipped names more daemons than any one device has.
            let mut count = |matched: bool, shown: String, layer: Layer, own: At| {
                if is_shipped(layer) {
                    return;
                }
                first.get_or_insert(own);
                patterns += 1;
                if !matched {
                    unmatched.push(shown);
                }
            };
            for p in self.matcher.cgroups.iter().filter(|p| p.group == group) {
                let matched = device.cgroups().iter().any(|path| p.glob.matches(path));
                count(matched, p.glob.as_written().to_owned(), p.layer, p.at);
            }
            for p in self.matcher.containers.iter().filter(|p| p.group == group) {
                let matched = device.cgroups().iter().any(|path| {
                    let mut name = [0; CONTAINER_NAME];
                    let length = device.attribute(path, CONTAINER, &mut name);
                    length.is_some_and(|length| p.glob.matches(&name[..length]))
                });
                count(matched, p.glob.as_written().to_owned(), p.layer, p.at);
            }
            for p in self.matcher.processes.iter().filter(|p| p.group == group) {
                let matched = device.has_process(&|process| p.matches(process));
                count(matched, p.to_string(), p.layer, p.at);
            }
            for p in self.matcher.attributes.iter().filter(|p| p.group == group) {
                let matched = device
                    .cgroups()
                    .iter()
                    .any(|path| p.matches(&mut |name, value| device.attribute(path, name, value)));
                count(
                    matched,
                    p.name.to_string_lossy().into_owned(),
                    p.layer,
                    p.at,
                );
            }
            let Some(first) = first.filter(|_| !unmatched.is_empty()) else {
                continue;
            };
            let is_own = !is_shipped(self.effective.sources.layer(at.source));
            let at = if is_own { *at } else { first };
            let total = unmatched.len();
            unmatched.truncate(NAMED);
            let more = if total > NAMED { ", …" } else { "" };
            let name = table.name.as_ref().map_or("", |n| n.value.0.as_str());
            self.warn(
                problems,
                at,
                "group".to_owned(),
                format!(
                    "{name}: {total} of {patterns} patterns match nothing here now: {}{more}",
                    unmatched.join(", ")
                ),
            );
        }
    }

    /// Containers that no name can be found for, where groups go by names.
    fn unnamed(&self, device: &dyn Device, problems: &mut Problems) {
        let mut groups = self.effective.document.group.0.iter();
        let set = groups.find_map(|(_, group)| group.containers.as_ref());
        let unnamed = device.unnamed_containers();
        if let Some(set) = set.filter(|_| unnamed > 0) {
            let message = format!(
                "the names of {unnamed} containers here cannot be known: their runtime keeps them \
                 elsewhere than Docker, Podman and containerd usually do. What works is `cgroups` with a \
                 slice of their own (cgroup_parent, --cgroup-parent), or `xattr`"
            );
            self.warn(problems, set.at, "group.containers".to_owned(), message);
        }
    }

    /// Patterns of two groups that fit the same cgroup equally well.
    fn ties(&self, cgroups: &[Vec<u8>], problems: &mut Problems) {
        let mut said: Vec<(At, At)> = Vec::new();
        for path in cgroups {
            let mut fitting = self.matcher.cgroups.iter().filter(|p| p.glob.matches(path));
            let Some(best) = fitting.next() else { continue };
            let Some(rival) = fitting
                .take_while(|p| p.glob.specificity(&best.glob).is_eq() && p.layer == best.layer)
                .find(|p| p.group != best.group)
            else {
                continue;
            };
            if said.contains(&(best.at, rival.at)) {
                continue;
            }
            said.push((best.at, rival.at));
            let message = format!(
                "{} fits {} at {} equally well; the one that is killed later applies",
                Escaped(path),
                rival.glob.as_written(),
                self.effective.sources.origin(rival.at)
            );
            self.warn(problems, best.at, "group.cgroups".to_owned(), message);
        }
    }

    /// Every cgroup that there is, is never killed.
    fn all_never(&self, device: &dyn Device, problems: &mut Problems) {
        let cgroups = device.cgroups();
        let is_parent = |path: &[u8], next: Option<&Vec<u8>>| {
            next.and_then(|next| next.strip_prefix(path))
                .is_some_and(|rest| rest.starts_with(b"/"))
        };
        let mut leaves = cgroups
            .iter()
            .enumerate()
            .filter(|(i, path)| !is_parent(path, cgroups.get(i + 1)))
            .map(|(_, path)| path)
            .peekable();
        let killable = |path: &Vec<u8>| {
            let group = self
                .matcher
                .nearest(path)
                .map_or(NO_GROUP, |(group, _)| group);
            self.policy.group(group).kill != NEVER
        };
        if leaves.peek().is_some() && !leaves.any(killable) {
            let message =
                "every cgroup here is `never` killed: pressure cannot be relieved by a kill";
            problems.warning(|| Problem::of_file(None, message));
        }
    }
}
