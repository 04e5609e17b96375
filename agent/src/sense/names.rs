//! What a candidate is called whenever it comes back: a cgroup made anew has another id, and often
//! another number in its name.

use super::Surveyor;
use super::process::{Id, read_at};
use super::status::{STATUS, Status};
use super::tree::PATH;
use lowtide_common::Row;
use lowtide_judge::Unit;
use rustix::fd::AsFd as _;
use std::mem::MaybeUninit;

/// FNV-1a, 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// What systemd's names of units end with, as far as they are cgroups.
const KINDS: [&[u8]; 3] = [b".scope", b".service", b".slice"];

impl Surveyor {
    /// The name of a candidate as a hash, see [`lowtide_judge::Names`]; 0 where it has exited, or is
    /// one process of a cgroup. `process` is what the kernel calls it, where that is known. Allocates
    /// nothing.
    pub fn name(&self, row: &Row, process: Option<&[u8]>) -> u64 {
        let is_process = row.flags & Row::PROCESS != 0;
        match (self.unit(), is_process) {
            (Unit::Process, _) => {
                process.map_or_else(|| of_process(Id(row.id)), |name| hash(&[stem(name)]))
            }
            (Unit::Cgroup, true) => 0,
            (Unit::Cgroup, false) => {
                let mut buffer = [MaybeUninit::uninit(); PATH];
                let dir = self.tree.open_id(row.id);
                let path = dir.and_then(|dir| self.tree.path_of(dir.as_fd(), &mut buffer));
                path.map_or(0, of_cgroup)
            }
        }
    }
}

fn of_process(id: Id) -> u64 {
    let mut buffer = [0; STATUS];
    let Ok((_, dir)) = id.open() else { return 0 };
    let status = read_at(&dir, c"status", &mut buffer);
    status.map_or(0, |text| hash(&[stem(&Status(text).name())]))
}

/// The path less the instance of a unit (`@1`), and less numbers at the end of the name.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a place in a text that is in memory"
)]
fn of_cgroup(path: &[u8]) -> u64 {
    let start = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (above, unit) = path.split_at(start);
    let kind = KINDS.into_iter().find(|kind| unit.ends_with(kind));
    let kind = kind.unwrap_or_default();
    let name = unit.strip_suffix(kind).unwrap_or(unit);
    let template = name.split(|b| *b == b'@').next().unwrap_or_default();
    hash(&[above, stem(template), kind])
}

/// Less numbers at the end, and what parts them from the name.
fn stem(name: &[u8]) -> &[u8] {
    let is_number = |b: &u8| b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b':');
    let end = name.iter().rposition(|b| !is_number(b));
    end.and_then(|at| name.get(..=at)).unwrap_or(name)
}

fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().copied().flatten();
    let hash = bytes.fold(FNV_OFFSET, |hash, b| {
        (hash ^ u64::from(*b)).wrapping_mul(FNV_PRIME)
    });
    // 0 is no name.
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_and_a_number_at_the_end_are_no_part_of_the_name() {
        for (one, other) in [
            ("app.slice/app-1.scope", "app.slice/app-22.scope"),
            ("system.slice/job@a.service", "system.slice/job@b.service"),
            ("docker/c1", "docker/c2"),
            ("apps/w-3", "apps/w-4"),
        ] {
            assert_eq!(
                of_cgroup(one.as_bytes()),
                of_cgroup(other.as_bytes()),
                "{one}"
            );
        }
    }

    #[test]
    fn everything_else_is() {
        for (one, other) in [
            ("apps/a", "apps/b"),
            ("apps1/a", "apps2/a"),
            ("app.slice/app-1.scope", "app.slice/app-1.service"),
            ("system.slice/a@1.service", "system.slice/b@1.service"),
            ("apps/1", "apps/2"),
        ] {
            assert_ne!(
                of_cgroup(one.as_bytes()),
                of_cgroup(other.as_bytes()),
                "{one}"
            );
        }
    }
}
