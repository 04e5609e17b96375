//! Tells of cgroups as they are made, at no cost while none are.

use rustix::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use smol::Async;
use std::io;
use std::mem::MaybeUninit;

/// Directories that are watched. The kernel keeps an inode of about a kilobyte for each.
const WATCHES: usize = 256;

/// Watches over directories of cgroups for new ones in them. By inotify: one fanotify mark on the whole
/// file system would do the same, but only from Linux 6.6 on has cgroup2 an id to set it by.
pub struct Births {
    /// `None`: nothing is told.
    inotify: Option<Async<OwnedFd>>,
    watched: Vec<i32>,
    /// Those of the walk that goes on.
    seen: Vec<i32>,
    all_fit: bool,
}

impl Births {
    /// Fails with `EMFILE` where the user has no inotify instance left.
    pub fn new() -> io::Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        Ok(Self {
            inotify: Some(Async::new_nonblocking(inotify::init(flags)?)?),
            ..Self::none()
        })
    }

    /// One that tells of nothing.
    pub fn none() -> Self {
        Self {
            inotify: None,
            watched: Vec::new(),
            seen: Vec::new(),
            all_fit: true,
        }
    }

    /// Watches over a directory from now on. It is one of those of a walk over all of them, which
    /// [`end_walk`](Self::end_walk) ends.
    pub fn watch(&mut self, dir: BorrowedFd<'_>) {
        let Some(inotify) = self.inotify.as_ref().filter(|_| self.seen.len() < WATCHES) else {
            return;
        };
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let flags = WatchFlags::CREATE | WatchFlags::ONLYDIR;
        // The same for a directory that is watched already; one that vanishes needs none.
        if let Ok(watch) = inotify::add_watch(inotify, path, flags) {
            self.seen.push(watch);
        }
    }

    /// Gives up the watches over directories that the walk did not come by: of one that is removed the
    /// kernel says nothing. Whether it is the first walk that came by more than can be watched.
    pub fn end_walk(&mut self) -> bool {
        for gone in self.watched.iter().filter(|w| !self.seen.contains(w)) {
            if let Some(inotify) = &self.inotify {
                let _ = inotify::remove_watch(inotify, *gone);
            }
        }
        self.watched = std::mem::take(&mut self.seen);
        let fit = self.watched.len() < WATCHES;
        std::mem::replace(&mut self.all_fit, fit) && !fit
    }

    /// The walk was ended: nothing is known of the directories that it did not come by.
    pub fn abandon_walk(&mut self) {
        for seen in std::mem::take(&mut self.seen) {
            if !self.watched.contains(&seen) {
                self.watched.push(seen);
            }
        }
    }

    /// Waits until there is something to [`take`](Self::take).
    pub async fn readable(&self) -> io::Result<()> {
        match &self.inotify {
            Some(inotify) => inotify.readable().await,
            None => std::future::pending().await,
        }
    }

    /// Whether a cgroup was made since the last call.
    pub fn take(&self) -> bool {
        let Some(inotify) = &self.inotify else {
            return false;
        };
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = Reader::new(inotify, &mut buffer);
        let mut born = false;
        while let Ok(event) = events.next() {
            // What overflows the queue are births.
            let telling = ReadFlags::CREATE | ReadFlags::QUEUE_OVERFLOW;
            born |= event.events().intersects(telling);
        }
        born
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use std::fs::{self, File};

    #[test]
    fn a_directory_made_in_one_that_the_last_walk_came_by_is_told_of_once() {
        let root = std::env::temp_dir().join(format!("lowtide-births-{}", std::process::id()));
        let (one, two) = (root.join("one"), root.join("two"));
        for dir in [&one, &two] {
            fs::create_dir_all(dir).unwrap();
        }
        let mut births = Births::new().unwrap();
        let walk = |births: &mut Births, dirs: &[&std::path::Path]| {
            for dir in dirs {
                births.watch(File::open(dir).unwrap().as_fd());
            }
            assert!(!births.end_walk());
        };
        walk(&mut births, &[&one, &two]);
        assert!(!births.take());
        fs::create_dir(one.join("x")).unwrap();
        assert!(births.take());
        assert!(!births.take());
        walk(&mut births, &[&two]);
        fs::create_dir(one.join("y")).unwrap();
        assert!(!births.take());
        fs::create_dir(two.join("x")).unwrap();
        assert!(births.take());
        fs::remove_dir_all(root).unwrap();
    }
}
