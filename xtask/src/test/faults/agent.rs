//! The agent's own files, its log, its config, and what is done to it.

use super::{Fault, PLAIN, SECOND, beside, faulty, instead, shell};
use crate::scenario::checks::{live, only_the_hog_goes};
use crate::scenario::{CONFIG, GATEWAY, HOG, LIFELINE, SENSOR, fast_hog};
use crate::vm::{AGENT, GUEST};
use anyhow::{Context as _, ensure};
use lowtide_guest::Service;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "run_is_full",
        injected: "/run is full at the start",
        wanted: "said; the configured victim goes, nothing else",
        every_run: true,
        scenario: || {
            shell(
                fast_hog(),
                "mkdir -p /run/lowtide && mount -t tmpfs -o size=4k tmpfs /run/lowtide && \
                 cat /dev/zero > /run/lowtide/full",
            )
        },
        says: &["nothing can be protected or held back"],
        ..PLAIN
    },
    Fault {
        name: "run_is_read_only",
        injected: "/run is read-only from the start",
        wanted: "said; the configured victim goes, nothing else",
        scenario: || faulty(fast_hog(), &["--read-only", "/run"]),
        says: &["nothing can be protected or held back"],
        ..PLAIN
    },
    Fault {
        name: "undo_file_is_noise",
        injected: "the undo file is 64 KiB of noise",
        scenario: || {
            shell(
                fast_hog(),
                "mkdir -p /run/lowtide && head -c 65536 /dev/urandom > /run/lowtide/undo",
            )
        },
        ..PLAIN
    },
    Fault {
        name: "a_second_agent",
        injected: "the undo file is deleted, and a second agent is started",
        wanted: "the second one says that another runs, and ends; the configured victim goes, nothing else",
        every_run: true,
        scenario: || {
            let mut scenario = fast_hog();
            let command = format!("rm /run/lowtide/undo; exec {AGENT} run --config {CONFIG}");
            scenario.services.push(Service {
                name: SECOND.into(),
                command: ["/bin/sh", "-c", &command].map(String::from).to_vec(),
                cgroup: SECOND.into(),
                after: Some("lowtide".into()),
                ..Service::default()
            });
            scenario
        },
        check: |run| {
            let (_, code, _) = run.exited(SECOND).context("both agents run")?;
            ensure!(code == Some(1), "the second agent ends with {code:?}");
            let mut lines = run.lines(SECOND);
            ensure!(
                lines.any(|(_, line)| line.contains("another lowtide runs")),
                "the second agent does not say why"
            );
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Fault {
        name: "the_log_is_closed",
        injected: "stderr is closed, and there is no /dev/kmsg",
        scenario: || {
            let command = format!("echo on; rm /dev/kmsg; exec {AGENT} run --config {CONFIG} 2>&-");
            instead(fast_hog(), &["/bin/sh", "-c", &command])
        },
        ..PLAIN
    },
    Fault {
        name: "the_log_is_full",
        injected: "stderr is a pipe that nothing reads, and full",
        scenario: || {
            let command = format!(
                "echo on; mkfifo /run/log; sleep 1000 < /run/log & \
                 exec 2> /run/log; dd if=/dev/zero bs=65536 count=1 >&2 2> /dev/null; \
                 exec {AGENT} run --config {CONFIG}"
            );
            instead(fast_hog(), &["/bin/sh", "-c", &command])
        },
        ..PLAIN
    },
    Fault {
        name: "a_storm_of_reloads",
        injected: "SIGHUP twenty times a second",
        scenario: || {
            beside(
                fast_hog(),
                "while :; do kill -HUP $(pidof lowtide); usleep 50000; done",
            )
        },
        says: &["reloaded: "],
        ..PLAIN
    },
    Fault {
        name: "a_broken_file_under_pressure",
        injected: "the config is replaced by a broken one and reloaded, again and again",
        wanted: "refused; the running config stays; the configured victim goes, nothing else",
        scenario: || {
            let command = format!(
                "echo 'kill = [' > {CONFIG}; while :; do kill -HUP $(pidof lowtide); usleep 300000; done"
            );
            beside(fast_hog(), &command)
        },
        says: &["reload refused, the running config stays"],
        ..PLAIN
    },
    Fault {
        name: "the_clock_jumps",
        injected: "the time of day jumps by years, back and forth, ten times a second",
        scenario: || {
            beside(
                fast_hog(),
                "while :; do date -s @1000000000; date -s @2000000000; usleep 100000; done > /dev/null",
            )
        },
        ..PLAIN
    },
    Fault {
        name: "stopped_for_a_second",
        injected: "the agent is stopped for a second, every other second",
        wanted: "it goes on where it was",
        scenario: || {
            let mut scenario = fast_hog();
            for service in &mut scenario.services {
                if service.name == HOG {
                    service.command = [GUEST, "hog", "--rate", "8M"].map(String::from).to_vec();
                }
            }
            beside(
                scenario,
                "while :; do kill -STOP $(pidof lowtide); sleep 1; kill -CONT $(pidof lowtide); sleep 1; done",
            )
        },
        check: |run| live(run, &[SENSOR, GATEWAY, LIFELINE, "lowtide"]),
        ..PLAIN
    },
    Fault {
        name: "run_fills_up",
        injected: "/run fills up once the agent runs",
        scenario: || {
            let small = "mkdir -p /run/lowtide && mount -t tmpfs -o size=64k tmpfs /run/lowtide";
            let full = "usleep 500000; cat /dev/zero > /run/lowtide/full; sleep 1000";
            beside(shell(fast_hog(), small), full)
        },
        ..PLAIN
    },
    Fault {
        name: "killed_again_and_again",
        injected: "the agent is killed and started again, 1.5 times a second",
        scenario: || {
            let mut scenario = beside(
                fast_hog(),
                "while :; do usleep 650000; kill -9 $(pidof lowtide); done",
            );
            for service in &mut scenario.services {
                match service.name.as_str() {
                    "lowtide" => service.restart_ms = 50,
                    HOG => {
                        service.command = [GUEST, "hog", "--rate", "10M"].map(String::from).to_vec()
                    }
                    _ => {}
                }
            }
            scenario
        },
        check: |run| {
            let (_, _, signal) = run.exited(HOG).context("the hog was not killed")?;
            ensure!(matches!(signal, Some(9 | 15)), "the hog ended by itself");
            live(run, &[SENSOR, GATEWAY, LIFELINE])
        },
        ..PLAIN
    },
    Fault {
        name: "the_log_daemon_is_stopped",
        injected: "the log goes to a syslogd that is stopped, and its socket is full",
        scenario: || {
            let stopped = "/bin/busybox syslogd -O /tmp/messages; usleep 100000; \
                           kill -STOP $(pidof syslogd); \
                           i=0; while [ $i -lt 300 ]; do logger full & i=$((i+1)); done; usleep 100000";
            shell(fast_hog(), stopped)
        },
        ..PLAIN
    },
];
