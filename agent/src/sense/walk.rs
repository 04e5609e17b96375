//! The cgroups below one: without recursion, without an allocation, and no deeper than
//! [`MAX_DEPTH`] levels, however deep others have nested them.

use lowtide_common::MAX_DEPTH;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, SeekFrom, StatxFlags, statx};
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;

/// Bytes of a directory listing read at a time.
const LISTING: usize = 1024;
/// Links of a directory without directories in it: its name and its own `.`.
const NO_DIRS: u32 = 2;

/// A cgroup as the listing of the one above shows it.
pub struct Entry<'a> {
    pub parent: BorrowedFd<'a>,
    pub name: &'a CStr,
    /// Inode number, which is the cgroup id where inode numbers have 64 bits.
    pub inode: u64,
    /// 1 for a child of the one that the walk began at.
    pub level: usize,
}

impl Entry<'_> {
    /// Its directory; an error when it has gone meanwhile.
    pub fn open(&self) -> io::Result<OwnedFd> {
        open_dir(self.parent, self.name)
    }
}

/// Calls `visit` with each cgroup below `top`, parents before children, until it breaks. A directory
/// that cannot be read is left out, with what is below it: it has gone, or may not be looked into.
pub fn each_below(
    top: BorrowedFd<'_>,
    visit: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // Each with the place in its listing to go on from.
    let mut open = heapless::Vec::<(OwnedFd, u64), MAX_DEPTH>::new();
    // Most have none below, and their listing is of files alone.
    if has_dirs(top, c".")
        && let Ok(top) = open_dir(top, c".")
    {
        // There is room for the first.
        let _ = open.push((top, 0));
    }
    loop {
        let level = open.len();
        let Some((dir, place)) = open.last_mut() else {
            return ControlFlow::Continue(());
        };
        let below = next_parent(dir, place, level, visit)?;
        match below {
            // Where there is no more room, what is deeper counts for the one above.
            Some(below) => drop(open.push((below, 0))),
            None => drop(open.pop()),
        }
    }
}

/// Visits what a directory lists from `place` on, until one has directories of its own: that one,
/// and the place behind it. `None` at the end of the listing.
fn next_parent(
    dir: &OwnedFd,
    place: &mut u64,
    level: usize,
    visit: &mut dyn FnMut(&Entry<'_>) -> ControlFlow<()>,
) -> ControlFlow<(), Option<OwnedFd>> {
    // A listing that breaks off is that of a cgroup that has just gone.
    let visited = each_listed(
        dir.as_fd(),
        *place,
        &mut Ok(()),
        &mut |name, inode, next_place| {
            let found = Entry {
                parent: dir.as_fd(),
                name,
                inode,
                level,
            };
            if visit(&found).is_break() {
                return ControlFlow::Break(None);
            }
            if level < MAX_DEPTH
                && has_dirs(dir, name)
                && let Ok(below) = found.open()
            {
                *place = next_place;
                return ControlFlow::Break(Some(below));
            }
            ControlFlow::Continue(())
        },
    );
    match visited {
        ControlFlow::Break(None) => ControlFlow::Break(()),
        ControlFlow::Break(below) => ControlFlow::Continue(below),
        ControlFlow::Continue(()) => ControlFlow::Continue(None),
    }
}

/// Calls `visit` with the name and the inode number of each cgroup right below an open directory. An error
/// where the listing breaks off: `ENOENT` when the cgroup has just gone.
pub fn each_child(
    dir: impl AsFd,
    visit: &mut dyn FnMut(&CStr, u64) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut broke = Ok(());
    let _ = each_listed(dir.as_fd(), 0, &mut broke, &mut |name, inode, _| {
        visit(name, inode)
    });
    broke
}

/// Calls `visit` with the name and the inode number of each directory in one, from a place in its
/// listing on, and with the place behind it. `broke`: what the listing broke off with.
fn each_listed<B>(
    dir: BorrowedFd<'_>,
    from: u64,
    broke: &mut io::Result<()>,
    visit: &mut dyn FnMut(&CStr, u64, u64) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut buffer = [MaybeUninit::uninit(); LISTING];
    if let Err(error) = rustix::fs::seek(dir, SeekFrom::Start(from)) {
        *broke = Err(error.into());
        return ControlFlow::Continue(());
    }
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                *broke = Err(error.into());
                break;
            }
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            visit(name, entry.ino(), entry.next_entry_cookie())?;
        }
    }
    ControlFlow::Continue(())
}

/// Appends one more name to a path from the root of the tree; its length before, to cut it to again.
pub fn go_down(path: &mut Vec<u8>, name: &CStr) -> usize {
    let length = path.len();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name.to_bytes());
    length
}

/// Whether there are directories in a directory, as its link count tells.
fn has_dirs(dir: impl AsFd, name: &CStr) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let stat = statx(dir, name, flags, StatxFlags::NLINK);
    stat.is_ok_and(|stat| stat.stx_nlink > NO_DIRS)
}

/// Opens a directory, but no link to one.
pub fn open_dir(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};

    /// A directory of this test's own; tmpfs and ext4 count links as cgroup2 does.
    fn directory(name: &str) -> PathBuf {
        let dir = Path::new("/dev/shm").join(format!("lowtide-walk-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn walked(top: &Path) -> Vec<(String, usize)> {
        let mut seen = Vec::new();
        let top = File::open(top).unwrap();
        let _ = each_below(top.as_fd(), &mut |entry| {
            seen.push((entry.name.to_str().unwrap().to_owned(), entry.level));
            ControlFlow::Continue(())
        });
        seen
    }

    #[test]
    fn each_is_visited_once_and_below_its_parent() {
        let top = directory("each");
        for i in 0..300 {
            fs::create_dir_all(top.join(format!("a{i}/b{i}"))).unwrap();
            fs::write(top.join(format!("file{i}")), "").unwrap();
        }
        let seen = walked(&top);
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(seen.len(), 600);
        for pair in seen.chunks(2) {
            let [(a, 1), (b, 2)] = pair else {
                panic!("{pair:?}")
            };
            assert_eq!(a[1..], b[1..]);
        }
    }

    #[test]
    fn it_goes_no_deeper_than_the_limit() {
        let top = directory("deep");
        fs::create_dir_all(top.join("d/".repeat(3 * MAX_DEPTH))).unwrap();
        let levels: Vec<_> = walked(&top).into_iter().map(|(_, level)| level).collect();
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(levels, (1..=MAX_DEPTH).collect::<Vec<_>>());
    }

    #[test]
    fn it_ends_where_the_visitor_says_so() {
        let top = directory("ends");
        for i in 0..10 {
            fs::create_dir_all(top.join(format!("{i}/x"))).unwrap();
        }
        let dir = File::open(&top).unwrap();
        let mut visited = 0;
        let ended = each_below(dir.as_fd(), &mut |_| {
            visited += 1;
            if visited == 5 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        fs::remove_dir_all(&top).unwrap();
        assert_eq!((ended, visited), (ControlFlow::Break(()), 5));
    }
}
