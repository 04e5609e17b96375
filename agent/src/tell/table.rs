//! Aligned columns that fit a terminal.

use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;
use std::fmt::{self, Display, Formatter, Write};

/// Lines of cells. On a terminal the widest columns of text give way where a line would get too long; what is
/// cut off goes at the front, where paths have what is least telling. Elsewhere nothing is cut: a program reads
/// it, or a file keeps it.
pub struct Table<const N: usize> {
    columns: [Column; N],
    lines: Vec<[String; N]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Text,
    /// Aligned to the right.
    Number,
}

impl<const N: usize> Table<N> {
    pub fn new(columns: [Column; N], heading: [&str; N]) -> Self {
        Self {
            columns,
            lines: vec![heading.map(str::to_owned)],
        }
    }

    pub fn line(&mut self, cells: [String; N]) {
        self.lines.push(cells);
    }

    /// Nothing but the heading.
    pub fn is_empty(&self) -> bool {
        self.lines.len() == 1
    }

    fn widths(&self, longest: Option<usize>) -> [usize; N] {
        let mut widths: [usize; N] = std::array::from_fn(|i| {
            let cells = self.lines.iter().map(|line| line[i].chars().count());
            cells.max().unwrap_or(0)
        });
        while longest.is_some_and(|longest| widths.iter().map(|w| w + 2).sum::<usize>() > longest) {
            let text = (0..N).filter(|i| self.columns[*i] == Column::Text);
            match text.max_by_key(|i| widths[*i]) {
                Some(widest) if widths[widest] > 1 => widths[widest] -= 1,
                _ => break,
            }
        }
        widths
    }
}

/// Columns and lines of the terminal that is written to, each where it is known; `None` where it is none.
/// `COLUMNS` and `LINES` say more than a serial line does, which has a size of 0.
pub fn terminal() -> Option<(Option<usize>, Option<usize>)> {
    let size = tcgetwinsize(stdout()).ok()?;
    let known = |variable, own: u16| {
        let said = std::env::var(variable).ok().and_then(|n| n.parse().ok());
        said.or(Some(own.into())).filter(|n| *n > 0)
    };
    Some((known("COLUMNS", size.ws_col), known("LINES", size.ws_row)))
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write(f, terminal().and_then(|(columns, _)| columns))
    }
}

impl<const N: usize> Table<N> {
    fn write(&self, f: &mut impl Write, longest: Option<usize>) -> fmt::Result {
        let widths = self.widths(longest);
        for line in &self.lines {
            let mut text = String::new();
            for ((cell, column), width) in line.iter().zip(self.columns).zip(widths) {
                let cell = shortened(cell, width);
                text.push_str("  ");
                text.push_str(&match column {
                    Column::Text => format!("{cell:width$}"),
                    Column::Number => format!("{cell:>width$}"),
                });
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

fn shortened(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    let end = cell.chars().skip(length - width.saturating_sub(1));
    std::iter::once('…').chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let mut table = Table::new([Column::Number, Column::Text], ["frees", "cgroup"]);
        table.line(["1".to_owned(), "/a".to_owned()]);
        assert_eq!(table.to_string(), "  frees  cgroup\n      1  /a\n");
    }

    #[test]
    fn what_is_no_terminal_gets_paths_as_they_are() {
        let path = "/a".repeat(100);
        let mut table = Table::new([Column::Text], ["cgroup"]);
        table.line([path.clone()]);
        let written = |longest| {
            let mut text = String::new();
            table.write(&mut text, longest).unwrap();
            text
        };
        assert!(written(None).contains(&path));
        assert!(
            written(Some(80))
                .lines()
                .all(|line| line.chars().count() <= 80)
        );
    }

    proptest! {
        #[test]
        fn no_line_is_too_long(cells: Vec<(String, String)>, longest in 8_usize..200) {
            let mut table = Table::new([Column::Text, Column::Text], ["a", "b"]);
            for (a, b) in cells {
                table.line([a, b].map(|c| c.replace(char::is_control, " ")));
            }
            let mut text = String::new();
            table.write(&mut text, Some(longest)).unwrap();
            for line in text.lines() {
                prop_assert!(line.chars().count() <= longest);
            }
        }
    }
}
