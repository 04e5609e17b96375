//! What the docs tell people to type exists, and the configs that they show can be used.

use lowtide::config::{Paths, load};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Blocks of code in one language, with the name of their file.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut files = vec![
        tree().join("README.md"),
        tree().join("yocto-layer/README.md"),
    ];
    files.extend(
        fs::read_dir(tree().join("docs"))
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    files.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    let mut blocks = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let opening = format!("```{language}\n");
        let found = text
            .split(&opening)
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap());
        blocks.extend(found.map(|block| (path.display().to_string(), block.to_owned())));
    }
    blocks
}

#[test]
fn configs_in_the_docs_can_be_used() {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docs");
    let profiles = root.join("usr/lib/lowtide/profiles");
    fs::create_dir_all(&profiles).unwrap();
    for profile in fs::read_dir(tree().join("config/profiles")).unwrap() {
        let profile = profile.unwrap();
        fs::copy(profile.path(), profiles.join(profile.file_name())).unwrap();
    }
    let file = root.join("example.toml");
    let examples = blocks("toml");
    assert!(!examples.is_empty());
    for (doc, text) in examples {
        fs::write(&file, &text).unwrap();
        let loaded = load(&Paths::new(Some(root.clone()), vec![file.clone()]));
        let loaded = loaded.unwrap_or_else(|problems| panic!("{doc}: {problems}\n{text}"));
        assert!(
            loaded.warnings.is_empty(),
            "{doc}: {}\n{text}",
            loaded.warnings
        );
    }
}

#[test]
fn commands_in_the_docs_exist() {
    let mut seen = 0;
    for (doc, text) in blocks("sh") {
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("lowtide "))
        {
            let line = line.split('#').next().unwrap();
            let (command, arguments) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            let output = Command::new(env!("CARGO_BIN_EXE_lowtide"))
                .args([command, "--help"])
                .output()
                .unwrap();
            assert!(output.status.success(), "{doc}: lowtide {command}");
            let help = String::from_utf8(output.stdout).unwrap();
            for option in arguments.split(' ').filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{doc}: lowtide {command} {option}");
            }
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// The text as a person reads it: without marks, and on one line.
fn plain(text: &str) -> String {
    let text = text.replace("\\fB", "").replace("\\fP", "");
    let words = text.split_whitespace().filter(|word| *word != "#");
    words.collect::<Vec<_>>().join(" ").replace('`', "")
}

#[test]
fn the_order_is_said_in_the_same_words_wherever_it_is_said() {
    let order = "The highest kill goes first, of equal numbers what frees most; what frees less than a \
                 sixteenth of what is missing (limits.worth) comes last, and what frees less than 256K never goes.";
    for file in [
        "README.md",
        "docs/tuning.md",
        "docs/man/lowtide.toml.5",
        "config/config.toml",
        "config/lowtide.schema.json",
    ] {
        let text = fs::read_to_string(tree().join(file)).unwrap();
        assert!(plain(&text).contains(order), "{file}");
    }
}

#[test]
fn files_that_the_docs_for_developers_name_exist() {
    let mut seen = 0;
    for doc in ["CONTRIBUTING.md", "docs/architecture.md"] {
        let text = fs::read_to_string(tree().join(doc)).unwrap();
        let quoted = text.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|word| {
            word.contains('/')
                && !word.contains(char::is_whitespace)
                && !word.starts_with('/')
                && !word.starts_with("target/")
        });
        for path in paths {
            assert!(tree().join(path).exists(), "{doc}: {path}");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen}");
}

/// The text of a string literal that `code` begins with, `…` for each thing that is put in.
fn literal(code: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = code.strip_prefix('"')?.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(text),
            '{' => {
                chars.by_ref().find(|c| *c == '}')?;
                text.push('…');
            }
            '\\' => match chars.next()? {
                // Goes on with the first word of the next line.
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                other => text.push(other),
            },
            other => text.push(other),
        }
    }
    None
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_line_of_the_log_is_in_the_docs_and_no_other() {
    const WEIGHTS: [&str; 4] = ["error", "warning", "notice", "info"];
    let mut files = Vec::new();
    sources(&tree().join("agent/src"), &mut files);
    let mut said = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for weight in WEIGHTS {
            for call in code.split(&format!(".{weight}(")).skip(1) {
                let Some(arguments) = call.trim_start().strip_prefix("format_args!(") else {
                    continue;
                };
                let line = literal(arguments.trim_start());
                said.insert((weight, line.expect("a literal")));
            }
        }
    }
    let page = fs::read_to_string(tree().join("docs/log.md")).unwrap();
    let mut weight = "";
    let mut explained = BTreeSet::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            weight = heading;
        } else if let Some(row) = line.strip_prefix("| `") {
            let (line, meaning) = match row.strip_prefix("` ") {
                Some(row) => row.split_once(" `` | ").unwrap(),
                None => row.split_once("` | ").unwrap(),
            };
            assert!(meaning.len() > 10, "nothing is said of {line:?}");
            let weight = WEIGHTS.into_iter().find(|known| *known == weight).unwrap();
            explained.insert((weight, line.to_owned()));
        }
    }
    let missing: Vec<_> = said.difference(&explained).collect();
    let stale: Vec<_> = explained.difference(&said).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/log.md lacks {missing:#?}\nand has {stale:#?}"
    );
}
