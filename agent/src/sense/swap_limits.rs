//! Which part of a cgroup's memory its limits on swap keep in RAM.

use super::text::{digits, read_part};
use super::tree::Tree;
use lowtide_common::{MAX_DEPTH, Row, Survey};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, openat};
use std::io;

/// `../` for each level up, and the longest name.
const PATH: usize = 3 * MAX_DEPTH + 24;

/// Bytes of anonymous memory that may not go to swap, of the candidates of a survey and the largest that
/// is never killed: what decides whether swap is of any use is large. Of processes nothing is known.
/// Allocates nothing.
pub fn kept_in_ram(tree: &Tree, survey: &Survey) -> u64 {
    let never = Some(&survey.largest_never).filter(|row| row.id != 0);
    let rows = survey.kill().iter().chain(never);
    rows.filter(|row| row.flags & Row::PROCESS == 0)
        .filter_map(|row| {
            let dir = tree.open_id(row.id).ok()?;
            Some(row.anon.saturating_sub(swap_left(&dir)))
        })
        .fold(0, u64::saturating_add)
}

/// Bytes that may still go to swap by the limits of the cgroup and of those above it. What cannot be read
/// sets no limit.
fn swap_left(dir: &OwnedFd) -> u64 {
    let mut up = heapless::String::<PATH>::new();
    let mut least = u64::MAX;
    for _ in 0..MAX_DEPTH {
        // The root has none of these files.
        let Ok(limit) = number(dir, &up, "memory.swap.max") else {
            break;
        };
        if let Some(limit) = limit {
            let used = number(dir, &up, "memory.swap.current").ok().flatten();
            least = least.min(limit.saturating_sub(used.unwrap_or(0)));
        }
        if up.push_str("../").is_err() {
            break;
        }
    }
    least
}

/// `None` for `max`.
fn number(dir: &OwnedFd, up: &str, file: &str) -> io::Result<Option<u64>> {
    let mut path = heapless::String::<PATH>::new();
    let whole = path.push_str(up).and_then(|()| path.push_str(file));
    whole.map_err(|_| io::ErrorKind::InvalidFilename)?;
    let file = openat(
        dir,
        path.as_str(),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = [0; 32];
    let n = rustix::io::read(&file, &mut buffer)?;
    Ok(digits(read_part(&buffer, n)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("lowtide-swap-{}", std::process::id()));
        let leaf = root.join("slice/service");
        fs::create_dir_all(&leaf).unwrap();
        let write = |dir: &std::path::Path, max: &str, current: &str| {
            fs::write(dir.join("memory.swap.max"), max).unwrap();
            fs::write(dir.join("memory.swap.current"), current).unwrap();
        };
        let left = || swap_left(&fs::File::open(&leaf).unwrap().into());
        write(&leaf, "max\n", "0\n");
        write(&root.join("slice"), "max\n", "0\n");
        assert_eq!(left(), u64::MAX);
        write(&root.join("slice"), "8192\n", "4096\n");
        assert_eq!(left(), 4096);
        write(&leaf, "0\n", "0\n");
        assert_eq!(left(), 0);
        fs::remove_dir_all(root).unwrap();
    }
}
