//! Scenarios that tests, demo and benchmarks share: a small device with something to keep alive,
//! something useful and something that eats memory.

use crate::firmware;
use crate::vm::{AGENT, GUEST, Run};
use anyhow::{Context as _, Result, bail, ensure};
use lowtide_guest::{CGROUP_ROOT, Cgroup, Report, Scenario, Service, Zram};
use std::collections::BTreeMap;

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

const DEVICE: &str = r#"
[[group]]
name    = "lifeline"
kill    = "never"
cgroups = ["lifeline/**"]

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

/// The service that tells what the verifier did with the agent's program.
pub const VERIFIED: &str = "verified";
/// The most that the agent's cgroup ever took.
pub const AGENTS_PEAK: &str = "/sys/fs/cgroup/lowtide/memory.peak";

/// The agent alone, until its program is looked up in the kernel.
pub fn verified() -> Scenario {
    let mut scenario = with_config("");
    scenario.services.push(Service {
        name: VERIFIED.into(),
        command: [
            "/bin/sh",
            "-c",
            "cat /proc/[0-9]*/fdinfo/* | grep verified_insns",
        ]
        .map(String::from)
        .to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..Service::default()
    });
    Scenario {
        until: Some(VERIFIED.into()),
        collect: vec![AGENTS_PEAK.into()],
        counted: true,
        ..scenario
    }
}

/// The device at rest, for a few seconds.
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

/// Worth less than all others, and not in the box.
const SPARE: &str = "spare";

/// The gateway and the hog share a box with a limit of its own, and there is plenty outside, where
/// the one stands that would go first. `keys` are more for the box's group.
pub fn boxed(keys: &str) -> Scenario {
    let mut scenario = fast_hog();
    scenario.counted = true;
    for service in &mut scenario.services {
        if [GATEWAY, HOG].contains(&service.name.as_str()) {
            service.cgroup = format!("box/{}", service.name);
        }
    }
    scenario
        .services
        .push(load(SPARE, SPARE, &["sleeper", "--size", "20M"]));
    scenario.cgroups.push(Cgroup {
        path: "box".into(),
        attributes: [("memory.max".into(), "64M".into())].into(),
        ..Cgroup::default()
    });
    let inside = DEVICE
        .replace("apps/gateway", "box/gateway")
        .replace("apps/media", "box/media");
    let config = format!(
        "{inside}\n\
         [[group]]\nname = \"spare\"\nkill = 900\ncgroups = [\"spare\"]\n\
         [[group]]\nname = \"box\"\ncgroups = [\"box\"]\n{keys}\n"
    );
    scenario.files.insert(CONFIG.into(), config);
    scenario
}

/// A hog thrashes in the limit of its box while there is plenty outside. All stalls count as the
/// system's own too; `more` of the system's condition can tell.
pub fn thrashing_box(more: &str) -> Scenario {
    let mut scenario = boxed("trigger = \"some 20ms/500ms\"");
    let hog = ["hog", "--hot", "--rate", "40M", "--cap", "100M"];
    for service in &mut scenario.services {
        if service.name == HOG {
            service.command.truncate(1);
            service.command.extend(hog.map(String::from));
        }
    }
    scenario.zram = Some(Zram {
        size_mb: 128,
        algorithm: None,
    });
    let stalled = format!("[level.critical]\nconfirm = {{ some_above = \"10%\"{more} }}\n");
    with_more_config(scenario, &stalled)
}

/// Stalls in a box are taken for the system's: who is outside goes.
pub fn taken_for_the_system(run: &Run) -> Result<()> {
    ensure!(run.exited(SPARE).is_some(), "nobody outside goes");
    Ok(())
}

/// What is short in the box is solved in the box.
pub fn solved_inside(run: &Run) -> Result<()> {
    ensure!(run.exited(SPARE).is_none(), "who is outside goes");
    only_the_hog_goes(run)
}

/// Nobody in the box may be killed, nor anybody else.
pub fn hopeless_box(trigger: &str) -> Scenario {
    let mut scenario = boxed(trigger);
    for config in scenario.files.values_mut() {
        for kill in [100, 200, 800] {
            *config = config.replace(&format!("kill    = {kill}\n"), "kill    = \"never\"\n");
        }
    }
    scenario.counted = true;
    let rest = "[limits]\nexit = \"1s\"\n[everything_else]\nkill = \"never\"\n";
    with_more_config(scenario, rest)
}

