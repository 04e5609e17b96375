//! An explanation in words, and as JSON.

use super::{Cgroup, Explanation, Place};
use crate::json::Json;
use crate::tell::table::{Column, Table};
use crate::tell::words::{Because, Figures, Many};
use crate::units::Size;
use lowtide_common::{NEVER, REFLEX_WORTH, Row, Rule};
use lowtide_judge::{Action, Level, Policy, Step, Unit, Verdict, Why};
use std::fmt::Write as _;

impl Place {
    fn turn(self) -> Option<usize> {
        match self {
            Self::Turn(turn, _) => Some(turn),
            _ => None,
        }
    }

    /// Whether it stands in the order, or is left out of it for what it is.
    fn is_ranked(self) -> bool {
        matches!(self, Self::Turn(..) | Self::Out(_))
    }

    fn text(self) -> &'static str {
        match self {
            Self::Turn(_, reason) | Self::Out(reason) => reason.text(),
            Self::Part => "goes with the one above it",
            Self::Parent => "those below it are ranked",
            Self::Empty => "no process in it",
        }
    }
}

impl Explanation {
    pub fn text(&self, policy: &Policy) -> String {
        let many = Many(self.unit);
        let mut out = format!("{} engine, {} {many}\n", self.engine, self.cgroups.len());
        let _ = writeln!(out, "{}\n", Figures(&self.now));
        let _ = writeln!(out, "If it woke now: {}.", self.doing(&self.now));
        let _ = writeln!(
            out,
            "If memory ran out, with {} available and {} missing to relief: {}.",
            Size(self.outlook.memory.available),
            Size(self.outlook.enough),
            self.doing(&self.outlook)
        );
        let reclaimed = self.reclaimed(policy);
        if !reclaimed.is_empty() {
            out.push_str(&heading(policy, Step::Reclaim, "reclaimed from"));
            let _ = write!(out, "{reclaimed}");
        }
        out.push_str(&heading(policy, Step::Kill, "killed"));
        let _ = write!(out, "{}", self.killed(policy));
        if let Some(kill) = self.reflex {
            let _ = writeln!(
                out,
                "\nThe reflex ([reflex] kill = \"{kill}\") would take {}.",
                self.reflex_takes().map_or("nothing", |c| &c.path)
            );
        }
        let others = self.others();
        if !others.is_empty() {
            let _ = write!(out, "\nNo candidates for a kill by themselves:\n{others}");
        }
        let holds_enough = |row: &&Row| row.freed_by_kill() >= self.outlook.enough;
        if let Some(row) = self.outlook.untouchable.as_ref().filter(holds_enough) {
            let _ = writeln!(
                out,
                "\nIf {} grows, nothing here can stop it: it is `never` killed, and holds {}, most of \
                 all that are.",
                self.path(row),
                Size(row.freed_by_kill())
            );
        }
        if self.left_out > 0 {
            let _ = writeln!(out, "\n{} {many} are not shown", self.left_out);
        }
        out
    }

