//! A value within JSON text, found without reading the rest into memory of its own: what container
//! runtimes write of themselves has hundreds of values, of which one is wanted. Text that is no JSON
//! has none; nothing is ever read twice, so that a look takes time by its length.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "places in a text that is in memory"
)]

/// A value as it stands in the text, and what follows it; `None` at the end or where it is cut.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start();
    let end = match *text.first()? {
        b'"' => string_end(text)?,
        b'{' | b'[' => {
            let (mut depth, mut at) = (0usize, 0);
            loop {
                match *text.get(at)? {
                    b'"' => at += string_end(text.get(at..)?)? - 1,
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break at;
                }
            }
        }
        _ => text
            .iter()
            .position(|b| matches!(b, b',' | b'}' | b']') || b.is_ascii_whitespace())
            .unwrap_or(text.len()),
    };
    (end > 0).then(|| text.split_at(end))
}

/// Where a string that begins the text ends, both quotes included.
fn string_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// What stands before the next value: a comma, or nothing.
fn after_comma(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii_start();
    text.strip_prefix(b",").unwrap_or(text)
}

/// The value of a key of an object.
pub fn of_key<'a>(object: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let mut rest = object.trim_ascii_start().strip_prefix(b"{")?;
    loop {
        let (name, after) = value(rest)?;
        let after = after.trim_ascii_start().strip_prefix(b":")?;
        let (found, after) = value(after)?;
        if string(name) == Some(key) {
            return Some(found);
        }
        rest = after_comma(after);
    }
}

/// The items of an array.
pub fn items(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = array.trim_ascii_start().strip_prefix(b"[");
    std::iter::from_fn(move || {
        let (item, after) = value(rest?)?;
        rest = Some(after_comma(after));
        Some(item)
    })
}

/// What a string says; `None` for another value, and for one with escapes in it.
pub fn string(value: &[u8]) -> Option<&[u8]> {
    let text = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    (!text.contains(&b'\\')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn a_value_is_found_at_its_own_level() {
        let text = br#" { "HostConfig" : {"RestartPolicy":{"Name":"always"}, "x":[1,{"Name":"}"}]},
            "a\"b": "]}", "n": -1.5e3, "Name":"/homeassistant" , "Z":null}"#;
        assert_eq!(
            of_key(text, b"Name").and_then(string),
            Some(&b"/homeassistant"[..])
        );
        assert_eq!(of_key(text, b"n"), Some(&b"-1.5e3"[..]));
        assert_eq!(of_key(text, b"RestartPolicy"), None);
        let config = of_key(text, b"HostConfig").unwrap();
        assert!(of_key(config, b"RestartPolicy").is_some());
    }

    #[test]
    fn text_that_is_cut_has_no_value() {
        let text = br#"{"a":[{"b":"c"}],"d":"e"}"#;
        for end in 0..text.len() - 1 {
            let cut = text.get(..end).unwrap_or_default();
            assert_eq!(of_key(cut, b"d"), None, "{end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(text: Vec<u8>) {
            let _ = of_key(&text, b"a");
            prop_assert!(items(&text).count() <= text.len());
        }

        #[test]
        fn what_another_writer_wrote_is_found(
            keys in prop::collection::vec("[a-zA-Z./\"{}\\[\\], :]{1,12}", 1..6),
            texts in prop::collection::vec("[a-z0-9_.-]{0,12}", 6),
        ) {
            let nested = json!([{ "id": "x" }, [1, "]"], null, true]);
            let mut object = serde_json::Map::new();
            for (key, text) in keys.iter().zip(&texts) {
                object.insert(format!("{key}*"), nested.clone());
                object.insert(key.clone(), Value::String(text.clone()));
            }
            let written = serde_json::to_string_pretty(&object).unwrap();
            for (key, wanted) in object.iter().filter(|(key, _)| !key.contains('"')) {
                let found = of_key(written.as_bytes(), key.as_bytes());
                match wanted {
                    Value::String(text) => {
                        prop_assert_eq!(found.and_then(string), Some(text.as_bytes()));
                    }
                    _ => prop_assert_eq!(items(found.unwrap()).count(), 4),
                }
            }
        }
    }
}
