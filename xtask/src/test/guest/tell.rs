//! What the agent says of the device, of what it would do and of what it did.

use super::{Case, PLAIN};
use crate::host::dirs;
use crate::scenario::checks::{only_the_hog_goes, oom_kills, says};
use crate::scenario::variants::in_one_cgroup;
use crate::scenario::{
    CONFIG, DEVICE, GATEWAY, HOG, HOG_CGROUP, LIFELINE, SENSOR, fast_hog, idle, load,
};
use crate::vm::{AGENT, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{CGROUP_ROOT, Cgroup, Scenario, Service, What};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "explain_tells_and_touches_nothing",
        scenario: explain,
        check: explained,
        ..PLAIN
    },
    Case {
        name: "explain_with_the_cgroupfs_engine",
        kernel: Some("6.12"),
        scenario: explain,
        check: explained,
        ..PLAIN
    },
    Case {
        name: "explain_with_the_procfs_engine",
        append: "cgroup_disable=memory",
        scenario: || in_one_cgroup(explain()),
        check: |run| {
            ensure!(
                run.lines("explain").any(|(_, line)| {
                    let words: Vec<_> = line.split_whitespace().collect();
                    matches!(words[..], ["1", _, "(media)", "media", "800", ..])
                }),
                "the hog is not first"
            );
            for service in [HOG, SENSOR, GATEWAY, LIFELINE, "lowtide"] {
                ensure!(run.exited(service).is_none(), "{service} ended");
            }
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "doctor_on_the_newest_kernel",
        scenario: doctor,
        check: |run| {
            let (engine, has) = diagnosis(run)?;
            ensure!(engine == "kfunc", "the {engine} engine");
            let lacks: Vec<_> = has.iter().filter(|(_, has)| !**has).collect();
            ensure!(
                lacks.iter().map(|(name, _)| name.as_str()).eq([
                    "locked pages stay",
                    "reasons outlive a restart (pstore)",
                    "swap on zram",
                ]),
                "lacks {lacks:?}"
            );
            ensure!(has.len() > 20, "only {} findings", has.len());
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "doctor_on_6_1_without_psi",
        kernel: Some("6.1"),
        append: "psi=0",
        scenario: || {
            let mut scenario = doctor();
            let stay = ("vm/compact_unevictable_allowed", "0");
            scenario.sysctls.insert(stay.0.into(), stay.1.into());
            scenario
        },
        check: |run| {
            let (engine, has) = diagnosis(run)?;
            ensure!(engine == "cgroupfs", "the {engine} engine");
            for (name, wanted) in [
                ("PSI", false),
                ("bpf_get_root_mem_cgroup", false),
                ("memory.reclaim", true),
                ("process_mrelease", true),
                ("locked pages stay", true),
            ] {
                ensure!(
                    has.get(name) == Some(&wanted),
                    "{name}: {:?}",
                    has.get(name)
                );
            }
            let hint = "off by `psi=0` on the kernel's command line";
            ensure!(
                run.lines("doctor").any(|(_, line)| line.trim() == hint),
                "no word about psi=0"
            );
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "doctor_without_the_memory_controller",
        append: "cgroup_disable=memory",
        scenario: || in_one_cgroup(doctor()),
        check: |run| {
            let (engine, has) = diagnosis(run)?;
            ensure!(engine == "procfs", "the {engine} engine");
            ensure!(
                has.get("memory cgroups") == Some(&false),
                "it finds memory cgroups"
            );
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "doctor_shows_that_the_agent_acts",
        scenario: tried,
        check: |run| {
            let said = |part: &str| run.lines("shell").any(|(_, line)| line.contains(part));
            for part in [
                "without --yes: 1",
                "without an agent: 1",
                "with both: 0",
                "and ended what filled it",
                "/lowtide-test/victim (group lowtide-test-victim, priority 1000",
                "left: none",
            ] {
                ensure!(said(part), "the shell does not say {part:?}");
            }
            ensure!(oom_kills(run) == 0, "the kernel killed");
            for service in [SENSOR, GATEWAY, LIFELINE, "lowtide"] {
                ensure!(run.exited(service).is_none(), "{service} ended");
            }
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "init_proposes_what_runs_and_writes_when_told_to",
        scenario: proposed,
        files: || {
            let profiles = dirs::workspace().join("config/profiles");
            Ok(vec![(profiles, "/usr/lib/lowtide/profiles".into())])
        },
        check: |run| {
            let lines: Vec<_> = run.lines("shell").map(|(_, line)| line).collect();
            let text = lines.join("\n");
            for part in [
                "profile = \"gateway\"",
                "#   50     broker: /system.slice/mosquitto.service",
                "name = \"collector\"\nkill = 400\ncgroups = [\"system.slice/collector.service\"]",
                "name = \"sessions\"\nkill = 800\ncgroups = [\"user.slice/**\"]",
                "untouched",
                "config.toml: written.",
                "checked",
                "stays as it is",
            ] {
                ensure!(text.contains(part), "no {part:?} in\n{text}");
            }
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "what_was_done_can_be_read_back",
        scenario: read_back,
        check: |run| {
            only_the_hog_goes(run)?;
            let code = run.exited("reader").and_then(|(_, code, _)| code);
            ensure!(code == Some(0), "the reader ends with {code:?}");
            let json = |key: &str| -> Result<serde_json::Value> {
                let mut lines = run.lines("reader").map(|(_, line)| line);
                let line = lines.find(|line| line.starts_with('{') && line.contains(key));
                Ok(serde_json::from_str(line.context(key.to_owned())?)?)
            };
            let decision = json("\"action\":\"terminate\"")?;
            ensure!(decision["victim"] == "/apps/media", "{decision}");
            ensure!(decision["group"] == "media", "{decision}");
            ensure!(
                decision["not1"].is_string(),
                "nothing about others: {decision}"
            );
            let relief = json("\"why\":\"critical relieved\"")?;
            ensure!(
                relief["available"].as_u64() > decision["available"].as_u64(),
                "{relief} after {decision}"
            );
            let state = json("\"counters\"")?;
            ensure!(state["counters"]["terminated"] == 1, "{state}");
            ensure!(
                state["history"].as_array().is_some_and(|h| h.len() >= 3),
                "{state}"
            );
            let names: Vec<_> = state["next"].as_array().into_iter().flatten().collect();
            ensure!(
                names
                    .iter()
                    .any(|next| next["name"] == "/apps/sensor" && next["kill"] == 100),
                "{state}"
            );
            let says = |text: &str| {
                let found = run.lines("reader").any(|(_, line)| line.contains(text));
                found
                    .then_some(())
                    .with_context(|| format!("no line has {text:?}"))
            };
            says("lowtide_terminated_total 1")?;
            says("# EOF")?;
            says("of it file cache")?;
            says("srw-------")?;
            let of = |name: &str| {
                let lines = run.lines("reader").map(|(_, line)| line);
                lines
                    .filter_map(|line| line.strip_prefix(name))
                    .collect::<Vec<_>>()
            };
            let (refused, answered) = ("only root may ask", "lowtide 0");
            for (name, wanted) in [
                ("ann: ", &[refused, answered][..]),
                ("bob: ", &[answered]),
                ("eve: ", &[refused]),
            ] {
                let found = of(name);
                let fits = found
                    .iter()
                    .zip(wanted)
                    .all(|(line, part)| line.contains(part));
                ensure!(fits && found.len() == wanted.len(), "{name}{found:?}");
            }
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "a_recording_judged_again_gives_the_same_decisions",
        scenario: recorded,
        check: |run| {
            only_the_hog_goes(run)?;
            let tape = taped(run, "recorded")?;
            let shown = desk(&["replay"], &tape, DEVICE, 0)?;
            ensure!(
                shown.contains("The same decisions at the same times."),
                "{shown}"
            );
            let was = ["terminate /apps/media", "the same"];
            let done = shown
                .lines()
                .any(|line| was.iter().all(|part| line.contains(part)));
            ensure!(done, "no line about what was done:\n{shown}");
            // By the same config as a file, and so by rules that the desk works out itself.
            let shown = desk(&["replay", "--config", "CONFIG"], &tape, DEVICE, 0)?;
            ensure!(shown.contains("The same decisions"), "{shown}");
            let table = desk(&["export", "--table", "cgroups"], &tape, DEVICE, 0)?;
            ensure!(table.contains(",/apps/media,"), "{table}");
            desk(&["plot"], &tape, DEVICE, 0)?;
            // Cut anywhere, it says where, and shows what comes before.
            let bytes = std::fs::read(&tape)?;
            std::fs::write(&tape, &bytes[..bytes.len() - 3])?;
            let shown = desk(&["replay"], &tape, DEVICE, 2)?;
            ensure!(shown.contains("terminate /apps/media"), "{shown}");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "a_recording_shows_which_config_takes_the_right_one",
        scenario: tuned,
        check: |run| {
            // The player holds most, so with equal numbers it goes before what grows.
            says(run, "terminate /apps/player")?;
            says(run, "reloaded: ")?;
            let tape = taped(run, "kiosk")?;
            let shown = desk(&["replay"], &tape, UNTUNED, 0)?;
            ensure!(shown.contains("The same decisions"), "{shown}");
            in_the_guide("$ lowtide-desk replay kiosk.lowtide", &shown)?;
            let shown = desk(&["replay", "--config", "CONFIG"], &tape, &tuned_config(), 1)?;
            let mut decisions = shown.lines().filter(|line| line.contains("differs"));
            let first = decisions.next().context(shown.clone())?;
            let wanted = ["terminate /apps/player", "terminate /apps/sync (sync)"];
            ensure!(wanted.iter().all(|part| first.contains(part)), "{shown}");
            in_the_guide(
                "$ lowtide-desk replay --config new.toml kiosk.lowtide",
                &shown,
            )?;
            says(run, "terminate /apps/sync (group sync, priority 800")?;
            let ends = run
                .events
                .iter()
                .filter(|e| is_end_of(&e.what, "player"))
                .count();
            ensure!(ends == 1, "the player ended {ends} times");
            let log = run.lines("recorder").map(|(_, line)| line);
            let log = log.skip_while(|line| *line != "the log:").skip(1);
            let log: String = log.map(|line| format!("{line}\n")).collect();
            in_the_guide("$ lowtide log", &log)
        },
        ..PLAIN
    },
    Case {
        name: "the_reason_for_a_reboot_outlives_it",
        append: KEPT_BACK,
        scenario: || restarted("reboot"),
        check: |run| remembered(run, "reboot; critical"),
        ..PLAIN
    },
    Case {
        name: "the_reason_for_a_restart_by_the_watchdog_outlives_it",
        append: KEPT_BACK,
        scenario: || {
            let mut scenario = restarted("watchdog");
            // One whose end is a panic: then the kernel keeps its log.
            let softdog = ("softdog".into(), "soft_panic=1 soft_margin=4".into());
            scenario.modules.extend([softdog]);
            scenario
        },
        check: |run| remembered(run, "watchdog; critical"),
        ..PLAIN
    },
    Case {
        name: "in_a_dry_run_the_agent_only_says_what_it_would_do",
        scenario: || {
            let mut scenario = fast_hog();
            let agent = scenario.services.iter_mut().find(|s| s.name == "lowtide");
            let agent = agent.expect("the device has an agent");
            agent.command.push("--dry-run".into());
            let score = |cgroup: &str| format!("{CGROUP_ROOT}/{cgroup}/memory.oom.group");
            scenario.collect = vec![score("apps/sensor"), "/run/lowtide/history".into()];
            scenario
        },
        check: |run| {
            says(
                run,
                "would have: terminate /apps/media (group media, priority 800",
            )?;
            ensure!(
                oom_kills(run) > 0,
                "the kernel kills nothing, so something else did"
            );
            let would = run.lines("lowtide").filter(|(_, line)| {
                line.contains("would have: terminate") || line.contains("would have: kill")
            });
            let would = would.count();
            ensure!(would == 1, "it would have ended {would} for one hog");
            let file = |end: &str| {
                let mut files = run.files();
                let found = files.find(|(path, _)| path.ends_with(end));
                found
                    .map(|(_, text)| text.to_owned())
                    .with_context(|| format!("no {end}"))
            };
            ensure!(
                file("memory.oom.group")?.trim() == "0",
                "it set memory.oom.group"
            );
            let history = file("history")?;
            ensure!(history.contains("dry = true"), "{history}");
            Ok(())
        },
        ..PLAIN
    },
];

/// A recorder that has seen all of it, and hands out what it wrote.
fn recorded() -> Scenario {
    let script = "export PATH=/bin
        lowtide record /run/tape --every 1s & recorder=$!
        until lowtide log | busybox grep -q 'critical relieved'; do busybox sleep 1; done
        busybox sleep 5; kill $recorder; wait
        busybox base64 /run/tape";
    let mut scenario = fast_hog();
    scenario
        .services
        .push(script_service("recorder", Some("lowtide"), script));
    let hog = scenario.services.iter_mut().find(|s| s.name == HOG);
    hog.expect("the device has a hog").after = Some("recorder".into());
    Scenario {
        until: Some("recorder".into()),
        counted: true,
        linger_ms: 0,
        ..scenario
    }
}

/// What nobody has said yet: all that is not the heartbeat has the same number.
const UNTUNED: &str =
    "[[group]]\nname = \"heartbeat\"\nkill = \"never\"\ncgroups = [\"lifeline/**\"]\n";
const GUIDE: &str = "docs/tuning.md";

/// The device is for its player, and can do without the sync: as the guide has it.
fn tuned_config() -> String {
    format!("{UNTUNED}\n{}", dirs::doc_block(GUIDE, "[\"apps/sync\"]"))
}

/// The guide shows what was printed here. Figures and times differ with each version, so that what was decided is
/// compared: `UPDATE_EXPECT=1` writes all of it anew.
fn in_the_guide(command: &str, printed: &str) -> Result<()> {
    let page = dirs::workspace().join(GUIDE);
    let text = std::fs::read_to_string(&page)?;
    let start = text.find(&format!("```text\n{command}\n"));
    let start = start.with_context(|| format!("{GUIDE} has no `{command}`"))? + "```text\n".len();
    let len = text[start..].find("```").context("a block has no end")?;
    let shown = format!("{command}\n{}\n", printed.trim_end());
    let end = start + len;
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&page, [&text[..start], &shown, &text[end..]].concat())?;
        return Ok(());
    }
    // What was decided, in words without figures.
    let plain = |text: &str| -> Vec<String> {
        let told = ["terminate ", "reloaded: ", "The same", "a guess"];
        let lines = text
            .lines()
            .filter(|line| told.iter().any(|part| line.contains(part)));
        let lines = lines.filter(|line| !line.trim_start().starts_with("not "));
        let words = lines.map(|line| {
            let line = line.split(" (group").next().unwrap_or(line);
            let words = line
                .split_whitespace()
                .filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
            words.collect::<Vec<_>>().join(" ")
        });
        words.collect()
    };
    ensure!(
        plain(&text[start..end]) == plain(&shown),
        "{GUIDE} shows something else than\n{shown}\n`UPDATE_EXPECT=1` writes it anew"
    );
    Ok(())
}

fn is_end_of(what: &What, name: &str) -> bool {
    matches!(what, What::Exited { service, .. } if service == name)
}

/// A kiosk on which the wrong one goes, as its recording shows, and the right one after a change of the
/// file: docs/tuning.md has what it says.
fn tuned() -> Scenario {
    let script = format!(
        "export PATH=/bin
        lowtide record /run/kiosk.lowtide --every 1s & recorder=$!
        until lowtide log | busybox grep -q 'terminate /apps/player'; do busybox sleep 1; done
        busybox sleep 2; kill $recorder; wait
        busybox base64 /run/kiosk.lowtide
        busybox cp /etc/tuned.toml {CONFIG}
        busybox kill -HUP $(busybox pidof lowtide)
        until lowtide log | busybox grep -q 'terminate /apps/sync'; do busybox sleep 1; done
        busybox sleep 2; echo the log:; lowtide log"
    );
    let mut scenario = idle();
    scenario
        .services
        .retain(|service| [LIFELINE, "lowtide"].contains(&service.name.as_str()));
    scenario.files.insert(CONFIG.into(), UNTUNED.into());
    scenario
        .files
        .insert("/etc/tuned.toml".into(), tuned_config());
    let after = |after: &str, service: Service| Service {
        after: Some(after.into()),
        ..service
    };
    // Slow enough to be there still when the new config is.
    let grows = ["hog", "--rate", "8M"];
    scenario.services.extend([
        Service {
            restart_ms: 6_000,
            ..load("player", "apps/player", &["sleeper", "--size", "90M"])
        },
        Service {
            name: "recorder".into(),
            command: ["/bin/busybox", "sh", "-c", &script]
                .map(String::from)
                .to_vec(),
            cgroup: "shell".into(),
            after: Some("lowtide".into()),
            ..Service::default()
        },
        after("recorder", load("sync", "apps/sync", &grows)),
    ]);
    Scenario {
        until: Some("recorder".into()),
        linger_ms: 0,
        limit_s: 90,
        counted: true,
        ..scenario
    }
}

/// What the recorder of the run handed out, in a file beside what else is kept of it.
fn taped(run: &Run, name: &str) -> Result<PathBuf> {
    let lines = run.lines("recorder").map(|(_, line)| line);
    // Other lines are sentences, or empty.
    let base64: String = lines.filter(|line| !line.contains(' ')).collect();
    let tape = dirs::target().join(format!("guest-tests/{name}.lowtide"));
    std::fs::write(&tape, decoded(&base64)?)?;
    Ok(tape)
}

/// RFC 4648, with or without padding.
fn decoded(base64: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for c in base64.trim_end_matches('=').bytes() {
        let six = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => anyhow::bail!("no base64: {:?}", char::from(c)),
        };
        (held, bits) = (held << 6 | u32::from(six), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Ok(bytes)
}

/// What the desk says of a recording, `CONFIG` standing for a file with this config.
fn desk(arguments: &[&str], tape: &Path, text: &str, wanted: i32) -> Result<String> {
    let config = tape.with_extension("toml");
    std::fs::write(&config, text)?;
    let config = config.to_string_lossy();
    let arguments = arguments.iter().map(|word| match *word {
        "CONFIG" => config.as_ref(),
        word => word,
    });
    let output = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "lowtide-desk", "--"])
        .args(arguments)
        .arg(tape)
        .current_dir(dirs::workspace())
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.code() == Some(wanted),
        "it ends with {:?}:\n{said}{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

/// A device whose agent is shown a shortage that is none of its own.
fn tried() -> Scenario {
    let script = "export PATH=/bin
        busybox mkdir -p /etc/lowtide/config.d
        lowtide doctor --test < /dev/null; echo without --yes: $?
        busybox mv /run/lowtide/status /run/lowtide/away
        lowtide doctor --test --yes; echo without an agent: $?
        busybox mv /run/lowtide/away /run/lowtide/status
        lowtide doctor --test --yes; echo with both: $?
        busybox ls -d /sys/fs/cgroup/lowtide-test /run/lowtide/config.d/* 2> /dev/null || echo left: none";
    let mut scenario = idle();
    for service in &mut scenario.services {
        if service.name == "lowtide" {
            // Drop-ins count for the files of the system alone.
            service.command.truncate(2);
        }
    }
    scenario
        .services
        .push(script_service("shell", Some("lowtide"), script));
    Scenario {
        until: Some("shell".into()),
        limit_s: 60,
        linger_ms: 1_000,
        ..scenario
    }
}

/// A gateway that nobody has configured yet.
fn proposed() -> Scenario {
    let script = format!(
        "export PATH=/bin; busybox rm -f {CONFIG}
        lowtide init && busybox ls {CONFIG} 2> /dev/null || echo untouched
        lowtide init --write && lowtide check && echo checked
        lowtide init --write"
    );
    let held =
        |name: &str, cgroup: &str, size: &str| load(name, cgroup, &["sleeper", "--size", size]);
    let last = held(
        "session",
        "user.slice/user-1000.slice/session-1.scope",
        "5M",
    );
    Scenario {
        files: [].into(),
        services: vec![
            held("broker", "system.slice/mosquitto.service", "8M"),
            Service {
                after: Some("broker".into()),
                ..held("collector", "system.slice/collector.service", "12M")
            },
            Service {
                after: Some("collector".into()),
                ..last
            },
            Service {
                name: "shell".into(),
                command: ["/bin/busybox", "sh", "-c", &script]
                    .map(String::from)
                    .to_vec(),
                cgroup: "shell".into(),
                after: Some("session".into()),
                ..Service::default()
            },
        ],
        until: Some("shell".into()),
        limit_s: 30,
        counted: true,
        ..Scenario::default()
    }
}

/// A reader that waits until something was done, and then asks the agent in every way.
fn read_back() -> Scenario {
    let script = "export PATH=/bin
        until lowtide log | busybox grep -q 'critical relieved'; do busybox sleep 1; done
        lowtide log --json && lowtide status --json && lowtide status --openmetrics &&
        lowtide status && lowtide top && lowtide log --boot 0 --since 1h &&
        busybox ls -l /run/lowtide/status
        ask() { busybox su $1 -c '/bin/lowtide status' 2>&1 | busybox head -n 1 | busybox sed \"s/^/$1: /\"; }
        ask ann
        echo '[status]' >> CONFIG; echo 'group = \"operators\"' >> CONFIG
        busybox kill -HUP $(busybox pidof lowtide); busybox sleep 2
        ask ann; ask bob; ask eve; exit 0";
    let script = script.replace("CONFIG", CONFIG);
    let script = script.as_str();
    let mut scenario = fast_hog();
    // In the group by membership, by its own group, and not at all.
    scenario.files.extend([
        (
            "/etc/passwd".into(),
            "root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\nbob:x:1002:990::/:/bin/sh\n\
             eve:x:1003:1003::/:/bin/sh\n"
                .into(),
        ),
        (
            "/etc/group".into(),
            "root:x:0:\noperators:x:990:ann\n".into(),
        ),
    ]);
    scenario
        .services
        .push(script_service("reader", Some(HOG), script));
    Scenario {
        until: Some("reader".into()),
        linger_ms: 0,
        ..scenario
    }
}

/// Memory that no boot touches, for ramoops.
const KEPT_BACK: &str = "memmap=1M$0x8000000 printk.devkmsg=on";

/// A device with a history on its flash and with pstore. A hog is ended; then nothing may be killed any more,
/// and the device is restarted. After that it is asked why.
fn restarted(last_resort: &str) -> Scenario {
    let script = "export PATH=/bin
        busybox mount -t pstore pstore /sys/fs/pstore; busybox mkdir -p /flash
        ask() { lowtide log --boot -1 | busybox sed \"s/^/$1: /\"; }
        if busybox ls /sys/fs/pstore/dmesg-*; then
            busybox mount -t ext4 /dev/flash /flash
            lowtide run & until lowtide status > /run/status; do busybox sleep 1; done
            lowtide doctor | busybox grep 'reasons outlive'
            ask both
            busybox umount /sys/fs/pstore; ask flash
            busybox ls -l /flash
            exit 0
        fi
        busybox mke2fs /dev/flash > /dev/null; busybox mount -t ext4 /dev/flash /flash
        lowtide run & until lowtide status > /run/status; do busybox sleep 1; done
        lowtide-guest exec apps/media lowtide-guest hog --rate 20M &
        until busybox grep -q 'critical relieved' /flash/history; do busybox sleep 1; done
        busybox sync; busybox cp /etc/hopeless.toml /etc/lowtide/config.toml
        busybox kill -HUP $(busybox pidof lowtide)
        until lowtide log | busybox grep -q reloaded; do busybox sleep 1; done
        lowtide-guest exec apps/media lowtide-guest hog --rate 20M --cap 150M &
        busybox sleep 500; exit 1";
    let history = "[history]\nfile = \"/flash/history\"\nsize = \"4K\"\n";
    let hopeless = format!(
        "[level.critical]\n\
         confirm = {{ available_below = \"50%\" }}\n\
         relief = {{ available_above = \"60%\" }}\n\
         actions = [\"kill\", \"{last_resort}\"]\n\
         [limits]\nreboot_after = \"2s\"\n\
         [everything_else]\nkill = \"never\"\n"
    );
    let cgroup = |path: &str| Cgroup {
        path: path.into(),
        ..Cgroup::default()
    };
    Scenario {
        files: [
            (CONFIG.into(), format!("{history}{DEVICE}")),
            ("/etc/hopeless.toml".into(), format!("{hopeless}{history}")),
        ]
        .into(),
        cgroups: vec![cgroup(HOG_CGROUP)],
        services: vec![script_service("device", None, script)],
        modules: [(
            "ramoops".into(),
            "mem_address=0x8000000 mem_size=0x100000 record_size=0x20000 max_reason=4".into(),
        )]
        .into(),
        disk_mb: 16,
        boots_again: true,
        until: Some("device".into()),
        // By the host's clock: there is no counted disk that outlives a restart.
        limit_s: 600,
        ..Scenario::default()
    }
}

/// Both boots, what flash kept of the first, and the reason for its end, which pstore alone has.
fn remembered(run: &Run, reason: &str) -> Result<()> {
    let boots = run
        .events
        .iter()
        .filter(|e| matches!(e.what, What::Booted { .. }))
        .count();
    ensure!(boots == 2, "{boots} boots");
    let code = run.exited("device").and_then(|(_, code, _)| code);
    ensure!(code == Some(0), "the device's script ends with {code:?}");
    let has = |from: &str, part: &str| {
        let mut lines = run.lines("device").map(|(_, line)| line);
        lines.any(|line| line.trim_start().starts_with(from) && line.contains(part))
    };
    for (from, part, wanted) in [
        ("reasons outlive a restart (pstore)", "yes", true),
        ("both: ", "/apps/media (group media", true),
        ("flash: ", "/apps/media (group media", true),
        ("both: ", reason, true),
        ("flash: ", reason, false),
    ] {
        ensure!(has(from, part) == wanted, "{from}{part}: not {wanted}");
    }
    Ok(())
}

/// cgroups whose events must not change when the device is only looked at.
/// The device at rest, and what `doctor` says of it.
fn doctor() -> Scenario {
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
fn diagnosis(run: &Run) -> Result<(String, BTreeMap<String, bool>)> {
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
fn explain() -> Scenario {
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

/// It names what would go and what would not, and it has touched nothing.
fn explained(run: &Run) -> Result<()> {
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
    let (_, json) = run.lines("json").next().context("no JSON")?;
    let json: serde_json::Value = serde_json::from_str(json)?;
    let first = json["cgroups"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["kill"]["order"] == 1);
    let first = first.context("nothing is first in JSON")?;
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

/// A script in a cgroup of its own, from the start or once the other service is ready.
fn script_service(name: &str, after: Option<&str>, script: &str) -> Service {
    Service {
        name: name.into(),
        command: ["/bin/busybox", "sh", "-c", script]
            .map(String::from)
            .to_vec(),
        cgroup: "shell".into(),
        after: after.map(String::from),
        ..Service::default()
    }
}
