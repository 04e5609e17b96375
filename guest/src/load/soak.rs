//! Everything that may happen on a device, by a seed, for as long as one likes, and what must hold all
//! the time.

use super::memory::Random;
use super::report;
use crate::cgroup;
use argh::FromArgs;
use lowtide_guest::Report;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// start, press, reload and disturb at random beside an agent, and end at the first thing that is wrong
#[derive(FromArgs)]
#[argh(subcommand, name = "soak")]
pub struct Soak {
    /// what happens follows from it
    #[argh(option)]
    seed: u64,
    /// how long
    #[argh(option)]
    minutes: u64,
    /// directory of the configs that the agent may be given: good-*.toml and bad-*.toml
    #[argh(option)]
    configs: PathBuf,
    /// the config that the agent reads
    #[argh(option)]
    config: PathBuf,
    /// cgroup of the agent, relative to the root of the tree
    #[argh(option, default = "String::from(\"lowtide\")")]
    agent: String,
    /// cgroup in which nothing may ever end, relative to the root of the tree
    #[argh(option)]
    never: String,
}

/// Where services are: those of two groups, of none, and of a name that is no text.
const PLACES: [&str; 4] = ["apps/low", "apps/high", "other", "odd%ff"];
/// Services at a time; the oldest makes room.
const SERVICES: usize = 6;
/// Time between two things that happen, in milliseconds, at most.
const PAUSE_MS: u64 = 400;
/// Looked at again and again, what the agent holds may be this much more than after the first minute.
const MORE_DESCRIPTORS: usize = 8;
const MORE_KB: u64 = 512;

struct Running {
    random: Random,
    soak: Soak,
    services: Vec<Child>,
    started: u64,
    /// The list of processes of the cgroup that may never end.
    never: String,
    agent: u32,
    /// Of the agent, once it has seen all kinds of things.
    settled: Option<Held>,
}

/// What the agent holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    /// Of its cgroup: its own pages and what the kernel keeps for it, map entries among them.
    kb: u64,
}

impl Soak {
    pub fn run(self) -> io::Result<()> {
        let mut running = Running {
            random: Random::new(self.seed),
            services: Vec::new(),
            started: 0,
            never: processes(&self.never)?,
            agent: first_process(&self.agent)?,
            settled: None,
            soak: self,
        };
        let start = Instant::now();
        let end = Duration::from_secs(running.soak.minutes * 60);
        let mut steps = 0;
        while start.elapsed() < end {
            running.step()?;
            running.check(start.elapsed())?;
            steps += 1;
            if steps % 100 == 0 {
                report(&Report::Soaked { steps });
            }
            let pause = running.random.below(PAUSE_MS);
            thread::sleep(Duration::from_millis(pause));
        }
        report(&Report::Soaked { steps });
        Ok(())
    }
}

impl Running {
    /// One thing happens.
    fn step(&mut self) -> io::Result<()> {
        match self.random.below(12) {
            0..4 => self.start(&["sleeper", "--size"], 1..16),
            4 => self.start(&["hog", "--cap", "400M", "--rate"], 2..60),
            5 => self.start(
                &["as", "--ignore-term", "hog", "--cap", "400M", "--rate"],
                2..60,
            ),
            6 => self.start(&["tmpfs", "--cap", "400M", "--rate"], 2..60),
            7 => {
                self.stop_oldest();
                Ok(())
            }
            8 => self.births(),
            9 => self.reload("good-"),
            10 => self.reload("bad-"),
            _ => self.freeze(),
        }
    }

    /// A service in a cgroup of its own in one of a few places, with so many MB.
    fn start(&mut self, load: &[&str], mb: std::ops::Range<u64>) -> io::Result<()> {
        if self.services.len() >= SERVICES {
            self.stop_oldest();
        }
        let place = PLACES[self.random.below(4) as usize];
        self.started += 1;
        let name = format!("{place}/s{}", self.started);
        cgroup::make(&name, |file, value| fs::write(file, value))?;
        let size = format!("{}M", mb.start + self.random.below(mb.end - mb.start));
        let me = std::env::args_os().next().unwrap_or_default();
        let child = Command::new(&me)
            .args(["exec", &name])
            .arg(&me)
            .args(load)
            .arg(size)
            .spawn()?;
        self.services.push(child);
        Ok(())
    }

