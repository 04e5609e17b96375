//! What the docs tell people to type exists, and the configs that they show can be used.

#[allow(dead_code)]
mod json;

use lowtide::config::{Paths, load};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A block of code that a reader may copy.
struct Block {
    /// File and line.
    place: String,
    language: String,
    /// The comment above it, which says what runs it or why nothing does: see
    /// [`every_block_is_run_or_says_why_not`].
    remark: Option<String>,
    text: String,
}

/// What people read who use or build lowtide.
fn pages() -> Vec<PathBuf> {
    let mut pages = ["README.md", "CONTRIBUTING.md", "yocto-layer/README.md"]
        .map(|page| tree().join(page))
        .to_vec();
    let docs = fs::read_dir(tree().join("docs")).unwrap();
    pages.extend(docs.map(|entry| entry.unwrap().path()));
    pages.retain(|path| path.extension().is_some_and(|kind| kind == "md"));
    pages.sort();
    pages
}

fn all_blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let (mut open, mut before) = (false, "");
        for (number, line) in text.lines().enumerate() {
            match line.trim_start().strip_prefix("```") {
                Some(_) if open => open = false,
                Some(language) => {
                    open = true;
                    let remark = before.strip_prefix("<!-- ");
                    let remark = remark.and_then(|rest| rest.strip_suffix(" -->"));
                    blocks.push(Block {
                        place: format!("{}:{}", page.display(), number + 1),
                        language: language.to_owned(),
                        remark: remark.map(str::to_owned),
                        text: String::new(),
                    });
                }
                None if open => {
                    let block = blocks.last_mut().expect("one is open");
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                None => {}
            }
            before = line;
        }
        assert!(!open, "{}: a block does not end", page.display());
    }
    blocks
}

/// Blocks in one language, with their place.
fn blocks(language: &str) -> Vec<(String, String)> {
    let mut blocks = all_blocks();
    blocks.retain(|block| block.language == language);
    blocks.into_iter().map(|b| (b.place, b.text)).collect()
}

/// A test of the agent or in a guest, a check of the lints.
fn is_a_test(name: &str) -> bool {
    let sources = ["agent/tests/docs.rs", "xtask/src/test/lint.rs"].map(PathBuf::from);
    let guest = fs::read_dir(tree().join("xtask/src/test/guest")).unwrap();
    let guest = guest.map(|entry| entry.unwrap().path());
    sources.into_iter().chain(guest).any(|source| {
        let text = fs::read_to_string(tree().join(source)).unwrap();
        text.contains(&format!("name: \"{name}\"")) || text.contains(&format!("fn {name}("))
    })
}

/// A test is a sentence: at least four words.
fn tests_named_in(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    let is_name = |span: &&str| {
        let of_words = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        span.chars().all(of_words) && span.matches('_').count() >= 3
    };
    spans.filter(is_name).collect()
}

#[test]
fn what_holds_a_promise_is_a_test_that_exists() {
    let page = fs::read_to_string(tree().join("docs/security.md")).unwrap();
    let mut all = Vec::new();
    for part in [
        "agent",
        "agent-config",
        "agent-rules",
        "judge",
        "xtask/src/test",
    ] {
        sources(&tree().join(part), &mut all);
    }
    let all: Vec<_> = all.iter().map(|f| fs::read_to_string(f).unwrap()).collect();
    let is_there = |name: &str| {
        let (function, case) = (format!("fn {name}("), format!("name: \"{name}\""));
        all.iter().any(|text| {
            let mut lines = text.lines().map(str::trim);
            let mut before = "";
            text.contains(&case)
                || lines.any(|line| {
                    let is_it = line.starts_with(&function) && before == "#[test]";
                    before = line;
                    is_it
                })
        })
    };
    let named = tests_named_in(&page);
    assert!(named.len() > 20, "{named:?}");
    for name in &named {
        assert!(is_there(name), "docs/security.md: there is no test {name}");
    }
    // Each line of a table of promises is held by one at least.
    let promises = page.split("\n## What each promise").nth(1).unwrap();
    let lines = promises.lines().filter(|line| line.starts_with("| "));
    for line in lines.skip(1) {
        assert!(!tests_named_in(line).is_empty(), "nothing holds: {line}");
    }
}

/// Configs and lowtide's own commands are run by the tests below, and `text` is nothing to copy. Any other
/// block has a comment above it: `<!-- run by TEST -->`, or `<!-- not run here: WHY -->`.
#[test]
fn every_block_is_run_or_says_why_not() {
    for Block {
        place,
        language,
        remark,
        text,
    } in all_blocks()
    {
        if let Some(remark) = remark {
            let by = remark.strip_prefix("run by ");
            assert!(
                by.is_some_and(is_a_test) || remark.starts_with("not run here: "),
                "{place}: `{remark}` names no test"
            );
            continue;
        }
        let of_ours = || {
            let mut lines = text.lines().filter(|line| !line.is_empty());
            lines.all(|line| line.starts_with("lowtide ") || line.starts_with("cargo "))
        };
        match language.as_str() {
            "toml" | "text" => {}
            // Looked at by the lints, as parts of a layer.
            "bitbake" | "bbappend" => {}
            "sh" => assert!(of_ours(), "{place}: what runs this?\n{text}"),
            _ => panic!("{place}: a block in {language:?}: what runs this?"),
        }
    }
}

