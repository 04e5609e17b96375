//! From parsed TOML to typed tables: every key and value is looked at, whatever was wrong before.

use super::problem::{Problem, Problems};
use super::source::Sources;
use super::tree::Tree;
use lowtide_rules::At;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with the place that set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set<T> {
    pub value: T,
    pub at: At,
}

/// A setting that some layer may have made.
pub(super) type Setting<T> = Option<Set<T>>;

/// What is read, and what was wrong with it so far.
pub(super) struct Reader<'a> {
    sources: &'a Sources,
    source: u16,
    path: Vec<String>,
    problems: &'a mut Problems,
}

impl<'a> Reader<'a> {
    pub fn new(sources: &'a Sources, source: u16, problems: &'a mut Problems) -> Self {
        Self {
            sources,
            source,
            path: Vec::new(),
            problems,
        }
    }

    /// Reads the whole of a source.
    pub fn document<T: Field + Default>(&mut self) -> T {
        let (table, errors) = DeTable::parse_recoverable(self.sources.text(self.source));
        let mut tree = T::default();
        // What is left of a text that is no TOML says nothing reliable about its keys.
        if errors.is_empty() {
            let node = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
            tree.read(&node, self);
        }
        let mut told = None;
        for e in errors {
            // Whatever follows at the same place follows from the first.
            if told.replace(e.span()) == Some(e.span()) {
                continue;
            }
            let span = e.span().unwrap_or(0..0);
            match unquoted(self.sources.text(self.source), span.start) {
                Some(word) => {
                    let start =
                        word.as_ptr() as usize - self.sources.text(self.source).as_ptr() as usize;
                    let message = "text needs quotes";
                    let help = format!("write \"{}\"", cut(word));
                    self.fail_with(start..start + word.len(), message, help);
                }
                None => self.fail(span, e.message().to_owned()),
            }
        }
        tree
    }

    pub fn at(&self, span: Range<usize>) -> At {
        At::new(self.source, span)
    }

    fn problem(&mut self, at: At, said: impl FnOnce() -> (String, Option<String>)) {
        let (sources, path) = (self.sources, &self.path);
        self.problems.error(|| {
            let (message, help) = said();
            Problem {
                help,
                ..Problem::at(sources, at, path.join("."), message)
            }
        });
    }

    pub fn fail(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problem(self.at(span), || (message.into(), None));
    }

    /// The same, with what would be right.
    pub fn fail_with(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problem(self.at(span), || (message.into(), Some(help.into())));
    }

    /// A value that is not what its key takes.
    pub fn unexpected(&mut self, node: &Node<'_>, expected: &str) {
        self.problem(self.at(node.span()), || {
            let found = match node.get_ref() {
                DeValue::String(s) => format!("{:?}", cut(s)),
                DeValue::Integer(i) => cut(i.as_str()),
                other => with_article(other.type_str()),
            };
            let help = format!("expected {expected}");
            (format!("{found} will not do"), Some(help))
        });
    }

    /// The entries of a table in the order of the text.
    pub fn table<'n, 'i>(
        &mut self,
        node: &'n Node<'i>,
    ) -> Option<Vec<(&'n str, Range<usize>, &'n Node<'i>)>> {
        let DeValue::Table(table) = node.get_ref() else {
            self.unexpected(node, "a table");
            return None;
        };
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
            .collect();
        entries.sort_unstable_by_key(|(_, span, _)| span.start);
        Some(entries)
    }

    /// Reads what is below `key` with the key in the path of messages.
    pub fn below<R>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(key.to_owned());
        let result = read(self);
        self.path.pop();
        result
    }

    /// A name that an earlier table of the same file has.
    pub fn twice(&mut self, name: At, first: At) {
        let sources = self.sources;
        self.problem(name, || {
            let message = format!("the same as at {}", sources.origin(first));
            (message, None)
        });
    }

    /// A key that earlier versions had, with what to write in its place.
    pub fn moved_key(&mut self, key: &str, span: Range<usize>, instead: &str) {
        self.problem(self.at(span), || {
            (format!("`{key}` is gone"), Some(instead.to_owned()))
        });
    }

    pub fn unknown_key(&mut self, key: &str, span: Range<usize>, known: &[&str]) {
        self.problem(self.at(span), || {
            let help = match (super::model::place_of(key), nearest(key, known)) {
                (Some(place), _) => format!("`{key}` belongs {place}"),
                (None, Some(meant)) => format!("did you mean `{meant}`?"),
                (None, None) => format!("expected one of: {}", known.join(", ")),
            };
            (format!("unknown key `{}`", cut(key)), Some(help))
        });
    }
}

pub(super) type Node<'i> = Spanned<DeValue<'i>>;

