//! The cgroup tree by name: which rule belongs to which cgroup id.

use super::Engine;
use super::process::{ProcessInfo, read_at};
use super::walk::{each_below, open_dir};
use crate::sys;
use lowtide_common::Rule;
use lowtide_rules::Matcher;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, AtFlags, FileType, RawDir};
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

/// What the config says about one cgroup or process by itself, not through its ancestors.
pub trait OwnRule {
    /// `path` is relative to the cgroup root, without a leading slash; `dir` is its open directory,
    /// for its attributes.
    fn own_rule(&self, path: &[u8], dir: BorrowedFd<'_>) -> Option<Rule>;

    /// The same for a process, where those are looked at one by one.
    fn process_rule(&self, process: &ProcessInfo<'_>) -> Option<Rule>;
}

impl OwnRule for Matcher {
    fn own_rule(&self, path: &[u8], dir: BorrowedFd<'_>) -> Option<Rule> {
        let group = self.cgroup(path, &mut |name, value| {
            rustix::fs::fgetxattr(dir, name, value).ok()
        })?;
        self.rule_of(group)
    }

    fn process_rule(&self, process: &ProcessInfo<'_>) -> Option<Rule> {
        self.rule_of(self.process(process)?)
    }
}

/// The mounted cgroup2 hierarchy; without one, a tree in which no cgroup is found.
pub struct Tree {
    root: Option<OwnedFd>,
    /// Empty without one.
    mount: PathBuf,
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

    /// The same, but it is these processes and their cgroups that are never touched.
    pub fn protecting(pids: &[i32]) -> io::Result<Self> {
        let mount = mount_point(&std::fs::read_to_string("/proc/self/mounts")?);
        let root = mount.as_ref().map(|mount| open_dir(rustix::fs::CWD, mount));
        let mut this = Self {
            root: root.transpose()?,
            mount: mount.unwrap_or_default(),
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
                for end in slashes(path) {
                    // One that cannot be seen from here cannot be acted on from here either.
                    if let Ok(above) = this.id_of(&path[..end]) {
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
        sys::open_cgroup(root, id).or_else(|error| {
            if is_refused(&error) {
                search(root, id)
            } else {
                Err(error)
            }
        })
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

    /// Gives every cgroup there is its rule; returns how many have one of their own. For start
    /// and reload: walks the whole tree by name.
    pub fn classify_all(&self, rules: &dyn OwnRule, engine: &mut dyn Engine) -> io::Result<usize> {
        engine.forget_all()?;
        let mut ancestors = heapless::Vec::new();
        self.classify_below(&mut Vec::new(), self.root()?, rules, engine, &mut ancestors)
    }

    fn classify_below(
        &self,
        path: &mut Vec<u8>,
        dir: BorrowedFd<'_>,
        rules: &dyn OwnRule,
        engine: &mut dyn Engine,
        ancestors: &mut heapless::Vec<(u64, Rule), DEPTH>,
    ) -> io::Result<usize> {
        let mut found = 0;
        for entry in rustix::fs::Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
                continue;
            }
            // A cgroup may vanish at any step of this; then it needs no rule.
            let Ok(child) = open_dir(dir, name) else {
                continue;
            };
            let Ok(id) = sys::cgroup_id(child.as_fd(), c"") else {
                continue;
            };
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            let own = self.rule_of(id, path, child.as_fd(), rules);
            if let Some(rule) = own {
                engine.classify(id, rule)?;
                split(ancestors, rule, engine)?;
                found += 1;
            }
            let deeper = ancestors
                .push((
                    id,
                    own.unwrap_or(Rule {
                        flags: Rule::INHERIT,
                        ..Rule::UNTOUCHABLE
                    }),
                ))
                .is_ok();
            if deeper {
                found += self.classify_below(path, child.as_fd(), rules, engine, ancestors)?;
                ancestors.pop();
            }
            path.truncate(length);
        }
        Ok(found)
    }

    /// Gives one new cgroup its rule, so that it is ranked by that and not by chance; one that
    /// vanished, or has none of its own, inherits. Allocates nothing.
    pub fn classify_new(
        &self,
        id: u64,
        rules: &dyn OwnRule,
        engine: &mut dyn Engine,
    ) -> io::Result<()> {
        let inherits = Rule {
            flags: Rule::INHERIT,
            ..Rule::UNTOUCHABLE
        };
        let Ok(dir) = self.open_id(id) else {
            return engine.classify(id, inherits);
        };
        let mut buffer = [MaybeUninit::uninit(); PATH];
        // Longer than any pattern.
        let Ok(path) = self.path_of(dir.as_fd(), &mut buffer) else {
            return engine.classify(id, inherits);
        };
        let Some(rule) = self.rule_of(id, path, dir.as_fd(), rules) else {
            return engine.classify(id, inherits);
        };
        engine.classify(id, rule)?;
        let mut ancestors = heapless::Vec::<(u64, Rule), DEPTH>::new();
        for end in slashes(path) {
            let Ok(id) = self.id_of(&path[..end]) else {
                continue;
            };
            let Ok(dir) = self.open_id(id) else { continue };
            if let Some(rule) = self.rule_of(id, &path[..end], dir.as_fd(), rules) {
                let _ = ancestors.push((id, rule));
            }
        }
        split(&mut ancestors, rule, engine)
    }

    /// Of a memcg, with what is below it and no memcg itself: what those use is charged to it, so
    /// it goes only when the last of them may go. procd, for one, leaves the controller off in the
    /// cgroups of the instances of a service.
    fn rule_of(
        &self,
        id: u64,
        path: &[u8],
        dir: BorrowedFd<'_>,
        rules: &dyn OwnRule,
    ) -> Option<Rule> {
        if self.is_protected(id) {
            return Some(Rule::UNTOUCHABLE);
        }
        let mut rule = rules.own_rule(path, dir);
        // Without the controller below it, it is a leaf among memcgs.
        let _ = each_uncounted(path, dir, &mut |path, dir| {
            let inner = sys::cgroup_id(dir, c"")
                .ok()
                .and_then(|id| self.rule_of(id, path, dir, rules));
            // `never` is last to be killed, though its number is the highest.
            let turn = |rule: Rule| rule.kill.wrapping_add(1);
            rule = match (rule, inner) {
                (Some(rule), Some(inner)) if turn(inner) >= turn(rule) => Some(rule),
                (_, Some(inner)) => Some(inner),
                (rule, None) => rule,
            };
        });
        rule
    }
}

/// A unit that holds somebody with another kill priority cannot be killed as a whole: below it,
/// each leaf stands for itself.
fn split(ancestors: &mut [(u64, Rule)], inner: Rule, engine: &mut dyn Engine) -> io::Result<()> {
    for (id, rule) in ancestors.iter_mut() {
        if rule.flags & Rule::UNIT != 0 && rule.kill != inner.kill {
            rule.flags &= !Rule::UNIT;
            engine.classify(*id, *rule)?;
        }
    }
    Ok(())
}

/// Calls `f` with path and directory of each cgroup below `dir` where the memory controller is not
/// on for them.
fn each_uncounted(
    path: &[u8],
    dir: BorrowedFd<'_>,
    f: &mut dyn FnMut(&[u8], BorrowedFd<'_>),
) -> io::Result<()> {
    let mut buffer = [0; 128];
    let on = read_at(dir, c"cgroup.subtree_control", &mut buffer)?;
    if on
        .split(u8::is_ascii_whitespace)
        .any(|word| word == b"memory")
    {
        return Ok(());
    }
    let dir = open_dir(dir, c".")?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
            continue;
        }
        let mut below = heapless::Vec::<u8, PATH>::new();
        let parts = [path, b"/", name.to_bytes()];
        let fits = parts
            .iter()
            .try_for_each(|part| below.extend_from_slice(part));
        // One that vanishes needs no rule.
        if let (Ok(()), Ok(child)) = (fits, open_dir(&dir, name)) {
            f(&below, child.as_fd());
        }
    }
    Ok(())
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
    if bytes.len() >= PATH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    buffer[..bytes.len()].copy_from_slice(bytes);
    buffer[bytes.len()] = 0;
    CStr::from_bytes_until_nul(&buffer[..]).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Where cgroup2 is mounted: the unified hierarchy, or the v2 half of a hybrid one.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().map(|l| l.split(' ')).find_map(|mut fields| {
        let path = fields.nth(1)?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(path))
    })
}
