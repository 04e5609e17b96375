//! Recordings on the desk's disk.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

pub struct Recording {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl Recording {
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            bytes,
        })
    }

    /// Which device it is of: recordings have no name of their own.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// The files, and those in the directories and below, by name.
pub fn open(paths: &[PathBuf]) -> Result<Vec<Recording>> {
    ensure!(!paths.is_empty(), "no recording is named");
    let mut found = Vec::new();
    for path in paths {
        find(path, &mut found)?;
    }
    ensure!(!found.is_empty(), "no file is there");
    found.iter().map(|path| Recording::open(path)).collect()
}

fn find(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let of = || path.display().to_string();
    if !fs::metadata(path).with_context(of)?.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(of)?;
    let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(of)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        // Links are not followed: they may lead in circles.
        if !entry.file_type().with_context(of)?.is_symlink() {
            find(&entry.path(), found)?;
        }
    }
    Ok(())
}
