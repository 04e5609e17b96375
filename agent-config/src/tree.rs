//! The effective config as a tree of values with their origins, shown as TOML or as JSON.

use super::source::Sources;
use crate::json::{Json, quoted};
use lowtide_rules::At;
use std::fmt::Write;

/// A value to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Text(String),
    Integer(u64),
    Boolean(bool),
    List(Vec<Tree>),
    Table(Vec<(&'static str, Tree)>),
    /// `[[name]]` tables.
    Tables(Vec<Tree>),
    /// A value that one place has set.
    Set(Box<Tree>, At),
}

impl Tree {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A TOML document with the origin behind each value.
    pub fn document(&self, sources: &Sources) -> String {
        let mut out = String::new();
        self.section("", sources, &mut out);
        out
    }

    fn section(&self, path: &str, sources: &Sources, out: &mut String) {
        let Self::Table(entries) = self else { return };
        let mut lines = Vec::new();
        for (key, value) in entries {
            if let Self::Set(value, at) = value {
                lines.push((format!("{key} = {}", value.inline()), sources.origin(*at)));
            }
        }
        let width = lines
            .iter()
            .map(|(line, _)| line.chars().count())
            .max()
            .unwrap_or(0)
            .min(48);
        for (line, origin) in lines {
            let _ = writeln!(out, "{line:width$}  # {origin}");
        }
        for (key, value) in entries {
            let path = if path.is_empty() {
                (*key).to_owned()
            } else {
                format!("{path}.{key}")
            };
            match value {
                Self::Table(inner) => {
                    if inner.iter().any(|(_, v)| matches!(v, Self::Set(..))) {
                        let _ = writeln!(out, "\n[{path}]");
                    }
                    value.section(&path, sources, out);
                }
                Self::Tables(tables) => {
                    for table in tables {
                        let _ = writeln!(out, "\n[[{path}]]");
                        table.section(&path, sources, out);
                    }
                }
                _ => {}
            }
        }
    }

    /// As the right side of `key =`.
    fn inline(&self) -> String {
        match self {
            Self::Text(text) => quoted(text),
            Self::Integer(n) => n.to_string(),
            Self::Boolean(b) => b.to_string(),
            Self::Set(value, _) => value.inline(),
            Self::List(items) | Self::Tables(items) => {
                let items: Vec<_> = items.iter().map(Self::inline).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Table(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| format!("{key} = {}", value.inline()))
                    .collect();
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }

    /// JSON; each value that a place has set is `{"value": …, "from": "file:line"}`.
    pub fn json(&self, sources: &Sources) -> Json {
        match self {
            Self::Text(text) => Json::text(text),
            Self::Integer(n) => Json::Number(*n),
            Self::Boolean(b) => Json::Bool(*b),
            Self::Set(value, at) => Json::Object(vec![
                ("value", value.json(sources)),
                ("from", Json::text(sources.origin(*at))),
            ]),
            Self::List(items) | Self::Tables(items) => {
                items.iter().map(|item| item.json(sources)).collect()
            }
            Self::Table(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, value)| (*key, value.json(sources)))
                    .collect(),
            ),
        }
    }
}
