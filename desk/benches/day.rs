//! How long it takes to judge again what one device recorded in a day, and in many:
//! `cargo bench --package lowtide-desk`.

#[path = "../tests/common/mod.rs"]
mod common;

use common::{Device, MIB};
use std::time::{Duration, Instant};

/// Cgroups of the device, seconds between samples, episodes a day, looks in each.
const CGROUPS: u64 = 40;
const EVERY_S: u64 = 10;
const EPISODES: u64 = 12;
const LOOKS: u64 = 40;
const DAY_S: u64 = 86_400;
/// The fastest of so many counts.
const TIMES: usize = 7;

fn recorded(days: u64) -> Vec<u8> {
    let mut device = Device::new(CGROUPS);
    let samples = DAY_S / EVERY_S;
    for sample in 0..samples * days {
        device.now += EVERY_S * 1_000;
        // A few of them change all the time.
        for which in 0..4 {
            let count = device.cgroups.len();
            let (_, bytes) = &mut device.cgroups[(sample as usize * 7 + which) % count];
            *bytes = MIB + sample % 16 * 4096;
        }
        device.sample();
        if sample % (samples / EPISODES) == 1 {
            let (id, _) = device.cgroups[0];
            device.grow(id, 250 * MIB, LOOKS);
            for id in std::mem::take(&mut device.gone) {
                device.cgroups.push((id, MIB));
            }
            device.cgroups.sort_unstable();
            device
                .cgroups
                .iter_mut()
                .for_each(|(_, bytes)| *bytes = MIB);
        }
    }
    device.file
}

fn main() {
    for days in [1, 2, 4, 8] {
        let file = recorded(days);
        let mut best = Duration::MAX;
        let mut found = (0, 0);
        for _ in 0..TIMES {
            let start = Instant::now();
            let run = lowtide_desk::replay::replay(&file, None).expect("it can be judged");
            best = best.min(start.elapsed());
            found = (run.looks, run.decisions.len());
            assert_eq!(run.differs_at, None);
        }
        println!(
            "{days} days: {:.2} ms, {} KB, {} looks, {} decisions",
            best.as_secs_f64() * 1e3,
            file.len() / 1024,
            found.0,
            found.1
        );
    }
}
