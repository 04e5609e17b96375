//! The cgroup tree by name: which rule belongs to which cgroup id.

use super::Engine;
use super::containers::Containers;
use super::interrupt::{Interrupt, may_work_again};
use super::members::Tally;
use super::process::{ProcessInfo, read_at};
use super::walk::{each_below, each_child, go_down, open_dir};
use crate::sys;
use lowtide_common::Rule;
use lowtide_rules::{CONTAINER, Matcher};
pub use lowtide_rules::{Chosen, Ruled, turn};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Longest path of a cgroup that is looked at, in bytes below the mount.
pub const PATH: usize = 1024;
/// Deepest cgroup that rules are looked up for.
const DEPTH: usize = lowtide_common::MAX_DEPTH;

/// For what has no rule of its own.
pub const INHERITS: Rule = Rule {
    flags: Rule::INHERIT,
    ..Rule::UNTOUCHABLE
};

/// What the config says about one cgroup or process by itself, not through its ancestors.
pub trait OwnRule {
    /// `path` is relative to the cgroup root, without a leading slash; `dir` is its open directory,
    /// for its attributes; a container in it is called what `containers` knows.
    fn own_rule(
        &self,
        path: &[u8],
        dir: BorrowedFd<'_>,
        chosen: &Chosen,
        containers: &Containers,
    ) -> Option<Ruled>;

    /// The same for a process that has the rule `above` without one of its own.
    fn process_rule(&self, process: &ProcessInfo<'_>, above: Rule) -> Option<Ruled>;

    /// Whether it asks for the program of a process.
    fn wants_programs(&self) -> bool;

    /// Whether a process of this name may be one that is never touched, whatever else is asked of it;
    /// without a name, whether any may.
    fn may_spare(&self, name: Option<&[u8]>) -> bool;

    /// The rule of a group, see [`Rule::group`]; `None` for no group.
    fn group_rule(&self, group: u16) -> Option<Rule>;
}

/// A cgroup with a rule of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: u64,
    pub rule: Rule,
    /// See [`Ruled::trusted`].
    pub trusted: bool,
}

impl OwnRule for Matcher {
    fn own_rule(
        &self,
        path: &[u8],
        dir: BorrowedFd<'_>,
        chosen: &Chosen,
        containers: &Containers,
    ) -> Option<Ruled> {
        self.cgroup_rule(path, chosen, &mut |name, value| {
            if name == CONTAINER {
                return containers.name(path, value);
            }
            rustix::fs::fgetxattr(dir, name, value).ok()
        })
    }

    fn process_rule(&self, process: &ProcessInfo<'_>, above: Rule) -> Option<Ruled> {
        self.process_rule(process, above)
    }

    fn wants_programs(&self) -> bool {
        self.wants_programs()
    }

    fn may_spare(&self, name: Option<&[u8]>) -> bool {
        self.may_spare(name)
    }

    fn group_rule(&self, group: u16) -> Option<Rule> {
        self.rule_of(group)
    }
}

/// The mounted cgroup2 hierarchy; without one, a tree in which no cgroup is found.
pub struct Tree {
    root: Option<OwnedFd>,
    /// Empty without one.
    mount: PathBuf,
    /// Its ids are inode numbers.
    is_copy: bool,
    /// What is called the root where files are looked for: `/`, or that of the copy.
    files: PathBuf,
    containers: Containers,
    /// The agent and init: never touched, whatever the config says.
    protected_processes: heapless::Vec<i32, 2>,
    /// Their cgroups.
    protected: heapless::Vec<u64, 2>,
    /// That of the first of them, unless it runs in the root.
    own: Option<u64>,
    /// Their ancestors: what is done to one of these is done to them, too.
    above_protected: heapless::Vec<u64, { 2 * DEPTH }>,
}

impl Tree {
    /// For the agent itself.
    pub fn open() -> io::Result<Self> {
        Self::protecting(&[rustix::process::getpid().as_raw_pid(), 1])
    }

    /// A copy of the tree of a device, on any file system: nothing in it can be acted on.
    pub fn copied(dir: &std::path::Path) -> io::Result<Self> {
        let mount = dir.canonicalize()?;
        // Less sys/fs/cgroup.
        let files = mount.ancestors().nth(3).unwrap_or(&mount).to_owned();
        Ok(Self {
            files,
            containers: Containers::default(),
            root: Some(open_dir(rustix::fs::CWD, &mount)?),
            mount,
            is_copy: true,
            protected_processes: heapless::Vec::new(),
            protected: heapless::Vec::new(),
            own: None,
            above_protected: heapless::Vec::new(),
        })
    }

