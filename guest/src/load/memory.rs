//! Loads that hold memory.

use super::{in_bytes, report, sleep_forever};
use argh::FromArgs;
use lowtide_guest::Report;
use rustix::fs::MemfdFlags;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// allocate and touch memory at a set rate
#[derive(FromArgs)]
#[argh(subcommand, name = "hog")]
pub struct Hog {
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

/// write a growing file in shared memory: one without a name, which goes with its writer, or a
/// named one, which stays
#[derive(FromArgs)]
#[argh(subcommand, name = "tmpfs")]
pub struct Tmpfs {
    /// bytes a second
    #[argh(option, from_str_fn(in_bytes))]
    rate: usize,
    /// stop growing here; never if absent
    #[argh(option, from_str_fn(in_bytes))]
    cap: Option<usize>,
    /// name of the file, e.g. /tmp/left; it is there until it is removed
    #[argh(option)]
    file: Option<PathBuf>,
}

/// hold memory and do nothing
#[derive(FromArgs)]
#[argh(subcommand, name = "sleeper")]
pub struct Sleeper {
    /// what to hold, e.g. 16M
    #[argh(option, from_str_fn(in_bytes))]
    size: usize,
}

/// take memory that belongs to no process and no cgroup: huge pages, reserved step by step
#[derive(FromArgs)]
#[argh(subcommand, name = "kernel-leak")]
pub struct KernelLeak {
    /// bytes a second
    #[argh(option, from_str_fn(in_bytes))]
    rate: usize,
    /// stop here; never if absent
    #[argh(option, from_str_fn(in_bytes))]
    cap: Option<usize>,
}

impl Hog {
    pub fn run(self) -> io::Result<()> {
        let mut random = Random::new(0);
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

impl Tmpfs {
    pub fn run(self) -> io::Result<()> {
        let mut file = match self.file {
            Some(path) => File::create(path)?,
            None => File::from(rustix::fs::memfd_create("filler", MemfdFlags::CLOEXEC)?),
        };
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

impl Sleeper {
    pub fn run(self) -> io::Result<()> {
        let mut held = vec![0; self.size];
        touch(&mut held, 1);
        report(&Report::Holds {
            bytes: self.size as u64,
        });
        sleep_forever()
    }
}

impl KernelLeak {
    pub fn run(self) -> io::Result<()> {
        const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let size = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("Hugepagesize:"))
            .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<usize>().ok())
            .ok_or_else(|| io::Error::other("the kernel has no huge pages"))?;
        let period = Duration::from_secs_f64((size << 10) as f64 / self.rate as f64);
        let most = self.cap.map_or(usize::MAX, |cap| cap / (size << 10));
        for pages in 1..=most {
            fs::write(RESERVED, pages.to_string())?;
            let held: usize = fs::read_to_string(RESERVED)?
                .trim()
                .parse()
                .map_err(io::Error::other)?;
            report(&Report::Holds {
                bytes: (held as u64 * size as u64) << 10,
            });
            thread::sleep(period);
        }
        report(&Report::Full);
        sleep_forever()
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
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Its state is never 0.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One of 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        // The low bits of a xorshift are its worst.
        (self.next() >> 16) % end.max(1)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            word.copy_from_slice(&self.next().to_ne_bytes()[..word.len()]);
        }
    }
}

pub fn touch(bytes: &mut [u8], value: u8) {
    for page in bytes.chunks_mut(PAGE) {
        page[0] = value;
    }
    std::hint::black_box(bytes);
}
