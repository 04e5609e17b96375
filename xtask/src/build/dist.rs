//! `cargo xtask dist`: what a release consists of. The same source gives the same bytes: times are that of
//! the commit, and names, owners and modes are those given here.

use crate::build::{debian, packaging, programs, source};
use crate::host::dirs::{self, workspace};
use crate::host::shell::{output, run, say};
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Writes the list of what is linked in; of a version, as another may write another list.
const CYCLONEDX: &str = "0.5.9";
/// Of all packages and archives.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// make the archives of a release in target/dist: for each architecture a tarball and a Debian package,
/// the source, and checksums
#[derive(FromArgs)]
#[argh(subcommand, name = "dist")]
pub struct Dist {
    /// x86_64, aarch64, riscv64 or armv7; all of them if absent
    #[argh(option)]
    target: Vec<Arch>,
}

impl Dist {
    pub fn run(self) -> Result<ExitCode> {
        let archs = if self.target.is_empty() {
            Arch::ALL.to_vec()
        } else {
            self.target
        };
        // Once: whoever commits meanwhile makes no archives of two commits.
        let (epoch, commit) = (epoch()?, commit()?);
        let out = dirs::target().join("dist");
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(&out)?;
        let source = source::archive(epoch, &out)?;
        packaging::write(&source.archive, &source.lock, &out)?;
        for arch in archs {
            let binary = programs::build_release(arch, &commit)?;
            Parts::gather(arch, binary, epoch)?.assemble(epoch, &out)?;
        }
        checksums(&out)?;
        print!("{}", fs::read_to_string(out.join(CHECKSUMS))?);
        Ok(ExitCode::SUCCESS)
    }
}

/// Seconds since 1970 that all files get: that of the commit, unless `SOURCE_DATE_EPOCH` says another.
pub fn epoch() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => git(&["log", "-1", "--format=%ct"])?,
    };
    text.trim().parse().context("SOURCE_DATE_EPOCH")
}

/// Twelve digits of it; with `-dirty` where files are changed.
fn commit() -> Result<String> {
    let text = git(&[
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ])?;
    Ok(text.trim().to_owned())
}

fn git(arguments: &[&str]) -> Result<String> {
    output(Command::new("git").args(arguments).current_dir(workspace()))
}

/// What is put into the archives of one architecture.
pub struct Parts {
    pub arch: Arch,
    pub binary: PathBuf,
    /// CycloneDX, JSON.
    pub sbom: String,
    /// Licences of what is linked in.
    pub third_party: String,
}

/// Files of the tree, and where they lie on a device.
const INSTALLED: [(&str, &str); 6] = [
    ("pkg/config.toml", "etc/lowtide/config.toml"),
    (
        "config/lowtide.schema.json",
        "usr/lib/lowtide/lowtide.schema.json",
    ),
    ("docs/man/lowtide.8", "usr/share/man/man8/lowtide.8"),
    (
        "docs/man/lowtide.toml.5",
        "usr/share/man/man5/lowtide.toml.5",
    ),
    (
        "pkg/completions/lowtide.bash",
        "usr/share/bash-completion/completions/lowtide",
    ),
    (
        "pkg/completions/lowtide.fish",
        "usr/share/fish/vendor_completions.d/lowtide.fish",
    ),
];
const PROFILES: &str = "config/profiles";
/// Files of the tree, and where they lie in a tarball, outside of what is copied to `/`.
const BESIDE: [(&str, &str); 14] = [
    ("docs/install.md", "INSTALL.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-GPL", "LICENSE-GPL"),
    ("config/config.toml", "defaults.toml"),
    ("pkg/lowtide.service", "init/lowtide.service"),
    ("pkg/lowtide.catalog", "init/lowtide.catalog"),
    ("pkg/lowtide.init", "init/lowtide.init"),
    ("pkg/lowtide-snapshot", "lowtide-snapshot"),
    ("pkg/lowtide.procd", "init/openwrt/lowtide.procd"),
    ("pkg/lowtide.uci", "init/openwrt/lowtide.uci"),
    ("pkg/lowtide-uci", "init/openwrt/lowtide-uci"),
    (
        "pkg/completions/_lowtide",
        "root/usr/share/zsh/site-functions/_lowtide",
    ),
];

impl Parts {
    pub fn gather(arch: Arch, binary: PathBuf, epoch: u64) -> Result<Self> {
        Ok(Self {
            arch,
            binary,
            sbom: sbom(arch, epoch)?,
            third_party: third_party(arch)?,
        })
    }