    /// The same, but it is these processes and their cgroups that are never touched.
    pub fn protecting(pids: &[i32]) -> io::Result<Self> {
        let mount = mount_point(&std::fs::read_to_string("/proc/self/mounts")?);
        let root = mount.as_ref().map(|mount| open_dir(rustix::fs::CWD, mount));
        let mut this = Self {
            root: root.transpose()?,
            mount: mount.unwrap_or_default(),
            is_copy: false,
            files: PathBuf::from("/"),
            containers: Containers::default(),
            protected_processes: pids.iter().take(2).copied().collect(),
            protected: heapless::Vec::new(),
            own: None,
            above_protected: heapless::Vec::new(),
        };
        for (i, pid) in pids.iter().enumerate() {
            let lines = std::fs::read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let path = lines
                .split(|b| *b == b'\n')
                .find_map(|line| line.strip_prefix(b"0::/"))
                .unwrap_or_default();
            if let Ok(id) = this.id_of(path)
                && !path.is_empty()
                && !this.protected.contains(&id)
            {
                let _ = this.protected.push(id);
                if i == 0 {
                    this.own = Some(id);
                }
                for above in slashes(path).filter_map(|end| path.get(..end)) {
                    // One that cannot be seen from here cannot be acted on from here either.
                    if let Ok(above) = this.id_of(above) {
                        let _ = this.above_protected.push(above);
                    }
                }
            }
        }
        Ok(this)
    }

