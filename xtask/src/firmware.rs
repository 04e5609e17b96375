//! The scripts that firmware images start the agent with, run by BusyBox in a guest.

use crate::vm::{AGENT, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Scenario, Service};

/// Name of the service that a test script runs as.
pub const TEST: &str = "test";

/// Files of this tree and where a guest has them.
macro_rules! files {
    ($($tree:literal => $guest:literal,)*) => {
        [$(($guest.to_owned(), include_str!(concat!("../../", $tree)).to_owned())),*]
    };
}

/// For sysvinit and BusyBox init: start, reload, stop, and again after a kill of the agent.
pub fn init_script() -> Scenario {
    scenario(
        "/tests/init.sh",
        files! {
            "pkg/lowtide.init" => "/etc/init.d/S02lowtide",
            "pkg/config.toml" => "/etc/lowtide/config.toml",
            "pkg/tests/init.sh" => "/tests/init.sh",
            "pkg/tests/steps.sh" => "/tests/steps.sh",
        },
    )
}

/// For OpenWrt: UCI becomes TOML, a mistake in it changes nothing.
pub fn openwrt_scripts() -> Scenario {
    scenario(
        "/tests/uci.sh",
        files! {
            "pkg/lowtide.procd" => "/etc/init.d/lowtide",
            "pkg/lowtide-uci" => "/usr/lib/lowtide/lowtide-uci",
            "pkg/lowtide.uci" => "/etc/config/lowtide",
            "config/profiles/router.toml" => "/usr/lib/lowtide/profiles/router.toml",
            "pkg/tests/functions.sh" => "/lib/functions.sh",
            "pkg/tests/rc.common" => "/etc/rc.common",
            "pkg/tests/uci.sh" => "/tests/uci.sh",
            "pkg/tests/steps.sh" => "/tests/steps.sh",
        },
    )
}

fn scenario(test: &str, files: impl IntoIterator<Item = (String, String)>) -> Scenario {
    // What packages and a booted system have done before.
    let prepare = "mkdir -p /usr/bin /usr/lib /var/run && find /etc/init.d /usr/lib -type f -exec chmod +x {} +";
    let command = format!("{prepare}; ln -s {AGENT} /usr/bin/lowtide && exec sh {test}");
    Scenario {
        files: files.into_iter().collect(),
        services: vec![Service {
            name: TEST.into(),
            command: ["/bin/sh", "-c", &command].map(String::from).to_vec(),
            cgroup: TEST.into(),
            ..Service::default()
        }],
        until: Some(TEST.into()),
        ..Scenario::default()
    }
}

/// The test script went through to its end.
pub fn passed(run: &Run) -> Result<()> {
    let (_, code, _) = run.exited(TEST).context("the script still runs")?;
    let last = run.lines(TEST).last().map_or("nothing", |(_, line)| line);
    ensure!(code == Some(0), "the script's last words: {last}");
    Ok(())
}
