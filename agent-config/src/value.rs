//! The values that keys take, each read from and shown as TOML.

use super::read::{Field, Node, Reader, Set, Setting, Value, nearest, table};
use super::tree::Tree;
use super::{Ballast, EngineKind as Kind};
use lowtide_common::NEVER;
use lowtide_judge::{Amount, Stall, Step, Trigger, Unit};
use lowtide_rules::{ATTRIBUTE, Glob};
#[cfg(test)]
use serde_json::json;
use std::ffi::CString;
use std::fmt;
use toml::de::DeValue;

/// Longest time that a key takes: a day.
const MAX_MS: u32 = 24 * 60 * 60 * 1_000;
/// Windows that the kernel takes for a PSI trigger (kernel/sched/psi.c, WINDOW_MIN_US and
/// WINDOW_MAX_US).
const WINDOW_MS: std::ops::RangeInclusive<u32> = 500..=10_000;

/// Digits behind the point that a number may have.
const DECIMALS: usize = 3;

/// Splits `"1.5 min"` into 1500, a thousandfold, and `"min"`.
fn thousandths_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (part, unit) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if part.len() > DECIMALS || (part.is_empty() && rest.starts_with('.')) {
        return None;
    }
    let part: u64 = format!("{part:0<DECIMALS$}").parse().ok()?;
    let thousandths = whole.parse::<u64>().ok()?.checked_mul(1_000)?;
    Some((thousandths.checked_add(part)?, unit.trim()))
}

fn parse_ms(text: &str) -> Option<u32> {
    let (thousandths, unit) = thousandths_and_unit(text)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let total = thousandths.checked_mul(ms)?;
    // Half a millisecond is none.
    let whole = (total % 1_000 == 0).then_some(total / 1_000)?;
    u32::try_from(whole).ok().filter(|ms| *ms <= MAX_MS)
}

fn show_ms(ms: u32) -> String {
    match ms {
        0 => "0s".to_owned(),
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// `"12%"` or `"4.25%"` in hundredths of a percent, at most 100 %.
fn parse_percent(text: &str) -> Option<u16> {
    let number = text.strip_suffix('%')?.trim_end();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > 2 || whole.len() > 3 || (number.contains('.') && part.is_empty()) {
        return None;
    }
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) {
        return None;
    }
    let hundredths: u16 = format!("{whole}{part:0<2}").parse().ok()?;
    (hundredths <= 10_000).then_some(hundredths)
}

fn show_percent(permyriad: u16) -> String {
    let (whole, part) = (permyriad / 100, permyriad % 100);
    match part {
        0 => format!("{whole}%"),
        p if p % 10 == 0 => format!("{whole}.{}%", p / 10),
        p => format!("{whole}.{p:02}%"),
    }
}

/// Units count in 1024, however they are written, as in the kernel's own files.
fn parse_bytes(text: &str) -> Option<u64> {
    let (thousandths, unit) = thousandths_and_unit(text)?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" if thousandths % 1_000 == 0 => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return None,
    };
    let bytes = u128::from(thousandths) * (1 << shift) / 1_000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes < 1 << 52)
}

/// No size that anybody means in bytes is as small as this: a unit was left out.
const WITHOUT_UNIT: u64 = 64 << 10;

/// Reports a size that lacks its unit.
fn has_unit(bytes: u64, node: &Node<'_>, reader: &mut Reader<'_>, share: bool) -> bool {
    let text = node.get_ref().as_str();
    let bare = text.is_none_or(|text| text.trim().bytes().all(|b| b.is_ascii_digit()));
    if !bare || bytes == 0 || bytes >= WITHOUT_UNIT {
        return true;
    }
    let help = if share && bytes <= 100 {
        format!("write \"{bytes}%\" of all, or \"{bytes}M\"")
    } else {
        format!("write \"{bytes}K\" or \"{bytes}M\"")
    };
    reader.fail_with(
        node.span(),
        format!("{bytes} without a unit is {bytes} bytes"),
        help,
    );
    false
}

