//! Architectures, and a Rust toolchain that builds static programs for them.

use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::shell::{exists, output, run, say};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
    Riscv64,
    Armv7,
}

impl Arch {
    pub const ALL: [Self; 4] = [Self::X86_64, Self::Aarch64, Self::Riscv64, Self::Armv7];

    /// Of this machine.
    pub fn host() -> Result<Self> {
        let host = std::env::consts::ARCH;
        host.parse().map_err(anyhow::Error::msg)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
            Self::Armv7 => "armv7",
        }
    }

    /// As Debian names it.
    pub const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
            Self::Riscv64 => "riscv64",
            Self::Armv7 => "armhf",
        }
    }

    /// The Rust target of static programs.
    pub const fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-musl",
            Self::Aarch64 => "aarch64-unknown-linux-musl",
            Self::Riscv64 => "riscv64gc-unknown-linux-musl",
            Self::Armv7 => "armv7-unknown-linux-musleabihf",
        }
    }

    /// For the compiler: every ARMv7-A has Thumb-2, which takes a quarter less. rustc warns that this
    /// feature has no stable name yet.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Armv7 => "-Ctarget-feature=+thumb-mode",
            Self::X86_64 | Self::Aarch64 | Self::Riscv64 => "",
        }
    }

    /// Directory name of its C library in Debian's musl-dev.
    const fn musl(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-musl",
            Self::Aarch64 => "aarch64-linux-musl",
            Self::Riscv64 => "riscv64-linux-musl",
            Self::Armv7 => "arm-linux-musleabihf",
        }
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == text)
            .ok_or_else(|| {
                format!(
                    "{text:?} is none of {}",
                    Self::ALL.map(Self::name).join(", ")
                )
            })
    }
}

/// The cargo to build static programs for one architecture with.
pub struct Toolchain {
    /// Of a toolchain copy that is used directly; `None` for the cargo in use.
    copy: Option<PathBuf>,
}

impl Toolchain {
    pub fn sysroot(&self) -> Result<PathBuf> {
        self.copy.clone().map_or_else(sysroot, Ok)
    }

    /// Whether its standard libraries are those that are built here.
    pub fn is_small(&self) -> bool {
        self.copy.is_some()
    }

