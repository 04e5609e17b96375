//! The engine for kernels without the memcg kfuncs: the same survey, read from the cgroup files
//! through descriptors that stay open.

use super::text::{digits, number_after, pairs, stall_total};
use super::tree::Tree;
use super::walk::open_dir;
use super::{Engine, spare_descriptors};
use crate::sys;
use lowtide_common::{Above, CANDIDATES, NEVER, Request, Row, Rule, Survey};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags, statx};
use std::io;
use std::mem::MaybeUninit;

/// Descriptors that one memcg takes.
const FILES: usize = 7;
/// A memory.stat of Linux 7.3 has 2 KB.
const BUFFER: usize = 8 * 1024;
/// Links of a directory without directories in it.
const NO_DIRS: u32 = 2;
/// Parent of the root; also where what is gone moves to.
const NONE: u32 = u32::MAX;

/// One memcg with its files. What is not there on this kernel, or not for the root, is `None`.
struct Memcg {
    id: u64,
    /// Index of the parent, which always stands before its children.
    parent: u32,
    level: u16,
    /// Children that are memcgs too.
    children: u16,
    populated: bool,
    gone: bool,
    /// `None`: not classified yet.
    rule: Option<Rule>,
    dir: OwnedFd,
    stat: OwnedFd,
    members: Option<OwnedFd>,
    swap: Option<OwnedFd>,
    usage: Option<OwnedFd>,
    events: Option<OwnedFd>,
    pressure: Option<OwnedFd>,
}

/// A row among the best, which still lacks the figures that ranking does not need.
struct Candidate {
    key: u64,
    memcg: u32,
    row: Row,
}

type Best = heapless::Vec<Candidate, CANDIDATES>;

pub struct Cgroupfs {
    memcgs: Vec<Memcg>,
    room: usize,
    left_out: u32,
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
        let room = room.min(spare_descriptors()? / FILES);
        let mut this = Self {
            memcgs: Vec::with_capacity(room),
            room,
            left_out: 0,
            moved: Vec::with_capacity(room),
            above: Vec::with_capacity(room),
            survey: Box::new(Survey::EMPTY),
            rows: Vec::with_capacity(rows),
        };
        this.memcgs
            .push(Memcg::open(open_dir(tree.root()?, c".")?, NONE, 0)?);
        this.refresh()?;
        Ok(this)
    }

    /// Finds out who came and who went since the last time.
    fn refresh(&mut self) -> io::Result<()> {
        let mut any_gone = false;
        for i in 1..self.memcgs.len() {
            let parent = self.memcgs[i].parent as usize;
            if self.memcgs[parent].gone || !self.memcgs[i].look() {
                self.memcgs[i].gone = true;
                self.memcgs[parent].children -= 1;
                any_gone = true;
            }
        }
        if any_gone {
            self.take_out_gone();
        }
        self.left_out = 0;
        let mut at = 0;
        // New ones are appended and looked into in their turn.
        while at < self.memcgs.len() {
            self.find_children(at)?;
            at += 1;
        }
        Ok(())
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
    fn find_children(&mut self, at: usize) -> io::Result<()> {
        let memcg = &self.memcgs[at];
        let links = statx(&memcg.dir, c"", AtFlags::EMPTY_PATH, StatxFlags::NLINK);
        // A file system on which a copy lies may not count them.
        let dirs = links.map_or(Some(0), |stat| stat.stx_nlink.checked_sub(NO_DIRS));
        if dirs == Some(u32::from(memcg.children)) {
            return Ok(());
        }
        let level = memcg.level + 1;
        // A directory that has just gone has nobody in it.
        let Ok(dir) = open_dir(&memcg.dir, c".") else {
            return Ok(());
        };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut entries = RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
                continue;
            }
            let known = sys::cgroup_id(dir.as_fd(), name)
                .map_or(true, |id| self.memcgs.iter().any(|memcg| memcg.id == id));
            if known {
                continue;
            }
            if self.memcgs.len() == self.room {
                self.left_out += 1;
                continue;
            }
            // It may vanish at any step; and where the controller is not enabled below its parent
            // it is no memcg.
            let child = open_dir(&dir, name).and_then(|dir| Memcg::open(dir, at as u32, level));
            if let Ok(child) = child {
                self.memcgs.push(child);
                self.memcgs[at].children += 1;
            }
        }
        Ok(())
    }

    fn rank(&mut self, request: &Request) -> io::Result<()> {
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
        let (mut kill, mut reclaim) = (Best::new(), Best::new());
        let over_root = Above::root(request);
        for (i, memcg) in memcgs.iter().enumerate() {
            let over = above.get(memcg.parent as usize).unwrap_or(&over_root);
            let own = memcg.rule.filter(|rule| rule.flags & Rule::INHERIT == 0);
            let (over, own) = request.begins_at(memcg.id, *over, own);
            let is_root = memcg.parent == NONE;
            let new = memcg.rule.is_none() && !is_root && memcg.id > request.classified_up_to;
            if new {
                if let Some(slot) = survey
                    .unclassified
                    .get_mut(survey.unclassified_len as usize)
                {
                    *slot = memcg.id;
                }
                survey.unclassified_len += 1;
            }
            survey.highest_id = survey.highest_id.max(memcg.id);
            let here = over.child(memcg.id, own, new);
            let mut row = Row {
                id: memcg.id,
                parent: over.id,
                level: memcg.level,
                flags: over.row_flags(own, memcg.children == 0, memcg.populated),
                rule: here.rule,
                ..Row::ZERO
            };
            above.push(here);
            if memcg.measure(&mut row).is_err() {
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
            let may = |flag: u16| here.is_decided() && row.flags & flag != 0;
            if may(Row::KILLABLE) && row.rule.kill == NEVER {
                if row.freed_by_kill() > survey.largest_never.freed_by_kill() {
                    survey.largest_never = row;
                }
            } else if may(Row::KILLABLE) {
                keep(&mut kill, row.kill_key(request.worth), i, row);
            }
            if may(Row::RECLAIMABLE) && row.rule.reclaim != NEVER {
                keep(&mut reclaim, row.reclaim_key(request.worth), i, row);
            }
            if request.flags & Request::ALL_ROWS != 0 {
                if rows.len() < rows.capacity() {
                    memcg.rest(&mut row);
                    rows.push(row);
                }
                survey.rows_len += 1;
            }
        }
        survey.kill_len = copy_to(&mut survey.kill, &kill, memcgs);
        survey.reclaim_len = copy_to(&mut survey.reclaim, &reclaim, memcgs);
        Ok(())
    }
}

