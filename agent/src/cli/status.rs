//! `lowtide status`: what the running agent sees, what it did, and what would be next.

use super::log::Shown;
use super::{complain, print};
use crate::json::Json;
use crate::tell::civil::Utc;
use crate::tell::reading::Entry;
use crate::tell::socket;
use crate::tell::table::{Column, Table};
use crate::units::Size;
use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Says what the running agent sees, what it did lately, and what would go next. Changes nothing.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "status")]
pub struct Status {
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// print figures as OpenMetrics text, for Prometheus and others
    #[argh(switch)]
    openmetrics: bool,
    /// write it into this file, as a whole, and only when it is different from what is there
    #[argh(option, arg_name = "file")]
    output: Option<PathBuf>,
}

impl Status {
    /// Fails when no agent answers.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        if self.json && self.openmetrics {
            complain("lowtide status: JSON or OpenMetrics: not both");
            return ExitCode::from(super::USAGE);
        }
        let shown = ask().map(|state| {
            if self.json {
                format!("{}\n", state.json())
            } else if self.openmetrics {
                state.openmetrics()
            } else {
                state.to_string()
            }
        });
        let shown = shown.and_then(|text| match &self.output {
            Some(file) => replace(file, &text)
                .map(|()| String::new())
                .map_err(|error| format!("{}: {error}", file.display())),
            None => Ok(text),
        });
        match shown {
            Ok(text) => print(text, ExitCode::SUCCESS),
            Err(error) => {
                complain(format_args!("lowtide status: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Readers find the old text or the new one, and no write where nothing is new. A device or a pipe would be
/// read for ever, and have its name taken away.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("not a regular file"));
    }
    if fs::read(file).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, text)?;
    fs::rename(&name, file)
}

/// The running agent's answer; the error is for a person.
pub fn ask() -> Result<State, String> {
    let answer = socket::ask().map_err(|error| said(&error))?;
    State::read(&answer).ok_or_else(|| "the agent that runs is of another version".to_owned())
}

fn said(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "no agent runs here, or it has no socket; `lowtide explain` needs none".to_owned()
        }
        ErrorKind::PermissionDenied => {
            "only root may ask the agent, and the group that [status] names".to_owned()
        }
        _ => format!("asking the agent: {error}"),
    }
}

