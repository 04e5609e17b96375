//! The source of the agent alone, as packages of other projects build it: without the guests and what
//! drives them, and with a Cargo.lock that names nothing but what the agent takes.

use crate::build::dist::{VERSION, copy, tar};
use crate::host::dirs::workspace;
use crate::host::shell::{output, run};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What of the tree is in it.
const PARTS: [&str; 16] = [
    ".cargo",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-GPL",
    "LICENSE-MIT",
    "README.md",
    "agent",
    "agent-common",
    "agent-config",
    "agent-rules",
    "config",
    "docs/man",
    "judge",
    "pkg",
];
/// Members of the workspace that are not.
const DEVELOPERS: [&str; 3] = ["desk", "xtask", "guest"];
/// Crates whose tests compare with the rest of the tree: theirs are left out, with what they take.
const UNTESTED: [&str; 4] = ["agent", "agent-common", "agent-config", "agent-rules"];

/// What was packed.
pub struct Source {
    pub archive: PathBuf,
    /// Text of its Cargo.lock.
    pub lock: String,
}

/// Packs it to `out/lowtide-VERSION.tar.gz`.
pub fn archive(epoch: u64, out: &Path) -> Result<Source> {
    let stage = tempfile::tempdir()?;
    let name = format!("lowtide-{VERSION}");
    trimmed(&stage.path().join(&name))?;
    tar(stage.path(), &name, epoch, out)?;
    Ok(Source {
        archive: out.join(format!("{name}.tar.gz")),
        lock: fs::read_to_string(stage.path().join(name).join("Cargo.lock"))?,
    })
}

/// Puts it into a directory.
pub fn trimmed(top: &Path) -> Result<()> {
    let files = output(
        Command::new("git")
            .args(["ls-files", "-z", "--"])
            .args(PARTS)
            .current_dir(workspace()),
    )?;
    for file in files.split_terminator('\0') {
        copy(&workspace().join(file), &top.join(file))?;
    }
    edit(&top.join("Cargo.toml"), |text| {
        DEVELOPERS.iter().try_fold(text, |text, member| {
            let member = format!(", \"{member}\"");
            ensure!(text.contains(&member), "Cargo.toml: no member {member}");
            Ok(text.replacen(&member, "", 1))
        })
    })?;
    for package in UNTESTED {
        edit(&top.join(package).join("Cargo.toml"), |text| {
            Ok(without_tests(&text))
        })?;
        let _ = fs::remove_dir_all(top.join(package).join("tests"));
    }
    // Takes out of the lock what nothing needs any more; changes no version.
    run(Command::new("cargo")
        .args(["update", "--workspace", "--offline", "--quiet"])
        .current_dir(top))
}

fn edit(file: &Path, change: impl FnOnce(String) -> Result<String>) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    fs::write(file, change(text)?)?;
    Ok(())
}

/// A manifest without the table of what its tests take.
fn without_tests(manifest: &str) -> String {
    let mut in_tests = false;
    let kept = manifest.split_inclusive('\n').filter(|line| {
        if line.starts_with('[') {
            in_tests = line.trim_end() == "[dev-dependencies]";
        }
        !in_tests
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_of_tests_is_left_out() {
        let manifest =
            "[package]\nname = 'a'\n\n[dev-dependencies]\nb = '1'\n\n[lints]\nc = true\n";
        let wanted = "[package]\nname = 'a'\n\n[lints]\nc = true\n";
        assert_eq!(without_tests(manifest), wanted);
    }

    #[test]
    fn nothing_of_the_guests_is_in_it() -> Result<()> {
        let top = tempfile::tempdir()?;
        trimmed(top.path())?;
        let lock = fs::read_to_string(top.path().join("Cargo.lock"))?;
        for (name, is_there) in [
            ("aya", true),
            ("proptest", true),
            ("argh", true),
            ("plotters", false),
            ("anyhow", false),
        ] {
            assert_eq!(
                lock.contains(&format!("name = \"{name}\"\n")),
                is_there,
                "{name}"
            );
        }
        let ours = fs::read_to_string(workspace().join("Cargo.lock"))?;
        let (lines, of_ours) = (lock.lines().count(), ours.lines().count());
        assert!(lines < of_ours, "{lines} of {of_ours}");
        Ok(())
    }
}
