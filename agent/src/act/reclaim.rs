//! Takes file cache from one memcg.

use crate::sense::tree::Tree;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// Bytes asked for in one write, which the kernel does not return from before it has them or
/// gives up: small enough to look at the clock in between.
const CHUNK: u64 = 1 << 20;
/// The same with and without the word that leaves anonymous memory alone (Linux 6.8 and later).
const FILE_ONLY: &[u8] = b"1M swappiness=0";
const ANY: &[u8] = b"1M";

/// Reclaims up to `bytes` from the cgroup `id`, for at most about `limit`; returns what was got.
///
/// `ENOENT`: the kernel has no memory.reclaim (before 5.19). `ESTALE`: the cgroup is gone.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "one chunk more than was asked for, at most"
)]
pub fn reclaim(tree: &Tree, id: u64, bytes: u64, limit: Duration) -> io::Result<u64> {
    let deadline = Instant::now() + limit;
    let dir = tree.open_id(id)?;
    let file = rustix::fs::openat(
        &dir,
        "memory.reclaim",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut request = FILE_ONLY;
    let mut got = 0;
    while got < bytes && Instant::now() < deadline {
        match write(&file, request) {
            Ok(()) => got += CHUNK,
            Err(Errno::INVAL) if request == FILE_ONLY => request = ANY,
            // It got some of the chunk and gave up: there is no more.
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got)
}

fn write(file: &OwnedFd, request: &[u8]) -> Result<(), Errno> {
    rustix::io::write(file, request).map(drop)
}