    /// Makes tarball and package in `out`.
    pub fn assemble(&self, epoch: u64, out: &Path) -> Result<()> {
        self.tarball(epoch, out).map(drop)?;
        debian::package(self, epoch, out)
    }

    /// Says what its file in `out` is called.
    pub fn tarball(&self, epoch: u64, out: &Path) -> Result<String> {
        let stage = tempfile::tempdir()?;
        let name = format!("lowtide-{VERSION}-{}-linux", self.arch.name());
        let top = stage.path().join(&name);
        self.install(&top.join("root"))?;
        for (file, place) in BESIDE {
            copy(&workspace().join(file), &top.join(place))?;
        }
        fs::write(top.join("sbom.cdx.json"), &self.sbom)?;
        fs::write(top.join("THIRD-PARTY.txt"), &self.third_party)?;
        checksums(&top)?;
        tar(stage.path(), &name, epoch, out)?;
        Ok(format!("{name}.tar.gz"))
    }

    /// What is copied to `/`, whatever starts services there.
    pub fn install(&self, root: &Path) -> Result<()> {
        let binary = root.join("usr/bin/lowtide");
        copy(&self.binary, &binary)?;
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
        for (file, place) in INSTALLED {
            copy(&workspace().join(file), &root.join(place))?;
        }
        for profile in fs::read_dir(workspace().join(PROFILES))? {
            let profile = profile?;
            let place = root.join("usr/lib/lowtide/profiles");
            copy(&profile.path(), &place.join(profile.file_name()))?;
        }
        Ok(())
    }
}

/// With the directories above it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("no parent directory")?)?;
    fs::copy(from, to).with_context(|| format!("{}", from.display()))?;
    Ok(())
}

/// Packs `stage/NAME` to `out/NAME.tar.gz`.
pub fn tar(stage: &Path, name: &str, epoch: u64, out: &Path) -> Result<()> {
    run(Command::new("tar")
        .args(["--create", "--format=ustar", "--sort=name"])
        .args([
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mode=u=rwX,go=rX",
        ])
        .arg(format!("--mtime=@{epoch}"))
        .arg("--use-compress-program=gzip -9n")
        .arg("--file")
        .arg(out.join(format!("{name}.tar.gz")))
        .arg("--directory")
        .arg(stage)
        .arg(name))
}

const CHECKSUMS: &str = "SHA256SUMS";

/// Of all files below `dir`, as `sha256sum --check` reads them.
fn checksums(dir: &Path) -> Result<()> {
    let mut files = Vec::new();
    below(dir, Path::new(""), &mut files)?;
    files.sort();
    let sums = output(Command::new("sha256sum").args(&files).current_dir(dir))?;
    fs::write(dir.join(CHECKSUMS), sums)?;
    Ok(())
}

