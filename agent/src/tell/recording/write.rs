//! Writing bodies. What the agent writes allocates nothing.

use super::{
    ACTIONS, Begin, CRC, Cgroup, DONE, FAILED, LONGEST, MAGIC, NO_FIGURES, ROWS, SystemFigures,
    VERSION, by, figures, kind, look, of_memory, op,
};
use heapless::Vec as Few;
use lowtide_common::{CANDIDATES, Row, Survey};
use lowtide_judge::{Memory, Millis, Outcome, Verdict};

/// What bytes are put to.
pub trait Bytes {
    fn put(&mut self, bytes: &[u8]);
}

impl Bytes for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Room for one body of the agent's.
#[derive(Default)]
pub struct Bounded {
    bytes: Few<u8, LONGEST>,
    full: bool,
}

impl Bounded {
    /// The body; `None` when it did not fit.
    pub fn body(&self) -> Option<&[u8]> {
        (!self.full).then_some(&self.bytes)
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.full = false;
    }
}

impl Bytes for Bounded {
    fn put(&mut self, bytes: &[u8]) {
        self.full |= self.bytes.extend_from_slice(bytes).is_err();
    }
}

/// What a file begins with.
pub fn header() -> [u8; 10] {
    let mut header = [0; 10];
    let (magic, version) = header.split_at_mut(MAGIC.len());
    magic.copy_from_slice(&MAGIC);
    version.copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// What stands before a body.
pub fn length(out: &mut Vec<u8>, body: &[u8]) {
    number(out, body.len() as u64);
}

/// The frame of a body, appended to `out`.
pub fn frame(out: &mut Vec<u8>, body: &[u8]) {
    length(out, body);
    out.extend_from_slice(body);
    out.extend_from_slice(&CRC.checksum(body).to_le_bytes());
}

/// LEB128.
pub(super) fn number(to: &mut impl Bytes, mut number: u64) {
    let mut bytes = Few::<u8, 10>::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        let more = if number == 0 { 0 } else { 0x80 };
        // 64 bits are ten times seven at most.
        let _ = bytes.push(low | more);
        if number == 0 {
            return to.put(&bytes);
        }
    }
}

/// From `was` to `is`, zigzag coded: small in either direction.
fn difference(to: &mut impl Bytes, was: u64, is: u64) {
    let by = is.wrapping_sub(was) as i64;
    number(to, (by << 1 ^ by >> 63) as u64);
}

/// Which figures changed, as bits, and by how much.
fn changes(to: &mut impl Bytes, was: &[u64], is: &[u64]) {
    let pairs = || was.iter().zip(is);
    let bits = pairs().zip(0..).filter(|((was, is), _)| was != is);
    number(to, bits.map(|(_, bit)| 1_u64 << bit).sum());
    for (was, is) in pairs().filter(|(was, is)| was != is) {
        difference(to, *was, *is);
    }
}

fn text(to: &mut impl Bytes, bytes: &[u8]) {
    number(to, bytes.len() as u64);
    to.put(bytes);
}

/// The agent's side.
pub struct Writer {
    memory: SystemFigures,
    /// Of the survey before.
    rows: Few<Row, ROWS>,
    newest: u64,
    at: Millis,
}

impl Writer {
    pub const fn new() -> Self {
        Self {
            memory: NO_FIGURES,
            rows: Few::new(),
            newest: 0,
            at: 0,
        }
    }

    pub fn begin(&mut self, to: &mut impl Bytes, begin: &Begin) {
        to.put(&[kind::BEGIN]);
        for part in [&begin.version, &begin.engine, &begin.boot] {
            text(to, part.as_bytes());
        }
        for part in [begin.time, begin.at, begin.up_ms, u64::from(begin.dry_run)] {
            number(to, part);
        }
    }

    pub fn config(&mut self, to: &mut impl Bytes, config: &str) {
        to.put(&[kind::CONFIG]);
        text(to, config.as_bytes());
    }

    pub fn refused(to: &mut impl Bytes, why: &str) {
        to.put(&[kind::REFUSED]);
        text(to, why.as_bytes());
    }

    pub fn lost(&mut self, to: &mut impl Bytes, events: u64) {
        to.put(&[kind::LOST]);
        number(to, events);
    }

    pub fn reconfigured(&mut self, to: &mut impl Bytes, domain: u64, at: Millis) {
        to.put(&[kind::RECONFIGURED]);
        number(to, domain);
        self.time(to, at);
    }

    pub fn named(&mut self, to: &mut impl Bytes, id: u64, name: &[u8]) {
        to.put(&[kind::NAMED]);
        number(to, id);
        text(to, name);
    }

    pub fn exit(
        &mut self,
        to: &mut impl Bytes,
        domain: u64,
        id: u64,
        memory: Option<&Memory>,
        at: Millis,
    ) {
        to.put(&[kind::EXIT]);
        number(to, domain);
        number(to, id);
        self.time(to, at);
        number(to, u64::from(memory.is_some()));
        if let Some(memory) = memory {
            self.memory(to, memory);
        }
    }

