//! Which cgroups and processes a group means, and what the agent sets on them.

use super::{Case, PLAIN};
use crate::host::apt::Apt;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use crate::scenario::scripts::{TEST, passed, scripted, without_cache};
use crate::scenario::{CONFIG, DEVICE};
use crate::vm::Run;
use anyhow::{Result, ensure};
use lowtide_guest::{Cgroup, Scenario};
use std::fs;
use std::path::PathBuf;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "protection_holds_and_goes_with_the_agent",
        scenario: protect,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_without_pressure",
        scenario: births,
        check: born_in_peace,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_on_6_1",
        kernel: Some("6.1"),
        scenario: births,
        check: born_in_peace,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_what_root_called_so_and_a_process_shields_itself",
        scenario: || names("kfunc"),
        check: shown_escaped,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_what_root_called_so_with_the_cgroupfs_engine",
        scenario: || names("cgroupfs"),
        check: shown_escaped,
        ..PLAIN
    },
    Case {
        name: "a_name_protects_root_s_process_with_the_procfs_engine",
        scenario: names_of_processes,
        check: passed,
        ..PLAIN
    },
    Case {
        name: "the_largest_stays_where_it_is_never_to_go",
        scenario: || hold("protected"),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "without_that_word_the_same_load_takes_the_largest",
        scenario: || hold("control"),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "tricks_with_names_buy_nothing",
        scenario: || tricks("kfunc"),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "tricks_with_names_buy_nothing_with_the_cgroupfs_engine",
        scenario: || tricks("cgroupfs"),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "containers_of_podman_and_lxc_are_found_by_name",
        memory_mb: 768,
        scenario: containers,
        files: runtimes,
        check: told_by_name,
        ..PLAIN
    },
    Case {
        name: "cgroups_that_are_no_memcgs_count_for_the_one_above",
        scenario: uncounted,
        check: passed,
        ..PLAIN
    },
];

/// The gateway's cache is protected in the config of the system, and not in another.
fn protect() -> Scenario {
    let mut scenario = scripted("protect", &[]);
    let gateway = "name    = \"gateway\"\n";
    let protected = DEVICE.replace(gateway, &format!("{gateway}protect = \"16M\"\n"));
    scenario.files.extend([
        (CONFIG.into(), protected),
        ("/etc/lowtide/unprotected.toml".into(), DEVICE.into()),
    ]);
    scenario
}

/// The config has a group for a cgroup that is not there yet, and there is plenty of memory.
fn births() -> Scenario {
    let mut scenario = scripted("births", &[]);
    without_cache(&mut scenario);
    let late =
        "[[group]]\nname = \"late\"\nkill = 100\nprotect = \"4M\"\ncgroups = [\"apps/late\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{DEVICE}{late}"));
    scenario.counted = true;
    scenario
}

/// The script passed, and nothing had to wake the agent for that.
fn born_in_peace(run: &Run) -> Result<()> {
    passed(run)?;
    let mut lines = run.lines(TEST);
    let fired = lines.find(|(_, line)| line.contains("no level's condition holds"));
    ensure!(fired.is_none(), "it woke");
    Ok(())
}

/// Kills as soon as 25 % are left.
const EARLY: &str = "\
    [level.critical]\n\
    confirm = { available_below = \"25%\" }\n\
    relief = { available_above = \"32%\" }\n\
    actions = [\"kill\"]\n";

/// Groups that name processes, one by bytes, and cgroups that root makes and a user could make as well.
fn names(engine: &str) -> Scenario {
    let mut scenario = scripted("names", &[]);
    without_cache(&mut scenario);
    let groups = "[[group]]\nname = \"services\"\nkill = \"never\"\n\
                  processes = [\"mysqld\", \"asterisk\", \"ip…*\"]\n\
                  [[group]]\nname = \"precious\"\nkill = \"never\"\nprotect = \"4M\"\n\
                  cgroups = [\"user/deleg/precious*\", \"user/kept/precious*\"]\n\
                  [[group]]\nname = \"brokers\"\nkill = \"never\"\ncontainers = [\"brok*\"]\n\
                  [[group]]\nname = \"web\"\nkill = 300\ncontainers = [\"web\"]\n\
                  [[group]]\nname = \"device\"\nkill = \"never\"\ncgroups = [\"lifeline/**\"]\n\
                  [[group]]\nname = \"sensor\"\nkill = 100\ncgroups = [\"apps/sensor\"]\n";
    scenario.files.insert(
        CONFIG.into(),
        format!("{EARLY}{groups}[engine]\nkind = \"{engine}\"\n"),
    );
    scenario.counted = true;
    scenario
}