fn show_bytes(bytes: u64) -> String {
    for (shift, unit) in [(30, "G"), (20, "M"), (10, "K")] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Reads a value that is written as a TOML string.
fn read_text<T>(
    node: &Node<'_>,
    reader: &mut Reader<'_>,
    expected: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let value = node.get_ref().as_str().and_then(parse);
    if value.is_none() {
        reader.unexpected(node, expected);
    }
    value
}

fn read_integer(node: &Node<'_>) -> Option<u64> {
    let integer = node.get_ref().as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// A list, or one item in its place.
fn read_items<T>(
    node: &Node<'_>,
    reader: &mut Reader<'_>,
    capacity: usize,
    read: impl Fn(&Node<'_>, &mut Reader<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let DeValue::Array(array) = node.get_ref() else {
        return read(node, reader).map(|item| vec![item]);
    };
    if array.len() > capacity {
        reader.fail(
            node.span(),
            format!("{} items, at most {capacity} fit", array.len()),
        );
        return None;
    }
    let items: Vec<_> = array.iter().map(|item| read(item, reader)).collect();
    items.into_iter().collect()
}

/// 0..=1000, or [`NEVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Priority(pub u16);

impl Value for Priority {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = match node.get_ref() {
            DeValue::String(s) if s == "never" => Some(NEVER),
            _ => read_integer(node).and_then(|n| u16::try_from(n).ok().filter(|n| *n <= 1_000)),
        };
        if value.is_none() {
            reader.unexpected(node, "a priority from 0 to 1000, or \"never\"");
        }
        value.map(Self)
    }

    fn tree(&self) -> Tree {
        match self.0 {
            NEVER => Tree::text("never"),
            n => Tree::Integer(n.into()),
        }
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [{ "type": "integer", "minimum": 0, "maximum": 1000 }, { "const": "never" }] })
    }
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub u32);

impl Value for Time {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(
            node,
            reader,
            "a time such as \"300ms\", \"2s\" or \"1min\", at most a day",
            parse_ms,
        )
        .map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::Text(show_ms(self.0))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,3})? *(ms|s|min|h)$" })
    }
}

#[cfg(test)]
const SIZE: &str = "[0-9]+(\\.[0-9]{1,3})? *([KkMmGg]i?[Bb]?)?";
#[cfg(test)]
const PERCENT: &str = "[0-9]{1,3}(\\.[0-9]{1,2})? *%";

impl Value for Amount {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let amount = match node.get_ref() {
            DeValue::String(s) => parse_percent(s)
                .map(Self::Permyriad)
                .or_else(|| parse_bytes(s).map(Self::Bytes)),
            _ => read_integer(node).map(Self::Bytes),
        };
        if amount.is_none() {
            reader.unexpected(
                node,
                "a size such as \"4%\", \"512K\", \"8M\", \"1G\" or bytes",
            );
        }
        amount.filter(|amount| match amount {
            Self::Bytes(bytes) => has_unit(*bytes, node, reader, true),
            Self::Permyriad(_) => true,
        })
    }

    fn tree(&self) -> Tree {
        match *self {
            Self::Bytes(bytes) => Tree::Text(show_bytes(bytes)),
            Self::Permyriad(p) => Tree::Text(show_percent(p)),
        }
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": format!("^({PERCENT}|{SIZE})$") },
        ] })
    }
}

/// A size in bytes, not relative to anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub u64);

impl Value for Bytes {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let bytes = match node.get_ref() {
            DeValue::String(s) => parse_bytes(s),
            _ => read_integer(node),
        };
        if bytes.is_none() {
            reader.unexpected(node, "a size such as \"512K\", \"8M\" or bytes");
        }
        bytes
            .filter(|bytes| has_unit(*bytes, node, reader, false))
            .map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::Text(show_bytes(self.0))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [
            { "type": "integer", "minimum": 0 },
            { "type": "string", "pattern": format!("^{SIZE}$") },
        ] })
    }
}

/// Share of a whole, in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Percent(pub u16);

impl Value for Percent {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(node, reader, "a share such as \"30%\"", parse_percent).map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::Text(show_percent(self.0))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": format!("^{PERCENT}$") })
    }
}

impl Value for u32 {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = read_integer(node).and_then(|n| Self::try_from(n).ok());
        if value.is_none() {
            reader.unexpected(node, "a whole number, not negative");
        }
        value
    }

    fn tree(&self) -> Tree {
        Tree::Integer((*self).into())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }
}

impl Value for u8 {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = read_integer(node).and_then(|n| Self::try_from(n).ok());
        if value.is_none() {
            reader.unexpected(node, "a number from 0 to 255");
        }
        value
    }

    fn tree(&self) -> Tree {
        Tree::Integer((*self).into())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 0, "maximum": u8::MAX })
    }
}