    /// `survey` is what the verdict was made on, where it was made on one, and `outcomes` what came of
    /// it.
    pub fn look(
        &mut self,
        to: &mut impl Bytes,
        domain: u64,
        fired: bool,
        verdict: &Verdict,
        survey: Option<&Survey>,
        outcomes: &[Outcome],
    ) {
        to.put(&[kind::LOOK]);
        let surveyed = survey.map_or(0, |_| look::SURVEYED);
        number(to, surveyed | if fired { look::FIRED } else { 0 });
        number(to, domain);
        self.time(to, verdict.at);
        self.memory(to, &verdict.memory);
        if let Some(survey) = survey {
            self.survey(to, survey);
            let named = survey.kill().iter().map(|row| {
                let judged = verdict.judged.iter().find(|judged| judged.row.id == row.id);
                judged.map_or(0, |judged| judged.name)
            });
            let names: Few<u64, CANDIDATES> = named.collect();
            changes(to, &[0; CANDIDATES][..names.len()], &names);
        }
        decided(to, verdict, outcomes);
    }

    fn time(&mut self, to: &mut impl Bytes, at: Millis) {
        difference(to, self.at, at);
        self.at = at;
    }

    fn memory(&mut self, to: &mut impl Bytes, memory: &Memory) {
        let figures = of_memory(memory);
        changes(to, &self.memory, &figures);
        self.memory = figures;
    }

    fn survey(&mut self, to: &mut impl Bytes, survey: &Survey) {
        let never = Some(&survey.largest_never).filter(|row| row.id != 0);
        let mut rows = Few::<Row, ROWS>::new();
        let all = survey.kill().iter().chain(survey.reclaim()).chain(never);
        for row in all {
            if !rows.contains(row) {
                // There is room for all.
                let _ = rows.push(*row);
            }
        }
        number(to, rows.len() as u64);
        for row in &rows {
            let was = self.rows.iter().position(|was| was.id == row.id);
            let before = was.map_or([0; 15], |was| figures(&self.rows[was]));
            number(to, was.map_or(0, |was| was as u64 + 1));
            if was.is_none() {
                number(to, row.id);
            }
            changes(to, &before, &figures(row));
        }
        let place = |row: &Row| rows.iter().position(|other| other == row).unwrap_or(0) as u64;
        for list in [survey.kill(), survey.reclaim()] {
            number(to, list.len() as u64);
            for row in list {
                number(to, place(row));
            }
        }
        number(to, never.map_or(0, |row| place(row) + 1));
        difference(to, self.newest, survey.highest_id);
        number(to, survey.memcgs.into());
        self.newest = survey.highest_id;
        self.rows = rows;
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

fn decided(to: &mut impl Bytes, verdict: &Verdict, outcomes: &[Outcome]) {
    let name = verdict.action.name();
    let action = ACTIONS.iter().position(|action| *action == name);
    number(to, action.unwrap_or(0) as u64);
    let victims = verdict.victims().map(|victim| victim.row.id);
    let victims: Few<u64, CANDIDATES> = victims.collect();
    let target = verdict.action.target().map(|row| row.id);
    let targets = target.filter(|_| victims.is_empty());
    number(to, (victims.len() + usize::from(targets.is_some())) as u64);
    for id in victims.into_iter().chain(targets) {
        number(to, id);
    }
    number(to, outcomes.len() as u64);
    for outcome in outcomes {
        match *outcome {
            Outcome::Done { bytes, name } => {
                number(to, DONE);
                number(to, bytes);
                number(to, name);
            }
            Outcome::Failed { errno } => {
                number(to, FAILED);
                number(to, errno as u32 as u64);
            }
        }
    }
}

/// The recorder's side.
#[derive(Default)]
pub struct SampleWriter {
    memory: SystemFigures,
    rows: Vec<Row>,
    at: Millis,
}

impl SampleWriter {
    pub fn cgroup(&self, to: &mut impl Bytes, cgroup: &Cgroup) {
        to.put(&[kind::CGROUP]);
        number(to, cgroup.id);
        text(to, &cgroup.name);
        let bits = [
            (cgroup.path_by_root, by::ROOT_PATH),
            (cgroup.marks_by_root, by::ROOT_MARKS),
            (cgroup.protected, by::PROTECTED),
        ];
        number(
            to,
            bits.iter().filter(|(is, _)| *is).map(|(_, bit)| bit).sum(),
        );
        number(to, cgroup.attributes.len() as u64);
        for (name, value) in &cgroup.attributes {
            text(to, name.as_bytes());
            text(to, value);
        }
    }

    /// `rows` in the order of their ids.
    pub fn sample(&mut self, to: &mut impl Bytes, at: Millis, memory: &Memory, rows: Vec<Row>) {
        to.put(&[kind::SAMPLE]);
        difference(to, self.at, at);
        let now = of_memory(memory);
        changes(to, &self.memory, &now);
        (self.at, self.memory) = (at, now);
        let mut same = 0;
        let flush = |to: &mut _, same: &mut u64| {
            if *same > 0 {
                Bytes::put(to, &[op::SAME]);
                number(to, std::mem::take(same));
            }
        };
        let mut before = self.rows.iter().peekable();
        for row in &rows {
            while before.next_if(|was| was.id < row.id).is_some() {
                flush(to, &mut same);
                to.put(&[op::GONE]);
            }
            match before.next_if(|was| was.id == row.id) {
                Some(was) if was == row => same += 1,
                Some(was) => {
                    flush(to, &mut same);
                    to.put(&[op::CHANGED]);
                    changes(to, &figures(was), &figures(row));
                }
                None => {
                    flush(to, &mut same);
                    to.put(&[op::NEW]);
                    number(to, row.id);
                    changes(to, &[0; 15], &figures(row));
                }
            }
        }
        flush(to, &mut same);
        for _ in before {
            to.put(&[op::GONE]);
        }
        self.rows = rows;
    }
}
