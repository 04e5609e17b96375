//! Where the kernel is faster than the agent: the reflex, and behind it the kernel's own OOM killer, have
//! to choose as the config says.

use super::faults::strace;
use super::{Case, PLAIN};
use crate::scenario::checks::{
    ends, kernel_kills, live, never_says, no_kernel_kill, only_the_hog_goes, says,
};
use crate::scenario::scripts::{TEST, passed, scripted, without_cache};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::{in_one_cgroup, with_more_config};
use crate::scenario::{CONFIG, DEVICE, GATEWAY, HOG, HOG_CGROUP, LIFELINE, SENSOR, fast_hog, load};
use crate::test::loads::KERNEL_MB;
use crate::vm::{GUEST, Run};
use anyhow::{Result, ensure};
use lowtide_guest::{CGROUP_ROOT, Scenario, Service};

/// The cases of this topic.
pub const CASES: &[Case] = &[
    Case {
        name: "the_kernel_kills_the_configured_victim",
        scenario: || kernel_oom(&["agent"]),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_by_itself_kills_the_largest",
        scenario: || kernel_oom(&[]),
        check: passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_kills_the_configured_process",
        append: "cgroup_disable=memory",
        scenario: processes,
        check: |run| {
            passed(run)?;
            let mut lines = run.lines(TEST);
            let said = "group media and 0 others: protect, protect_low, throttle and trigger need";
            ensure!(
                lines.any(|(_, line)| line.contains(said)),
                "no word about protect"
            );
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "where_the_agent_is_stopped_the_reflex_takes_the_victim",
        scenario: stopped,
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "without_a_reflex_the_kernel_kills_where_the_agent_is_stopped",
        scenario: || without_answer(OFF, STOP, &["hog", "--rate", "200M"]),
        check: |run| {
            never_says(run, "the reflex")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_reflex_ends_a_fork_storm",
        scenario: || without_answer(ON, STOP, &["forkstorm", "--rate", "50", "--size", "8M"]),
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "while_the_agent_answers_the_reflex_does_nothing",
        scenario: || Scenario {
            counted: true,
            ..with_hog(ON, &["hog", "--rate", "200M"])
        },
        check: |run| {
            never_says(run, "the reflex killed")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_reflex_that_survives_takes_the_victim_of_a_dead_agent",
        scenario: || without_answer(SURVIVES, KILL, &["hog", "--rate", "200M"]),
        check: |run| {
            tells(run, "the reflex killed /apps/media (group media, ")?;
            tells(run, "generation: 1")?;
            let gaps = run.lines(STOPPER).filter(|(_, line)| *line == "a gap");
            ensure!(gaps.count() == 0, "for a moment nothing was pinned");
            tells(run, "pins after the end: 0")?;
            live(run, &[SENSOR, GATEWAY, LIFELINE])?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "an_agent_that_dies_while_it_takes_over_leaves_a_reflex",
        scenario: || without_answer(SURVIVES, CRASH, &["hog", "--rate", "200M"]),
        files: strace,
        check: |run| {
            tells(run, "crashed: 137, generations: 0 1")?;
            tells(run, "the reflex killed /apps/media (group media, ")?;
            tells(run, "generation: 2")?;
            tells(run, "pins after the end: 0")?;
            live(run, &[SENSOR, GATEWAY, LIFELINE])?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "with_patience_direct_reclaim_is_what_the_reflex_comes_before",
        scenario: || without_answer(&patience("1s"), STOP, &["hog", "--rate", "200M"]),
        check: |run| {
            says(run, " in direct reclaim, available ")?;
            reflex_takes_media(run)
        },
        ..PLAIN
    },
    Case {
        name: "without_patience_the_reflex_comes_before_direct_reclaim",
        scenario: || without_answer(&patience("0s"), STOP, &["hog", "--rate", "200M"]),
        check: |run| {
            says(run, " as the agent did not answer, available ")?;
            never_says(run, " in direct reclaim, available ")?;
            reflex_takes_media(run)
        },
        ..PLAIN
    },
    Case {
        name: "what_a_reload_changed_the_reflex_knows",
        scenario: reloaded,
        check: |run| {
            gone(run, &["two"])?;
            says(run, "the reflex killed /apps/two (group two, ")?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "for_what_grows_in_no_cgroup_the_next_in_order_goes",
        scenario: in_no_cgroup,
        check: |run| {
            gone(run, &["one"])?;
            says(run, "the reflex killed /apps/one (group one, ")?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "on_two_processors_what_comes_back_goes_each_time",
        every_run: false,
        scenario: || Scenario {
            processors: 2,
            ..comes_back(20)
        },
        check: |run| comes_back_and_goes(run, 15),
        ..PLAIN
    },
    Case {
        name: "a_reflex_that_is_disarmed_by_hand_kills_nobody",
        scenario: || without_answer("", DISARM, &["hog", "--rate", "200M"]),
        check: |run| {
            tells(run, "the reflex is disarmed")?;
            never_says(run, "the reflex killed")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_pinned_reflex_that_is_disarmed_by_hand_kills_nobody",
        scenario: || without_answer(SURVIVES, DISARM_PINNED, &["hog", "--rate", "200M"]),
        check: |run| {
            tells(run, "the reflex is disarmed")?;
            tells(run, "pins left: 0")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "what_came_back_in_the_place_of_the_victim_goes_again",
        scenario: || comes_back(5),
        check: |run| comes_back_and_goes(run, 2),
        ..PLAIN
    },
    Case {
        name: "a_process_without_its_first_thread_is_found_by_the_others",
        scenario: || {
            let hog = ["as", "--leader-ends", "hog", "--rate", "200M"];
            without_answer("", STOP, &hog)
        },
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "an_agent_that_never_gets_the_cpu_is_stood_in_for",
        memory_mb: 64 + KERNEL_MB,
        scenario: || starved(""),
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "without_a_reflex_an_agent_that_never_gets_the_cpu_is_too_late",
        memory_mb: 64 + KERNEL_MB,
        scenario: || starved(OFF),
        check: kernel_kills,
        ..PLAIN
    },
    Case {
        name: "in_a_dry_run_there_is_no_reflex",
        scenario: || {
            let mut scenario = without_answer(ON, STOP, &["hog", "--rate", "200M"]);
            for service in &mut scenario.services {
                if service.name == "lowtide"
                    && let Some(command) = service.command.last_mut()
                {
                    command.push_str(" --dry-run");
                }
            }
            scenario
        },
        check: |run| {
            never_says(run, "the reflex")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "on_two_processors_the_reflex_takes_the_victim",
        scenario: || storm_on(2),
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "on_four_processors_the_reflex_takes_the_victim",
        scenario: || storm_on(4),
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "the_reflex_takes_the_victim_on_64_mb",
        memory_mb: 64 + KERNEL_MB,
        scenario: small,
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "the_reflex_takes_the_victim_on_128_mb",
        memory_mb: 128 + KERNEL_MB,
        scenario: small,
        check: reflex_takes_media,
        ..PLAIN
    },
    Case {
        name: "the_next_in_order_go_for_one_that_never_does",
        scenario: || for_one_that_never_goes(10),
        check: |run| {
            gone(run, &["media", "known"])?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "where_the_reflex_does_not_know_the_largest_nothing_goes_for_it",
        scenario: newcomer,
        check: |run| {
            never_says(run, "no reflex")?;
            never_says(run, "the reflex killed")?;
            live(run, &[SENSOR, LIFELINE])?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "with_its_budget_used_up_the_reflex_stands_down",
        scenario: || for_one_that_never_goes(1),
        check: |run| {
            says(run, "had used up its budget of 1 kills in 10 s")?;
            kernel_kills(run)
        },
        ..PLAIN
    },
    Case {
        name: "of_equals_the_largest_goes_but_not_one_with_a_score_of_never",
        scenario: as_upstream,
        check: |run| {
            gone(run, &["thirty"])?;
            no_kernel_kill(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_reflex_that_does_not_survive_ends_with_the_agent",
        scenario: || without_answer("", KILL, &["hog", "--rate", "200M"]),
        check: kernel_kills,
        ..PLAIN
    },
];

const OFF: &str = "[reflex]\nkill = \"off\"\n";
const ON: &str = "[reflex]\nkill = \"on\"\n";
const SURVIVES: &str = "[reflex]\nsurvive = true\n";

/// The service that sees to it that the agent does not answer.
const STOPPER: &str = "stopper";
/// The agent goes on after a while.
const STOP: &str = "kill -STOP $(pidof lowtide); echo stopped; sleep 5; \
    kill -CONT $(pidof lowtide); sleep 1";
/// Another agent comes after a while, and is stopped in order. That a link is pinned is looked at all the
/// time in between.
const KILL: &str = "kill -KILL $(pidof lowtide); echo killed; sleep 5; \
    cd /sys/fs/bpf/lowtide; \
    while [ ! -e /run/seen ]; do [ -e 0/link1 ] || [ -e 1/link1 ] || echo a gap; sleep 0.01; done & \
    lowtide run --config /etc/lowtide/config.toml & agent=$!; sleep 3; touch /run/seen; \
    echo generation: $(ls /sys/fs/bpf/lowtide); kill $agent; wait $agent; \
    echo pins after the end: $(ls /sys/fs/bpf/lowtide 2>/dev/null | wc -l)";
/// Another agent comes, and dies when it has armed its own reflex and takes the first pin of the old one away.
/// After a while a third one comes, and is stopped in order.
const CRASH: &str = "kill -KILL $(pidof lowtide); \
    strace -f -qqq -o /dev/null -P /sys/fs/bpf/lowtide/0/link0 -e inject=unlink:signal=KILL:when=1 \
    lowtide run --config /etc/lowtide/config.toml >/dev/null 2>&1; \
    echo crashed: $?, generations: $(ls /sys/fs/bpf/lowtide); sleep 5; \
    lowtide run --config /etc/lowtide/config.toml & agent=$!; sleep 3; \
    echo generation: $(ls /sys/fs/bpf/lowtide); kill $agent; wait $agent; \
    echo pins after the end: $(ls /sys/fs/bpf/lowtide 2>/dev/null | wc -l)";
/// The first line of it is the command's.
const DISARM: &str = "kill -STOP $(pidof lowtide); lowtide reflex off; sleep 5; \
    kill -CONT $(pidof lowtide); sleep 1";
const DISARM_PINNED: &str = "kill -KILL $(pidof lowtide); lowtide reflex off; \
    echo pins left: $(ls /sys/fs/bpf/lowtide 2>/dev/null | wc -l); sleep 5";

/// The device with a load that grows without end in place of the hog.
fn with_hog(config: &str, arguments: &[&str]) -> Scenario {
    let mut scenario = with_more_config(fast_hog(), config);
    for service in &mut scenario.services {
        if service.name == HOG {
            service.command = load(HOG, HOG_CGROUP, arguments).command;
        }
    }
    scenario
}

/// The same, and a script has the agent not answer before the load begins.
fn without_answer(config: &str, script: &str, arguments: &[&str]) -> Scenario {
    let mut scenario = with_hog(config, arguments);
    for service in &mut scenario.services {
        if service.name == HOG {
            service.after = Some(STOPPER.into());
        }
        if service.name == "lowtide" {
            let run = format!(
                "mount -t bpf none /sys/fs/bpf; exec {}",
                service.command.join(" ")
            );
            service.command = ["/bin/sh", "-c", &run].map(String::from).to_vec();
        }
    }
    scenario.services.push(stopper(script));
    Scenario {
        until: Some(STOPPER.into()),
        counted: true,
        ..scenario
    }
}

/// The agent is stopped before the hog comes.
pub fn stopped() -> Scenario {
    without_answer("", STOP, &["hog", "--rate", "200M"])
}

/// Its script begins when the agent is armed: not before that it answers.
fn stopper(script: &str) -> Service {
    let script = format!("until lowtide status >/dev/null 2>&1; do sleep 0.1; done; {script}");
    Service {
        name: STOPPER.into(),
        command: ["/bin/sh", "-c", &script].map(String::from).to_vec(),
        cgroup: "shell".into(),
        after: Some("lowtide".into()),
        start_ms: 1000,
        ..Service::default()
    }
}

/// Beside the stopper exactly these services ended, in this order, each by SIGKILL.
fn gone(run: &Run, wanted: &[&str]) -> Result<()> {
    let ended: Vec<_> = ends(run).filter(|(_, name, _)| *name != STOPPER).collect();
    let killed = ended.iter().all(|(_, _, signal)| *signal == Some(9));
    let names: Vec<_> = ended.into_iter().map(|(_, name, _)| name).collect();
    ensure!(
        killed && names == wanted,
        "ended: {names:?}, not {wanted:?} by SIGKILL"
    );
    Ok(())
}

/// The script of the stopper says so.
fn tells(run: &Run, words: &str) -> Result<()> {
    let mut lines = run.lines(STOPPER);
    ensure!(
        lines.any(|(_, line)| line.contains(words)),
        "{STOPPER} does not say {words:?}"
    );
    Ok(())
}

pub fn reflex_takes_media(run: &Run) -> Result<()> {
    says(run, "the reflex killed /apps/media (group media, ")?;
    only_the_hog_goes(run)
}

/// As fast as it multiplies, on so many processors.
fn storm_on(processors: u32) -> Scenario {
    Scenario {
        processors,
        ..without_answer("", STOP, &["forkstorm", "--rate", "50", "--size", "8M"])
    }
}

/// What grows fast is all that there is besides what a small device needs.
fn small() -> Scenario {
    let mut scenario = without_answer("", STOP, &["hog", "--rate", "200M"]);
    without_cache(&mut scenario);
    for service in &mut scenario.services {
        if service.name == SENSOR {
            service.command = load(SENSOR, "", &["sleeper", "--size", "6M"]).command;
        }
    }
    scenario
}

/// The hog is eight processes that the agent, though in real time itself, never gets the processor from:
/// seven that grow, and one that turns in a circle while they wait for memory.
fn starved(config: &str) -> Scenario {
    let mut scenario = with_hog(config, &[]);
    without_cache(&mut scenario);
    let grows = format!("{GUEST} as --realtime 50 hog --rate 200M");
    let turns = format!("{GUEST} as --realtime 40 hog --cap 4K --hot");
    let all = format!("for i in 1 2 3 4 5 6 7; do {grows} & done; exec {turns}");
    let starter = [
        "as",
        "--realtime",
        "60",
        "exec",
        HOG_CGROUP,
        "/bin/sh",
        "-c",
        &all,
    ];
    for service in &mut scenario.services {
        match service.name.as_str() {
            HOG => service.command = load(HOG, HOG_CGROUP, &starter).command,
            SENSOR => service.command = load(SENSOR, "", &["sleeper", "--size", "6M"]).command,
            _ => {}
        }
    }
    Scenario {
        counted: true,
        linger_ms: 2000,
        ..scenario
    }
}

/// The agent is stopped, and then one that is never killed takes so much that two others have to go:
/// media, and one that no group covers. Another one that none covers is in a cgroup that was made after
/// the agent was stopped.
fn for_one_that_never_goes(budget: u32) -> Scenario {
    let mut scenario = Tree::new()
        .holds("sensor", Kill::At(100), "20M")
        .holds("media", Kill::At(800), "30M")
        .runs(
            "grower",
            Kill::Never,
            &["hog", "--rate", "50M", "--cap", "112M"],
        )
        .last(|service| (service.after, service.start_ms) = (Some("late".into()), 500))
        .config(&format!("[reflex]\nkill = \"on\"\nbudget = {budget}\n"))
        .scenario();
    scenario.services.extend([
        Service {
            after: Some("lowtide".into()),
            ..load("known", "apps/known", &["sleeper", "--size", "30M"])
        },
        late("sleeper --size 15M"),
        stopper(STOP),
    ]);
    Scenario {
        until: Some(STOPPER.into()),
        ..scenario
    }
}

/// The agent is stopped for so many seconds, and what grows is started again in its cgroup as often as it
/// ends, so that it has grown anew while the kill before is still fresh.
fn comes_back(seconds: u32) -> Scenario {
    let mut scenario = Tree::new()
        .holds(SENSOR, Kill::At(100), "20M")
        .holds("spare", Kill::At(300), "20M")
        .runs(HOG, Kill::At(800), &["hog", "--rate", "200M"])
        .last(|service| {
            service.after = Some(STOPPER.into());
            (service.start_ms, service.restart_ms) = (500, 300);
        })
        .config("[reflex]\nbudget = 100\n")
        .scenario();
    let stop = STOP.replace("sleep 5", &format!("sleep {seconds}"));
    scenario.services.push(stopper(&stop));
    Scenario {
        until: Some(STOPPER.into()),
        ..scenario
    }
}

/// What came back went again, at least so many times, and nothing else did.
fn comes_back_and_goes(run: &Run, times: usize) -> Result<()> {
    let mut others = ends(run).filter(|(_, name, _)| ![HOG, STOPPER].contains(name));
    ensure!(others.next().is_none(), "others ended than {HOG}");
    let lines = run.lines("lowtide");
    let told = lines.filter(|(_, line)| line.contains("the reflex killed /apps/media ("));
    let told = told.count();
    ensure!(told >= times, "{told} kills are told, not {times}");
    no_kernel_kill(run)
}

fn patience(time: &str) -> String {
    format!("{ON}patience = \"{time}\"\n")
}

/// Two that hold as much, of which the end of one is enough for what grows after the agent was stopped.
fn pair(grower: Service, script: &str) -> Scenario {
    let mut scenario = Tree::new()
        .holds("one", Kill::At(800), "50M")
        .holds("two", Kill::At(300), "50M")
        .config(ON)
        .scenario();
    scenario.services.extend([
        Service {
            after: Some(STOPPER.into()),
            start_ms: 500,
            ..grower
        },
        stopper(script),
    ]);
    Scenario {
        until: Some(STOPPER.into()),
        ..scenario
    }
}

const GROWS: &[&str] = &["hog", "--rate", "50M", "--cap", "95M"];

/// Before the agent is stopped a reload turns the order around. What grows is in the lifeline.
fn reloaded() -> Scenario {
    let script = format!(
        "sed -i 's/kill = 800/kill = 1/; s/kill = 300/kill = 900/' {CONFIG}; \
         kill -HUP $(pidof lowtide); sleep 2; {STOP}"
    );
    pair(load("grower", "lifeline/heartbeat", GROWS), &script)
}

/// What grows is in the root.
fn in_no_cgroup() -> Scenario {
    pair(load("grower", "", GROWS), STOP)
}

/// A load in a cgroup that is made after the agent was stopped.
fn late(arguments: &str) -> Service {
    let run = format!(
        "mkdir -p {CGROUP_ROOT}/late; echo $$ > {CGROUP_ROOT}/late/cgroup.procs; \
         exec {GUEST} {arguments}"
    );
    Service {
        name: "late".into(),
        command: ["/bin/sh", "-c", &run].map(String::from).to_vec(),
        cgroup: "shell".into(),
        after: Some(STOPPER.into()),
        ..Service::default()
    }
}

/// What grows is in a cgroup that was made after the agent was stopped.
fn newcomer() -> Scenario {
    let mut scenario = Tree::new().holds(SENSOR, Kill::At(100), "20M").scenario();
    scenario.services.extend([
        Service {
            start_ms: 500,
            ..late("hog --rate 50M")
        },
        stopper(STOP),
    ]);
    Scenario {
        until: Some(STOPPER.into()),
        ..scenario
    }
}

/// The tree of the kernel's own test of BPF OOM handlers (tools/testing/selftests/bpf, test_oom), without
/// groups: two parents, below one of them 10 MB with the highest score and 40 MB with the lowest, below
/// the other 30 and 20 MB.
fn as_upstream() -> Scenario {
    let mut scenario = Tree::new()
        .runs(
            "grower",
            Kill::Never,
            &["hog", "--rate", "50M", "--cap", "75M"],
        )
        .last(|service| (service.after, service.start_ms) = (Some(STOPPER.into()), 500))
        .config(ON)
        .scenario();
    for service in &mut scenario.services {
        if service.name == "lowtide" {
            service.after = Some("twenty".into());
            service.start_ms = 1000;
        }
    }
    let leaf = |name: &str, cgroup: &str, size: &str, score: &str| {
        let run =
            format!("echo {score} > /proc/self/oom_score_adj; exec {GUEST} sleeper --size {size}");
        Service {
            command: ["/bin/sh", "-c", &run].map(String::from).to_vec(),
            ..load(name, cgroup, &[])
        }
    };
    scenario.services.extend([
        leaf("ten", "one/ten", "10M", "1000"),
        leaf("forty", "one/forty", "40M", "-1000"),
        leaf("thirty", "two/thirty", "30M", "0"),
        leaf("twenty", "two/twenty", "20M", "0"),
        stopper(STOP),
    ]);
    Scenario {
        until: Some(STOPPER.into()),
        ..scenario
    }
}

/// What is ranked first is many small processes; what grows when the script says so is the sensor.
fn kernel_oom(arguments: &[&str]) -> Scenario {
    let mut scenario = scripted("oom", arguments);
    scenario
        .files
        .entry(CONFIG.into())
        .or_default()
        .insert_str(0, OFF);
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
fn processes() -> Scenario {
    let mut scenario = scripted("processes", &[]);
    without_cache(&mut scenario);
    let media = "name    = \"media\"\n";
    let protected = DEVICE.replace(media, &format!("{media}protect = \"1M\"\n"));
    scenario.files.insert(CONFIG.into(), protected);
    scenario.counted = true;
    in_one_cgroup(scenario)
}