/// Name of a profile: it becomes a file name, so it holds no separator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProfileName(pub String);

impl Value for ProfileName {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(
            node,
            reader,
            "letters, digits, `-` or `_`, such as \"router\"",
            |text| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                let fits = !text.is_empty() && text.len() <= 64 && text.bytes().all(allowed);
                fits.then(|| Self(text.to_owned()))
            },
        )
    }

    fn tree(&self) -> Tree {
        Tree::text(&self.0)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$" })
    }
}

/// Name of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupName(pub heapless::String<{ lowtide_judge::NAME }>);

impl Value for GroupName {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let expected = format!(
            "a name of 1 to {} bytes without control characters",
            lowtide_judge::NAME
        );
        read_text(node, reader, &expected, |text| {
            if text.is_empty() || text.chars().any(char::is_control) {
                return None;
            }
            heapless::String::try_from(text).ok().map(Self)
        })
    }

    fn tree(&self) -> Tree {
        Tree::text(self.0.as_str())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1, "maxLength": lowtide_judge::NAME })
    }
}

/// A group of users, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserGroup(pub String);

impl UserGroup {
    /// As groupadd(8) takes them.
    const LONGEST: usize = 32;
}

impl Value for UserGroup {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(node, reader, "a group of users, such as \"adm\"", |text| {
            let fits = (1..=Self::LONGEST).contains(&text.len());
            let plain = !text.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace());
            (fits && plain).then(|| Self(text.to_owned()))
        })
    }

    fn tree(&self) -> Tree {
        Tree::text(self.0.as_str())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1, "maxLength": Self::LONGEST })
    }
}

/// In place of what can be done without.
const OFF: &str = "off";

/// What a ballast can be: less warns too late, more is not counted.
const BALLAST: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;

impl Value for Ballast {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let expected = "\"auto\", \"off\", or a size from \"1M\" to \"16M\"";
        read_text(node, reader, expected, |text| match text {
            "auto" => Some(Self::Auto),
            OFF => Some(Self::Off),
            size => parse_bytes(size)
                .filter(|bytes| BALLAST.contains(bytes))
                .map(Self::Bytes),
        })
    }

    fn tree(&self) -> Tree {
        match self {
            Self::Auto => Tree::text("auto"),
            Self::Off => Tree::text(OFF),
            Self::Bytes(bytes) => Tree::Text(show_bytes(*bytes)),
        }
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^(auto|off|[0-9]+ *[KM])$" })
    }
}

fn parse_stall(word: &str) -> Option<Stall> {
    [Stall::Some, Stall::Full]
        .into_iter()
        .find(|s| s.name() == word)
}

impl Value for Trigger {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let (stall, stall_ms, window_ms) = read_text(
            node,
            reader,
            "a PSI trigger such as \"some 150ms/1s\" or \"full 100ms/1s\"",
            |text| {
                let (word, times) = text.split_once(' ')?;
                let (stall, window) = times.split_once('/')?;
                Some((
                    parse_stall(word)?,
                    parse_ms(stall.trim())?,
                    parse_ms(window.trim())?,
                ))
            },
        )?;
        if !WINDOW_MS.contains(&window_ms) {
            reader.fail(
                node.span(),
                "the kernel takes windows from 500ms to 10s only",
            );
            return None;
        }
        if stall_ms == 0 || stall_ms > window_ms {
            reader.fail(
                node.span(),
                "the stall must be longer than nothing and no longer than the window",
            );
            return None;
        }
        Some(Self {
            stall,
            stall_us: stall_ms * 1_000,
            window_us: window_ms * 1_000,
        })
    }

    fn tree(&self) -> Tree {
        Tree::Text(format!(
            "{} {}/{}",
            self.stall.name(),
            show_ms(self.stall_us / 1_000),
            show_ms(self.window_us / 1_000)
        ))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({
            "type": "string",
            "pattern": "^(some|full) +[0-9]+ *(ms|s) */ *[0-9]+ *(ms|s)$",
        })
    }
}

/// Shows one item as itself and several as a list.
fn one_or_list<T: Value>(items: &[T]) -> Tree {
    match items {
        [one] => one.tree(),
        items => Tree::List(items.iter().map(Value::tree).collect()),
    }
}

