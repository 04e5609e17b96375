//! The same scenario on another kind of device, or with something more.

use super::{CONFIG, GATEWAY, HOG, LIFELINE, SENSOR, load};
use crate::vm::GUEST;
use lowtide_guest::{CGROUP_ROOT, Cgroup, Scenario, Service};

/// With more tables in the agent's config.
pub fn with_more_config(mut scenario: Scenario, more: &str) -> Scenario {
    scenario
        .files
        .entry(CONFIG.into())
        .or_default()
        .insert_str(0, more);
    scenario
}

/// With one more load, which has a cgroup named as itself to play in and sits beside it. The hog
/// waits for its first report as well.
pub fn with_load(mut scenario: Scenario, name: &str, arguments: &[&str]) -> Scenario {
    scenario.cgroups.push(Cgroup {
        path: format!("{name}/x"),
        ..Cgroup::default()
    });
    let first = load(name, "loads", arguments);
    scenario.services.push(Service {
        after: Some("lowtide".into()),
        ..first
    });
    for service in &mut scenario.services {
        if service.name == HOG {
            service.after = Some(name.into());
        }
    }
    scenario
}

/// The same without the agent: what waited for it waits for the lifeline.
pub fn without_agent(mut scenario: Scenario) -> Scenario {
    scenario.services.retain(|s| s.name != "lowtide");
    for service in &mut scenario.services {
        if service.after.as_deref() == Some("lowtide") {
            service.after = Some(LIFELINE.into());
        }
    }
    scenario
}

/// The same on a device that starts all services in one cgroup: the config tells them apart by the
/// names of their programs.
pub fn in_one_cgroup(mut scenario: Scenario) -> Scenario {
    for service in &mut scenario.services {
        service.cgroup.clear();
        if let Some((GUEST, arguments)) = service.command.split_first().map(|(p, a)| (&**p, a)) {
            let program = format!("/run/{}", service.name);
            let run = format!(
                "ln -s {GUEST} {program} && exec {program} {}",
                arguments.join(" ")
            );
            service.command = ["/bin/sh", "-c", &run].map(String::from).to_vec();
        }
    }
    let by_name = |line: &str| {
        let cgroup = line
            .strip_prefix("cgroups = ")
            .or_else(|| line.strip_prefix("cgroups_add = "))?;
        let known = [LIFELINE, SENSOR, GATEWAY, HOG];
        let known = known.into_iter().find(|name| cgroup.contains(name));
        let last = || cgroup.trim_matches(['[', ']', '"']).rsplit('/').next();
        let name = known.or_else(last)?;
        Some(format!("processes = [\"{name}\"]"))
    };
    for config in scenario.files.values_mut() {
        let lines = config
            .lines()
            .map(|line| by_name(line).unwrap_or_else(|| line.to_owned()));
        *config = lines.collect::<Vec<_>>().join("\n");
    }
    scenario
}

/// Puts a shell around the agent's command.
fn agent_by_shell(scenario: &mut Scenario, shell: &[&str], before: &str) {
    for agent in scenario.services.iter_mut().filter(|s| s.name == "lowtide") {
        let run = format!("{before} && exec {}", agent.command.join(" "));
        agent.command = [shell, &["/bin/sh", "-c", &run]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect();
    }
}

/// The same on a device whose memory controller is on cgroup v1, beside an empty cgroup2.
pub fn hybrid(scenario: Scenario) -> Scenario {
    let mut scenario = in_one_cgroup(scenario);
    let v1 = "mkdir /tmp/memory && mount -t cgroup -o memory memory /tmp/memory";
    agent_by_shell(&mut scenario, &[], v1);
    scenario
}

/// The same with an agent that sees of the cgroup tree only what is below `apps`, as in a
/// container.
pub fn in_a_container(mut scenario: Scenario) -> Scenario {
    let mount = format!("mount --bind {CGROUP_ROOT}/apps {CGROUP_ROOT}");
    agent_by_shell(&mut scenario, &["/bin/busybox", "unshare", "-m"], &mount);
    for config in scenario.files.values_mut() {
        *config = config.replace("\"apps/", "\"");
    }
    scenario
}