    /// Its root directory. `ENOENT` where none is mounted.
    pub fn root(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.root.as_ref().ok_or(Errno::NOENT)?.as_fd())
    }

    /// What containers are called.
    pub fn containers(&self) -> &Containers {
        &self.containers
    }

    /// Whether a file is in the root directory.
    pub fn has(&self, name: &CStr) -> bool {
        let exists = |root| rustix::fs::accessat(root, name, Access::EXISTS, AtFlags::empty());
        self.root().is_ok_and(|root| exists(root).is_ok())
    }

    /// Whether a file in the root directory has this among its words.
    pub fn lists(&self, file: &CStr, word: &str) -> bool {
        let mut buffer = [0; 512];
        let text = self
            .root()
            .and_then(|root| read_at(root, file, &mut buffer));
        let text = text.ok().and_then(|text| core::str::from_utf8(text).ok());
        text.is_some_and(|text| text.split_ascii_whitespace().any(|w| w == word))
    }

    /// The cgroup id of `path`, relative to the root.
    pub fn id_of(&self, path: &[u8]) -> io::Result<u64> {
        let mut buffer = [0; PATH];
        sys::cgroup_id(self.root()?, c_str(path, &mut buffer)?)
    }

    /// Opens the cgroup's directory; `ESTALE` when it is gone. Where the kernel opens none by its id,
    /// it is looked for by name.
    pub fn open_id(&self, id: u64) -> io::Result<OwnedFd> {
        let root = self.root()?;
        if self.is_copy {
            return search(root, id);
        }
        sys::open_cgroup(root, id).or_else(|error| {
            if is_refused(&error) {
                search(root, id)
            } else {
                Err(error)
            }
        })
    }

    /// Whether cgroups can be written to, tried on the root without changing it; nothing is wrong where
    /// there are none.
    pub fn try_to_write(&self) -> io::Result<()> {
        let Ok(root) = self.root() else {
            return Ok(());
        };
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(root, c"cgroup.procs", flags, Mode::empty())?;
        Ok(())
    }

    /// Why no cgroup can be opened by its id, which takes one system call and not a search.
    pub fn refused_by_id(&self) -> Option<io::Error> {
        let root = self.root().ok()?;
        let id = sys::cgroup_id(root, c"").ok()?;
        sys::open_cgroup(root, id).err()
    }

    pub fn is_protected_process(&self, pid: i32) -> bool {
        self.protected_processes.contains(&pid)
    }

    pub fn is_protected(&self, id: u64) -> bool {
        self.protected.contains(&id)
    }

    /// Whether it is the cgroup that the agent runs in.
    pub fn is_own(&self, id: u64) -> bool {
        self.own == Some(id)
    }

    /// Whether the agent or init is in it or below it.
    pub fn holds_protected(&self, id: u64) -> bool {
        self.is_protected(id) || self.above_protected.contains(&id)
    }

    /// Where it is mounted.
    pub fn mount(&self) -> &std::path::Path {
        &self.mount
    }

    /// The path of an open cgroup directory, relative to the root. Allocates nothing.
    pub fn path_of<'a>(
        &self,
        dir: BorrowedFd<'_>,
        buffer: &'a mut [MaybeUninit<u8>; PATH],
    ) -> io::Result<&'a [u8]> {
        let mut link = heapless::String::<32>::new();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&dir);
        core::fmt::write(&mut link, format_args!("/proc/self/fd/{fd}"))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let (path, _) = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_str(), buffer)?;
        let path: &'a [u8] = path;
        let below = path
            .strip_prefix(self.mount.as_os_str().as_bytes())
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(below.strip_prefix(b"/").unwrap_or(below))
    }

    /// Who chose the name and the attributes of the cgroup at `path`, relative to the root.
    pub fn chosen(&self, path: &[u8]) -> io::Result<Chosen> {
        let mut dir = open_dir(self.root()?, c".")?;
        let mut chosen = Chosen::BY_ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            dir = open_dir(&dir, name)?;
            let path_by_root = chosen.path_by_root && chosen.marks_by_root;
            chosen = self.chosen_by(dir.as_fd(), path_by_root, chosen.above);
        }
        Ok(chosen)
    }

    /// The rule of every cgroup that has one of its own. For start, reload and settling: walks the
    /// whole tree by name, and looks at every process.
    pub fn rules(
        &self,
        rules: &dyn OwnRule,
        fallback: Rule,
        interrupt: &mut Interrupt<'_>,
    ) -> io::Result<Vec<Entry>> {
        let mut walk = Walk {
            interrupt,
            tree: self,
            rules,
            found: Vec::new(),
        };
        let root = Place {
            rule: fallback,
            names_by_root: true,
            entry: None,
            above: None,
            depth: 0,
        };
        walk.below(&mut Vec::new(), self.root()?, &root);
        walk.interrupt.check()?;
        walk.found.sort_unstable_by_key(|entry| entry.id);
        Ok(walk.found)
    }

    /// Who chose the name and the attributes of a cgroup, by its directory and by whether the name is
    /// root's choice. In a copy all is root's: whose it was on the device is lost where it is
    /// unpacked by somebody else.
    fn chosen_by(&self, dir: BorrowedFd<'_>, path_by_root: bool, above: Rule) -> Chosen {
        let by_others = Mode::WGRP | Mode::WOTH;
        let is_roots = |dir| {
            rustix::fs::fstat(dir).is_ok_and(|stat| {
                stat.st_uid == 0 && !Mode::from(stat.st_mode).intersects(by_others)
            })
        };
        Chosen {
            path_by_root,
            marks_by_root: self.is_copy || is_roots(dir),
            above,
        }
    }

    /// Gives one new cgroup its rule, so that it is ranked by that and not by chance; one that
    /// vanished is no error. Returns what it was given. Allocates nothing.
    pub fn classify_new(
        &self,
        id: u64,
        rules: &dyn OwnRule,
        fallback: Rule,
        engine: &mut dyn Engine,
    ) -> io::Result<Option<Entry>> {
        let mut buffer = [MaybeUninit::uninit(); PATH];
        let Some(path) = self
            .open_id(id)
            .ok()
            .and_then(|dir| self.path_of(dir.as_fd(), &mut buffer).ok())
        else {
            // Gone, or deeper than any pattern.
            engine.classify(id, INHERITS)?;
            return Ok(None);
        };
        let mut above = heapless::Vec::<(u64, Rule), DEPTH>::new();
        let (mut rule, mut names_by_root) = (fallback, true);
        let mut dir = open_dir(self.root()?, c".")?;
        let ends = slashes(path).chain([path.len()]);
        for path in ends.filter_map(|end| path.get(..end)) {
            let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
            // It vanishes at any step of this: then it needs no rule.
            let Ok(child) = open_dir(&dir, name) else {
                engine.classify(id, INHERITS)?;
                return Ok(None);
            };
            let here = sys::cgroup_id(child.as_fd(), c"")?;
            let chosen = self.chosen_by(child.as_fd(), names_by_root, rule);
            let own = match self.rule_of(here, path, child.as_fd(), &chosen, rules) {
                // It stays new until it can be read: the next survey asks again.
                Err(error) if may_work_again(&error) => return Ok(None),
                own => own.unwrap_or_default(),
            };
            if let Some(own) = own {
                rule = own.rule;
                if here == id {
                    engine.classify(id, rule)?;
                    for (id, above) in &mut above {
                        if is_split_by(*above, rule) {
                            above.flags &= !Rule::UNIT;
                            engine.classify(*id, *above)?;
                        }
                    }
                    return Ok(Some(Entry {
                        id,
                        rule,
                        trusted: own.trusted,
                    }));
                }
                let _ = above.push((here, rule));
            }
            names_by_root &= chosen.marks_by_root;
            dir = child;
        }
        engine.classify(id, INHERITS)?;
        Ok(None)
    }

    /// The rule of its own that a memcg has, by a pattern that names it or for its processes. An error where
    /// one of them could not be read: what is not known changes no rule.
    fn rule_of(
        &self,
        id: u64,
        path: &[u8],
        dir: BorrowedFd<'_>,
        chosen: &Chosen,
        rules: &dyn OwnRule,
    ) -> io::Result<Option<Ruled>> {
        let own = self.named_rule(id, path, dir, chosen, rules)?;
        // Only where the controller is off below it are there any processes.
        if self.is_protected(id) || counts_below(dir) {
            return Ok(own);
        }
        let rule = own.map_or(chosen.above, |own| own.rule);
        Ok(Tally::of(dir, rule, rules, self)?.rule(own, chosen.above))
    }

    /// By a pattern that names the cgroup, or one below it that is no memcg itself: what those use is
    /// charged to it, so it goes only when the last of them may go. procd, for one, leaves the
    /// controller off in the cgroups of the instances of a service.
    fn named_rule(
        &self,
        id: u64,
        path: &[u8],
        dir: BorrowedFd<'_>,
        chosen: &Chosen,
        rules: &dyn OwnRule,
    ) -> io::Result<Option<Ruled>> {
        if self.is_protected(id) {
            return Ok(Some(Ruled::NEVER));
        }
        let mut rule = rules.own_rule(path, dir, chosen, &self.containers);
        // Without the controller below it, it is a leaf among memcgs.
        each_uncounted(path, dir, &mut |path, dir| {
            let names_by_root = chosen.path_by_root && chosen.marks_by_root;
            let chosen = self.chosen_by(dir, names_by_root, chosen.above);
            let id = sys::cgroup_id(dir, c"")?;
            let inner = self.named_rule(id, path, dir, &chosen, rules)?;
            rule = match (rule, inner) {
                (Some(own), Some(inner)) if turn(inner.rule.kill) >= turn(own.rule.kill) => {
                    Some(own)
                }
                (_, Some(inner)) => Some(inner),
                (rule, None) => rule,
            };
            Ok(())
        })?;
        Ok(rule)
    }
}

