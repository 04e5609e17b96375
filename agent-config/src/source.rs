//! The files that a config is made of: found, ordered, read within bounds.

use super::exposed::{self, Exposed};
use super::problem::Problem;
use lowtide_rules::{At, Layer};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Largest file that is read; the longest policy there can be stays far below.
pub const MAX_FILE: u64 = 256 * 1024;
/// What is written to the program, which is no regular file.
pub const STDIN: &str = "/dev/stdin";
/// Drop-ins that are read.
const MAX_DROP_INS: usize = 64;
/// Directories of files, the later ones of higher rank.
const DIRS: [&str; 3] = ["usr/lib/lowtide", "run/lowtide", "etc/lowtide"];
/// Holds what applies where nothing else is set.
const BUILT_IN: &str = include_str!("../../config/config.toml");

/// Where the files are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Stands for `/`; another one for tests and for images that are not booted.
    pub root: PathBuf,
    /// Read these, in this order, instead of the files of the system.
    pub files: Vec<PathBuf>,
    /// Read it in the place of /etc/lowtide/config.toml.
    pub with: Option<PathBuf>,
    /// Read these as if they were in /etc/lowtide/config.d.
    pub drop_ins: Vec<PathBuf>,
    /// Files that were named by hand are not only tried: what they name is run. Nobody but root, and who
    /// runs the agent, may write them then.
    pub in_earnest: bool,
}

impl Paths {
    /// `None` for the root of the system; no `files` for those of the system.
    pub fn new(root: Option<PathBuf>, files: Vec<PathBuf>) -> Self {
        Self {
            root: root.unwrap_or_else(|| PathBuf::from("/")),
            files,
            with: None,
            drop_ins: Vec::new(),
            in_earnest: false,
        }
    }
}

/// A directory that stands for `/`: links in it are followed inside it, absolute ones as well.
pub(super) struct Root {
    path: PathBuf,
    /// `None` for the root of the system.
    dir: Option<OwnedFd>,
    in_earnest: bool,
}

