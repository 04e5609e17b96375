//! What firmware images start the agent with, run in a guest: scripts by BusyBox, the unit by systemd.

use super::{Case, PLAIN};
use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::scripts::{TEST, passed};
use crate::vm::AGENT;
use anyhow::Result;
use lowtide_guest::{Scenario, Service};
use std::path::PathBuf;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "init_script_under_busybox",
        scenario: init_script,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "openwrt_scripts_under_busybox",
        scenario: openwrt_scripts,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "unit_under_systemd",
        memory_mb: 512,
        scenario: unit,
        files: systemd,
        check: passed,
        ..PLAIN
    },
];

/// For sysvinit and BusyBox init: start, reload, stop, and again after a kill of the agent.
fn init_script() -> Scenario {
    scenario(
        "/tests/init.sh",
        &[
            ("pkg/lowtide.init", "/etc/init.d/S02lowtide"),
            ("pkg/config.toml", "/etc/lowtide/config.toml"),
            ("pkg/tests/init.sh", "/tests/init.sh"),
            ("pkg/tests/steps.sh", "/tests/steps.sh"),
        ],
    )
}

/// For OpenWrt: UCI becomes TOML, a mistake in it changes nothing.
fn openwrt_scripts() -> Scenario {
    scenario(
        "/tests/uci.sh",
        &[
            ("pkg/lowtide.procd", "/etc/init.d/lowtide"),
            ("pkg/lowtide-uci", "/usr/lib/lowtide/lowtide-uci"),
            ("pkg/lowtide.uci", "/etc/config/lowtide"),
            (
                "config/profiles/router.toml",
                "/usr/lib/lowtide/profiles/router.toml",
            ),
            ("pkg/tests/functions.sh", "/lib/functions.sh"),
            ("pkg/tests/rc.common", "/etc/rc.common"),
            ("pkg/tests/uci.sh", "/tests/uci.sh"),
            ("pkg/tests/steps.sh", "/tests/steps.sh"),
        ],
    )
}

/// For systemd: ready, reload, watchdog, and again after a kill of the agent.
fn unit() -> Scenario {
    let scenario = scenario(
        "/tests/container.sh",
        &[
            (
                "pkg/lowtide.service",
                "/os/usr/lib/systemd/system/lowtide.service",
            ),
            ("pkg/config.toml", "/os/etc/lowtide/config.toml"),
            ("pkg/tests/container.sh", "/tests/container.sh"),
            (
                "pkg/tests/systemd.service",
                "/os/etc/systemd/system/test.service",
            ),
            ("pkg/tests/systemd.sh", "/os/tests/systemd.sh"),
            ("pkg/tests/steps.sh", "/os/tests/steps.sh"),
        ],
    );
    Scenario {
        watchdog: true,
        limit_s: 180,
        ..scenario
    }
}

/// systemd as Debian has it, with what it needs to run as PID 1 of a container in `/os`.
fn systemd() -> Result<Vec<(PathBuf, String)>> {
    const PACKAGES: [&str; 18] = [
        "libacl1",
        "libapparmor1",
        "libaudit1",
        "libblkid1",
        "libc6",
        "libcap-ng0",
        "libcap2",
        "libcrypt1",
        "libmount1",
        "libpam0g",
        "libpcre2-8-0",
        "libseccomp2",
        "libselinux1",
        "libssl3t64",
        "libsystemd-shared",
        "libzstd1",
        "systemd",
        "zlib1g",
    ];
    const PARTS: [&str; 13] = [
        "bin/journalctl",
        "bin/systemctl",
        "bin/systemd-analyze",
        "lib/systemd/systemd",
        "lib/systemd/systemd-executor",
        "lib/systemd/systemd-journald",
        "lib/systemd/system/local-fs.target",
        "lib/systemd/system/sysinit.target",
        "lib/systemd/system/systemd-journald-dev-log.socket",
        "lib/systemd/system/systemd-journald.service",
        "lib/systemd/system/systemd-journald.socket",
        "lib/x86_64-linux-gnu",
        "lib64",
    ];
    let dir = dirs::cache("systemd")?.join("trixie");
    dirs::make_once(&dir, |into| {
        Apt::open("trixie", Arch::X86_64.debian())?.unpack(&PACKAGES, into)
    })?;
    let place = |part| (dir.join("usr").join(part), format!("/os/usr/{part}"));
    Ok(PARTS.map(place).to_vec())
}

/// A guest that runs a test script, and has these files of the source tree at these places.
fn scenario(test: &str, files: &[(&str, &str)]) -> Scenario {
    let files = files.iter();
    // What packages and a booted system have done before.
    let prepare = "mkdir -p /etc/init.d /usr/bin /usr/lib /var/run && find /etc/init.d /usr/lib -type f -exec chmod +x {} +";
    let command = format!("{prepare}; ln -s {AGENT} /usr/bin/lowtide && exec sh {test}");
    Scenario {
        files: files
            .map(|(tree, guest)| ((*guest).to_owned(), dirs::tree_text(tree)))
            .collect(),
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
