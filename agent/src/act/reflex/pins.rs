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
    /// Keeps it after the agent's end, beside what an agent before left there: that is to go once this
    /// one is armed, so that there is no gap. Until then both are, and as they rank alike they take the
    /// same victim. `NotFound` where no bpffs is mounted.
    pub fn pin(&mut self) -> io::Result<()> {
        let numbers = generations().into_iter().map(|(number, _)| number);
        let next = numbers.max().map_or(0, |number| number.saturating_add(1));
        let dir = Path::new(PINS).join(next.to_string());
        fs::create_dir_all(&dir)?;
        for (index, link) in self.links.iter().enumerate() {
            bpf::pin(link.as_fd(), &c_path(&dir.join(format!("link{index}")))?)?;
        }
        for (name, map) in ["shared", DEEDS].into_iter().zip(&self.maps) {
            bpf::pin(map.as_fd(), &c_path(&dir.join(name))?)?;
        }
        self.generation = Some(next);
        Ok(())
    }

    /// Which of the pinned ones it is.
    pub fn generation(&self) -> Option<u64> {
        self.generation
    }
}

/// What pinned reflexes, but for one generation, did since the agents that left them had a look, the oldest
/// first. It is told once.
pub fn deeds_but(of: Option<u64>) -> Vec<Deed> {
    let mut deeds = Vec::new();
    for (_, dir) in generations_but(of) {
        let map = c_path(&dir.join(DEEDS)).and_then(|path| bpf::pinned(&path));
        let ring = map.map(|map| Ring::new(map.as_fd(), Ring::smallest()));
        if let Ok(Ok(ring)) = ring {
            deeds.extend(std::iter::from_fn(|| ring.next().map(deed_of)));
        }
    }
    deeds
}

/// Ends all that is pinned, but for one generation; whether anything was.
pub fn remove_all_but(kept: Option<u64>) -> io::Result<bool> {
    let others = generations_but(kept);
    for (_, dir) in &others {
        remove(dir)?;
    }
    // Not empty where one is kept.
    let _ = fs::remove_dir(PINS);
    Ok(!others.is_empty())
}

fn generations_but(left_out: Option<u64>) -> Vec<(u64, PathBuf)> {
    let mut found = generations();
    found.retain(|(number, _)| Some(*number) != left_out);
    found
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// By age.
fn generations() -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(PINS).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    found.sort();
    found
}

/// bpffs removes no directory that something is in.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(dir)
}
