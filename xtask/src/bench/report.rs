//! Tables and pictures from the lines that `bench peers` keeps.

use super::agents::{self, AGENTS, Agent};
use super::record::{self, Outcome, Place, Record};
use crate::host::dirs;
use crate::scenario::HOG;
use anyhow::{Context as _, Result, anyhow, ensure};
use argh::FromArgs;
use plotters::prelude::*;
use pulldown_cmark::html::push_html;
use pulldown_cmark::{Options, Parser};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Beside the page.
const PICTURE: &str = "peers.svg";
/// Between these two lines of a document the tables go.
const BEGIN: &str = "<!-- made by cargo xtask bench report -->";
const END: &str = "<!-- end -->";

/// make the tables in docs/peers.md, the picture docs/peers.svg, and docs/peers.html,
/// which has all of it, from docs/bench/peers.jsonl
#[derive(FromArgs)]
#[argh(subcommand, name = "report")]
pub struct Report {}

/// Runs by place, and there by agent.
type Places<'a> = BTreeMap<&'a Place, BTreeMap<&'a str, Vec<&'a Record>>>;

impl Report {
    pub fn run(self) -> Result<()> {
        let records = record::read(&record::kept())?;
        ensure!(!records.is_empty(), "no runs");
        let mut places = Places::new();
        for r in &records {
            places
                .entry(&r.of.place)
                .or_default()
                .entry(&r.of.agent)
                .or_default()
                .push(r);
        }
        let top = dirs::workspace();
        let by_load = by_load(&places)?;
        let page = top.join("docs/peers.md");
        put(
            &page,
            &format!(
                "\n### All runs\n{}### Right, by load\n{by_load}{}",
                summary(&records)?,
                tables(&places)?.trim_start()
            ),
        )?;
        let sizes: BTreeSet<_> = places.keys().map(|place| place.memory_mb).collect();
        let all: Vec<_> = AGENTS.iter().collect();
        let pictures = sizes
            .iter()
            .map(|size| {
                let drawn = drawn(&places, *size, &all);
                Ok((
                    *size,
                    drawn.map_err(|e| anyhow!("cannot draw {size} MB: {e}"))?,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        // One size shows it, and each peer as it is best: more would be too small to read.
        let smallest = *sizes.first().context("no size")?;
        let small = drawn(&places, smallest, &agents::at_their_best());
        let small = small.map_err(|e| anyhow!("cannot draw {PICTURE}: {e}"))?;
        fs::write(top.join("docs").join(PICTURE), small)?;
        fs::write(
            top.join("docs/peers.html"),
            html(&fs::read_to_string(&page)?, &pictures)?,
        )?;
        Ok(())
    }
}

/// The page with these pictures in it instead of a link to one, for a browser.
fn html(page: &str, pictures: &[(u32, String)]) -> Result<String> {
    let link = page
        .lines()
        .find(|line| line.starts_with("![") && line.ends_with(&format!("({PICTURE})")))
        .context("no place for the pictures")?;
    let mut inline = String::new();
    for (memory_mb, svg) in pictures {
        // HTML in Markdown ends at an empty line.
        let svg = svg.replace("\n\n", "\n");
        writeln!(inline, "<h3>{memory_mb} MB</h3>\n<div>\n{svg}\n</div>\n")?;
    }
    let page = page.replacen(link, &inline, 1);
    let mut out = String::from(
        "<!DOCTYPE html>\n<meta charset=\"utf-8\">\n<title>lowtide and its peers</title>\n<style>\n\
         body { font: 15px/1.4 sans-serif; margin: 2em }\n\
         p, ul, pre { max-width: 50em }\n\
         table { border-collapse: collapse; font-size: 13px }\n\
         th, td { border-bottom: 1px solid #ccc; padding: 2px 10px; text-align: left }\n\
         tbody tr:first-child { background: #eef4ff }\n\
         td strong { color: #060 }\n\
         td em { color: #b00; font-style: normal }\n\
         </style>\n",
    );
    push_html(&mut out, Parser::new_ext(&page, Options::ENABLE_TABLES));
    Ok(out)
}

/// Puts this between the two lines of a document.
fn put(page: &Path, tables: &str) -> Result<()> {
    let text = fs::read_to_string(page)?;
    let (head, rest) = text.split_once(BEGIN).context("no place for the tables")?;
    let (_, tail) = rest.split_once(END).context("the tables have no end")?;
    fs::write(page, format!("{head}{BEGIN}\n{tables}{END}{tail}"))?;
    Ok(())
}

/// A row for each agent: how its runs came out.
fn summary(records: &[Record]) -> Result<String> {
    let mut out = String::from(
        "\n| agent | runs | right | wrong | the kernel killed | nobody went | the device was lost |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for agent in AGENTS {
        let runs: Vec<_> = records
            .iter()
            .filter(|r| r.of.agent == agent.name)
            .collect();
        write!(out, "| {} | {} |", agent.name, runs.len())?;
        for (outcome, _) in OUTCOMES {
            let count = runs.iter().filter(|r| r.outcome == outcome).count();
            write!(out, " {count} |")?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    Ok(out)
}

/// In the order of the columns, and what is said of each.
const OUTCOMES: [(Outcome, &str); 5] = [
    (Outcome::Right, "**right**"),
    (Outcome::Wrong, "*WRONG*"),
    (Outcome::Kernel, "*the kernel killed*"),
    (Outcome::Nobody, "*NOBODY*"),
    (Outcome::Device, "*THE DEVICE*"),
];

/// A row for each agent, a column for each load: how many runs of all came out right.
fn by_load(places: &Places<'_>) -> Result<String> {
    let loads: BTreeSet<_> = places.keys().map(|place| place.load.as_str()).collect();
    let mut out = String::from("\n| agent |");
    for load in &loads {
        write!(out, " {load} |")?;
    }
    writeln!(out, "\n|---|{}", "---|".repeat(loads.len()))?;
    for agent in AGENTS {
        write!(out, "| {} |", agent.name)?;
        for load in &loads {
            let of_load = places.iter().filter(|(place, _)| place.load == *load);
            let runs: Vec<_> = of_load
                .filter_map(|(_, agents)| agents.get(agent.name))
                .flatten()
                .collect();
            let right = runs.iter().filter(|r| r.outcome == Outcome::Right).count();
            let mark = if right == runs.len() { "**" } else { "*" };
            write!(out, " {mark}{right} of {}{mark} |", runs.len())?;
        }
        writeln!(out)?;
    }
    writeln!(out)?;
    Ok(out)
}

/// Of each place, a row for each agent; and how the agents are set.
fn tables(places: &Places<'_>) -> Result<String> {
    let mut out = String::new();
    for (place, agents) in places {
        writeln!(
            out,
            "\n### {}, {} MB, swap: {}\n\n\
             | agent | runs | who died | lost beside it | stalled some, ms | stalled full, ms \
             | worst gap, ms | least available, MB | relief after, ms |\n\
             |---|---|---|---|---|---|---|---|---|",
            place.load, place.memory_mb, place.swap
        )?;
        for (name, runs) in in_order(agents) {
            let figure = |of: fn(&Record) -> Option<u64>| {
                median_and_range(runs.iter().filter_map(|r| of(r)).collect())
            };
            writeln!(
                out,
                "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
                runs.len(),
                outcomes(runs),
                figure(|r| Some(r.bystanders_lost as u64)),
                figure(|r| Some(r.some_ms)),
                figure(|r| Some(r.full_ms)),
                figure(|r| r.worst_gap_ms),
                figure(|r| r.least_available_kb.map(|kb| kb >> 10)),
                figure(|r| r.relief_ms),
            )?;
        }
    }
    writeln!(out, "\n| agent | how it is set |\n|---|---|")?;
    for agent in AGENTS {
        // A bar ends a cell of the table even in code.
        let settings = agent.settings.replace('|', "\\|");
        writeln!(out, "| {} | {settings} |", agent.name)?;
    }
    writeln!(out)?;
    Ok(out)
}

/// Agents in the order of [`AGENTS`].
fn in_order<'a>(
    agents: &'a BTreeMap<&str, Vec<&'a Record>>,
) -> impl Iterator<Item = (&'static str, &'a [&'a Record])> {
    AGENTS
        .iter()
        .filter_map(|a| Some((a.name, agents.get(a.name)?.as_slice())))
}

fn outcomes(runs: &[&Record]) -> String {
    let count = |outcome| runs.iter().filter(|r| r.outcome == outcome).count();
    let words: Vec<_> = OUTCOMES
        .map(|(outcome, words)| (count(outcome), words))
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, words)| {
            if count == runs.len() {
                words.to_owned()
            } else {
                format!("{words} x {count}")
            }
        })
        .collect();
    words.join(", ")
}

fn median_and_range(mut figures: Vec<u64>) -> String {
    figures.sort_unstable();
    match figures[..] {
        [] => "-".into(),
        [only] => only.to_string(),
        [least, .., most] => format!("{} ({least} to {most})", figures[figures.len() / 2]),
    }
}

/// The SVG of one size. A row for each load, a column for each agent: memory available (blue), the
/// part of the time in which all stalled (red), and when the hog (black) or another service (magenta)
/// ended, in the first run of each.
fn drawn(
    places: &Places<'_>,
    memory_mb: u32,
    agents: &[&Agent],
) -> Result<String, Box<dyn std::error::Error>> {
    const PANEL: (u32, u32) = (200, 150);
    let places: Vec<_> = places
        .iter()
        .filter(|(place, _)| place.memory_mb == memory_mb)
        .collect();
    let (columns, rows) = (agents.len(), places.len());
    let size = (PANEL.0 * columns as u32, PANEL.1 * rows as u32);
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    for ((place, runs), row) in places.iter().zip(root.split_evenly((rows, 1))) {
        let first = |agent: &&Agent| runs.get(agent.name)?.first().copied();
        let last = |r: &Record| r.timeline.last().map_or(0, |p| p.0);
        let all = agents.iter().filter_map(first).map(last);
        let seconds = all.max().unwrap_or(0) as f64 / 1000.0;
        let megabytes = f64::from(memory_mb);
        for (agent, area) in agents.iter().zip(row.split_evenly((1, columns))) {
            let Some(run) = first(agent) else {
                continue;
            };
            let mut chart = ChartBuilder::on(&area)
                .caption(
                    format!("{}: {}", place.load, agent.name),
                    ("sans-serif", 12),
                )
                .margin(4)
                .x_label_area_size(18)
                .y_label_area_size(28)
                .build_cartesian_2d(0.0..seconds, 0.0..megabytes)?;
            chart
                .configure_mesh()
                .disable_mesh()
                .x_labels(5)
                .y_labels(4)
                .x_label_formatter(&|s| format!("{s:.0} s"))
                .y_label_formatter(&|mb| format!("{mb:.0}"))
                .label_style(("sans-serif", 11))
                .draw()?;
            let at = |ms: u64| ms as f64 / 1000.0;
            let available = run.timeline.iter().map(|p| (at(p.0), p.1 as f64 / 1024.0));
            chart.draw_series(AreaSeries::new(available, 0.0, BLUE.mix(0.3)))?;
            let stalled = run.timeline.windows(2).map(|w| {
                let share = (w[1].3 - w[0].3) as f64 / (w[1].0 - w[0].0) as f64;
                (at(w[1].0), share.min(1.0) * megabytes)
            });
            chart.draw_series(LineSeries::new(stalled, RED))?;
            chart.draw_series(run.ends.iter().map(|(ms, service)| {
                let color = if service == HOG { BLACK } else { MAGENTA };
                PathElement::new([(at(*ms), 0.0), (at(*ms), megabytes)], color)
            }))?;
        }
    }
    root.present()?;
    drop(root);
    Ok(svg)
}
