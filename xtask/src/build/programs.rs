//! Static builds of this workspace's programs.

use crate::host::dirs;
use crate::host::shell::{run, say};
use crate::host::toolchain::{self, Arch};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;

/// Cargo profile that a program is built with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What is shipped.
    Release,
    /// The same behaviour, linked faster, and an allocation on the hot path ends the agent.
    Guest,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Guest => "guest",
        }
    }
}

/// The programs that go into a guest.
#[derive(Clone, Debug)]
pub struct Programs {
    pub agent: PathBuf,
    /// Init and loads.
    pub guest: PathBuf,
}

/// Builds agent and guest program.
pub fn build(arch: Arch, profile: Profile) -> Result<Programs> {
    let packages = ["lowtide", "lowtide-guest"];
    let built = cargo_build(arch, profile, &packages, &[], None)?;
    Ok(Programs {
        agent: built.join("lowtide"),
        guest: built.join("lowtide-guest"),
    })
}

/// Builds the agent alone.
pub fn build_agent(arch: Arch, profile: Profile) -> Result<PathBuf> {
    Ok(cargo_build(arch, profile, &["lowtide"], &[], None)?.join("lowtide"))
}

/// Builds the agent alone, as shipped, and has it know its commit.
pub fn build_release(arch: Arch, commit: &str) -> Result<PathBuf> {
    let built = cargo_build(arch, Profile::Release, &["lowtide"], &[], Some(commit))?;
    Ok(built.join("lowtide"))
}

/// Where cargo unpacks the crates of registries.
pub fn registry_sources() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let sources = home.context("HOME is not set")?.join("registry/src");
    let entries = fs::read_dir(&sources).with_context(|| format!("{}", sources.display()))?;
    let mut found = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

/// What the linker put where, when the agent was built last.
pub fn link_map(arch: Arch, profile: Profile) -> PathBuf {
    built(arch, profile).join("lowtide.map")
}

/// Builds what measures the agent's engines, as they are shipped.
pub fn build_bench(arch: Arch) -> Result<PathBuf> {
    let features = ["--features=lowtide-guest/bench"];
    let built = cargo_build(arch, Profile::Release, &["lowtide-guest"], &features, None)?;
    Ok(built.join("lowtide-bench"))
}

/// For rust-lld: an eighth of a program is for unwinding, which never happens, also in the standard
/// library as rustup ships it; functions of the same code are kept once; and where the musl that comes
/// with the compiler (1.2.5) knows packed relocations, they are a thirtieth. Names that hold the types a
/// function is made for tell `agent/cold.ld` what belongs to those.
fn smaller() -> Result<Vec<String>> {
    let mut flags = vec![
        "-Clink-arg=-Tcross/no-unwind-tables.ld".to_owned(),
        "-Clink-arg=--icf=all".to_owned(),
        "-Csymbol-mangling-version=v0".to_owned(),
    ];
    let version = toolchain::version()?;
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|n| n.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor >= 93) {
        flags.push("-Clink-arg=--pack-dyn-relocs=relr".to_owned());
    }
    Ok(flags)
}

fn built(arch: Arch, profile: Profile) -> PathBuf {
    dirs::target().join(arch.triple()).join(profile.name())
}

/// Builds packages and says in which directory their programs are.
fn cargo_build(
    arch: Arch,
    profile: Profile,
    packages: &[&str],
    features: &[&str],
    commit: Option<&str>,
) -> Result<PathBuf> {
    let toolchain = match profile {
        Profile::Release => toolchain::prepare_small(arch)?,
        Profile::Guest => toolchain::prepare(arch)?,
    };
    say(format_args!(
        "building {} for {}",
        packages.join(" and "),
        arch.triple()
    ));
    let mut flags = smaller()?;
    if toolchain.is_small() {
        // Cargo does not tell standard libraries of one compiler apart; crates built with another are in
        // the way.
        flags.push("--cfg=std_for_size".to_owned());
    }
    flags.extend((!arch.code().is_empty()).then(|| arch.code().to_owned()));
    if profile == Profile::Release {
        // The places of panics in them; those of the workspace are relative.
        let crates = registry_sources()?;
        flags.extend(
            crates
                .iter()
                .map(|dir| format!("--remap-path-prefix={}=/crates", dir.display())),
        );
    }
    run(toolchain
        .cargo()
        .current_dir(dirs::workspace())
        .envs(commit.map(|commit| ("LOWTIDE_COMMIT", commit)))
        .env("LOWTIDE_LINK_MAP", link_map(arch, profile))
        .args(["build", "--quiet", "--locked", "--profile", profile.name()])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(features)
        .args((profile == Profile::Guest).then_some("--features=lowtide/abort-on-alloc"))
        .arg("--config")
        .arg(format!("target.{}.rustflags={:?}", arch.triple(), flags))
        .args(["--target", arch.triple(), "--target-dir"])
        .arg(dirs::target()))?;
    Ok(built(arch, profile))
}
