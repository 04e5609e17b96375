//! What `lowtide top` showed in a run, as a moving picture for the README: an SVG that needs no script.

use crate::vm::{AGENT, Run};
use anyhow::{Result, ensure};
use lowtide_guest::Service;
use std::fmt::Write as _;

/// Service that looks at the agent.
const VIEWER: &str = "viewer";
/// Time between two looks, and for which each is shown.
const LOOK_S: f64 = 0.2;
const SHOWN_S: f64 = 0.5;
/// First words of a screen.
const TITLE: &str = concat!("lowtide ", env!("CARGO_PKG_VERSION"), ": ");
/// Looks before the victim goes, and after.
const BEFORE: usize = 16;
const AFTER: usize = 10;
/// Of the terminal: columns, and pixels of a character and a line.
const COLUMNS: usize = 100;
const CHARACTER: f64 = 7.3;
const LINE: usize = 17;
const MARGIN: usize = 14;

/// In the cgroup of what is never killed.
pub fn viewer() -> Service {
    let look = format!("while :; do {AGENT} top; sleep {LOOK_S}; done");
    Service {
        name: VIEWER.into(),
        command: ["/bin/sh", "-c", &look].map(String::from).to_vec(),
        cgroup: "lifeline/viewer".into(),
        after: Some("lowtide".into()),
        ..Service::default()
    }
}

/// The screens around the end of the victim, at `end_ms`.
pub fn of(run: &Run, end_ms: u64) -> Result<String> {
    let mut screens: Vec<(u64, Vec<&str>)> = Vec::new();
    for (t, line) in run.lines(VIEWER) {
        if line.starts_with(TITLE) {
            screens.push((t, Vec::new()));
        }
        if let Some((_, lines)) = screens.last_mut() {
            lines.push(line);
        }
    }
    let end = screens.iter().position(|(t, _)| *t >= end_ms);
    let end = end.unwrap_or(screens.len());
    ensure!(
        end > 0 && end < screens.len(),
        "no screen before and after the end"
    );
    let from = end.saturating_sub(BEFORE);
    let to = (end + AFTER).min(screens.len());
    let screens: Vec<_> = screens[from..to]
        .iter()
        .map(|(_, lines)| &lines[..])
        .collect();
    Ok(svg(&screens, end - from))
}

/// `still` is the screen that is shown where nothing may move.
fn svg(screens: &[&[&str]], still: usize) -> String {
    let lines = screens.iter().map(|lines| lines.len()).max().unwrap_or(0);
    let (width, height) = (
        (COLUMNS as f64 * CHARACTER) as usize + 2 * MARGIN,
        lines * LINE + 2 * MARGIN,
    );
    let total = screens.len() as f64 * SHOWN_S;
    let part = 100.0 / screens.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"lowtide top while a service eats the memory of a \
         device\">\n<!-- made by cargo xtask demo -->\n\
         <style>\ntext {{ font: 12px ui-monospace, monospace; fill: #d7dce2; white-space: pre }}\n\
         .head {{ fill: #7fd1ff }}\n.act {{ fill: #ff9d8a }}\n\
         g {{ visibility: hidden; animation: look {total}s steps(1) infinite }}\n\
         .still {{ visibility: visible }}\n\
         @keyframes look {{ 0% {{ visibility: visible }} {part:.3}%, 100% {{ visibility: hidden }} }}\n\
         @media (prefers-reduced-motion: reduce) {{ g {{ animation: none }} }}\n</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1c2128\"/>\n"
    );
    for (at, lines) in screens.iter().enumerate() {
        let still = if at == still { " class=\"still\"" } else { "" };
        let delay = at as f64 * SHOWN_S - total;
        let _ = writeln!(svg, "<g{still} style=\"animation-delay: {delay}s\">");
        for (row, line) in lines.iter().enumerate() {
            let y = MARGIN + (row + 1) * LINE - 4;
            let _ = writeln!(
                svg,
                "<text x=\"{MARGIN}\" y=\"{y}\"{}>{}</text>",
                class(row, line),
                escaped(line)
            );
        }
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

/// The first line, and what was done.
fn class(row: usize, line: &str) -> &'static str {
    match row {
        0 => " class=\"head\"",
        _ if ["terminate ", "kill "].iter().any(|act| line.contains(act)) => " class=\"act\"",
        _ => "",
    }
}

fn escaped(text: &str) -> String {
    let text: String = text.chars().take(COLUMNS).collect();
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_screen_is_a_part_of_the_picture() {
        let svg = svg(&[&["lowtide 1: a <b>", "x & y"], &["lowtide 1: c"]], 1);
        assert!(svg.contains(">lowtide 1: a &lt;b></text>") && svg.contains(">x &amp; y</text>"));
        assert_eq!(svg.matches("<g").count(), 2);
        assert!(svg.contains("<g class=\"still\" style=\"animation-delay: -0.5s\">"));
    }
}