/// Without a trigger of its own the box is the kernel's to solve: the agent touches nobody.
pub fn left_to_the_kernel(run: &Run) -> Result<()> {
    ensure!(oom_kills(run) > 0, "the box was never short");
    // The kernel may take the gateway as well, while the hog is still exiting.
    for service in [SPARE, SENSOR, LIFELINE, "lowtide"] {
        ensure!(run.exited(service).is_none(), "{service} ended");
    }
    let mut lines = run.lines("lowtide").map(|(_, line)| line);
    match lines.find(|line| line.contains(" /")) {
        Some(line) => bail!("the agent acts: {line}"),
        None => Ok(()),
    }
}

/// A test script of `guest/tests` on the device at rest; it starts the agent itself, and the guest
/// ends with it. Its exit code says whether what it looked at was right.
pub fn scripted(name: &str, script: &str, arguments: &[&str]) -> Scenario {
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
        (test.clone(), script.to_owned()),
        (
            "/tests/device.sh".into(),
            include_str!("../../guest/tests/device.sh").into(),
        ),
        (
            "/tests/steps.sh".into(),
            include_str!("../../pkg/tests/steps.sh").into(),
        ),
    ]);
    scenario.services.push(Service {
        name: firmware::TEST.into(),
        command: ["/bin/sh", &test]
            .into_iter()
            .chain(arguments.iter().copied())
            .map(String::from)
            .collect(),
        cgroup: firmware::TEST.into(),
        after: Some(GATEWAY.into()),
        ..Service::default()
    });
    Scenario {
        until: Some(firmware::TEST.into()),
        limit_s: 120,
        ..scenario
    }
}

/// The gateway's cache is protected in the config of the system, and not in another.
pub fn protect() -> Scenario {
    let mut scenario = scripted("protect", include_str!("../../guest/tests/protect.sh"), &[]);
    let gateway = "name    = \"gateway\"\n";
    let protected = DEVICE.replace(gateway, &format!("{gateway}protect = \"16M\"\n"));
    scenario.files.extend([
        (CONFIG.into(), protected),
        ("/etc/lowtide/unprotected.toml".into(), DEVICE.into()),
    ]);
    scenario
}

