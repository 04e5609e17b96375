//! The engine for kernels without the memcg kfuncs: the same survey, read from the cgroup files.
//!
//! Each open file costs the kernel some KB, so only the largest memcgs have theirs open; of the others
//! it is the directory alone, and one figure is read of them that tells whether they matter.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "indices and counts are those of its own table, which is walked by them"
)]

use super::process::read_at;
use super::text::{digits, number_after, pairs, read_part, stall_total};
use super::tree::Tree;
use super::walk::{each_child, open_dir};
use super::{Engine, spare_descriptors};
use crate::sys;
use lowtide_common::{Above, Best, CANDIDATES, MAX_DEPTH, Request, Row, Rule, Survey};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, statx};
use std::ffi::CStr;
use std::io;
use std::ops::ControlFlow;

/// Memcgs that have their files open at most, and the descriptors that each takes.
const OPEN: usize = 32;
const FILES: usize = 3;
/// One that uses less, swap included, is no candidate: nothing that it gives back would help.
const SMALL: u64 = 256 << 10;
/// Memcgs beyond the table whose size is looked at in one survey.
const LOOKED_AT: u32 = 1024;
/// A memory.stat of Linux 7.3 has 2 KB.
const BUFFER: usize = 8 * 1024;
/// Links of a directory without directories in it.
const NO_DIRS: u32 = 2;
/// Parent of the root; also where what is gone moves to.
const NONE: u32 = u32::MAX;

/// One memcg.
struct Memcg {
    id: u64,
    /// Index of the parent, which always stands before its children.
    parent: u32,
    level: u16,
    /// Children that are memcgs too.
    children: u16,
    gone: bool,
    /// `None`: not classified yet.
    rule: Option<Rule>,
    /// memory.current, and memory.swap.current where swap is in use; 0 for the root.
    usage: u64,
    swap: u64,
    dir: OwnedFd,
    files: Option<Files>,
}

/// What ranking reads. What is not there on this kernel, or not for the root, is `None`.
struct Files {
    stat: OwnedFd,
    members: Option<OwnedFd>,
    swap: Option<OwnedFd>,
}

/// A row among the best, which still lacks the figures that ranking does not need, and its memcg.
type Candidate = (Row, u32);

pub struct Cgroupfs {
    memcgs: Vec<Memcg>,
    room: usize,
    left_out: u32,
    /// Of those beyond the table, how many were looked at before: the others have their turn.
    turn: u32,
    /// Those in the table, sorted.
    ids: Vec<u64>,
    /// Memcgs that may have their files open, the root not counted.
    most_open: usize,
    /// Where each memcg moves to while those that are gone are taken out.
    moved: Vec<u32>,
    /// What the walk passes down from each memcg.
    above: Vec<Above>,
    survey: Box<Survey>,
    rows: Vec<Row>,
}

impl Cgroupfs {
    /// `room` is how many memcgs are looked at, where there are descriptors for so many; `rows` is
    /// how many a survey with [`Request::ALL_ROWS`] can show. `NotFound`: the hierarchy has no
    /// memory controller.
    pub fn open(tree: &Tree, room: usize, rows: usize) -> io::Result<Self> {
        let spare = spare_descriptors()?;
        // Most of a few descriptors are for being looked at, and not for being read fast.
        let most_open = OPEN.min(spare / (4 * FILES));
        let room = room.min(spare - most_open * FILES).max(1);
        let mut this = Self {
            memcgs: Vec::with_capacity(room),
            room,
            left_out: 0,
            turn: 0,
            ids: Vec::with_capacity(room),
            most_open,
            moved: Vec::with_capacity(room),
            above: Vec::with_capacity(room),
            survey: Box::new(Survey::EMPTY),
            rows: Vec::with_capacity(rows),
        };
        let mut root = Memcg::open(open_dir(tree.root()?, c".")?, NONE, 0)?;
        root.files = Some(Files::open(&root.dir)?);
        this.memcgs.push(root);
        this.refresh();
        Ok(this)
    }