impl Engine for Cgroupfs {
    fn name(&self) -> &'static str {
        "cgroupfs"
    }

    fn run(&mut self, request: &Request) -> io::Result<()> {
        self.refresh()?;
        self.rank(request)
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
        self.refresh()
    }
}

impl Memcg {
    fn open(dir: OwnedFd, parent: u32, level: u16) -> io::Result<Self> {
        let open = |name| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, name, flags, Mode::empty())
        };
        let mut this = Self {
            id: sys::cgroup_id(dir.as_fd(), c"")?,
            parent,
            level,
            children: 0,
            populated: false,
            gone: false,
            rule: None,
            stat: open(c"memory.stat")?,
            members: open(c"cgroup.events").ok(),
            swap: open(c"memory.swap.current").ok(),
            usage: open(c"memory.current").ok(),
            events: open(c"memory.events").ok(),
            pressure: open(c"memory.pressure").ok(),
            dir,
        };
        this.look();
        Ok(this)
    }

    /// Looks whether anybody runs in it; `false` when it is gone (`ENODEV`).
    fn look(&mut self) -> bool {
        let mut buffer = [0; 128];
        let Some(members) = &self.members else {
            return true;
        };
        match rustix::io::pread(members, &mut buffer, 0) {
            Ok(n) => {
                self.populated = number_after(&buffer[..n], b"populated ") == Some(1);
                true
            }
            Err(_) => false,
        }
    }

    /// The figures that ranking needs.
    fn measure(&self, row: &mut Row) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        let n = rustix::io::pread(&self.stat, &mut buffer, 0)?;
        for (key, value) in pairs(&buffer[..n]) {
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
        row.swap = number(self.swap.as_ref());
        Ok(())
    }

    /// The other figures. What cannot be read is 0: it only explains.
    fn rest(&self, row: &mut Row) {
        // The root has no memory.current.
        row.usage = self
            .usage
            .as_ref()
            .map_or(row.anon + row.file, |usage| number(Some(usage)));
        let mut buffer = [0; 512];
        let mut read = |file: &Option<OwnedFd>, take: &mut dyn FnMut(&[u8])| {
            let n = file
                .as_ref()
                .and_then(|file| rustix::io::pread(file, &mut buffer, 0).ok());
            take(&buffer[..n.unwrap_or(0)]);
        };
        read(&self.events, &mut |text| {
            let count = |key: &[u8]| number_after(text, key).unwrap_or(0) as u32;
            row.event_high = count(b"high ");
            row.event_max = count(b"max ");
            row.event_oom_kill = count(b"oom_kill ");
        });
        read(&self.pressure, &mut |text| {
            let ns = |line: &[u8]| stall_total(text, line).unwrap_or(0).saturating_mul(1_000);
            row.psi_some_ns = ns(b"some");
            row.psi_full_ns = ns(b"full");
        });
    }
}

/// The number that a file holds; 0 where there is none.
fn number(file: Option<&OwnedFd>) -> u64 {
    let mut buffer = [0; 32];
    file.and_then(|file| rustix::io::pread(file, &mut buffer, 0).ok())
        .and_then(|n| digits(&buffer[..n]))
        .unwrap_or(0)
}

fn keep(best: &mut Best, key: u64, memcg: usize, row: Row) {
    let at = best.partition_point(|kept| (kept.key, row.id) >= (key, kept.row.id));
    if at == CANDIDATES || key == 0 {
        return;
    }
    if best.is_full() {
        best.pop();
    }
    let candidate = Candidate {
        key,
        memcg: memcg as u32,
        row,
    };
    // There is room: the worst has just left.
    let _ = best.insert(at, candidate);
}

fn copy_to(out: &mut [Row; CANDIDATES], best: &Best, memcgs: &[Memcg]) -> u32 {
    for (out, candidate) in out.iter_mut().zip(best) {
        *out = candidate.row;
        memcgs[candidate.memcg as usize].rest(out);
    }
    best.len() as u32
}
