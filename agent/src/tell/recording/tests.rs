use super::*;
use lowtide_judge::{Action, Group, History, Judged, Level, Policy, Reason, Verdict};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn row_of(id: u64, figures_of: [u64; 10]) -> Row {
    let mut all = [0; 15];
    all[..10].copy_from_slice(&figures_of);
    all[12] = id / 2;
    all[13] = 1 | 13 << 16;
    all[14] = 500 | 500 << 16 | 0xffff << 32;
    row(id, &all)
}

fn rows(most: usize) -> impl Strategy<Value = Vec<Row>> {
    let row = (1..40_u64, any::<[u32; 10]>());
    proptest::collection::vec(row, 0..most).prop_map(|rows| {
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|(id, figures)| row_of(id, figures.map(u64::from)))
            .collect();
        rows.sort_by_key(|row| row.id);
        rows.dedup_by_key(|row| row.id);
        rows
    })
}

fn survey_of(kill: &[Row], reclaim: &[Row]) -> Survey {
    let mut survey = Survey::EMPTY;
    let fill = |list: &mut [Row; CANDIDATES], rows: &[Row]| {
        let count = rows.len().min(CANDIDATES);
        list[..count].copy_from_slice(&rows[..count]);
        count as u32
    };
    survey.kill_len = fill(&mut survey.kill, kill);
    survey.reclaim_len = fill(&mut survey.reclaim, reclaim);
    survey.largest_never = reclaim.first().copied().unwrap_or(Row::ZERO);
    survey.highest_id = kill.iter().map(|row| row.id).max().unwrap_or(0) | 1;
    survey
}

fn memory_of(available: u64) -> Memory {
    Memory {
        total: 256 * MIB,
        available,
        psi: true,
        ..Memory::default()
    }
}

/// What was written, and the file.
fn file(steps: &[(u64, Vec<Row>, Vec<Row>)]) -> (Vec<Event>, Vec<u8>) {
    let policy = policy();
    let mut file = header().to_vec();
    let mut writer = Writer::new();
    let mut samples = SampleWriter::default();
    let mut events = Vec::new();
    let begin = Begin {
        version: "1".into(),
        engine: "kfunc".into(),
        boot: "abc".into(),
        time: 7,
        at: 3,
        up_ms: 9,
        dry_run: true,
    };
    let mut body = Vec::new();
    writer.begin(&mut body, &begin);
    frame(&mut file, &body);
    events.push(Event::Begin(begin));
    let mut at = 0;
    for (available, kill, reclaim) in steps {
        at += 100 + available % 50;
        let memory = memory_of(*available);
        let survey = survey_of(kill, reclaim);
        let mut history = History::default();
        history.woken(at);
        let mut names = [0; CANDIDATES];
        for (name, row) in names.iter_mut().zip(survey.kill()) {
            *name = row.anon;
        }
        let verdict = history.look(&policy, &memory, at).judge(&survey, &names);
        let outcomes = [Outcome::ended(*available)];
        let mut bounded = Bounded::default();
        writer.look(&mut bounded, 5, true, &verdict, Some(&survey), &outcomes);
        frame(&mut file, bounded.body().unwrap());
        let victims: Vec<_> = verdict.victims().map(|victim| victim.row.id).collect();
        let target = verdict.action.target().map(|row| row.id);
        let action = ACTIONS
            .iter()
            .position(|name| *name == verdict.action.name());
        events.push(Event::Look(Box::new(Looked {
            domain: 5,
            at,
            fired: true,
            memory,
            survey: Some(survey),
            names,
            decided: Decided {
                action: action.unwrap() as u8,
                targets: match victims.is_empty() {
                    true => target.into_iter().collect(),
                    false => victims,
                },
                outcomes: outcomes.to_vec(),
            },
        })));
        body.clear();
        samples.sample(&mut body, at, &memory, kill.clone());
        frame(&mut file, &body);
        events.push(Event::Sample { at, memory });
        body.clear();
        writer.exit(&mut body, 5, 8, Some(&memory), at + 1);
        frame(&mut file, &body);
        events.push(Event::Exit {
            domain: 5,
            id: 8,
            at: at + 1,
            memory: Some(memory),
        });
    }
    (events, file)
}

fn policy() -> Policy {
    use lowtide_judge::{Amount, Condition, LevelPolicy, Step, Term};
    let below = |size| Condition::all(&[Term::AvailableBelow(Amount::Bytes(size))]).unwrap();
    let level = |size, step| LevelPolicy {
        confirm: below(size),
        relief: Condition::default(),
        actions: heapless::Vec::from_slice(&[step]).unwrap(),
    };
    Policy {
        levels: [level(4 * MIB, Step::Reclaim), level(2 * MIB, Step::Kill)],
        groups: heapless::Vec::new(),
        fallback: Group::everything_else(),
        quiet_ms: 3_000,
        exit_ms: 2_000,
        reclaim_ms: 300,
        worth_permyriad: 625,
        restarts: 3,
        restart_window_ms: 60_000,
        reboot_after_ms: 0,
    }
}

