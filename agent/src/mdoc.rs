//! Manual pages (mdoc(7)) in step with the code: what lies between `.\" BEGIN part` and
//! `.\" END part` is written by tests, and the rest by hand.

use expect_test::expect_file;
use std::fs;
use std::path::Path;

/// Compares a page with what it is with these parts; `UPDATE_EXPECT=1` writes them into it.
pub fn assert_page(name: &str, parts: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/man");
    let path = path.join(name);
    let mut page = fs::read_to_string(&path).unwrap();
    for (part, text) in parts {
        let begin = format!(".\\\" BEGIN {part}\n");
        let (before, rest) = page.split_once(&begin).expect(part);
        let end = rest.find(&format!(".\\\" END {part}\n")).expect(part);
        page = format!("{before}{begin}{text}{}", &rest[end..]);
    }
    expect_file![path].assert_eq(&page);
}

/// Running text: a line for each sentence, bold for what is between backquotes.
pub fn prose(text: &str) -> String {
    let mut chars = text.chars();
    let mut text: String = chars
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .collect();
    text.extend(chars);
    if !text.ends_with('.') {
        text.push('.');
    }
    let mut lines = String::new();
    for line in text.replace(". ", ".\n").lines() {
        let mut parts = line.split('`');
        lines += parts.next().unwrap_or_default();
        while let Some(code) = parts.next() {
            lines += &format!(
                "\\fB{}\\fP{}",
                literal(code),
                parts.next().unwrap_or_default()
            );
        }
        lines.push('\n');
    }
    lines
}

/// Text to be taken letter by letter.
pub fn literal(text: &str) -> String {
    let mut literal = String::new();
    for line in text.split_inclusive('\n') {
        if line.starts_with(['.', '\'']) {
            literal += "\\&";
        }
        for c in line.chars() {
            match c {
                '\\' => literal += "\\e",
                '-' => literal += "\\-",
                '\'' => literal += "\\(aq",
                '`' => literal += "\\(ga",
                '^' => literal += "\\(ha",
                '~' => literal += "\\(ti",
                c => literal.push(c),
            }
        }
    }
    literal
}
