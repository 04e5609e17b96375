//! The commands for what devices recorded.

use anyhow::{Context as _, Result, ensure};
use argh::FromArgs;
use lowtide::cli::{self, Call, complain, print};
use lowtide::tell::version::Version;
use lowtide_config::{Loaded, Paths, load};
use lowtide_desk::export::{self, Format, Table};
use lowtide_desk::files::{self, Recording};
use lowtide_desk::{import, plot, replay, show};
use rayon::prelude::*;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// As of diff(1): decisions that differ are what was found, 1; a wrong call, or a file that cannot be read, is
/// trouble.
const DIFFERS: ExitCode = ExitCode::FAILURE;
const TROUBLE: u8 = cli::USAGE;

const CALL: Call = Call {
    program: "lowtide-desk",
    commands: &["replay", "plot", "export", "import"],
    switches: &["--help", "--version"],
    elsewhere: (
        &[
            "run", "check", "config", "doctor", "explain", "init", "status", "top", "log",
            "record", "reflex",
        ],
        "lowtide",
    ),
};

/// What devices recorded with `lowtide record`.
#[derive(FromArgs)]
struct Desk {
    /// print the version and what it is built for
    #[argh(switch)]
    version: bool,
    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Replay(Replay),
    Plot(Plot),
    Export(Export),
    Import(Import),
}

/// Judges again what was recorded, and shows the decisions beside what was done. Ends with 0 where they
/// are the same, with 1 where they differ, with 2 where something cannot be read.
#[derive(FromArgs)]
#[argh(subcommand, name = "replay")]
struct Replay {
    /// recordings, or directories of them
    #[argh(positional, arg_name = "file")]
    files: Vec<PathBuf>,
    /// judge by this file on top of what is built in, in the place of what was in force; may be given
    /// more than once, later ones set single keys over earlier ones
    #[argh(option, arg_name = "file")]
    config: Vec<PathBuf>,
}

/// Draws a recording as one SVG file: memory, stalls, what grew, and decisions.
#[derive(FromArgs)]
#[argh(subcommand, name = "plot")]
struct Plot {
    /// the recording
    #[argh(positional, arg_name = "file")]
    file: PathBuf,
    /// the file to be written (the recording's name with .svg)
    #[argh(option, arg_name = "file")]
    output: Option<PathBuf>,
}

/// Prints what was recorded as a table for other tools.
#[derive(FromArgs)]
#[argh(subcommand, name = "export")]
struct Export {
    /// recordings, or directories of them
    #[argh(positional, arg_name = "file")]
    files: Vec<PathBuf>,
    /// decisions, memory or cgroups (decisions)
    #[argh(option, arg_name = "table", default = "Table::Decisions")]
    table: Table,
    /// csv or json, one object a line (csv)
    #[argh(option, arg_name = "format", default = "Format::Csv")]
    format: Format,
    /// judge by this file, see replay
    #[argh(option, arg_name = "file")]
    config: Vec<PathBuf>,
}

/// Prints a config with what another OOM killer was told to prefer and to avoid. What has no counterpart is in
/// it as a comment.
#[derive(FromArgs)]
#[argh(subcommand, name = "import")]
struct Import {
    /// earlyoom, nohang or systemd-oomd
    #[argh(positional)]
    from: import::From,
    /// its file (/etc/default/earlyoom, /etc/nohang/nohang.conf); for systemd-oomd a directory of units
    /// (/etc/systemd/system)
    #[argh(positional, arg_name = "file")]
    path: PathBuf,
}

