//! Situations in which the wrong one could go: each with the kfunc and with the cgroupfs engine, and, as a
//! control, without an agent.

use super::{Case, PLAIN};
use crate::scenario::checks::{
    ends, goes_alone, kernel_kills, live, no_kernel_kill, oom_kills, says, victims,
};
use crate::scenario::tree::{Kill, Tree};
use crate::scenario::variants::{with_more_config, without_agent};
use crate::scenario::{CONFIG, LIFELINE, load};
use crate::test::loads::{KERNEL_MB, mem_total_kb};
use crate::vm::{AGENT, GUEST, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Cgroup, Report, Scenario, Service, What, Zram};

/// A service that explains what would be done, once.
const EXPLAIN: &str = "explain";

/// Three cases of each situation: its name, the RAM of the guest in MiB, its scenario, what must be true with
/// the agent, and without.
macro_rules! situations {
    ($($name:literal, $memory_mb:expr, $scenario:expr, $check:expr, $control:expr;)*) => {
        &[$(
            Case {
                name: concat!($name, "_kfunc"),
                memory_mb: $memory_mb,
                scenario: $scenario,
                check: |run| {
                    says(run, "kfunc engine")?;
                    $check(run)
                },
                ..PLAIN
            },
            Case {
                name: concat!($name, "_cgroupfs"),
                memory_mb: $memory_mb,
                scenario: || with_more_config($scenario(), "[engine]\nkind = \"cgroupfs\"\n"),
                check: |run| {
                    says(run, "cgroupfs engine")?;
                    $check(run)
                },
                ..PLAIN
            },
            Case {
                name: concat!($name, "_control"),
                memory_mb: $memory_mb,
                scenario: || without_agent($scenario()),
                check: $control,
                ..PLAIN
            },
        )*]
    };
}

/// The cases of this topic.
pub const CASES: &[Case] = situations! {
    "workers_go_before_what_is_worth_more", 128 + KERNEL_MB, workers, workers_go, kernel_kills;
    "each_container_pays_for_itself", 128 + KERNEL_MB, containers, containers_go, kernel_kills;
    "a_storm_of_processes_pays_alone", 64 + KERNEL_MB, storm, storm_goes, kernel_kills;
    "what_comes_back_at_once_pays_alone", 128 + KERNEL_MB, crash_loop, crash_loop_goes, kernel_kills;
    "what_may_not_be_touched_is_named", 128 + KERNEL_MB, never_hog, never_hog_is_named, kernel_kills;
    "a_grace_does_not_outlive_what_swap_absorbs", 128 + KERNEL_MB, deaf_leak, media_goes, kernel_kills;
    "locked_memory_is_not_waited_for", 128 + KERNEL_MB, locked, media_goes, kernel_kills;
    "what_may_not_go_to_swap_is_not_waited_for", 128 + KERNEL_MB, swapless, media_goes, kernel_kills;
    "a_writer_of_files_in_a_tmpfs_that_rests_stays", 96 + KERNEL_MB, resting_writer, media_goes, kernel_kills;
    "a_cache_that_is_read_back_at_once_is_left_alone", 128 + KERNEL_MB, read_back, cache_is_left_alone, stays_short;
    "after_an_oom_kill_before_its_start_the_agent_is_in_time_again", 96, late_agent, late_agent_copes,
        kernel_kills_again;
};

/// With half of the RAM as zram.
fn with_zram(mut scenario: Scenario) -> Scenario {
    scenario.zram = Some(Zram {
        size_mb: 64,
        algorithm: None,
    });
    scenario
}

/// Runs a load that starts others in cgroups below one, which are of the group `media`.
fn starter(tree: Tree, cgroups: &str, load: &[&str]) -> Tree {
    tree.runs("starter", Kill::Never, load)
        .last(|service| service.start_ms = 1000)
        .group("media", Kill::At(800), cgroups, "")
}

