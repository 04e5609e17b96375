//! A device made of services in cgroups with priorities: the scenario and the config that fits it.
//!
//! ```ignore
//! Tree::new()
//!     .holds("sensor", Kill::At(100), "20M")
//!     .grows("media", Kill::At(800), "10M")
//!     .scenario()
//! ```

use super::{CONFIG, LIFELINE, agent, load};
use lowtide_guest::{Scenario, Service};

/// What the config says of killing a service.
#[derive(Clone, Copy)]
pub enum Kill {
    Never,
    /// Its priority: a higher one goes first.
    At(u32),
}

/// Agent and lifeline first, then what is added. A service NAME is the group NAME with the cgroup
/// `apps/NAME`, and is started when the agent has said its first line.
pub struct Tree {
    scenario: Scenario,
    config: String,
}

impl Tree {
    /// The guest is counted, so that what comes of it does not depend on the host.
    pub fn new() -> Self {
        let lifeline = "lifeline/heartbeat";
        let tree = Self {
            scenario: Scenario {
                services: vec![agent(), load(LIFELINE, lifeline, &["heartbeat"])],
                linger_ms: 3000,
                limit_s: 90,
                counted: true,
                ..Scenario::default()
            },
            config: String::new(),
        };
        // By the name of the built-in group it would take that group's patterns away, which is said first.
        tree.group("answers", Kill::Never, lifeline, "")
    }

    /// A service that runs this load.
    pub fn runs(mut self, name: &str, kill: Kill, arguments: &[&str]) -> Self {
        let cgroup = format!("apps/{name}");
        self.scenario.services.push(Service {
            after: Some("lowtide".into()),
            ..load(name, &cgroup, arguments)
        });
        self.group(name, kill, &cgroup, "")
    }

    /// A service that holds so much and does nothing.
    pub fn holds(self, name: &str, kill: Kill, size: &str) -> Self {
        self.runs(name, kill, &["sleeper", "--size", size])
    }

    /// A service that takes so much more every second, from a second after the agent's first line on.
    /// When it ends for the last time, so does the guest, 3 s later.
    pub fn grows(self, name: &str, kill: Kill, rate: &str) -> Self {
        let mut tree = self.runs(name, kill, &["hog", "--rate", rate]);
        tree.scenario.until = Some(name.into());
        tree.last(|service| service.start_ms = 1000)
    }

    /// Changes the service that was added last.
    pub fn last(mut self, change: impl FnOnce(&mut Service)) -> Self {
        self.scenario.services.last_mut().map(change);
        self
    }

    /// A group of the config, with more keys, one a line.
    pub fn group(mut self, name: &str, kill: Kill, cgroups: &str, keys: &str) -> Self {
        let kill = match kill {
            Kill::Never => "\"never\"".to_owned(),
            Kill::At(priority) => priority.to_string(),
        };
        self.config.push_str(&format!(
            "[[group]]\nname = \"{name}\"\nkill = {kill}\ncgroups = [\"{cgroups}\"]\n{keys}\n"
        ));
        self
    }

    /// Tables that the config begins with.
    pub fn config(mut self, tables: &str) -> Self {
        self.config.insert_str(0, tables);
        self
    }

    pub fn scenario(self) -> Scenario {
        let mut scenario = self.scenario;
        scenario.files.insert(CONFIG.into(), self.config);
        scenario
    }
}
