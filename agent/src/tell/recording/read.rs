//! Reading a recording back, with the place of the first thing that is wrong with it.

use super::{
    ACTIONS, Begin, CRC, Cgroup, DONE, Decided, Event, FAILED, Looked, MAGIC, NO_FIGURES, ROWS,
    SystemFigures, VERSION, by, figures, kind, look, memory, op, row,
};
use lowtide_common::{CANDIDATES, Row, Survey};
use lowtide_judge::{Memory, Millis, Outcome};
use std::fmt::{self, Display, Formatter};

/// Why reading ends before the file does. What was read before it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Bytes from the beginning of the file, to the frame in question.
    pub offset: usize,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Foreign,
    OtherVersion(u16),
    OtherByteOrder,
    Cut,
    Damaged,
    /// The frame is as it was written, and makes no sense.
    Senseless,
}

impl Display for Broken {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: ", self.offset)?;
        match self.why {
            Why::Foreign => f.write_str("this is no recording of lowtide"),
            Why::OtherVersion(version) => write!(
                f,
                "a recording of version {version}; this lowtide reads version {VERSION}"
            ),
            Why::OtherByteOrder => f.write_str(
                "a recording in the other byte order; lowtide writes the same one on every device, so \
                 something converted it",
            ),
            Why::Cut => f.write_str("it ends here in the middle of a record: it was cut"),
            Why::Damaged => f.write_str("the record that begins here is damaged"),
            Why::Senseless => f.write_str("the record that begins here makes no sense"),
        }
    }
}

/// The events of a file, up to its end or to what is wrong with it.
pub struct Reader<'a> {
    file: &'a [u8],
    offset: usize,
    ended: bool,
    state: State,
}

/// What differences are to.
#[derive(Default)]
struct State {
    at: Millis,
    memory: SystemFigures,
    rows: Vec<Row>,
    newest: u64,
    sampled_at: Millis,
    sampled: SystemFigures,
    sample: Vec<Row>,
}

impl<'a> Reader<'a> {
    pub fn new(file: &'a [u8]) -> Result<Self, Broken> {
        let broken = |offset, why| Err(Broken { offset, why });
        let end = MAGIC.len() + 2;
        if !file.starts_with(&MAGIC[..MAGIC.len().min(file.len())]) {
            return broken(0, Why::Foreign);
        }
        let Some(version) = file.get(MAGIC.len()..end) else {
            return broken(file.len(), Why::Cut);
        };
        let version = u16::from_le_bytes([version[0], version[1]]);
        match version {
            VERSION => Ok(Self {
                file,
                offset: end,
                ended: false,
                state: State::default(),
            }),
            _ if version == VERSION.swap_bytes() => broken(MAGIC.len(), Why::OtherByteOrder),
            _ => broken(MAGIC.len(), Why::OtherVersion(version)),
        }
    }

    /// The rows of the last [`Event::Sample`], in the order of their ids.
    pub fn sample(&self) -> &[Row] {
        &self.state.sample
    }

    fn read(&mut self) -> Option<Result<Event, Broken>> {
        let rest = self
            .file
            .get(self.offset..)
            .filter(|rest| !rest.is_empty())?;
        let broken = |why| {
            let offset = self.offset;
            Some(Err(Broken { offset, why }))
        };
        let (body, after) = match split_body(rest) {
            Split::Body(body, rest) => (body, rest),
            Split::Cut => return broken(Why::Cut),
            Split::Senseless => return broken(Why::Damaged),
        };
        let Some((crc, after)) = after.split_first_chunk::<4>() else {
            return broken(Why::Cut);
        };
        if CRC.checksum(body) != u32::from_le_bytes(*crc) {
            return broken(Why::Damaged);
        }
        let mut fields = Fields(body);
        match fields.event(&mut self.state) {
            Some(event) if fields.0.is_empty() => {
                self.offset = self.file.len() - after.len();
                Some(Ok(event))
            }
            _ => broken(Why::Senseless),
        }
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Event, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.read();
        self.ended = !matches!(event, Some(Ok(_)));
        event
    }
}

