//! What one look at all memcgs costs, by the ways to come by the figures. Each way is reported with
//! the median of some looks.

use argh::FromArgs;
use lowtide::sense::Engine;
use lowtide::sense::cgroupfs::Cgroupfs;
use lowtide::sense::kfunc::{Kfunc, Options};
use lowtide::sense::tree::Tree;
use lowtide_common::{NO_GROUP, Request, Rule};
use lowtide_guest::{CGROUP_ROOT, Report};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Looks at all memcgs in several ways and reports what each costs.
#[derive(FromArgs)]
struct Bench {
    /// how many memcgs there are; may be given more than once, ascending
    #[argh(option)]
    count: Vec<usize>,
    /// children of the one before instead of siblings, this many levels down
    #[argh(option, default = "1")]
    depth: usize,
    /// looks in each way
    #[argh(option, default = "3")]
    runs: usize,
    /// parent of the memcgs, relative to the root of the tree
    #[argh(option, default = "String::from(\"bench\")")]
    parent: String,
}

/// More than all files that are kept open; the kernel allows a million.
const DESCRIPTORS: u64 = 200_000;
/// A memory.stat of Linux 7.3 has 2 KB.
const BUFFER: usize = 8 << 10;

fn main() -> ExitCode {
    match argh::from_env::<Bench>().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    fn run(&self) -> io::Result<()> {
        let limit = Some(DESCRIPTORS);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )?;
        let tree = Tree::open()?;
        let options = Options {
            max_rules: 4096,
            rows: 1,
            verifier_log: false,
        };
        let mut bpf = Kfunc::open(&options, tree.root()?).map_err(io::Error::other)?;
        let mut dirs = Vec::new();
        for count in &self.count {
            self.make(&mut dirs, *count)?;
            self.measure("bpf", dirs.len(), || survey(&mut bpf, dirs.len()))?;
            // With room for those of the guest's own.
            let mut engine = Cgroupfs::open(&tree, dirs.len() + 64, 1)?;
            self.measure("cgroupfs", dirs.len(), || survey(&mut engine, dirs.len()))?;
            drop(engine);
            let files = dirs.iter().map(|dir| Kept::open(dir));
            let files = files.collect::<io::Result<Vec<_>>>()?;
            self.measure("reader", dirs.len(), || {
                files
                    .iter()
                    .try_for_each(|kept| kept.read().map(drop_figures))
            })?;
            drop(files);
            self.measure("naive", dirs.len(), || {
                dirs.iter().try_for_each(|dir| naive(dir).map(drop_figures))
            })?;
        }
        Ok(())
    }

    /// Adds memcgs until there are so many.
    fn make(&self, dirs: &mut Vec<PathBuf>, count: usize) -> io::Result<()> {
        while dirs.len() < count {
            let below = dirs
                .last()
                .filter(|_| !dirs.len().is_multiple_of(self.depth));
            let dir = match below {
                Some(parent) => {
                    fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
                    parent.join("d")
                }
                None => Path::new(CGROUP_ROOT)
                    .join(&self.parent)
                    .join(dirs.len().to_string()),
            };
            fs::create_dir(&dir)?;
            dirs.push(dir);
        }
        Ok(())
    }

    fn measure(
        &self,
        way: &str,
        memcgs: usize,
        mut look: impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        // The first one warms up.
        look()?;
        let mut times = Vec::with_capacity(self.runs);
        for _ in 0..self.runs {
            let start = Instant::now();
            look()?;
            times.push(start.elapsed().as_nanos() as u64);
        }
        times.sort_unstable();
        let report = Report::Looked {
            way: way.to_owned(),
            memcgs: memcgs as u64,
            median_ns: times[times.len() / 2],
            min_ns: times[0],
            max_ns: times[times.len() - 1],
        };
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}

fn survey(engine: &mut impl Engine, count: usize) -> io::Result<()> {
    engine.run(&Request {
        worth: 1 << 20,
        classified_up_to: u64::MAX,
        fallback: Rule {
            kill: 500,
            reclaim: 500,
            group: NO_GROUP,
            flags: 0,
        },
        within: 0,
        flags: 0,
        _reserved: 0,
    })?;
    let seen = engine.survey().memcgs as usize;
    if seen < count || engine.left_out() > 0 {
        return Err(io::Error::other(format!("{seen} of {count} memcgs seen")));
    }
    Ok(())
}