    /// Finds out what came and what went since the last time.
    fn refresh(&mut self) {
        let swaps = is_swap_used();
        let mut any_gone = false;
        for i in 1..self.memcgs.len() {
            let parent = self.memcgs[i].parent as usize;
            if self.memcgs[parent].gone || self.memcgs[i].look(swaps).is_err() {
                self.memcgs[i].gone = true;
                self.memcgs[parent].children -= 1;
                any_gone = true;
            }
        }
        if any_gone {
            self.take_out_gone();
        }
        self.ids.clear();
        self.ids.extend(self.memcgs.iter().map(|memcg| memcg.id));
        self.ids.sort_unstable();
        let was_left_out = std::mem::take(&mut self.left_out);
        let mut at = 0;
        // New ones are appended and looked into in their turn.
        while at < self.memcgs.len() {
            self.find_children(at, swaps);
            at += 1;
        }
        self.turn = (self.turn + LOOKED_AT) % was_left_out.max(LOOKED_AT);
        if self.memcgs.iter().any(|memcg| memcg.gone) {
            self.take_out_gone();
        }
    }

    fn take_out_gone(&mut self) {
        self.moved.clear();
        let mut kept = 0;
        for i in 0..self.memcgs.len() {
            if self.memcgs[i].gone {
                self.moved.push(NONE);
                continue;
            }
            self.moved.push(kept as u32);
            self.memcgs.swap(kept, i);
            let parent = &mut self.memcgs[kept].parent;
            if *parent != NONE {
                *parent = self.moved[*parent as usize];
            }
            kept += 1;
        }
        self.memcgs.truncate(kept);
    }

    /// Adds the children of one memcg that are not known yet. That there are none, the link count
    /// of its directory tells without a listing.
    fn find_children(&mut self, at: usize, swaps: bool) {
        let memcg = &self.memcgs[at];
        let links = statx(&memcg.dir, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK);
        // A file system on which a copy lies may not count them.
        let dirs = links.map_or(Some(0), |stat| stat.stx_nlink.checked_sub(NO_DIRS));
        if memcg.gone || dirs == Some(u32::from(memcg.children)) {
            return;
        }
        let level = memcg.level + 1;
        // What is deeper is charged to this one as well, and goes with it.
        if usize::from(level) > MAX_DEPTH {
            return;
        }
        // A directory that has just gone has none in it.
        let Ok(dir) = open_dir(&memcg.dir, c".") else {
            return;
        };
        // A listing that breaks off goes on at the next survey.
        let _ = each_child(&dir, &mut |name, inode| {
            self.add_child(at, level, dir.as_fd(), name, inode, swaps);
            ControlFlow::Continue(())
        });
    }

    fn add_child(
        &mut self,
        at: usize,
        level: u16,
        dir: BorrowedFd<'_>,
        name: &CStr,
        inode: u64,
        swaps: bool,
    ) {
        let id = sys::cgroup_id_of_entry(dir, name, inode);
        if id.is_ok_and(|id| self.ids.binary_search(&id).is_ok()) {
            return;
        }
        let full = self.memcgs.len() == self.room;
        if full {
            self.left_out += 1;
            let place = self.left_out;
            if !(self.turn..self.turn + LOOKED_AT).contains(&place) {
                return;
            }
        }
        // It may vanish at any step; and where the controller is not enabled below its parent it is
        // no memcg.
        let child = open_dir(dir, name).and_then(|dir| Memcg::open(dir, at as u32, level));
        let Ok(mut child) = child else { return };
        if child.look(swaps).is_err() {
            return;
        }
        if !full {
            self.memcgs.push(child);
        } else if !self.make_room_for(&mut child) {
            return;
        }
        self.memcgs[at].children += 1;
    }

    /// The place of the smallest memcg that has no children, for one that is larger. Whether it stands
    /// in the table now; it does only where its parent stands before that place.
    fn make_room_for(&mut self, new: &mut Memcg) -> bool {
        let places = self.memcgs.iter().enumerate().skip(new.parent as usize + 1);
        let childless = places.filter(|(_, memcg)| memcg.children == 0 && !memcg.gone);
        let Some((place, smallest)) = childless.min_by_key(|(_, memcg)| memcg.size()) else {
            return false;
        };
        if smallest.size() >= new.size() {
            return false;
        }
        let parent = smallest.parent as usize;
        self.memcgs[parent].children -= 1;
        std::mem::swap(&mut self.memcgs[place], new);
        true
    }