/// The script passed, and what was killed had bytes in its name that were spelled out in the log.
fn shown_escaped(run: &Run) -> Result<()> {
    passed(run)?;
    let mut lines = run.lines(TEST);
    let raw = lines.find(|(_, line)| line.contains(|c: char| c.is_control() && c != '\t'));
    ensure!(raw.is_none(), "control characters in {raw:?}");
    let mut lines = run.lines(TEST);
    ensure!(
        lines.any(|(_, line)| line.contains(r"precious\xff\x1b[2J\x0d") && line.contains("kill")),
        "no line of the log has the name of the victim"
    );
    Ok(())
}

/// Groups that name a process, a cgroup and a container, with a word for how early they go.
fn groups(kill: &str) -> String {
    format!(
        "[[group]]\nname = \"services\"\nkill = {kill}\nprocesses = [\"mysqld\"]\n\
         [[group]]\nname = \"precious\"\nkill = {kill}\n\
         cgroups = [\"user/kept/precious\", \"user/deleg/precious*\"]\n\
         [[group]]\nname = \"brokers\"\nkill = {kill}\ncontainers = [\"brok*\"]\n"
    )
}

/// The device's own things are not for the test to end.
const DEVICE_STAYS: &str = "[[group]]\nname = \"device\"\nkill = \"never\"\n\
     cgroups = [\"lifeline/**\", \"apps/sensor\", \"test\"]\n";

/// The largest are protected, or by another config they are not.
fn hold(config: &str) -> Scenario {
    let mut scenario = scripted("names_hold", &[config]);
    without_cache(&mut scenario);
    let protected = groups("\"never\"");
    let control = "[[group]]\nname = \"lifeline\"\nkill = 500\n";
    scenario.files.extend([
        (
            "/etc/lowtide/protected.toml".into(),
            format!("{EARLY}{protected}{DEVICE_STAYS}"),
        ),
        (
            "/etc/lowtide/control.toml".into(),
            format!("{EARLY}{control}{DEVICE_STAYS}"),
        ),
    ]);
    scenario.counted = true;
    scenario
}

/// A user owns some cgroups, one of them with the marks that systemd sets.
fn tricks(engine: &str) -> Scenario {
    let mut scenario = scripted("names_tricks", &[]);
    without_cache(&mut scenario);
    scenario.cgroups.push(Cgroup {
        path: "user/marked".into(),
        xattrs: ["user.oomd_omit", "user.oomd_avoid"]
            .map(|mark| (mark.to_owned(), "1".to_owned()))
            .into(),
        owner: Some(1000),
        ..Cgroup::default()
    });
    let protected = groups("\"never\"");
    let by_program = "[[group]]\nname = \"modem\"\nkill = \"never\"\n\
                      processes = [{ exe = \"/usr/sbin/modemd\" }]\n";
    scenario.files.insert(
        CONFIG.into(),
        format!("{EARLY}{protected}{by_program}{DEVICE_STAYS}[engine]\nkind = \"{engine}\"\n"),
    );
    scenario.counted = true;
    scenario
}

/// Processes named alike are root's and a user's, or those of the user whom a pattern names.
fn names_of_processes() -> Scenario {
    let mut scenario = scripted("names_of_processes", &[]);
    without_cache(&mut scenario);
    let groups = "[[group]]\nname = \"bytes\"\nkill = \"never\"\nprocesses = [\"ip…*\"]\n\
                  [[group]]\nname = \"kept\"\nkill = \"never\"\n\
                  processes = [{ name = \"kept\", user = 33 }]\n\
                  [[group]]\nname = \"served\"\nkill = 100\nprocesses = [\"served\"]\n\
                  [engine]\nkind = \"procfs\"\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{EARLY}{groups}"));
    scenario.counted = true;
    scenario
}

