//! Reads the config: TOML files in layers, compiled into the judge's [`Policy`] and a [`Matcher`].
//!
//! Layers, each setting single keys over those before it:
//! 1. what is built in (`config/config.toml` of the source tree),
//! 2. `/usr/lib/lowtide/config.toml`, the vendor's,
//! 3. the profile that the highest layer names,
//! 4. `/etc/lowtide/config.toml`, the device's,
//! 5. `config.d/*.toml` of `/usr/lib/lowtide`, `/run/lowtide` and `/etc/lowtide`, by name; the same
//!    name in a later directory masks the earlier one, a link to `/dev/null` disables it.

mod claims;
mod compile;
mod device;
mod engine;
mod exposed;
pub mod json;
mod model;
mod problem;
mod read;
mod review;
mod source;
mod taken;
mod tree;
mod value;

pub use device::Device;
pub use engine::{EngineChoice, EngineKind};
pub use lowtide_rules::{Hooks, Lookup, Matcher, ProcessInfo, rule};
pub use problem::{Problem, Problems, Severity};
pub use read::nearest;
pub use source::{MAX_FILE, Paths, STDIN};

use exposed::Exposed;
use lowtide_judge::{Policy, Trigger};
use lowtide_rules::Layer;
use model::Document;
use read::{Field, Reader, Set};
use source::{Files, Root, Sources, profile_paths};
use std::ffi::CString;
use std::path::{Path, PathBuf};
use taken::Protected;
use value::ProfileName;
pub use value::ReflexKill;

/// A config that holds together, ready to be switched to.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub policy: Policy,
    pub matcher: Matcher,
    pub hooks: Hooks,
    /// The device of the watchdog, where an action is to starve it.
    pub watchdog: Option<CString>,
    pub engine: EngineChoice,
    pub wake: Wake,
    pub reflex: Reflex,
    pub history: Option<History>,
    /// Id of the users' group that may ask the agent, besides root.
    pub askers: Option<u32>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// What is worth saying though it does not forbid using the config.
    pub warnings: Problems,
    pub effective: Effective,
}

/// What the kernel may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reflex {
    pub kill: ReflexKill,
    /// What the agent gets first.
    pub patience_ms: u32,
    /// Whether it stays armed when the agent dies.
    pub survive: bool,
    /// Kills within 10 s.
    pub budget: u8,
}

/// What is to end the sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// On the system.
    pub trigger: Option<Trigger>,
    pub ballast: Ballast,
}

/// Memory that the kernel takes last, and says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballast {
    Off,
    /// By RAM, where nothing better wakes the agent.
    Auto,
    /// So many bytes, in any case.
    Bytes(u64),
}

/// A file for decisions that outlives a restart of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub path: PathBuf,
    /// Most bytes of it, and as many again of the one before it.
    pub size: u64,
}

/// Every value in force, with the place that set it.
#[derive(Clone, Debug)]
pub struct Effective {
    document: Document,
    sources: Sources,
}

impl Effective {
    /// As a config file with the origin behind each value.
    pub fn toml(&self) -> String {
        self.document
            .tree()
            .map_or_else(String::new, |tree| tree.document(&self.sources))
    }

    /// The files that were read, the later ones over the earlier; what is built in is none.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.sources.files()
    }

    /// As JSON: the same tables, each value as `{"value": …, "from": "file:line"}`.
    pub fn json(&self) -> String {
        self.document.tree().map_or_else(
            || "{}".to_owned(),
            |tree| tree.json(&self.sources).to_string(),
        )
    }
}

/// Reads all layers and compiles them. Nothing outside the files is looked at or changed, so that
/// a bad config leaves everything as it is.
pub fn load(paths: &Paths) -> Result<Loaded, Problems> {
    let mut loader = Loader::new();
    let root = match Root::open(&paths.root, paths.in_earnest) {
        Ok(root) => root,
        Err(problem) => {
            loader.problems.error(|| problem);
            return Err(loader.problems);
        }
    };
    let document = if paths.files.is_empty() {
        loader.layers(&root, paths)
    } else {
        let document = loader.built_in();
        loader.device(&root, document, &paths.files)
    };
    loader.finish(document, &root)
}

/// Compiles one text on top of what is built in; `name` stands for its file.
pub fn parse(name: &str, text: &str) -> Result<Loaded, Problems> {
    let mut loader = Loader::new();
    let mut document = loader.built_in();
    let source = loader
        .sources
        .push(name.to_owned(), text.to_owned(), Layer::Device(0));
    loader.protected.note(&document);
    document.merge(loader.document(source));
    let root = match Root::open(Path::new("/"), false) {
        Ok(root) => root,
        Err(problem) => {
            loader.problems.error(|| problem);
            return Err(loader.problems);
        }
    };
    loader.finish(document, &root)
}

