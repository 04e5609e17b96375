//! Which alarms there are: the best that work here, found by trying.

use super::alarms::Alarms;
use super::ballast::{self, Ballast};
use super::psi;
use super::tree::Tree;
#[cfg(feature = "bpf")]
use super::{bpf::LOADING, watch::Watch};
#[cfg(feature = "bpf")]
use crate::units::Size;
use lowtide_judge::{Memory, Trigger};
use rustix::fs::CWD;
use std::io;

/// What the config asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// On the system.
    pub trigger: Option<Trigger>,
    pub ballast: WantedBallast,
    /// Keep the verifier's words when it refuses.
    pub verifier_log: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedBallast {
    Off,
    /// Where there is no watch.
    Auto,
    /// So many bytes, in any case.
    Bytes(u64),
}

pub struct Armed {
    pub alarms: Alarms,
    /// The agent's cgroup is another now: what was made up of it is to be made anew.
    pub moved: bool,
    /// What does not work, and why: a line each.
    pub notes: Vec<String>,
}

/// Arms all that works, on the system. Fails only where nothing can be waited for at all.
pub fn arm(wanted: &Wanted, tree: &Tree, memory: &Memory) -> io::Result<Armed> {
    let mut notes = Vec::new();
    let trigger = wanted.trigger.filter(|_| memory.psi);
    let trigger = trigger.and_then(|trigger| {
        psi::arm(CWD, psi::SYSTEM, &trigger)
            .map_err(|error| notes.push(format!("[wake] trigger: the kernel refuses it: {error}")))
            .ok()
    });
    let mut alarms = Alarms::new(trigger)?;
    alarms = with_watch(alarms, wanted, memory, &mut notes)?;
    let size = match wanted.ballast {
        WantedBallast::Off => {
            return Ok(Armed {
                alarms,
                moved: false,
                notes,
            });
        }
        WantedBallast::Auto if alarms.has_watch() => {
            return Ok(Armed {
                alarms,
                moved: false,
                notes,
            });
        }
        WantedBallast::Auto => None,
        WantedBallast::Bytes(bytes) => Some(bytes),
    };
    let mut moved = false;
    let opened = ballast::lacks(tree).map_or(Ok(()), Err).and_then(|()| {
        let size = ballast::size(size, memory.total)?;
        let home = ballast::move_in(tree)?;
        moved = home.is_some();
        Ballast::open(tree.mount(), size, home)
    });
    match opened {
        Ok(ballast) => alarms = alarms.with_ballast(ballast)?,
        Err(why) => {
            moved = false;
            notes.push(format!("no ballast: {why}"));
        }
    }
    Ok(Armed {
        alarms,
        moved,
        notes,
    })
}

#[cfg(feature = "bpf")]
fn with_watch(
    alarms: Alarms,
    wanted: &Wanted,
    memory: &Memory,
    notes: &mut Vec<String>,
) -> io::Result<Alarms> {
    match watch(wanted.verifier_log, memory) {
        Ok(watch) => {
            if let Some(lacks) = &watch.lacks {
                notes.push(format!(
                    "the watch does not see what no memcg pays: {lacks}"
                ));
            }
            alarms.with_watch(watch)
        }
        Err(why) => {
            notes.push(format!("no watch: {why}"));
            Ok(alarms)
        }
    }
}

/// Opens the watch; an error says why there is none.
#[cfg(feature = "bpf")]
pub fn watch(verifier_log: bool, memory: &Memory) -> Result<Watch, String> {
    if memory.available < LOADING {
        return Err(format!(
            "the kernel must have {} of memory to verify its program, and {} are available",
            Size(LOADING),
            Size(memory.available)
        ));
    }
    Watch::open(verifier_log).map_err(|missing| missing.to_string())
}

#[cfg(not(feature = "bpf"))]
fn with_watch(
    alarms: Alarms,
    _: &Wanted,
    _: &Memory,
    notes: &mut Vec<String>,
) -> io::Result<Alarms> {
    notes.push("no watch: built without the feature `bpf`".to_owned());
    Ok(alarms)
}
