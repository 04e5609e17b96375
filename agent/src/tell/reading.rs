//! Reading back what [`super::record`] writes: one TOML document a line.

use crate::json::Json;
use toml::de::{DeTable, DeValue};

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `start`, `decision`, `relief`, ...
    pub kind: String,
    /// In the order of their names.
    fields: Vec<(String, Json)>,
}

impl Entry {
    /// `None` for what is no record: half of one, or a line of somebody else's.
    pub fn read(line: &str) -> Option<Self> {
        let document = DeTable::parse(line).ok()?;
        let mut tables = document.get_ref().iter();
        let (kind, value) = tables.next()?;
        let DeValue::Table(fields) = value.get_ref() else {
            return None;
        };
        if tables.next().is_some() {
            return None;
        }
        let fields = fields.iter().map(|(key, value)| {
            let key = key.get_ref().to_string();
            Some((key, json(value.get_ref())?))
        });
        let this = Self {
            kind: kind.get_ref().to_string(),
            fields: fields.collect::<Option<_>>()?,
        };
        // Whatever else it is, a record says of which boot it is and when it was made.
        (this.text("boot").is_some() && this.number("up_ms").is_some()).then_some(this)
    }

    pub fn get(&self, key: &str) -> Option<&Json> {
        let found = self.fields.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value)
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Json::Bool(true)))
    }

    /// As one object, with the kind as a field.
    pub fn value(&self) -> Json {
        let kind = ("kind".to_owned(), Json::text(&self.kind));
        Json::Record(
            [kind]
                .into_iter()
                .chain(self.fields.iter().cloned())
                .collect(),
        )
    }
}

/// `None` for what no record has.
fn json(value: &DeValue<'_>) -> Option<Json> {
    Some(match value {
        DeValue::String(text) => Json::text(text),
        DeValue::Integer(number) => {
            Json::Number(u64::from_str_radix(number.as_str(), number.radix()).ok()?)
        }
        DeValue::Boolean(value) => Json::Bool(*value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tell::record::{Record, Stamp};

    fn line() -> String {
        let stamp = Stamp {
            boot: "abc".try_into().unwrap(),
            up_ms: 12,
            time: 34,
        };
        let mut record = Record::begin("decision", &stamp);
        record.text("victim", "/a \"b\"\n").flag("dry", true);
        record.end().to_string()
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let entry = Entry::read(&line()).unwrap();
        assert_eq!(entry.kind, "decision");
        assert_eq!(entry.text("boot"), Some("abc"));
        assert_eq!(entry.number("up_ms"), Some(12));
        assert_eq!(entry.text("victim"), Some("/a \"b\"\n"));
        assert!(entry.flag("dry"));
        let read: serde_json::Value = serde_json::from_str(&entry.value().to_string()).unwrap();
        assert_eq!(read["kind"], "decision");
        assert_eq!(read["victim"], "/a \"b\"\n");
    }

    #[test]
    fn half_a_record_and_foreign_lines_are_none() {
        let line = line();
        for end in 0..line.len() - 3 {
            assert_eq!(Entry::read(&line[..end]), None);
        }
        for foreign in [
            "",
            "# hello",
            "a = 1",
            "a = {}",
            "a = {boot=1,up_ms=2}",
            "\0",
        ] {
            assert_eq!(Entry::read(foreign), None, "{foreign:?}");
        }
    }
}
