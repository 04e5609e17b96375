//! The modules of the agent lie on floors and import downwards only, so that each can be read, and
//! tested, without those above it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top; those of one floor do not know each other.
const FLOORS: [&[&str]; 7] = [
    &["cli"],
    &["daemon", "readers"],
    &["act"],
    &["domain", "tell"],
    &["sense"],
    &["resident", "stack"],
    &["mdoc", "sys", "units"],
];
/// What puts the rooms together.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// The rooms that a file of `room` names, `depth` modules below the crate.
fn imports(text: &str, room: &str, depth: usize) -> Vec<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let first_word = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    };
    let from_crate = code.split("crate::").skip(1).flat_map(|rest| {
        // `crate::{a::B, c::D}`: whatever begins a path in the braces.
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split(';').next().unwrap_or(list);
                list.split([',', '{', '}'])
                    .map(|path| first_word(path.trim()))
                    .filter(|word| floor_of(word).is_some())
                    .collect::<Vec<_>>()
            }
            None => vec![first_word(rest)],
        }
    });
    let from_super = code.split(|c: char| c.is_whitespace()).filter_map(|path| {
        let rest = path.trim_start_matches("super::");
        let supers = (path.len() - rest.len()) / "super::".len();
        let word = first_word(rest);
        (supers >= depth && floor_of(&word).is_some()).then_some(word)
    });
    let others = from_crate.chain(from_super).filter(|other| other != room);
    others.collect()
}

/// What is wrong with one import, if anything.
fn problem(room: &str, other: &str) -> Option<String> {
    let from = floor_of(room);
    // A macro or an item of the crate itself is no room.
    let to = floor_of(other)?;
    match from {
        None => Some(format!("{room} is on no floor")),
        Some(from) if to <= from => Some(format!("{room} imports {other}, which is not below it")),
        Some(_) => None,
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the sources") {
        let path = entry.expect("the sources").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn rooms_import_downwards_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    assert!(found.len() > 40, "only {} files", found.len());
    let mut problems = Vec::new();
    let mut arrows = 0;
    for path in found {
        let inside = path.strip_prefix(&src).expect("it is in there");
        if ROOTS.iter().any(|root| inside == Path::new(root)) {
            continue;
        }
        let modules: Vec<_> = inside
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let is_mod = modules.last().is_some_and(|last| last == "mod");
        let (room, depth) = (&modules[0], modules.len() - usize::from(is_mod));
        if floor_of(room).is_none() {
            problems.push(format!("{}: {room} is on no floor", inside.display()));
        }
        let text = fs::read_to_string(&path).expect("a source file");
        for other in imports(&text, room, depth) {
            arrows += 1;
            problems.extend(problem(room, &other).map(|p| format!("{}: {p}", inside.display())));
        }
    }
    assert!(arrows > 40, "only {arrows} imports of other rooms");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn an_arrow_back_is_found_however_it_is_written() {
    for text in [
        "use crate::daemon::Daemon;",
        "use crate::{daemon::Daemon, sense::tree::Tree};",
        "use crate::{\n    sense::{psi, tree},\n    daemon,\n};",
        "fn f() { crate::daemon::f() }",
        "use super::super::daemon::Daemon;",
    ] {
        let other = imports(text, "act", 2);
        assert!(other.iter().any(|o| problem("act", o).is_some()), "{text}");
    }
    // A circle needs two of one floor, or an arrow back.
    assert!(problem("tell", "domain").is_some());
    assert!(problem("act", "tell").is_none());
    assert_eq!(
        imports("// crate::daemon\nuse super::process;", "act", 2),
        [""; 0]
    );
}
