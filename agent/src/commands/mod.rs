//! What `lowtide` can be asked to do.

mod check;
mod config;
mod doctor;
mod explain;
mod run;
#[cfg(test)]
mod tests;

use crate::act::commands;
use std::process::ExitCode;

/// Out-of-memory agent for Linux edge devices.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
struct Lowtide {
    /// print the version
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Config(config::ShowConfig),
    Doctor(doctor::Doctor),
    Explain(explain::Explain),
}

/// The whole of the program.
pub fn main() -> ExitCode {
    if commands::is_meant() {
        return commands::run_all();
    }
    let asked: Lowtide = argh::from_env();
    if asked.version {
        println!("lowtide {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let Some(command) = asked.command else {
        eprintln!("lowtide: no command; `lowtide --help` lists them");
        return ExitCode::FAILURE;
    };
    // None of them is inlined: the frames of all would lie below the agent's, and their code be a part
    // of what stays in memory.
    match command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Config(config) => config.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Explain(explain) => explain.run(),
    }
}
