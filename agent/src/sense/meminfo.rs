//! The system's figures, read through descriptors that stay open, into a buffer on the stack.
//!
//! The `procfs` crate builds maps and strings for the same files; between trigger and kill nothing
//! may be allocated, so the few fields needed are picked out here.

use super::text::{digits, number_after, numbers_after, read_part, stall_total};
use lowtide_judge::Memory;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::io;

/// /proc/vmstat has about 200 lines; the fields needed stand in its first half.
const BUFFER: usize = 8 * 1024;
/// The counters of /proc/vmstat that are needed.
const REFAULTS: [&[u8]; 2] = [b"workingset_refault_anon ", b"workingset_refault_file "];
/// What the lines before the last of them may grow by, as each of some 30 gets more digits.
const GROWTH: usize = 512;
/// zram devices looked at; a device with more is not known.
const ZRAMS: usize = 4;

/// What /proc/meminfo lists that is in RAM and holds no other of these.
const ACCOUNTED: [&[u8]; 10] = [
    b"MemFree:",
    b"Buffers:",
    b"Cached:",
    b"SwapCached:",
    b"AnonPages:",
    b"Slab:",
    b"KernelStack:",
    b"PageTables:",
    b"Percpu:",
    b"VmallocUsed:",
];

/// A zram device.
struct Zram {
    /// mm_stat: orig_data_size compr_data_size mem_used_total mem_limit …
    stat: OwnedFd,
    /// Bytes that it takes at most, uncompressed.
    size: u64,
}

/// What mm_stat of a zram says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ZramStat {
    stored: u64,
    used: u64,
    /// RAM that it may use; 0: any.
    limit: u64,
}

impl ZramStat {
    fn parse(text: &[u8]) -> Self {
        let mut words = text
            .split(u8::is_ascii_whitespace)
            .filter(|w| !w.is_empty());
        let mut next = || words.next().and_then(digits).unwrap_or(0);
        let (stored, _, used, limit) = (next(), next(), next(), next());
        Self {
            stored,
            used,
            limit,
        }
    }

    /// Bytes of its `size` that are free and that it cannot take: it is near its limit, and shrinks what it
    /// gets as much as what it has.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "64 bits times 64 are 128; what is divided by is not 0"
    )]
    fn out_of_reach(&self, size: u64) -> u64 {
        if self.limit == 0 {
            return 0;
        }
        let room = u128::from(self.limit.saturating_sub(self.used));
        let ratio = (u128::from(self.stored), u128::from(self.used.max(1)));
        // Empty: nothing is known of what will come.
        let takes = if self.stored == 0 {
            u128::from(size)
        } else {
            room * ratio.0 / ratio.1
        };
        size.saturating_sub(self.stored)
            .saturating_sub(takes.min(u128::from(u64::MAX)) as u64)
    }
}

pub struct Meminfo {
    meminfo: OwnedFd,
    vmstat: OwnedFd,
    /// Bytes of it that are read: the kernel formats little more lines than are asked for.
    vmstat_length: usize,
    /// Missing where PSI is, or where it is off by command line and reads fail.
    pressure: Option<OwnedFd>,
    zram: heapless::Vec<Zram, ZRAMS>,
    /// Bytes by which the kernel has raised its watermarks of free memory; `None`: not looked at.
    boost: Option<u64>,
    /// [`Meminfo::unaccounted`] at the start.
    unaccounted: u64,
}

fn open(path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<&[u8]> {
    let n = rustix::io::pread(fd, &mut *buffer, 0)?;
    Ok(read_part(buffer, n))
}

/// Up to where /proc/vmstat has to be read, given all of it.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a place in a text that is in memory"
)]
fn length_needed(vmstat: &[u8]) -> usize {
    let ends = REFAULTS.iter().map(|key| {
        let at = vmstat.windows(key.len()).position(|word| word == *key)?;
        Some(at + key.len())
    });
    let last = ends.flatten().max().unwrap_or(BUFFER);
    (last + GROWTH).min(BUFFER)
}

impl Meminfo {
    pub fn open() -> io::Result<Self> {
        let mut this = Self {
            meminfo: open("/proc/meminfo")?,
            vmstat: open("/proc/vmstat")?,
            vmstat_length: BUFFER,
            pressure: open(super::psi::SYSTEM)
                .ok()
                .filter(|fd| read(fd, &mut [0; BUFFER]).is_ok()),
            zram: heapless::Vec::new(),
            boost: None,
            unaccounted: 0,
        };
        this.vmstat_length = read(&this.vmstat, &mut [0; BUFFER]).map_or(BUFFER, length_needed);
        this.find_zram();
        this.unaccounted = this.unaccounted()?;
        Ok(this)
    }

