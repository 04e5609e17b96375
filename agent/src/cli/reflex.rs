//! `lowtide reflex off`: the kernel kills nothing any more in the agent's place, at once.

use super::{advised, complain, print};
use crate::act::reflex::disarm_all;
use std::process::ExitCode;

/// Disarms the reflex at once, also one that outlived its agent, or whose agent does not answer. An agent
/// that runs arms it anew when it reloads; to keep it off, set `[reflex] kill = "off"`.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "reflex")]
pub struct Reflex {
    /// what is done with it: off
    #[argh(positional)]
    state: State,
}

#[derive(argh::FromArgValue)]
enum State {
    Off,
}

impl Reflex {
    /// Fails where one may still be armed.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        let State::Off = self.state;
        match disarm_all() {
            Ok(0) => print("no reflex is there\n", ExitCode::SUCCESS),
            Ok(_) => print(
                "the reflex is disarmed; an agent that runs arms it anew when it reloads: to keep it \
                 off, set kill = \"off\" in [reflex]\n",
                ExitCode::SUCCESS,
            ),
            Err(error) => {
                complain(format_args!("lowtide reflex: {}", advised(&error)));
                ExitCode::FAILURE
            }
        }
    }
}
