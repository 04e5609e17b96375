//! The keys that docs/json.md has for a command, to be compared with what the command prints.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Of each key what it is said to be.
pub type Keys = BTreeMap<String, String>;

/// Those of the section with this heading.
pub fn documented(section: &str) -> Keys {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, text) = page.split_once(&format!("\n## {section}\n")).unwrap();
    let text = text.split("\n## ").next().unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let keys = rows.map(|row| {
        let (key, rest) = row.split_once("` | ").unwrap();
        let (is, _) = rest.split_once(" |").unwrap();
        (key.to_owned(), is.to_owned())
    });
    keys.collect()
}

/// Every key that is printed is documented with its type, and every documented one is printed.
pub fn assert_documented(section: &str, printed: &Value) {
    let wanted = documented(section);
    assert!(wanted.len() > 4, "{section}: {wanted:?}");
    let mut found = BTreeMap::new();
    flatten(printed, String::new(), &mut found);
    for (key, is) in &found {
        let Some(said) = wanted.get(key) else {
            panic!("docs/json.md, {section}: `{key}` is missing");
        };
        for is in is {
            assert!(
                said.split(" or ").any(|one| one == *is) || said == is,
                "docs/json.md, {section}: `{key}` is {is}, not {said}"
            );
        }
    }
    for key in wanted.keys() {
        assert!(found.contains_key(key), "{section}: no `{key}` is printed");
    }
}

/// What the leaves are. A list of other things than objects is one.
fn flatten(value: &Value, path: String, found: &mut BTreeMap<String, Vec<&'static str>>) {
    let is = match value {
        Value::Object(entries) => {
            let dot = if path.is_empty() { "" } else { "." };
            for (key, value) in entries {
                flatten(value, format!("{path}{dot}{key}"), found);
            }
            return;
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            if items[0].get("kind").is_none() {
                for item in items {
                    flatten(item, format!("{path}[]"), found);
                }
                return;
            }
            "list of records"
        }
        Value::Array(_) => "list of text",
        Value::String(_) => "text",
        Value::Number(_) => "number",
        Value::Bool(_) => "true or false",
        Value::Null => "null",
    };
    found.entry(path).or_default().push(is);
}
