//! Static builds of this workspace's programs.

use crate::dirs;
use crate::shell::{run, say};
use crate::target::{self, Arch};
use anyhow::Result;
use std::path::PathBuf;

/// Cargo profile that a program is built with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What is shipped.
    Release,
    /// The same behaviour, linked faster.
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
    let toolchain = target::prepare(arch)?;
    say(format_args!("building the programs for {}", arch.triple()));
    run(toolchain
        .cargo()
        .current_dir(dirs::workspace())
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "lowtide",
            "--package",
            "lowtide-guest",
        ])
        .args([
            "--profile",
            profile.name(),
            "--target",
            arch.triple(),
            "--target-dir",
        ])
        .arg(dirs::target()))?;
    let built = dirs::target().join(arch.triple()).join(profile.name());
    Ok(Programs {
        agent: built.join("lowtide"),
        guest: built.join("lowtide-guest"),
    })
}
