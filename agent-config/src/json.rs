//! JSON to write; nothing here reads any.

use std::fmt::{self, Display, Formatter, Write as _};

/// A value. Objects keep the order of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
    /// An object whose names are known only when it is read.
    Record(Vec<(String, Json)>),
}

impl Json {
    pub fn text(text: impl Display) -> Self {
        Self::Text(text.to_string())
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Json>> FromIterator<T> for Json {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

impl Display for Json {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Self::Object(entries) => object(f, entries.iter().map(|(key, value)| (*key, value))),
            Self::Record(entries) => {
                object(f, entries.iter().map(|(key, value)| (key.as_str(), value)))
            }
        }
    }
}

fn object<'a>(
    f: &mut Formatter<'_>,
    entries: impl Iterator<Item = (&'a str, &'a Json)>,
) -> fmt::Result {
    f.write_char('{')?;
    for (i, (key, value)) in entries.enumerate() {
        let comma = if i > 0 { "," } else { "" };
        write!(f, "{comma}{}:{value}", quoted(key))?;
    }
    f.write_char('}')
}

/// A string that TOML and JSON both read.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_back_as_it_was() {
        let value = Json::Object(vec![
            ("none", Json::Null),
            ("numbers", [1, u64::MAX].into_iter().collect()),
            ("deep", Json::Object(vec![("yes", true.into())])),
        ]);
        let read: serde_json::Value = serde_json::from_str(&value.to_string()).unwrap();
        let expected =
            serde_json::json!({ "none": null, "numbers": [1, u64::MAX], "deep": { "yes": true } });
        assert_eq!(read, expected);
    }

    proptest! {
        #[test]
        fn any_text_survives(text: String) {
            let read: String = serde_json::from_str(&Json::text(&text).to_string()).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