#[cfg(test)]
fn one_or_list_schema<T: Value>(capacity: usize) -> serde_json::Value {
    json!({ "oneOf": [
        T::schema(),
        { "type": "array", "items": T::schema(), "maxItems": capacity },
    ] })
}

/// The trigger that wakes the agent, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WakeTrigger(pub Option<Trigger>);

impl Value for WakeTrigger {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        match node.get_ref().as_str() {
            Some(OFF) => Some(Self(None)),
            _ => Trigger::read(node, reader).map(|trigger| Self(Some(trigger))),
        }
    }

    fn tree(&self) -> Tree {
        self.0
            .map_or_else(|| Tree::text(OFF), |trigger| trigger.tree())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [Trigger::schema(), { "const": OFF }] })
    }
}

/// The trigger of each cgroup of a group, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OwnTrigger(pub Option<Trigger>);

impl Value for OwnTrigger {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let items = read_items(node, reader, 1, Trigger::read)?;
        Some(Self(items.first().copied()))
    }

    fn tree(&self) -> Tree {
        one_or_list(self.0.as_slice())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        one_or_list_schema::<Trigger>(1)
    }
}

/// Reads one of a few words.
fn read_word<T: Copy>(
    node: &Node<'_>,
    reader: &mut Reader<'_>,
    words: &[(&'static str, T)],
) -> Option<T> {
    let text = node.get_ref().as_str();
    if let Some((_, value)) = words.iter().find(|(word, _)| Some(*word) == text) {
        return Some(*value);
    }
    let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    let list = known
        .iter()
        .map(|w| format!("\"{w}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let expected = match text.and_then(|t| nearest(t, &known)) {
        Some(meant) => format!("one of {list}; did you mean \"{meant}\"?"),
        None => format!("one of {list}"),
    };
    reader.unexpected(node, &expected);
    None
}

#[cfg(test)]
fn words_schema<T>(words: &[(&'static str, T)]) -> serde_json::Value {
    json!({ "enum": words.iter().map(|(word, _)| *word).collect::<Vec<_>>() })
}

fn step_words() -> [(&'static str, Step); lowtide_judge::STEPS] {
    Step::ALL.map(|step| (step.name(), step))
}

/// What a level does, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Actions(pub heapless::Vec<Step, { lowtide_judge::STEPS }>);

impl Value for Actions {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let items = match node.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            DeValue::String(_) => vec![node],
            _ => {
                reader.unexpected(node, "a list such as [\"reclaim\", \"kill\"]");
                return None;
            }
        };
        let mut steps = heapless::Vec::new();
        let mut good = true;
        for item in items {
            match read_word(item, reader, &step_words()) {
                // There is a place for each of them.
                Some(step) if !steps.contains(&step) => good &= steps.push(step).is_ok(),
                Some(_) => {
                    reader.fail(item.span(), "named twice");
                    good = false;
                }
                None => good = false,
            }
        }
        good.then_some(Self(steps))
    }

    fn tree(&self) -> Tree {
        Tree::List(self.0.iter().map(|s| Tree::text(s.name())).collect())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [
            words_schema(&step_words()),
            { "type": "array", "items": words_schema(&step_words()), "maxItems": lowtide_judge::STEPS },
        ] })
    }
}

const UNITS: [(&str, Unit); 2] = [("cgroup", Unit::Cgroup), ("process", Unit::Process)];

impl Value for Unit {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_word(node, reader, &UNITS)
    }

    fn tree(&self) -> Tree {
        let name = UNITS.iter().find(|(_, unit)| unit == self);
        Tree::text(name.map_or("", |(name, _)| name))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        words_schema(&UNITS)
    }
}

/// Where the evidence comes from; `None` where it is chosen by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EngineKind(pub Option<Kind>);

const ENGINES: [(&str, Option<Kind>); 4] = [
    ("auto", None),
    (Kind::Kfunc.name(), Some(Kind::Kfunc)),
    (Kind::Cgroupfs.name(), Some(Kind::Cgroupfs)),
    (Kind::Procfs.name(), Some(Kind::Procfs)),
];

impl Value for EngineKind {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_word(node, reader, &ENGINES).map(Self)
    }

    fn tree(&self) -> Tree {
        let name = ENGINES.iter().find(|(_, kind)| *kind == self.0);
        Tree::text(name.map_or("", |(name, _)| name))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        words_schema(&ENGINES)
    }
}