    /// The figures of a device as they were copied below `root`.
    pub fn copied(root: &std::path::Path) -> io::Result<Self> {
        let open = |path: &str| {
            let path = root.join(path);
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let said = |e| io::Error::other(format!("{}: {}", path.display(), io::Error::from(e)));
            rustix::fs::open(&path, flags, Mode::empty()).map_err(said)
        };
        Ok(Self {
            meminfo: open("proc/meminfo")?,
            vmstat: open("proc/vmstat")?,
            vmstat_length: BUFFER,
            pressure: open("proc/pressure/memory").ok(),
            zram: heapless::Vec::new(),
            boost: None,
            unaccounted: 0,
        })
    }

    /// Opens the zram devices there are now. To be called again when swap space changes: a zram
    /// may be added long after the agent started.
    pub fn find_zram(&mut self) {
        self.zram.clear();
        for i in 0..ZRAMS {
            let open = |file: &str| {
                let mut path = heapless::String::<48>::new();
                core::fmt::write(&mut path, format_args!("/sys/block/zram{i}/{file}")).ok()?;
                open(&path).ok()
            };
            if let Some(stat) = open("mm_stat") {
                let size = open("disksize");
                let size = size
                    .and_then(|fd| digits(read(fd, &mut [0; 32]).ok()?))
                    .unwrap_or(0);
                let _ = self.zram.push(Zram { stat, size });
            }
        }
    }

    /// From now on what is below raised watermarks does not count as available: the kernel's OOM
    /// killer comes before it can be had, and MemAvailable leaves that out.
    pub fn follow_boost(&mut self) {
        self.boost = Some(raised_marks());
    }

    /// Looks anew how far the watermarks are raised, where that counts. Allocates.
    pub fn refresh_boost(&mut self) {
        if self.boost.is_some() {
            self.follow_boost();
        }
    }

    /// Bytes of RAM that no process, cgroup or cache holds and that are not free: what drivers and
    /// other parts of the kernel took page by page, which nothing lists.
    fn unaccounted(&self) -> io::Result<u64> {
        let mut buffer = [0; BUFFER];
        let text = read(&self.meminfo, &mut buffer)?;
        let kib = |key: &[u8]| number_after(text, key).unwrap_or(0).saturating_mul(1024);
        let known = ACCOUNTED.iter().map(|key| kib(key));
        let (zram, _) = self.zram()?;
        Ok(kib(b"MemTotal:").saturating_sub(known.fold(zram, u64::saturating_add)))
    }

    /// How much more of that there is than at the start.
    pub fn newly_unaccounted(&self) -> u64 {
        let now = self.unaccounted().unwrap_or(0);
        now.saturating_sub(self.unaccounted)
    }

    /// RAM that zram holds, and bytes of free swap that it cannot take.
    fn zram(&self) -> io::Result<(u64, u64)> {
        let mut buffer = [0; 256];
        let (mut used, mut out_of_reach) = (0_u64, 0_u64);
        for zram in &self.zram {
            let stat = ZramStat::parse(read(&zram.stat, &mut buffer)?);
            used = used.saturating_add(stat.used);
            out_of_reach = out_of_reach.saturating_add(stat.out_of_reach(zram.size));
        }
        Ok((used, out_of_reach))
    }

    /// Bytes that count as available and are kept free by raised watermarks, where that is followed; they
    /// are left out of what is available.
    pub fn boost(&self) -> u64 {
        self.boost.unwrap_or(0)
    }

    /// Whether the kernel measures stalls.
    pub fn has_psi(&self) -> bool {
        self.pressure.is_some()
    }

    /// Reads everything anew. An error only where /proc itself fails.
    pub fn read(&self) -> io::Result<Memory> {
        let mut buffer = [0; BUFFER];
        let mut memory = Memory::default();
        let text = read(&self.meminfo, &mut buffer)?;
        take_meminfo(&mut memory, text).ok_or(io::ErrorKind::InvalidData)?;
        memory.available = memory.available.saturating_sub(self.boost());
        memory.psi = self.has_psi();
        let part = buffer.get_mut(..self.vmstat_length);
        memory.refaults = refaults(read(&self.vmstat, part.unwrap_or_default())?);
        if let Some(pressure) = &self.pressure {
            let text = read(pressure, &mut buffer)?;
            memory.psi_some_us = stall_total(text, b"some").unwrap_or(0);
            memory.psi_full_us = stall_total(text, b"full").unwrap_or(0);
        }
        let (used, out_of_reach) = self.zram()?;
        memory.zram = used;
        memory.swap_free = memory.swap_free.saturating_sub(out_of_reach);
        Ok(memory)
    }
}

