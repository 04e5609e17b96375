//! What came of recordings, for a person.

use crate::replay::{Decision, Run, Side};
use lowtide::tell::civil::Utc;
use lowtide::tell::table::{Column, Table};
use lowtide::units::{Permyriad, Size};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// A recording's decisions beside what was done.
pub struct Decisions<'a> {
    pub name: &'a str,
    pub run: &'a Run,
}

impl Display for Decisions<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, run } = self;
        let begin = &run.begin;
        writeln!(
            f,
            "{name}: lowtide {}, {} engine{}, from {} for {}; {} looks, {} samples",
            begin.version,
            begin.engine,
            if begin.dry_run { ", dry run" } else { "" },
            Utc(begin.time),
            Seconds(run.last.saturating_sub(begin.at)),
            run.looks,
            run.samples
        )?;
        if run.lost > 0 {
            writeln!(
                f,
                "{} events found no room in the agent: what follows them is a guess",
                run.lost
            )?;
        }
        if run.decisions.is_empty() {
            return writeln!(f, "Nothing was done, and nothing would be.");
        }
        use Column::{Number, Text};
        let columns = [Number, Text, Number, Text, Text, Text];
        let heading = [
            "after",
            "level",
            "available",
            "was done",
            "would be done",
            "",
        ];
        let mut table = Table::new(columns, heading);
        for shown in condensed(&run.decisions) {
            let Decision {
                level,
                available,
                total,
                ..
            } = shown.first;
            let differs = shown.first.differs();
            let note = match (differs, shown.first.guess) {
                (true, false) => "differs",
                (true, true) => "differs, a guess",
                (false, true) => "a guess",
                (false, false) => "",
            };
            let share = available.saturating_mul(10_000) / (*total).max(1);
            table.line([
                Seconds(shown.first.at.saturating_sub(begin.at)).to_string(),
                level.name().to_owned(),
                format!("{} ({})", Size(*available), Permyriad(share)),
                said(&shown.first.done, shown.count, false),
                if differs {
                    said(&shown.first.judged, shown.count, true)
                } else {
                    "the same".to_owned()
                },
                note.to_owned(),
            ]);
        }
        write!(f, "{table}")?;
        match run.differs_at {
            Some(at) => writeln!(
                f,
                "From {} on it is a guess: what memory would have been after another decision, no \
                 recording says.",
                Seconds(at.saturating_sub(begin.at))
            ),
            None => writeln!(f, "The same decisions at the same times."),
        }
    }
}

/// Decisions that repeat at once, as cache goes in many small steps.
struct Shown<'a> {
    first: &'a Decision,
    count: usize,
}

fn condensed(decisions: &[Decision]) -> Vec<Shown<'_>> {
    let mut shown: Vec<Shown<'_>> = Vec::new();
    for decision in decisions {
        let repeats = |last: &&mut Shown<'_>| {
            let last = last.first;
            let mild = |side: &Side| matches!(side.action, "reclaim" | "nothing");
            mild(&decision.done)
                && mild(&decision.judged)
                && (last.domain, last.guess) == (decision.domain, decision.guess)
                && last.done.ids == decision.done.ids
                && last.judged.ids == decision.judged.ids
        };
        match shown.last_mut().filter(repeats) {
            Some(last) => last.count += 1,
            None => shown.push(Shown {
                first: decision,
                count: 1,
            }),
        }
    }
    shown
}

/// The groups are those by which it is judged.
fn said(side: &Side, count: usize, grouped: bool) -> String {
    let targets = side
        .targets
        .iter()
        .map(|target| match target.group.as_str() {
            _ if !grouped => target.name.clone(),
            "" => target.name.clone(),
            group => format!("{} ({group})", target.name),
        });
    let targets: Vec<_> = targets.collect();
    let times = if count > 1 {
        format!(", {count} times")
    } else {
        String::new()
    };
    format!("{} {}{times}", side.action, targets.join(", "))
        .trim_end()
        .to_owned()
}

/// `12.5 s`, `3 min 5 s`, `26 h 0 min`, of milliseconds.
pub struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let s = self.0 / 1_000;
        match s {
            0..60 => write!(f, "{s}.{} s", self.0 % 1_000 / 100),
            60..3_600 => write!(f, "{} min {} s", s / 60, s % 60),
            _ => write!(f, "{} h {} min", s / 3_600, s / 60 % 60),
        }
    }
}

/// What many recordings come to.
pub struct Summary<'a>(pub &'a [(String, Run)]);

/// How often those of a group went, and on which devices.
#[derive(Default)]
struct Gone<'a> {
    done: usize,
    judged: usize,
    devices: BTreeSet<&'a str>,
}

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut groups = BTreeMap::<&str, Gone<'_>>::new();
        for (name, run) in self.0 {
            for decision in &run.decisions {
                let sides = [(&decision.done, true), (&decision.judged, false)];
                for (side, is_done) in sides.into_iter().filter(|(side, _)| side.ends()) {
                    for target in &side.targets {
                        let gone = groups.entry(&target.group).or_default();
                        if is_done {
                            gone.done += 1;
                        } else {
                            gone.judged += 1;
                            gone.devices.insert(name);
                        }
                    }
                }
            }
        }
        let differ: Vec<_> = self
            .0
            .iter()
            .filter(|(_, run)| run.differs_at.is_some())
            .collect();
        for (name, run) in &differ {
            let first = run.decisions.iter().find(|decision| decision.differs());
            let Some(first) = first else { continue };
            writeln!(
                f,
                "{name}: differs after {}: was {}, would be {}",
                Seconds(first.at.saturating_sub(run.begin.at)),
                said(&first.done, 1, false),
                said(&first.judged, 1, true)
            )?;
        }
        let hours: u64 = self
            .0
            .iter()
            .map(|(_, run)| run.last - run.begin.at.min(run.last))
            .sum();
        writeln!(
            f,
            "{} recordings of {} in all; {} differ",
            self.0.len(),
            Seconds(hours),
            differ.len()
        )?;
        if groups.is_empty() {
            return writeln!(
                f,
                "Nothing was asked to stop or killed, and nothing would be."
            );
        }
        use Column::{Number, Text};
        let heading = ["group", "was asked or killed", "would be", "on devices"];
        let mut table = Table::new([Text, Number, Number, Number], heading);
        for (group, gone) in groups {
            let group = if group.is_empty() {
                "(not known)"
            } else {
                group
            };
            table.line([
                group.to_owned(),
                gone.done.to_string(),
                gone.judged.to_string(),
                gone.devices.len().to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
