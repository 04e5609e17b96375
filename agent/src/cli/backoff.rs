//! An agent that cannot start is started again by whatever runs services, mostly a second later and
//! for ever: it waits longer each time before it fails again.

use async_signal::Signals;
use smol::Timer;
use smol::future::FutureExt as _;
use smol::stream::StreamExt as _;
use std::fs::{self, OpenOptions};
use std::future::pending;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// As many bytes as starts have failed in a row; on a tmpfs, as a boot begins anew.
const FAILED: &str = "/run/lowtide/failed";
/// Starts that fail at once: the first of a boot is waited for by what comes after it.
const AT_ONCE: u32 = 3;
const LONGEST: Duration = Duration::from_secs(60);

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(AT_ONCE) {
        None | Some(0) => Duration::ZERO,
        Some(more) => LONGEST.min(Duration::from_secs(1 << more.min(6))),
    }
}

/// Notes a start that failed, and waits. A signal ends that, and the next start reads the config
/// anew. Where nothing can be noted, nothing is waited for.
pub fn fail(signals: Option<Signals>) {
    let Some(failures) = note(Path::new(FAILED)) else {
        return;
    };
    let over = async {
        Timer::after(pause(failures)).await;
    };
    smol::block_on(over.or(async {
        match signals {
            Some(mut signals) => drop(signals.next().await),
            None => pending().await,
        }
    }));
}

/// Notes that the agent has started.
pub fn clear() {
    // There is none after a start that went well.
    let _ = fs::remove_file(FAILED);
}

/// The number of failures with this one.
fn note(path: &Path) -> Option<u32> {
    let _ = fs::create_dir(path.parent()?);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).ok()?;
    file.write_all(b".").ok()?;
    u32::try_from(file.metadata().ok()?.len()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_up_to_a_minute() {
        let pauses: Vec<_> = (1..=12).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [0, 0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn failures_are_counted_until_they_are_forgotten() {
        let path = std::env::temp_dir().join(format!("lowtide-failed-{}", std::process::id()));
        let counted: Vec<_> = (0..3).map(|_| note(&path)).collect();
        assert_eq!(counted, [Some(1), Some(2), Some(3)]);
        fs::remove_file(&path).unwrap();
        assert_eq!(note(&path.join("x").join("y")), None);
    }
}