/// The first of what may be many bodies.
pub enum Split<'a> {
    /// It, and what follows it.
    Body(&'a [u8], &'a [u8]),
    /// It is not all there.
    Cut,
    /// It has no length.
    Senseless,
}

/// The first body, without looking into it.
pub fn split_body(bytes: &[u8]) -> Split<'_> {
    let mut fields = Fields(bytes);
    let Some(length) = fields.number() else {
        // A length has ten bytes at most.
        return if bytes.len() < 10 {
            Split::Cut
        } else {
            Split::Senseless
        };
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match fields.0.split_at_checked(length) {
        Some((body, rest)) => Split::Body(body, rest),
        None => Split::Cut,
    }
}

/// What a single body says that needs none before it.
pub fn event(body: &[u8]) -> Option<Event> {
    Fields(body).event(&mut State::default())
}

/// What is left of a body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of things that are in this body, each of a byte at least.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn difference(&mut self, was: u64) -> Option<u64> {
        let coded = self.number()?;
        let by = (coded >> 1) as i64 ^ -((coded & 1) as i64);
        Some(was.wrapping_add(by as u64))
    }

    fn changes(&mut self, figures: &mut [u64]) -> Option<()> {
        let mut bits = self.number()?;
        while bits != 0 {
            let figure = figures.get_mut(bits.trailing_zeros() as usize)?;
            *figure = self.difference(*figure)?;
            bits &= bits - 1;
        }
        Some(())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.count()?;
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn memory(&mut self, before: &mut SystemFigures) -> Option<Memory> {
        self.changes(before)?;
        Some(memory(before))
    }

    fn time(&mut self, state: &mut State) -> Option<Millis> {
        state.at = self.difference(state.at)?;
        Some(state.at)
    }

    fn event(&mut self, state: &mut State) -> Option<Event> {
        Some(match self.byte()? {
            kind::BEGIN => Event::Begin(Begin {
                version: self.text()?,
                engine: self.text()?,
                boot: self.text()?,
                time: self.number()?,
                at: self.number()?,
                up_ms: self.number()?,
                dry_run: self.number()? != 0,
            }),
            kind::CONFIG => Event::Config(self.text()?),
            kind::LOOK => Event::Look(Box::new(self.look(state)?)),
            kind::EXIT => Event::Exit {
                domain: self.number()?,
                id: self.number()?,
                at: self.time(state)?,
                memory: match self.number()? {
                    0 => None,
                    _ => Some(self.memory(&mut state.memory)?),
                },
            },
            kind::RECONFIGURED => Event::Reconfigured {
                domain: self.number()?,
                at: self.time(state)?,
            },
            kind::NAMED => Event::Named {
                id: self.number()?,
                name: self.bytes()?.to_vec(),
            },
            kind::LOST => {
                (state.at, state.memory, state.newest) = (0, NO_FIGURES, 0);
                state.rows.clear();
                Event::Lost(self.number()?)
            }
            kind::REFUSED => Event::Refused(self.text()?),
            kind::CGROUP => Event::Cgroup(self.cgroup()?),
            kind::SAMPLE => {
                state.sampled_at = self.difference(state.sampled_at)?;
                let memory = self.memory(&mut state.sampled)?;
                self.sample(&mut state.sample)?;
                Event::Sample {
                    at: state.sampled_at,
                    memory,
                }
            }
            _ => return None,
        })
    }

    fn look(&mut self, state: &mut State) -> Option<Looked> {
        let bits = self.number()?;
        let domain = self.number()?;
        let at = self.time(state)?;
        let memory = self.memory(&mut state.memory)?;
        let mut names = [0; CANDIDATES];
        let surveyed = bits & look::SURVEYED != 0;
        let survey = match surveyed {
            true => Some(self.survey(state)?),
            false => None,
        };
        if let Some(survey) = &survey {
            self.changes(names.get_mut(..survey.kill_len as usize)?)?;
        }
        Some(Looked {
            domain,
            at,
            fired: bits & look::FIRED != 0,
            memory,
            survey,
            names,
            decided: self.decided()?,
        })
    }

    fn survey(&mut self, state: &mut State) -> Option<Survey> {
        let count = self.count().filter(|count| *count <= ROWS)?;
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            let was = usize::try_from(self.number()?).ok()?;
            let (id, mut now) = match was.checked_sub(1) {
                Some(was) => {
                    let was = state.rows.get(was)?;
                    (was.id, figures(was))
                }
                None => (self.number()?, [0; 15]),
            };
            self.changes(&mut now)?;
            rows.push(row(id, &now));
        }
        let mut survey = Survey::EMPTY;
        let lists = [
            (&mut survey.kill, &mut survey.kill_len),
            (&mut survey.reclaim, &mut survey.reclaim_len),
        ];
        for (list, length) in lists {
            let count = self.count().filter(|count| *count <= CANDIDATES)?;
            for slot in list.iter_mut().take(count) {
                *slot = *rows.get(usize::try_from(self.number()?).ok()?)?;
            }
            *length = count as u32;
        }
        let never = usize::try_from(self.number()?).ok()?;
        if let Some(never) = never.checked_sub(1) {
            survey.largest_never = *rows.get(never)?;
        }
        state.newest = self.difference(state.newest)?;
        survey.highest_id = state.newest;
        survey.memcgs = u32::try_from(self.number()?).ok()?;
        state.rows = rows;
        Some(survey)
    }

    fn decided(&mut self) -> Option<Decided> {
        let action = u8::try_from(self.number()?).ok()?;
        ACTIONS.get(usize::from(action))?;
        let mut targets = Vec::new();
        for _ in 0..self.count()? {
            targets.push(self.number()?);
        }
        let mut outcomes = Vec::new();
        for _ in 0..self.count()? {
            outcomes.push(match self.number()? {
                DONE => Outcome::Done {
                    bytes: self.number()?,
                    name: self.number()?,
                },
                FAILED => Outcome::Failed {
                    errno: self.number()? as u32 as i32,
                },
                _ => return None,
            });
        }
        Some(Decided {
            action,
            targets,
            outcomes,
        })
    }

    fn cgroup(&mut self) -> Option<Cgroup> {
        let id = self.number()?;
        let name = self.bytes()?.to_vec();
        let bits = self.number()?;
        let mut attributes = Vec::new();
        for _ in 0..self.count()? {
            attributes.push((self.text()?, self.bytes()?.to_vec()));
        }
        Some(Cgroup {
            id,
            name,
            path_by_root: bits & by::ROOT_PATH != 0,
            marks_by_root: bits & by::ROOT_MARKS != 0,
            protected: bits & by::PROTECTED != 0,
            attributes,
        })
    }

    /// The rows of the last sample become those of this one.
    fn sample(&mut self, rows: &mut Vec<Row>) -> Option<()> {
        // Where all of them are the same or changed, each stays where it is.
        let mut place = 0;
        while !self.0.is_empty() {
            match self.byte()? {
                op::SAME => {
                    place += usize::try_from(self.number()?).ok()?;
                    if place > rows.len() {
                        return None;
                    }
                }
                op::CHANGED => {
                    let slot = rows.get_mut(place)?;
                    let mut now = figures(slot);
                    self.changes(&mut now)?;
                    *slot = row(slot.id, &now);
                    place += 1;
                }
                op::GONE if place < rows.len() => {
                    rows.remove(place);
                }
                op::NEW => {
                    let id = self.number()?;
                    let mut now = [0; 15];
                    self.changes(&mut now)?;
                    rows.insert(place, row(id, &now));
                    place += 1;
                }
                _ => return None,
            }
        }
        (place == rows.len()).then_some(())
    }
}