/// What a reader of the files gets of one memcg.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    usage: u64,
    /// In the order of [`KEYS`].
    stat: [u64; KEYS.len()],
    some_us: u64,
    full_us: u64,
}

/// In the order in which memory.stat has them.
const KEYS: [&str; 6] = [
    "anon ",
    "file ",
    "shmem ",
    "file_mapped ",
    "workingset_refault_anon ",
    "workingset_refault_file ",
];

fn drop_figures(figures: Figures) {
    black_box(figures);
}

/// The fastest reader: files that stay open, one read each, parsed in one pass that ends with the
/// last key. It looks neither for new memcgs nor at which have processes, as the engines do.
struct Kept {
    usage: File,
    stat: File,
    pressure: File,
}

impl Kept {
    fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            usage: File::open(dir.join("memory.current"))?,
            stat: File::open(dir.join("memory.stat"))?,
            pressure: File::open(dir.join("memory.pressure"))?,
        })
    }

    fn read(&self) -> io::Result<Figures> {
        let mut buffer = [0; BUFFER];
        let n = self.usage.read_at(&mut buffer, 0)?;
        let usage = number(&buffer[..n]);
        let n = self.stat.read_at(&mut buffer, 0)?;
        let stat = numbers(&buffer[..n]);
        let n = self.pressure.read_at(&mut buffer, 0)?;
        let (some_us, full_us) = totals(&buffer[..n]);
        Ok(Figures {
            usage,
            stat,
            some_us,
            full_us,
        })
    }
}

/// The digits that the text begins with.
fn number(text: &[u8]) -> u64 {
    text.iter()
        .take_while(|b| b.is_ascii_digit())
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'))
}

/// What is behind each of the [`KEYS`].
fn numbers(stat: &[u8]) -> [u64; KEYS.len()] {
    let mut found = [0; KEYS.len()];
    let mut at = 0;
    for (key, number_of) in KEYS.iter().zip(&mut found) {
        loop {
            let line = &stat[at..];
            let Some(end) = memchr::memchr(b'\n', line) else {
                return found;
            };
            at += end + 1;
            if let Some(rest) = line.strip_prefix(key.as_bytes()) {
                *number_of = number(rest);
                break;
            }
        }
    }
    found
}

/// The totals of a pressure file: each is the last word of its line.
fn totals(pressure: &[u8]) -> (u64, u64) {
    let mut totals = memchr::memchr_iter(b'\n', pressure).map(|end| {
        match memchr::memrchr(b'=', &pressure[..end]) {
            Some(at) => number(&pressure[at + 1..end]),
            None => 0,
        }
    });
    (totals.next().unwrap_or(0), totals.next().unwrap_or(0))
}

/// As one would write it first: every file by its path, as text.
fn naive(dir: &Path) -> io::Result<Figures> {
    let usage = fs::read_to_string(dir.join("memory.current"))?;
    let stat = fs::read_to_string(dir.join("memory.stat"))?;
    let pressure = fs::read_to_string(dir.join("memory.pressure"))?;
    let behind = |key: &str| {
        let number = stat.lines().find_map(|line| line.strip_prefix(key));
        number.and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let total = |name: &str| {
        let line = pressure.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split("total=").nth(1)?.parse().ok())
            .unwrap_or(0)
    };
    Ok(Figures {
        usage: usage.trim_end().parse().unwrap_or(0),
        stat: KEYS.map(behind),
        some_us: total("some"),
        full_us: total("full"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readers_find_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("memory.current", "4096\n");
        write(
            "memory.stat",
            "anon 1\nfile 2\nkernel 9\nshmem 3\nfile_mapped 4\nfile_dirty 9\n\
             workingset_refault_anon 5\nworkingset_refault_file 6\nlast 9\n",
        );
        write(
            "memory.pressure",
            "some avg10=0.00 avg60=1.00 avg300=0.00 total=7\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=8\n",
        );
        let expected = Figures {
            usage: 4096,
            stat: [1, 2, 3, 4, 5, 6],
            some_us: 7,
            full_us: 8,
        };
        assert_eq!(naive(dir.path()).unwrap(), expected);
        let kept = Kept::open(dir.path()).unwrap();
        assert_eq!(kept.read().unwrap(), expected);
    }
}
