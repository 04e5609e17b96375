//! `lowtide top`: the running agent's view, live.

use super::status::{Next, State, ask};
use super::{complain, print};
use crate::tell::table::terminal;
use crate::units::Size;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr,
};
use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter, Write as _};
use std::process::ExitCode;

/// Time between two looks. Each wakes the agent.
const LOOK: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// A terminal that does not say how large it is.
const SIZE: (usize, usize) = (80, 24);
/// No terminal: nothing is cut.
const UNBOUNDED: (usize, usize) = (usize::MAX, usize::MAX);
/// Width of all columns but the name of a candidate, with what lies between them.
const FIGURES: usize = 40;
/// Characters of a bar.
const BAR: u64 = 20;
/// Clears the screen, and puts the cursor into its corner; hides and shows it.
const CLEAR: &str = "\x1b[H\x1b[2J";
const HIDE: &str = "\x1b[?25l";
const SHOW: &str = "\x1b[?25h";
const KEYS: &str = "o order  u usage  f frees  q quit";
/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// Shows live what the running agent sees: memory, level, what would go next, and what was done.
/// Keys: o, u, f sort by order, usage, what an end frees; q quits. Where the output is no terminal,
/// it is shown once.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "top")]
pub struct Top {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Order,
    Usage,
    Frees,
}

impl Top {
    /// Fails when no agent answers.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        let live = isatty(stdout()) && isatty(stdin());
        let shown = if live {
            watch()
        } else {
            ask().map(|state| {
                let text = screen(&state, Sort::Order, UNBOUNDED);
                print(text, ExitCode::SUCCESS)
            })
        };
        shown.unwrap_or_else(|error| {
            complain(format_args!("lowtide top: {error}"));
            ExitCode::FAILURE
        })
    }
}

/// Takes keys one by one, and gives the terminal back as it was.
struct Keys(Option<Termios>);

impl Keys {
    fn take() -> Self {
        let before = tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            // Ctrl-C is a key as well, or it would leave the terminal as it is now.
            now.local_modes
                .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            now.special_codes[SpecialCodeIndex::VMIN] = 0;
            now.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(stdin(), OptionalActions::Now, &now);
        }
        Self(before)
    }

    /// The key that is pressed before the next look.
    fn next(&self) -> Option<u8> {
        let stdin = stdin();
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        if poll(&mut fds, Some(&LOOK)) != Ok(1) {
            return None;
        }
        let mut key = [0_u8];
        match rustix::io::read(stdin, &mut key) {
            Ok(1) => Some(key[0]),
            // The terminal is gone.
            _ => Some(b'q'),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
        let _ = print(format_args!("{SHOW}\n"), ExitCode::SUCCESS);
    }
}

fn watch() -> Result<ExitCode, String> {
    let keys = Keys::take();
    let mut sort = Sort::Order;
    loop {
        let (columns, lines) = terminal().unwrap_or_default();
        let size = (columns.unwrap_or(SIZE.0), lines.unwrap_or(SIZE.1));
        let state = ask()?;
        let screen = screen(&state, sort, size);
        let written = print(format_args!("{HIDE}{CLEAR}{screen}"), ExitCode::SUCCESS);
        if written != ExitCode::SUCCESS {
            return Ok(written);
        }
        match keys.next() {
            Some(b'q' | b'Q' | INTERRUPT) => return Ok(ExitCode::SUCCESS),
            Some(b'o') => sort = Sort::Order,
            Some(b'u') => sort = Sort::Usage,
            Some(b'f') => sort = Sort::Frees,
            _ => {}
        }
    }
}

