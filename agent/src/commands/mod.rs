//! What `lowtide` can be asked to do.

mod check;
mod config;

use std::process::ExitCode;

/// Out-of-memory agent for Linux edge devices.
#[derive(argh::FromArgs)]
struct Lowtide {
    #[argh(subcommand)]
    command: Command,
}

#[derive(argh::FromArgs)]
#[argh(subcommand)]
enum Command {
    Check(check::Check),
    Config(config::ShowConfig),
}

/// The whole of the program.
pub fn main() -> ExitCode {
    match argh::from_env::<Lowtide>().command {
        Command::Check(check) => check.run(),
        Command::Config(config) => config.run(),
    }
}