/// A walk over the whole tree.
struct Walk<'a, 'i> {
    interrupt: &'a mut Interrupt<'i>,
    tree: &'a Tree,
    rules: &'a dyn OwnRule,
    found: Vec<Entry>,
}

/// A cgroup on the way from the root.
struct Place<'a> {
    /// In force.
    rule: Rule,
    /// What its children are called was chosen by somebody with rights.
    names_by_root: bool,
    /// Its own among those found.
    entry: Option<usize>,
    above: Option<&'a Place<'a>>,
    depth: usize,
}

impl Walk<'_, '_> {
    #[expect(clippy::arithmetic_side_effects, reason = "one was added")]
    fn below(&mut self, path: &mut Vec<u8>, dir: BorrowedFd<'_>, here: &Place<'_>) {
        if here.depth == DEPTH {
            return;
        }
        let listed = each_child(dir, &mut |name, _| {
            if self.interrupt.ends() {
                return ControlFlow::Break(());
            }
            // A cgroup may vanish at any step of this; then it needs no rule.
            let Some(child) = self.interrupt.step(open_dir(dir, name)) else {
                return ControlFlow::Continue(());
            };
            let Some(id) = self.interrupt.step(sys::cgroup_id(child.as_fd(), c"")) else {
                return ControlFlow::Continue(());
            };
            let length = go_down(path, name);
            let _ = self.tree.containers.look(path, &self.tree.files);
            let chosen = self
                .tree
                .chosen_by(child.as_fd(), here.names_by_root, here.rule);
            let own = self
                .tree
                .rule_of(id, path, child.as_fd(), &chosen, self.rules);
            let Some(own) = self.interrupt.step(own) else {
                path.truncate(length);
                return ControlFlow::Continue(());
            };
            let entry = own.map(|own| {
                self.found.push(Entry {
                    id,
                    rule: own.rule,
                    trusted: own.trusted,
                });
                self.split(here, own.rule);
                self.found.len() - 1
            });
            let place = Place {
                rule: own.map_or(here.rule, |own| own.rule),
                names_by_root: here.names_by_root && chosen.marks_by_root,
                entry,
                above: Some(here),
                depth: here.depth.saturating_add(1),
            };
            self.below(path, child.as_fd(), &place);
            path.truncate(length);
            ControlFlow::Continue(())
        });
        self.interrupt.step(listed);
    }

