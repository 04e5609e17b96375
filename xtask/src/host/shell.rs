//! Running other programs.

use anyhow::{Context as _, Result, bail};
use std::io::ErrorKind;
use std::process::Command;

/// Tells the user what is going on.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("==> {text}");
}

/// Runs it with its output going where ours goes; an error if it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_run(command))?;
    if !status.success() {
        bail!("{} failed: {status}", line(command));
    }
    Ok(())
}

/// What it prints; an error with its stderr if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| cannot_run(command))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed: {}\n{}",
            line(command),
            output.status,
            stderr.trim_end()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{}: not UTF-8", line(command)))
}

/// Whether such a program can be started at all.
pub fn exists(program: &str) -> bool {
    match Command::new(program).arg("--version").output() {
        Ok(_) => true,
        Err(e) => e.kind() != ErrorKind::NotFound,
    }
}

fn cannot_run(command: &Command) -> String {
    format!("cannot run {}", command.get_program().display())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|w| w.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
