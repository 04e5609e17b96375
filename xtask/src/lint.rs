//! Checks of what the compiler does not see: shell scripts, manual pages, the Yocto layer.

use crate::dirs::workspace;
use crate::shell::{output, run};
use crate::yocto::YoctoCrates;
use anyhow::{Context as _, Result, bail};
use argh::FromArgs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LAYER: &str = "yocto-layer";
const PAGES: &str = "docs/man";

/// check shell scripts (shellcheck), manual pages (mandoc) and the Yocto layer (oelint-adv)
#[derive(FromArgs)]
#[argh(subcommand, name = "lint")]
pub struct Lint {}

impl Lint {
    pub fn run(self) -> Result<ExitCode> {
        let files = tracked()?;
        let scripts: Vec<_> = files.iter().filter(|f| is_shell_script(f)).collect();
        run(Command::new("shellcheck")
            .arg("--external-sources")
            .args(scripts)
            .current_dir(workspace()))?;

        let pages = files.iter().filter(|f| f.starts_with(PAGES));
        run(Command::new("mandoc")
            .args(["-Tlint", "-Wwarning"])
            .args(pages)
            .current_dir(workspace()))?;

        YoctoCrates { check: true }.run()?;
        let recipes: Vec<_> = files.iter().filter(|f| is_bitbake(f)).collect();
        for recipe in &recipes {
            named_files_exist(recipe)?;
        }
        let top = recipes
            .iter()
            .filter(|f| f.extension().is_some_and(|e| e != "inc"));
        // It takes its settings from the directory that it runs in.
        run(Command::new("oelint-adv")
            .arg("--quiet")
            .args(top.map(|f| workspace().join(f)))
            .current_dir(workspace().join(LAYER)))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The files under version control, relative to the top.
fn tracked() -> Result<Vec<PathBuf>> {
    let list = output(
        Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(workspace()),
    )?;
    Ok(list.split_terminator('\0').map(PathBuf::from).collect())
}

fn is_shell_script(file: &Path) -> bool {
    fs::read(workspace().join(file)).is_ok_and(|text| {
        let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
        ["#!/bin/sh", "#!/bin/bash", "#!/usr/bin/env bash"]
            .iter()
            .any(|shebang| first.starts_with(shebang.as_bytes()))
    })
}

fn is_bitbake(file: &Path) -> bool {
    let kinds = ["bb", "bbappend", "inc"];
    file.starts_with(LAYER)
        && file
            .extension()
            .is_some_and(|e| kinds.iter().any(|k| e == *k))
}

/// Every `file://` of a recipe is at the top of the tree or in a directory beside the recipe.
fn named_files_exist(recipe: &Path) -> Result<()> {
    let text = fs::read_to_string(workspace().join(recipe)).context("a recipe")?;
    let beside = workspace().join(recipe).with_file_name("lowtide");
    let words = text.split(|c: char| c.is_whitespace() || "\"';".contains(c));
    for name in words.filter_map(|w| w.strip_prefix("file://")) {
        if ![workspace(), &beside]
            .iter()
            .any(|dir| dir.join(name).exists())
        {
            bail!("{}: names {name}, which is not there", recipe.display());
        }
    }
    Ok(())
}
