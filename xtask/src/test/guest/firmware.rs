//! What firmware images start the agent with, run in a guest: scripts by BusyBox, the unit by systemd.

use super::{Case, PLAIN};
use crate::build::dist::Parts;
use crate::build::programs::{self, Profile};
use crate::host::apt::Apt;
use crate::host::dirs::{self, doc_block};
use crate::host::shell::run;
use crate::host::toolchain::Arch;
use crate::scenario::scripts::{TEST, passed};
use crate::vm::AGENT;
use anyhow::Result;
use lowtide_guest::{Scenario, Service};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
        name: "tarball_installs_and_leaves_nothing",
        scenario: tarball,
        files: release,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "unit_under_systemd",
        memory_mb: 512,
        scenario: unit,
        files: || systemd(&TRIXIE),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "unit_under_systemd_252",
        memory_mb: 512,
        scenario: unit,
        files: || systemd(&BOOKWORM),
        check: passed,
        ..PLAIN
    },
];

/// For sysvinit and BusyBox init: start, reload, stop, and again after a kill of the agent.
fn init_script() -> Scenario {
    let mut scenario = scenario(
        "/tests/init.sh",
        &[
            ("pkg/lowtide.init", "/etc/init.d/S02lowtide"),
            ("pkg/config.toml", "/etc/lowtide/config.toml"),
            ("pkg/tests/init.sh", "/tests/init.sh"),
            ("pkg/tests/steps.sh", "/tests/steps.sh"),
        ],
    );
    let page = "docs/buildroot.md";
    scenario.files.extend([
        (
            "/tests/start.sh".into(),
            doc_block(page, "S02lowtide start"),
        ),
        ("/tests/cgroup.sh".into(), doc_block(page, "cgroup.procs")),
        ("/etc/fstab".into(), doc_block(page, "cgroup2  ")),
    ]);
    scenario
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
    let mut scenario = scenario(
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
    scenario.files.insert(
        "/os/etc/systemd/system/lowtide.service.d/commands.conf".into(),
        doc_block("docs/yocto.md", "commands.conf"),
    );
    Scenario {
        watchdog: true,
        limit_s: 180,
        ..scenario
    }
}

/// What a release puts on a device by hand, and takes from it again, as the docs have it.
fn tarball() -> Scenario {
    let mut scenario = scenario(
        "/tests/tarball.sh",
        &[
            ("pkg/tests/tarball.sh", "/tests/tarball.sh"),
            ("pkg/tests/steps.sh", "/tests/steps.sh"),
        ],
    );
    let page = "docs/install.md";
    scenario.files.extend([
        ("/tests/install.sh".into(), doc_block(page, "cp -R root")),
        (
            "/tests/remove.sh".into(),
            doc_block(page, "S02lowtide stop"),
        ),
    ]);
    scenario
}

/// The tarball, with the program of the guests in it.
fn release() -> Result<Vec<(PathBuf, String)>> {
    let arch = Arch::X86_64;
    let out = dirs::target().join("guest-tarball");
    fs::create_dir_all(&out)?;
    let parts = Parts {
        arch,
        binary: programs::build(arch, Profile::Guest)?.agent,
        sbom: String::new(),
        third_party: String::new(),
    };
    let name = parts.tarball(0, &out)?;
    Ok(vec![(out.join(&name), format!("/tests/{name}"))])
}

/// A release of Debian, and what of its systemd others have not.
struct Release {
    suite: &'static str,
    packages: &'static [&'static str],
    parts: &'static [&'static str],
}

/// systemd 257.
const TRIXIE: Release = Release {
    suite: "trixie",
    packages: &["libssl3t64"],
    parts: &["lib/systemd/systemd-executor"],
};
/// systemd 252, which Raspberry Pi OS has as well.
const BOOKWORM: Release = Release {
    suite: "bookworm",
    packages: &[
        "libcryptsetup12",
        "libgcrypt20",
        "libgpg-error0",
        "libip4tc2",
        "libkmod2",
        "liblz4-1",
        "liblzma5",
        "libssl3",
    ],
    parts: &[],
};

/// systemd as Debian has it, with what it needs to run as PID 1 of a container in `/os`.
fn systemd(release: &Release) -> Result<Vec<(PathBuf, String)>> {
    const PACKAGES: [&str; 17] = [
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
        "libsystemd-shared",
        "libzstd1",
        "systemd",
        "zlib1g",
    ];
    const PARTS: [&str; 12] = [
        "bin/journalctl",
        "bin/systemctl",
        "bin/systemd-analyze",
        "lib/systemd/systemd",
        "lib/systemd/systemd-journald",
        "lib/systemd/system/local-fs.target",
        "lib/systemd/system/sysinit.target",
        "lib/systemd/system/systemd-journald-dev-log.socket",
        "lib/systemd/system/systemd-journald.service",
        "lib/systemd/system/systemd-journald.socket",
        "lib/x86_64-linux-gnu",
        "lib64",
    ];
    let dir = dirs::cache("systemd")?.join(release.suite);
    dirs::make_once(&dir, |into| {
        let packages = [&PACKAGES, release.packages].concat();
        Apt::open(release.suite, Arch::X86_64.debian())?.unpack(&packages, into)?;
        merge_into_usr(into)
    })?;
    let place = |part: &&str| (dir.join("usr").join(part), format!("/os/usr/{part}"));
    Ok(PARTS.iter().chain(release.parts).map(place).collect())
}

/// Packages older than Debian 13 have `/bin` and `/lib` beside `/usr`, not in it.
fn merge_into_usr(root: &Path) -> Result<()> {
    for dir in ["bin", "lib", "lib64"] {
        if root.join(dir).exists() {
            run(Command::new("cp")
                .args(["--archive", "--link"])
                .arg(root.join(dir))
                .arg(root.join("usr")))?;
        }
    }
    Ok(())
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