    fn split(&mut self, from: &Place<'_>, inner: Rule) {
        for place in std::iter::successors(Some(from), |place| place.above) {
            if let Some(entry) = place.entry.and_then(|entry| self.found.get_mut(entry))
                && is_split_by(entry.rule, inner)
            {
                entry.rule.flags &= !Rule::UNIT;
            }
        }
    }
}

/// A unit that holds a process with another kill priority, or whose processes are taken one by one,
/// cannot be killed as a whole: below it, each leaf stands for itself.
pub fn is_split_by(unit: Rule, inner: Rule) -> bool {
    let differs = unit.kill_turn() != inner.kill_turn() || inner.flags & Rule::PROCESS != 0;
    unit.flags & Rule::UNIT != 0 && differs
}

/// Whether the memory controller is on for the cgroups below the directory.
fn counts_below(dir: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 128];
    let on = read_at(dir, c"cgroup.subtree_control", &mut buffer).unwrap_or_default();
    on.split(u8::is_ascii_whitespace)
        .any(|word| word == b"memory")
}

/// Calls `f` with path and directory of each cgroup below `dir` where the memory controller is not
/// on for them. What has gone is left out; an error where one could not be read that may be there.
fn each_uncounted(
    path: &[u8],
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(&[u8], BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if counts_below(dir) {
        return Ok(());
    }
    let mut done = Ok(());
    let mut step = |step: io::Result<()>| match step {
        Err(error) if may_work_again(&error) => {
            done = Err(error);
            ControlFlow::Break(())
        }
        // It vanished, and needs no rule.
        _ => ControlFlow::Continue(()),
    };
    let listed = open_dir(dir, c".").and_then(|dir| {
        each_child(&dir, &mut |name, _| {
            let mut below = heapless::Vec::<u8, PATH>::new();
            let parts = [path, b"/", name.to_bytes()];
            let fits = parts
                .iter()
                .try_for_each(|part| below.extend_from_slice(part));
            // Deeper than any pattern.
            if fits.is_err() {
                return ControlFlow::Continue(());
            }
            step(open_dir(&dir, name).and_then(|child| f(&below, child.as_fd())))
        })
    });
    let _ = step(listed);
    done
}

/// Whether it is the call that is not permitted, or not there, and not the cgroup.
fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP)
    )
}

/// The directory of the cgroup `id`, looked for in all listings below the root; `ESTALE` when it is
/// in none.
fn search(root: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    let mut found = None;
    let _ = each_below(root, &mut |entry| {
        if !sys::is_inode_of(entry.inode, id) {
            return ControlFlow::Continue(());
        }
        found = entry.open().ok();
        ControlFlow::Break(())
    });
    found.ok_or_else(|| Errno::from_raw_os_error(libc::ESTALE).into())
}

/// Where the names of a path end, but the last.
fn slashes(path: &[u8]) -> impl Iterator<Item = usize> {
    let bytes = path.iter().enumerate();
    bytes.filter(|(_, b)| **b == b'/').map(|(end, _)| end)
}

fn c_str<'a>(bytes: &[u8], buffer: &'a mut [u8; PATH]) -> io::Result<&'a CStr> {
    let with_end = buffer.get_mut(..=bytes.len());
    let Some((end, text)) = with_end.and_then(|part| part.split_last_mut()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    text.copy_from_slice(bytes);
    *end = 0;
    CStr::from_bytes_until_nul(&buffer[..]).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Where cgroup2 is mounted: the unified hierarchy, or the v2 half of a hybrid one.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().map(|l| l.split(' ')).find_map(|mut fields| {
        let path = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(path))
    })
}
