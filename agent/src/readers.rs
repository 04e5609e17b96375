//! Everything that reads what the kernel or a user writes, behind one door: for the fuzz target `readers`,
//! and for a property test that is part of each test run. The config has a target of its own.

use crate::act::hooks::{RECORD, Record};
use crate::act::settings::Change;
use crate::escaped::Escaped;
use crate::sense::meminfo::{boosted_pages, refaults, take_meminfo};
use crate::sense::process::start;
use crate::sense::status::Status;
use crate::sense::text::{digits, number_after, pairs, signed, stall_total};
use crate::tell::reading::Entry;
use lowtide_judge::Memory;
use std::hint::black_box;

/// Has each of them read the same bytes; what they make of them does not count, only that they do.
pub fn read_all(bytes: &[u8]) {
    files_of_figures(bytes);
    process(bytes);
    records(bytes);
    #[cfg(feature = "bpf")]
    bpf(bytes);
    black_box(Escaped(bytes).to_string());
}

/// meminfo, vmstat, zoneinfo, pressure, memory.stat, and files that hold one number.
fn files_of_figures(bytes: &[u8]) {
    let mut memory = Memory::default();
    black_box(take_meminfo(&mut memory, bytes));
    black_box((refaults(bytes), boosted_pages(bytes)));
    black_box((stall_total(bytes, b"some"), stall_total(bytes, b"full")));
    black_box((digits(bytes), signed(bytes)));
    black_box(number_after(bytes, b"populated "));
    black_box(pairs(bytes).count());
}

/// /proc/PID/stat and status.
fn process(bytes: &[u8]) {
    let status = Status(bytes);
    black_box(start(bytes));
    black_box((status.name(), status.user(), status.is_contained()));
    black_box((status.is_headless(), status.has_memory()));
    black_box((status.row(), status.freed_by_kill()));
}

/// The undo file, the record of a command, a line of the history.
fn records(bytes: &[u8]) {
    let mut record = [0; RECORD];
    for (to, from) in record.iter_mut().zip(bytes) {
        *to = *from;
    }
    black_box(Record::parse(&record));
    if let Ok(text) = str::from_utf8(bytes) {
        for line in text.lines() {
            black_box(Change::parse(line));
            black_box(Entry::read(line));
        }
    }
}

/// The kernel's list of symbols, its type information, an object.
#[cfg(feature = "bpf")]
fn bpf(bytes: &[u8]) {
    use crate::sense::bpf::{Btf, kallsyms, resolve};
    use crate::sense::kfunc::{KFUNCS, LAYOUT, layout_of};
    let _ = black_box(kallsyms::find(bytes, &["vm_zone_stat", "_stext"]));
    if let Some(btf) = Btf::new(bytes) {
        let _ = black_box(layout_of(&btf.find(&LAYOUT)));
    }
    let ids = KFUNCS.map(|_| Some(1));
    let _ = black_box(resolve(&mut bytes.to_vec(), &KFUNCS, &ids));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What such files are made of, so that readers come further than to their first line.
    const WORDS: [&str; 24] = [
        "MemTotal:",
        "MemAvailable:",
        "Active(file):",
        "boost",
        "some ",
        "full ",
        "total=",
        "populated ",
        "Name:\t",
        "Uid:\t",
        "NSpid:\t",
        "State:\tZ",
        "Threads:\t2",
        "VmRSS:\t",
        " kB",
        "\n",
        " ",
        "18446744073709551615",
        "99999999999999999999",
        "-1",
        ") S ",
        "memory.min",
        "max",
        "\\n",
    ];

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read_all(&bytes);
        }

        #[test]
        fn any_words_are_no_panic(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40)) {
            read_all(words.concat().as_bytes());
        }
    }
}
