//! The files that a config is made of: found, ordered, read within bounds.

use super::problem::Problem;
use lowtide_rules::{At, Layer};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Largest file that is read; the longest policy there can be stays far below.
pub const MAX_FILE: u64 = 256 * 1024;
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
}

impl Paths {
    /// `None` for the root of the system; no `files` for those of the system.
    pub fn new(root: Option<PathBuf>, files: Vec<PathBuf>) -> Self {
        Self {
            root: root.unwrap_or_else(|| PathBuf::from("/")),
            files,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    name: String,
    text: String,
    layer: Layer,
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
        }])
    }

    /// Reads a file and gives its number.
    pub fn add(&mut self, path: &Path, layer: Layer) -> Result<u16, Problem> {
        let name = path.display().to_string();
        let text = read(path).map_err(|why| Problem::of_file(Some(name.clone()), why))?;
        Ok(self.push(name, text, layer))
    }

    /// Takes a text in as if it had been read from a file called `name`.
    pub fn push(&mut self, name: String, text: String, layer: Layer) -> u16 {
        self.0.push(Source { name, text, layer });
        (self.0.len() - 1) as u16
    }

    pub fn name(&self, source: u16) -> &str {
        &self.0[usize::from(source)].name
    }

    pub fn text(&self, source: u16) -> &str {
        &self.0[usize::from(source)].text
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
}

impl Files {
    pub fn find(root: &Path) -> Result<Self, Problem> {
        let existing = |dir: &str| {
            let path = root.join(dir).join("config.toml");
            (path.symlink_metadata().is_ok() && !is_masked(&path)).then_some(path)
        };
        let mut device: Vec<_> = existing("etc/lowtide").into_iter().collect();
        device.extend(drop_ins(root)?);
        Ok(Self {
            vendor: existing("usr/lib/lowtide"),
            device,
        })
    }
}

/// Where the profile `name` may be, best first.
pub(super) fn profile_paths(root: &Path, name: &str) -> [PathBuf; 2] {
    ["etc/lowtide", "usr/lib/lowtide"].map(|dir| {
        root.join(dir)
            .join("profiles")
            .join(name)
            .with_extension("toml")
    })
}

/// `config.d/*.toml` of all directories by basename: the same name in a directory of higher
/// rank masks the one in a lower.
fn drop_ins(root: &Path) -> Result<Vec<PathBuf>, Problem> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for dir in DIRS {
        let dir = root.join(dir).join("config.d");
        let problem = |e: io::Error| Problem::of_file(Some(dir.display().to_string()), said(&e));
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(problem(e)),
        };
        for entry in entries {
            let path = entry.map_err(problem)?.path();
            if path.extension().is_some_and(|e| e == "toml")
                && let Some(name) = path.file_name()
            {
                found.insert(name.to_owned(), path);
            }
            if found.len() > MAX_DROP_INS {
                return Err(Problem::of_file(
                    Some(dir.display().to_string()),
                    format!("more than {MAX_DROP_INS} drop-ins"),
                ));
            }
        }
    }
    Ok(found.into_values().filter(|p| !is_masked(p)).collect())
}

fn is_masked(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null"))
}

/// Reads a regular file of at most [`MAX_FILE`]; the error says what is wrong with it.
pub(super) fn read(path: &Path) -> Result<String, String> {
    // Asked before opening: opening a device can already do something (a watchdog starts to run),
    // and opening a pipe waits for ever.
    let about = fs::metadata(path).map_err(|e| said(&e))?;
    if !about.is_file() {
        return Err("not a regular file".to_owned());
    }
    let too_large = || format!("larger than {} KiB", MAX_FILE / 1024);
    if about.len() > MAX_FILE {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(about.len() as usize + 1);
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|e| said(&e))?;
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

fn said(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string(),
    }
}
