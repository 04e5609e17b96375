//! What came of one run, as it is kept: one JSON object a line.

use crate::dirs;
use crate::loads::{self, Cell, RELIEF_PERCENT};
use crate::scenarios::LIFELINE;
use crate::vm::Run;
use anyhow::{Context as _, Result, bail, ensure};
use lowtide_guest::{Report, What};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// The runs that the report in docs is made from.
pub fn kept() -> PathBuf {
    dirs::workspace().join("docs/bench/peers.jsonl")
}

/// Who went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Those who have to go and nobody else; where nobody has to, nobody.
    Right,
    /// Somebody else, alone or as well.
    Wrong,
    /// The kernel's OOM killer killed, before the agent or after it.
    Kernel,
    /// Nobody, though somebody has to.
    Nobody,
}

/// One run. Times are in milliseconds since the load started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub kernel: String,
    pub agent: String,
    pub load: String,
    pub memory_mb: u32,
    pub swap: String,
    /// Count of this cell's runs, from 1.
    pub run: u32,
    pub outcome: Outcome,
    /// Services in the order in which they ended.
    pub ends: Vec<(u64, String)>,
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
    /// Longest time in which the lifeline did not tick.
    pub worst_gap_ms: u64,
    pub mem_total_kb: u64,
    pub timeline: Vec<Point>,
}

/// The state at one moment: milliseconds since the load started, available KiB, and the stall so
/// far, some and full, in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point(pub u64, pub u64, pub u64, pub u64);

/// Between two points of the timeline, in milliseconds.
const TIMELINE_MS: u64 = 250;

/// What a run is of.
pub struct Of<'a> {
    pub kernel: &'a str,
    pub agent: &'a str,
    pub load: &'a str,
    pub memory_mb: u32,
    pub swap: &'a str,
    pub number: u32,
}

impl Record {
    /// Reads a run. An error if it is none: the guest was not set up, or the agent, the service
    /// `agent`, did not live.
    pub fn new(of: &Of<'_>, cell: Cell, agent: &str, run: &Run) -> Result<Self> {
        for event in &run.events {
            if let What::Refused { what, error } = &event.what {
                bail!("the guest could not set up {what}: {error}");
            }
        }
        let start = loads::pressed_since(run);
        ensure!(start < u64::MAX, "the load did not start");
        if let Some((at, code, signal)) = run.exited(agent) {
            let last = run.lines(agent).last().map_or("nothing", |(_, line)| line);
            ensure!(
                at > start,
                "the agent ended, code {code:?}, signal {signal:?}: {last}"
            );
        }
        let ends: Vec<(u64, String)> = loads::ends(run)
            .map(|(t, service, _)| (t.saturating_sub(start), service.to_owned()))
            .collect();
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
        let bystanders_lost = ends
            .iter()
            .filter(|(_, service)| !cell.victims().contains(&service.as_str()))
            .count();
        let outcome = if oom_kills > 0 {
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
            kernel: of.kernel.to_owned(),
            agent: of.agent.to_owned(),
            load: of.load.to_owned(),
            memory_mb: of.memory_mb,
            swap: of.swap.to_owned(),
            run: of.number,
            outcome,
            bystanders_lost,
            oom_kills,
            least_available_kb: least.filter(|_| !ends.is_empty()),
            relief_ms: relieved.map(|(t, _)| t - start),
            some_ms: (last.some_us - first.some_us) / 1000,
            full_ms: (last.full_us - first.full_us) / 1000,
            worst_gap_ms: worst_gap_ms.context("the lifeline never answers under load")?,
            mem_total_kb,
            timeline,
            ends,
        })
    }
}

/// All runs of a file.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .enumerate()
        .map(|(n, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), n + 1))
        })
        .collect()
}
