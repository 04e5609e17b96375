//! lowtide.toml(5) has every table and key that the schema has.
//! `UPDATE_EXPECT=1 cargo test -p lowtide page` writes them anew.

use crate::Ballast;
use crate::mdoc::{assert_page, literal, prose};
use crate::model::Document;
use crate::read::{Field, Value};
use crate::source::Sources;
use crate::value::{
    AbsolutePath, Attribute, Budget, Bytes, Clause, GroupName, Patience, Percent, Priority,
    Process, ProfileName, Program, Time, User, WakeTrigger,
};
use lowtide_judge::{Amount, Trigger};
use lowtide_rules::Glob;
use serde_json::{Map, Value as Json};

/// What a kind of value is called in the page, the schema that it is known by, what it looks like.
fn kinds() -> [(&'static str, Json, &'static str); 21] {
    [
        (
            "attribute",
            Attribute::schema(),
            "`\"user.NAME\"` or `\"user.NAME=VALUE\"`",
        ),
        (
            "ballast",
            Ballast::schema(),
            "`\"auto\"`, `\"off\"`, or `\"4M\"`",
        ),
        (
            "bytes",
            Bytes::schema(),
            "`\"512K\"`, `\"8M\"`, `\"1.5G\"`, in units of 1024 (KB, KiB alike); or a number of bytes, 65536 or more",
        ),
        (
            "command",
            Program::schema(),
            "a list: a program with its whole path, and its arguments; empty for none",
        ),
        ("count", u8::schema(), "0 to 255"),
        (
            "facts",
            <Clause as Value>::schema(),
            "a table with the keys below `Facts`: all that are given must hold",
        ),
        (
            "glob",
            Glob::schema(),
            "a pattern: `*` stays within one component of a path, `**` spans any number of them; `[a-z]` and `{a,b}` work as in a shell",
        ),
        ("name", GroupName::schema(), "1 to 32 bytes of text"),
        ("number", u32::schema(), "0 to 4294967295"),
        ("path", AbsolutePath::schema(), "a path from the root on"),
        (
            "priority",
            Priority::schema(),
            "0 to 1000, higher goes first; or `\"never\"`",
        ),
        (
            "process",
            <Process as Value>::schema(),
            "a glob on its name, or a table with the keys below `Processes`: all that are given must fit",
        ),
        (
            "profile",
            ProfileName::schema(),
            "a name of letters, digits, `_` and `-`",
        ),
        ("kills", Budget::schema(), "a number from 1 to 100"),
        (
            "patience",
            Patience::schema(),
            "`\"20ms\"`; at most a second",
        ),
        ("share", Percent::schema(), "`\"30%\"`, of the time"),
        (
            "size",
            Amount::schema(),
            "`\"4%\"`, `\"512K\"`, `\"8M\"`, `\"1.5G\"`, in units of 1024 (KB, KiB alike); or a number of bytes, 65536 or more",
        ),
        (
            "time",
            Time::schema(),
            "`\"300ms\"`, `\"0.5s\"`, `\"1min\"`, `\"1h\"`; at most a day",
        ),
        (
            "trigger",
            Trigger::schema(),
            "`\"some 150ms/1s\"`: at least one task stalled on memory for 150 ms within one second; `\"full 150ms/1s\"`: all of them at once",
        ),
        (
            "wake-up",
            WakeTrigger::schema(),
            "a trigger as above, or `\"off\"`",
        ),
        ("user", User::schema(), "name or number of a user"),
    ]
}

/// A kind of value in mdoc; panics at one that the page has no name for.
fn kind(schema: &Json) -> String {
    let mut schema = schema.clone();
    schema.as_object_mut().unwrap().remove("description");
    if let Some((name, ..)) = kinds().iter().find(|(_, known, _)| *known == schema) {
        return format!("Ar {name}");
    }
    if schema["type"] == "boolean" {
        return "Cm true | false".to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<_> = words
            .iter()
            .map(|word| format!("\\(dq{}\\(dq", word.as_str().unwrap()))
            .collect();
        return format!("Cm {}", words.join(" | "));
    }
    if schema["type"] == "array" {
        return format!("No list of {}", kind(&schema["items"]));
    }
    if let Some([one, list]) = schema["oneOf"].as_array().map(Vec::as_slice) {
        assert_eq!(list["items"], *one);
        return format!("{} | list of up to {}", kind(one), list["maxItems"]);
    }
    panic!("no name for {schema}");
}

fn keys(table: &Map<String, Json>) -> String {
    let mut text = String::from(".Bl -tag -width Ds\n");
    for (key, value) in table {
        text += &format!(".It Ic {key} No = {}\n", kind(value));
        text += &prose(value["description"].as_str().unwrap());
    }
    text + ".El\n"
}

fn properties(schema: &Json) -> &Map<String, Json> {
    schema["properties"].as_object().unwrap()
}

fn tables() -> String {
    let document = Document::schema();
    let (tables, top): (Map<_, _>, Map<_, _>) = properties(&document)
        .clone()
        .into_iter()
        .partition(|(_, schema)| {
            schema
                .pointer("/items/properties")
                .or(schema.get("properties"))
                .is_some()
        });
    let mut text = format!(".Ss Outside of any table\n{}", keys(&top));
    for (name, table) in &tables {
        let about = prose(table["description"].as_str().unwrap());
        if table["type"] == "array" {
            text += &format!(
                ".Ss [[{name}]]\n{about}{}",
                keys(properties(&table["items"]))
            );
            continue;
        }
        let inside = properties(table);
        // A table of tables that are all alike.
        let alike = inside
            .values()
            .next()
            .and_then(|first| first["properties"].as_object());
        let Some(alike) = alike else {
            text += &format!(".Ss [{name}]\n{about}{}", keys(inside));
            continue;
        };
        let names: Vec<_> = inside.keys().map(|key| format!("[{name}.{key}]")).collect();
        text += &format!(
            ".Ss {}\n{about}.Bl -tag -width Ds -compact\n",
            names.join(", ")
        );
        for (key, one) in inside {
            assert_eq!(properties(one), alike);
            text += &format!(
                ".It Ic {name}.{key}\n{}",
                prose(one["description"].as_str().unwrap())
            );
        }
        text += &format!(".El\n.Pp\nEach of them has:\n{}", keys(alike));
    }
    text += &format!(
        ".Ss Facts\n{}",
        keys(properties(&<Clause as Field>::schema()))
    );
    text + &format!(
        ".Ss Processes\n{}",
        keys(properties(&<Process as Field>::schema()))
    )
}

fn values() -> String {
    let mut text = String::from(".Bl -tag -width priority\n");
    for (name, _, about) in kinds() {
        text += &format!(".It Ar {name}\n{}", prose(about));
    }
    text + ".El\n"
}

#[test]
fn the_manual_page_has_every_key() {
    let sources = Sources::new();
    let built_in = literal(sources.text(Sources::BUILT_IN));
    let defaults = format!(".Bd -literal\n{built_in}.Ed\n");
    let parts = [
        ("tables", tables()),
        ("values", values()),
        ("defaults", defaults),
    ];
    assert_page("lowtide.toml.5", &parts);
}
