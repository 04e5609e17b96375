//! Files that others than root may write, so that nothing in them may decide what root runs.

use super::model::Document;
use super::problem::{Problem, Problems};
use super::source::{Root, Sources};
use lowtide_rules::At;
use rustix::fs::{FileType, Stat};
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Links that are followed on the way to a file, as many as the kernel follows: path_resolution(7).
const LINKS: usize = 40;
/// Whoever may write a directory with this bit renames and removes only what is its own: unlink(2).
const STICKY: u32 = 0o1000;

/// Who may own a file, and write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Root,
    /// And who runs this.
    RootAndSelf,
    /// Anybody may own it, and its group write it.
    Owners,
}

/// A file or directory that others may write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Exposed {
    path: PathBuf,
    owner: u32,
    /// The twelve bits of it.
    mode: u32,
    is_of_other: bool,
    by_others: bool,
}

impl Exposed {
    fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// What is wrong with `it`, as the path or what stands for it.
    fn said_of(&self, it: &str) -> String {
        let (owner, mode) = (self.owner, self.mode);
        format!("others than root can write {it} (owner {owner}, mode {mode:04o})")
    }

    fn said(&self) -> String {
        self.said_of(&self.path())
    }

    /// The command that mends it.
    fn mend(&self) -> String {
        let path = self.path();
        match (self.is_of_other, self.by_others) {
            (true, false) => format!("chown root {path}"),
            (true, true) => format!("chown root {path}; chmod go-w {path}"),
            (false, _) => format!("chmod go-w {path}"),
        }
    }
}

/// The first of `/`, each directory, each link and the file itself on the way to `path` that others may
/// write; links are followed as the kernel does. What cannot be looked at cannot be read either.
pub(super) fn on_the_way(path: &Path, trust: Trust) -> Option<Exposed> {
    let path = std::path::absolute(path).ok()?;
    let mut done = PathBuf::from("/");
    let mut to_do: Vec<OsString> = names(&path);
    let mut links = 0;
    if let Some(exposed) = found(&done, &rustix::fs::lstat(&done).ok()?, trust) {
        return Some(exposed);
    }
    while let Some(name) = to_do.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(name);
        let about = rustix::fs::lstat(&next).ok()?;
        if let Some(exposed) = found(&next, &about, trust) {
            return Some(exposed);
        }
        if !FileType::from_raw_mode(about.st_mode).is_symlink() {
            done = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return None;
        }
        let target = rustix::fs::readlink(&next, Vec::new()).ok()?;
        let target = Path::new(OsStr::from_bytes(target.to_bytes()));
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        to_do.extend(names(target));
    }
    None
}

/// The names in a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = path.iter().map(OsStr::to_owned).collect();
    names.retain(|name| name != "/" && name != ".");
    names.reverse();
    names
}

fn found(path: &Path, about: &Stat, trust: Trust) -> Option<Exposed> {
    let kind = FileType::from_raw_mode(about.st_mode);
    let is_of_other = match trust {
        Trust::Root => about.st_uid != 0,
        Trust::RootAndSelf => {
            about.st_uid != 0 && about.st_uid != rustix::process::geteuid().as_raw()
        }
        Trust::Owners => false,
    };
    let writable = if trust == Trust::Owners { 0o002 } else { 0o022 };
    let is_kept = kind.is_symlink() || (kind.is_dir() && about.st_mode & STICKY != 0);
    let by_others = about.st_mode & writable != 0 && !is_kept;
    (is_of_other || by_others).then(|| Exposed {
        path: path.to_owned(),
        owner: about.st_uid,
        mode: about.st_mode & 0o7777,
        is_of_other,
        by_others,
    })
}

/// A program that is run as root must not be named, and hardly be written, by anybody else. `dirs` are what
/// lets others write a directory of drop-ins, where there may be none so far.
pub(super) fn refuse(
    document: &Document,
    sources: &Sources,
    dirs: Vec<Exposed>,
    root: &Root,
    problems: &mut Problems,
) {
    let rest = &document.everything_else;
    let of_rest = [&rest.before, &rest.after];
    let groups = document
        .group
        .0
        .iter()
        .flat_map(|(_, group)| [&group.before, &group.after]);
    let programs: Vec<(At, &CString)> = of_rest
        .into_iter()
        .chain(groups)
        .flatten()
        .filter_map(|set| Some((set.at, set.value.0.first()?)))
        .collect();
    let mut told: Vec<Exposed> = Vec::new();
    for (source, exposed) in sources.exposed() {
        match programs.iter().find(|(at, _)| at.source == source) {
            Some((at, _)) => problems.error(|| Problem {
                help: Some(exposed.mend()),
                ..Problem::at(
                    sources,
                    *at,
                    "",
                    format!("no program is run that this file names: {}", exposed.said()),
                )
            }),
            None => told.push(exposed.clone()),
        }
    }
    told.extend(dirs);
    told.sort();
    told.dedup();
    for exposed in told {
        problems.warning(|| Problem {
            help: Some(exposed.mend()),
            ..Problem::of_file(Some(exposed.path()), exposed.said_of("it"))
        });
    }
    for (at, program) in programs {
        if let Some(exposed) = root.exposed_program(program) {
            problems.warning(|| Problem {
                help: Some(exposed.mend()),
                ..Problem::at(
                    sources,
                    at,
                    "",
                    format!(
                        "what it runs may become another program: {}",
                        exposed.said()
                    ),
                )
            });
        }
    }
}
