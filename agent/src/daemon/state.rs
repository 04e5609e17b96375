//! The agent's state, as `lowtide status` and `lowtide top` get it: a TOML document.

use super::Daemon;
use super::history::Counters;
use crate::config::rule;
use crate::sense::tree::PATH;
use crate::tell::record::Quoted;
use crate::tell::words::Named;
use lowtide_common::{CANDIDATES, NEVER, NO_GROUP, Row};
use lowtide_judge::Level;
use std::fmt::{self, Write};
use std::mem::MaybeUninit;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the agent stands on.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// In a line; also the service manager's.
    pub status: String,
    pub dry_run: bool,
    /// In a dry run: a victim would have gone in this episode, so that what follows is a guess.
    pub guessing: bool,
    /// Seconds since 1970, as the next two.
    pub started: u64,
    pub loaded: u64,
    /// When a reload was refused since then; 0: none was.
    pub refused: u64,
    /// The last attempt to write decisions to a file failed.
    pub unsaved: bool,
    pub level: Level,
    pub counters: Counters,
}

impl Standing {
    pub fn begin(status: String, dry_run: bool) -> Self {
        let now = Self::now();
        Self {
            status,
            dry_run,
            started: now,
            loaded: now,
            ..Self::default()
        }
    }

    /// Another config is in force.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a count of 64 bits, one at a time"
    )]
    pub fn reloaded(&mut self, status: String) {
        self.status = status;
        (self.loaded, self.refused) = (Self::now(), 0);
        self.counters.reloads += 1;
    }

    /// Seconds since 1970.
    pub fn now() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    }
}

impl Daemon {
    /// Answers one caller. Allocates nothing and waits for no reader: it may come in an episode.
    pub(super) fn on_asked(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        match socket.answer(|answer| self.write_state(answer)) {
            Ok(()) => self.socket = Some(socket),
            // The caller would still wait, and wake the agent over and over.
            Err(error) => self.log.warning(format_args!(
                "no more answers to `lowtide status`: {error}; the next start brings them back"
            )),
        }
    }

    fn write_state(&mut self, to: &mut impl Write) -> fmt::Result {
        self.write_next(to)?;
        to.write_str("history = [\n")?;
        for line in self.decisions.recent() {
            writeln!(to, "{},", Quoted(line.trim_end()))?;
        }
        let standing = &self.standing;
        write!(
            to,
            "]\n\n[agent]\nversion = \"{}\"\nstatus = {}\nlevel = \"{}\"\ndry_run = {}\n\
             started = {}\n\n[config]\nloaded = {}\nrefused = {}\nfiles = [",
            env!("CARGO_PKG_VERSION"),
            Quoted(&standing.status),
            standing.level.name(),
            standing.dry_run,
            standing.started,
            standing.loaded,
            standing.refused
        )?;
        for file in self.config.effective.files() {
            write!(to, "{}, ", Quoted(file))?;
        }
        let c = &standing.counters;
        write!(
            to,
            "]\n\n[counters]\nwakeups = {}\nalarms = {}\nlooks = {}\nreclaims = {}\nterminated = {}\nkilled = {}\n\
             failed = {}\nreloads = {}\n",
            c.wakeups, c.alarms, c.looks, c.reclaims, c.terminated, c.killed, c.failed, c.reloads
        )?;
        let Ok(m) = self.meminfo.read() else {
            return Ok(());
        };
        write!(
            to,
            "\n[memory]\ntotal = {}\navailable = {}\nfile = {}\nswap_total = {}\nswap_free = {}\nzram = {}\n",
            m.total, m.available, m.file, m.swap_total, m.swap_free, m.zram
        )
    }

    /// The candidates as a survey of this moment ranks them; in an episode, that of its last look.
    fn write_next(&mut self, to: &mut impl Write) -> fmt::Result {
        let fallback = rule(&self.config.policy, NO_GROUP);
        let survey = if self.domains.any_acts() {
            Ok(self.surveyor.last())
        } else {
            self.surveyor
                .survey(0, 0, fallback, 0, &self.config.matcher)
        };
        let rows: heapless::Vec<Row, CANDIDATES> = survey.map_or(heapless::Vec::new(), |survey| {
            survey.kill().iter().copied().collect()
        });
        let mut buffer = [MaybeUninit::uninit(); PATH];
        to.write_str("next = [\n")?;
        for row in &rows {
            let group = &self.config.policy.group(row.rule.group).name;
            write!(
                to,
                "{{ name = {}, group = {}, usage = {}, frees = {}",
                Quoted(Named::new(&self.surveyor.tree, row, None, &mut buffer)),
                Quoted(group),
                row.usage,
                row.freed_by_kill()
            )?;
            if row.rule.kill != NEVER {
                write!(to, ", kill = {}", row.rule.kill)?;
            }
            to.write_str(" },\n")?;
        }
        to.write_str("]\n")
    }
}
