//! The loads, each a subcommand. They report on stdout; a load that has nothing more to do sleeps.

use crate::footprint::Measure;
use argh::FromArgs;
use lowtide_guest::{CGROUP_ROOT, DISK, Report};
use rustix::fs::MemfdFlags;
use rustix::process::WaitOptions;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
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
    Churn(Churn),
    Exec(Exec),
    Footprint(Measure),
}

/// allocate and touch memory at a set rate
#[derive(FromArgs)]
#[argh(subcommand, name = "hog")]
struct Hog {
    /// bytes a second, e.g. 20M; as fast as possible if absent
    #[argh(option, from_str_fn(in_bytes))]
    rate: Option<usize>,
    /// stop growing here; never if absent
    #[argh(option, from_str_fn(in_bytes))]
    cap: Option<usize>,
    /// touch all of it again and again, not only once
    #[argh(switch)]
    hot: bool,
    /// fill so many percent of each page with random bytes, which zram cannot shrink
    #[argh(option, default = "0")]
    random: usize,
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

/// write a growing file in shared memory, which goes when its writer does
#[derive(FromArgs)]
#[argh(subcommand, name = "tmpfs")]
struct Tmpfs {
    /// bytes a second
    #[argh(option, from_str_fn(in_bytes))]
    rate: usize,
    /// stop growing here; never if absent
    #[argh(option, from_str_fn(in_bytes))]
    cap: Option<usize>,
}

/// start children that stay, each holding some memory
#[derive(FromArgs)]
#[argh(subcommand, name = "forkstorm")]
struct Forkstorm {
    /// children a second
    #[argh(option)]
    rate: u32,
    /// what each child holds, e.g. 2M
    #[argh(option, from_str_fn(in_bytes))]
    size: usize,
    /// stop at this many children
    #[argh(option, default = "u64::MAX")]
    max: u64,
}

/// tick every 10 ms over a small working set and report the worst delay
#[derive(FromArgs)]
#[argh(subcommand, name = "heartbeat")]
struct Heartbeat {
    /// working set, e.g. 256K
    #[argh(option, from_str_fn(in_bytes), default = "256 << 10")]
    size: usize,
}

/// hold memory and do nothing
#[derive(FromArgs)]
#[argh(subcommand, name = "sleeper")]
struct Sleeper {
    /// what to hold, e.g. 16M
    #[argh(option, from_str_fn(in_bytes))]
    size: usize,
}

/// make many cgroups
#[derive(FromArgs)]
#[argh(subcommand, name = "many")]
struct Many {
    /// how many
    #[argh(option)]
    count: u64,
    /// children of the one before instead of siblings, this many levels down
    #[argh(option, default = "1")]
    depth: u64,
    /// parent, relative to the root of the tree
    #[argh(option, default = "String::from(\"many\")")]
    parent: String,
}

/// make and remove cgroups all the time
#[derive(FromArgs)]
#[argh(subcommand, name = "churn")]
struct Churn {
    /// how many there are at a time
    #[argh(option, default = "50")]
    count: u64,
    /// parent, relative to the root of the tree
    #[argh(option, default = "String::from(\"churn\")")]
    parent: String,
}

/// become another program, in a cgroup and with the default OOM score
#[derive(FromArgs)]
#[argh(subcommand, name = "exec")]
struct Exec {
    /// cgroup, relative to the root of the tree
    #[argh(positional)]
    cgroup: String,
    /// program and its arguments
    #[argh(positional, greedy)]
    command: Vec<String>,
}

const PAGE: usize = 4096;

impl Load {
    pub fn run(self) -> ExitCode {
        let result = match self.kind {
            Kind::Hog(l) => l.run(),
            Kind::Refault(l) => l.run(),
            Kind::Tmpfs(l) => l.run(),
            Kind::Forkstorm(l) => l.run(),
            Kind::Heartbeat(l) => l.run(),
            Kind::Sleeper(l) => l.run(),
            Kind::Many(l) => l.run(),
            Kind::Churn(l) => l.run(),
            Kind::Exec(l) => l.run(),
            Kind::Footprint(l) => l.run(),
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("{e}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Hog {
    fn run(self) -> io::Result<()> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        let mut grow = Growth::new(self.rate, self.cap);
        let mut pass = 0u8;
        loop {
            match grow.next_step() {
                Step::Take(bytes) => {
                    let mut block = vec![0; bytes];
                    touch(&mut block, 1);
                    for page in block.chunks_mut(PAGE) {
                        random.fill(&mut page[..PAGE * self.random / 100]);
                    }
                    blocks.push(block);
                }
                Step::Wait(_) if self.hot => {}
                Step::Wait(t) => thread::sleep(t),
                Step::Full if self.hot => {}
                Step::Full => sleep_forever(),
            }
            if self.hot {
                pass = pass.wrapping_add(1);
                blocks.iter_mut().for_each(|b| touch(b, pass));
            }
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

impl Tmpfs {
    fn run(self) -> io::Result<()> {
        // Not a file on /tmp: that would stay, and a tmpfs has a limit of its own.
        let mut file = File::from(rustix::fs::memfd_create("filler", MemfdFlags::CLOEXEC)?);
        let mut grow = Growth::new(Some(self.rate), self.cap);
        loop {
            match grow.next_step() {
                Step::Take(bytes) => file.write_all(&vec![1; bytes])?,
                Step::Wait(t) => thread::sleep(t),
                Step::Full => sleep_forever(),
            }
        }
    }
}

impl Forkstorm {
    fn run(self) -> io::Result<()> {
        // By this path the children have the same name.
        let me = std::env::args_os().next().unwrap_or_default();
        let period = Duration::from_secs(1) / self.rate;
        let (mut started, mut lost) = (0, 0);
        loop {
            if started < self.max {
                Command::new(&me)
                    .args(["sleeper", "--size", &self.size.to_string()])
                    .spawn()?;
                started += 1;
                report(&Report::Forks { count: started });
                if started == self.max {
                    report(&Report::Full);
                }
            }
            let before = lost;
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {
                lost += 1;
            }
            if lost > before {
                report(&Report::Lost { count: lost });
            }
            thread::sleep(period);
        }
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

impl Sleeper {
    fn run(self) -> io::Result<()> {
        let mut held = vec![0; self.size];
        touch(&mut held, 1);
        report(&Report::Holds {
            bytes: self.size as u64,
        });
        sleep_forever()
    }
}

impl Many {
    fn run(self) -> io::Result<()> {
        let parent = Path::new(CGROUP_ROOT).join(&self.parent);
        for i in 0..self.count.div_ceil(self.depth) {
            let mut dir = parent.join(i.to_string());
            for level in 0..self.depth.min(self.count - i * self.depth) {
                if level > 0 {
                    fs::write(dir.join("cgroup.subtree_control"), "+memory")?;
                    dir.push("d");
                }
                fs::create_dir(&dir)?;
            }
        }
        report(&Report::Made {
            cgroups: self.count,
        });
        sleep_forever()
    }
}

impl Churn {
    fn run(self) -> io::Result<()> {
        let dir = |i: u64| {
            Path::new(CGROUP_ROOT)
                .join(&self.parent)
                .join(i.to_string())
        };
        for i in 0.. {
            fs::create_dir(dir(i))?;
            if i >= self.count {
                fs::remove_dir(dir(i - self.count))?;
            }
            if i % 1000 == 0 {
                report(&Report::Made { cgroups: i });
            }
        }
        Ok(())
    }
}

impl Exec {
    fn run(self) -> io::Result<()> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(io::Error::other("no program"));
        };
        fs::write("/proc/self/oom_score_adj", "0")?;
        let procs = Path::new(CGROUP_ROOT)
            .join(self.cgroup)
            .join("cgroup.procs");
        // Without cgroup v2 the program runs all the same.
        if procs.exists() {
            fs::write(procs, "0")?;
        }
        let error = Command::new(program).args(arguments).exec();
        Err(io::Error::new(error.kind(), format!("{program}: {error}")))
    }
}

/// What a load that grows at a set rate has to do next.
enum Step {
    Take(usize),
    Wait(Duration),
    Full,
}

struct Growth {
    rate: Option<usize>,
    cap: usize,
    held: usize,
    start: Instant,
}

impl Growth {
    /// Small enough that a slow leak grows smoothly, large enough that a fast hog is fast.
    const STEP: usize = 256 << 10;
    const REPORT_EVERY: usize = 8 << 20;

    fn new(rate: Option<usize>, cap: Option<usize>) -> Self {
        Self {
            rate,
            cap: cap.unwrap_or(usize::MAX),
            held: 0,
            start: Instant::now(),
        }
    }

    fn next_step(&mut self) -> Step {
        if self.held >= self.cap {
            return Step::Full;
        }
        let take = Self::STEP.min(self.cap - self.held);
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64((self.held + take) as f64 / rate as f64);
            let wait = due.saturating_sub(self.start.elapsed());
            if !wait.is_zero() {
                return Step::Wait(wait);
            }
        }
        self.held += take;
        if self.held == self.cap {
            report(&Report::Full);
        } else if self.held.is_multiple_of(Self::REPORT_EVERY) {
            report(&Report::Holds {
                bytes: self.held as u64,
            });
        }
        Step::Take(take)
    }
}

/// xorshift64: cheap, and no compressor finds a pattern in it.
struct Random(u64);

impl Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_ne_bytes()[..word.len()]);
        }
    }
}

fn touch(bytes: &mut [u8], value: u8) {
    for page in bytes.chunks_mut(PAGE) {
        page[0] = value;
    }
    std::hint::black_box(bytes);
}

pub fn report(report: &Report) {
    let line = serde_json::to_string(report).expect("plain data");
    // Nobody may be reading any more; the load goes on.
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
