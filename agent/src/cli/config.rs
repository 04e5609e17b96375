use super::output::{complain, print};
use crate::config::{self, Paths};
use std::path::PathBuf;
use std::process::ExitCode;

/// Prints the config in force, each value with the file and line that set it.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "config")]
pub struct ShowConfig {
    /// read these files alone, in this order, on top of what is built in; - is what is
    /// written to the program
    #[argh(positional, arg_name = "file")]
    files: Vec<PathBuf>,
    /// directory that stands for `/`, such as an image's
    #[argh(option, arg_name = "dir")]
    root: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl ShowConfig {
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        match config::load(&Paths::new(self.root, self.files)) {
            Ok(loaded) if self.json => print(loaded.effective.json(), ExitCode::SUCCESS),
            Ok(loaded) => print(loaded.effective.toml(), ExitCode::SUCCESS),
            Err(problems) => {
                complain(problems);
                ExitCode::FAILURE
            }
        }
    }
}
