//! The ballast: some MB of lazily freed memory, in a cgroup whose `memory.low` has reclaim pass it over
//! until nothing else gives. When the kernel turns to it all the same, it counts that in `memory.events`
//! and wakes whoever polls for it; the pages that it takes are the time that is left. Needs memory cgroups
//! alone: neither PSI nor BPF.

use super::lazy::LazyPages;
use super::tree::Tree;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Of RAM, the ballast where its size is not given, within these bounds.
const PART: u64 = 32;
const SIZES: std::ops::RangeInclusive<u64> = 2 << 20..=8 << 20;
/// Of RAM, the largest ballast.
const LARGEST_PART: u64 = 8;
/// What the agent's cgroup may grow by itself without the ballast losing its protection.
const SPARE: u64 = 2 << 20;
/// A memory.events of Linux 7.3 has 100 bytes.
const EVENTS: usize = 512;
/// The cgroup that the agent moves to where its own will not do.
const CGROUP: &str = "lowtide";

/// The agent has moved to a cgroup of its own, for as long as this lives.
pub struct Moved {
    mount: PathBuf,
    /// Where it was, below the mount.
    from: String,
    /// Cgroups below the root were no memory cgroups before.
    enabled: bool,
}

impl Drop for Moved {
    fn drop(&mut self) {
        // What cannot be taken back stays: an empty cgroup.
        let back = fs::write(self.mount.join(&self.from).join("cgroup.procs"), "0");
        let gone = back.and_then(|()| fs::remove_dir(self.mount.join(CGROUP)));
        if gone.is_ok() && self.enabled {
            let _ = fs::write(self.mount.join("cgroup.subtree_control"), "-memory");
        }
    }
}

pub struct Ballast {
    pages: LazyPages,
    /// Polls as urgent when the kernel has turned to the ballast since it was last read.
    events: OwnedFd,
    /// `memory.low` of the cgroup, and what was in it.
    low: PathBuf,
    before: String,
    _moved: Option<Moved>,
}

/// The size of the ballast on a device with so much RAM; an error says why there is none.
pub fn size(wanted: Option<u64>, total: u64) -> Result<u64, String> {
    let size = wanted.unwrap_or((total / PART).clamp(*SIZES.start(), *SIZES.end()));
    let show = |bytes: u64| format!("{}K", bytes >> 10);
    if size > total / LARGEST_PART {
        return Err(format!(
            "{} is more than an eighth of {} of RAM",
            show(size),
            show(total)
        ));
    }
    Ok(size)
}

/// Why there can be no ballast here, whatever its size; `None` where it can be had. Changes nothing.
pub fn lacks(tree: &Tree) -> Option<String> {
    if !tree.lists(c"cgroup.controllers", "memory") {
        return Some("no memory cgroups (cgroup v2)".to_owned());
    }
    // The root has none.
    if tree.has(c"cgroup.type") {
        return Some("in a container, what is above it grants its memory no protection".to_owned());
    }
    let lazily = LazyPages::new(1).err();
    lazily.map(|error| format!("the kernel frees no memory lazily (MADV_FREE): {error}"))
}

/// The agent's cgroup, relative to the mount; `None` without cgroup2.
fn own_cgroup() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(path.to_owned())
}

/// Has the agent in a cgroup of its own below the root: what protects the ballast has to be granted by
/// every cgroup above it. Where it is in another, it moves to one; not where systemd keeps account of it.
pub fn move_in(tree: &Tree) -> Result<Option<Moved>, String> {
    let mount = tree.mount();
    let own = own_cgroup().ok_or("no cgroup2")?;
    if is_alone(mount, &own) {
        return Ok(None);
    }
    if Path::new("/run/systemd/system").exists() {
        return Err(format!(
            "its cgroup /{own} is not below the root, or it shares it; set Slice=-.slice in its unit"
        ));
    }
    let enabled = !tree.lists(c"cgroup.subtree_control", "memory");
    let cgroup = mount.join(CGROUP);
    let made = fs::create_dir(&cgroup).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    });
    made.and_then(|()| fs::write(mount.join("cgroup.subtree_control"), "+memory"))
        .and_then(|()| fs::write(cgroup.join("cgroup.procs"), "0"))
        .map_err(|error| format!("{}: {error}", cgroup.display()))?;
    let moved = Moved {
        mount: mount.to_owned(),
        from: own,
        enabled,
    };
    match is_alone(mount, CGROUP) {
        true => Ok(Some(moved)),
        false => Err(format!("others are in {}", cgroup.display())),
    }
}

