//! What must be true of a run, read from the guest's kernel, from how processes ended, and from what
//! the agent says.

use super::{GATEWAY, HOG, LIFELINE, SENSOR};
use crate::vm::Run;
use anyhow::{Context as _, Result, bail, ensure};
use lowtide_guest::{Report, What};

/// When and which services ended, and by which signal, in this order.
pub fn ends(run: &Run) -> impl Iterator<Item = (u64, &str, Option<i32>)> {
    run.events.iter().filter_map(|e| match &e.what {
        What::Exited {
            service, signal, ..
        } => Some((e.t, service.as_str(), *signal)),
        _ => None,
    })
}

/// Exactly these services ended, in this order, and each by a signal that asks (15) or kills (9).
pub fn victims(run: &Run, wanted: &[&str]) -> Result<()> {
    let ended: Vec<_> = ends(run).map(|(_, service, _)| service).collect();
    ensure!(ended == wanted, "ended: {ended:?}, not {wanted:?}");
    by_signal(run)
}

/// No service ended by itself.
pub fn by_signal(run: &Run) -> Result<()> {
    for (_, service, signal) in ends(run) {
        ensure!(
            matches!(signal, Some(9 | 15)),
            "{service} ended by itself, signal {signal:?}"
        );
    }
    Ok(())
}

/// These services never ended.
pub fn live(run: &Run, services: &[&str]) -> Result<()> {
    for service in services {
        ensure!(run.exited(service).is_none(), "{service} ended");
    }
    Ok(())
}

/// OOM kills by the kernel that its own counters know of.
pub fn oom_kills(run: &Run) -> u64 {
    run.samples()
        .last()
        .map_or(0, |(_, sample)| sample.oom_kills)
}

/// The kernel's OOM killer had nothing to do, by its log and by its counters.
pub fn no_kernel_kill(run: &Run) -> Result<()> {
    if let Some((_, line)) = run.oom_lines().next() {
        bail!("the kernel killed: {line}");
    }
    let kills = oom_kills(run);
    ensure!(kills == 0, "the kernel counts {kills} OOM kills");
    Ok(())
}

/// The kernel's OOM killer had to kill: what a control shows.
pub fn kernel_kills(run: &Run) -> Result<()> {
    ensure!(oom_kills(run) > 0, "the kernel counts no OOM kill");
    ensure!(
        run.oom_lines().count() > 0,
        "the kernel's log has no OOM kill"
    );
    Ok(())
}

/// The heartbeat of a service goes on after this time.
pub fn answers_after(run: &Run, service: &str, t: u64) -> Result<()> {
    let mut reports = run.reports(service);
    ensure!(
        reports.any(|(at, r)| at > t && matches!(r, Report::Heartbeat { .. })),
        "{service} does not answer after the kill"
    );
    Ok(())
}

/// The worst delay in milliseconds of a heartbeat's tick from this time on; `None` without a report.
pub fn worst_gap_ms(run: &Run, service: &str, since: u64) -> Option<u64> {
    run.reports(service)
        .filter(|(t, _)| *t >= since)
        .filter_map(|(_, report)| match report {
            Report::Heartbeat { gap_us, .. } => Some(gap_us / 1000),
            _ => None,
        })
        .max()
}

/// The agent says so.
pub fn says(run: &Run, words: &str) -> Result<()> {
    ensure!(
        run.lines("lowtide").any(|(_, line)| line.contains(words)),
        "the agent does not say {words:?}"
    );
    Ok(())
}

/// The agent never says so.
pub fn never_says(run: &Run, words: &str) -> Result<()> {
    match run.lines("lowtide").find(|(_, line)| line.contains(words)) {
        Some((_, line)) => bail!("the agent says {line:?}"),
        None => Ok(()),
    }
}

/// The agent says all of this in lines that follow each other in this order, with others between them.
pub fn says_in_order(run: &Run, words: &[&str]) -> Result<()> {
    let mut lines = run.lines("lowtide");
    for words in words {
        ensure!(
            lines.any(|(_, line)| line.contains(words)),
            "the agent does not say {words:?}, or not in this order"
        );
    }
    Ok(())
}

/// The hog is killed by the agent, in time, and everything else lives on.
pub fn only_the_hog_goes(run: &Run) -> Result<()> {
    let (killed, _, signal) = run.exited(HOG).context("the hog was not killed")?;
    ensure!(matches!(signal, Some(9 | 15)), "the hog ended by itself");
    live(run, &[SENSOR, GATEWAY, LIFELINE, "lowtide"])?;
    no_kernel_kill(run)?;
    answers_after(run, LIFELINE, killed)
}

/// When what a service started ended, and by which signal.
pub fn ends_of_started<'a>(
    run: &'a Run,
    starter: &'a str,
) -> impl Iterator<Item = (u64, Option<i32>)> + 'a {
    run.reports(starter).filter_map(|(t, report)| match report {
        Report::Ended { signal, .. } => Some((t, signal)),
        _ => None,
    })
}

/// At least so many of what a service started are asked or killed, and the lifeline answers.
pub fn goes_alone(run: &Run, starter: &str, least: usize) -> Result<()> {
    let ended: Vec<_> = ends_of_started(run, starter).collect();
    ensure!(ended.len() >= least, "only {} ended", ended.len());
    ensure!(
        ended
            .iter()
            .all(|(_, signal)| matches!(signal, Some(9 | 15))),
        "one ended by itself: {ended:?}"
    );
    let first = ended.first().map_or(0, |(t, _)| *t);
    answers_after(run, LIFELINE, first)
}
