//! What a command prints: like any Unix tool it ends quietly when its reader has gone, and says so
//! when the disk is full.

use crate::units::Plain;
use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

/// Prints `text` and ends with `code`, or with a failure where that could not be written.
#[inline(never)]
pub fn print(text: impl Display, code: ExitCode) -> ExitCode {
    let mut stdout = io::stdout().lock();
    let text = text.to_string();
    let end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.write_all(end.as_bytes()))
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => code,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe {
                complain(format_args!("lowtide: cannot write: {error}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// Says on stderr what is wrong; there is nobody to tell where that cannot be written.
#[inline(never)]
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", Plain(text));
}
