//! A recording as a picture.

use crate::files::Recording;
use crate::replay;
use anyhow::{Result, anyhow};
use lowtide::tell::recording::{Broken, Event, Reader};
use lowtide_common::Row;
use lowtide_judge::Memory;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::HashMap;

/// Pixels.
const SIZE: (u32, u32) = (1_200, 900);
/// Cgroups that are drawn, those that grew most.
const DRAWN: usize = 8;
const MIB: f64 = 1_048_576.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What is drawn, over seconds since the beginning.
#[derive(Default)]
struct Series {
    memory: Vec<(f64, Memory)>,
    /// MiB that the end of each cgroup would free.
    cgroups: HashMap<u64, Vec<(f64, f64)>>,
    names: HashMap<u64, String>,
}

/// The picture, and why it ends before the file does.
pub fn svg(recording: &Recording) -> Result<(String, Option<Broken>)> {
    let run = replay::replay(&recording.bytes, None)?;
    let begin = run.begin.at;
    let second = |at: u64| at.saturating_sub(begin) as f64 / 1_000.0;
    let series = collect(&recording.bytes, &second)?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        draw(&area, &series, &run, recording, &second).map_err(|error| anyhow!("{error}"))?;
        area.present().map_err(|error| anyhow!("{error}"))?;
    }
    Ok((text, run.broken))
}

fn collect(file: &[u8], second: &dyn Fn(u64) -> f64) -> Result<Series> {
    let mut series = Series::default();
    let mut reader = Reader::new(file).map_err(|broken| anyhow!("{broken}"))?;
    while let Some(Ok(event)) = reader.next() {
        let (at, memory) = match event {
            Event::Cgroup(cgroup) => {
                let name = String::from_utf8_lossy(&cgroup.name).into_owned();
                series.names.insert(cgroup.id, format!("/{name}"));
                continue;
            }
            Event::Look(looked) if looked.domain == 0 => {
                let kill = looked
                    .survey
                    .as_ref()
                    .map_or(&[][..], |survey| survey.kill());
                for row in kill {
                    let point = (second(looked.at), row.freed_by_kill() as f64 / MIB);
                    series.cgroups.entry(row.id).or_default().push(point);
                }
                (looked.at, looked.memory)
            }
            Event::Sample { at, memory } => {
                // What is above others is drawn as these.
                let leaf = |row: &&Row| row.level > 0 && row.flags & Row::LEAF != 0;
                for row in reader.sample().iter().filter(leaf) {
                    let point = (second(at), row.freed_by_kill() as f64 / MIB);
                    series.cgroups.entry(row.id).or_default().push(point);
                }
                (at, memory)
            }
            _ => continue,
        };
        series.memory.push((second(at), memory));
    }
    // Samples are taken while looks wait to be handed over.
    series.memory.sort_by(|a, b| a.0.total_cmp(&b.0));
    for points in series.cgroups.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Ok(series)
}

fn draw(
    area: &Area<'_>,
    series: &Series,
    run: &replay::Run,
    recording: &Recording,
    second: &dyn Fn(u64) -> f64,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let end = series
        .memory
        .last()
        .map_or(1.0, |(second, _)| second.max(1.0));
    let area = area.titled(&recording.name(), ("sans-serif", 20))?;
    let panels = area.split_evenly((3, 1));
    let ends: Vec<_> = run
        .decisions
        .iter()
        .filter(|decision| decision.done.ends())
        .map(|decision| {
            let names: Vec<_> = decision
                .done
                .targets
                .iter()
                .map(|t| t.name.as_str())
                .collect();
            let text = format!("{} {}", decision.done.action, names.join(", "));
            (second(decision.at), text)
        })
        .collect();

    let total = series
        .memory
        .iter()
        .map(|(_, m)| m.total)
        .max()
        .unwrap_or(1) as f64
        / MIB;
    let swap = series
        .memory
        .iter()
        .map(|(_, m)| m.swap_total)
        .max()
        .unwrap_or(0);
    let points = |of: &dyn Fn(&Memory) -> u64| -> Vec<(f64, f64)> {
        let points = series.memory.iter();
        points
            .map(|(second, memory)| (*second, of(memory) as f64 / MIB))
            .collect()
    };
    let mut lines = vec![
        ("available".to_owned(), points(&|m| m.available)),
        ("file cache".to_owned(), points(&|m| m.file)),
    ];
    if swap > 0 {
        lines.push(("swap free".to_owned(), points(&|m| m.swap_free)));
    }
    panel(
        &panels[0],
        "memory, MiB",
        end,
        total.max(swap as f64 / MIB),
        &lines,
        &ends,
    )?;

    let stalls = |of: &dyn Fn(&Memory) -> u64| -> Vec<(f64, f64)> {
        let pairs = series
            .memory
            .windows(2)
            .filter(|pair| pair[1].0 - pair[0].0 >= 0.05);
        pairs
            .map(|pair| {
                let us = of(&pair[1].1).saturating_sub(of(&pair[0].1)) as f64;
                let share = us / (pair[1].0 - pair[0].0) / 10_000.0;
                (pair[1].0, share.min(100.0))
            })
            .collect()
    };
    let lines = [
        ("some".to_owned(), stalls(&|m| m.psi_some_us)),
        ("full".to_owned(), stalls(&|m| m.psi_full_us)),
    ];
    panel(
        &panels[1],
        "tasks stalled on memory, % of the time",
        end,
        100.0,
        &lines,
        &[],
    )?;

    let most = |points: &[(f64, f64)]| points.iter().map(|point| point.1).fold(0.0, f64::max);
    let least = |points: &[(f64, f64)]| points.iter().map(|point| point.1).fold(f64::MAX, f64::min);
    let mut grew: Vec<_> = series.cgroups.iter().collect();
    // By how much they grew; then by name, so that the picture of a file is always the same.
    grew.sort_by(|a, b| {
        let growth = |points: &[(f64, f64)]| most(points) - least(points);
        growth(b.1).total_cmp(&growth(a.1)).then(a.0.cmp(b.0))
    });
    let lines: Vec<_> = grew
        .into_iter()
        .filter_map(|(id, points)| Some((series.names.get(id)?.clone(), points.clone())))
        .filter(|(name, _)| name != "/")
        .take(DRAWN)
        .collect();
    let highest = lines
        .iter()
        .map(|(_, points)| most(points))
        .fold(1.0, f64::max);
    panel(
        &panels[2],
        "what the end of a cgroup would free, MiB",
        end,
        highest,
        &lines,
        &ends,
    )
}

/// Lines over time, with a mark where something ended.
fn panel(
    area: &Area<'_>,
    title: &str,
    end: f64,
    highest: f64,
    lines: &[(String, Vec<(f64, f64)>)],
    marks: &[(f64, String)],
) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(12)
        .x_label_formatter(&|second| format!("{second:.0} s"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .draw()?;
    for (at, text) in marks {
        let line = vec![(*at, 0.0), (*at, highest)];
        chart.draw_series(LineSeries::new(line, RED.mix(0.6)))?;
        let place = (*at, highest * 1.03);
        let style = ("sans-serif", 12).into_font().color(&RED);
        chart.draw_series(std::iter::once(Text::new(text.clone(), place, style)))?;
    }
    for (index, (name, points)) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let drawn = chart.draw_series(LineSeries::new(
            points.iter().copied(),
            color.stroke_width(2),
        ))?;
        drawn.label(name).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 16, y)], color.stroke_width(2))
        });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