/// What fits a screen of so many columns and lines.
fn screen(state: &State, sort: Sort, (columns, lines): (usize, usize)) -> String {
    let of = |key| state.of_memory(key);
    let mut text = String::new();
    // The last two are for the keys, and for the line feed behind them.
    let mut room = lines.saturating_sub(2);
    let mut line = |content: &str| {
        if room > 0 {
            room -= 1;
            text.extend(content.chars().take(columns));
            text.push('\n');
        }
    };
    line(&format!("lowtide {}: {}", state.version, state.status));
    let used = of("total").saturating_sub(of("available"));
    line(&format!(
        "{} {} of {} available, {} file cache   level {}{}",
        Bar(used, of("total")),
        Size(of("available")),
        Size(of("total")),
        Size(of("file")),
        state.level,
        if state.dry_run { "   dry run" } else { "" }
    ));
    if of("swap_total") > 0 {
        let used = of("swap_total").saturating_sub(of("swap_free"));
        line(&format!(
            "{} {} of {} swap free, {} of RAM hold zram",
            Bar(used, of("swap_total")),
            Size(of("swap_free")),
            Size(of("swap_total")),
            Size(of("zram")),
        ));
    }
    line("");
    let lately: Vec<_> = state.history.iter().rev().take(4).collect();
    let longest = state
        .next
        .iter()
        .map(|next| next.name.chars().count())
        .max();
    let name = columns
        .saturating_sub(FIGURES)
        .min(longest.unwrap_or(0))
        .max(10);
    line(&format!(
        "{:name$} {:>5} {:>7} {:>7}  {}",
        "next", "kill", "usage", "frees", "group"
    ));
    let room = lines.saturating_sub(8 + lately.len()).max(3);
    for next in sorted(&state.next, sort).into_iter().take(room) {
        line(&format!(
            "{:name$} {:>5} {:>7} {:>7}  {}",
            tail(&next.name, name),
            next.kill
                .map_or("never".to_owned(), |kill| kill.to_string()),
            Size(next.usage).to_string(),
            Size(next.frees).to_string(),
            next.group
        ));
    }
    if !lately.is_empty() {
        line("");
    }
    for entry in lately.into_iter().rev() {
        let shown = super::log::Shown(entry).to_string();
        line(shown.lines().next().unwrap_or_default());
    }
    if (columns, lines) != UNBOUNDED {
        text.extend(KEYS.chars().take(columns));
    }
    text
}

fn sorted(next: &[Next], sort: Sort) -> Vec<&Next> {
    let mut next: Vec<_> = next.iter().collect();
    match sort {
        Sort::Order => {}
        Sort::Usage => next.sort_by_key(|next| Reverse(next.usage)),
        Sort::Frees => next.sort_by_key(|next| Reverse(next.frees)),
    }
    next
}

/// `[######....]`, a part of a whole.
struct Bar(u64, u64);

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cells = (self.0.saturating_mul(BAR) / self.1.max(1)).min(BAR);
        f.write_char('[')?;
        for cell in 0..BAR {
            f.write_char(if cell < cells { '#' } else { '.' })?;
        }
        f.write_char(']')
    }
}

/// The end of a name is what tells it from others.
fn tail(name: &str, width: usize) -> String {
    let len = name.chars().count();
    if len <= width {
        return name.to_owned();
    }
    let cut = name.chars().skip(len + 1 - width);
    std::iter::once('\u{2026}').chain(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::Config;

    fn state() -> State {
        let next = |name: &str| Next {
            name: name.into(),
            group: "media".into(),
            kill: Some(800),
            usage: 5 << 20,
            frees: 4 << 20,
        };
        State {
            version: "1".into(),
            status: "an engine with a long name, woken by something".into(),
            level: "calm".into(),
            dry_run: false,
            started: 0,
            memory: vec![("total", 100 << 20), ("available", 50 << 20)],
            counters: Vec::new(),
            config: Config {
                loaded: 0,
                refused: 0,
                files: Vec::new(),
            },
            next: vec![next("/a"), next(&"/long".repeat(30)), next("/b")],
            history: Vec::new(),
        }
    }

    #[test]
    fn a_screen_fits_its_terminal() {
        for size in [(80, 24), (20, 5), (1, 1), (10, 2), (300, 3), (40, 9)] {
            let text = screen(&state(), Sort::Order, size);
            // Behind it goes a line feed, where none is.
            assert!(text.lines().count() < size.1.max(2), "{size:?}: {text}");
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(size.0), "{size:?}: {text}");
        }
    }

    #[test]
    fn what_is_no_terminal_gets_paths_as_they_are() {
        let text = screen(&state(), Sort::Order, UNBOUNDED);
        assert!(text.contains(&"/long".repeat(30)), "{text}");
        assert!(!text.contains("q quit"), "{text}");
    }
}