    pub fn cargo(&self) -> Command {
        let Some(copy) = &self.copy else {
            return Command::new("cargo");
        };
        let bin = copy.join("bin");
        let mut command = Command::new(bin.join("cargo"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(bin).chain(std::env::split_paths(&path));
        command
            .env(
                "PATH",
                std::env::join_paths(path).expect("no colon in a path that came from PATH"),
            )
            // rustup points these at the toolchain that the copy was made from.
            .env_remove("RUSTC")
            .env_remove("LD_LIBRARY_PATH");
        command
    }
}

/// Makes sure that the standard library for `arch` is there: as it is, from rustup, or where
/// neither is to be had, built from source into a hard-linked copy of the toolchain in the cache.
pub fn prepare(arch: Arch) -> Result<Toolchain> {
    let sysroot = sysroot()?;
    let triple = arch.triple();
    if has_std(&sysroot, triple) {
        return Ok(Toolchain { copy: None });
    }
    let copy = copy_dir()?;
    if has_std(&copy, triple) {
        return Ok(Toolchain { copy: Some(copy) });
    }
    if exists("rustup") {
        say(format_args!("asking rustup for {triple}"));
        let mut add = Command::new("rustup");
        add.args(["target", "add", triple])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if run(&mut add).is_ok() && has_std(&sysroot, triple) {
            return Ok(Toolchain { copy: None });
        }
    }
    small(arch)
}

/// As [`prepare`], for what is shipped: the standard library that is made for size. Where it cannot be
/// built, the one that is there does.
pub fn prepare_small(arch: Arch) -> Result<Toolchain> {
    small(arch).or_else(|e| {
        say(format_args!(
            "WARNING: no standard library made for size, the program will be larger: {e:#}"
        ));
        prepare(arch)
    })
}

/// A copy of the toolchain whose standard library is built from source, once: made for size, and without
/// what prints a backtrace, which takes an eighth of a program and has no names where that is stripped.
fn small(arch: Arch) -> Result<Toolchain> {
    let copy = copy_dir()?;
    let toolchain = copy_with_source(&sysroot()?, &copy)?;
    if !has_std(&copy, arch.triple()) {
        say(format_args!(
            "building the standard library for {}, once",
            arch.triple()
        ));
        build_std(arch, &toolchain, &copy)?;
    }
    Ok(toolchain)
}

/// A toolchain that has the source of the standard library: the one in use, or a copy.
pub fn with_source() -> Result<Toolchain> {
    let sysroot = sysroot()?;
    if has_source(&sysroot) {
        return Ok(Toolchain { copy: None });
    }
    copy_with_source(&sysroot, &copy_dir()?)
}

/// Where a copy of the toolchain in use is, or would be: its compiler, and no standard library but that
/// of the host and those that are built here.
fn copy_dir() -> Result<PathBuf> {
    Ok(dirs::cache("toolchains")?.join(format!("{}-small", version()?)))
}

fn copy_with_source(sysroot: &Path, copy: &Path) -> Result<Toolchain> {
    dirs::make_once(copy, |into| {
        for part in ["bin", "lib", "libexec"] {
            let from = sysroot.join(part);
            if from.exists() {
                link_tree(&from, &into.join(part))?;
            }
        }
        for arch in Arch::ALL {
            let std = into.join("lib/rustlib").join(arch.triple());
            if std.exists() {
                fs::remove_dir_all(std)?;
            }
        }
        Ok(())
    })?;
    add_source(copy)?;
    Ok(Toolchain {
        copy: Some(copy.to_owned()),
    })
}

/// Of the toolchain in use.
pub fn sysroot() -> Result<PathBuf> {
    let path = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(path.trim_end()))
}

/// Of rustc, as in `1.95.0`.
pub fn version() -> Result<String> {
    let text = output(Command::new("rustc").arg("--version"))?;
    text.split_whitespace()
        .nth(1)
        .map(String::from)
        .context("rustc --version says nothing")
}

fn has_std(sysroot: &Path, triple: &str) -> bool {
    let lib = sysroot.join("lib/rustlib").join(triple).join("lib");
    fs::read_dir(lib).is_ok_and(|mut entries| {
        entries.any(|e| {
            e.is_ok_and(|e| {
                let name = e.file_name();
                let name = name.to_string_lossy();
                name.starts_with("libstd-") && name.ends_with(".rlib")
            })
        })
    })
}

/// A copy that shares its files where the file system allows it.
fn link_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            link_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if fs::hard_link(&source, &target).is_err() {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn source(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust")
}

fn has_source(sysroot: &Path) -> bool {
    source(sysroot).join("library/Cargo.lock").exists()
}

/// Puts the source of the standard library where cargo's build-std looks for it.
fn add_source(sysroot: &Path) -> Result<()> {
    if has_source(sysroot) {
        return Ok(());
    }
    let source = source(sysroot);
    let version = version()?;
    let unpacked = dirs::cache("rust-src")?.join(&version);
    dirs::make_once(&unpacked, |into| {
        for suite in ["trixie-backports", "trixie", "sid"] {
            // Every architecture's list has what is for all of them.
            let apt = Apt::open(suite, Arch::X86_64.debian())?;
            let versions = apt.versions("rust-src")?;
            if let Some(fits) = versions
                .iter()
                .find(|v| v.starts_with(&format!("{version}+")))
            {
                return apt.unpack(&[format!("rust-src={fits}")], into);
            }
        }
        bail!(
            "no rust-src {version} in Debian: run `rustup component add rust-src` or \
             `rustup target add` for the target"
        )
    })?;
    let _ = fs::remove_dir_all(&source);
    fs::create_dir_all(source.parent().context("no parent directory")?)?;
    std::os::unix::fs::symlink(unpacked.join("usr/lib/rustlib/src/rust"), &source)?;
    Ok(())
}

/// Fills `rustlib/TRIPLE` as `rustup target add` would. That library does not unwind: programs for
/// it are built with `panic = "abort"`.
fn build_std(arch: Arch, toolchain: &Toolchain, sysroot: &Path) -> Result<()> {
    let triple = arch.triple();
    dirs::make_once(&sysroot.join("lib/rustlib").join(triple), |into| {
        let lib = into.join("lib");
        let startup = lib.join("self-contained");
        fs::create_dir_all(&startup)?;
        let work = tempfile::tempdir()?;

        // An older musl lacks what the standard library calls since Rust 1.93.
        Apt::unpack_first(
            &["trixie", "sid"],
            arch.debian(),
            &["musl-dev"],
            work.path(),
        )?;
        let musl = work.path().join("usr/lib").join(arch.musl());
        for name in ["crt1.o", "crti.o", "crtn.o", "rcrt1.o", "Scrt1.o", "libc.a"] {
            fs::copy(musl.join(name), startup.join(name))
                .with_context(|| format!("{name} of musl for {triple}"))?;
        }
        let package = work.path().join("std");
        fs::create_dir_all(package.join("src"))?;
        fs::write(package.join("src/lib.rs"), "#![no_std]\n")?;
        fs::write(package.join("Cargo.toml"), STD_MANIFEST)?;
        run(toolchain
            .cargo()
            .current_dir(&package)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", package.join("target"))
            .env(
                "RUSTFLAGS",
                [
                    "-Cembed-bitcode=yes",
                    "-Zforce-unstable-if-unmarked",
                    arch.code(),
                ]
                .join(" ")
                .trim_end(),
            )
            .args(["build", "--quiet", "--release", "--target", triple])
            .args([
                "-Zbuild-std=std,panic_abort",
                "-Zbuild-std-features=optimize_for_size",
            ]))?;
        for entry in fs::read_dir(package.join("target").join(triple).join("release/deps"))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.ends_with(".rlib") && !name.starts_with("libstdonly-") {
                fs::copy(&path, lib.join(name))?;
            }
        }
        // What unwinding and C++ constructors need is not needed here: rust-lld makes the tables
        // that musl runs, so that empty files do.
        fs::write(startup.join("libunwind.a"), "!<arch>\n")?;
        let empty = work.path().join("empty.rs");
        fs::write(&empty, "#![no_std]\n")?;
        for name in ["crtbegin", "crtend", "crtbeginS", "crtendS", "crtbeginT"] {
            run(Command::new(sysroot.join("bin/rustc"))
                .env_remove("LD_LIBRARY_PATH")
                .args([
                    "--target",
                    triple,
                    "--crate-type",
                    "lib",
                    "--crate-name",
                    "empty",
                ])
                .args(["--emit", "obj", "-Cpanic=abort", "-L"])
                .arg(&lib)
                .arg("-o")
                .arg(startup.join(format!("{name}.o")))
                .arg(&empty))?;
        }
        Ok(())
    })
}

const STD_MANIFEST: &str = r#"
[package]
name = "stdonly"
version = "0.0.0"
edition = "2024"
[workspace]
[profile.release]
opt-level = "z"
panic = "abort"
codegen-units = 4
"#;
