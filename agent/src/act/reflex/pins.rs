//! Pins in bpffs, which keep the reflex where it is after the agent has ended.

use super::{Reflex, deed_of};
use crate::sense::bpf::{self, Ring};
use lowtide_common::Deed;
use rustix::fd::AsFd as _;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Where the pins are: a directory for each generation.
pub const PINS: &str = "/sys/fs/bpf/lowtide";

/// The ring of what it did, among the pins of a generation.
const DEEDS: &str = "deeds";

impl Reflex {
    /// Keeps it after the agent's end, in place of what an agent before left there: that goes only
    /// now, so that there is no gap. `NotFound` where no bpffs is mounted.
    pub fn pin(&mut self) -> io::Result<()> {
        let old = generations();
        let next = old.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let dir = Path::new(PINS).join(next.to_string());
        fs::create_dir_all(&dir)?;
        for (index, link) in self.links.iter().enumerate() {
            bpf::pin(link.as_fd(), &c_path(&dir.join(format!("link{index}")))?)?;
        }
        for (name, map) in ["shared", DEEDS].into_iter().zip(&self.maps) {
            bpf::pin(map.as_fd(), &c_path(&dir.join(name))?)?;
        }
        self.pinned = true;
        for (_, dir) in old {
            remove(&dir)?;
        }
        Ok(())
    }
}

/// What a pinned reflex did since the agent that left it had a look, the oldest first. It is told once.
pub fn deeds() -> Vec<Deed> {
    let mut deeds = Vec::new();
    for (_, dir) in generations() {
        let map = c_path(&dir.join(DEEDS)).and_then(|path| bpf::pinned(&path));
        let ring = map.map(|map| Ring::new(map.as_fd(), Ring::smallest()));
        if let Ok(Ok(ring)) = ring {
            deeds.extend(std::iter::from_fn(|| ring.next().map(deed_of)));
        }
    }
    deeds
}

/// Ends what is pinned; whether anything was.
pub fn unpin() -> io::Result<bool> {
    let pinned = generations();
    for (_, dir) in &pinned {
        remove(dir)?;
    }
    let _ = fs::remove_dir(PINS);
    Ok(!pinned.is_empty())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn generations() -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(PINS).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect()
}

/// bpffs removes no directory that something is in.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}
