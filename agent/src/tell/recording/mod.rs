//! What a device recorded, to be judged again on a desk: the evidence of each look, what was decided and
//! what came of it, and at a slow pace all cgroups.
//!
//! A file is [`MAGIC`], the [`VERSION`] as two bytes, and frames. A frame is the length of its body, the
//! body, and the CRC-32 of the body (IEEE 802.3), four bytes. Numbers of a fixed length are little-endian on
//! every device, all others are LEB128; a difference is zigzag coded. A body is one byte, the kind, and what
//! [`Event`] has of that kind. Figures are differences to those before in the same file, so that what
//! stays the same costs nothing and a file is read from its beginning; a file that was cut is whole up to
//! its last frame.
//!
//! The agent makes bodies, each with its length before it, and `lowtide record` the rest of the file.

mod read;
mod write;

pub use read::{Broken, Reader, Split, Why, event, split_body};
pub use write::{Bounded, Bytes, SampleWriter, Writer, frame, header, length};

use lowtide_common::{CANDIDATES, Row, Rule, Survey};
use lowtide_judge::{Memory, Millis, Names, Outcome};

pub const MAGIC: [u8; 8] = *b"lowtide\0";
pub const VERSION: u16 = 1;

/// Longest body of what the agent says of one look: 33 rows of 15 figures that all changed.
pub const LONGEST: usize = 8 << 10;
/// Different rows in one survey: candidates of both kinds, and the largest that is never killed.
const ROWS: usize = 2 * CANDIDATES + 1;

/// What a recording is made of, in the order in which it happened. Times are milliseconds since the
/// agent's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first: whose recording it is.
    Begin(Begin),
    /// The config in force from here on, as a file.
    Config(String),
    Look(Box<Looked>),
    /// A victim has exited, with the figures since.
    Exit {
        domain: u64,
        id: u64,
        at: Millis,
        memory: Option<Memory>,
    },
    /// What holds by the config is looked at as after an alarm.
    Reconfigured {
        domain: u64,
        at: Millis,
    },
    /// What a victim is called.
    Named {
        id: u64,
        name: Vec<u8>,
    },
    /// So many events found no room in the agent.
    Lost(u64),
    /// The recorder refuses to begin, and why.
    Refused(String),
    /// A cgroup, before a row of it.
    Cgroup(Cgroup),
    /// All cgroups, or processes, at the recorder's pace: [`Reader::sample`] has them.
    Sample {
        at: Millis,
        memory: Memory,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Of the agent.
    pub version: String,
    pub engine: String,
    /// The kernel's id of the boot, 32 hex digits.
    pub boot: String,
    /// Seconds since 1970, the agent's milliseconds, and those since boot, at the same moment.
    pub time: u64,
    pub at: Millis,
    pub up_ms: u64,
    /// Nothing was done for real.
    pub dry_run: bool,
}

/// One look, and what was decided and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// cgroup id of named it is; 0: the system.
    pub domain: u64,
    pub at: Millis,
    /// An alarm came before.
    pub fired: bool,
    pub memory: Memory,
    /// `None`: the figures alone were looked at.
    pub survey: Option<Survey>,
    /// Of the kill candidates of the survey.
    pub names: Names,
    pub decided: Decided,
}

/// What a verdict came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// An index into [`ACTIONS`].
    pub action: u8,
    /// To which rows.
    pub targets: Vec<u64>,
    /// One for each, if it was done.
    pub outcomes: Vec<Outcome>,
}

/// The names of actions, see [`Action::name`](lowtide_judge::Action::name).
pub const ACTIONS: [&str; 8] = [
    "nothing",
    "reclaim",
    "throttle",
    "prepare",
    "terminate",
    "kill",
    "reboot",
    "watchdog",
];

/// What a config can know of a cgroup but its figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    pub id: u64,
    /// Below the root, without a slash before it; of a process what it is called.
    pub name: Vec<u8>,
    /// The names on its path, and its attributes, were chosen by root.
    pub path_by_root: bool,
    pub marks_by_root: bool,
    /// The agent or init is in it.
    pub protected: bool,
    /// Extended attributes, `user.` and `trusted.`; of a process [`NAME`] and others.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// What is matched about a process, among the attributes of a [`Cgroup`] that is one.
pub const NAME: &str = "process.name";
pub const EXE: &str = "process.exe";
pub const USER: &str = "process.user";
/// There, where it is root's and not that of a container.
pub const IS_ROOTS: &str = "process.is_roots";