/// Events up to the end, and what is wrong there.
fn read(file: &[u8]) -> (Vec<Event>, Option<Broken>) {
    let reader = match Reader::new(file) {
        Ok(reader) => reader,
        Err(broken) => return (Vec::new(), Some(broken)),
    };
    let mut events = Vec::new();
    for event in reader {
        match event {
            Ok(event) => events.push(event),
            Err(broken) => return (events, Some(broken)),
        }
    }
    (events, None)
}

fn steps() -> impl Strategy<Value = Vec<(u64, Vec<Row>, Vec<Row>)>> {
    let step = (0..8 * MIB, rows(20), rows(20));
    proptest::collection::vec(step, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read_back(steps in steps()) {
        let (written, file) = file(&steps);
        let (found, broken) = read(&file);
        prop_assert_eq!(broken, None);
        prop_assert_eq!(found, written);
        let mut reader = Reader::new(&file).unwrap();
        let mut samples = steps.iter().map(|(_, rows, _)| rows);
        while let Some(event) = reader.next() {
            if matches!(event, Ok(Event::Sample { .. })) {
                prop_assert_eq!(reader.sample(), &samples.next().unwrap()[..]);
            }
        }
    }

    #[test]
    fn of_a_cut_file_everything_before_the_cut_is_read(steps in steps(), part in 0.0..1.0_f64) {
        let (written, file) = file(&steps);
        let length = (file.len() as f64 * part) as usize;
        let (found, broken) = read(&file[..length]);
        prop_assert_eq!(&found[..], &written[..found.len()]);
        // Between two frames it ends like a whole one.
        if let Some(broken) = broken {
            prop_assert_eq!(broken.why, Why::Cut);
            prop_assert!(broken.offset <= length);
        }
    }

    #[test]
    fn of_a_damaged_file_everything_before_the_damage_is_read(
        steps in steps(),
        part in 0.0..1.0_f64,
        by in 1..=255_u8,
    ) {
        let (written, mut file) = file(&steps);
        let place = 10 + ((file.len() - 10) as f64 * part) as usize;
        file[place] ^= by;
        let (found, broken) = read(&file);
        prop_assert_eq!(&found[..], &written[..found.len()]);
        let broken = broken.unwrap();
        prop_assert!(broken.offset <= place, "{} is behind {}", broken, place);
    }

    #[test]
    fn any_bytes_end_in_an_error_and_not_in_a_panic(bytes: Vec<u8>) {
        let mut file = header().to_vec();
        frame(&mut file, &bytes);
        let _ = read(&file);
        let _ = read(&bytes);
        let _ = split_body(&bytes);
    }
}

#[test]
fn files_of_others_say_what_they_are() {
    let (_, mut good) = file(&[]);
    let said = |file: &[u8]| read(file).1.unwrap().to_string();
    good[8] = 2;
    assert_eq!(
        said(&good),
        "at byte 8: a recording of version 2; this lowtide reads version 1"
    );
    (good[8], good[9]) = (0, 1);
    assert!(said(&good).contains("other byte order"));
    assert_eq!(
        said(b"#!/bin/sh\n"),
        "at byte 0: this is no recording of lowtide"
    );
    assert_eq!(
        said(b"low"),
        "at byte 3: it ends here in the middle of a record: it was cut"
    );
}

#[test]
fn the_longest_look_fits() {
    let wild = |id: u64| Row {
        event_high: u32::MAX,
        event_max: u32::MAX,
        event_oom_kill: u32::MAX,
        parent: u64::MAX,
        ..row_of(u64::MAX - id, [u64::MAX / 2; 10])
    };
    let kill: Vec<_> = (0..16).map(wild).collect();
    let reclaim: Vec<_> = (16..32).map(wild).collect();
    let mut survey = survey_of(&kill, &reclaim);
    survey.largest_never = wild(33);
    survey.highest_id = u64::MAX;
    let judged = kill.iter().map(|row| Judged {
        name: u64::MAX,
        reason: Reason::Together,
        ..Judged::new(row)
    });
    let verdict = Verdict {
        at: u64::MAX / 2,
        level: Level::Critical,
        action: Action::Kill { target: kill[0] },
        judged: judged.collect(),
        ..History::default()
            .look(&policy(), &memory_of(u64::MAX), 0)
            .judge(&survey, &[u64::MAX; CANDIDATES])
    };
    let mut body = Bounded::default();
    let outcomes = [Outcome::ended(u64::MAX); CANDIDATES];
    Writer::new().look(
        &mut body,
        u64::MAX,
        true,
        &verdict,
        Some(&survey),
        &outcomes,
    );
    let length = body.body().expect("it fits").len();
    assert!(
        length > LONGEST / 2,
        "only {length}: the bound can be lower"
    );
}

#[test]
fn what_stays_the_same_costs_next_to_nothing() {
    let rows: Vec<_> = (1..=40).map(|id| row_of(id, [id * MIB; 10])).collect();
    let mut samples = SampleWriter::default();
    let mut body = Vec::new();
    samples.sample(&mut body, 0, &memory_of(MIB), rows.clone());
    body.clear();
    samples.sample(&mut body, 10_000, &memory_of(MIB), rows);
    assert!(body.len() <= 8, "{} bytes", body.len());
}

#[test]
fn every_step_has_a_number_in_a_recording() {
    use lowtide_judge::Step;
    for step in Step::ALL {
        assert!(ACTIONS.contains(&step.name()), "{}", step.name());
    }
}
