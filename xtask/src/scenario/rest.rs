//! The device at rest, and what the agent costs there by the kernel's own counters.

use super::variants::with_more_config;
use super::{idle, load};
use crate::vm::Run;
use anyhow::{Context as _, Result};
use lowtide_guest::{Cgroup, Footprint as Cost, Report, Scenario, Service, What};

/// Service that measures.
const MEASURE: &str = "footprint";

/// The device at rest, with so many more cgroups. The agent starts alone, so that the time it takes is
/// its own; only what makes more cgroups comes before it.
pub fn quiet(config: &str, cgroups: u32) -> Scenario {
    let mut scenario = with_more_config(idle(), config);
    scenario
        .services
        .push(load(MEASURE, MEASURE, &[MEASURE, "--program", "lowtide"]));
    for service in &mut scenario.services {
        if service.name != "lowtide" {
            *service = Service {
                after: Some("lowtide".into()),
                ..service.clone()
            };
        }
    }
    if cgroups > 0 {
        let count = cgroups.to_string();
        let many = load("many", "loads", &["many", "--count", &count]);
        scenario.services.push(many);
        scenario.cgroups.push(Cgroup {
            path: "many/x".into(),
            ..Cgroup::default()
        });
        for service in &mut scenario.services {
            if service.name == "lowtide" {
                service.after = Some("many".into());
            }
        }
    }
    Scenario {
        until: Some(MEASURE.into()),
        counted: true,
        limit_s: 150,
        ..scenario
    }
}

/// What the guest measured, and the time in milliseconds from the agent's start until it said that
/// it is armed.
pub fn measured(run: &Run) -> Result<(Cost, u64)> {
    let cost = run
        .reports(MEASURE)
        .find_map(|(_, report)| match report {
            Report::Footprint(cost) => Some(cost),
            _ => None,
        })
        .context("nothing was measured")?;
    let started = run.events.iter().find_map(|e| match &e.what {
        What::Started { service, .. } if service == "lowtide" => Some(e.t),
        _ => None,
    });
    let armed = run.lines("lowtide").find(|(_, l)| l.contains(" woken by "));
    let (armed, _) = armed.context("the agent does not say that it is armed")?;
    Ok((cost, armed - started.context("the agent was not started")?))
}
