//! Small loads whose whole time is measured: what a program that runs on each charge of memory adds to them.

use super::memory::touch;
use super::report;
use argh::FromArgs;
use lowtide_guest::Report;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::io;
use std::process::Command;
use std::time::Instant;

/// Bytes.
const PAGE: usize = 4096;
const TOUCHED: usize = 100 << 20;
/// Page faults, each in a mapping that is made and removed again in blocks.
const BLOCKS: usize = 256;
const BLOCK: usize = 1 << 20;
const FORKS: usize = 50;
/// Rounds of each, of which the shortest counts.
const ROUNDS: usize = 5;

/// measure how long 100 MB take to touch, page faults, and starting processes
#[derive(FromArgs)]
#[argh(subcommand, name = "micro")]
pub struct Micro {}

impl Micro {
    pub fn run(self) -> io::Result<()> {
        measure("100 MB touched", touched)?;
        measure("65,536 page faults", faults)?;
        measure("50 times fork and exec", forks)
    }
}

fn measure(what: &str, load: fn() -> io::Result<()>) -> io::Result<()> {
    let mut least = u64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        load()?;
        least = least.min(start.elapsed().as_nanos() as u64);
    }
    report(&Report::Took {
        what: what.to_owned(),
        ns: least,
    });
    Ok(())
}

fn touched() -> io::Result<()> {
    let mut held = vec![0; TOUCHED];
    touch(&mut held, 1);
    Ok(())
}

fn faults() -> io::Result<()> {
    for _ in 0..BLOCKS {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use; it is
        // written within its length and removed once nothing refers to it.
        unsafe {
            let rights = ProtFlags::READ | ProtFlags::WRITE;
            let at = mmap_anonymous(std::ptr::null_mut(), BLOCK, rights, MapFlags::PRIVATE)?;
            for page in 0..BLOCK / PAGE {
                at.cast::<u8>().add(page * PAGE).write_volatile(1);
            }
            munmap(at, BLOCK)?;
        }
    }
    Ok(())
}

fn forks() -> io::Result<()> {
    for _ in 0..FORKS {
        Command::new("/bin/busybox").arg("true").status()?;
    }
    Ok(())
}