impl Import {
    fn run(self) -> Result<ExitCode> {
        let text = import::import(self.from, &self.path)?;
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn main() -> ExitCode {
    let desk = match CALL.arguments::<Desk>() {
        Ok(desk) => desk,
        Err(code) => return code,
    };
    if desk.version {
        return print(format_args!("lowtide-desk {Version}"), ExitCode::SUCCESS);
    }
    let Some(command) = desk.command else {
        return CALL.wrong("no command");
    };
    let done = match command {
        Command::Replay(replay) => replay.run(),
        Command::Plot(plot) => plot.run(),
        Command::Export(export) => export.run(),
        Command::Import(import) => import.run(),
    };
    done.unwrap_or_else(|error| {
        // Whoever reads has gone: nobody is left to tell.
        if error
            .downcast_ref::<io::Error>()
            .is_none_or(|e| e.kind() != io::ErrorKind::BrokenPipe)
        {
            complain(format_args!("lowtide-desk: {error:#}"));
        }
        ExitCode::from(TROUBLE)
    })
}

/// The config that is asked for; `None`: what was in force.
fn config(files: &[PathBuf]) -> Result<Option<Loaded>> {
    if files.is_empty() {
        return Ok(None);
    }
    let loaded = load(&Paths::new(None, files.to_vec()));
    let loaded = loaded.map_err(|problems| anyhow::anyhow!("{problems}"))?;
    for problem in loaded.warnings.iter() {
        complain(problem);
    }
    Ok(Some(loaded))
}

/// Says what is wrong with recordings that can be read in part, or not at all.
fn tell_broken(
    recordings: &[Recording],
    broken: impl Iterator<Item = (usize, String)>,
) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for (which, why) in broken {
        code = ExitCode::from(TROUBLE);
        complain(format_args!("{}: {why}", recordings[which].path.display()));
    }
    code
}

impl Replay {
    fn run(self) -> Result<ExitCode> {
        let config = config(&self.config)?;
        let recordings = files::open(&self.files)?;
        let runs: Vec<_> = recordings
            .par_iter()
            .map(|recording| replay::replay(&recording.bytes, config.as_ref()))
            .collect();
        let mut out = io::stdout().lock();
        let mut whole = Vec::new();
        let mut errors = Vec::new();
        for (which, run) in runs.into_iter().enumerate() {
            match run {
                Ok(run) => {
                    errors.extend(run.broken.map(|broken| (which, broken.to_string())));
                    whole.push((recordings[which].name(), run));
                }
                Err(error) => errors.push((which, format!("{error:#}"))),
            }
        }
        if let [(name, run)] = &whole[..] {
            write!(out, "{}", show::Decisions { name, run })?;
        } else {
            write!(out, "{}", show::Summary(&whole))?;
        }
        out.flush()?;
        let read = tell_broken(&recordings, errors.into_iter());
        let differs = whole.iter().any(|(_, run)| run.differs_at.is_some());
        let is_whole = read == ExitCode::SUCCESS;
        Ok(if is_whole && differs { DIFFERS } else { read })
    }
}

impl Plot {
    fn run(self) -> Result<ExitCode> {
        let recording = Recording::open(&self.file)?;
        let output = self.output.clone();
        let output = output.unwrap_or_else(|| self.file.with_extension("svg"));
        ensure!(
            !is_same(&output, &self.file),
            "{} is the recording itself: name another file by --output",
            output.display()
        );
        let name = || self.file.display().to_string();
        let (svg, broken) = plot::svg(&recording).with_context(name)?;
        std::fs::write(&output, svg).with_context(|| output.display().to_string())?;
        complain(output.display());
        let broken = broken.map(|broken| (0, broken.to_string()));
        Ok(tell_broken(&[recording], broken.into_iter()))
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

impl Export {
    fn run(self) -> Result<ExitCode> {
        let config = config(&self.config)?;
        let recordings = files::open(&self.files)?;
        let parts: Vec<_> = recordings
            .par_iter()
            .map(|recording| export::rows(recording, self.table, config.as_ref()))
            .collect();
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut errors = Vec::new();
        let mut rows = Vec::new();
        for (which, part) in parts.into_iter().enumerate() {
            match part {
                Ok((part, broken)) => {
                    rows.extend(part);
                    errors.extend(broken.map(|broken| (which, broken.to_string())));
                }
                Err(error) => errors.push((which, format!("{error:#}"))),
            }
        }
        export::write(&mut out, self.table, self.format, &rows)?;
        out.flush()?;
        Ok(tell_broken(&recordings, errors.into_iter()))
    }
}
