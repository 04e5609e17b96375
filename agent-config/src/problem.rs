//! What is wrong with a config, said so that it can be mended at once.

use super::source::Sources;
use crate::json::Json;
use lowtide_rules::At;
use std::fmt;

/// More problems than these in one go help nobody; the rest is counted.
const SHOWN: usize = 50;
/// Characters of an offending line that are shown around the column.
const EXCERPT: usize = 110;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It loads, but hardly does what its author meant.
    Warning,
    Error,
}

/// One finding, with its place where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Path of the file, as it was opened; `None` where the problem is not about one file.
    pub file: Option<String>,
    /// Line and column from 1, the column in characters; `None` when it concerns the whole file.
    pub position: Option<(u32, u32)>,
    /// Dotted key, such as `level.critical.confirm`; empty when it is not about one.
    pub key: String,
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    pub(super) excerpt: Option<Box<Excerpt>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: String,
    caret: usize,
    width: usize,
}

impl Problem {
    /// About a place in one of the `sources`.
    pub(super) fn at(
        sources: &Sources,
        at: At,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let (text, (line, column)) = (sources.text(at.source), sources.position(at));
        Self {
            severity: Severity::Error,
            file: Some(sources.name(at.source).to_owned()),
            position: Some((line, column)),
            key: key.into(),
            message: message.into(),
            help: None,
            excerpt: text
                .lines()
                .nth(line as usize - 1)
                .map(|l| Box::new(Excerpt::new(l, column, sources.slice(at)))),
        }
    }

    /// About a file as a whole, or about none.
    pub(super) fn of_file(file: Option<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file,
            position: None,
            key: String::new(),
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    /// Without the line that it is about.
    pub fn in_one_line(&self) -> Self {
        Self {
            excerpt: None,
            ..self.clone()
        }
    }

    /// <https://docs.github.com/actions/reference/workflow-commands-for-github-actions>
    fn github(&self) -> String {
        let text = |text: &str| {
            let text = text.replace('%', "%25").replace('\r', "%0D");
            text.replace('\n', "%0A")
        };
        let value = |value: &str| text(value).replace(':', "%3A").replace(',', "%2C");
        let kind = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let mut place = Vec::new();
        if let Some(file) = &self.file {
            place.push(format!("file={}", value(file)));
        }
        if let Some((line, column)) = self.position {
            place.push(format!("line={line},col={column}"));
        }
        let mut said = Vec::new();
        if !self.key.is_empty() {
            said.push(format!("{}: ", self.key));
        }
        said.push(self.message.clone());
        said.extend(self.help.iter().map(|help| format!("; {help}")));
        format!("::{kind} {}::{}\n", place.join(","), text(&said.concat()))
    }

    fn json(&self) -> Json {
        let key = Some(&self.key).filter(|key| !key.is_empty());
        let number = |n: u32| Json::Number(n.into());
        Json::Object(vec![
            (
                "severity",
                Json::text(match self.severity {
                    Severity::Warning => "warning",
                    Severity::Error => "error",
                }),
            ),
            ("file", self.file.as_ref().map(Json::text).into()),
            ("line", self.position.map(|p| number(p.0)).into()),
            ("column", self.position.map(|p| number(p.1)).into()),
            ("key", key.map(Json::text).into()),
            ("message", Json::text(&self.message)),
            ("help", self.help.as_ref().map(Json::text).into()),
        ])
    }
}

impl Excerpt {
    fn new(line: &str, column: u32, marked: &str) -> Self {
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let column = column as usize - 1;
        let length = line.chars().count();
        let skip = if length > EXCERPT {
            column.saturating_sub(EXCERPT / 2)
        } else {
            0
        };
        let shown = line.chars().skip(skip).take(EXCERPT).map(printable);
        let mut line: String = shown.collect();
        let mut caret = column - skip;
        if skip > 0 {
            line.insert(0, '…');
            caret += 1;
        }
        if length > skip + EXCERPT {
            line.push('…');
        }
        let room = line.chars().count().saturating_sub(caret).max(1);
        let width = marked.lines().next().unwrap_or("").chars().count();
        Self {
            line,
            caret,
            width: width.clamp(1, room),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some((line, column)) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        if let (Some(excerpt), Some((number, _))) = (&self.excerpt, self.position) {
            let margin = number.to_string().len();
            write!(f, "\n{number} | {}", excerpt.line)?;
            write!(f, "\n{:margin$} | {:caret$}", "", "", caret = excerpt.caret)?;
            write!(f, "{:^<1$}", "", excerpt.width)?;
            if let Some(help) = &self.help {
                write!(f, " {help}")?;
            }
        } else if let Some(help) = &self.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

/// Everything that was found, in the order of the files and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    errors: usize,
    warnings: usize,
}

impl Problems {
    pub(super) fn error(&mut self, problem: impl FnOnce() -> Problem) {
        self.errors += 1;
        self.add(problem);
    }

    pub(super) fn warning(&mut self, problem: impl FnOnce() -> Problem) {
        self.warnings += 1;
        self.add(|| Problem {
            severity: Severity::Warning,
            ..problem()
        });
    }

    /// Those that are not shown are not even made: finding a place in the text takes time.
    fn add(&mut self, problem: impl FnOnce() -> Problem) {
        if self.list.len() < SHOWN {
            self.list.push(problem());
        }
    }

    /// Takes over what was found later.
    pub fn append(&mut self, later: Self) {
        self.errors += later.errors;
        self.warnings += later.warnings;
        for problem in later.list {
            self.add(|| problem);
        }
    }

    /// A list of objects; `file`, `line`, `column`, `key` and `help` may be null.
    pub fn json(&self) -> String {
        self.list
            .iter()
            .map(Problem::json)
            .collect::<Json>()
            .to_string()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any of them forbids using the config.
    pub fn fatal(&self) -> bool {
        self.errors > 0
    }

    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.iter().filter(|p| p.severity == Severity::Error)
    }

    /// How many there are, in words.
    pub fn count(&self) -> String {
        let many = |number: usize, one: &str| match number {
            1 => format!("1 {one}"),
            number => format!("{number} {one}s"),
        };
        match (self.errors, self.warnings) {
            (0, warnings) => many(warnings, "warning"),
            (errors, 0) => many(errors, "error"),
            (errors, warnings) => {
                format!("{}, {}", many(errors, "error"), many(warnings, "warning"))
            }
        }
    }

    /// As workflow commands of GitHub, a line each.
    pub fn github(&self) -> String {
        self.list.iter().map(Problem::github).collect()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        let unshown = self.errors + self.warnings - self.list.len();
        if unshown > 0 {
            write!(f, "\nand {unshown} more")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
