//! Holds for any text and any path.

use crate::{MAX_FILE, parse};
use lowtide_rules::Glob;
use proptest::prelude::*;
use std::cmp::Ordering;
use std::fs;
use std::path::Path;

/// Pieces that configs are made of, so that random texts get past the first character.
const PIECES: [&str; 40] = [
    "[level.critical]\n",
    "[wake]\n",
    "[[group]]\n",
    "[limits]\n",
    "[everything_else]\n",
    "trigger",
    "confirm",
    "relief",
    "actions",
    "name",
    "cgroups",
    "processes",
    "xattr",
    "kill",
    "quiet",
    "restarts",
    "profile",
    "available_below",
    "refaults_above",
    "user",
    " = ",
    "\n",
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "some 50ms/500ms",
    "full 1s/10s",
    "never",
    "1000",
    "4%",
    "8M",
    "18446744073709551615",
    "-1",
    "0x7f",
    "é",
    "**/{a,b}*",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "\\PC{0,200}",
        prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60).prop_map(|p| p.concat()),
    ]
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{1,2}", 1..5).prop_map(|parts| parts.join("/"))
}

/// A pattern of `*`, `**`, `?` and letters.
fn simple_pattern() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        Just("**".to_owned()),
        "[ab*?]{1,3}".prop_filter("`**` stands alone", |c| !c.contains("**"))
    ];
    prop::collection::vec(component, 1..5).prop_map(|parts| parts.join("/"))
}

/// What the dialect promises, said as plainly as possible.
fn plain_match(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        // At the end it stands for what is below, so for something.
        (["**"], path) => !path.is_empty(),
        (["**", rest @ ..], path) => (0..=path.len()).any(|n| plain_match(rest, &path[n..])),
        ([first, rest @ ..], [name, below @ ..]) => {
            plain_component(first.as_bytes(), name.as_bytes()) && plain_match(rest, below)
        }
        _ => false,
    }
}

fn plain_component(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], name) => (0..=name.len()).any(|n| plain_component(rest, &name[n..])),
        ([b'?', rest @ ..], [_, below @ ..]) => plain_component(rest, below),
        ([a, rest @ ..], [b, below @ ..]) => a == b && plain_component(rest, below),
        _ => false,
    }
}

fn parts(text: &str) -> Vec<&str> {
    text.split('/').collect()
}

/// What the fuzzer found worth keeping, as well.
#[test]
fn the_corpus_loads_or_says_why() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/config");
    let mut read = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let Ok(text) = fs::read_to_string(entry.unwrap().path()) else {
            continue;
        };
        loads_or_says_why(&text).unwrap();
        read += 1;
    }
    assert!(read > 0);
}

fn loads_or_says_why(text: &str) -> Result<(), TestCaseError> {
    match parse("any", text) {
        Ok(loaded) => {
            let again = parse("again", &loaded.effective.toml()).map(|l| l.policy);
            prop_assert_eq!(again, Ok(loaded.policy));
        }
        Err(problems) => {
            prop_assert!(problems.fatal());
            let (lines, columns) = (text.lines().count() + 1, text.chars().count() + 1);
            for problem in problems.iter() {
                if let Some((line, column)) = problem.position {
                    prop_assert!((1..=lines).contains(&(line as usize)), "{problem}");
                    prop_assert!((1..=columns).contains(&(column as usize)), "{problem}");
                }
            }
            prop_assert!(problems.to_string().len() < MAX_FILE as usize);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_loads_or_says_why(text in text()) {
        loads_or_says_why(&text)?;
    }

    #[test]
    fn a_glob_matches_what_its_dialect_says(pattern in simple_pattern(), path in path()) {
        let glob = Glob::new(&pattern).unwrap();
        prop_assert_eq!(glob.matches(path.as_bytes()), plain_match(&parts(&pattern), &parts(&path)), "{} {}", pattern, path);
    }

    #[test]
    fn a_path_is_the_best_pattern_for_itself(pattern in simple_pattern(), path in path()) {
        let (glob, own) = (Glob::new(&pattern).unwrap(), Glob::new(&path).unwrap());
        prop_assert!(own.matches(path.as_bytes()));
        if glob.matches(path.as_bytes()) && pattern != path {
            prop_assert_eq!(own.specificity(&glob), Ordering::Greater);
        }
    }

    #[test]
    fn the_answer_does_not_depend_on_the_order_of_groups(
        patterns in prop::collection::btree_set(simple_pattern(), 1..8),
        path in path(),
    ) {
        let tables: Vec<_> = patterns
            .iter()
            .enumerate()
            .map(|(i, p)| format!("[[group]]\nname = \"{p}\"\nkill = {i}\ncgroups = ['{p}']\n"))
            .collect();
        let answer = |text: String| {
            let loaded = parse("t", &text).unwrap();
            let group = loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
            group.map(|g| loaded.policy.group(g).name.clone())
        };
        let reversed = tables.iter().rev().cloned().collect::<Vec<_>>().concat();
        prop_assert_eq!(answer(tables.concat()), answer(reversed));
    }
}
