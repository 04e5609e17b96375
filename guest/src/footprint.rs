//! What a service costs while it does nothing, by the kernel's own figures.

use crate::load::report;
use argh::FromArgs;
use lowtide_guest::{CGROUP_ROOT, Footprint, Report};
use rustix::mount::MountFlags;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel passes over what was used of late, and looks at half of what is left each time.
const DROPS: usize = 20;
/// What memory.stat says is as old as two seconds, and what is dropped is freed by RCU.
const FLUSH: Duration = Duration::from_secs(5);

/// let a program settle, watch it for a while, report what it costs
#[derive(FromArgs)]
#[argh(subcommand, name = "footprint")]
pub struct Measure {
    /// name of the program, as in /proc/PID/comm
    #[argh(option)]
    program: String,
    /// seconds to wait before
    #[argh(option, default = "10")]
    settle: u64,
    /// seconds to watch it
    #[argh(option, default = "60")]
    quiet: u64,
    /// count system calls, too, by the kernel's tracing
    #[argh(switch)]
    syscalls: bool,
}

impl Measure {
    pub fn run(self) -> io::Result<()> {
        thread::sleep(Duration::from_secs(self.settle));
        let processes = processes(&self.program)?;
        let traced = self.syscalls.then(trace_syscalls).transpose()?;
        let start = Instant::now();
        let before = sleeps(&processes)?;
        thread::sleep(Duration::from_secs(self.quiet));
        let counts = traced.map(fs::read_to_string).transpose()?;
        let mut cost = Footprint {
            syscalls: counts.map(|text| syscalls(&text, &processes)).transpose()?,
            processes: processes.len() as u64,
            sleeps: sleeps(&processes)? - before,
            quiet_ms: start.elapsed().as_millis() as u64,
            ..Footprint::default()
        };
        for process in &processes {
            let status = fs::read_to_string(process.join("status"))?;
            cost.threads += number(&status, "Threads:");
            cost.peak_kb += number(&status, "VmHWM:");
            add_mappings(
                &fs::read_to_string(process.join("smaps"))?,
                &mut cost.mappings,
            );
        }
        cost.pss_kb = cost.mappings.values().sum();
        if let Some(process) = processes.first() {
            let of = fs::read_to_string(process.join("cgroup"))?;
            let path = of.trim_end().rsplit(':').next().unwrap_or_default();
            let cgroup = Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'));
            cost.cgroup_bytes = fs::read_to_string(cgroup.join("memory.current"))
                .ok()
                .and_then(|text| text.trim_end().parse().ok());
            if cost.cgroup_bytes.is_some() {
                let stat = || fs::read_to_string(cgroup.join("memory.stat"));
                cost.charged = charged(&stat()?);
                for _ in 0..DROPS {
                    fs::write("/proc/sys/vm/drop_caches", "2")?;
                }
                thread::sleep(FLUSH);
                cost.kernel_bytes = Some(number(&stat()?, "kernel "));
            }
        }
        report(&Report::Footprint(cost));
        Ok(())
    }
}

/// The directories in /proc of all processes of a program.
fn processes(program: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == program) {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(io::Error::other(format!("no process is named {program}")));
    }
    Ok(found)
}

/// Has the kernel count the system calls of each thread, and says where it tells them.
fn trace_syscalls() -> io::Result<PathBuf> {
    let root = c"/sys/kernel/tracing";
    rustix::mount::mount(c"tracefs", root, c"tracefs", MountFlags::empty(), None)?;
    let event = Path::new("/sys/kernel/tracing/events/raw_syscalls/sys_enter");
    fs::write(event.join("trigger"), "hist:keys=common_pid")?;
    Ok(event.join("hist"))
}

/// What a histogram by thread has of the threads of the processes.
fn syscalls(hist: &str, processes: &[PathBuf]) -> io::Result<u64> {
    let mut sum = 0;
    for process in processes {
        for thread in fs::read_dir(process.join("task"))? {
            // { common_pid:         93 } hitcount:         12
            let name = thread?.file_name();
            sum += hist
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .filter_map(|words| match words[..] {
                    ["{", "common_pid:", thread, "}", "hitcount:", count] => {
                        (*name == *thread).then(|| count.parse::<u64>().ok())?
                    }
                    _ => None,
                })
                .sum::<u64>();
        }
    }
    Ok(sum)
}

/// How often the threads of the processes have gone to sleep by themselves, ever.
fn sleeps(processes: &[PathBuf]) -> io::Result<u64> {
    let mut sum = 0;
    for process in processes {
        for thread in fs::read_dir(process.join("task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            sum += number(&status, "voluntary_ctxt_switches:");
        }
    }
    Ok(sum)
}

/// The number behind a key at the beginning of a line, 0 if there is none.
fn number(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(key))
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Adds up the Pss of /proc/PID/smaps by mapping.
fn add_mappings(smaps: &str, sums: &mut BTreeMap<String, u64>) {
    let mut mapping = String::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "Pss:" {
            let kb: u64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0);
            *sums.entry(mapping.clone()).or_default() += kb;
        } else if !first.ends_with(':') {
            // address permissions offset device inode path
            let permissions = words.next().unwrap_or_default();
            let what = words.nth(3).unwrap_or("anonymous");
            mapping = format!("{what} {permissions}");
        }
    }
}

/// The figures of memory.stat that count bytes and are not 0.
fn charged(stat: &str) -> BTreeMap<String, u64> {
    const KINDS: [&str; 10] = [
        "anon",
        "file",
        "kernel_stack",
        "pagetables",
        "percpu",
        // Dentries and inodes, mostly, which the kernel takes back when it needs them; and what it cannot.
        "slab_reclaimable",
        "slab_unreclaimable",
        "sock",
        "vmalloc",
        "shmem",
    ];
    KINDS
        .into_iter()
        .map(|kind| (kind.to_owned(), number(stat, &format!("{kind} "))))
        .filter(|(_, bytes)| *bytes > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_added_up_by_what_they_map() {
        let smaps = "\
00400000-00401000 r--p 00000000 00:02 17   /bin/x
Size:                  4 kB
Pss:                   4 kB
Pss_Dirty:             1 kB
00401000-00409000 r--p 00001000 00:02 17   /bin/x
Pss:                   8 kB
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
Pss:                   3 kB
VmFlags: rd wr
";
        let mut sums = BTreeMap::new();
        add_mappings(smaps, &mut sums);
        let expected = [("/bin/x r--p", 12), ("anonymous rw-p", 3)];
        let expected = expected.map(|(name, kb)| (name.to_owned(), kb));
        assert_eq!(sums, expected.into());
    }
}
