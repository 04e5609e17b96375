//! Loads that start processes, or are processes of another kind.

use super::{Load, in_bytes, report, sleep_forever};
use crate::cgroup;
use argh::FromArgs;
use lowtide_guest::Report;
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

/// start children that stay, each holding some memory
#[derive(FromArgs)]
#[argh(subcommand, name = "forkstorm")]
pub struct Forkstorm {
    /// children a second
    #[argh(option)]
    rate: u32,
    /// what each child holds, e.g. 2M
    #[argh(option, from_str_fn(in_bytes))]
    size: usize,
    /// stop at this many children
    #[argh(option, default = "u64::MAX")]
    max: u64,
}

/// run a load in many cgroups at once, one process in each
#[derive(FromArgs)]
#[argh(subcommand, name = "workers")]
pub struct Workers {
    /// how many
    #[argh(option)]
    count: u64,
    /// cgroup of each, relative to the root of the tree; {} is its number, from 1 on
    #[argh(option)]
    cgroup: String,
    /// milliseconds between the starts of two
    #[argh(option, default = "0")]
    every_ms: u64,
    /// the load and its options
    #[argh(positional, greedy)]
    load: Vec<String>,
}

/// run a load, and start it anew whenever it ends
#[derive(FromArgs)]
#[argh(subcommand, name = "supervise")]
pub struct Supervise {
    /// cgroup of each run, relative to the root of the tree; {} is the number of the run, from 1 on
    #[argh(option)]
    cgroup: String,
    /// milliseconds from an end to the next start
    #[argh(option, default = "500")]
    delay_ms: u64,
    /// how many times it is started at all; without end if absent
    #[argh(option)]
    count: Option<u64>,
    /// the load and its options
    #[argh(positional, greedy)]
    load: Vec<String>,
}

/// run a load as a process of another kind: what is asked for is done in this order, then the load
/// runs in the same process
#[derive(FromArgs)]
#[argh(subcommand, name = "as")]
pub struct As {
    /// its own oom_score_adj
    #[argh(option)]
    oom_score_adj: Option<i32>,
    /// lock all that it has and will have in memory
    #[argh(switch)]
    mlock: bool,
    /// run before all that has a lower priority than this, as SCHED_FIFO has it
    #[argh(option)]
    realtime: Option<i32>,
    /// user and group that it runs as
    #[argh(option)]
    uid: Option<u32>,
    /// move into this cgroup, which is made (by that user) if it is not there
    #[argh(option)]
    cgroup: Option<String>,
    /// FILE=VALUE, written to a file of that cgroup (by that user); may be repeated
    #[argh(option)]
    set: Vec<String>,
    /// its name, as prctl(PR_SET_NAME) sets it; %XX is a byte
    #[argh(option)]
    comm: Option<String>,
    /// SIGTERM does nothing
    #[argh(switch)]
    ignore_term: bool,
    /// the load runs in a second thread, and the first one ends
    #[argh(switch)]
    leader_ends: bool,
    /// traced by a process that starts it and never waits for its end
    #[argh(switch)]
    traced: bool,
    /// a second thread waits in vfork(2) for a child that shares the memory, and stays
    #[argh(switch)]
    in_vfork: bool,
    /// the load and its options
    #[argh(positional, greedy)]
    load: Vec<String>,
}

/// become another program, in a cgroup and with the default OOM score
#[derive(FromArgs)]
#[argh(subcommand, name = "exec")]
pub struct Exec {
    /// cgroup, relative to the root of the tree
    #[argh(positional)]
    cgroup: String,
    /// program and its arguments
    #[argh(positional, greedy)]
    command: Vec<String>,
}

impl Forkstorm {
    pub fn run(self) -> io::Result<()> {
        // By this path the children have the same name.
        let me = std::env::args_os().next().unwrap_or_default();
        let period = Duration::from_secs(1) / self.rate;
        let (mut started, mut lost) = (0, 0);
        loop {
            if started < self.max {
                Command::new(&me)
                    .args(["sleeper", "--size", &self.size.to_string()])
                    .spawn()?;
                started += 1;
                report(&Report::Forks { count: started });
                if started == self.max {
                    report(&Report::Full);
                }
            }
            let before = lost;
            while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {
                lost += 1;
            }
            if lost > before {
                report(&Report::Lost { count: lost });
            }
            thread::sleep(period);
        }
    }
}

impl Workers {
    pub fn run(self) -> io::Result<()> {
        let mut numbers = BTreeMap::new();
        for number in 1..=self.count {
            let child = in_cgroup(&numbered(&self.cgroup, number), &self.load)?;
            numbers.insert(child.id(), number);
            thread::sleep(Duration::from_millis(self.every_ms));
        }
        report(&Report::Forks { count: self.count });
        report(&Report::Full);
        while let Some((pid, status)) = wait()? {
            if let Some(number) = numbers.remove(&pid.as_raw_pid().cast_unsigned()) {
                report(&ended(number, status));
            }
        }
        sleep_forever()
    }
}

impl Supervise {
    pub fn run(self) -> io::Result<()> {
        for number in 1..=self.count.unwrap_or(u64::MAX) {
            let cgroup = numbered(&self.cgroup, number);
            in_cgroup(&cgroup, &self.load)?;
            report(&Report::Forks { count: number });
            if let Some((_, status)) = wait()? {
                report(&ended(number, status));
            }
            thread::sleep(Duration::from_millis(self.delay_ms));
            // What it left there is another's; a cgroup that is used again need not be made.
            let _ = fs::remove_dir(cgroup::path(&cgroup));
        }
        report(&Report::Full);
        sleep_forever()
    }
}

