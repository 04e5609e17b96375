//! `cargo xtask test`: everything that tells whether the project is sound.

pub mod binaries;
mod code;
pub mod faults;
pub mod fuzz;
pub mod guest;
pub mod harness;
pub mod lint;
pub mod loads;
pub mod matrix;
pub mod soak;

use self::fuzz::Fuzz;
use self::harness::{Tally, verdict};
use crate::build::ebpf;
use crate::host::dirs;
use crate::host::shell::say;
use anyhow::{Context as _, Result};
use argh::FromArgs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

/// run all checks and tests: formatting, lints, unit and property tests, guests
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
pub struct Test {
    /// only what runs on the host
    #[argh(switch)]
    unit: bool,
    /// only what runs in guests
    #[argh(switch)]
    guest: bool,
    /// guests beside a load on all cores, each tried once: what comes of them must not depend on the
    /// host's speed. Without a filter those that do not count instructions: the others cannot
    #[argh(switch)]
    busy: bool,
    /// only tests whose name contains this
    #[argh(positional)]
    filter: Option<String>,
}

impl Test {
    pub fn run(self) -> Result<ExitCode> {
        let filter = self.filter.as_deref();
        let mut tally = Tally::default();
        if self.unit || !self.guest {
            if filter.is_none() {
                for (name, arguments) in LINTS {
                    tally.count(cargo(name, arguments)?);
                }
                for lint in &lint::LINTS {
                    say(lint.name);
                    tally.add(checked(lint.name, (lint.get)(), lint.check));
                }
                say("the BPF object");
                let tools = ebpf::Tools::get();
                tally.add(checked("the committed BPF object", tools, |t| t.check()));
                let compiler = Fuzz::ready();
                tally.add(checked("fuzz targets", compiler, |()| Fuzz::briefly()));
            }
            tally.add(cargo_test(filter)?);
            tally.add(binaries::test(&binaries::EVERY_RUN, filter)?);
        }
        if self.guest || !self.unit {
            tally.add(guest::run(filter, self.busy)?);
        }
        if tally.passed + tally.failed == 0 {
            say(format_args!(
                "no test is named like {:?}",
                filter.unwrap_or_default()
            ));
            tally.failed = 1;
        }
        let Tally {
            passed,
            failed,
            skipped,
            second_try,
        } = tally;
        println!(
            "{passed} passed ({second_try} at the second try), {failed} failed, {skipped} skipped"
        );
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

const LINTS: [(&str, &[&str]); 4] = [
    ("formatting", &["fmt", "--all", "--check"]),
    (
        "lints",
        &[
            "clippy",
            "--quiet",
            "--locked",
            "--workspace",
            "--all-targets",
            // What measures the engines is built for `cargo xtask bench survey` alone.
            "--features=lowtide-guest/bench",
            "--",
            "-Dwarnings",
        ],
    ),
    (
        "lints without BPF",
        &[
            "clippy",
            "--quiet",
            "--locked",
            "--package=lowtide",
            "--no-default-features",
            "--",
            "-Dwarnings",
        ],
    ),
    (
        "documentation comments",
        &[
            "doc",
            "--quiet",
            "--locked",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--config=build.rustdocflags=['-Dwarnings']",
        ],
    ),
];

/// Runs cargo in the workspace and says whether it was content.
fn cargo(name: &str, arguments: &[&str]) -> Result<bool> {
    say(name);
    let status = Command::new("cargo")
        .current_dir(dirs::workspace())
        .args(arguments)
        .status()
        .context("cannot run cargo")?;
    println!("test {name} ... {}", verdict(status.success()));
    Ok(status.success())
}

/// One check, skipped where what it takes cannot be had.
fn checked<T>(name: &str, ready: Result<T>, check: impl FnOnce(T) -> Result<()>) -> Tally {
    let mut tally = Tally::default();
    let ready = match ready {
        Ok(ready) => ready,
        Err(e) => {
            println!("test {name} ... SKIPPED\n    {e:#}");
            tally.skipped += 1;
            return tally;
        }
    };
    let result = check(ready);
    println!("test {name} ... {}", verdict(result.is_ok()));
    if let Err(e) = &result {
        println!("    {e:#}");
    }
    tally.count(result.is_ok());
    tally
}

/// Runs the workspace's unit and property tests and adds up what their harnesses counted.
fn cargo_test(filter: Option<&str>) -> Result<Tally> {
    say("unit and property tests");
    let mut child = Command::new("cargo")
        .current_dir(dirs::workspace())
        .args([
            "test",
            "--quiet",
            "--locked",
            "--workspace",
            "--no-fail-fast",
        ])
        .args(filter)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result: ") {
            tally.passed += count_before(counts, " passed");
            tally.failed += count_before(counts, " failed");
            tally.skipped += count_before(counts, " ignored");
        }
    }
    // A test binary that does not build, or dies, counts no test of its own.
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// The number in front of a word: 12 for ` passed` in `ok. 12 passed; 0 failed`.
fn count_before(text: &str, word: &str) -> u32 {
    text.split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_the_harness() {
        let line = "FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(count_before(line, " passed"), 12);
        assert_eq!(count_before(line, " failed"), 3);
        assert_eq!(count_before(line, " ignored"), 1);
        assert_eq!(count_before("nothing", " passed"), 0);
    }
}
