//! Tests of the agent on real kernels under real pressure. What counts is what the guest's kernel
//! says: its log, its counters, its cgroup files, and how processes ended.

use crate::check::{Tally, verdict};
use crate::dirs;
use crate::firmware;
use crate::kernel::{self, Kernel};
use crate::programs::{self, Profile, Programs};
use crate::qemu;
use crate::scenarios::{self, only_the_hog_goes, oom_kills};
use crate::shell::say;
use crate::target::Arch;
use crate::vm::{Guest, Run};
use anyhow::{Context as _, Result, ensure};
use lowtide_guest::{Report, Scenario};
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
    scenario: fn() -> Scenario,
    check: fn(&Run) -> Result<()>,
}

const CASES: &[Case] = &[
    Case {
        name: "without_the_agent_the_kernel_kills",
        kernel: None,
        memory_mb: 256,
        scenario: || scenarios::without_agent(scenarios::fast_hog()),
        check: |run| {
            ensure!(
                run.oom_lines().count() > 0,
                "the kernel's log has no OOM kill"
            );
            ensure!(oom_kills(run) > 0, "the kernel counts no OOM kill");
            Ok(())
        },
    },
    Case {
        name: "the_configured_victim_goes_and_nothing_else",
        kernel: None,
        memory_mb: 256,
        scenario: scenarios::fast_hog,
        check: only_the_hog_goes,
    },
    Case {
        name: "cgroups_vanish_during_the_walk",
        kernel: None,
        memory_mb: 256,
        scenario: || scenarios::with_load(scenarios::fast_hog(), "churn", &["churn"]),
        check: |run| {
            let made = run.reports("churn").filter_map(|(_, report)| match report {
                Report::Made { cgroups } => Some(cgroups),
                _ => None,
            });
            ensure!(
                made.max().unwrap_or(0) >= 1000,
                "hardly any cgroup came and went"
            );
            only_the_hog_goes(run)
        },
    },
    Case {
        name: "two_thousand_cgroups",
        kernel: None,
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
    },
    Case {
        name: "a_bad_config_is_refused_with_its_place",
        kernel: None,
        memory_mb: 256,
        scenario: || scenarios::with_config("[level.critical]\ntrigger = \"lots\"\n"),
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
    },
    Case {
        name: "a_kernel_without_the_kfuncs_is_named",
        kernel: Some("6.12"),
        memory_mb: 256,
        scenario: scenarios::idle,
        check: |run| {
            ensure!(
                run.lines("lowtide")
                    .any(|(_, line)| line.contains("bpf_get_root_mem_cgroup")),
                "no line names the missing kfunc"
            );
            Ok(())
        },
    },
    Case {
        name: "protection_holds_and_goes_with_the_agent",
        kernel: None,
        memory_mb: 256,
        scenario: scenarios::protect,
        check: firmware::passed,
    },
    Case {
        name: "what_grows_is_held_back_and_let_go",
        kernel: None,
        memory_mb: 256,
        scenario: scenarios::throttle,
        check: firmware::passed,
    },
    Case {
        name: "one_process_of_a_shared_cgroup_goes",
        kernel: None,
        memory_mb: 256,
        scenario: scenarios::process,
        check: firmware::passed,
    },
    Case {
        name: "the_kernel_kills_the_configured_victim",
        kernel: None,
        memory_mb: 256,
        scenario: || scenarios::kernel_oom(&["agent"]),
        check: firmware::passed,
    },
    Case {
        name: "the_kernel_by_itself_kills_the_largest",
        kernel: None,
        memory_mb: 256,
        scenario: || scenarios::kernel_oom(&[]),
        check: firmware::passed,
    },
    Case {
        name: "init_script_under_busybox",
        kernel: None,
        memory_mb: 256,
        scenario: firmware::init_script,
        check: firmware::passed,
    },
    Case {
        name: "openwrt_scripts_under_busybox",
        kernel: None,
        memory_mb: 256,
        scenario: firmware::openwrt_scripts,
        check: firmware::passed,
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

/// Runs the cases whose name contains the filter, as many at a time as there are cores.
pub fn run(filter: Option<&str>) -> Result<Tally> {
    let arch = Arch::X86_64;
    let wanted = CASES
        .iter()
        .filter(|c| filter.is_none_or(|f| c.name.contains(f)))
        .map(|case| Ok((case, kernel::find(arch, case.kernel)?)))
        .collect::<Result<Vec<_>>>()?;
    if wanted.is_empty() {
        return Ok(Tally::default());
    }
    qemu::install(arch)?;
    let programs = programs::build(arch, Profile::Guest)?;
    let tests: Vec<_> = wanted
        .into_iter()
        .map(|(case, kernel)| case.test(kernel, &programs))
        .collect();
    say(format_args!(
        "{} guests; what they say goes to {}",
        tests.len(),
        records()?.display()
    ));
    let tally = Mutex::new(Tally::default());
    in_parallel(&tests, |test| {
        let start = Instant::now();
        let result = test.record().and_then(|run| (test.check)(&run));
        let seconds = start.elapsed().as_secs();
        println!(
            "test guest::{} ... {} ({seconds} s)",
            test.name,
            verdict(result.is_ok())
        );
        if let Err(e) = &result {
            println!("    {e:#}");
        }
        tally
            .lock()
            .expect("no panic under it")
            .count(result.is_ok());
    });
    Ok(tally.into_inner().expect("no panic under it"))
}

/// Does every item, as many at a time as there are cores.
pub fn in_parallel<T: Sync>(items: &[T], f: impl Fn(&T) + Sync) {
    let queue = Mutex::new(items.iter());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                // The lock is held for this line only.
                while let Some(item) = { queue.lock().expect("no panic under it").next() } {
                    f(item);
                }
            });
        }
    });
}

/// Where what the guests say goes.
fn records() -> Result<PathBuf> {
    let dir = dirs::target().join("guest-tests");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

impl Case {
    fn test(&self, kernel: Kernel, programs: &Programs) -> Test {
        Test {
            name: self.name.into(),
            guest: Guest {
                kernel,
                programs: programs.clone(),
                memory_mb: self.memory_mb,
                scenario: (self.scenario)(),
                files: Vec::new(),
                append: String::new(),
            },
            check: Box::new(self.check),
        }
    }
}

impl Test {
    /// Runs the guest and keeps what it says, also of a run that does not come to its end.
    pub fn record(&self) -> Result<Run> {
        let mut record = String::new();
        let run = self.guest.run(|event| {
            record.push_str(&serde_json::to_string(event).expect("it came from JSON"));
            record.push('\n');
        });
        fs::write(records()?.join(format!("{}.jsonl", self.name)), record)?;
        run
    }
}
