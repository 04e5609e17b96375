//! Act: carries out one verdict on the kernel, through descriptors taken from the cgroup id.

// A panic is the end of the agent: an index or a sum from outside must not lead to one.
#![warn(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod held;
pub mod hooks;
pub mod kill;
pub mod mrelease;
mod only;
mod oomd;
pub mod process;
mod reboot;
mod reclaim;
#[cfg(feature = "bpf")]
pub mod reflex;
pub mod settings;
pub mod settle;
pub mod watchdog;

pub use held::let_go_at_panic;

use crate::config::Loaded;
use crate::sense::process::Name;
use crate::sense::tree::Tree;
use crate::sense::victim::Victim;
use hooks::{About, Hooks};
use lowtide_common::{CANDIDATES, Row, Rule};
use lowtide_judge::{Action, Outcome, Verdict};
use mrelease::Releaser;
use settings::Settings;
use std::io;
use std::time::{Duration, Instant};
use watchdog::Watchdog;

/// What came of it.
pub struct Done {
    pub outcome: Outcome,
    /// When; of a kill, when the signals were sent, and not when the victim's memory was given back.
    pub at: Instant,
    /// What was killed, or asked to stop: its end is to be waited for.
    pub victim: Option<Victim>,
    /// The process that it was done to, where that is one of the target.
    pub process: Option<Name>,
}

impl Done {
    /// Just now, to no cgroup or process in particular.
    fn only(outcome: Outcome) -> Self {
        Self {
            outcome,
            at: Instant::now(),
            victim: None,
            process: None,
        }
    }

    fn failed(error: io::Error) -> Self {
        Self::only(Outcome::Failed {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

/// What verdicts are carried out with.
pub struct Means<'a> {
    pub settings: &'a mut Settings,
    pub hooks: &'a mut Hooks,
    pub watchdog: Option<&'a mut Watchdog>,
    pub releaser: &'a Releaser,
}

/// What would come of a verdict if all went well; nothing is done.
pub fn pretend(verdict: &Verdict) -> heapless::Vec<Done, CANDIDATES> {
    let targets = match verdict.action {
        Action::Nothing => 0,
        _ => verdict.victims().count().max(1),
    };
    (0..targets).map(|_| Done::only(Outcome::DONE)).collect()
}

/// Carries out what the verdict says: of a kill, for each of its victims; empty for nothing, and for
/// what is done already. Allocates nothing, but to restart the device.
pub fn carry_out(
    verdict: &Verdict,
    config: &Loaded,
    tree: &Tree,
    means: &mut Means<'_>,
) -> heapless::Vec<Done, CANDIDATES> {
    let mut done = heapless::Vec::new();
    if matches!(verdict.action, Action::Kill { .. }) {
        for victim in verdict.victims() {
            // Cannot fail: a verdict has no more victims.
            let _ = done.push(kill(verdict, &victim.row, config, tree, means));
        }
    } else {
        done.extend(carry_out_one(verdict, config, tree, means));
    }
    done
}

fn one_by_one(target: &Row) -> bool {
    target.flags & Row::PROCESS != 0 || target.rule.flags & Rule::PROCESS != 0
}

fn kill(
    verdict: &Verdict,
    target: &Row,
    config: &Loaded,
    tree: &Tree,
    means: &mut Means<'_>,
) -> Done {
    let Means {
        settings,
        hooks,
        releaser,
        ..
    } = means;
    let about = About {
        config,
        tree,
        verdict,
        target,
    };
    // Where that was not done in the grace. A command that cannot be run holds up no kill.
    let _ = hooks.before(about);
    let done = if one_by_one(target) {
        kill::process(tree, target, verdict.worth, config, releaser)
    } else {
        let done = kill::memcg(tree, target, verdict.worth, config, releaser);
        // What is started in it next is not held back for what this one did.
        settings.thaw(tree, |id, _| id == target.id);
        done
    };
    let done = done.inspect(|done| hooks.await_end(about, done.process.as_ref(), None));
    done.unwrap_or_else(Done::failed)
}

/// Any action but a kill.
fn carry_out_one(
    verdict: &Verdict,
    config: &Loaded,
    tree: &Tree,
    means: &mut Means<'_>,
) -> Option<Done> {
    let Means {
        settings,
        hooks,
        watchdog,
        ..
    } = means;
    let (policy, worth) = (&config.policy, verdict.worth);
    let about = |target| About {
        config,
        tree,
        verdict,
        target,
    };
    let done = match &verdict.action {
        Action::Nothing | Action::Kill { .. } => return None,
        Action::Throttle { target, for_ms } => kill::without_shielded(tree, target, config)
            .and_then(|()| {
                let limit = Duration::from_millis(u64::from(*for_ms));
                settings.freeze(tree, target.id, limit)
            })
            .map(|()| Done::only(Outcome::DONE)),
        Action::Reclaim { target, bytes } => {
            let limit = Duration::from_millis(u64::from(policy.reclaim_ms));
            reclaim::reclaim(tree, target.id, *bytes, limit)
                .map(|bytes| Done::only(Outcome::reclaimed(bytes)))
        }
        Action::Prepare { target, .. } => hooks
            .before(about(target))
            .map(|()| Done::only(Outcome::DONE)),
        Action::Terminate { target, .. } => {
            // A victim that is held back hears no signal but SIGKILL.
            settings.thaw(tree, |id, _| id == target.id);
            let signal = policy.group(target.rule.group).signal;
            let done = if one_by_one(target) {
                kill::ask_process(tree, target, signal, worth, config)
            } else {
                kill::ask(tree, target, signal, worth, config)
            };
            done.inspect(|done| {
                let asked = done.victim.as_ref().and_then(Victim::again);
                hooks.await_end(about(target), done.process.as_ref(), asked);
            })
        }
        Action::Reboot => Err(reboot::now()),
        Action::Watchdog => {
            if !watchdog.as_mut()?.starve() {
                return None;
            }
            Ok(Done::only(Outcome::DONE))
        }
    };
    Some(done.unwrap_or_else(Done::failed))
}
