//! The loads, each a subcommand. They report on stdout; a load that has nothing more to do sleeps.
//! `as`, `workers` and `supervise` run another load: `as --uid 1000 --mlock hog --rate 20M`.

mod cgroups;
mod faulty;
mod memory;
mod micro;
mod processes;
mod soak;

use self::cgroups::{Churn, Many};
use self::faulty::Faulty;
use self::memory::{Hog, KernelLeak, Sleeper, Tmpfs, touch};
use self::micro::Micro;
use self::processes::{As, Exec, Forkstorm, Supervise, Workers};
use self::soak::Soak;
use crate::footprint::Measure;
use argh::FromArgs;
use lowtide_guest::{DISK, Report};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Loads for a lowtide test guest.
#[derive(FromArgs)]
pub struct Load {
    #[argh(subcommand)]
    kind: Kind,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Kind {
    Hog(Hog),
    Refault(Refault),
    Tmpfs(Tmpfs),
    Forkstorm(Forkstorm),
    Heartbeat(Heartbeat),
    Sleeper(Sleeper),
    Many(Many),
    Micro(Micro),
    Churn(Churn),
    KernelLeak(KernelLeak),
    Workers(Workers),
    Supervise(Supervise),
    As(As),
    Exec(Exec),
    Soak(Soak),
    Faulty(Faulty),
    Footprint(Measure),
}

/// read a file over and over through the page cache
#[derive(FromArgs)]
#[argh(subcommand, name = "refault")]
struct Refault {
    /// file or block device
    #[argh(option, default = "PathBuf::from(DISK)")]
    file: PathBuf,
    /// working set, e.g. 300M
    #[argh(option, from_str_fn(in_bytes))]
    size: usize,
    /// bytes a second, as fast as possible if absent
    #[argh(option, from_str_fn(in_bytes))]
    rate: Option<usize>,
}

/// tick every 10 ms over a small working set and report the worst delay
#[derive(FromArgs)]
#[argh(subcommand, name = "heartbeat")]
struct Heartbeat {
    /// working set, e.g. 256K
    #[argh(option, from_str_fn(in_bytes), default = "256 << 10")]
    size: usize,
}

impl Load {
    /// A load and its options, as on a command line.
    fn parse(words: &[String]) -> io::Result<Self> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        Self::from_args(&["lowtide-guest"], &words).map_err(|e| io::Error::other(e.output))
    }

    pub fn run(self) -> ExitCode {
        match self.carry_out() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        }
    }

    fn carry_out(self) -> io::Result<()> {
        match self.kind {
            Kind::Hog(l) => l.run(),
            Kind::Refault(l) => l.run(),
            Kind::Tmpfs(l) => l.run(),
            Kind::Forkstorm(l) => l.run(),
            Kind::Heartbeat(l) => l.run(),
            Kind::Sleeper(l) => l.run(),
            Kind::Many(l) => l.run(),
            Kind::Micro(l) => l.run(),
            Kind::Churn(l) => l.run(),
            Kind::KernelLeak(l) => l.run(),
            Kind::Workers(l) => l.run(),
            Kind::Supervise(l) => l.run(),
            Kind::As(l) => l.run(),
            Kind::Exec(l) => l.run(),
            Kind::Soak(l) => l.run(),
            Kind::Faulty(l) => l.run(),
            Kind::Footprint(l) => l.run(),
        }
    }
}

impl Refault {
    fn run(self) -> io::Result<()> {
        let file = File::open(&self.file)?;
        let mut buffer = vec![0; 64 << 10];
        let pause = self
            .rate
            .map(|rate| Duration::from_secs_f64(buffer.len() as f64 / rate as f64));
        for number in 1.. {
            let start = Instant::now();
            let mut at = 0;
            while at < self.size {
                let n = file.read_at(&mut buffer, at as u64)?;
                if n == 0 {
                    return Err(io::Error::other(format!(
                        "{} ends at {at}",
                        self.file.display()
                    )));
                }
                at += n;
                if let Some(pause) = pause {
                    thread::sleep(pause);
                }
            }
            report(&Report::Pass {
                number,
                ms: start.elapsed().as_millis() as u64,
            });
        }
        Ok(())
    }
}

impl Heartbeat {
    fn run(self) -> io::Result<()> {
        const TICK: Duration = Duration::from_millis(10);
        let mut set = vec![0; self.size];
        let mut worst = Duration::ZERO;
        let mut ticks = 0u64;
        loop {
            let second = Instant::now();
            let mut gap = Duration::ZERO;
            while second.elapsed() < Duration::from_secs(1) {
                let start = Instant::now();
                thread::sleep(TICK);
                ticks += 1;
                touch(&mut set, ticks as u8);
                gap = gap.max(start.elapsed().saturating_sub(TICK));
            }
            worst = worst.max(gap);
            report(&Report::Heartbeat {
                ticks,
                gap_us: gap.as_micros() as u64,
                worst_us: worst.as_micros() as u64,
            });
        }
    }
}

pub fn report(report: &Report) {
    let line = serde_json::to_string(report).expect("plain data");
    // The reader may have gone; the load goes on.
    let _ = writeln!(io::stdout().lock(), "{line}");
}

fn sleep_forever() -> ! {
    loop {
        thread::park();
    }
}

/// Bytes, with an optional K, M or G.
fn in_bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits
        .parse::<usize>()
        .map(|n| n << shift)
        .map_err(|e| format!("{text}: {e}"))
}
