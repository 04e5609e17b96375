//! `cargo xtask vm`: one guest by hand.

use crate::build::programs::{self, Profile};
use crate::host::toolchain::Arch;
use crate::scenario::{self, CONFIG};
use crate::vm::Guest;
use crate::vm::kernel;
use crate::vm::qemu;
use anyhow::{Context as _, Result, bail};
use argh::FromArgs;
use lowtide_guest::{Event, Scenario, Service, What};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Name of the service that a command runs as.
const COMMAND: &str = "command";

/// boot a guest, run a scenario or a command in it, print what happens
#[derive(FromArgs)]
#[argh(subcommand, name = "vm")]
pub struct Vm {
    /// kernel version, e.g. 6.12; the newest 7.x if absent
    #[argh(option)]
    kernel: Option<String>,
    /// x86_64 (default), aarch64 or riscv64
    #[argh(option, default = "Arch::X86_64")]
    arch: Arch,
    /// memory in MiB, 256 if absent
    #[argh(option, default = "256")]
    mem: u32,
    /// JSON file with the scenario
    #[argh(option)]
    scenario: Option<PathBuf>,
    /// config of the agent, which is then started
    #[argh(option)]
    config: Option<PathBuf>,
    /// HOST=GUEST, a file to put into the guest; may be repeated
    #[argh(option)]
    file: Vec<String>,
    /// more words for the kernel's command line
    #[argh(option, default = "String::new()")]
    append: String,
    /// seconds from boot after which the guest ends; the scenario's, or 60
    #[argh(option)]
    limit: Option<u64>,
    /// with a command: print all events, not only its output
    #[argh(switch)]
    events: bool,
    /// command to run in the guest; its exit code becomes ours
    #[argh(positional, greedy)]
    command: Vec<String>,
}

impl Vm {
    pub fn run(self) -> Result<ExitCode> {
        let mut scenario = match &self.scenario {
            Some(path) => {
                let text =
                    fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_slice(&text).with_context(|| path.display().to_string())?
            }
            None => Scenario::default(),
        };
        if let Some(path) = &self.config {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            scenario.files.insert(CONFIG.into(), text);
            scenario.services.insert(0, scenario::agent());
        }
        let command = self
            .command
            .strip_prefix(&["--".to_owned()])
            .unwrap_or(&self.command);
        if !command.is_empty() {
            scenario.services.push(Service {
                name: COMMAND.into(),
                command: command.to_vec(),
                cgroup: COMMAND.into(),
                ..Service::default()
            });
            scenario.until = Some(COMMAND.into());
        }
        if let Some(limit) = self.limit {
            scenario.limit_s = limit;
        }
        let mut files = Vec::new();
        for pair in &self.file {
            let (host, guest) = pair.split_once('=').context("--file takes HOST=GUEST")?;
            files.push((PathBuf::from(host), guest.to_owned()));
        }
        qemu::install(self.arch)?;
        let guest = Guest {
            kernel: kernel::find(self.arch, self.kernel.as_deref())?,
            programs: programs::build(self.arch, Profile::Guest)?,
            memory_mb: self.mem,
            scenario,
            files,
            append: self.append,
        };
        let everything = self.events || command.is_empty();
        let run = guest.run(|event| print(event, everything))?;
        if command.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        match run.exited(COMMAND) {
            Some((_, Some(code), _)) => Ok(ExitCode::from(code as u8)),
            Some((_, _, signal)) => {
                bail!("the command was killed by signal {}", signal.unwrap_or(0))
            }
            None => bail!("the command was still running at the time limit"),
        }
    }
}

fn print(event: &Event, everything: bool) {
    match &event.what {
        What::Line { service, line } if !everything && service == COMMAND => println!("{line}"),
        _ if everything => {
            println!(
                "{}",
                serde_json::to_string(event).expect("it came from JSON")
            );
        }
        _ => {}
    }
}
