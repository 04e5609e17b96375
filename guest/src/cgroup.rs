//! The cgroup tree, by names in which `%XX` is a byte.

use lowtide_guest::{CGROUP_ROOT, bytes};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// Where a cgroup is, from its name relative to the root of the tree.
pub fn path(name: &str) -> PathBuf {
    Path::new(CGROUP_ROOT).join(OsString::from_vec(bytes(name)))
}

/// Makes a cgroup and its ancestors, with the controllers that memory tests need in all of them, which
/// `write` turns on.
pub fn make(name: &str, mut write: impl FnMut(&Path, &str) -> io::Result<()>) -> io::Result<()> {
    let mut dir = PathBuf::from(CGROUP_ROOT);
    for part in name.split('/').filter(|p| !p.is_empty()) {
        let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
        let control = dir.join("cgroup.subtree_control");
        let on = fs::read_to_string(&control)?;
        let has = |list: &str, name| list.split_whitespace().any(|c| c == name);
        for controller in ["memory", "pids"] {
            if has(&controllers, controller) && !has(&on, controller) {
                write(&control, &format!("+{controller}"))?;
            }
        }
        dir.push(OsString::from_vec(bytes(part)));
        match fs::create_dir(&dir) {
            // Others make the same at the same time.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Moves this process there.
pub fn enter(name: &str) -> io::Result<()> {
    fs::write(path(name).join("cgroup.procs"), "0")
}