/// IEEE 802.3. Its table takes 1 KiB of the program, those of faster crates sixteen.
const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// Figures of a row in the order of the file, less its id.
type Figures = [u64; 15];

fn figures(row: &Row) -> Figures {
    let Rule {
        kill,
        reclaim,
        group,
        flags,
    } = row.rule;
    let pack = |a: u16, b: u16, c: u16, d: u16| {
        u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
    };
    [
        row.usage,
        row.anon,
        row.file,
        row.shmem,
        row.file_mapped,
        row.swap,
        row.refault_anon,
        row.refault_file,
        row.psi_some_ns,
        row.psi_full_ns,
        u64::from(row.event_high) | u64::from(row.event_max) << 32,
        u64::from(row.event_oom_kill),
        row.parent,
        pack(row.level, row.flags, 0, 0),
        pack(kill, reclaim, group, flags),
    ]
}

fn row(id: u64, figures: &Figures) -> Row {
    let part = |number: u64, index: u32| (number >> (16 * index)) as u16;
    let [
        usage,
        anon,
        file,
        shmem,
        file_mapped,
        swap,
        refault_anon,
        refault_file,
        psi_some_ns,
        psi_full_ns,
        events,
        oom_kill,
        parent,
        place,
        rule,
    ] = *figures;
    Row {
        id,
        parent,
        usage,
        anon,
        file,
        shmem,
        file_mapped,
        swap,
        refault_anon,
        refault_file,
        psi_some_ns,
        psi_full_ns,
        event_high: events as u32,
        event_max: (events >> 32) as u32,
        event_oom_kill: oom_kill as u32,
        level: part(place, 0),
        flags: part(place, 1),
        rule: Rule {
            kill: part(rule, 0),
            reclaim: part(rule, 1),
            group: part(rule, 2),
            flags: part(rule, 3),
        },
    }
}

const PSI: u64 = 1;
const TOLD: u64 = 2;

/// Figures of the system, or of a cgroup with a limit, in the order of the file.
type SystemFigures = [u64; 14];

const NO_FIGURES: SystemFigures = [0; 14];

fn of_memory(memory: &Memory) -> SystemFigures {
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    [
        memory.within,
        memory.total,
        memory.available,
        memory.free,
        memory.swap_total,
        memory.swap_free,
        memory.swappable,
        memory.file,
        flag(memory.psi, PSI) | flag(memory.told, TOLD),
        memory.zram,
        memory.refaults,
        memory.psi_some_us,
        memory.psi_full_us,
        memory.psi_limited_us,
    ]
}

fn memory(figures: &SystemFigures) -> Memory {
    let [
        within,
        total,
        available,
        free,
        swap_total,
        swap_free,
        swappable,
        file,
        flags,
        zram,
        refaults,
        psi_some_us,
        psi_full_us,
        psi_limited_us,
    ] = *figures;
    Memory {
        within,
        total,
        available,
        free,
        swap_total,
        swap_free,
        swappable,
        file,
        psi: flags & PSI != 0,
        told: flags & TOLD != 0,
        zram,
        refaults,
        psi_some_us,
        psi_full_us,
        psi_limited_us,
    }
}

/// First bytes of bodies.
mod kind {
    pub const BEGIN: u8 = 1;
    pub const CONFIG: u8 = 2;
    pub const LOOK: u8 = 3;
    pub const EXIT: u8 = 4;
    pub const RECONFIGURED: u8 = 5;
    pub const NAMED: u8 = 6;
    pub const LOST: u8 = 7;
    pub const REFUSED: u8 = 8;
    pub const CGROUP: u8 = 9;
    pub const SAMPLE: u8 = 10;
}

/// What came of an action.
const DONE: u64 = 0;
const FAILED: u64 = 1;

/// Bits of a look.
mod look {
    pub const FIRED: u64 = 1;
    pub const SURVEYED: u64 = 2;
}

/// Of a cgroup.
mod by {
    pub const ROOT_PATH: u64 = 1;
    pub const ROOT_MARKS: u64 = 2;
    pub const PROTECTED: u64 = 4;
}

/// What comes next of a sample's rows, given those of the sample before.
mod op {
    pub const SAME: u8 = 0;
    pub const CHANGED: u8 = 1;
    pub const GONE: u8 = 2;
    pub const NEW: u8 = 3;
}

#[cfg(test)]
mod tests;
