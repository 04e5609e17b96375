//! `cargo xtask bench …`: lowtide measured beside what could be used instead.

mod peers;
mod record;
mod report;

use anyhow::Result;
use argh::FromArgs;
use std::process::ExitCode;

/// measure lowtide and its peers on the same loads, and report
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
pub struct Bench {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Peers(peers::Peers),
    Report(report::Report),
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Peers(command) => command.run(),
            What::Report(command) => command.run(),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
