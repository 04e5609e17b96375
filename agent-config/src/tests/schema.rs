//! The shipped files agree with the types they are read into.

use crate::model::Document;
use crate::read::Field;
use crate::value::Clause;
use crate::{Paths, load};
use expect_test::expect_file;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

fn shipped() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config");
    let profiles = fs::read_dir(dir.join("profiles")).unwrap();
    let mut files: Vec<_> = profiles.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.insert(0, dir.join("config.toml"));
    files
}

fn schema() -> Value {
    let mut schema = Document::schema();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$defs"] = json!({ "facts": <Clause as Field>::schema() });
    schema["title"] = json!("lowtide config");
    schema
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(s) => json!(s),
        DeValue::Integer(i) => json!(i64::from_str_radix(i.as_str(), i.radix()).unwrap()),
        DeValue::Boolean(b) => json!(b),
        DeValue::Array(items) => items.iter().map(|i| json(i.get_ref())).collect(),
        DeValue::Table(table) => json_table(table),
        other => panic!("{} in a config", other.type_str()),
    }
}

fn json_table(table: &DeTable<'_>) -> Value {
    table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref())))
        .collect()
}

fn json_of(text: &str) -> Value {
    json_table(DeTable::parse(text).unwrap().get_ref())
}

/// `UPDATE_EXPECT=1 cargo test -p lowtide schema` writes it anew.
#[test]
fn the_shipped_schema_is_current() {
    let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    expect_file!["../../../config/lowtide.schema.json"].assert_eq(&text);
}

#[test]
fn shipped_files_validate_and_load() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for path in shipped() {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("#:schema "), "{}", path.display());
        let linked = text.lines().next().unwrap().trim_start_matches("#:schema ");
        assert!(path.parent().unwrap().join(linked).exists(), "{linked}");
        let errors: Vec<_> = validator
            .iter_errors(&json_of(&text))
            .map(|e| format!("{}: {e}", e.instance_path))
            .collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        let loaded = load(&Paths::new(None, vec![path.clone()])).unwrap_or_else(|p| panic!("{p}"));
        // A profile knows, unlike a file of the device, that these are root's.
        let warnings = loaded.warnings.to_string();
        let others = warnings.lines().filter(|line| {
            line.contains(" warning: ") && !line.contains("protects root's processes alone")
        });
        assert_eq!(others.count(), 0, "{warnings}");
    }
}

/// What the reader refuses, an editor that follows the schema marks as well.
#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for text in [
        "levels = 1",
        "[level.critical]\ntriger = \"some 50ms/500ms\"",
        "[wake]\ntrigger = \"any 50ms/500ms\"",
        "[level.critical]\ntrigger = \"some 50ms/500ms\"",
        "[level.watch]",
        "[level.critical]\nconfirm = { available_below = \"4 MX\" }",
        "[level.critical]\nactions = [\"murder\"]",
        "[wake]\nquiet = \"5 hours\"",
        "[reflex]\nkill = \"always\"",
        "[reflex]\npatience = \"2s\"",
        "[reflex]\nbudget = 0",
        "[[group]]\nname = \"\"",
        "[[group]]\nname = \"a\"\nkill = 1001",
        "[[group]]\nname = \"a\"\nkill = \"always\"",
        "[[group]]\nname = \"a\"\nxattr = \"trusted.x\"",
        "[[group]]\nname = \"a\"\nprocesses = [{ comm = \"x\" }]",
        "[[group]]\nkill = 1",
    ] {
        assert!(super::parse("t", text).is_err(), "the reader takes {text}");
        assert!(
            !validator.is_valid(&json_of(text)),
            "the schema takes {text}"
        );
    }
}

/// What is said of the order, without line ends and marks of the format it stands in.
fn order_as_said(path: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let text = fs::read_to_string(path).unwrap();
    let text = ["\\fB", "\\fP", "\\(ga", "`", "#"]
        .iter()
        .fold(text, |text, mark| text.replace(mark, ""));
    let plain = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let said = &plain[plain.find("The highest kill goes first")?..];
    Some(said[..said.find(" never goes")?].to_owned())
}

#[test]
fn the_order_is_said_in_the_same_words_everywhere() {
    let places = [
        "README.md",
        "docs/tuning.md",
        "docs/man/lowtide.toml.5",
        "config/config.toml",
        "config/lowtide.schema.json",
    ];
    for path in places {
        let said = order_as_said(path);
        assert_eq!(
            said.as_deref(),
            Some(
                "The highest kill goes first, of equal numbers what frees most; what frees less than a \
                 sixteenth of what is missing (limits.worth) comes last, and what frees less than 256K"
            ),
            "{path}"
        );
    }
}