impl Root {
    pub fn open(path: &Path, in_earnest: bool) -> Result<Self, Problem> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = (path != Path::new("/")).then(|| rustix::fs::open(path, flags, Mode::empty()));
        let dir = dir.transpose().map_err(|e| {
            let why = match e {
                Errno::NOENT => "no such directory".to_owned(),
                Errno::NOTDIR => "not a directory".to_owned(),
                e => said(&e.into()),
            };
            Problem::of_file(Some(path.display().to_string()), why)
        })?;
        Ok(Self {
            path: path.to_owned(),
            dir,
            in_earnest,
        })
    }

    pub fn is_of_system(&self) -> bool {
        self.dir.is_none()
    }

    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.path.join(path)
    }

    /// `path` begins with the root, or is outside of it: what was named by hand.
    fn open_file(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        let inside = path.strip_prefix(&self.path);
        Ok(match (&self.dir, inside) {
            (Some(dir), Ok(inside)) => {
                let inside = if inside.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    inside
                };
                rustix::fs::openat2(dir, inside, flags, Mode::empty(), ResolveFlags::IN_ROOT)?
            }
            _ => rustix::fs::open(path, flags, Mode::empty())?,
        })
    }

    /// The directory that `path` is in, and its name there.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.open_file(dir, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// Whether there is anything of that name, a link to nowhere as well.
    pub fn has(&self, path: &Path) -> bool {
        self.parent(path).is_ok_and(|(dir, name)| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
        })
    }

    fn is_masked(&self, path: &Path) -> bool {
        self.parent(path).is_ok_and(|(dir, name)| {
            rustix::fs::readlinkat(dir, name, Vec::new())
                .is_ok_and(|target| target.as_bytes() == b"/dev/null")
        })
    }

    /// Whether there is a program at a path from the root on.
    pub fn has_program(&self, path: &CStr) -> bool {
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        let path = self.join(path.strip_prefix("/").unwrap_or(path));
        let about = self
            .open_file(&path, OFlags::PATH)
            .and_then(|file| Ok(rustix::fs::fstat(file)?));
        about.is_ok_and(|about| {
            FileType::from_raw_mode(about.st_mode).is_file() && about.st_mode & 0o111 != 0
        })
    }

    /// What lets others write the file: it, or a directory on the way to it. Whose a file is that is only
    /// tried, and whose group may write it, says nothing: it is to be copied.
    pub fn exposed(&self, path: &Path) -> Option<Exposed> {
        if !self.is_of_system() || path == Path::new(STDIN) {
            return None;
        }
        let trust = if DIRS.iter().any(|dir| path.starts_with(self.join(dir))) {
            exposed::Trust::Root
        } else if self.in_earnest {
            exposed::Trust::RootAndSelf
        } else {
            exposed::Trust::Owners
        };
        exposed::on_the_way(path, trust)
    }

    /// The same of a program, by its path from the root on.
    pub fn exposed_program(&self, path: &CStr) -> Option<Exposed> {
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        let is_run = self.is_of_system() && path.is_absolute();
        is_run.then(|| exposed::on_the_way(path, exposed::Trust::RootAndSelf))?
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let dir = self.open_file(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(dir)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Reads a regular file of at most [`MAX_FILE`]; the error says what is wrong with it.
    pub fn read(&self, path: &Path) -> Result<String, String> {
        if path == Path::new(STDIN) {
            return text_of(io::stdin().lock());
        }
        // Asked before opening: opening a device can already do something (a watchdog starts to
        // run), and opening a pipe waits for ever.
        let about = self
            .open_file(path, OFlags::PATH)
            .and_then(|file| Ok(rustix::fs::fstat(file)?))
            .map_err(|e| said(&e))?;
        if !FileType::from_raw_mode(about.st_mode).is_file() {
            return Err("not a regular file".to_owned());
        }
        if about.st_size as u64 > MAX_FILE {
            return Err(too_large());
        }
        let file = self.open_file(path, OFlags::RDONLY);
        text_of(File::from(file.map_err(|e| said(&e))?))
    }
}

fn too_large() -> String {
    format!("larger than {} KiB", MAX_FILE / 1024)
}

/// All of it, within the bounds of a file.
fn text_of(reader: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut bounded = reader.take(MAX_FILE + 1);
    bounded.read_to_end(&mut bytes).map_err(|e| said(&e))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(too_large());
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        format!("not UTF-8 (line {line})")
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    name: String,
    text: String,
    layer: Layer,
    exposed: Option<Exposed>,
}

/// The texts that were read; the first is what is built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources(Vec<Source>);

impl Sources {
    pub const BUILT_IN: u16 = 0;

    pub fn new() -> Self {
        Self(vec![Source {
            name: "built in".to_owned(),
            text: BUILT_IN.to_owned(),
            layer: Layer::BuiltIn,
            exposed: None,
        }])
    }

    /// Reads a file and gives its number.
    pub fn add(&mut self, root: &Root, path: &Path, layer: Layer) -> Result<u16, Problem> {
        let name = path.display().to_string();
        let text = root
            .read(path)
            .map_err(|why| Problem::of_file(Some(name.clone()), why))?;
        let source = self.push(name, text, layer);
        self.0[usize::from(source)].exposed = root.exposed(path);
        Ok(source)
    }

    /// Takes a text in as if it had been read from a file called `name`.
    pub fn push(&mut self, name: String, text: String, layer: Layer) -> u16 {
        self.0.push(Source {
            name,
            text,
            layer,
            exposed: None,
        });
        (self.0.len() - 1) as u16
    }

    /// The numbers of the sources that others may write, with why.
    pub fn exposed(&self) -> impl Iterator<Item = (u16, &Exposed)> {
        let numbered = self.0.iter().zip(0..);
        numbered.filter_map(|(source, number)| Some((number, source.exposed.as_ref()?)))
    }

    /// Their names, but for what is built in.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.0.iter().skip(1).map(|source| source.name.as_str())
    }

    pub fn name(&self, source: u16) -> &str {
        &self.0[usize::from(source)].name
    }

    pub fn text(&self, source: u16) -> &str {
        &self.0[usize::from(source)].text
    }

    /// The text that is built in.
    pub const fn built_in(&self) -> &'static str {
        BUILT_IN
    }

    pub fn layer(&self, source: u16) -> Layer {
        self.0[usize::from(source)].layer
    }

    pub fn slice(&self, at: At) -> &str {
        self.text(at.source)
            .get(at.start as usize..at.end as usize)
            .unwrap_or("")
    }

    /// Line and column from 1, the column in characters.
    pub fn position(&self, at: At) -> (u32, u32) {
        let text = self.text(at.source);
        let mut start = text.len().min(at.start as usize);
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        (
            before.matches('\n').count() as u32 + 1,
            before[line_start..].chars().count() as u32 + 1,
        )
    }

    /// `file:line`, for showing where a value comes from.
    pub fn origin(&self, at: At) -> String {
        format!("{}:{}", self.name(at.source), self.position(at).0)
    }
}