/// It was the load alone that paid, within the cgroup of each.
fn only_started(run: &Run, least: usize) -> Result<()> {
    no_kernel_kill(run)?;
    ensure!(
        ends(run).count() == 0,
        "a service ended: {:?}",
        ends(run).next()
    );
    goes_alone(run, "starter", least)
}

fn media_goes(run: &Run) -> Result<()> {
    no_kernel_kill(run)?;
    victims(run, &["media"])
}

/// Forty workers of 3 MB, 60 MB a second, beside a sensor that would free more than any of them.
fn workers() -> Scenario {
    let workers = ["workers", "--count", "40", "--every-ms", "50"];
    let worker = ["--cgroup", "apps/media/w{}", "sleeper", "--size", "3M"];
    let tree = Tree::new().holds("sensor", Kill::At(100), "8M");
    Scenario {
        limit_s: 9,
        ..starter(tree, "apps/media/**", &[&workers[..], &worker].concat()).scenario()
    }
}

fn workers_go(run: &Run) -> Result<()> {
    only_started(run, 4)
}

/// Four containers that no group covers, one after the other, each a hog; none is started again.
fn containers() -> Scenario {
    let engine = ["supervise", "--delay-ms", "1000", "--count", "4"];
    let container = ["--cgroup", "docker/c{}", "hog", "--rate", "40M"];
    let tree = Tree::new()
        .holds("sensor", Kill::At(100), "8M")
        .runs("starter", Kill::Never, &[&engine[..], &container].concat())
        .last(|service| service.start_ms = 1000);
    Scenario {
        limit_s: 16,
        ..tree.scenario()
    }
}

fn containers_go(run: &Run) -> Result<()> {
    only_started(run, 4)
}

/// A service that starts eight processes of 1 MB a second and is itself started again, beside one of 12 MB.
fn storm() -> Scenario {
    let storm = ["forkstorm", "--rate", "8", "--size", "1M"];
    let tree = Tree::new()
        .holds("openvpn", Kill::At(100), "12M")
        .runs("adhoc", Kill::At(600), &storm)
        // What starts them is one of them, and comes back.
        .last(|service| (service.start_ms, service.restart_ms) = (1000, 200))
        .config("[everything_else]\nunit = \"process\"\n");
    Scenario {
        limit_s: 14,
        ..tree.scenario()
    }
}

fn storm_goes(run: &Run) -> Result<()> {
    no_kernel_kill(run)?;
    live(run, &["openvpn", LIFELINE, "lowtide"])?;
    let kills = |(_, line): &(u64, &str)| line.contains(" of /apps/adhoc");
    let kills = run.lines("lowtide").filter(kills).count();
    ensure!(kills > 4, "only {kills} of the storm went");
    Ok(())
}

/// A leak of a quarter of the RAM a second that is started again half a second after each end, in a cgroup of
/// a new name.
fn crash_loop() -> Scenario {
    let app = ["supervise", "--delay-ms", "500"];
    let leak = [
        "--cgroup",
        "apps/media/app-{}.scope",
        "hog",
        "--rate",
        "32M",
    ];
    let tree = Tree::new()
        .holds("spare", Kill::At(300), "8M")
        .holds("sensor", Kill::At(100), "8M");
    Scenario {
        limit_s: 16,
        ..starter(tree, "apps/media/**", &[&app[..], &leak].concat()).scenario()
    }
}

fn crash_loop_goes(run: &Run) -> Result<()> {
    only_started(run, 4)?;
    says(
        run,
        " loops: it, or another of its name, was made anew 3 times",
    )
}

/// What grows may not be touched. While there is enough, somebody asks what would be done.
fn never_hog() -> Scenario {
    let explain = [AGENT, "explain", "--config", CONFIG].map(String::from);
    let tree = Tree::new()
        .holds("spare", Kill::At(300), "8M")
        .holds("sensor", Kill::At(100), "8M")
        .runs("media", Kill::Never, &["hog", "--rate", "10M"])
        .last(|service| service.start_ms = 1000);
    let mut scenario = tree.scenario();
    scenario.services.push(Service {
        name: EXPLAIN.into(),
        command: explain.to_vec(),
        cgroup: "explain".into(),
        after: Some("lowtide".into()),
        start_ms: 2500,
        ..Service::default()
    });
    Scenario {
        until: Some("media".into()),
        ..scenario
    }
}

