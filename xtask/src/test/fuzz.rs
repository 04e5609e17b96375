//! `cargo xtask fuzz`: every fuzz target for a while, starting from the corpus that is kept.

use crate::host::dirs;
use crate::host::shell::{run, say};
use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use std::fs;
use std::process::{Command, ExitCode};

/// Fuzz targets, with where more inputs to start from lie.
const TARGETS: [(&str, &[&str]); 3] = [
    ("config", &["config", "agent-config/src/tests/golden"]),
    ("judge", &[]),
    ("readers", &["agent/src/sense/bpf"]),
];

/// run each fuzz target for a while; what it finds goes to fuzz/artifacts
#[derive(FromArgs)]
#[argh(subcommand, name = "fuzz")]
pub struct Fuzz {
    /// seconds for each target, 60 if absent
    #[argh(option, default = "60")]
    seconds: u32,
    /// add inputs that reach new code to the kept corpus
    #[argh(switch)]
    grow: bool,
}

impl Fuzz {
    pub fn run(self) -> Result<ExitCode> {
        self.all()?;
        Ok(ExitCode::SUCCESS)
    }

    /// As long as a test may take; nothing is kept.
    pub fn briefly() -> Result<()> {
        Self {
            seconds: 10,
            grow: false,
        }
        .all()
    }

    /// An error where it cannot run: libFuzzer is built from C++.
    pub fn ready() -> Result<()> {
        let compiler = Command::new("c++").arg("--version").output();
        let there = compiler.is_ok_and(|output| output.status.success());
        ensure!(there, "no C++ compiler for libFuzzer: install g++");
        Ok(())
    }

    fn all(self) -> Result<()> {
        let fuzz = dirs::workspace().join("fuzz");
        let artifacts = fuzz.join("artifacts");
        fs::create_dir_all(&artifacts).context("cannot make fuzz/artifacts")?;
        for (name, more) in TARGETS {
            say(format!("fuzzing {name} for {} s", self.seconds));
            let found = tempfile::tempdir()?;
            let mut command = Command::new(env!("CARGO"));
            // Its own `.cargo/config.toml`, which instruments the build, counts from there.
            command
                .current_dir(&fuzz)
                .args(["run", "--release", "--quiet", "--bin", name, "--"])
                .arg(format!("-max_total_time={}", self.seconds))
                .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
                .args(["-max_len=4096", "-print_final_stats=1", "-verbosity=0"]);
            if fuzz.join(name).with_extension("dict").exists() {
                command.arg(format!("-dict={name}.dict"));
            }
            if !self.grow {
                command.arg(found.path());
            }
            command.arg(fuzz.join("corpus").join(name));
            command.args(more.iter().map(|dir| dirs::workspace().join(dir)));
            run(&mut command)?;
        }
        Ok(())
    }
}