struct Loader {
    sources: Sources,
    problems: Problems,
    /// What the layers so far protect, where that may be taken away unawares.
    protected: Protected,
    /// What lets others write a directory of drop-ins.
    exposed: Vec<Exposed>,
}

impl Loader {
    fn new() -> Self {
        Self {
            sources: Sources::new(),
            problems: Problems::default(),
            protected: Protected::default(),
            exposed: Vec::new(),
        }
    }

    fn built_in(&mut self) -> Document {
        self.document(Sources::BUILT_IN)
    }

    fn document(&mut self, source: u16) -> Document {
        Reader::new(&self.sources, source, &mut self.problems).document()
    }

    fn file(&mut self, root: &Root, path: &Path, layer: Layer) -> Document {
        match self.sources.add(root, path, layer) {
            Ok(source) => self.document(source),
            Err(problem) => {
                self.problems.error(|| problem);
                Document::default()
            }
        }
    }

    fn layers(&mut self, root: &Root, paths: &Paths) -> Document {
        let mut document = self.built_in();
        let files = match Files::find(root, paths) {
            Ok(files) => files,
            Err(problem) => {
                self.problems.error(|| problem);
                return document;
            }
        };
        for (path, why) in &files.stray {
            let problem = || Problem::of_file(Some(path.display().to_string()), *why);
            self.problems.warning(problem);
        }
        self.exposed = files.exposed;
        if let Some(vendor) = files.vendor {
            self.protected.note(&document);
            document.merge(self.file(root, &vendor, Layer::Vendor));
        }
        self.device(root, document, &files.device)
    }

    fn device(&mut self, root: &Root, mut below: Document, files: &[PathBuf]) -> Document {
        let mut device = Document::default();
        for (path, order) in files.iter().zip(0..) {
            device.merge(self.file(root, path, Layer::Device(order)));
        }
        self.profile(root, &mut below, &device);
        self.protected.note(&below);
        below.merge(device);
        below
    }

    /// Puts the profile that `above` or else `below` names on top of `below`.
    fn profile(&mut self, root: &Root, below: &mut Document, above: &Document) {
        let Some(name) = above.profile.clone().or_else(|| below.profile.clone()) else {
            return;
        };
        let mut profile = self.find_profile(root, &name);
        if let Some(nested) = profile.profile.take() {
            let message = "a profile cannot build on another";
            self.problems
                .error(|| Problem::at(&self.sources, nested.at, "profile", message));
        }
        self.protected.note(below);
        below.merge(profile);
    }

    fn find_profile(&mut self, root: &Root, name: &Set<ProfileName>) -> Document {
        let paths = profile_paths(root, &name.value.0);
        if let Some(path) = paths.iter().find(|p| root.has(p)) {
            return self.file(root, path, Layer::Profile);
        }
        let [first, second] = paths.map(|p| p.display().to_string());
        self.problems.error(|| Problem {
            help: Some(format!("looked for {first} and {second}")),
            ..Problem::at(&self.sources, name.at, "profile", "no such profile")
        });
        Document::default()
    }

    fn finish(mut self, mut document: Document, root: &Root) -> Result<Loaded, Problems> {
        compile::join_lists(&mut document, &self.sources, &mut self.problems);
        claims::drop_taken_over(&mut document, &self.sources);
        let (sources, problems) = (&self.sources, &mut self.problems);
        self.protected.warn(&document, sources, problems);
        exposed::refuse(&document, sources, self.exposed, root, problems);
        let compiled = compile::compile(&document, sources, problems).map(|policy| {
            review::review(&document, &policy, sources, problems);
            let matcher = claims::matcher(&document, &policy, sources, root, problems);
            let askers = claims::askers(&document, sources, root, problems);
            (policy, matcher, askers)
        });
        match compiled {
            Some((policy, matcher, askers)) if !self.problems.fatal() => Ok(Loaded {
                askers,
                watchdog: compile::watchdog(&document, &policy),
                policy,
                matcher,
                hooks: compile::hooks(&document),
                engine: compile::engine(&document.engine),
                wake: compile::wake(&document),
                reflex: compile::reflex(&document),
                history: compile::history(&document),
                dry_run: compile::dry_run(&document),
                warnings: self.problems,
                effective: Effective {
                    document,
                    sources: self.sources,
                },
            }),
            _ => Err(self.problems),
        }
    }
}

#[cfg(test)]
#[path = "../../agent/src/mdoc.rs"]
mod mdoc;
#[cfg(test)]
mod tests;
