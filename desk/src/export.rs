//! What was recorded as tables for other tools: CSV, or a JSON object a line.

use crate::files::Recording;
use crate::replay::{self, Side};
use anyhow::{Result, anyhow};
use lowtide::tell::recording::{Begin, Broken, Event, Reader};
use lowtide_common::Row;
use lowtide_config::Loaded;
use lowtide_config::json::Json;
use std::collections::HashMap;
use std::io::Write;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Decisions,
    Memory,
    Cgroups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Json,
}

impl FromStr for Table {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "decisions" => Ok(Self::Decisions),
            "memory" => Ok(Self::Memory),
            "cgroups" => Ok(Self::Cgroups),
            _ => Err(format!("{text:?} is neither decisions, memory nor cgroups")),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            _ => Err(format!("{text:?} is neither csv nor json")),
        }
    }
}

impl Table {
    /// Bytes, milliseconds since the agent's start, seconds since 1970.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Decisions => &[
                "device",
                "at_ms",
                "time",
                "level",
                "available",
                "total",
                "done",
                "done_to",
                "done_group",
                "judged",
                "judged_to",
                "judged_group",
                "differs",
                "guess",
            ],
            Self::Memory => &[
                "device",
                "at_ms",
                "time",
                "source",
                "total",
                "available",
                "free",
                "file",
                "swap_total",
                "swap_free",
                "zram",
                "refaults",
                "some_us",
                "full_us",
            ],
            Self::Cgroups => &[
                "device", "at_ms", "time", "cgroup", "usage", "anon", "file", "shmem", "swap",
                "some_ns", "full_ns",
            ],
        }
    }
}

type Cells = Vec<Json>;

/// The rows of one recording, and why they end before the file does.
pub fn rows(
    recording: &Recording,
    table: Table,
    config: Option<&Loaded>,
) -> Result<(Vec<Cells>, Option<Broken>)> {
    match table {
        Table::Decisions => decisions(recording, config),
        Table::Memory | Table::Cgroups => evidence(recording, table),
    }
}

/// Seconds since 1970 of a moment of the agent's.
fn time(begin: &Begin, at: u64) -> Json {
    Json::Number(begin.time + at.saturating_sub(begin.at) / 1_000)
}

fn decisions(
    recording: &Recording,
    config: Option<&Loaded>,
) -> Result<(Vec<Cells>, Option<Broken>)> {
    let run = replay::replay(&recording.bytes, config)?;
    let device = recording.name();
    let to = |side: &Side| {
        let names: Vec<_> = side
            .targets
            .iter()
            .map(|target| target.name.as_str())
            .collect();
        Json::text(names.join(" "))
    };
    let group = |side: &Side| {
        let group = side
            .targets
            .first()
            .map_or("", |target| target.group.as_str());
        Json::text(group)
    };
    let rows = run.decisions.iter().map(|decision| {
        vec![
            Json::text(&device),
            decision.at.into(),
            time(&run.begin, decision.at),
            Json::text(decision.level.name()),
            decision.available.into(),
            decision.total.into(),
            Json::text(decision.done.action),
            to(&decision.done),
            group(&decision.done),
            Json::text(decision.judged.action),
            to(&decision.judged),
            group(&decision.judged),
            decision.differs().into(),
            decision.guess.into(),
        ]
    });
    Ok((rows.collect(), run.broken))
}

fn evidence(recording: &Recording, table: Table) -> Result<(Vec<Cells>, Option<Broken>)> {
    let device = recording.name();
    let mut begin = Begin::default();
    let mut names = HashMap::<u64, String>::new();
    let mut rows = Vec::new();
    let mut reader = Reader::new(&recording.bytes).map_err(|broken| anyhow!("{broken}"))?;
    let mut broken = None;
    while let Some(event) = reader.next() {
        let (at, memory, source) = match event {
            Ok(Event::Begin(of)) => {
                begin = of;
                continue;
            }
            Ok(Event::Cgroup(cgroup)) => {
                let name = String::from_utf8_lossy(&cgroup.name).into_owned();
                names.insert(cgroup.id, name);
                continue;
            }
            Ok(Event::Look(looked)) if looked.domain == 0 => (looked.at, looked.memory, "look"),
            Ok(Event::Sample { at, memory }) => (at, memory, "sample"),
            Ok(_) => continue,
            Err(why) => {
                broken = Some(why);
                continue;
            }
        };
        if table == Table::Memory {
            rows.push(vec![
                Json::text(&device),
                at.into(),
                time(&begin, at),
                Json::text(source),
                memory.total.into(),
                memory.available.into(),
                memory.free.into(),
                memory.file.into(),
                memory.swap_total.into(),
                memory.swap_free.into(),
                memory.zram.into(),
                memory.refaults.into(),
                memory.psi_some_us.into(),
                memory.psi_full_us.into(),
            ]);
        } else if source == "sample" {
            let cgroups = reader.sample().iter().filter(|row| row.level > 0);
            rows.extend(cgroups.map(|row| cgroup(&device, &begin, at, row, &names)));
        }
    }
    Ok((rows, broken))
}

fn cgroup(device: &str, begin: &Begin, at: u64, row: &Row, names: &HashMap<u64, String>) -> Cells {
    let name = names.get(&row.id).map_or("(gone)", String::as_str);
    vec![
        Json::text(device),
        at.into(),
        time(begin, at),
        Json::text(format_args!("/{name}")),
        row.usage.into(),
        row.anon.into(),
        row.file.into(),
        row.shmem.into(),
        row.swap.into(),
        row.psi_some_ns.into(),
        row.psi_full_ns.into(),
    ]
}

/// All of them, with a heading in CSV.
pub fn write(out: &mut impl Write, table: Table, format: Format, rows: &[Cells]) -> Result<()> {
    match format {
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(out);
            csv.write_record(table.columns())?;
            for row in rows {
                csv.write_record(row.iter().map(|cell| match cell {
                    Json::Text(text) => text.clone(),
                    other => other.to_string(),
                }))?;
            }
            csv.flush()?;
        }
        Format::Json => {
            for row in rows {
                let fields = table.columns().iter().copied().zip(row.iter().cloned());
                writeln!(out, "{}", Json::Object(fields.collect()))?;
            }
        }
    }
    Ok(())
}