/// What a key of a table can hold: a setting, a table, a list of tables.
pub(super) trait Field: Sized {
    fn read(&mut self, node: &Node<'_>, reader: &mut Reader<'_>);
    /// Takes over what a layer of higher rank sets.
    fn merge(&mut self, over: Self);
    /// What is in force; `None` where nothing is set.
    fn tree(&self) -> Option<Tree>;
    #[cfg(test)]
    fn schema() -> serde_json::Value;
}

/// One value, replaced as a whole by a layer of higher rank.
pub(super) trait Value: Sized {
    /// Reports what is wrong with it, and then gives `None`.
    fn read(node: &Node<'_>, reader: &mut Reader<'_>) -> Option<Self>;
    fn tree(&self) -> Tree;
    #[cfg(test)]
    fn schema() -> serde_json::Value;
}

impl<T: Value> Field for Setting<T> {
    fn read(&mut self, node: &Node<'_>, reader: &mut Reader<'_>) {
        let at = reader.at(node.span());
        if let Some(value) = T::read(node, reader) {
            *self = Some(Set { value, at });
        }
    }

    fn merge(&mut self, over: Self) {
        if over.is_some() {
            *self = over;
        }
    }

    fn tree(&self) -> Option<Tree> {
        self.as_ref()
            .map(|set| Tree::Set(Box::new(set.value.tree()), set.at))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        T::schema()
    }
}

/// Defines a table of the config: the struct, and how it is read, layered, shown and described; with
/// what to write in place of keys that it had in earlier versions.
macro_rules! table {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident {
            $($(#[doc = $doc:literal])* pub $key:ident: $type:ty,)*
        }
        $(gone { $($old:ident: $instead:literal,)* })?
    ) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $key: $type,)*
        }

        impl $name {
            pub const KEYS: &[&str] = &[$(stringify!($key)),*];
        }

        impl $crate::read::Field for $name {
            fn read(
                &mut self,
                node: &$crate::read::Node<'_>,
                reader: &mut $crate::read::Reader<'_>,
            ) {
                for (key, span, value) in reader.table(node).unwrap_or_default() {
                    match key {
                        $(stringify!($key) => {
                            reader.below(key, |r| self.$key.read(value, r));
                        })*
                        $($(stringify!($old) => reader.moved_key(key, span, $instead),)*)?
                        _ => reader.unknown_key(key, span, Self::KEYS),
                    }
                }
            }

            fn merge(&mut self, over: Self) {
                $(self.$key.merge(over.$key);)*
            }

            fn tree(&self) -> Option<$crate::tree::Tree> {
                let entries: Vec<_> = [$((stringify!($key), self.$key.tree())),*]
                    .into_iter()
                    .filter_map(|(key, tree)| Some((key, tree?)))
                    .collect();
                (!entries.is_empty()).then_some($crate::tree::Tree::Table(entries))
            }

            #[cfg(test)]
            fn schema() -> serde_json::Value {
                let mut properties = serde_json::Map::new();
                $(
                    let mut schema = <$type as $crate::read::Field>::schema();
                    schema["description"] = concat!($($doc,)*).trim().into();
                    properties.insert(stringify!($key).to_owned(), schema);
                )*
                serde_json::json!({
                    "type": "object",
                    "properties": properties,
                    "additionalProperties": false,
                })
            }
        }
    };
}
pub(super) use table;

/// The known word that `word` is most likely meant to be; none that is far from all.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > 32 {
        return None;
    }
    known
        .iter()
        .map(|k| (strsim::osa_distance(word, k), *k))
        .filter(|(distance, k)| *distance <= k.len().max(word.len()) / 3 + 1)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

fn cut(text: &str) -> String {
    const KEPT: usize = 40;
    if text.chars().count() <= KEPT {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(KEPT).collect();
    cut.push('…');
    cut
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// The text that stands where a value is to stand, at or around `position`, and lacks its quotes.
fn unquoted(text: &str, position: usize) -> Option<&str> {
    let bare = |b: &u8| b.is_ascii_alphanumeric() || b"_-+.%/*@".contains(b);
    let bytes = text.as_bytes();
    let position = position.min(bytes.len());
    // The parser may have stopped in the middle of it, right behind it, or at the `=` before it.
    let before = bytes[..position].iter().rev().take_while(|b| bare(b));
    let mut start = position - before.count();
    if start == position && bytes.get(position).is_some_and(|b| b" =".contains(b)) {
        start += bytes[position..]
            .iter()
            .take_while(|b| b" =".contains(b))
            .count();
    }
    let length = bytes[start..].iter().take_while(|b| bare(b)).count();
    let word = text.get(start..start + length)?;
    let lead = text[..start].trim_end_matches(' ');
    let line = lead.rsplit('\n').next().unwrap_or("");
    // `[` alone begins the name of a table.
    let is_value = lead.ends_with(['=', ',']) || (lead.ends_with('[') && line.contains('='));
    let is_text = word.bytes().any(|b| b.is_ascii_alphabetic() || b == b'%');
    let known = ["true", "false", "inf", "nan"];
    (is_value && is_text && !known.contains(&word)).then_some(word)
}