/// Nothing is to be replaced by hand but the home of the source tree.
#[test]
fn nothing_in_a_command_is_left_to_guess() {
    for (place, text) in blocks("sh") {
        assert!(!text.contains("..."), "{place}: {text}");
        if text.contains("$LOWTIDE") {
            assert!(text.contains("LOWTIDE=$HOME/lowtide\n"), "{place}: {text}");
        }
    }
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
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nadm:x:4:\n").unwrap();
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

/// Those that look at files alone work, where the files that they name are; those that look at the device, or ask
/// an agent that is not there, are understood; the others have the options that they are given.
#[test]
fn commands_in_the_docs_work() {
    let here = tempfile::tempdir().unwrap();
    for file in ["new.toml", "50-mine.toml"] {
        fs::write(
            here.path().join(file),
            "[[group]]\nname = \"a\"\nkill = 1\n",
        )
        .unwrap();
    }
    for root in ["rootfs", "device"] {
        fs::create_dir(here.path().join(root)).unwrap();
    }
    let lowtide = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        let command = command.args(arguments).current_dir(here.path());
        command.output().unwrap()
    };
    let (mut run, mut seen, mut asked) = (0, 0, BTreeSet::new());
    for (doc, text) in blocks("sh") {
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("lowtide "))
        {
            let line = line.split(['#', '>', '|']).next().unwrap();
            let words: Vec<_> = line.split_whitespace().collect();
            let help = lowtide(&[words[0], "--help"]);
            assert!(help.status.success(), "{doc}: lowtide {}", words[0]);
            let help = String::from_utf8(help.stdout).unwrap();
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{doc}: lowtide {line}");
            }
            seen += 1;
            let changes = ["--test", "--write", "--output"];
            let changes = words.iter().any(|word| changes.contains(word));
            let looks = ["doctor", "explain", "init", "log", "status", "top"];
            if looks.contains(&words[0]) && !changes && asked.insert(words.join(" ")) {
                let output = lowtide(&words);
                let code = output.status.code();
                assert!(
                    matches!(code, Some(0 | 1)),
                    "{doc}: lowtide {line}: {output:?}"
                );
            }
            if ["check", "config"].contains(&words[0]) {
                let output = lowtide(&words);
                assert!(output.status.success(), "{doc}: lowtide {line}: {output:?}");
                run += 1;
            }
        }
    }
    assert!(
        seen > 20 && run > 8 && asked.len() > 5,
        "{seen} of them, {run} run, {asked:?}"
    );
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

/// All sources of Rust below a directory.
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

/// Each key that a record can get.
#[test]
fn keys_of_records_are_documented() {
    let mut written = BTreeSet::from(["kind", "boot", "up_ms", "time", "cut"].map(str::to_owned));
    written.extend(["not1", "not2", "not3"].map(str::to_owned));
    for file in ["daemon/history.rs", "tell/decisions.rs"] {
        let text = fs::read_to_string(tree().join("agent/src").join(file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for call in [".text(", ".number(", ".flag("] {
            let keys = code.split(call).skip(1);
            let keys = keys.filter_map(|rest| rest.trim_start().strip_prefix('"'));
            written.extend(keys.map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
    let documented: BTreeSet<_> = json::documented("log").into_keys().collect();
    assert_eq!(documented, written);
}

/// The lines of a shell function of the Yocto class, and of the Buildroot hook, as they stand there.
fn image_hooks() -> [(&'static str, String); 2] {
    let between = |file: &str, start: &str, end: &str| {
        let text = fs::read_to_string(tree().join(file)).unwrap();
        let (_, rest) = text
            .split_once(start)
            .unwrap_or_else(|| panic!("{file}: {start}"));
        rest.split_once(end)
            .unwrap_or_else(|| panic!("{file}: {end}"))
            .0
            .to_owned()
    };
    [
        (
            "Yocto",
            between(
                "yocto-layer/classes-recipe/lowtide_check.bbclass",
                "lowtide_check_config() {\n",
                "\n}\n",
            ),
        ),
        (
            "Buildroot",
            between(
                "buildroot/package/lowtide/lowtide.mk",
                "define LOWTIDE_CHECK_CONFIG\n",
                "\nendef\n",
            ),
        ),
    ]
}

/// Both are run by a shell, with what the builds put in their variables.
#[test]
fn an_image_whose_config_the_agent_would_refuse_is_not_built() {
    let here = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| {
        let file = here.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let tools = here.path().join("host/bin");
    fs::create_dir_all(&tools).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lowtide"), tools.join("lowtide")).unwrap();
    for (name, hook) in image_hooks() {
        let script = hook
            .replace("$(HOST_DIR)", "${HOST_DIR}")
            .replace("$(TARGET_DIR)", "${IMAGE_ROOTFS}");
        let builds = || {
            let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
            let command = format!("bbfatal() {{ exit 1; }}\n{script}");
            let output = Command::new("sh")
                .args(["-e", "-c", &command])
                .env("PATH", path)
                .env("HOST_DIR", here.path().join("host"))
                .env("IMAGE_ROOTFS", here.path().join("rootfs"))
                .env("bindir", "/usr/bin")
                .env("LOWTIDE_CHECK", "")
                .output()
                .unwrap();
            output.status.success()
        };
        put("rootfs/usr/bin/lowtide", "of the device");
        put(
            "rootfs/etc/lowtide/config.toml",
            "[limits]\nexit = \"4s\"\n",
        );
        assert!(builds(), "{name}");
        put("rootfs/etc/lowtide/config.toml", "[limits]\nexit = 4\n");
        assert!(!builds(), "{name}");
    }
}
