//! Gives back the memory of what was killed, also of a victim that does not get to run.
//!
//! process_mrelease(2) waits for the victim's mmap_lock, which a thread of its own in uninterruptible
//! sleep may hold for ever, and takes a fifth of a second for 500 MB in zram: a thread does it that
//! nothing else waits for.

use super::kill::each_process;
use super::oomd;
use crate::sys;
use rustix::fd::{AsFd as _, OwnedFd};
use std::hint::black_box;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

/// Victims that wait for their turn; what comes on top gives its memory back in its own time.
const QUEUE: usize = 16;
/// What the thread takes, 10 KiB on x86_64, and some more.
const STACK: usize = 64 << 10;
/// What giving back takes of it.
const TOUCHED: usize = 6 << 10;

/// What was killed.
pub enum Killed {
    /// A cgroup, by its directory.
    Memcg(OwnedFd),
    /// A process, and the directory of its cgroup where that is to be marked.
    Process {
        pidfd: OwnedFd,
        memcg: Option<OwnedFd>,
    },
}

/// The way to the thread.
pub struct Releaser {
    queue: Option<SyncSender<Killed>>,
    marks: bool,
}

impl Releaser {
    /// Without its thread nothing is given back, which is slower and otherwise the same.
    pub const NONE: Self = Self {
        queue: None,
        marks: false,
    };

    /// Starts the thread, which ends with this.
    pub fn start() -> io::Result<Self> {
        let (queue, killed) = sync_channel(QUEUE);
        let marks = oomd::is_wanted();
        Builder::new()
            .name("mrelease".to_owned())
            .stack_size(STACK)
            .spawn(move || release_all(&killed, marks))?;
        let queue = Some(queue);
        Ok(Self { queue, marks })
    }

    /// Whether it marks the cgroup of what it is given.
    pub fn marks(&self) -> bool {
        self.marks
    }

    /// Neither waits nor allocates.
    pub fn release(&self, killed: Killed) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(killed);
        }
    }
}

/// As others do that can go on: not in real time, but before most.
fn release_all(killed: &Receiver<Killed>, marks: bool) {
    let _ = rustix::process::setpriority_process(None, -20);
    // Its first touch would wait for a page just when there is none.
    black_box([0_u8; TOUCHED]);
    for killed in killed {
        match killed {
            // Marked before anything is given back: systemd looks once nothing is left in the cgroup.
            Killed::Memcg(dir) => {
                if marks {
                    oomd::mark(dir.as_fd(), count(&dir));
                }
                let _ = each_process(dir.as_fd(), &mut |pidfd| {
                    let _ = sys::process_mrelease(pidfd);
                    Ok(())
                });
            }
            Killed::Process { pidfd, memcg } => {
                if let Some(dir) = memcg {
                    oomd::mark(dir.as_fd(), 1);
                }
                let _ = sys::process_mrelease(&pidfd);
            }
        }
    }
}

/// Processes in the cgroup and below it.
#[expect(clippy::arithmetic_side_effects, reason = "a count of what is there")]
fn count(dir: &OwnedFd) -> u64 {
    let mut processes = 0;
    let _ = each_process(dir.as_fd(), &mut |_| {
        processes += 1;
        Ok(())
    });
    processes
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::process::Command;

    #[test]
    fn a_queue_that_is_full_holds_nothing_up() {
        let (queue, _killed) = sync_channel(1);
        let releaser = Releaser {
            queue: Some(queue),
            marks: false,
        };
        let mut child = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        for _ in 0..3 {
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            releaser.release(Killed::Process { pidfd, memcg: None });
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