    fn stop_oldest(&mut self) {
        if self.services.is_empty() {
            return;
        }
        let mut child = self.services.remove(0);
        // The agent may have ended it.
        let _ = child.kill();
        let _ = child.wait();
        for place in PLACES {
            let parent = cgroup::path(place);
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                // Those with processes stay.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }

    /// Many cgroups come and go at once.
    fn births(&mut self) -> io::Result<()> {
        let parent = cgroup::path("births");
        fs::create_dir_all(&parent)?;
        let count = self.random.below(200);
        for number in 0..count {
            fs::create_dir(parent.join(number.to_string()))?;
        }
        for number in 0..count {
            fs::remove_dir(parent.join(number.to_string()))?;
        }
        Ok(())
    }

    /// The agent is given one of the configs whose name begins so.
    fn reload(&mut self, kind: &str) -> io::Result<()> {
        let mut configs = Vec::new();
        for entry in fs::read_dir(&self.soak.configs)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(kind) {
                configs.push(path);
            }
        }
        configs.sort();
        let chosen = &configs[self.random.below(configs.len() as u64) as usize];
        // As an editor does it: the agent never sees half of it.
        let new = self.soak.config.with_extension("new");
        fs::copy(chosen, &new)?;
        fs::rename(new, &self.soak.config)?;
        self.signal("HUP")
    }

    /// A service is frozen, as by somebody who debugs it: it can be killed all the same.
    fn freeze(&mut self) -> io::Result<()> {
        let number = self.random.below(self.started + 1);
        for place in PLACES {
            let file = cgroup::path(&format!("{place}/s{number}")).join("cgroup.freeze");
            if file.exists() {
                fs::write(file, "1")?;
            }
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let agent = self.agent.to_string();
        let sent = Command::new("/bin/busybox")
            .args(["kill", &format!("-{name}"), &agent])
            .status()?;
        if sent.success() {
            Ok(())
        } else {
            Err(io::Error::other("the agent is not there"))
        }
    }

    /// What must hold at any time.
    fn check(&mut self, elapsed: Duration) -> io::Result<()> {
        let never = processes(&self.soak.never)?;
        if never != self.never {
            return Err(io::Error::other(format!(
                "{}: its processes were {:?} and are {never:?}",
                self.soak.never, self.never
            )));
        }
        if first_process(&self.soak.agent)? != self.agent {
            return Err(io::Error::other("the agent is another one"));
        }
        let vmstat = fs::read_to_string("/proc/vmstat")?;
        if !vmstat.lines().any(|line| line == "oom_kill 0") {
            return Err(io::Error::other("the kernel's OOM killer was faster"));
        }
        let held = self.held()?;
        if elapsed < Duration::from_secs(60) {
            return Ok(());
        }
        let settled = *self.settled.get_or_insert(held);
        if held.descriptors > settled.descriptors + MORE_DESCRIPTORS
            || held.kb > settled.kb + MORE_KB
        {
            return Err(io::Error::other(format!(
                "the agent holds {held:?}, and held {settled:?} after a minute"
            )));
        }
        Ok(())
    }

    fn held(&self) -> io::Result<Held> {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.agent))?.count();
        let current = fs::read_to_string(cgroup::path(&self.soak.agent).join("memory.current"))?;
        let bytes: u64 = current.trim().parse().map_err(io::Error::other)?;
        Ok(Held {
            descriptors,
            kb: bytes >> 10,
        })
    }
}

/// The list of processes of a cgroup.
fn processes(name: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(&cgroup::path(name)).join("cgroup.procs"))
}

fn first_process(name: &str) -> io::Result<u32> {
    let list = processes(name)?;
    let first = list.lines().next().and_then(|line| line.parse().ok());
    first.ok_or_else(|| io::Error::other(format!("{name}: no process")))
}
