//! Where things are.

use anyhow::{Context as _, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The top of the source tree that is worked on: the one that cargo runs this program for, or the
/// one that the current directory is in. Not the one it was compiled in, which may be another copy.
pub fn workspace() -> &'static Path {
    static TOP: OnceLock<PathBuf> = OnceLock::new();
    TOP.get_or_init(|| {
        let start =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(env::current_dir, |dir| Ok(dir.into()));
        start
            .ok()
            .and_then(|start| workspace_above(&start))
            .expect("run it as `cargo xtask`, or inside of the source tree")
    })
}

/// The nearest directory at or above `start` whose `Cargo.toml` has a `[workspace]`.
fn workspace_above(start: &Path) -> Option<PathBuf> {
    let is_top = |dir: &&Path| {
        let manifest = fs::read_to_string(dir.join("Cargo.toml"));
        manifest.is_ok_and(|text| text.lines().any(|line| line.trim() == "[workspace]"))
    };
    start.ancestors().find(is_top).map(Path::to_owned)
}

/// A text file of the source tree, by its path from the top. Panics where there is none: the path is
/// a part of the program.
pub fn tree_text(path: &str) -> String {
    let file = workspace().join(path);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("cannot read {}: {e}", file.display()))
}

/// The one block of code in a page of the docs that has this in it, for scenarios that run it.
///
/// # Panics
/// Where there is none, or more than one.
pub fn doc_block(page: &str, with: &str) -> String {
    let text = tree_text(page);
    let blocks = text.split("\n```").skip(1).step_by(2);
    let bodies = blocks.map(|block| block.split_once('\n').map_or("", |(_, body)| body));
    let found: Vec<_> = bodies.filter(|body| body.contains(with)).collect();
    let [block] = found[..] else {
        panic!("{page}: {} blocks with {with:?}", found.len());
    };
    format!("{block}\n")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_tree_is_its_own_workspace() -> Result<()> {
        let copy = tempfile::tempdir()?;
        let package = copy.path().join("xtask");
        fs::create_dir(&package)?;
        fs::copy(
            workspace().join("Cargo.toml"),
            copy.path().join("Cargo.toml"),
        )?;
        fs::copy(
            workspace().join("xtask/Cargo.toml"),
            package.join("Cargo.toml"),
        )?;
        assert_eq!(workspace_above(&package).as_deref(), Some(copy.path()));
        assert_eq!(workspace_above(Path::new("/proc")), None);
        Ok(())
    }
}