    /// Has the files of the largest open, before they are needed.
    fn open_largest(&mut self) {
        let mut open = self
            .memcgs
            .iter()
            .skip(1)
            .filter(|m| m.files.is_some())
            .count();
        for i in 1..self.memcgs.len() {
            let memcg = &self.memcgs[i];
            if memcg.files.is_some() || memcg.size() < SMALL {
                continue;
            }
            if open >= self.most_open {
                let size = memcg.size();
                let others = self.memcgs.iter_mut().skip(1).filter(|m| m.files.is_some());
                // Not for one that is hardly larger: they would change places all the time.
                match others.min_by_key(|other| other.size()) {
                    Some(other) if other.size() < size / 2 => other.files = None,
                    _ => continue,
                }
                open -= 1;
            }
            // Without them it is read all the same.
            self.memcgs[i].files = Files::open(&self.memcgs[i].dir).ok();
            open += usize::from(self.memcgs[i].files.is_some());
        }
    }

    fn rank(&mut self, request: &Request) {
        let Self {
            memcgs,
            above,
            survey,
            rows,
            ..
        } = self;
        (survey.memcgs, survey.dying, survey.highest_id) = (0, 0, 0);
        (survey.unclassified_len, survey.rows_len) = (0, 0);
        survey.largest_never = Row::ZERO;
        rows.clear();
        above.clear();
        let none = (Row::ZERO, 0);
        let (mut kill, mut reclaim) = (Best::new(none), Best::new(none));
        let over_root = Above::root(request);
        for (i, memcg) in memcgs.iter().enumerate() {
            let over = above.get(memcg.parent as usize).unwrap_or(&over_root);
            survey.highest_id = survey.highest_id.max(memcg.id);
            let is_root = memcg.parent == NONE;
            let all = request.flags & Request::ALL_ROWS != 0;
            let matters = is_root || all || memcg.size() >= SMALL;
            let mut row = Row {
                id: memcg.id,
                level: memcg.level,
                ..Row::ZERO
            };
            let (leaf, populated) = (memcg.children == 0, matters && memcg.is_populated());
            let (here, placed) = over.place(request, &mut row, memcg.rule, leaf, populated);
            above.push(here);
            if placed.new {
                let at = survey.unclassified_len as usize;
                if let Some(slot) = survey.unclassified.get_mut(at) {
                    *slot = memcg.id;
                }
                survey.unclassified_len += 1;
            }
            if matters && memcg.measure(&mut row).is_err() {
                // Gone since the refresh.
                survey.dying += 1;
                continue;
            }
            if is_root {
                memcg.rest(&mut row);
                survey.system = row;
            } else {
                survey.memcgs += 1;
            }
            if !matters {
                continue;
            }
            if placed.never && row.freed_by_kill() > survey.largest_never.freed_by_kill() {
                survey.largest_never = row;
            }
            if placed.killable {
                kill.keep(row.kill_key(request.worth), row.id, &(row, i as u32));
            }
            if placed.reclaimable {
                reclaim.keep(row.reclaim_key(request.worth), row.id, &(row, i as u32));
            }
            if all {
                if rows.len() < rows.capacity() {
                    memcg.rest(&mut row);
                    rows.push(row);
                }
                survey.rows_len += 1;
            }
        }
        survey.kill_len = copy_to(&mut survey.kill, &kill, memcgs);
        survey.reclaim_len = copy_to(&mut survey.reclaim, &reclaim, memcgs);
    }
}

impl Engine for Cgroupfs {
    fn name(&self) -> &'static str {
        "cgroupfs"
    }

    fn run(&mut self, request: &Request) -> io::Result<()> {
        self.refresh();
        self.rank(request);
        self.open_largest();
        Ok(())
    }

    fn survey(&self) -> &Survey {
        &self.survey
    }

    fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn left_out(&self) -> u32 {
        self.left_out
    }

    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()> {
        // One that this engine has not found yet is reported as new when it has.
        if let Some(memcg) = self.memcgs.iter_mut().find(|memcg| memcg.id == id) {
            memcg.rule = Some(rule);
        }
        Ok(())
    }

    fn forget_all(&mut self) -> io::Result<()> {
        for memcg in &mut self.memcgs {
            memcg.rule = None;
        }
        self.refresh();
        Ok(())
    }
}

impl Memcg {
    /// Fails where the controller is not on for it.
    fn open(dir: OwnedFd, parent: u32, level: u16) -> io::Result<Self> {
        Ok(Self {
            id: sys::cgroup_id(dir.as_fd(), c"")?,
            parent,
            level,
            children: 0,
            gone: false,
            rule: None,
            usage: 0,
            swap: 0,
            dir,
            files: None,
        })
    }

