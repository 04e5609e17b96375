//! Runs tests in guests, keeps what the guests said, and counts how tests ended.

use crate::host::dirs;
use crate::host::shell::say;
use crate::scenario::{LIFELINE, checks};
use crate::vm::{Guest, Run};
use anyhow::Result;
use lowtide_guest::Event;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// Of those that passed, what did so at the second try: a defect each, of the test or of the agent.
    pub second_try: u32,
}

impl Tally {
    pub fn count(&mut self, ok: bool) {
        if ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    pub fn count_tried(&mut self, ended: Ended) {
        self.count(ended.is_ok());
        self.second_try += u32::from(ended == Ended::OkAtSecondTry);
    }

    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.second_try += other.second_try;
    }
}

/// How a test in a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Ok,
    OkAtSecondTry,
    Failed,
}

impl Ended {
    pub fn is_ok(self) -> bool {
        self != Self::Failed
    }
}

/// How often a test in a guest may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tries {
    Once,
    /// What passes at the second try counts as passed, and is said and counted as a defect.
    Twice,
}

/// A guest to run and what must be true of it afterwards.
pub struct Test {
    pub name: String,
    pub guest: Guest,
    pub check: Check,
}

/// What a run must have been like.
pub type Check = Box<dyn Fn(&Run) -> Result<()> + Sync>;

/// Runs tests, as many at a time as there are cores, and says of each how it ended.
pub fn carry_out(tests: &[Test], tries: Tries) -> Result<Vec<Ended>> {
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    say(format_args!(
        "{} guests; what they say goes to {}",
        tests.len(),
        records()?.display()
    ));
    Ok(in_parallel(tests, |test| {
        let start = Instant::now();
        let mut gap_ms = None;
        let mut once = || {
            let run = test.record()?;
            // Elsewhere it is the host's.
            if test.guest.scenario.counted {
                gap_ms = checks::worst_gap_ms(&run, LIFELINE, 0);
            }
            // Whatever else it shows: each error is said in words.
            checks::never_says(&run, "(os error")?;
            (test.check)(&run)
        };
        let mut errors = Vec::from_iter(once().err());
        let ended = if errors.is_empty() {
            Ended::Ok
        } else if tries == Tries::Once {
            Ended::Failed
        } else if let Err(e) = once() {
            errors.push(e);
            Ended::Failed
        } else {
            Ended::OkAtSecondTry
        };
        let again = match ended {
            Ended::OkAtSecondTry => ", AT THE SECOND TRY: a defect",
            Ended::Ok | Ended::Failed => "",
        };
        let gap = gap_ms.map(|ms| format!(", heartbeat's worst gap {ms} ms"));
        println!(
            "test guest::{} ... {} ({} s{}{again})",
            test.name,
            verdict(ended.is_ok()),
            start.elapsed().as_secs(),
            gap.unwrap_or_default(),
        );
        for e in errors {
            println!("    {e:#}");
        }
        ended
    }))
}

/// A load on all cores of the host while it lives.
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// For each core. A guest has two at most.
    const THREADS: usize = 3;

    pub fn start() -> Self {
        let going = Arc::new(AtomicBool::new(true));
        for _ in 0..Self::THREADS * thread::available_parallelism().map_or(1, usize::from) {
            let going = Arc::clone(&going);
            thread::spawn(move || {
                while going.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(going)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Does every item, as many at a time as there are cores. Results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // The lock is held for this line only.
                while let Some((at, item)) = { queue.lock().expect("no panic under it").next() } {
                    let result = f(item);
                    results
                        .lock()
                        .expect("no panic under it")
                        .push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic under it");
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Where what the guests say goes.
fn records() -> Result<PathBuf> {
    let dir = dirs::target().join("guest-tests");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

impl Test {
    /// Runs the guest and keeps what it says, also of a run that does not come to its end.
    pub fn record(&self) -> Result<Run> {
        let mut events = Vec::new();
        let run = self.guest.run(|event| events.push(event.clone()));
        keep(&self.name, &events)?;
        run
    }
}

/// Keeps what a guest said, for whoever wants to know why.
pub fn keep(name: &str, events: &[Event]) -> Result<()> {
    let mut record = String::new();
    for event in events {
        record.push_str(&serde_json::to_string(event)?);
        record.push('\n');
    }
    let file = format!("{}.jsonl", name.replace("::", "."));
    fs::write(records()?.join(file), record)?;
    Ok(())
}

pub fn verdict(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}