    /// The heading over those that are listed.
    fn one(&self) -> &'static str {
        match self.unit {
            Unit::Cgroup => "cgroup",
            Unit::Process => "process",
        }
    }

    fn path(&self, row: &Row) -> &str {
        let cgroup = self.cgroups.iter().find(|c| c.row.id == row.id);
        cgroup.map_or("(gone)", |c| &c.path)
    }

    /// What the reflex begins with: of the same order the first that goes as a whole.
    fn reflex_takes(&self) -> Option<&Cgroup> {
        let takes = |c: &&Cgroup| {
            let rule = c.row.rule;
            let whole = rule.flags & Rule::PROCESS == 0 && rule.kill != NEVER;
            whole && c.kill.turn().is_some() && c.frees >= REFLEX_WORTH
        };
        let turns = self.cgroups.iter().filter(takes);
        turns.min_by_key(|c| c.kill.turn())
    }

    /// `reclaim 12M of /apps/media, critical confirmed`
    fn doing(&self, verdict: &Verdict) -> String {
        let why = Because::of(&verdict.why);
        match &verdict.action {
            Action::Nothing if verdict.why == Why::NotConfirmed => {
                "nothing, no level's condition holds".to_owned()
            }
            Action::Nothing => format!("nothing, {why}"),
            Action::Reboot => format!("reboot, {why}"),
            Action::Watchdog => format!("leave the watchdog to restart it, {why}"),
            Action::Reclaim { target, bytes } => {
                format!("reclaim {} of {}", Size(*bytes), self.path(target))
            }
            Action::Throttle { target, .. }
            | Action::Prepare { target, .. }
            | Action::Terminate { target, .. }
            | Action::Kill { target } => {
                format!("{} {}", verdict.action.name(), self.path(target))
            }
        }
    }

    /// Those that are ranked, in order.
    fn in_order(&self, place: fn(&Cgroup) -> Place) -> Vec<&Cgroup> {
        let ranked = self.cgroups.iter().filter(|c| place(c).is_ranked());
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by_key(|c| place(c).turn().unwrap_or(usize::MAX));
        ranked
    }

    fn killed(&self, policy: &Policy) -> Table<7> {
        use Column::{Number, Text};
        let mut table = Table::new(
            [Number, Text, Text, Number, Number, Number, Text],
            ["", self.one(), "group", "kill", "usage", "frees", ""],
        );
        for c in self.in_order(|c| c.kill) {
            table.line([
                order(c.kill),
                c.path.clone(),
                group(policy, &c.row).to_owned(),
                priority(c.row.rule.kill),
                Size(c.row.usage).to_string(),
                Size(c.frees).to_string(),
                c.kill.text().to_owned(),
            ]);
        }
        table
    }

    fn reclaimed(&self, policy: &Policy) -> Table<6> {
        use Column::{Number, Text};
        let mut table = Table::new(
            [Number, Text, Text, Number, Number, Text],
            ["", self.one(), "group", "reclaim", "cache", ""],
        );
        for c in self.in_order(|c| c.reclaim) {
            table.line([
                order(c.reclaim),
                c.path.clone(),
                group(policy, &c.row).to_owned(),
                priority(c.row.rule.reclaim),
                Size(c.row.reclaimable_file()).to_string(),
                c.reclaim.text().to_owned(),
            ]);
        }
        table
    }

    fn others(&self) -> Table<3> {
        use Column::{Number, Text};
        let mut table = Table::new([Text, Number, Text], [self.one(), "usage", ""]);
        for c in self.cgroups.iter().filter(|c| !c.kill.is_ranked()) {
            table.line([
                c.path.clone(),
                Size(c.row.usage).to_string(),
                c.kill.text().to_owned(),
            ]);
        }
        table
    }

    pub fn json(&self, policy: &Policy) -> Json {
        let m = &self.now.memory;
        let cgroups = self.cgroups.iter().map(|c| c.json(policy)).collect();
        Json::Object(vec![
            ("engine", Json::text(self.engine)),
            ("notes", self.notes.iter().map(Json::text).collect()),
            (
                "memory",
                Json::Object(vec![
                    ("total", m.total.into()),
                    ("available", m.available.into()),
                    ("swap_total", m.swap_total.into()),
                    ("swap_free", m.swap_free.into()),
                    ("zram", m.zram.into()),
                ]),
            ),
            ("now", self.verdict(&self.now)),
            ("if_memory_ran_out", self.verdict(&self.outlook)),
            (
                "largest_never",
                self.outlook
                    .untouchable
                    .map(|row| Json::text(self.path(&row)))
                    .into(),
            ),
            ("cgroups", cgroups),
            ("cgroups_left_out", u64::from(self.left_out).into()),
        ])
    }

    fn verdict(&self, verdict: &Verdict) -> Json {
        let target = verdict.action.target();
        Json::Object(vec![
            ("action", Json::text(verdict.action.name())),
            ("cgroup", target.map(|t| Json::text(self.path(t))).into()),
            ("why", Json::text(Because::of(&verdict.why))),
            ("available", verdict.memory.available.into()),
            ("missing_to_relief", verdict.enough.into()),
        ])
    }
}

impl Cgroup {
    fn json(&self, policy: &Policy) -> Json {
        let row = &self.row;
        let grace_ms = policy.group(row.rule.group).grace_ms;
        let turn = |place: Place| place.turn().map(|turn| turn as u64).into();
        let priority = |priority: u16| {
            Some(u64::from(priority))
                .filter(|_| priority != NEVER)
                .into()
        };
        Json::Object(vec![
            ("path", Json::text(&self.path)),
            ("id", row.id.into()),
            ("group", Json::text(group(policy, row))),
            ("usage", row.usage.into()),
            ("anon", row.anon.into()),
            ("file", row.file.into()),
            ("shmem", row.shmem.into()),
            ("swap", row.swap.into()),
            (
                "kill",
                Json::Object(vec![
                    ("order", turn(self.kill)),
                    ("priority", priority(row.rule.kill)),
                    ("frees", self.frees.into()),
                    ("one_process", (row.rule.flags & Rule::PROCESS != 0).into()),
                    ("grace_ms", u64::from(grace_ms).into()),
                    ("why", Json::text(self.kill.text())),
                ]),
            ),
            (
                "reclaim",
                Json::Object(vec![
                    ("order", turn(self.reclaim)),
                    ("priority", priority(row.rule.reclaim)),
                    ("frees", row.reclaimable_file().into()),
                    ("why", Json::text(self.reclaim.text())),
                ]),
            ),
        ])
    }
}

/// `At critical, these are killed, in this order:`
fn heading(policy: &Policy, step: Step, done: &str) -> String {
    let levels = Level::CONFIGURED.into_iter().zip(&policy.levels);
    let levels: Vec<_> = levels
        .filter(|(_, rules)| rules.actions.contains(&step))
        .map(|(level, _)| level.name())
        .collect();
    if levels.is_empty() {
        format!("\nNever {done}: no level's actions say so. The order would be:\n")
    } else {
        format!(
            "\nAt {}, these are {done}, in this order:\n",
            levels.join(" and ")
        )
    }
}

/// What the agent protects by itself belongs to no group.
fn group<'a>(policy: &'a Policy, row: &Row) -> &'a str {
    if row.rule == Rule::UNTOUCHABLE && policy.fallback.kill != NEVER {
        "(built in)"
    } else {
        &policy.group(row.rule.group).name
    }
}

fn order(place: Place) -> String {
    place.turn().map_or("-".to_owned(), |turn| turn.to_string())
}

fn priority(priority: u16) -> String {
    if priority == NEVER {
        "never".to_owned()
    } else {
        priority.to_string()
    }
}