/// `None` where /proc/meminfo says not what there is, or not what is available.
pub(crate) fn take_meminfo(memory: &mut Memory, text: &[u8]) -> Option<()> {
    const KEYS: [&[u8]; 9] = [
        b"MemTotal:",
        b"MemFree:",
        b"MemAvailable:",
        b"Active(anon):",
        b"Inactive(anon):",
        b"Active(file):",
        b"Inactive(file):",
        b"SwapTotal:",
        b"SwapFree:",
    ];
    let kib = numbers_after(text, &KEYS);
    let [total, free, available, rest @ ..] = kib.map(|kib| Some(kib?.saturating_mul(1024)));
    let [
        active,
        inactive,
        active_file,
        inactive_file,
        swap_total,
        swap_free,
    ] = rest.map(Option::unwrap_or_default);
    memory.total = total?;
    memory.available = available?;
    memory.free = free.unwrap_or(0);
    memory.swappable = active.saturating_add(inactive);
    memory.file = active_file.saturating_add(inactive_file);
    (memory.swap_total, memory.swap_free) = (swap_total, swap_free);
    Some(())
}

/// Pages that were read in again soon after they had been given up, from /proc/vmstat.
pub(crate) fn refaults(text: &[u8]) -> u64 {
    let counts = numbers_after(text, &REFAULTS).map(Option::unwrap_or_default);
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Bytes by which the watermarks of all zones are raised (`boost` of /proc/zoneinfo, in pages);
/// 0 where that cannot be read.
pub fn raised_marks() -> u64 {
    let zones = std::fs::read("/proc/zoneinfo").unwrap_or_default();
    boosted_pages(&zones).saturating_mul(rustix::param::page_size() as u64)
}

/// Whether the kernel lets the lists of free pages of single processors grow as it likes (since Linux 6.7).
pub fn page_lists_grow() -> bool {
    let zones = std::fs::read("/proc/zoneinfo").unwrap_or_default();
    grow(&zones)
}

fn grow(zones: &[u8]) -> bool {
    zones
        .split(|b| *b == b'\n')
        .any(|line| line.trim_ascii().starts_with(b"high_max:"))
}

pub(crate) fn boosted_pages(zones: &[u8]) -> u64 {
    pages_of(zones, b"boost")
}

fn pages_of(zones: &[u8], key: &[u8]) -> u64 {
    let lines = zones.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
    let values = lines.filter_map(|line| line.strip_prefix(key));
    let pages = values.filter_map(|pages| digits(pages.trim_ascii()));
    pages.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boosts_of_all_zones_add_up() {
        let zones = b"Node 0, zone      DMA\n  pages free     3840\n        boost    512\n        min      66\n\
            Node 0, zone    DMA32\n  pages free     20\n        boost    1024\n        min      400\n";
        assert_eq!(boosted_pages(zones), 1536);
        assert_eq!(boosted_pages(b""), 0);
    }

    #[test]
    fn lists_grow_where_they_have_two_bounds() {
        let since = b"    cpu: 0\n              high:     417\n              high_min: 417\n              high_max: 1500\n";
        assert!(grow(since));
        assert!(!grow(b"    cpu: 0\n              high:     417\n"));
    }

    #[test]
    fn a_zram_at_its_limit_takes_no_more_however_much_of_it_is_free() {
        const MIB: u64 = 1 << 20;
        let half = b"    33554432  16000000 16777216 33554432 16777216  0  0  0  0\n";
        let stat = ZramStat::parse(half);
        assert_eq!(
            (stat.stored, stat.used, stat.limit),
            (32 * MIB, 16 * MIB, 32 * MIB)
        );
        // It shrinks to half: another 32 MB fit of the 96 that are free.
        assert_eq!(stat.out_of_reach(128 * MIB), 64 * MIB);
        let full = ZramStat {
            used: 32 * MIB,
            stored: 40 * MIB,
            ..stat
        };
        assert_eq!(full.out_of_reach(128 * MIB), 88 * MIB);
        assert_eq!(ZramStat { limit: 0, ..full }.out_of_reach(128 * MIB), 0);
        assert_eq!(
            ZramStat {
                stored: 0,
                used: 0,
                ..stat
            }
            .out_of_reach(128 * MIB),
            0
        );
    }

    #[test]
    fn only_the_first_lines_of_vmstat_are_read() {
        let text = b"nr_free_pages 1\nworkingset_refault_anon 2\nworkingset_refault_file 3\n";
        assert_eq!(length_needed(text), text.len() - 2 + GROWTH);
        assert_eq!(length_needed(b"nr_free_pages 1\n"), BUFFER);
        let memory = Meminfo::open().unwrap();
        let part = read(&memory.vmstat, &mut vec![0; memory.vmstat_length])
            .unwrap()
            .len();
        let whole = read(&memory.vmstat, &mut [0; BUFFER]).unwrap().len();
        assert!(part < whole, "{part} of {whole} bytes");
    }

    #[test]
    fn this_machine_has_memory() {
        let memory = Meminfo::open().unwrap().read().unwrap();
        assert!(
            memory.total > memory.available && memory.available > 0,
            "{memory:?}"
        );
    }
}
