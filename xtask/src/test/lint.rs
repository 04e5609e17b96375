//! Checks of what the compiler does not see: dependencies, shell scripts, manual pages, the Yocto layer.

use crate::build::dist::{self, Parts};
use crate::build::packaging;
use crate::build::programs::{self, Profile};
use crate::build::yocto::YoctoCrates;
use crate::host::apt;
use crate::host::dirs::{self, workspace};
use crate::host::shell::{exists, output, run, say};
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result, bail, ensure};
use argh::FromArgs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LAYER: &str = "yocto-layer";
const PAGES: &str = "docs/man";

/// The release whose rules the layer keeps to: a newer one may have more.
const OELINT: &str = "9.11.2";

/// One kind of files and what looks at them.
pub struct Check {
    pub name: &'static str,
    /// Gets the checker ready; an error where it cannot be had.
    pub get: fn() -> Result<()>,
    /// An error if there is a finding.
    pub check: fn(()) -> Result<()>,
}

pub const LINTS: [Check; 7] = [
    Check {
        name: "crates and files that the recipes name",
        get: || Ok(()),
        check: |()| {
            YoctoCrates { check: true }.run()?;
            tracked(is_bitbake)?
                .iter()
                .try_for_each(|f| named_files_exist(f))
        },
    },
    Check {
        name: "licences and sources of dependencies",
        get: || {
            ensure!(
                exists("cargo-deny"),
                "no cargo-deny: `cargo install --locked cargo-deny`"
            );
            Ok(())
        },
        // Not advisories: they are fetched anew each time, and a new one is no fault of a change.
        check: |()| {
            run(Command::new("cargo")
                .args(["deny", "--workspace", "--locked", "check"])
                .args(["bans", "licenses", "sources"])
                .current_dir(workspace()))
        },
    },
    Check {
        name: "shell scripts",
        get: || apt::need("shellcheck", || exists("shellcheck")),
        check: |()| {
            run(Command::new("shellcheck")
                .arg("--external-sources")
                .args(tracked(is_shell_script)?)
                .current_dir(workspace()))
        },
    },
    Check {
        name: "manual pages",
        get: || apt::need("mandoc", || exists("mandoc")),
        check: |()| {
            run(Command::new("mandoc")
                .args(["-Tlint", "-Wwarning"])
                .args(tracked(|f| f.starts_with(PAGES))?)
                .current_dir(workspace()))
        },
    },
    Check {
        name: "the Yocto layer",
        get: || oelint().map(drop),
        check: |()| {
            let top = tracked(|f| is_bitbake(f) && f.extension().is_some_and(|e| e != "inc"))?;
            let site = oelint()?;
            // It takes its settings from the directory that it runs in.
            run(Command::new("python3")
                .env("PYTHONPATH", &site)
                .arg(site.join("bin/oelint-adv"))
                .arg("--quiet")
                .args(top.iter().map(|f| workspace().join(f)))
                .current_dir(workspace().join(LAYER)))
        },
    },
    Check {
        name: "recipes that others take: of a release, and in the docs",
        get: || oelint().map(drop),
        check: |()| recipes_of_others(),
    },
    Check {
        name: "the Debian package",
        get: || {
            dist::cyclonedx()?;
            apt::need("lintian", || exists("lintian"))
        },
        check: |()| debian_package(),
    },
];

/// Each in a layer of its own, as it would be there.
fn recipes_of_others() -> Result<()> {
    let layer = tempfile::tempdir()?;
    let put = |file: &str, text: String| -> Result<PathBuf> {
        let file = layer.path().join("recipes-core/lowtide").join(file);
        fs::create_dir_all(file.parent().context("no parent directory")?)?;
        fs::write(&file, text)?;
        Ok(file)
    };
    let page = "docs/yocto.md";
    put("files/50-product.toml", String::new())?;
    put("lowtide/run-ptest", String::new())?;
    put(
        "lowtide-crates.inc",
        dirs::tree_text("yocto-layer/recipes-core/lowtide/lowtide-crates.inc"),
    )?;
    let files = [
        put(
            "lowtide_%.bbappend",
            dirs::doc_block(page, "FILESEXTRAPATHS"),
        )?,
        put(
            &format!("lowtide_{}.bb", dist::VERSION),
            packaging::recipe()?,
        )?,
    ];
    let site = oelint()?;
    run(Command::new("python3")
        .env("PYTHONPATH", &site)
        .arg(site.join("bin/oelint-adv"))
        // It asks the network for HOMEPAGE, which there is none of yet.
        .args(["--quiet", "--suppress", "oelint.vars.homepageping"])
        .args(files)
        .current_dir(workspace().join(LAYER)))
}

/// Looked at by lintian, whose errors count.
fn debian_package() -> Result<()> {
    let out = tempfile::tempdir()?;
    let arch = Arch::X86_64;
    let binary = programs::build_agent(arch, Profile::Release)?;
    let epoch = dist::epoch()?;
    Parts::gather(arch, binary, epoch)?.assemble(epoch, out.path())?;
    let packages = fs::read_dir(out.path())?.collect::<Result<Vec<_>, _>>()?;
    let packages = packages.iter().map(fs::DirEntry::path);
    let package = packages.filter(|file| file.extension().is_some_and(|e| e == "deb"));
    run(Command::new("lintian")
        .args([
            "--allow-root",
            "--fail-on",
            "error",
            "--display-level",
            ">=warning",
        ])
        .args(package))
}

/// check dependencies (cargo-deny), shell scripts (shellcheck), manual pages (mandoc), recipes (oelint-adv) and the
/// Debian package (lintian)
#[derive(FromArgs)]
#[argh(subcommand, name = "lint")]
pub struct Lint {
    /// only those whose name contains this
    #[argh(positional)]
    filter: Option<String>,
}

impl Lint {
    pub fn run(self) -> Result<ExitCode> {
        let is_wanted = |name: &str| self.filter.as_deref().is_none_or(|f| name.contains(f));
        for lint in LINTS.iter().filter(|lint| is_wanted(lint.name)) {
            say(lint.name);
            (lint.get)().and_then(lint.check).context(lint.name)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where oelint-adv is, with all that it imports; from PyPI, once.
fn oelint() -> Result<PathBuf> {
    let dir = dirs::cache("oelint-adv")?.join(OELINT);
    dirs::make_once(&dir, |into| {
        apt::need("python3-venv", || {
            output(Command::new("python3").args(["-c", "import ensurepip"])).is_ok()
        })?;
        // Only for its pip: a venv cannot be moved to another place.
        let venv = tempfile::tempdir()?;
        run(Command::new("python3")
            .args(["-m", "venv"])
            .arg(venv.path()))?;
        run(Command::new(venv.path().join("bin/pip"))
            .args(["install", "--quiet", "--target"])
            .arg(into)
            .arg(format!("oelint-adv=={OELINT}")))
    })?;
    Ok(dir)
}

/// The files under version control that are `of_kind`, relative to the top.
fn tracked(of_kind: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let list = output(
        Command::new("git")
            .args(["ls-files", "-z"])
            .current_dir(workspace()),
    )?;
    let files = list.split_terminator('\0').map(PathBuf::from);
    Ok(files.filter(|f| of_kind(f)).collect())
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