    /// What it uses; an error when it is gone.
    fn look(&mut self, swaps: bool) -> io::Result<()> {
        let mut buffer = [0; 32];
        let text = read_at(&self.dir, c"memory.current", &mut buffer)?;
        self.usage = digits(text).unwrap_or(0);
        self.swap = if swaps { self.swap() } else { 0 };
        Ok(())
    }

    fn swap(&self) -> u64 {
        let open = self.files.as_ref().and_then(|files| files.swap.as_ref());
        let mut buffer = [0; 32];
        match open {
            Some(open) => number(Some(open)),
            None => read_at(&self.dir, c"memory.swap.current", &mut buffer)
                .ok()
                .and_then(digits)
                .unwrap_or(0),
        }
    }

    /// All that could come back of it.
    fn size(&self) -> u64 {
        self.usage.saturating_add(self.swap)
    }

    /// Whether anything runs in it or below it.
    fn is_populated(&self) -> bool {
        let mut buffer = [0; 128];
        let open = self.files.as_ref().and_then(|files| files.members.as_ref());
        let text = match open {
            Some(open) => rustix::io::pread(open, &mut buffer, 0)
                .map(|n| read_part(&buffer, n))
                .ok(),
            None => read_at(&self.dir, c"cgroup.events", &mut buffer).ok(),
        };
        text.and_then(|text| number_after(text, b"populated ")) == Some(1)
    }

    /// The figures that ranking needs.
    fn measure(&self, row: &mut Row) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        let text = match &self.files {
            Some(files) => {
                let n = rustix::io::pread(&files.stat, &mut buffer, 0)?;
                read_part(&buffer, n)
            }
            None => read_at(&self.dir, c"memory.stat", &mut buffer)?,
        };
        for (key, value) in pairs(text) {
            match key {
                b"anon" => row.anon = value,
                b"file" => row.file = value,
                b"file_mapped" => row.file_mapped = value,
                b"shmem" => row.shmem = value,
                b"workingset_refault_anon" => row.refault_anon = value,
                // One figure for both before Linux 5.9.
                b"workingset_refault_file" | b"workingset_refault" => row.refault_file = value,
                _ => {}
            }
        }
        row.swap = self.swap;
        Ok(())
    }

    /// The other figures. What cannot be read is 0: it only explains.
    fn rest(&self, row: &mut Row) {
        // The root has no memory.current.
        row.usage = if self.parent == NONE {
            row.anon.saturating_add(row.file)
        } else {
            self.usage
        };
        let mut buffer = [0; 512];
        let mut read = |file: &CStr, take: &mut dyn FnMut(&[u8])| {
            take(read_at(&self.dir, file, &mut buffer).unwrap_or_default());
        };
        read(c"memory.events", &mut |text| {
            let count = |key: &[u8]| number_after(text, key).unwrap_or(0) as u32;
            row.event_high = count(b"high ");
            row.event_max = count(b"max ");
            row.event_oom_kill = count(b"oom_kill ");
        });
        read(c"memory.pressure", &mut |text| {
            let ns = |line: &[u8]| stall_total(text, line).unwrap_or(0).saturating_mul(1_000);
            row.psi_some_ns = ns(b"some");
            row.psi_full_ns = ns(b"full");
        });
    }
}

impl Files {
    fn open(dir: &OwnedFd) -> io::Result<Self> {
        let open = |name| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(dir, name, flags, Mode::empty())
        };
        Ok(Self {
            stat: open(c"memory.stat")?,
            members: open(c"cgroup.events").ok(),
            swap: open(c"memory.swap.current").ok(),
        })
    }
}

/// Whether anything is in swap.
fn is_swap_used() -> bool {
    let info = rustix::system::sysinfo();
    info.freeswap < info.totalswap
}

/// The number that a file holds; 0 where there is none.
fn number(file: Option<&OwnedFd>) -> u64 {
    let mut buffer = [0; 32];
    file.and_then(|file| rustix::io::pread(file, &mut buffer, 0).ok())
        .and_then(|n| digits(read_part(&buffer, n)))
        .unwrap_or(0)
}

fn copy_to(out: &mut [Row; CANDIDATES], best: &Best<Candidate>, memcgs: &[Memcg]) -> u32 {
    let mut kept = 0;
    for (out, (row, memcg)) in out.iter_mut().zip(best.iter()) {
        *out = *row;
        if let Some(memcg) = memcgs.get(*memcg as usize) {
            memcg.rest(out);
        }
        kept += 1;
    }
    kept
}