/// Whether this process has the cgroup below the root to itself.
fn is_alone(mount: &Path, cgroup: &str) -> bool {
    let procs = fs::read_to_string(mount.join(cgroup).join("cgroup.procs")).unwrap_or_default();
    let own = std::process::id().to_string();
    !cgroup.is_empty() && !cgroup.contains('/') && procs.lines().eq([own.as_str()])
}

impl Ballast {
    /// Of so many bytes, in the agent's cgroup; see [`move_in`]. An error says why there is none.
    pub fn open(mount: &Path, size: u64, moved: Option<Moved>) -> Result<Self, String> {
        let own = own_cgroup().ok_or("no cgroup2")?;
        if !is_alone(mount, &own) {
            return Err(format!("the agent is not alone in its cgroup /{own}"));
        }
        let cgroup = mount.join(&own);
        let low = cgroup.join("memory.low");
        let of_cgroup = |name: &str| {
            let path = cgroup.join(name);
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let before = of_cgroup("memory.low")?;
        let usage: u64 = of_cgroup("memory.current")?.trim().parse().unwrap_or(0);
        let enough = usage.saturating_add(size).saturating_add(SPARE);
        if before
            .trim()
            .parse()
            .is_ok_and(|before: u64| before < enough)
        {
            fs::write(&low, enough.to_string())
                .map_err(|error| format!("{}: {error}", low.display()))?;
        }
        let this = Self {
            pages: LazyPages::new(size)
                .map_err(|error| format!("no memory that is freed lazily: {error}"))?,
            events: rustix::fs::open(
                cgroup.join("memory.events"),
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|error| format!("memory.events: {error}"))?,
            low,
            before,
            _moved: moved,
        };
        this.acknowledge().map_err(|error| error.to_string())?;
        Ok(this)
    }

    pub fn size(&self) -> u64 {
        self.pages.length()
    }

    /// Bytes of it that the kernel has not taken yet: no other process can have them, though they count as
    /// available. Allocates nothing.
    pub fn left(&self) -> u64 {
        self.pages.left()
    }

    /// Has all of it there again. Not for times of pressure.
    pub fn refill(&self) -> io::Result<()> {
        self.pages.fill()
    }

    /// Only what comes from now on is an alarm. Allocates nothing.
    pub fn acknowledge(&self) -> io::Result<()> {
        rustix::io::pread(&self.events, &mut [0; EVENTS], 0)?;
        Ok(())
    }
}

impl AsFd for Ballast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // A cgroup that is gone has no protection to take back.
        let _ = fs::write(&self.low, self.before.trim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_size_follows_the_ram_within_bounds() {
        for (ram_mb, kb) in [(49, 2048), (128, 4096), (160, 5120), (512, 8192)] {
            assert_eq!(size(None, ram_mb << 20), Ok(kb << 10));
        }
        assert_eq!(size(Some(1 << 20), 64 << 20), Ok(1 << 20));
    }

    #[test]
    fn more_than_an_eighth_of_ram_is_refused_with_both_figures() {
        assert!(size(None, 15 << 20).is_err());
        let said = size(Some(16 << 20), 64 << 20).unwrap_err();
        assert_eq!(said, "16384K is more than an eighth of 65536K of RAM");
    }
}