/// In the order of their numbers all others go, each time with the name of what holds the memory, before the
/// kernel takes that.
fn never_hog_is_named(run: &Run) -> Result<()> {
    let by_kernel = run.oom_lines().next().map_or(u64::MAX, |(t, _)| t);
    let ended: Vec<_> = ends(run).take_while(|(t, ..)| *t < by_kernel).collect();
    let services = ended.iter().map(|(_, service, _)| *service);
    let names: Vec<_> = services.filter(|name| *name != EXPLAIN).collect();
    ensure!(names == ["spare", "sensor"], "ended: {ended:?}");
    let warned = "If /apps/media grows, nothing here can stop it";
    ensure!(
        run.lines(EXPLAIN).any(|(_, line)| line.contains(warned)),
        "explain does not say {warned:?}"
    );
    live(run, &[LIFELINE, "lowtide"])?;
    let names_it =
        |(_, line): &(u64, &str)| line.contains("/apps/media is `never` killed and holds");
    let named = run.lines("lowtide").filter(names_it).count();
    ensure!(named >= 2, "it is named {named} times");
    Ok(())
}

/// A leak that ignores SIGTERM where there is swap.
fn deaf_leak() -> Scenario {
    let leak = ["as", "--ignore-term", "hog", "--rate", "32M"];
    with_zram(pressed(&leak, "[everything_else]\ngrace = \"2s\"\n"))
}

/// Memory that is locked, where there is swap.
fn locked() -> Scenario {
    with_zram(pressed(&["as", "--mlock", "hog", "--rate", "32M"], ""))
}

/// The limit of its cgroup keeps what grows from swap.
fn swapless() -> Scenario {
    let mut scenario = with_zram(pressed(&["hog", "--rate", "32M"], ""));
    scenario.cgroups.push(Cgroup {
        path: "apps/media".into(),
        attributes: [("memory.swap.max".into(), "0".into())].into(),
        ..Cgroup::default()
    });
    scenario
}

/// A sensor of 8 MB beside this load.
fn pressed(load: &[&str], config: &str) -> Scenario {
    let mut scenario = Tree::new()
        .holds("sensor", Kill::At(100), "8M")
        .runs("media", Kill::At(800), load)
        .last(|service| service.start_ms = 1000)
        .config(config)
        .scenario();
    scenario.until = Some("media".into());
    scenario
}

/// One that is to go first once wrote 30 MB to a tmpfs, and something else grows.
fn resting_writer() -> Scenario {
    let wrote = [
        "tmpfs",
        "--file",
        "/tmp/left",
        "--rate",
        "100M",
        "--cap",
        "30M",
    ];
    Tree::new()
        .holds("sensor", Kill::At(100), "4M")
        .runs("writer", Kill::At(900), &wrote)
        .grows("media", Kill::At(500), "8M")
        .scenario()
}

/// A twelfth of RAM stays available, between the marks of `strained` and `critical`; a gateway reads the same
/// 8 MB over and over, which are all that can be taken back, and do not make more available. Something that is
/// over its `memory.high` stalls again and again, which wakes the agent.
fn read_back() -> Scenario {
    let holds = format!(
        "while read -r key kb unit; do [ \"$key\" = MemAvailable: ] && break; done < /proc/meminfo; \
         exec {GUEST} hog --rate 20M --cap $((kb - 9400))K"
    );
    let reader = ["refault", "--size", "8M", "--rate", "4M"];
    let mut scenario = Tree::new()
        .runs("gateway", Kill::At(200), &reader)
        .runs("stalls", Kill::Never, &["hog", "--rate", "64K"])
        .runs("media", Kill::Never, &[])
        .last(|service| {
            service.command = ["/bin/sh", "-c", &holds].map(String::from).to_vec();
            service.start_ms = 4000;
        })
        .scenario();
    scenario.cgroups.push(Cgroup {
        path: "apps/stalls".into(),
        attributes: [("memory.high".into(), "512K".into())].into(),
        ..Cgroup::default()
    });
    scenario.disk_mb = 8;
    scenario.limit_s = 26;
    scenario
}