/// The files of the system; the device's lowest rank first.
pub(super) struct Files {
    pub vendor: Option<PathBuf>,
    pub device: Vec<PathBuf>,
    /// Files that hardly are where they are meant to be, with what is wrong.
    pub stray: Vec<(PathBuf, &'static str)>,
    /// What lets others add a drop-in.
    pub exposed: Vec<Exposed>,
}

impl Files {
    pub fn find(root: &Root, paths: &Paths) -> Result<Self, Problem> {
        let existing = |dir: &str| {
            let path = root.join(dir).join("config.toml");
            (root.has(&path) && !root.is_masked(&path)).then_some(path)
        };
        let of_device = paths.with.clone().or_else(|| existing("etc/lowtide"));
        let (drop_ins, mut stray) = drop_ins(root, &paths.drop_ins)?;
        let etc = root.join("etc/lowtide");
        for name in root.names(&etc).unwrap_or_default() {
            if Path::new(&name).extension().is_some_and(|e| e == "toml") && name != "config.toml" {
                let why = "this is not read: only config.toml and what is in config.d are";
                stray.push((etc.join(name), why));
            }
        }
        Ok(Self {
            vendor: existing("usr/lib/lowtide"),
            device: of_device.into_iter().chain(drop_ins).collect(),
            stray,
            exposed: DIRS
                .iter()
                .filter_map(|dir| root.exposed(&root.join(dir).join("config.d")))
                .collect(),
        })
    }
}

/// Where the profile `name` may be, best first.
pub(super) fn profile_paths(root: &Root, name: &str) -> [PathBuf; 2] {
    ["etc/lowtide", "usr/lib/lowtide"].map(|dir| {
        root.join(dir)
            .join("profiles")
            .join(name)
            .with_extension("toml")
    })
}

type Stray = Vec<(PathBuf, &'static str)>;

/// `config.d/*.toml` of all directories by basename: the same name in a directory of higher
/// rank masks the one in a lower. `more` count as if they were in the highest.
fn drop_ins(root: &Root, more: &[PathBuf]) -> Result<(Vec<PathBuf>, Stray), Problem> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut stray = Vec::new();
    for dir in DIRS {
        let dir = root.join(dir).join("config.d");
        let problem = |e: io::Error| Problem::of_file(Some(dir.display().to_string()), said(&e));
        let names = match root.names(&dir) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(problem(e)),
        };
        for name in names {
            let path = dir.join(&name);
            if path.extension().is_some_and(|e| e == "toml") {
                found.insert(name, path);
            } else if !is_leftover(&name) {
                stray.push((
                    path,
                    "this is not read: the name of a drop-in ends in .toml",
                ));
            }
            if found.len() > MAX_DROP_INS {
                return Err(Problem::of_file(
                    Some(dir.display().to_string()),
                    format!("more than {MAX_DROP_INS} drop-ins"),
                ));
            }
        }
    }
    for path in more {
        let name = path.file_name().unwrap_or_default();
        let is_named = path != Path::new(STDIN);
        if is_named && path.extension().is_none_or(|e| e != "toml") {
            stray.push((
                path.clone(),
                "the name of a drop-in ends in .toml, or it is not read",
            ));
        }
        found.insert(name.to_owned(), path.clone());
    }
    stray.sort();
    let found = found.into_values().filter(|p| !root.is_masked(p));
    Ok((found.collect(), stray))
}

/// What editors and package managers leave beside a file.
fn is_leftover(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let has = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    name.starts_with(b".")
        || name.ends_with(b"~")
        || has(b".dpkg-")
        || has(b".rpm")
        || has(b"-opkg")
        || has(b".apk-")
}

fn said(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string(),
    }
}