fn below(dir: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir.join(inside))? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            below(dir, &path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Where cargo-cyclonedx is; from crates.io, once.
pub fn cyclonedx() -> Result<PathBuf> {
    let tool = dirs::cache("cargo-cyclonedx")?.join(CYCLONEDX);
    dirs::make_once(&tool, |into| {
        say(format_args!("building cargo-cyclonedx {CYCLONEDX}, once"));
        run(Command::new("cargo")
            .env_remove("CARGO_TARGET_DIR")
            .args(["install", "--quiet", "--locked", "--no-track"])
            .args(["cargo-cyclonedx", "--version", CYCLONEDX, "--root"])
            .arg(into))
    })?;
    Ok(tool.join("bin/cargo-cyclonedx"))
}

/// Lists what is linked in, as CycloneDX; no path of this machine is in it.
fn sbom(arch: Arch, epoch: u64) -> Result<String> {
    let tool = cyclonedx()?;
    // It writes beside each manifest.
    let stage = tempfile::tempdir()?;
    source::trimmed(stage.path())?;
    run(Command::new(tool)
        .args([
            "cyclonedx",
            "--quiet",
            "--format",
            "json",
            "--spec-version",
            "1.5",
        ])
        .args(["--no-build-deps", "--override-filename", "sbom", "--target"])
        .arg(arch.triple())
        .arg("--manifest-path")
        .arg(stage.path().join("agent/Cargo.toml"))
        .env("SOURCE_DATE_EPOCH", epoch.to_string()))?;
    let text = fs::read_to_string(stage.path().join("agent/sbom.json"))?;
    let here = stage.path().to_str().context("a path is not UTF-8")?;
    Ok(text.replace(here, "/lowtide"))
}

/// The licence of each crate that is linked in, with the texts that it comes with.
fn third_party(arch: Arch) -> Result<String> {
    let list = output(
        Command::new("cargo")
            .args([
                "tree",
                "--locked",
                "--package",
                "lowtide",
                "--edges",
                "normal",
            ])
            .args(["--prefix", "none", "--format", "{p}|{l}", "--target"])
            .arg(arch.triple())
            .current_dir(workspace()),
    )?;
    let crates: BTreeSet<&str> = list.lines().filter(|l| !l.contains(" (")).collect();
    ensure!(
        crates.len() > 10,
        "cargo tree lists {} crates",
        crates.len()
    );
    let mut text = "What is linked into lowtide beside its own code. The Rust standard library (MIT OR \
                    Apache-2.0, The Rust Project Developers) and musl (MIT, Rich Felker and others) are, \
                    too.\n"
        .to_owned();
    for line in crates {
        let (package, licence) = line.split_once('|').context("cargo tree")?;
        let dir = package.replacen(" v", "-", 1);
        text.push_str(&format!("\n======== {dir}: {licence}\n"));
        let mut files: Vec<PathBuf> = Vec::new();
        for source in programs::registry_sources()? {
            let entries = fs::read_dir(source.join(&dir)).into_iter().flatten();
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        files.retain(|file| is_licence(file));
        files.sort();
        if files.is_empty() {
            text.push_str("Its package brings no text of it.\n");
        }
        for file in files {
            text.push('\n');
            text.push_str(fs::read_to_string(&file)?.trim_end());
            text.push('\n');
        }
    }
    Ok(text)
}

/// The text of Apache-2.0 is in the archives once; all that name it offer MIT as well, or are under it.
fn is_licence(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_ascii_uppercase();
    file.is_file()
        && ["LICENSE", "LICENCE", "COPYING", "NOTICE"]
            .iter()
            .any(|n| name.starts_with(n))
        && !name.contains("APACHE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(dir: &Path) -> Parts {
        let binary = dir.join("lowtide");
        fs::write(&binary, "a program").unwrap();
        Parts {
            arch: Arch::Aarch64,
            binary,
            sbom: "{}".into(),
            third_party: "others".into(),
        }
    }

    /// With other times and modes of the files that they are made of.
    #[test]
    fn the_same_source_gives_the_same_bytes() -> Result<()> {
        let made = |mode| -> Result<Vec<(PathBuf, Vec<u8>)>> {
            let (dir, out) = (tempfile::tempdir()?, tempfile::tempdir()?);
            let parts = parts(dir.path());
            fs::set_permissions(&parts.binary, fs::Permissions::from_mode(mode))?;
            parts.assemble(1_700_000_000, out.path())?;
            checksums(out.path())?;
            let mut files = Vec::new();
            below(out.path(), Path::new(""), &mut files)?;
            files.sort();
            let read = |file: PathBuf| Ok((file.clone(), fs::read(out.path().join(file))?));
            files.into_iter().map(read).collect()
        };
        let first = made(0o644)?;
        assert_eq!(first.len(), 3);
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let second = made(0o700)?;
        for ((name, one), (_, other)) in first.iter().zip(&second) {
            assert!(one == other, "{}", name.display());
        }
        Ok(())
    }

    #[test]
    fn a_tarball_has_what_a_device_needs() -> Result<()> {
        let (dir, out) = (tempfile::tempdir()?, tempfile::tempdir()?);
        parts(dir.path()).tarball(1_700_000_000, out.path())?;
        let name = format!("lowtide-{VERSION}-aarch64-linux");
        run(Command::new("tar")
            .arg("-xzf")
            .arg(out.path().join(format!("{name}.tar.gz")))
            .current_dir(out.path()))?;
        let top = out.path().join(name);
        run(Command::new("sha256sum")
            .args(["--check", "--quiet", CHECKSUMS])
            .current_dir(&top))?;
        for file in [
            "root/usr/bin/lowtide",
            "root/usr/lib/lowtide/profiles/router.toml",
            "root/etc/lowtide/config.toml",
            "init/lowtide.service",
            "sbom.cdx.json",
            "LICENSE-GPL",
        ] {
            assert!(top.join(file).exists(), "{file}");
        }
        Ok(())
    }
}
