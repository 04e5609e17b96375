//! What came of one run, as it is kept: one JSON object a line.

use crate::host::dirs;
use crate::scenario::checks;
use crate::scenario::{HOG, LIFELINE};
use crate::test::loads::{self, Cell, RELIEF_PERCENT};
use crate::vm::Run;
use anyhow::{Context as _, Result, bail, ensure};
use lowtide_guest::{Report, What};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The runs that the report in docs is made from.
pub fn kept() -> PathBuf {
    dirs::workspace().join("docs/bench/peers.jsonl")
}

/// What went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Those that have to go and no other; where none has to, none.
    Right,
    /// Another one, alone or as well.
    Wrong,
    /// The kernel's OOM killer killed, before the agent or after it.
    Kernel,
    /// None, though one has to.
    Nobody,
    /// The device: its kernel panicked, or stood still until the host's patience was at its end.
    Device,
}

/// A load on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub load: String,
    pub memory_mb: u32,
    pub swap: String,
}

/// What a run is of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Of {
    pub agent: String,
    #[serde(flatten)]
    pub place: Place,
    /// Count of the runs of this agent at this place, from 1.
    pub run: u32,
    pub kernel: String,
    /// The source that lowtide and the loads were built from.
    pub commit: String,
}

/// One run. Times are in milliseconds since the load started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    #[serde(flatten)]
    pub of: Of,
    pub outcome: Outcome,
    /// What became of the device, where that is the outcome.
    pub failure: Option<String>,
    /// Services in the order in which they ended, or lost their first process.
    pub ends: Vec<(u64, String)>,
    /// Services that ended, among them the agent, and ought not to.
    pub bystanders_lost: usize,
    /// Processes that the kernel's OOM killer killed.
    pub oom_kills: u64,
    /// Least memory available before the first end: what the agent left unused.
    pub least_available_kb: Option<u64>,
    /// When more than the relief mark was available after the first end.
    pub relief_ms: Option<u64>,
    /// Stall until relief, or until the end of the run without one.
    pub some_ms: u64,
    pub full_ms: u64,
    /// Longest time in which the lifeline did not tick, if it ticked at all.
    pub worst_gap_ms: Option<u64>,
    pub mem_total_kb: u64,
    pub timeline: Vec<Point>,
}

/// The state at one moment: milliseconds since the load started, available KiB, and the stall so
/// far, some and full, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point(pub u64, pub u64, pub u64, pub u64);

/// Between two points of the timeline, in milliseconds.
const TIMELINE_MS: u64 = 250;

impl Record {
    /// Reads a run, which came to its own end unless `failure` says why not. An error if it is no
    /// run: the guest was not set up, or the agent did not live to see the load.
    pub fn new(of: Of, cell: Cell, run: &Run, failure: Option<String>) -> Result<Self> {
        for event in &run.events {
            if let What::Refused { what, error } = &event.what {
                bail!("the guest could not set up {what}: {error}");
            }
        }
        let start = loads::pressed_since(run);
        if start == u64::MAX {
            bail!("the load did not start: {}", failure.unwrap_or_default());
        }
        if let Some((at, ..)) = checks::ends(run).find(|(_, service, _)| *service == of.agent) {
            let last = run.lines(&of.agent).last().map_or("nothing", |(_, l)| l);
            ensure!(at > start, "the agent ended: {last}");
        }
        let lost = |(_, report): &(u64, Report)| matches!(report, Report::Lost { .. });
        let mut ends: Vec<_> = checks::ends(run)
            .map(|(t, service, _)| (t, service))
            .chain(run.reports(HOG).find(lost).map(|(t, _)| (t, HOG)))
            .map(|(t, service)| (t.saturating_sub(start), service.to_owned()))
            .collect();
        ends.sort_unstable();
        let mem_total_kb = loads::mem_total_kb(run);
        let samples: Vec<_> = run.samples().filter(|(t, _)| *t >= start).collect();
        let (_, first) = samples.first().context("no sample under load")?;
        let first_end = ends.first().map(|(t, _)| t + start);
        let mark = mem_total_kb * RELIEF_PERCENT / 100;
        let relieved = first_end.and_then(|end| {
            samples
                .iter()
                .find(|(t, s)| *t >= end && s.available_kb > mark)
        });
        let (_, last) = relieved.or(samples.last()).context("no sample")?;
        let oom_kills = samples.last().map_or(0, |(_, s)| s.oom_kills);
        let bystanders: BTreeSet<_> = ends
            .iter()
            .map(|(_, service)| service.as_str())
            .filter(|service| !cell.victims().contains(service))
            .collect();
        let bystanders_lost = bystanders.len();
        let outcome = if failure.is_some() {
            Outcome::Device
        } else if oom_kills > 0 {
            Outcome::Kernel
        } else if bystanders_lost > 0 {
            Outcome::Wrong
        } else if ends.is_empty() && !cell.victims().is_empty() {
            Outcome::Nobody
        } else {
            Outcome::Right
        };
        let least = samples
            .iter()
            .take_while(|(t, _)| first_end.is_none_or(|end| *t < end))
            .map(|(_, s)| s.available_kb)
            .min();
        let gaps = run.reports(LIFELINE).filter(|(t, _)| *t >= start);
        let worst_gap_ms = gaps
            .filter_map(|(_, report)| match report {
                Report::Heartbeat { gap_us, .. } => Some(gap_us / 1000),
                _ => None,
            })
            .max();
        let mut timeline: Vec<Point> = Vec::new();
        for (t, s) in &samples {
            let at = t - start;
            if timeline.last().is_none_or(|p| at >= p.0 + TIMELINE_MS) {
                timeline.push(Point(
                    at,
                    s.available_kb,
                    (s.some_us - first.some_us) / 1000,
                    (s.full_us - first.full_us) / 1000,
                ));
            }
        }
        Ok(Self {
            of,
            outcome,
            failure,
            bystanders_lost,
            oom_kills,
            least_available_kb: least.filter(|_| !ends.is_empty()),
            relief_ms: relieved.map(|(t, _)| t - start),
            some_ms: (last.some_us - first.some_us) / 1000,
            full_ms: (last.full_us - first.full_us) / 1000,
            worst_gap_ms,
            mem_total_kb,
            timeline,
            ends,
        })
    }
}

/// All runs of a file, none if there is no such file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(n, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), n + 1))
        })
        .collect()
}
