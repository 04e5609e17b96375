use super::output::{complain, print};
use crate::config::{self, Device, Paths};
use crate::sense::containers::Containers;
use crate::sense::meminfo::Meminfo;
use crate::sense::process::ProcessInfo;
use crate::sense::psi;
use crate::sense::status::Status;
use crate::sense::tree::Tree;
use lowtide_judge::Trigger;
use lowtide_rules::CONTAINER;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How the problems are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    /// Workflow commands of GitHub, which mark the lines.
    Github,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "github" => Ok(Self::Github),
            _ => Err("expected text, json or github".to_owned()),
        }
    }
}

/// Says what is wrong with the config, and whether it can fire on this device at all.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// check these files alone, in this order, on top of what is built in; - is what is
    /// written to the program
    #[argh(positional, arg_name = "file")]
    files: Vec<PathBuf>,
    /// check this file in the place of /etc/lowtide/config.toml, with all others as they are
    #[argh(option, arg_name = "file")]
    with: Option<PathBuf>,
    /// check this file as if it were in /etc/lowtide/config.d, with all others as they are; may be
    /// given more than once
    #[argh(option, arg_name = "file")]
    drop_in: Vec<PathBuf>,
    /// directory that stands for `/`, such as an image's; implies --offline
    #[argh(option, arg_name = "dir")]
    root: Option<PathBuf>,
    /// look at the files only, not at this device
    #[argh(switch)]
    offline: bool,
    /// fail on warnings, too
    #[argh(switch)]
    strict: bool,
    /// print the problems as `text`, as `json`, or for `github` to mark the lines
    #[argh(option, arg_name = "format", default = "Format::Text")]
    format: Format,
    /// the same as --format json
    #[argh(switch)]
    json: bool,
}

impl Check {
    /// Fails when the config cannot be used; warnings count with --strict only.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        if !self.files.is_empty() && (self.with.is_some() || !self.drop_in.is_empty()) {
            complain("lowtide: a file is checked alone, or in its place: not both");
            return ExitCode::from(super::USAGE);
        }
        let root = self.root.clone();
        let mut paths = Paths::new(self.root, self.files);
        (paths.with, paths.drop_ins) = (self.with, self.drop_in);
        let (problems, usable) = match config::load(&paths) {
            Ok(loaded) => {
                let mut problems = loaded.warnings.clone();
                match &root {
                    Some(root) => {
                        problems.append(loaded.idle_in(root));
                        if let Some(copy) = Looked::at_copy(root) {
                            problems.append(loaded.unmatched_in(&copy));
                        }
                    }
                    None if self.offline => {}
                    None => problems.append(loaded.idle_here(&Looked::at_this_device())),
                }
                (problems, true)
            }
            Err(problems) => (problems, false),
        };
        let code = if usable && (problems.is_empty() || !self.strict) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        let format = if self.json { Format::Json } else { self.format };
        match format {
            Format::Json => print(problems.json(), code),
            Format::Github => print(problems.github(), code),
            Format::Text => {
                if !problems.is_empty() {
                    complain(&problems);
                }
                let alone = if paths.files.is_empty() {
                    ""
                } else {
                    "; without the files of the system, see --with"
                };
                let result = if usable { "can" } else { "cannot" };
                let last = format!("{}: the config {result} be used{alone}", problems.count());
                if usable {
                    return print(last, code);
                }
                complain(last);
                code
            }
        }
    }
}

/// A device as far as a config is concerned.
struct Looked {
    mount: PathBuf,
    cgroups: Vec<Vec<u8>>,
    processes: Vec<Described>,
    containers: Containers,
    unnamed: usize,
}

/// What patterns of processes go by.
struct Described {
    name: Vec<u8>,
    exe: Option<Vec<u8>>,
    uid: u32,
    is_roots: bool,
}

impl Looked {
    /// What lowtide-snapshot has copied from a device; `None` where no cgroup is among it, as in an
    /// image.
    fn at_copy(root: &Path) -> Option<Self> {
        let mut this = Self {
            mount: root.join("sys/fs/cgroup"),
            cgroups: Vec::new(),
            processes: processes(&root.join("proc")),
            containers: Containers::default(),
            unnamed: 0,
        };
        below(&this.mount, &mut Vec::new(), &mut this.cgroups);
        this.name_containers(root);
        (!this.cgroups.is_empty()).then_some(this)
    }

    /// The one that this runs on.
    fn at_this_device() -> Self {
        let mut this = Self {
            mount: PathBuf::new(),
            cgroups: Vec::new(),
            processes: processes(Path::new("/proc")),
            containers: Containers::default(),
            unnamed: 0,
        };
        if let Ok(tree) = Tree::open() {
            this.mount = tree.mount().to_owned();
            below(&this.mount, &mut Vec::new(), &mut this.cgroups);
            this.name_containers(Path::new("/"));
        }
        this
    }

    /// By the files below `root`.
    fn name_containers(&mut self, root: &Path) {
        let unnamed = |path: &&Vec<u8>| self.containers.look(path, root);
        self.unnamed = self.cgroups.iter().filter(unnamed).count();
    }
}

/// Directories below `dir`, depth first; those that vanish meanwhile are left out.
fn below(dir: &Path, path: &mut Vec<u8>, found: &mut Vec<Vec<u8>>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let length = path.len();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        found.push(path.clone());
        below(&entry.path(), path, found);
        path.truncate(length);
    }
}

/// Processes below /proc or a copy of it; one that exits meanwhile is left out.
fn processes(proc: &Path) -> Vec<Described> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let described = entries.filter_map(|entry| {
        let mut name = fs::read(entry.path().join("comm")).ok()?;
        name.pop_if(|last| *last == b'\n');
        let status = fs::read(entry.path().join("status")).ok()?;
        let (status, exe) = (Status(&status), fs::read_link(entry.path().join("exe")));
        let uid = status.user()?;
        Some(Described {
            name,
            exe: exe.ok().map(|path| path.into_os_string().into_vec()),
            uid,
            is_roots: uid == 0 && !status.is_contained(),
        })
    });
    described.collect()
}

impl Device for Looked {
    fn cgroups(&self) -> &[Vec<u8>] {
        &self.cgroups
    }

    fn attribute(&self, path: &[u8], name: &CStr, value: &mut [u8]) -> Option<usize> {
        if name == CONTAINER {
            return self.containers.name(path, value);
        }
        rustix::fs::getxattr(self.mount.join(OsStr::from_bytes(path)), name, value).ok()
    }

    fn unnamed_containers(&self) -> usize {
        self.unnamed
    }

    fn has_process(&self, fits: &dyn Fn(&ProcessInfo<'_>) -> bool) -> bool {
        self.processes.iter().any(|process| {
            fits(&ProcessInfo {
                name: &process.name,
                exe: process.exe.as_deref(),
                uid: process.uid,
                is_roots: process.is_roots,
            })
        })
    }

    fn total(&self) -> u64 {
        let memory = Meminfo::open().and_then(|meminfo| meminfo.read());
        memory.map_or(u64::MAX, |memory| memory.total)
    }

    fn is_limited(&self, path: &[u8]) -> bool {
        let dir = self.mount.join(OsStr::from_bytes(path));
        ["memory.max", "memory.high"].into_iter().any(|limit| {
            let text = fs::read_to_string(dir.join(limit));
            text.is_ok_and(|text| text.trim_end() != "max")
        })
    }

    fn has_program(&self, path: &CStr) -> bool {
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    }

    fn arm(&self, trigger: &Trigger) -> Result<(), String> {
        psi::try_trigger(trigger)
    }
}
