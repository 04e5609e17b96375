//! Static builds of this workspace's programs.

use crate::host::dirs;
use crate::host::shell::{run, say};
use crate::host::toolchain::{self, Arch};
use anyhow::Result;
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
    let built = cargo_build(arch, profile, &["lowtide", "lowtide-guest"], &[])?;
    Ok(Programs {
        agent: built.join("lowtide"),
        guest: built.join("lowtide-guest"),
    })
}

/// Builds the agent alone.
pub fn build_agent(arch: Arch, profile: Profile) -> Result<PathBuf> {
    Ok(cargo_build(arch, profile, &["lowtide"], &[])?.join("lowtide"))
}

/// What the linker put where, when the agent was built last.
pub fn link_map(arch: Arch, profile: Profile) -> PathBuf {
    built(arch, profile).join("lowtide.map")
}

/// Builds what measures the agent's engines, as they are shipped.
pub fn build_bench(arch: Arch) -> Result<PathBuf> {
    let features = ["--features=lowtide-guest/bench"];
    let built = cargo_build(arch, Profile::Release, &["lowtide-guest"], &features)?;
    Ok(built.join("lowtide-bench"))
}

/// For rust-lld: an eighth of a program is for unwinding, which never happens, also in the standard
/// library as rustup ships it; functions of the same code are kept once; and where the musl that comes
/// with the compiler (1.2.5) knows packed relocations, they are a thirtieth.
fn smaller() -> Result<Vec<&'static str>> {
    let mut flags = vec![
        "-Clink-arg=-Tcross/no-unwind-tables.ld",
        "-Clink-arg=--icf=all",
    ];
    let version = toolchain::version()?;
    let minor = version
        .split('.')
        .nth(1)
        .and_then(|n| n.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor >= 93) {
        flags.push("-Clink-arg=--pack-dyn-relocs=relr");
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
) -> Result<PathBuf> {
    let toolchain = toolchain::prepare(arch)?;
    say(format_args!(
        "building {} for {}",
        packages.join(" and "),
        arch.triple()
    ));
    run(toolchain
        .cargo()
        .current_dir(dirs::workspace())
        .env("LOWTIDE_LINK_MAP", link_map(arch, profile))
        .args(["build", "--quiet", "--locked", "--profile", profile.name()])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .args(features)
        .args((profile == Profile::Guest).then_some("--features=lowtide/abort-on-alloc"))
        .arg("--config")
        .arg(format!(
            "target.{}.rustflags={:?}",
            arch.triple(),
            smaller()?
        ))
        .args(["--target", arch.triple(), "--target-dir"])
        .arg(dirs::target()))?;
    Ok(built(arch, profile))
}