/// The config has a group for a cgroup that is not there yet, and there is plenty of memory.
pub fn births() -> Scenario {
    let mut scenario = scripted("births", include_str!("../../guest/tests/births.sh"), &[]);
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
pub fn born_in_peace(run: &Run) -> Result<()> {
    firmware::passed(run)?;
    let mut lines = run.lines(firmware::TEST);
    let fired = lines.find(|(_, line)| line.contains("no level's condition holds"));
    ensure!(fired.is_none(), "it woke");
    Ok(())
}

/// Some cgroups have the memory controller off in those below them.
pub fn uncounted() -> Scenario {
    let mut scenario = scripted(
        "uncounted",
        include_str!("../../guest/tests/uncounted.sh"),
        &[],
    );
    let groups = "[[group]]\nname = \"shop\"\nkill = \"never\"\ncgroups = [\"apps/shop/inner\"]\n\
                  [[group]]\nname = \"stall\"\nkill = 900\ncgroups = [\"apps/stall/inner\"]\n";
    scenario
        .files
        .insert(CONFIG.into(), format!("{DEVICE}{groups}"));
    scenario
}

/// What is ranked first is many small processes; what grows when the script says so is the sensor.
pub fn kernel_oom(arguments: &[&str]) -> Scenario {
    let mut scenario = scripted("oom", include_str!("../../guest/tests/oom.sh"), arguments);
    let grow = format!(
        "until [ -e /run/grow ]; do sleep 0.1; done; exec {GUEST} hog --rate 20M --cap 120M"
    );
    for service in &mut scenario.services {
        if service.name == SENSOR {
            service.command = ["/bin/sh", "-c", &grow].map(String::from).to_vec();
        }
    }
    scenario.services.push(load(
        HOG,
        HOG_CGROUP,
        &["forkstorm", "--rate", "10", "--size", "4M", "--max", "16"],
    ));
    scenario
}

/// A test script on a device that starts all services in one cgroup, and asks for what only cgroups can
/// have.
pub fn processes() -> Scenario {
    let script = include_str!("../../guest/tests/processes.sh");
    let mut scenario = scripted("processes", script, &[]);
    without_cache(&mut scenario);
    let media = "name    = \"media\"\n";
    let protected = DEVICE.replace(media, &format!("{media}protect = \"1M\"\n"));
    scenario.files.insert(CONFIG.into(), protected);
    scenario.counted = true;
    in_one_cgroup(scenario)
}

/// A test script's device without a file cache: memory is looked at by time there, so that no
/// stall is needed.
fn without_cache(scenario: &mut Scenario) {
    scenario.services.retain(|s| s.name != GATEWAY);
    for service in &mut scenario.services {
        if service.name == firmware::TEST {
            service.after = Some(LIFELINE.into());
        }
    }
}

/// Two configs that hold back what grows, for a short and for a long time.
pub fn throttle() -> Scenario {
    let mut scenario = scripted(
        "throttle",
        include_str!("../../guest/tests/throttle.sh"),
        &[],
    );
    without_cache(&mut scenario);
    for time in ["2s", "10min"] {
        scenario.files.insert(
            format!("/etc/lowtide/throttle-{time}.toml"),
            early(&["throttle"], &format!("throttle = \"{time}\"")),
        );
    }
    scenario
}

/// There is always a wish for more memory to be available, and file cache may be given back for it.
pub fn reclaim() -> Scenario {
    let mut scenario = scripted("reclaim", include_str!("../../guest/tests/reclaim.sh"), &[]);
    let wish = "[level.strained]\n\
                confirm = { available_below = \"97%\" }\n\
                relief = { available_above = \"98%\" }\n";
    let gateway = "name    = \"gateway\"\n";
    let device = DEVICE.replace(gateway, &format!("{gateway}reclaim = \"never\"\n"));
    let group = |name, reclaim| {
        format!("[[group]]\nname = \"{name}\"\nreclaim = {reclaim}\ncgroups = [\"apps/{name}\"]\n")
    };
    let groups = [
        group("second", "300"),
        group("kept", "\"never\""),
        group("first", "900"),
        group("pressed", "\"never\""),
    ];
    scenario
        .files
        .insert(CONFIG.into(), format!("{wish}{device}{}", groups.concat()));
    scenario.disk_mb = 96;
    scenario.counted = true;
    scenario
}

/// Configs that kill, or ask, one process of the hog's cgroup, and never the one named `precious`.
pub fn process() -> Scenario {
    let mut scenario = scripted("process", include_str!("../../guest/tests/process.sh"), &[]);
    without_cache(&mut scenario);
    for action in ["kill", "terminate"] {
        let precious =
            "[[group]]\nname = \"precious\"\nkill = \"never\"\nprocesses = [\"precious\"]\n";
        scenario.files.insert(
            format!("/etc/lowtide/process-{action}.toml"),
            format!("{}{precious}", early(&[action], "unit = \"process\"")),
        );
    }
    scenario
}

/// Configs that reclaim and then end the hog, each in another way. Stacks begin where they always do.
pub fn ready() -> Scenario {
    let mut scenario = scripted("ready", include_str!("../../guest/tests/ready.sh"), &[]);
    let sysctls = &mut scenario.sysctls;
    sysctls.insert("kernel/randomize_va_space".into(), "0".into());
    for engine in ["kfunc", "cgroupfs"] {
        for action in ["kill", "terminate"] {
            for unit in ["cgroup", "process"] {
                let config = early(&["reclaim", action], &format!("unit = \"{unit}\""));
                scenario.files.insert(
                    format!("/etc/lowtide/{engine}-{action}-{unit}.toml"),
                    format!("{config}\n[engine]\nkind = \"{engine}\"\n"),
                );
            }
        }
    }
    scenario.counted = true;
    scenario
}

/// Configs with commands before and after a kill: that tell whom it is about, and that hang or are
/// missing.
pub fn commands() -> Scenario {
    let mut scenario = scripted(
        "commands",
        include_str!("../../guest/tests/commands.sh"),
        &[],
    );
    without_cache(&mut scenario);
    let tell = "\"/bin/sh\", \"-c\", \"echo $LOWTIDE_WHEN $LOWTIDE_GROUP $LOWTIDE_CGROUP: $LOWTIDE_REASON >> /run/told\"";
    for (name, before, after) in [
        ("tell", tell, tell),
        (
            "hang",
            "\"/bin/busybox\", \"sleep\", \"3600\"",
            "\"/no/such\"",
        ),
    ] {
        let keys = format!("grace = \"2s\"\nbefore = [{before}]\nafter = [{after}]");
        let limits = "[limits]\ncommand = \"1s\"\n";
        scenario.files.insert(
            format!("/etc/lowtide/commands-{name}.toml"),
            format!("{limits}{}", early(&["terminate", "kill"], &keys)),
        );
    }
    scenario.counted = true;
    scenario
}

/// A device that stalls, where nobody may be killed.
pub fn hopeless(reboot_after: &str) -> Scenario {
    let mut scenario = idle();
    // The gateway's cache does not fit.
    scenario.cgroups.push(Cgroup {
        path: "apps/gateway".into(),
        attributes: [("memory.high".into(), "12M".into())].into(),
        ..Cgroup::default()
    });
    let config = format!(
        "[level.critical]\n\
         confirm = {{ available_below = \"99%\" }}\n\
         relief = {{ available_above = \"99.5%\" }}\n\
         actions = [\"kill\", \"reboot\"]\n\
         [limits]\nreboot_after = \"{reboot_after}\"\n\
         [everything_else]\nkill = \"never\"\n"
    );
    scenario.files.insert(CONFIG.into(), config);
    Scenario {
        limit_s: 30,
        ..scenario
    }
}

/// Configs with a watchdog: for a device at rest, for one that is not there, and for one on which memory
/// is always short and nobody may be killed.
pub fn watchdog() -> Scenario {
    let mut scenario = scripted(
        "watchdog",
        include_str!("../../guest/tests/watchdog.sh"),
        &[],
    );
    without_cache(&mut scenario);
    for (name, device, below) in [
        ("calm", "/dev/watchdog", "1%"),
        ("missing", "/dev/none", "1%"),
        ("hopeless", "/dev/watchdog", "99%"),
    ] {
        let config = format!(
            "[level.critical]\n\
             confirm = {{ available_below = \"{below}\" }}\n\
             relief = {{ available_above = \"99.5%\" }}\n\
             actions = [\"kill\", \"watchdog\"]\n\
             [limits]\nreboot_after = \"2s\"\n\
             [watchdog]\ndevice = \"{device}\"\n\
             [everything_else]\nkill = \"never\"\n"
        );
        let path = format!("/etc/lowtide/{name}.toml");
        scenario.files.insert(path, config);
    }
    Scenario {
        restarts: true,
        watchdog: true,
        counted: true,
        ..scenario
    }
}

/// All that the script had to say before the device was restarted is good.
pub fn watchdog_restarts(run: &Run) -> Result<()> {
    let mut last = None;
    for (_, line) in run.lines(firmware::TEST) {
        ensure!(!line.starts_with("failed: "), "{line}");
        last = Some(line).filter(|l| l.starts_with("ok: ")).or(last);
    }
    ensure!(
        last.is_some_and(|line| line.contains("no more signs of life")),
        "the last thing that was good: {last:?}"
    );
    Ok(())
}

/// Configs that are exchanged while the agent runs: who goes is the hog, or nobody, and one that is
/// wrong; and one to check that is right but means nothing on this device.
pub fn reload() -> Scenario {
    let mut scenario = scripted("reload", include_str!("../../guest/tests/reload.sh"), &[]);
    let config = |hog: &str| {
        format!(
            "[level.critical]\n\
             confirm = {{ available_below = \"99%\" }}\n\
             relief = {{ available_above = \"99.5%\" }}\n\
             actions = [\"kill\"]\n\
             [everything_else]\nkill = \"never\"\n\
             [[group]]\nname = \"media\"\ncgroups = [\"{HOG_CGROUP}\"]\nkill = {hog}\n"
        )
    };
    scenario.files.extend([
        (
            "/etc/lowtide/nobody.toml".into(),
            config("\"never\"\nprotect = \"1M\""),
        ),
        ("/etc/lowtide/media.toml".into(), config("800")),
        ("/etc/lowtide/wrong.toml".into(), config("\"nevr\"")),
        (
            "/etc/lowtide/idle.toml".into(),
            "[[group]]\nname = \"ghost\"\ncgroups = [\"no/such\"]\n\
             [[group]]\nname = \"media\"\ncgroups = [\"apps/*\"]\ntrigger = \"some 20ms/500ms\"\n"
                .into(),
        ),
    ]);
    scenario
}

/// The device's config with one more key for the hog, and these actions as soon as 40 % are left.
fn early(actions: &[&str], key: &str) -> String {
    let media = "name    = \"media\"\n";
    let device = DEVICE.replace(media, &format!("{media}{key}\n"));
    format!(
        "[level.critical]\n\
         confirm = {{ available_below = \"40%\" }}\n\
         relief = {{ available_above = \"50%\" }}\n\
         actions = {actions:?}\n{device}"
    )
}

/// With more tables in the agent's config.
pub fn with_more_config(mut scenario: Scenario, more: &str) -> Scenario {
    scenario
        .files
        .entry(CONFIG.into())
        .or_default()
        .insert_str(0, more);
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
        let cgroup = line.strip_prefix("cgroups = ")?;
        let name = [LIFELINE, SENSOR, GATEWAY, HOG]
            .into_iter()
            .find(|name| cgroup.contains(name))?;
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

/// cgroups whose events must not change when the device is only looked at.
/// The device at rest, and what `doctor` says of it.
pub fn doctor() -> Scenario {
    let mut scenario = idle();
    let ask = |name: &str, after: &str, arguments: &[&str]| Service {
        name: name.into(),
        command: [AGENT, "doctor"]
            .iter()
            .chain(arguments)
            .map(|s| (*s).to_owned())
            .collect(),
        cgroup: "shell".into(),
        after: Some(after.into()),
        ..Service::default()
    };
    scenario.services.push(ask("doctor", "lowtide", &[]));
    scenario.services.push(ask("json", "doctor", &["--json"]));
    Scenario {
        until: Some("json".into()),
        ..scenario
    }
}

/// What `doctor --json` found: the engine, and of each finding whether it is there.
pub fn diagnosis(run: &Run) -> Result<(String, BTreeMap<String, bool>)> {
    for asked in ["doctor", "json"] {
        let code = run.exited(asked).and_then(|(_, code, _)| code);
        ensure!(code == Some(0), "{asked} ends with {code:?}");
    }
    let (_, json) = run.lines("json").next().context("no JSON")?;
    let json: serde_json::Value = serde_json::from_str(json)?;
    let findings = json["findings"].as_array().into_iter().flatten();
    let findings = findings.filter_map(|finding| {
        Some((
            finding["name"].as_str()?.to_owned(),
            finding["has"].as_bool()?,
        ))
    });
    let engine = json["engine"].as_str().context("no engine")?;
    Ok((engine.to_owned(), findings.collect()))
}

const EXPLAINED: [&str; 4] = ["apps", "lifeline", "lowtide", "shell"];

/// The device at rest, asked what would happen, in words and then as JSON.
pub fn explain() -> Scenario {
    let mut scenario = idle();
    scenario
        .services
        .push(load(HOG, HOG_CGROUP, &["sleeper", "--size", "60M"]));
    let ask = |name: &str, after: &str, arguments: &[&str]| Service {
        name: name.into(),
        command: [AGENT, "explain", "--config", CONFIG]
            .iter()
            .chain(arguments)
            .map(|s| (*s).to_owned())
            .collect(),
        cgroup: "shell".into(),
        after: Some(after.into()),
        start_ms: 1000,
        ..Service::default()
    };
    scenario.services.push(ask("explain", HOG, &[]));
    scenario.services.push(ask("json", "explain", &["--json"]));
    let events = |cgroup: &str| format!("{CGROUP_ROOT}/{cgroup}/memory.events");
    Scenario {
        until: Some("json".into()),
        collect: EXPLAINED
            .map(events)
            .into_iter()
            .chain(["/proc/vmstat".to_owned()])
            .collect(),
        ..scenario
    }
}

/// It names who would go and who would not, and it has touched nobody.
pub fn explained(run: &Run) -> Result<()> {
    let text = || run.lines("explain").map(|(_, line)| line);
    let line = |cgroup: &str, priority: &str| {
        let killed = text().skip_while(|line| !line.contains("killed"));
        killed
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.get(1) == Some(&cgroup) && words[3..].contains(&priority))
            .with_context(|| format!("no line about a kill of {cgroup}"))
    };
    ensure!(
        line("/apps/media", "800")?[0] == "1",
        "the hog is not first"
    );
    ensure!(
        line("/apps/sensor", "100")?.ends_with(&["lower", "priority"]),
        "why not the sensor?"
    );
    for never in ["/lifeline/heartbeat", "/lowtide", "/init"] {
        ensure!(line(never, "never")?[0] == "-", "{never} has its turn");
    }
    ensure!(
        text().all(|line| line.chars().count() <= 100),
        "a line is too long"
    );
    let (_, json) = run.lines("json").next().context("no JSON")?;
    let json: serde_json::Value = serde_json::from_str(json)?;
    let first = json["cgroups"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["kill"]["order"] == 1);
    let first = first.context("nobody is first in JSON")?;
    ensure!(
        first["path"] == "/apps/media",
        "first in JSON is {}",
        first["path"]
    );
    ensure!(
        json["now"]["action"] == "nothing",
        "now it would {}",
        json["now"]["action"]
    );
    ensure!(
        json["if_memory_ran_out"]["cgroup"].is_string(),
        "nothing would happen"
    );
    for asked in ["explain", "json"] {
        let code = run.exited(asked).and_then(|(_, code, _)| code);
        ensure!(code == Some(0), "{asked} ends with {code:?}");
    }
    for service in [HOG, SENSOR, GATEWAY, LIFELINE, "lowtide"] {
        ensure!(run.exited(service).is_none(), "{service} ended");
    }
    let mut unchanged = 0;
    for (path, text) in run
        .files()
        .filter(|(path, _)| path.ends_with("memory.events"))
    {
        ensure!(
            text.lines().all(|line| line.ends_with(" 0")),
            "{path}: {text}"
        );
        unchanged += 1;
    }
    ensure!(
        unchanged == EXPLAINED.len(),
        "memory.events of {unchanged} cgroups only"
    );
    let (_, vmstat) = run
        .files()
        .find(|(path, _)| *path == "/proc/vmstat")
        .context("no vmstat")?;
    // Older kernels count what is asked for among direct reclaim.
    let counter = ["pgsteal_proactive ", "pgsteal_direct "]
        .into_iter()
        .find_map(|name| vmstat.lines().find_map(|line| line.strip_prefix(name)));
    ensure!(counter == Some("0"), "memory was reclaimed: {counter:?}");
    Ok(())
}

/// The hog is killed by the agent, in time, and everything else lives on.
pub fn only_the_hog_goes(run: &Run) -> Result<()> {
    let (killed, _, signal) = run.exited(HOG).context("the hog was not killed")?;
    ensure!(matches!(signal, Some(9 | 15)), "the hog ended by itself");
    for service in [SENSOR, GATEWAY, LIFELINE, "lowtide"] {
        ensure!(run.exited(service).is_none(), "{service} ended, too");
    }
    ensure!(
        oom_kills(run) == 0,
        "the kernel counts {} OOM kills",
        oom_kills(run)
    );
    if let Some((_, line)) = run.oom_lines().next() {
        bail!("the kernel killed: {line}");
    }
    ensure!(
        run.reports(LIFELINE)
            .any(|(t, r)| t > killed && matches!(r, Report::Heartbeat { .. })),
        "the lifeline does not answer after the kill"
    );
    Ok(())
}

/// OOM kills by the kernel that its own counters know of.
pub fn oom_kills(run: &Run) -> u64 {
    run.samples()
        .last()
        .map_or(0, |(_, sample)| sample.oom_kills)
}
