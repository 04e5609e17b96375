//! Where things are.

use anyhow::{Context as _, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The top of the source tree.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is in the workspace")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// A directory below the cache, which outlives the source tree and is shared by all copies of it.
pub fn cache(below: &str) -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let root = set("LOWTIDE_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("lowtide")))
        .or_else(|| Some(set("HOME")?.join(".cache/lowtide")))
        .context("none of LOWTIDE_CACHE, XDG_CACHE_HOME and HOME is set")?;
    let dir = root.join(below);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Makes `dir` by filling a temporary directory beside it, so that it is complete or not there.
/// Does nothing if it is there.
pub fn make_once(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dir.exists() {
        return Ok(());
    }
    let parent = dir.parent().context("no parent directory")?;
    fs::create_dir_all(parent)?;
    let partial = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(parent)?;
    fill(partial.path())?;
    match fs::rename(partial.path(), dir) {
        // Another process was faster.
        Err(_) if dir.exists() => Ok(()),
        result => result.with_context(|| format!("cannot make {}", dir.display())),
    }
}
