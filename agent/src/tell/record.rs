//! One record of the history: a line that is a TOML document of its own, so that a person, a script
//! and `lowtide log` read the same bytes, and a file that was cut loses its last record alone.

use std::fmt::{self, Display, Write};

/// Longest record in bytes, its line feed included. A field that does not fit is left out whole.
pub const LONGEST: usize = 768;
/// What ends every record.
const END: &str = " }\n";
/// Says that a field was left out.
const CUT: &str = ", cut = true";

/// A record that is being written. Allocates nothing.
pub struct Record {
    line: heapless::String<LONGEST>,
    cut: bool,
}

impl Record {
    /// Begins the record of `kind`, a bare TOML key.
    pub fn begin(kind: &str, stamp: &Stamp) -> Self {
        let mut line = heapless::String::new();
        // A kind is a word, and a stamp has 100 bytes at most: both fit.
        let _ = write!(
            line,
            "{kind} = {{ boot = \"{}\", up_ms = {}, time = {}",
            stamp.boot, stamp.up_ms, stamp.time
        );
        Self { line, cut: false }
    }

    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        // TOML's integers have 63 bits.
        self.field(key, format_args!("{}", value.min(i64::MAX as u64)))
    }

    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.field(key, format_args!("{value}"))
    }

    pub fn text(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.field(key, Quoted(value))
    }

    /// The whole line, with its line feed.
    pub fn end(mut self) -> heapless::String<LONGEST> {
        // Every field left room for both.
        if self.cut {
            let _ = self.line.push_str(CUT);
        }
        let _ = self.line.push_str(END);
        self.line
    }

    fn field(&mut self, key: &str, value: impl Display) -> &mut Self {
        let before = self.line.len();
        if write!(self.line, ", {key} = {value}").is_err() || !self.has_room() {
            self.line.truncate(before);
            self.cut = true;
        }
        self
    }

    /// Whether what ends a record still fits.
    fn has_room(&self) -> bool {
        self.line.len() + CUT.len() + END.len() <= LONGEST
    }
}

/// When something was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The kernel's id of this boot, 32 hex digits.
    pub boot: heapless::String<32>,
    /// Milliseconds since the boot, on a clock that is never set.
    pub up_ms: u64,
    /// Seconds since 1970, by the clock of the day, which a device may not have at boot.
    pub time: u64,
}

/// A TOML basic string.
pub struct Quoted<T>(pub T);

impl<T: Display> Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        write!(Escaping(f), "{}", self.0)?;
        f.write_char('"')
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(self.0, "\\{c}")?,
                c if c.is_control() => write!(self.0, "\\u{:04x}", u32::from(c))?,
                c => self.0.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use toml::de::{DeTable, DeValue};

    fn stamp() -> Stamp {
        Stamp {
            boot: "0123456789abcdef0123456789abcdef".try_into().unwrap(),
            up_ms: u64::MAX,
            time: u64::MAX,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_is_put_in_it_stays_one_line_of_toml(
            texts in proptest::collection::vec(".{0,99}", 0..12),
            number: u64,
        ) {
            let stamp = Stamp { up_ms: 5, time: 7, ..stamp() };
            let mut record = Record::begin("decision", &stamp);
            record.number("number", number);
            for (i, text) in texts.iter().enumerate() {
                record.text(&format!("text{i}"), text);
            }
            let line = record.end();
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
            let table = DeTable::parse(&line).unwrap();
            let DeValue::Table(fields) = table.get_ref()["decision"].get_ref() else {
                panic!("no table");
            };
            let is_cut = fields.contains_key("cut");
            for (i, text) in texts.iter().enumerate() {
                match fields.get(format!("text{i}").as_str()) {
                    Some(found) => prop_assert_eq!(found.get_ref().as_str(), Some(text.as_str())),
                    None => prop_assert!(is_cut),
                }
            }
        }
    }

    #[test]
    fn a_field_that_does_not_fit_is_left_out_whole() {
        let mut record = Record::begin("decision", &stamp());
        record.text("one", "x".repeat(300));
        record.text("two", "y".repeat(500));
        record.text("three", "z");
        let line = record.end();
        assert!(line.contains('x') && !line.contains('y') && line.contains('z'));
        assert!(line.ends_with("\"z\", cut = true }\n"), "{line}");
    }
}
