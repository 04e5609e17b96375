//! What `lowtide` can be asked to do.

mod backoff;
mod check;
mod config;
mod doctor;
mod explain;
mod init;
mod log;
mod output;
mod record;
#[cfg(feature = "bpf")]
mod reflex;
mod run;
mod status;
#[cfg(test)]
mod tests;
mod top;
mod trial;

use crate::act::hooks;
use crate::config::{STDIN, nearest};
use crate::tell::version::Version;
pub use output::{complain, print};
use std::fmt::Display;
use std::process::ExitCode;

/// Out-of-memory agent for Linux edge devices.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
struct Lowtide {
    /// print the version, the commit, the features and the target that it is built for
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

/// Their names, for one that is mistyped.
const COMMANDS: &[&str] = &[
    "run",
    "check",
    "config",
    "doctor",
    "explain",
    "init",
    "status",
    "top",
    "log",
    "record",
    #[cfg(feature = "bpf")]
    "reflex",
];

#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Config(config::ShowConfig),
    Doctor(doctor::Doctor),
    Explain(explain::Explain),
    Init(init::Init),
    Status(status::Status),
    Top(top::Top),
    Log(log::Log),
    Record(record::Record),
    #[cfg(feature = "bpf")]
    Reflex(reflex::Reflex),
}

/// Ends a program that was called in a wrong way; 1 is for what was found.
pub const USAGE: u8 = 2;

/// How a program is called.
pub struct Call {
    pub program: &'static str,
    pub commands: &'static [&'static str],
    /// Options that take no value: the parser would take what is written behind one for the next word.
    pub switches: &'static [&'static str],
    /// Commands that are another program's, and which one's.
    pub elsewhere: (&'static [&'static str], &'static str),
}

const CALL: Call = Call {
    program: "lowtide",
    commands: COMMANDS,
    switches: SWITCHES,
    elsewhere: (&["replay", "plot", "export", "import"], "lowtide-desk"),
};

impl Call {
    /// What the command line asks for; or the code to end with, where that was for help or is wrong.
    #[inline(never)]
    pub fn arguments<T: argh::FromArgs>(&self) -> Result<T, ExitCode> {
        let words: Vec<_> = std::env::args_os().skip(1).collect();
        if let Some(odd) = words.iter().find(|word| word.to_str().is_none()) {
            return Err(self.wrong(format_args!(
                "{odd:?} is no UTF-8; what is in such a file can be written to the command, as -"
            )));
        }
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        let words = usual(&words, self.switches)
            .map_err(|switch| self.wrong(format_args!("{switch} takes no value")))?;
        if let Some(unknown) = words.first().filter(|word| !self.knows(word)) {
            let (others, other) = self.elsewhere;
            let meant = nearest(unknown, self.commands);
            let meant = match meant {
                _ if others.contains(unknown) => format!("; it is {other}'s: {other} {unknown}"),
                Some(meant) => format!("; did you mean `{meant}`?"),
                None => String::new(),
            };
            return Err(self.wrong(format_args!("no command `{unknown}`{meant}")));
        }
        T::from_args(&[self.program], &words).map_err(|early| match early.status {
            Ok(()) => print(early.output, ExitCode::SUCCESS),
            Err(()) => self.wrong(early.output.trim_end()),
        })
    }

    /// Ends with what is wrong in the call.
    pub fn wrong(&self, what: impl Display) -> ExitCode {
        let program = self.program;
        complain(format_args!(
            "{program}: {what}\nRun {program} --help for more information."
        ));
        ExitCode::from(USAGE)
    }

    fn knows(&self, word: &str) -> bool {
        word.starts_with('-') || word == "help" || self.commands.contains(&word)
    }
}

const SWITCHES: &[&str] = &[
    "--dry-run",
    "--help",
    "--json",
    "--offline",
    "--openmetrics",
    "--strict",
    "--test",
    "--verifier-log",
    "--version",
    "--write",
    "--yes",
];

/// Writes `-h`, `-V`, `--option=value`, and `-` for what is written to the program, as the parser knows them.
/// The error is a switch that was given a value.
fn usual<'w>(words: &[&'w str], switches: &[&str]) -> Result<Vec<&'w str>, &'w str> {
    let mut usual = Vec::new();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match (word, word.split_once('=')) {
            ("-", _) => usual.push(STDIN),
            (_, Some((switch, _))) if switches.contains(&switch) => return Err(switch),
            ("-h", _) => usual.push("--help"),
            ("-V", _) => usual.push("--version"),
            ("--", _) => {
                usual.push(word);
                usual.extend(words.by_ref());
            }
            (_, Some((option, value))) if option.starts_with("--") => {
                usual.extend([option, if value == "-" { STDIN } else { value }]);
            }
            _ => usual.push(word),
        }
    }
    Ok(usual)
}

/// An error for a person.
pub fn advised(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!("{error}: run it as root"),
        _ => error.to_string(),
    }
}

/// The whole of the program.
pub fn main() -> ExitCode {
    if hooks::is_meant() {
        return hooks::run_all();
    }
    let asked = match CALL.arguments::<Lowtide>() {
        Ok(asked) => asked,
        Err(code) => return code,
    };
    if asked.version {
        return print(format_args!("lowtide {Version}"), ExitCode::SUCCESS);
    }
    let Some(command) = asked.command else {
        return CALL.wrong("no command");
    };
    // None of them is inlined: the frames of all would lie below the agent's, and their code be a part
    // of what stays in memory.
    match command {
        Command::Run(run) => run.run(),
        Command::Check(check) => check.run(),
        Command::Config(config) => config.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Explain(explain) => explain.run(),
        Command::Init(init) => init.run(),
        Command::Status(status) => status.run(),
        Command::Top(top) => top.run(),
        Command::Log(log) => log.run(),
        Command::Record(record) => record.run(),
        #[cfg(feature = "bpf")]
        Command::Reflex(reflex) => reflex.run(),
    }
}
