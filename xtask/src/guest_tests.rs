//! Tests of the agent on real kernels under real pressure. What counts is what the guest's kernel
//! says: its log, its counters, its cgroup files, and how processes ended.

use crate::check::{Tally, verdict};
use crate::dirs;
use crate::firmware;
use crate::kernel::{self, Kernel};
use crate::loads;
use crate::matrix;
use crate::programs::{self, Profile, Programs};
use crate::qemu;
use crate::scenarios::{self, GATEWAY, HOG, LIFELINE, SENSOR, only_the_hog_goes, oom_kills};
use crate::shell::say;
use crate::target::Arch;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Event, Report, Scenario};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// One guest and what must be true of it afterwards.
struct Case {
    name: &'static str,
    /// Kernel version; the newest 7.x if absent.
    kernel: Option<&'static str>,
    memory_mb: u32,
    /// More for the kernel's command line.
    append: &'static str,
    scenario: fn() -> Scenario,
    /// More files and directories from the host, and where they go.
    files: fn() -> Result<Vec<(PathBuf, String)>>,
    check: fn(&Run) -> Result<()>,
}

/// A device of 256 MB with the newest kernel.
const PLAIN: Case = Case {
    name: "",
    kernel: None,
    memory_mb: 256,
    append: "",
    scenario: scenarios::fast_hog,
    files: || Ok(Vec::new()),
    check: only_the_hog_goes,
};