/// When the kernel may kill by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReflexKill {
    #[default]
    Off,
    /// Where the kernel's OOM killer is next.
    Floor,
    /// Also where the agent does not answer.
    On,
}

const REFLEX_KILLS: [(&str, ReflexKill); 3] = [
    ("off", ReflexKill::Off),
    ("floor", ReflexKill::Floor),
    ("on", ReflexKill::On),
];

impl ReflexKill {
    /// As the config has it.
    pub fn name(self) -> &'static str {
        let found = REFLEX_KILLS.iter().find(|(_, kill)| *kill == self);
        found.map_or("", |(name, _)| name)
    }
}

impl Value for ReflexKill {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_word(node, reader, &REFLEX_KILLS)
    }

    fn tree(&self) -> Tree {
        Tree::text(self.name())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        words_schema(&REFLEX_KILLS)
    }
}

/// Milliseconds; without an end the agent would be waited for while the kernel's OOM killer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(pub u32);

impl Value for Patience {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let within = |text: &str| parse_ms(text).filter(|ms| *ms <= 1_000);
        let expected = "a time of at most a second, such as \"20ms\"";
        read_text(node, reader, expected, within).map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::Text(show_ms(self.0))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^([0-9]{1,3} *ms|1000 *ms|[01] *s)$" })
    }
}

/// Kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget(pub u8);

impl Value for Budget {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let value = read_integer(node).and_then(|n| u8::try_from(n).ok());
        let value = value.filter(|n| (1..=100).contains(n));
        if value.is_none() {
            reader.unexpected(node, "a number from 1 to 100; `kill = \"off\"` for none");
        }
        value.map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::Integer(self.0.into())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 1, "maximum": 100 })
    }
}

impl Value for bool {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        // 0 and 1 are what UCI has for them.
        let value = match node.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => read_integer(node).filter(|n| *n <= 1).map(|n| n == 1),
        };
        if value.is_none() {
            reader.unexpected(node, "true or false");
        }
        value
    }

    fn tree(&self) -> Tree {
        Tree::Boolean(*self)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }
}

/// The signals that ask a program to stop, as this architecture numbers them.
const SIGNALS: [(&str, i32); 6] = [
    ("TERM", libc::SIGTERM),
    ("INT", libc::SIGINT),
    ("HUP", libc::SIGHUP),
    ("QUIT", libc::SIGQUIT),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signal(pub i32);

impl Value for Signal {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let text = node.get_ref().as_str().map(str::to_ascii_uppercase);
        let name = text
            .as_deref()
            .map(|text| text.strip_prefix("SIG").unwrap_or(text));
        let known = SIGNALS.iter().find(|(known, _)| Some(*known) == name);
        known
            .map(|(_, signal)| *signal)
            .or_else(|| read_word(node, reader, &SIGNALS))
            .map(Self)
    }

    fn tree(&self) -> Tree {
        let name = SIGNALS.iter().find(|(_, signal)| *signal == self.0);
        Tree::text(name.map_or("", |(name, _)| name))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        words_schema(&SIGNALS)
    }
}

/// A file that is there at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AbsolutePath(pub CString);

impl Value for AbsolutePath {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(node, reader, "a path from the root on", |text| {
            let absolute = text.starts_with('/');
            CString::new(text).ok().filter(|_| absolute).map(Self)
        })
    }

    fn tree(&self) -> Tree {
        Tree::text(self.0.to_string_lossy())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^/" })
    }
}

/// A program with its arguments; none where the list is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program(pub Vec<CString>);

impl Program {
    const WORDS: usize = 32;
    /// Bytes of all words with the zero behind each.
    pub const BYTES: usize = 2048;
}

impl Value for Program {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if !matches!(node.get_ref(), DeValue::Array(_) | DeValue::String(_)) {
            reader.unexpected(node, "a list such as [\"/usr/bin/logger\", \"text\"]");
            return None;
        }
        let words = read_items(node, reader, Self::WORDS, |node, reader| {
            read_text(node, reader, "a word without a zero byte", |text| {
                CString::new(text).ok()
            })
        })?;
        let bytes: usize = words.iter().map(|w| w.as_bytes_with_nul().len()).sum();
        if words
            .first()
            .is_some_and(|w| !w.as_bytes().starts_with(b"/"))
        {
            reader.fail(node.span(), "the program must be given with its whole path");
            return None;
        }
        if bytes > Self::BYTES {
            reader.fail(
                node.span(),
                format!("{bytes} bytes, at most {} fit", Self::BYTES),
            );
            return None;
        }
        Some(Self(words))
    }

    fn tree(&self) -> Tree {
        let words = self
            .0
            .iter()
            .map(|w| Tree::Text(w.to_string_lossy().into_owned()));
        Tree::List(words.collect())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": { "type": "string" }, "maxItems": Self::WORDS })
    }
}