/// Containers of two runtimes, and a config that knows them by their names alone.
fn containers() -> Scenario {
    let mut scenario = scripted("containers", &[]);
    without_cache(&mut scenario);
    let named = dirs::tree_text("guest/tests/named.sh");
    let podman = "[containers]\nlog_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\n\
                  events_logger = \"file\"\nruntime = \"crun\"\n";
    let ranks = "[[group]]\nname = \"web\"\nkill = 300\ncontainers = [\"web\"]\n\
                 [[group]]\nname = \"device\"\nkill = \"never\"\ncgroups = [\"lifeline/**\"]\n";
    let protected =
        "[[group]]\nname = \"brokers\"\nkill = \"never\"\ncontainers = [\"brok*\", \"kept\"]\n";
    let control = "[[group]]\nname = \"first\"\nkill = 900\ncontainers = [\"kept\"]\n";
    scenario.files.extend([
        ("/tests/named.sh".into(), named),
        (CONFIG.into(), format!("{EARLY}{ranks}{protected}")),
        (
            "/etc/lowtide/control.toml".into(),
            format!("{EARLY}{ranks}{control}"),
        ),
        ("/os/etc/containers/containers.conf".into(), podman.into()),
        (
            "/os/etc/containers/storage.conf".into(),
            "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\n\
             graphroot = \"/var/lib/containers/storage\"\n"
                .into(),
        ),
    ]);
    scenario.counted = true;
    scenario
}

/// The script passed, and the log names the victims as their runtimes do.
fn told_by_name(run: &Run) -> Result<()> {
    passed(run)?;
    for victim in [
        "libpod_parent/libpod-grows",
        "lxc.payload.swells",
        "lxc.payload.kept",
        "libpod_parent/libpod-broker",
    ] {
        let mut lines = run.lines(TEST);
        ensure!(
            lines.any(|(_, line)| line.contains(victim) && line.contains("kill")),
            "no line of the log names {victim}"
        );
    }
    Ok(())
}

/// Podman with crun, and LXC, as Debian 13 has them, with what they need, in `/os`.
fn runtimes() -> Result<Vec<(PathBuf, String)>> {
    const PACKAGES: [&str; 38] = [
        "conmon",
        "crun",
        "golang-github-containers-common",
        "golang-github-containers-image",
        "libacl1",
        "libapparmor1",
        "libassuan9",
        "libatomic1",
        "libattr1",
        "libaudit1",
        "libbsd0",
        "libbz2-1.0",
        "libc6",
        "libcap-ng0",
        "libcap2",
        "libcrypt1",
        "libdbus-1-3",
        "libgcc-s1",
        "libglib2.0-0t64",
        "libgpg-error0",
        "libgpgme11t64",
        "liblxc1t64",
        "libmd0",
        "libpam0g",
        "libpcre2-8-0",
        "libseccomp2",
        "libselinux1",
        "libsemanage2",
        "libsepol2",
        "libsqlite3-0",
        "libsubid5",
        "libsystemd0",
        "libyajl2",
        "liblxc-common",
        "lxc",
        "podman",
        "zlib1g",
        "netavark",
    ];
    const PARTS: [&str; 10] = [
        "etc/containers",
        "usr/bin/conmon",
        "usr/bin/crun",
        "usr/bin/lxc-info",
        "usr/bin/lxc-start",
        "usr/bin/lxc-stop",
        "usr/bin/podman",
        "usr/lib/podman/netavark",
        "usr/lib64",
        "usr/share/containers",
    ];
    let dir = dirs::cache("containers")?.join("trixie");
    dirs::make_once(&dir, |into| {
        Apt::open("trixie", Arch::X86_64.debian())?.unpack(&PACKAGES, into)
    })?;
    let lib = "usr/lib/x86_64-linux-gnu";
    let mut parts: Vec<String> = PARTS.map(String::from).into();
    for entry in fs::read_dir(dir.join(lib))? {
        let name = entry?.file_name().into_string();
        let is_library = |name: &String| name.starts_with("lib") && name.contains(".so.");
        let name = name.ok().filter(is_library);
        parts.extend(name.map(|name| format!("{lib}/{name}")));
    }
    parts.push(format!("{lib}/ld-linux-x86-64.so.2"));
    let place = |part: String| (dir.join(&part), format!("/os/{part}"));
    Ok(parts.into_iter().map(place).collect())
}

/// Some cgroups have the memory controller off in those below them.
fn uncounted() -> Scenario {
    let mut scenario = scripted("uncounted", &[]);
    let groups = "[[group]]\nname = \"shop\"\nkill = \"never\"\ncgroups = [\"apps/shop/inner\"]\n\
                  [[group]]\nname = \"stall\"\nkill = 900\ncgroups = [\"apps/stall/inner\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{DEVICE}{groups}"));
    scenario
}