/// The agent's answer. What an older or newer agent does not say is 0 or empty.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    pub version: String,
    pub status: String,
    pub level: String,
    pub dry_run: bool,
    pub started: u64,
    pub memory: Vec<(&'static str, u64)>,
    pub counters: Vec<(&'static str, u64)>,
    pub config: Config,
    pub next: Vec<Next>,
    pub history: Vec<Entry>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    pub loaded: u64,
    /// When a reload was refused since then; 0: none was.
    pub refused: u64,
    pub files: Vec<String>,
}

/// A candidate, in the order in which they would go.
#[derive(Debug, PartialEq, Eq)]
pub struct Next {
    pub name: String,
    pub group: String,
    /// `None`: never.
    pub kill: Option<u64>,
    pub usage: u64,
    pub frees: u64,
}

const MEMORY: [&str; 6] = [
    "total",
    "available",
    "file",
    "swap_total",
    "swap_free",
    "zram",
];
/// What is counted since the start, with what it means.
const COUNTERS: [(&str, &str); 8] = [
    ("wakeups", "times the agent woke up"),
    ("alarms", "alarms of the watch, PSI or the ballast"),
    ("looks", "looks at the memory of the system"),
    ("reclaims", "times cache was taken back"),
    ("terminated", "victims asked to stop"),
    ("killed", "victims killed"),
    ("failed", "actions that failed"),
    ("reloads", "times the config was read anew"),
];

type Document<'a> = DeTable<'a>;

fn table<'a, 'b>(document: &'b Document<'a>, key: &str) -> Option<&'b Document<'a>> {
    match document.get(key)?.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn number(document: Option<&Document<'_>>, key: &str) -> u64 {
    let value = document.and_then(|document| document.get(key));
    match value.map(Spanned::get_ref) {
        Some(DeValue::Integer(number)) => number.as_str().parse().unwrap_or(0),
        _ => 0,
    }
}

fn text(document: Option<&Document<'_>>, key: &str) -> String {
    let value = document.and_then(|document| document.get(key));
    value
        .and_then(|value| value.get_ref().as_str())
        .unwrap_or("")
        .to_owned()
}

fn list<'a, 'b>(document: Option<&'b Document<'a>>, key: &str) -> &'b [Spanned<DeValue<'a>>] {
    match document
        .and_then(|document| document.get(key))
        .map(Spanned::get_ref)
    {
        Some(DeValue::Array(items)) => items,
        _ => &[],
    }
}

impl State {
    fn read(answer: &str) -> Option<Self> {
        let document = DeTable::parse(answer).ok()?;
        let document = document.get_ref();
        let agent = table(document, "agent")?;
        let config = table(document, "config");
        let dry_run = agent.get("dry_run").map(Spanned::get_ref);
        let texts = |items: &[Spanned<DeValue<'_>>]| {
            let texts = items.iter().filter_map(|item| item.get_ref().as_str());
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let next = list(Some(document), "next").iter().filter_map(|item| {
            let DeValue::Table(item) = item.get_ref() else {
                return None;
            };
            let kill = item
                .get("kill")
                .is_some_and(|kill| matches!(kill.get_ref(), DeValue::Integer(_)));
            let item = Some(item);
            Some(Next {
                name: text(item, "name"),
                group: text(item, "group"),
                kill: kill.then(|| number(item, "kill")),
                usage: number(item, "usage"),
                frees: number(item, "frees"),
            })
        });
        let memory = table(document, "memory");
        let counters = table(document, "counters");
        Some(Self {
            version: text(Some(agent), "version"),
            status: text(Some(agent), "status"),
            level: text(Some(agent), "level"),
            dry_run: matches!(dry_run, Some(DeValue::Boolean(true))),
            started: number(Some(agent), "started"),
            memory: MEMORY.map(|key| (key, number(memory, key))).to_vec(),
            counters: COUNTERS
                .map(|(key, _)| (key, number(counters, key)))
                .to_vec(),
            config: Config {
                loaded: number(config, "loaded"),
                refused: number(config, "refused"),
                files: texts(list(config, "files")),
            },
            next: next.collect(),
            history: texts(list(Some(document), "history"))
                .iter()
                .filter_map(|line| Entry::read(line))
                .collect(),
        })
    }

    pub fn of_memory(&self, key: &str) -> u64 {
        let found = self.memory.iter().find(|(name, _)| *name == key);
        found.map_or(0, |(_, bytes)| *bytes)
    }

    fn json(&self) -> Json {
        let figures = |figures: &[(&'static str, u64)]| {
            Json::Object(
                figures
                    .iter()
                    .map(|(key, n)| (*key, Json::Number(*n)))
                    .collect(),
            )
        };
        let moment = |second: u64| Some(second).filter(|second| *second > 0);
        let next = self.next.iter().map(|next| {
            Json::Object(vec![
                ("name", Json::text(&next.name)),
                ("group", Json::text(&next.group)),
                ("kill", next.kill.into()),
                ("usage", next.usage.into()),
                ("frees", next.frees.into()),
            ])
        });
        Json::Object(vec![
            ("version", Json::text(&self.version)),
            ("status", Json::text(&self.status)),
            ("level", Json::text(&self.level)),
            ("dry_run", self.dry_run.into()),
            ("started", self.started.into()),
            ("memory", figures(&self.memory)),
            ("counters", figures(&self.counters)),
            (
                "config",
                Json::Object(vec![
                    ("loaded", self.config.loaded.into()),
                    ("refused", moment(self.config.refused).into()),
                    ("files", self.config.files.iter().map(Json::text).collect()),
                ]),
            ),
            ("next", next.collect()),
            ("history", self.history.iter().map(Entry::value).collect()),
        ])
    }

    /// <https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md>
    fn openmetrics(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        for (key, bytes) in &self.memory {
            let _ = write!(
                out,
                "# TYPE lowtide_memory_{key}_bytes gauge\n# UNIT lowtide_memory_{key}_bytes bytes\n\
                 lowtide_memory_{key}_bytes {bytes}\n"
            );
        }
        for ((key, count), (_, help)) in self.counters.iter().zip(COUNTERS) {
            let _ = write!(
                out,
                "# TYPE lowtide_{key} counter\n# HELP lowtide_{key} {help}\nlowtide_{key}_total {count}\n"
            );
        }
        let _ = writeln!(out, "# TYPE lowtide_level stateset");
        for level in ["calm", "alert", "strained", "critical"] {
            let holds = u8::from(self.level == level);
            let _ = writeln!(out, "lowtide_level{{lowtide_level=\"{level}\"}} {holds}");
        }
        let refused = u8::from(self.config.refused > 0);
        let _ = write!(
            out,
            "# TYPE lowtide_config_refused gauge\n# HELP lowtide_config_refused a reload was refused, \
             the config before it stays\nlowtide_config_refused {refused}\n# EOF\n"
        );
        out
    }

    /// The candidates in their order.
    fn candidates(&self) -> Table<5> {
        use Column::{Number, Text};
        let mut table = Table::new(
            [Text, Text, Number, Number, Number],
            ["next", "group", "kill", "usage", "frees"],
        );
        for next in &self.next {
            table.line([
                next.name.clone(),
                next.group.clone(),
                next.kill
                    .map_or("never".to_owned(), |kill| kill.to_string()),
                Size(next.usage).to_string(),
                Size(next.frees).to_string(),
            ]);
        }
        table
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "lowtide {}: {}", self.version, self.status)?;
        if self.dry_run {
            writeln!(f, "dry run: it says what it would do, and does nothing")?;
        }
        writeln!(f, "running since {}", Utc(self.started))?;
        let of = |key| Size(self.of_memory(key));
        write!(
            f,
            "level {}, {} of {} available, {} of it file cache",
            self.level,
            of("available"),
            of("total"),
            of("file")
        )?;
        if self.of_memory("swap_total") > 0 {
            write!(f, ", {} of {} swap free", of("swap_free"), of("swap_total"))?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "config of {}: {}",
            Utc(self.config.loaded),
            if self.config.files.is_empty() {
                "built in".to_owned()
            } else {
                self.config.files.join(", ")
            }
        )?;
        if self.config.refused > 0 {
            writeln!(
                f,
                "a reload was refused at {}: `lowtide check` says why",
                Utc(self.config.refused)
            )?;
        }
        let counted = self.counters.iter().zip(COUNTERS);
        let counted: Vec<_> = counted
            .map(|((_, n), (_, what))| format!("{n} {what}"))
            .collect();
        writeln!(f, "since its start: {}", counted.join(", "))?;
        if !self.next.is_empty() {
            write!(f, "\n{}", self.candidates())?;
        }
        if !self.history.is_empty() {
            writeln!(f, "\nlately:")?;
            for entry in &self.history {
                write!(f, "{}", Shown(entry))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../tests/json/mod.rs"]
mod documented;

#[cfg(test)]
mod tests {
    use super::documented::assert_documented;
    use super::{State, replace};
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    #[test]
    fn a_file_is_written_when_something_is_new_and_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lowtide.prom");
        let inode = || fs::metadata(&file).unwrap().ino();
        replace(&file, "one").unwrap();
        let first = inode();
        replace(&file, "one").unwrap();
        assert_eq!(inode(), first);
        replace(&file, "two").unwrap();
        assert_ne!(inode(), first, "it was not replaced as a whole");
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn it_prints_what_is_documented() {
        let answer = "next = [{ name = \"/a\", group = \"b\", usage = 1, frees = 1, kill = 1 }]\n\
                      history = [\"stop = { boot = \\\"b\\\", up_ms = 1, time = 2, status = \\\"c\\\" }\"]\n\
                      [agent]\nversion = \"0\"\n[config]\nfiles = [\"/a\"]\n";
        let state = State::read(answer).unwrap();
        assert_eq!(state.history.len(), 1);
        let printed = serde_json::from_str(&state.json().to_string()).unwrap();
        assert_documented("status", &printed);
    }

    #[test]
    fn nothing_but_a_file_is_replaced() {
        for odd in ["/dev/full", "/dev/null", "/"] {
            let error = replace(Path::new(odd), "text").unwrap_err();
            assert_eq!(error.to_string(), "not a regular file", "{odd}");
        }
    }
}