table! {
    /// Facts that must all hold.
    pub struct Clause {
        /// Available memory (MemAvailable) is below this, of RAM.
        pub available_below: Setting<Amount>,
        /// Available memory is above this, of RAM.
        pub available_above: Setting<Amount>,
        /// Free swap is below this, of all swap. Holds without swap.
        pub swap_free_below: Setting<Amount>,
        /// Free swap is above this, of all swap. Never holds without swap.
        pub swap_free_above: Setting<Amount>,
        /// What zram itself takes is above this, of RAM.
        pub zram_above: Setting<Amount>,
        /// What zram itself takes is below this, of RAM.
        pub zram_below: Setting<Amount>,
        /// More pages a second than this come back that had been reclaimed.
        pub refaults_above: Setting<u32>,
        /// Fewer pages a second than this come back that had been reclaimed.
        pub refaults_below: Setting<u32>,
        /// Some task stalls on memory for more than this share of the time, in each tenth
        /// of a second of the last second and a half.
        pub some_above: Setting<Percent>,
        /// Some task stalls on memory for less than this share of the time.
        pub some_below: Setting<Percent>,
        /// All tasks stall on memory for more than this share of the time, in each tenth
        /// of a second of the last second and a half.
        pub full_above: Setting<Percent>,
        /// All tasks stall on memory for less than this share of the time.
        pub full_below: Setting<Percent>,
        /// More than this share of the time that some task stalls is within cgroups that have a limit
        /// and a `trigger` of their own.
        pub limited_above: Setting<Percent>,
        /// Less than this share of the time that some task stalls is within cgroups that have a limit
        /// and a `trigger` of their own.
        pub limited_below: Setting<Percent>,
        /// Available memory shrinks by more than this a second.
        pub shrinking_by: Setting<Bytes>,
    }
}

impl Value for Clause {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut clause = Self::default();
        Field::read(&mut clause, node, reader);
        Some(clause)
    }

    fn tree(&self) -> Tree {
        Field::tree(self).unwrap_or(Tree::Table(Vec::new()))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "$ref": "#/$defs/facts" })
    }
}

/// Holds when any of the clauses holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnyOf(pub Vec<Clause>);

impl AnyOf {
    pub const CAPACITY: usize = 4;
}

/// A table of facts in a list of them.
fn read_facts(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Clause> {
    if node
        .get_ref()
        .as_table()
        .is_some_and(|table| table.is_empty())
    {
        reader.fail_with(
            node.span(),
            "a table without facts always holds",
            "give it one, such as available_below = \"4%\", or delete it",
        );
        return None;
    }
    <Clause as Value>::read(node, reader)
}

impl Value for AnyOf {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_items(node, reader, Self::CAPACITY, read_facts).map(Self)
    }

    fn tree(&self) -> Tree {
        one_or_list(&self.0)
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        one_or_list_schema::<Clause>(Self::CAPACITY)
    }
}

/// Patterns in one list.
pub(super) const PATTERNS: usize = 256;

/// A list that can be added to.
pub(super) trait List {
    fn append(&mut self, more: Self);
}

impl List for Globs {
    fn append(&mut self, more: Self) {
        self.0.extend(more.0);
    }
}

impl List for Processes {
    fn append(&mut self, more: Self) {
        self.0.extend(more.0);
    }
}

/// Globs, each with its own place: two groups may not claim the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Globs(pub Vec<Set<Glob>>);

fn read_glob(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Glob> {
    let Some(text) = node.get_ref().as_str() else {
        reader.unexpected(node, "a pattern");
        return None;
    };
    Glob::new(text)
        .map_err(|why| reader.fail(node.span(), why))
        .ok()
}

impl Value for Globs {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_items(node, reader, PATTERNS, |item, reader| {
            let at = reader.at(item.span());
            read_glob(item, reader).map(|value| Set { value, at })
        })
        .map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::List(
            self.0
                .iter()
                .map(|g| Tree::text(g.value.as_written()))
                .collect(),
        )
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        one_or_list_schema::<Glob>(PATTERNS)
    }
}

