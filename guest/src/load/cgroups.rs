//! Loads that make cgroups.

use super::{report, sleep_forever};
use crate::cgroup;
use argh::FromArgs;
use lowtide_guest::Report;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// make many cgroups
#[derive(FromArgs)]
#[argh(subcommand, name = "many")]
pub struct Many {
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

/// make cgroups, and remove the oldest of them, all the time
#[derive(FromArgs)]
#[argh(subcommand, name = "churn")]
pub struct Churn {
    /// how many are made a second; as many as can be if absent
    #[argh(option)]
    rate: Option<u32>,
    /// how many there are at a time
    #[argh(option, default = "50")]
    count: u64,
    /// parent, relative to the root of the tree
    #[argh(option, default = "String::from(\"churn\")")]
    parent: String,
}

impl Many {
    pub fn run(self) -> io::Result<()> {
        let parent = cgroup::path(&self.parent);
        for i in 0..self.count.div_ceil(self.depth) {
            // From one to the next: a path from the root would be too long where they are deep.
            std::env::set_current_dir(&parent)?;
            let mut dir = i.to_string();
            for level in 0..self.depth.min(self.count - i * self.depth) {
                if level > 0 {
                    std::env::set_current_dir(&dir)?;
                    fs::write("cgroup.subtree_control", "+memory")?;
                    "d".clone_into(&mut dir);
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
    pub fn run(self) -> io::Result<()> {
        let parent = cgroup::path(&self.parent);
        let dir = |i: u64| parent.join(i.to_string());
        let period = self.rate.map(|rate| Duration::from_secs(1) / rate);
        let start = Instant::now();
        for i in 0..u64::MAX {
            fs::create_dir(dir(i))?;
            if i >= self.count {
                fs::remove_dir(dir(i - self.count))?;
            }
            if i % 1000 == 0 {
                report(&Report::Made { cgroups: i });
            }
            if let Some(period) = period {
                // By the clock, and not by pauses: the rate is kept when this does not get to run.
                let due = period * u32::try_from(i + 1).unwrap_or(u32::MAX);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        Ok(())
    }
}
