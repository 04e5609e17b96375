//! `cargo xtask bench …`: lowtide measured beside what could be used instead.

mod agents;
mod footprint;
pub mod idle;
mod latency;
mod peers;
mod record;
mod reflex;
mod report;
mod survey;
mod watch;

use anyhow::Result;
use argh::FromArgs;
use std::process::ExitCode;

/// measure lowtide beside what could be used instead, and report
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
pub struct Bench {
    #[argh(subcommand)]
    what: What,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum What {
    Footprint(footprint::Footprint),
    Latency(latency::Latency),
    Peers(peers::Peers),
    Reflex(reflex::Reflex),
    Report(report::Report),
    Survey(survey::Survey),
    Watch(watch::Watch),
}

impl Bench {
    pub fn run(self) -> Result<ExitCode> {
        match self.what {
            What::Footprint(command) => command.run(),
            What::Latency(command) => command.run(),
            What::Peers(command) => command.run(),
            What::Reflex(command) => command.run(),
            What::Report(command) => command.run(),
            What::Survey(command) => command.run(),
            What::Watch(command) => command.run(),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