impl Value for Glob {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_glob(node, reader)
    }

    fn tree(&self) -> Tree {
        Tree::text(self.as_written())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "minLength": 1 })
    }
}

table! {
    /// A process that fits all that is given.
    pub struct Process {
        /// Glob on the name that the kernel knows it by (/proc/PID/comm, 15 bytes).
        pub name: Setting<Glob>,
        /// Glob on the path of its program.
        pub exe: Setting<Glob>,
        /// Name or number of its user.
        pub user: Setting<User>,
    }
}

impl Process {
    /// Whether it asks for the same, wherever it stands.
    pub fn same_as(&self, other: &Self) -> bool {
        let globs = |a: &Setting<Glob>, b: &Setting<Glob>| match (a, b) {
            (Some(a), Some(b)) => a.value.same_as(&b.value),
            (a, b) => a.is_none() && b.is_none(),
        };
        let user = |p: &Self| p.user.as_ref().map(|set| set.value.clone());
        globs(&self.name, &other.name) && globs(&self.exe, &other.exe) && user(self) == user(other)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let globs = [&self.name, &self.exe].into_iter().flatten();
        let mut parts: Vec<_> = globs.map(|g| g.value.as_written().to_owned()).collect();
        parts.extend(self.user.as_ref().map(|user| match &user.value {
            User::Name(name) => format!("user {name}"),
            User::Id(id) => format!("user {id}"),
        }));
        f.write_str(&parts.join(" + "))
    }
}

impl Value for Process {
    /// A string stands for the name alone.
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let mut process = Self::default();
        if let DeValue::String(_) = node.get_ref() {
            process.name.read(node, reader);
            process.name.is_some().then_some(process)
        } else {
            Field::read(&mut process, node, reader);
            Some(process)
        }
    }

    fn tree(&self) -> Tree {
        match self {
            Self {
                name: Some(name),
                exe: None,
                user: None,
            } => name.value.tree(),
            _ => Field::tree(self).unwrap_or(Tree::Table(Vec::new())),
        }
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [Glob::schema(), <Self as Field>::schema()] })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Processes(pub Vec<Set<Process>>);

impl Value for Processes {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_items(node, reader, PATTERNS, |item, reader| {
            let at = reader.at(item.span());
            <Process as Value>::read(item, reader).map(|value| Set { value, at })
        })
        .map(Self)
    }

    fn tree(&self) -> Tree {
        Tree::List(self.0.iter().map(|p| Value::tree(&p.value)).collect())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        one_or_list_schema::<Process>(PATTERNS)
    }
}

/// A user by name or by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum User {
    Name(String),
    Id(u32),
}

impl Value for User {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let user = match node.get_ref() {
            DeValue::String(s) if !s.is_empty() => Some(Self::Name(s.to_string())),
            _ => read_integer(node)
                .and_then(|n| u32::try_from(n).ok())
                .map(Self::Id),
        };
        if user.is_none() {
            reader.unexpected(node, "the name or number of a user");
        }
        user
    }

    fn tree(&self) -> Tree {
        match self {
            Self::Name(name) => Tree::text(name),
            Self::Id(id) => Tree::Integer((*id).into()),
        }
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "oneOf": [
            { "type": "string", "minLength": 1 },
            { "type": "integer", "minimum": 0 },
        ] })
    }
}

/// `user.name` or `user.name=value`: an extended attribute set on the cgroup's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    pub name: CString,
    pub value: Option<String>,
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.to_string_lossy())?;
        self.value
            .iter()
            .try_for_each(|value| write!(f, "={value}"))
    }
}

impl Value for Attribute {
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(
            node,
            reader,
            "an attribute such as \"user.lowtide=media\"",
            |text| {
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (text, None),
                };
                let rest = name.strip_prefix("user.")?;
                // XATTR_NAME_MAX, and the longest value that the matcher compares.
                let fits = !rest.is_empty() && name.len() <= 255;
                let value_fits = value.as_ref().is_none_or(|v| v.len() <= ATTRIBUTE);
                (fits && value_fits).then_some(())?;
                Some(Self {
                    name: CString::new(name).ok()?,
                    value,
                })
            },
        )
    }

    fn tree(&self) -> Tree {
        Tree::Text(self.to_string())
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^user\\.[^=]+(=.*)?$" })
    }
}
