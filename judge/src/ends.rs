//! Victims that ended: which came back, and which brought nothing.

use crate::history::{Millis, push_bounded};
use core::ops::Range;
use heapless::Deque;
use lowtide_common::{Row, Rule};

/// A victim that was killed, or asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    id: u64,
    /// What it is called whenever it comes back, see [`Names`](crate::Names); 0: not known.
    name: u64,
    at: Millis,
    /// The highest id that there was; what has a higher one was made later.
    newest: u64,
    /// Nothing runs in it any more.
    is_gone: bool,
    /// Its end brought nothing.
    in_vain: bool,
    /// Times that it had come back before this end.
    returns: u8,
}

impl End {
    /// Whether the row is what ended, come back: of the same name and made later, or the same
    /// cgroup with new processes.
    fn is_of(&self, row: &Row, name: u64) -> bool {
        let made_later = row.id > self.newest && name != 0 && name == self.name;
        self.is_gone && (made_later || row.id == self.id)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ends(Deque<End, 32>);

/// Whether all of it goes at once: of a cgroup whose processes go one by one, the others stay, and
/// none of them has come back.
fn goes_whole(row: &Row) -> bool {
    row.flags & Row::PROCESS != 0 || row.rule.flags & Rule::PROCESS == 0
}

impl Ends {
    /// Whether it depends on the row's name if it has come back.
    pub(crate) fn needs_name(&self, row: &Row, since: Millis) -> bool {
        goes_whole(row)
            && self
                .0
                .iter()
                .any(|end| end.at >= since && end.name != 0 && end.is_gone && row.id > end.newest)
    }

    /// Times that it has come back, each within the window of the end before.
    pub(crate) fn returns(&self, row: &Row, name: u64, since: Millis) -> u8 {
        let mut latest = self.0.iter().rev();
        let last = latest.find(|end| goes_whole(row) && end.at >= since && end.is_of(row, name));
        last.map_or(0, |end| end.returns.saturating_add(1))
    }

    /// Whether an end of it is known to have brought nothing.
    pub(crate) fn was_in_vain(&self, row: &Row, name: u64, since: Millis) -> bool {
        let mut ends = self.0.iter();
        ends.any(|end| goes_whole(row) && end.in_vain && end.at >= since && end.is_of(row, name))
    }

    pub(crate) fn record(&mut self, row: &Row, name: u64, newest: u64, returns: u8, at: Millis) {
        let end = End {
            id: row.id,
            name,
            at,
            newest,
            is_gone: false,
            in_vain: false,
            returns,
        };
        push_bounded(&mut self.0, end);
    }

    /// Whether the last end of `id` was recorded at `since` or later, and is not over.
    pub(crate) fn is_ending(&self, id: u64, since: Millis) -> bool {
        let last = self.0.iter().rev().find(|end| end.id == id);
        last.is_some_and(|end| !end.is_gone && end.at >= since)
    }

    /// Whether an end recorded in this time is not over.
    pub(crate) fn is_any_ending(&self, within: Range<Millis>) -> bool {
        self.0
            .iter()
            .any(|end| !end.is_gone && within.contains(&end.at))
    }

    pub(crate) fn record_gone(&mut self, id: u64, in_vain: bool) {
        let mut latest = self.0.iter_mut().rev();
        if let Some(end) = latest.find(|end| end.id == id) {
            (end.is_gone, end.in_vain) = (true, in_vain);
        }
    }

    /// Ends that are not over, of ids that are not among `rows` any more, are.
    pub(crate) fn record_rows(&mut self, rows: &[Row]) {
        for end in self.0.iter_mut().filter(|end| !end.is_gone) {
            end.is_gone = rows.iter().all(|row| row.id != end.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: u64 = 7;

    fn row(id: u64) -> Row {
        Row { id, ..Row::ZERO }
    }

    /// The cgroup 3 has ended at 1000, when 5 was the newest.
    fn ended() -> Ends {
        let mut ends = Ends::default();
        ends.record(&row(3), NAME, 5, 0, 1_000);
        ends.record_gone(3, false);
        ends
    }

    #[test]
    fn what_was_there_already_has_not_come_back() {
        let ends = ended();
        assert_eq!(ends.returns(&row(5), NAME, 0), 0);
        assert_eq!(ends.returns(&row(6), NAME, 0), 1);
        assert_eq!(ends.returns(&row(6), NAME + 1, 0), 0);
        assert_eq!(ends.returns(&row(3), 0, 0), 1);
    }

    #[test]
    fn a_name_is_needed_of_what_was_made_after_an_end() {
        let ends = ended();
        assert!(ends.needs_name(&row(6), 1_000));
        assert!(!ends.needs_name(&row(6), 1_001));
        assert!(!ends.needs_name(&row(5), 1_000));
        assert!(!Ends::default().needs_name(&row(6), 0));

        let one_by_one = Row {
            rule: Rule {
                flags: Rule::PROCESS,
                ..Row::ZERO.rule
            },
            ..row(6)
        };
        assert!(!ends.needs_name(&one_by_one, 1_000));
        let process = Row {
            flags: Row::PROCESS,
            ..one_by_one
        };
        assert!(ends.needs_name(&process, 1_000));

        let mut goes_on = Ends::default();
        goes_on.record(&row(3), NAME, 5, 0, 1_000);
        assert!(!goes_on.needs_name(&row(6), 1_000));
        let mut nameless = Ends::default();
        nameless.record(&row(3), 0, 5, 0, 1_000);
        nameless.record_gone(3, false);
        assert!(!nameless.needs_name(&row(6), 1_000));
    }

    #[test]
    fn an_end_is_over_when_its_row_is_gone() {
        let mut ends = Ends::default();
        ends.record(&row(3), NAME, 5, 0, 1_000);
        ends.record_rows(&[row(2), row(3)]);
        assert!(ends.is_ending(3, 1_000));
        assert!(!ends.is_ending(3, 1_001));
        ends.record_rows(&[row(2)]);
        assert!(!ends.is_ending(3, 1_000));
    }

    #[test]
    fn an_end_in_vain_is_known_of_what_came_back() {
        let mut ends = ended();
        assert!(!ends.was_in_vain(&row(6), NAME, 0));
        ends.record_gone(3, true);
        assert!(ends.was_in_vain(&row(6), NAME, 1_000));
        assert!(!ends.was_in_vain(&row(6), NAME, 1_001));
        assert!(!ends.was_in_vain(&row(5), NAME, 0));
    }
}