impl As {
    pub fn run(self) -> io::Result<()> {
        let load = Load::parse(&self.load)?;
        if let Some(adj) = self.oom_score_adj {
            fs::write("/proc/self/oom_score_adj", adj.to_string())?;
        }
        if self.mlock {
            rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
        }
        if let Some(realtime) = self.realtime {
            // SAFETY: the kernel's `struct sched_param` is this one int, which it only reads. The function
            // of musl by this name does nothing.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_FIFO,
                    &raw const realtime,
                )
            };
            if set != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(uid) = self.uid {
            become_user(uid)?;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup::make(cgroup, |file, value| fs::write(file, value))?;
            cgroup::enter(cgroup)?;
        }
        for setting in &self.set {
            let (file, value) = setting
                .split_once('=')
                .ok_or_else(|| io::Error::other(format!("{setting}: not FILE=VALUE")))?;
            let cgroup = self.cgroup.as_deref().unwrap_or_default();
            fs::write(cgroup::path(cgroup).join(file), value)?;
        }
        if let Some(comm) = &self.comm {
            rustix::thread::set_name(&CString::new(lowtide_guest::bytes(comm))?)?;
        }
        if self.ignore_term {
            // SAFETY: SIG_IGN is no function, so that nothing runs when the signal comes.
            unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
        }
        if self.traced {
            return trace(&self.load);
        }
        if self.in_vfork {
            thread::spawn(wait_in_vfork);
        }
        if !self.leader_ends {
            return load.carry_out();
        }
        thread::spawn(move || {
            if let Err(e) = load.carry_out() {
                eprintln!("{e}");
            }
            std::process::exit(1);
        });
        // SAFETY: it ends this thread alone, and nothing that another one uses is on its stack.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!("a thread that has ended");
    }
}

/// Runs a load in a child, traced, and never looks at it again.
fn trace(load: &[String]) -> io::Result<()> {
    let mut command = Command::new(std::env::args_os().next().unwrap_or_default());
    command.args(load);
    // SAFETY: one system call, which is all that the child does before it becomes the load.
    unsafe {
        command.pre_exec(|| {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        })
    };
    let child = command.spawn()?;
    let pid = child.id() as libc::pid_t;
    // It stops as it becomes the load.
    // SAFETY: the status is not asked for.
    if unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } != pid {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it goes on, without a signal.
    if unsafe { libc::ptrace(libc::PTRACE_CONT, pid, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    sleep_forever()
}

/// Starts a child that shares the memory of this process until it becomes another program, and before
/// that opens a FIFO that nothing ever writes to.
fn wait_in_vfork() -> ! {
    const FIFO: &CStr = c"/run/vfork";
    let mut actions = MaybeUninit::uninit();
    let arguments = [FIFO.as_ptr().cast_mut(), std::ptr::null_mut()];
    // SAFETY: all that the calls are given lives until they return, and they only write to `actions`,
    // which the second one makes whole.
    unsafe {
        libc::mkfifo(FIFO.as_ptr(), 0o600);
        libc::posix_spawn_file_actions_init(actions.as_mut_ptr());
        libc::posix_spawn_file_actions_addopen(
            actions.as_mut_ptr(),
            0,
            FIFO.as_ptr(),
            libc::O_RDONLY,
            0,
        );
        libc::posix_spawn(
            std::ptr::null_mut(),
            FIFO.as_ptr(),
            actions.as_ptr(),
            std::ptr::null(),
            arguments.as_ptr(),
            std::ptr::null(),
        );
    }
    // It did not wait.
    std::process::exit(1);
}

/// Becomes a user without groups and rights. To be called before there is a second thread.
fn become_user(uid: u32) -> io::Result<()> {
    let group = Gid::from_raw(uid);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    let user = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(())
}

/// The name with the number in place of `{}`.
fn numbered(name: &str, number: u64) -> String {
    name.replace("{}", &number.to_string())
}

/// Starts a load in a cgroup, which is made, by the path of this program, so that it has its name.
fn in_cgroup(cgroup: &str, load: &[String]) -> io::Result<Child> {
    cgroup::make(cgroup, |file, value| fs::write(file, value))?;
    let me = std::env::args_os().next().unwrap_or_default();
    Command::new(&me)
        .args(["exec", cgroup])
        .arg(&me)
        .args(load)
        .spawn()
}

/// The next child that ends; `None` when there is none any more.
fn wait() -> io::Result<Option<(Pid, WaitStatus)>> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(ended) => return Ok(ended),
            Err(Errno::CHILD) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn ended(number: u64, status: WaitStatus) -> Report {
    Report::Ended {
        number,
        code: status.exit_status(),
        signal: status.terminating_signal(),
    }
}

impl Exec {
    pub fn run(self) -> io::Result<()> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(io::Error::other("no program"));
        };
        fs::write("/proc/self/oom_score_adj", "0")?;
        // Without cgroup v2 the program runs all the same.
        if cgroup::path(&self.cgroup).join("cgroup.procs").exists() {
            cgroup::enter(&self.cgroup)?;
        }
        let error = Command::new(program).args(arguments).exec();
        Err(io::Error::new(error.kind(), format!("{program}: {error}")))
    }
}
