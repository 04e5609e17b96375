//! `cargo xtask build`: the agent as it is shipped.

mod debian;
pub mod dist;
pub mod ebpf;
pub mod packaging;
pub mod programs;
pub mod source;
pub mod yocto;

use self::programs::Profile;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use anyhow::Result;
use argh::FromArgs;
use std::fs;
use std::process::ExitCode;

/// build the agent as one static stripped binary
#[derive(FromArgs)]
#[argh(subcommand, name = "build")]
pub struct Build {
    /// x86_64, aarch64, riscv64 or armv7; all of them if absent
    #[argh(option)]
    target: Vec<Arch>,
}

impl Build {
    pub fn run(self) -> Result<ExitCode> {
        let targets = if self.target.is_empty() {
            Arch::ALL.to_vec()
        } else {
            self.target
        };
        for arch in targets {
            let binary = programs::build_agent(arch, Profile::Release)?;
            let size = fs::metadata(&binary)?.len();
            let shown = binary.strip_prefix(dirs::workspace()).unwrap_or(&binary);
            println!(
                "{:8} {:5} KB  {}",
                arch.name(),
                size.div_ceil(1000),
                shown.display()
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
