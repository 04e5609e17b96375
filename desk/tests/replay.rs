//! What is recorded of a device that is only pretended, judged again.

mod common;

use common::{CONFIG, Device, MIB, config};
use lowtide::tell::recording::{Reader, Why};
use lowtide_desk::export::{self, Format, Table};
use lowtide_desk::files::{self, Recording};
use lowtide_desk::replay::replay;
use lowtide_desk::{plot, show};
use proptest::prelude::*;

/// A device on which a sensor grows until one has to go: by its config a media service.
fn short_of_memory() -> Device {
    let mut device = Device::new(6);
    device.cgroups[0].1 = 60 * MIB;
    device.grow(11, 200 * MIB, 40);
    assert_eq!(device.gone[0], 10, "{:?}", device.gone);
    device
}

fn recording(file: Vec<u8>) -> Recording {
    Recording {
        path: "device.lowtide".into(),
        bytes: file,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_same_config_gives_the_same_decisions_at_the_same_times(
        steps in proptest::collection::vec((10..22_u64, 0..80_u64, 1..12_u64, 0..5_000_u64), 1..24),
    ) {
        let mut device = Device::new(12);
        for (id, by, looks, pause) in steps {
            device.grow(id, by * MIB, looks);
            device.sample();
            device.now += pause;
            // What was killed comes back small.
            if let Some(id) = device.gone.pop() {
                device.cgroups.push((id, MIB));
                device.cgroups.sort_unstable();
            }
        }
        let run = replay(&device.file, None).unwrap();
        prop_assert_eq!(run.differs_at, None, "{:?}", run.decisions);
        prop_assert!(run.broken.is_none());
        // The rules as the desk works them out are those of the device.
        let same = config(CONFIG);
        let run = replay(&device.file, Some(&same)).unwrap();
        let first = run.decisions.iter().find(|decision| decision.differs());
        prop_assert!(first.is_none(), "{:?}", first);
    }
}

#[test]
fn another_config_takes_another_and_what_follows_is_a_guess() {
    let device = short_of_memory();
    let swapped = CONFIG
        .replace("800", "1")
        .replace("300", "900")
        .replace("kill = 1\n", "kill = 100\n");
    let run = replay(&device.file, Some(&config(&swapped))).unwrap();
    let first = run
        .decisions
        .iter()
        .find(|decision| decision.differs())
        .unwrap();
    assert_eq!(first.done.targets[0].name, "/apps/media10");
    assert_eq!(first.judged.targets[0].name, "/apps/sensor11");
    assert_eq!(first.judged.targets[0].group, "sensor");
    assert!(!first.guess);
    assert_eq!(run.differs_at, Some(first.at));
    assert!(
        run.decisions
            .iter()
            .filter(|d| d.at > first.at)
            .all(|d| d.guess)
    );
    let would_end = run.decisions.iter().filter(|d| d.judged.ends()).count();
    assert_eq!(would_end, 1, "how much it would have brought is not known");
    let shown = show::Decisions {
        name: "x",
        run: &run,
    }
    .to_string();
    assert!(
        shown.contains("differs") && shown.contains("on it is a guess"),
        "{shown}"
    );
}

#[test]
fn what_was_never_killed_can_be_by_another_config() {
    let device = short_of_memory();
    let spared = CONFIG.replace("kill = 800", "kill = \"never\"");
    let run = replay(&device.file, Some(&config(&spared))).unwrap();
    let ends: Vec<_> = run.decisions.iter().filter(|d| d.judged.ends()).collect();
    assert_eq!(ends[0].judged.targets[0].name, "/apps/sensor11");
}

#[test]
fn a_cut_recording_is_judged_up_to_the_cut() {
    let device = short_of_memory();
    let whole = replay(&device.file, None).unwrap();
    let cut = replay(&device.file[..device.file.len() - 2], None).unwrap();
    let broken = cut.broken.unwrap();
    assert_eq!(broken.why, Why::Cut);
    assert!(broken.offset < device.file.len() - 2);
    assert_eq!(&cut.decisions[..], &whole.decisions[..cut.decisions.len()]);
    assert!(!cut.decisions.is_empty());
    assert!(replay(b"something else", None).is_err());
}

#[test]
fn many_recordings_come_to_a_summary() {
    let runs: Vec<_> = ["a", "b"]
        .map(|name| {
            (
                name.to_owned(),
                replay(&short_of_memory().file, None).unwrap(),
            )
        })
        .into();
    let shown = show::Summary(&runs).to_string();
    assert!(shown.contains("2 recordings"), "{shown}");
    let media = shown
        .lines()
        .find(|line| line.trim_start().starts_with("media"));
    let media = media.unwrap_or_else(|| panic!("{shown}"));
    let words: Vec<_> = media.split_whitespace().collect();
    assert_eq!(words[words.len() - 1], "2", "on two devices: {shown}");
}

#[test]
fn tables_have_a_cell_for_each_column() {
    let recording = recording(short_of_memory().file);
    for table in [Table::Decisions, Table::Memory, Table::Cgroups] {
        let (rows, broken) = export::rows(&recording, table, None).unwrap();
        assert!(broken.is_none() && !rows.is_empty());
        let mut text = Vec::new();
        // The writer of CSV fails where a row is longer than the one before.
        export::write(&mut text, table, Format::Csv, &rows).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), rows.len() + 1);
        let mut json = Vec::new();
        export::write(&mut json, table, Format::Json, &rows).unwrap();
        assert_eq!(String::from_utf8(json).unwrap().lines().count(), rows.len());
    }
}

#[test]
fn a_picture_names_who_grew_and_who_went() {
    let (svg, broken) = plot::svg(&recording(short_of_memory().file)).unwrap();
    assert!(broken.is_none());
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    for text in ["/apps/sensor11", "kill /apps/media10", "available", "full"] {
        assert!(svg.contains(text), "no {text}");
    }
    assert!(!svg.contains("href"), "it is all in one file");
}

#[test]
fn directories_are_gone_through_and_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("north");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("a"), "1").unwrap();
    std::fs::write(dir.path().join("b"), "2").unwrap();
    std::os::unix::fs::symlink(dir.path(), below.join("again")).unwrap();
    let found = files::open(&[dir.path().to_owned()]).unwrap();
    let found: Vec<_> = found.iter().map(|recording| &recording.bytes[..]).collect();
    assert_eq!(found, [b"2", b"1"]);
    assert!(files::open(&[below.join("none")]).is_err());
}

#[test]
fn a_recording_is_small() {
    let device = short_of_memory();
    let looks = 40;
    let per_look = device.file.len() / looks;
    assert!(per_look < 300, "{per_look} bytes a look");
    assert!(Reader::new(&device.file).is_ok());
}