fn cache_is_left_alone(run: &Run) -> Result<()> {
    stays_short(run)?;
    live(run, &["gateway", "media", LIFELINE, "lowtide"])?;
    let takes = |(_, line): &(u64, &str)| {
        line.contains(" of /apps/gateway in ") && !line.contains("reclaimed 0K")
    };
    let taken = run.lines("lowtide").filter(takes).count();
    // More than once only before it could be read again.
    ensure!((1..=2).contains(&taken), "its cache is taken {taken} times");
    Ok(())
}

/// From when the memory is taken to the end, too little is available for `strained` to be relieved, and nothing
/// stalls for it.
fn stays_short(run: &Run) -> Result<()> {
    no_kernel_kill(run)?;
    let full = run
        .reports("media")
        .find_map(|(t, report)| matches!(report, Report::Full).then_some(t));
    let full = full.context("the memory is not taken")?;
    let after = run.samples().filter(|(t, _)| *t > full);
    let available: Vec<_> = after.map(|(_, sample)| sample.available_kb).collect();
    let marks = [4, 14].map(|percent| mem_total_kb(run) * percent / 100);
    ensure!(available.len() > 100, "{} samples", available.len());
    ensure!(
        available.iter().all(|kb| (marks[0]..marks[1]).contains(kb)),
        "{:?} kB available",
        (available.iter().min(), available.iter().max())
    );
    Ok(())
}

/// The kernel's OOM killer had its turn twice before the agent starts. Where another task needs memory while
/// its victim exits, it takes a second one: what must live with the agent starts after that.
fn late_agent() -> Scenario {
    let mut scenario = Tree::new()
        .holds("sensor", Kill::At(100), "2M")
        .grows("media", Kill::At(800), "2M")
        .last(|service| service.start_ms = 1000)
        .scenario();
    for (name, start_ms) in [("first", 0), ("second", 2000)] {
        let hog = load(name, "early", &["hog", "--rate", "200M"]);
        scenario.services.push(Service { start_ms, ..hog });
    }
    for service in &mut scenario.services {
        match &*service.name {
            LIFELINE => service.start_ms = 4000,
            "lowtide" => service.start_ms = 5000,
            _ => {}
        }
    }
    // For such a second one: with nothing to take the kernel panics.
    scenario.services.push(Service {
        restart_ms: 100,
        ..load("bystander", "early", &["heartbeat"])
    });
    scenario
}

fn late_agent_copes(run: &Run) -> Result<()> {
    // What the kernel took before the agent was there is not the agent's doing.
    let starts = run.events.iter().find_map(|e| match &e.what {
        What::Started { service, .. } if service == "lowtide" => Some(e.t),
        _ => None,
    });
    let starts = starts.context("the agent did not start")?;
    let samples = run.samples().take_while(|(t, _)| *t <= starts);
    let before = samples.last().map_or(0, |(_, sample)| sample.oom_kills);
    let kills = oom_kills(run);
    ensure!(before >= 2, "only {before} OOM kills before the agent");
    ensure!(
        kills == before,
        "the kernel counts {kills} OOM kills, {before} of them before the agent"
    );
    live(run, &["sensor", LIFELINE, "lowtide"])?;
    says(run, "kill /apps/media").or_else(|_| says(run, "terminate /apps/media"))
}

/// Twice before the agent would start, and for what grows after that.
fn kernel_kills_again(run: &Run) -> Result<()> {
    ensure!(oom_kills(run) >= 3, "{} OOM kills", oom_kills(run));
    Ok(())
}
