//! Test scripts of `guest/tests`, which start the agent themselves.

use super::{DEVICE, GATEWAY, HOG_CGROUP, LIFELINE, idle};
use crate::host::dirs;
use crate::vm::Run;
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Cgroup, Scenario, Service};

/// Name of the service that a test script runs as.
pub const TEST: &str = "test";

/// The test script went through to its end.
pub fn passed(run: &Run) -> Result<()> {
    let (_, code, _) = run.exited(TEST).context("the script still runs")?;
    let last = run.lines(TEST).last().map_or("nothing", |(_, line)| line);
    ensure!(code == Some(0), "the script's last words: {last}");
    Ok(())
}

/// A test script of `guest/tests` on the device at rest; it starts the agent itself, and the guest
/// ends with it. Its exit code says whether what it looked at was right.
pub fn scripted(name: &str, arguments: &[&str]) -> Scenario {
    let mut scenario = idle();
    scenario.services.retain(|s| s.name != "lowtide");
    scenario.cgroups = ["lowtide", HOG_CGROUP]
        .map(|path| Cgroup {
            path: path.into(),
            ..Cgroup::default()
        })
        .into();
    let test = format!("/tests/{name}.sh");
    scenario.files.extend([
        (test.clone(), dirs::tree_text(&format!("guest{test}"))),
        (
            "/tests/device.sh".into(),
            dirs::tree_text("guest/tests/device.sh"),
        ),
        (
            "/tests/steps.sh".into(),
            dirs::tree_text("pkg/tests/steps.sh"),
        ),
    ]);
    scenario.services.push(Service {
        name: TEST.into(),
        command: ["/bin/sh", &test]
            .into_iter()
            .chain(arguments.iter().copied())
            .map(String::from)
            .collect(),
        cgroup: TEST.into(),
        after: Some(GATEWAY.into()),
        ..Service::default()
    });
    Scenario {
        until: Some(TEST.into()),
        limit_s: 120,
        ..scenario
    }
}

/// A test script's device without a file cache: memory is looked at by time there, so that no
/// stall is needed.
pub fn without_cache(scenario: &mut Scenario) {
    scenario.services.retain(|s| s.name != GATEWAY);
    for service in &mut scenario.services {
        if service.name == TEST {
            service.after = Some(LIFELINE.into());
        }
    }
}

/// The device's config with one more key for the hog, and these actions as soon as 40 % are left.
pub fn early(actions: &[&str], key: &str) -> String {
    let media = "name    = \"media\"\n";
    let device = DEVICE.replace(media, &format!("{media}{key}\n"));
    format!(
        "[level.critical]\n\
         confirm = {{ available_below = \"40%\" }}\n\
         relief = {{ available_above = \"50%\" }}\n\
         actions = {actions:?}\n{device}"
    )
}
