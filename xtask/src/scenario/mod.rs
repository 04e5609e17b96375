//! Scenarios that tests, demo and benchmarks share: a small device with something to keep alive,
//! something useful and something that eats memory. What one topic of the guest tests alone needs is
//! in its file there.

pub mod checks;
pub mod command;
pub mod rest;
pub mod scripts;
pub mod tree;
pub mod variants;

use crate::vm::{AGENT, GUEST};
use lowtide_guest::{Scenario, Service};

/// Service that must keep answering.
pub const LIFELINE: &str = "lifeline";

/// Service that is worth more than the hog.
pub const SENSOR: &str = "sensor";

/// Service whose code and data lie on flash and are used all the time, through the page cache.
pub const GATEWAY: &str = "gateway";

/// Service that the config ranks first.
pub const HOG: &str = "media";

/// Its cgroup.
pub const HOG_CGROUP: &str = "apps/media";

/// Where the config of the agent lies in a guest.
pub const CONFIG: &str = "/etc/lowtide/config.toml";

/// The groups of the device.
pub const DEVICE: &str = r#"
[[group]]
name    = "lifeline"
kill    = "never"
cgroups_add = ["lifeline/**"]

[[group]]
name    = "sensor"
kill    = 100
cgroups = ["apps/sensor"]

[[group]]
name    = "gateway"
kill    = 200
cgroups = ["apps/gateway"]

[[group]]
name    = "media"
kill    = 800
cgroups = ["apps/media"]
"#;

/// A load as a service in a cgroup.
pub fn load(name: &str, cgroup: &str, arguments: &[&str]) -> Service {
    Service {
        name: name.into(),
        command: std::iter::once(&GUEST)
            .chain(arguments)
            .map(|s| (*s).to_owned())
            .collect(),
        cgroup: cgroup.into(),
        ..Service::default()
    }
}

/// The agent, with the config at [`CONFIG`].
pub fn agent() -> Service {
    Service {
        name: "lowtide".into(),
        command: [AGENT, "run", "--config", CONFIG]
            .map(String::from)
            .to_vec(),
        cgroup: "lowtide".into(),
        ..Service::default()
    }
}

/// The agent alone with this config, until it ends.
pub fn with_config(config: &str) -> Scenario {
    Scenario {
        files: [(CONFIG.into(), config.into())].into(),
        services: vec![agent()],
        until: Some("lowtide".into()),
        limit_s: 20,
        ..Scenario::default()
    }
}

/// The device at rest, for a few seconds. Counted: what becomes of it does not depend on the host.
pub fn idle() -> Scenario {
    Scenario {
        files: [(CONFIG.into(), DEVICE.into())].into(),
        services: vec![
            agent(),
            load(LIFELINE, "lifeline/heartbeat", &["heartbeat"]),
            load(SENSOR, "apps/sensor", &["sleeper", "--size", "20M"]),
            load(
                GATEWAY,
                "apps/gateway",
                &["refault", "--size", "24M", "--rate", "50M"],
            ),
        ],
        disk_mb: 32,
        limit_s: 20,
        counted: true,
        ..Scenario::default()
    }
}

/// A service starts to eat 20 MB a second as soon as the agent has said its first line.
pub fn fast_hog() -> Scenario {
    let mut scenario = idle();
    let hog = load(HOG, HOG_CGROUP, &["hog", "--rate", "20M"]);
    scenario.services.push(Service {
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..hog
    });
    Scenario {
        until: Some(HOG.into()),
        linger_ms: 3000,
        limit_s: 90,
        ..scenario
    }
}