const CASES: &[Case] = &[
    Case {
        name: "without_the_agent_the_kernel_kills",
        scenario: || scenarios::without_agent(scenarios::fast_hog()),
        check: |run| {
            ensure!(
                run.oom_lines().count() > 0,
                "the kernel's log has no OOM kill"
            );
            ensure!(oom_kills(run) > 0, "the kernel counts no OOM kill");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "cgroups_vanish_during_the_walk",
        // How many there are does not depend on the host.
        scenario: || Scenario {
            counted: true,
            ..scenarios::with_load(scenarios::fast_hog(), "churn", &["churn"])
        },
        check: |run| {
            let made = run.reports("churn").filter_map(|(_, report)| match report {
                Report::Made { cgroups } => Some(cgroups),
                _ => None,
            });
            ensure!(
                made.max().unwrap_or(0) >= 1000,
                "hardly any cgroup came and went"
            );
            says(run, "not /apps/sensor (group sensor, priority 100, ")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "two_thousand_cgroups",
        memory_mb: 512,
        scenario: || {
            scenarios::with_load(scenarios::fast_hog(), "many", &["many", "--count", "2000"])
        },
        check: |run| {
            let made = Report::Made { cgroups: 2000 };
            ensure!(
                run.reports("many").any(|(_, r)| r == made),
                "the cgroups were not made"
            );
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "explain_tells_and_touches_nothing",
        scenario: scenarios::explain,
        check: scenarios::explained,
        ..PLAIN
    },
    Case {
        name: "explain_with_the_cgroupfs_engine",
        kernel: Some("6.12"),
        scenario: scenarios::explain,
        check: scenarios::explained,
        ..PLAIN
    },
    Case {
        name: "a_bad_config_is_refused_with_its_place",
        scenario: || scenarios::with_config("[wake]\ntrigger = \"lots\"\n"),
        check: |run| {
            let (_, code, _) = run.exited("lowtide").context("the agent goes on")?;
            ensure!(code.is_some_and(|c| c != 0), "the agent ends with {code:?}");
            ensure!(
                run.lines("lowtide")
                    .any(|(_, line)| line.contains("config.toml:2")),
                "no line names file and line"
            );
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_while_cgroups_vanish",
        scenario: || {
            let hog = scenarios::with_more_config(scenarios::fast_hog(), CGROUPFS);
            scenarios::with_load(hog, "churn", &["churn"])
        },
        check: |run| {
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_with_two_thousand_cgroups",
        memory_mb: 512,
        scenario: || {
            let hog = scenarios::with_more_config(scenarios::fast_hog(), CGROUPFS);
            scenarios::with_load(hog, "many", &["many", "--count", "2000"])
        },
        check: |run| {
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_procfs_engine_where_all_share_a_cgroup",
        scenario: || scenarios::in_one_cgroup(scenarios::fast_hog()),
        check: |run| {
            says(run, "all share one memory cgroup")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_procfs_engine_without_the_memory_controller",
        append: "cgroup_disable=memory",
        scenario: || scenarios::in_one_cgroup(scenarios::fast_hog()),
        check: |run| {
            says(run, "the kernel has no memory controller")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_procfs_engine_on_a_hybrid_host",
        kernel: Some("6.1"),
        scenario: || scenarios::hybrid(scenarios::fast_hog()),
        check: |run| {
            says(run, "the memory controller is on cgroup v1")?;
            says(run, "procfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "the_cgroupfs_engine_in_a_container",
        scenario: || scenarios::in_a_container(scenarios::fast_hog()),
        check: |run| {
            says(run, "is not the root of the cgroup tree")?;
            says(run, "cgroupfs engine")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "a_device_without_the_memory_to_load_a_program_has_the_cgroupfs_engine",
        memory_mb: 64 + loads::KERNEL_MB,
        scenario: || {
            let mut scenario = scenarios::with_config("");
            let holds = scenarios::load("holds", "loads", &["sleeper", "--size", "12M"]);
            scenario.services[0].after = Some(holds.name.clone());
            scenario.services.push(holds);
            Scenario {
                until: None,
                limit_s: 5,
                counted: true,
                ..scenario
            }
        },
        check: |run| {
            says(
                run,
                "not the kfunc engine: the kernel must have 8M of memory",
            )?;
            says(run, "cgroupfs engine")?;
            ensure!(run.exited("lowtide").is_none(), "the agent ends");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "verifying_takes_little_memory",
        memory_mb: 64 + loads::KERNEL_MB,
        scenario: scenarios::verified,
        check: verified_cheaply,
        ..PLAIN
    },
    Case {
        name: "verifying_takes_little_memory_on_7_0",
        kernel: Some("7.0"),
        memory_mb: 64 + loads::KERNEL_MB,
        scenario: scenarios::verified,
        check: verified_cheaply,
        ..PLAIN
    },
    Case {
        name: "explain_with_the_procfs_engine",
        append: "cgroup_disable=memory",
        scenario: || scenarios::in_one_cgroup(scenarios::explain()),
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
        scenario: scenarios::doctor,
        check: |run| {
            let (engine, has) = scenarios::diagnosis(run)?;
            ensure!(engine == "kfunc", "the {engine} engine");
            let lacks: Vec<_> = has.iter().filter(|(_, has)| !**has).collect();
            ensure!(
                lacks
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .eq(["locked pages stay", "swap on zram"]),
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
            let mut scenario = scenarios::doctor();
            let stay = ("vm/compact_unevictable_allowed", "0");
            scenario.sysctls.insert(stay.0.into(), stay.1.into());
            scenario
        },
        check: |run| {
            let (engine, has) = scenarios::diagnosis(run)?;
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
        scenario: || scenarios::in_one_cgroup(scenarios::doctor()),
        check: |run| {
            let (engine, has) = scenarios::diagnosis(run)?;
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
        name: "without_psi_memory_is_looked_at_by_time",
        append: "psi=0",
        scenario: scenarios::fast_hog,
        check: |run| {
            says(run, "boot it with psi=1")?;
            only_the_hog_goes(run)
        },
        ..PLAIN
    },
    Case {
        name: "pressure_inside_a_limit_is_solved_inside",
        scenario: || scenarios::boxed(OWN_TRIGGER),
        check: |run| {
            says(run, "in /box: critical")?;
            scenarios::solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "pressure_inside_a_limit_is_solved_inside_on_6_12",
        kernel: Some("6.12"),
        scenario: || scenarios::boxed(OWN_TRIGGER),
        check: |run| {
            says(run, "cgroupfs engine")?;
            scenarios::solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "who_thrashes_in_a_limit_is_told_from_a_system_that_is_short",
        scenario: || scenarios::thrashing_box(", limited_below = \"50%\""),
        check: |run| {
            says(run, "in /box: critical")?;
            scenarios::solved_inside(run)
        },
        ..PLAIN
    },
    Case {
        name: "stalls_alone_do_not_tell_a_limit_from_the_system",
        scenario: || scenarios::thrashing_box(""),
        check: scenarios::taken_for_the_system,
        ..PLAIN
    },
    Case {
        name: "where_nobody_may_go_inside_a_limit_the_kernel_decides_in_the_end",
        scenario: || scenarios::hopeless_box(OWN_TRIGGER),
        check: |run| {
            says(run, "its limit is the kernel's to keep")?;
            ensure!(oom_kills(run) > 0, "the kernel kills nobody");
            ensure!(run.exited(SENSOR).is_none(), "who is outside goes");
            Ok(())
        },
        ..PLAIN
    },
    Case {
        name: "without_a_trigger_inside_a_limit_the_kernel_kills",
        scenario: || scenarios::boxed(""),
        check: scenarios::left_to_the_kernel,
        ..PLAIN
    },
    Case {
        name: "protection_holds_and_goes_with_the_agent",
        scenario: scenarios::protect,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_without_pressure",
        scenario: scenarios::births,
        check: scenarios::born_in_peace,
        ..PLAIN
    },
    Case {
        name: "cgroups_made_later_are_settled_on_6_1",
        kernel: Some("6.1"),
        scenario: scenarios::births,
        check: scenarios::born_in_peace,
        ..PLAIN
    },
    Case {
        name: "cache_is_given_back_in_order_and_nobody_goes",
        scenario: scenarios::reclaim,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "what_grows_is_held_back_and_let_go",
        scenario: scenarios::throttle,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "under_pressure_the_agent_waits_for_no_page",
        scenario: scenarios::ready,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "one_process_of_a_shared_cgroup_goes",
        scenario: scenarios::process,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "commands_run_before_and_after_and_hold_up_no_kill",
        scenario: scenarios::commands,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "a_device_that_stalls_for_ever_restarts_if_the_config_says_so",
        scenario: || Scenario {
            restarts: true,
            ..scenarios::hopeless("2s")
        },
        check: |run| says(run, "rebooting: nothing was left to do"),
        ..PLAIN
    },
    Case {
        name: "a_device_that_stalls_for_ever_goes_on_if_the_config_says_nothing",
        scenario: || scenarios::hopeless("0s"),
        check: |run| says(run, "critical confirmed, nothing left to do"),
        ..PLAIN
    },
    Case {
        name: "a_watchdog_restarts_a_device_that_stalls_for_ever",
        scenario: scenarios::watchdog,
        check: scenarios::watchdog_restarts,
        ..PLAIN
    },
    Case {
        name: "a_config_is_checked_and_exchanged_while_the_agent_runs",
        scenario: scenarios::reload,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "cgroups_that_are_no_memcgs_count_for_the_one_above",
        scenario: scenarios::uncounted,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_kills_the_configured_victim",
        scenario: || scenarios::kernel_oom(&["agent"]),
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_by_itself_kills_the_largest",
        scenario: || scenarios::kernel_oom(&[]),
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "the_kernel_kills_the_configured_process",
        append: "cgroup_disable=memory",
        scenario: scenarios::processes,
        check: |run| {
            firmware::passed(run)?;
            let mut lines = run.lines(firmware::TEST);
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
        name: "init_script_under_busybox",
        scenario: firmware::init_script,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "openwrt_scripts_under_busybox",
        scenario: firmware::openwrt_scripts,
        check: firmware::passed,
        ..PLAIN
    },
    Case {
        name: "unit_under_systemd",
        memory_mb: 512,
        scenario: firmware::unit,
        files: firmware::systemd,
        check: firmware::passed,
        ..PLAIN
    },
];

/// A guest to run and what must be true of it afterwards.
pub struct Test {
    pub name: String,
    pub guest: Guest,
    pub check: Check,
}

/// What a run must have been like.
pub type Check = Box<dyn Fn(&Run) -> Result<()> + Sync>;

const OWN_TRIGGER: &str = "trigger = \"some 20ms/500ms\"";
const CGROUPFS: &str = "[engine]\nkind = \"cgroupfs\"\n";

/// The agent says so.
pub fn says(run: &Run, words: &str) -> Result<()> {
    ensure!(
        run.lines("lowtide").any(|(_, line)| line.contains(words)),
        "the agent does not say {words:?}"
    );
    Ok(())
}

/// Instructions that the verifier may process, of the million at which it gives up. 7.0.13 processed
/// 8,428 and 7.3.4 8,309; when the functions of the program were verified inside the loop that calls
/// them, it was 998,712 in 466 MB, and 43,780 in 24 MB.
const VERIFIED_INSNS: u64 = 16_000;
/// Memory of the agent's cgroup, to which the verifier's is charged, in bytes.
const LOADING: u64 = 4 << 20;

/// The kernel loaded the program on a small device, and by its own count that was little work.
fn verified_cheaply(run: &Run) -> Result<()> {
    says(run, "kfunc engine, ")?;
    let insns = run.lines(scenarios::VERIFIED).find_map(|(_, line)| {
        line.strip_prefix("verified_insns:")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    let insns = insns.context("no program in the agent's descriptors")?;
    ensure!(
        insns <= VERIFIED_INSNS,
        "the verifier processed {insns} instructions"
    );
    let peak = run
        .files()
        .find_map(|(path, text)| (path == scenarios::AGENTS_PEAK).then_some(text));
    let peak = peak.context("no memory.peak")?.trim().parse::<u64>()?;
    ensure!(peak <= LOADING, "the agent's cgroup took {peak} bytes");
    Ok(())
}

/// Runs the cases and loads whose name contains the filter, and the part of the kernel matrix that
/// is for every run.
pub fn run(filter: Option<&str>) -> Result<Tally> {
    let arch = Arch::X86_64;
    let is_wanted = |name: &str| filter.is_none_or(|f| name.contains(f));
    let cases = CASES
        .iter()
        .filter(|c| is_wanted(c.name))
        .map(|case| Ok((case, kernel::find(arch, case.kernel)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut loads = loads::for_every_run();
    loads.retain(|cell| is_wanted(&cell.name()));
    let (mut tests, mut tally) = matrix::for_every_run(filter)?;
    if !(cases.is_empty() && loads.is_empty()) {
        qemu::install(arch)?;
        let programs = programs::build(arch, Profile::Guest)?;
        for (case, kernel) in cases {
            tests.push(case.test(kernel, &programs)?);
        }
        if !loads.is_empty() {
            let kernel = kernel::find(arch, None)?;
            tests.extend(loads.iter().map(|l| l.test(kernel.clone(), &programs)));
        }
    }
    for ok in carry_out(&tests)? {
        tally.count(ok);
    }
    Ok(tally)
}

/// Runs tests, as many at a time as there are cores, and says of each whether it passed.
pub fn carry_out(tests: &[Test]) -> Result<Vec<bool>> {
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    say(format_args!(
        "{} guests; what they say goes to {}",
        tests.len(),
        records()?.display()
    ));
    Ok(in_parallel(tests, |test| {
        let start = Instant::now();
        let once = || test.record().and_then(|run| (test.check)(&run));
        // Agent and kernel race in an emulated machine: one that stands still at the wrong moment,
        // because its host is busy, is no verdict. That it was so is said.
        let first = once();
        let result = if first.is_ok() { Ok(()) } else { once() };
        let seconds = start.elapsed().as_secs();
        let again = if first.is_err() {
            ", at the second try"
        } else {
            ""
        };
        println!(
            "test guest::{} ... {} ({seconds} s{again})",
            test.name,
            verdict(result.is_ok())
        );
        for e in [&first, &result]
            .into_iter()
            .filter_map(|r| r.as_ref().err())
        {
            println!("    {e:#}");
        }
        result.is_ok()
    }))
}

/// Does every item, as many at a time as there are cores. Results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // The lock is held for this line only.
                while let Some((at, item)) = { queue.lock().expect("no panic under it").next() } {
                    let result = f(item);
                    results
                        .lock()
                        .expect("no panic under it")
                        .push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic under it");
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// [`scenarios::fast_hog`] on a device of 256 MB.
pub fn fast_hog(kernel: Kernel, programs: &Programs) -> Result<Test> {
    PLAIN.test(kernel, programs)
}

/// Where what the guests say goes.
fn records() -> Result<PathBuf> {
    let dir = dirs::target().join("guest-tests");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

impl Case {
    fn test(&self, kernel: Kernel, programs: &Programs) -> Result<Test> {
        Ok(Test {
            name: self.name.into(),
            guest: Guest {
                kernel,
                programs: programs.clone(),
                memory_mb: self.memory_mb,
                scenario: (self.scenario)(),
                files: (self.files)()?,
                append: self.append.to_owned(),
            },
            check: Box::new(self.check),
        })
    }
}

impl Test {
    /// Runs the guest and keeps what it says, also of a run that does not come to its end.
    pub fn record(&self) -> Result<Run> {
        let mut events = Vec::new();
        let run = self.guest.run(|event| events.push(event.clone()));
        keep(&self.name, &events)?;
        run
    }
}

/// Keeps what a guest said, for whoever wants to know why.
pub fn keep(name: &str, events: &[Event]) -> Result<()> {
    let mut record = String::new();
    for event in events {
        record.push_str(&serde_json::to_string(event)?);
        record.push('\n');
    }
    fs::write(records()?.join(format!("{name}.jsonl")), record)?;
    Ok(())
}
