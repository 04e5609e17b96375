//! PID 1 of the guest, or the only child of another: carries out the scenario and tells what happens.
//!
//! It has to go on telling while the machine is out of memory: its memory is locked, the OOM
//! killer leaves it alone, and it opens at the start what it reads while the scenario runs.

use crate::cgroup;
use lowtide_guest::{
    CGROUP_ROOT, CgroupSample, DISK, EVENT_PORT, Event, MODULE_LIST, SCENARIO_FILE, Sample,
    Scenario, Service, What, Zram,
};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mm::MlockAllFlags;
use rustix::mount::MountFlags;
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use rustix::system::RebootCommand;
use rustix::time::ClockId;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{self, Command, ExitCode, Stdio};

/// What the kernel starts.
pub const PROGRAM: &str = "/init";
/// The init's own cgroup, where any service has one.
const OWN_CGROUP: &str = "init";

pub fn main() -> ExitCode {
    if let Err(e) = run() {
        eprintln!("init: {e}");
    }
    // Only a kernel without the call gets past this, and then ends by panicking.
    let _ = rustix::system::reboot(RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn run() -> io::Result<()> {
    let scenario: Scenario = serde_json::from_slice(&fs::read(SCENARIO_FILE)?)?;
    if process::id() != 1 {
        return Guest::new(scenario, Teller::open()?)?.run();
    }
    mount_all()?;
    load_modules()?;
    let mut teller = Teller::open()?;
    teller.tell(What::Booted {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        mem_total_kb: field(&fs::read_to_string("/proc/meminfo")?, "MemTotal:"),
    })?;
    set_up(&scenario, &mut teller)?;
    let Some(pid_1) = &scenario.pid_1 else {
        return Guest::new(scenario, teller)?.run();
    };
    // Only one may have the port open.
    drop(teller);
    Command::new("/proc/self/exe").arg0(PROGRAM).spawn()?;
    fs::write("/proc/self/oom_score_adj", "0")?;
    fs::write(format!("{CGROUP_ROOT}/cgroup.procs"), "0")?;
    Err(Command::new(pid_1).exec())
}

/// Milliseconds since boot.
fn now() -> u64 {
    let t = rustix::time::clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

/// The number behind a key of a `key value` file, 0 if the key is not there.
fn field(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|l| l.strip_prefix(key))
        .find_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn mount_all() -> io::Result<()> {
    for (kind, target) in [
        (c"proc", c"/proc"),
        (c"sysfs", c"/sys"),
        (c"devtmpfs", c"/dev"),
        (c"tmpfs", c"/tmp"),
        (c"tmpfs", c"/run"),
    ] {
        fs::create_dir_all(target.to_str().expect("ASCII"))?;
        rustix::mount::mount(kind, target, kind, MountFlags::empty(), None)?;
    }
    // A kernel without cgroup v2 is a case to test, not an error.
    let root = c"/sys/fs/cgroup";
    let _ = rustix::mount::mount(c"cgroup2", root, c"cgroup2", MountFlags::empty(), None);
    Ok(())
}

fn load_modules() -> io::Result<()> {
    for line in fs::read_to_string(MODULE_LIST).unwrap_or_default().lines() {
        let (name, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let path = Path::new(MODULE_LIST).with_file_name(name);
        rustix::system::finit_module(File::open(&path)?, &CString::new(parameters)?, 0)
            .map_err(|e| io::Error::other(format!("{name}: {e}")))?;
    }
    Ok(())
}

fn set_up(scenario: &Scenario, teller: &mut Teller) -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    if scenario.disk_mb > 0 {
        std::os::unix::fs::symlink(scenario.disk(), DISK)?;
    }
    for (path, text) in &scenario.files {
        fs::create_dir_all(Path::new(path).parent().unwrap_or(Path::new("/")))?;
        fs::write(path, text)?;
    }
    for (name, value) in &scenario.sysctls {
        teller.attempt(&Path::new("/proc/sys").join(name), value)?;
    }
    let divided = scenario
        .services
        .iter()
        .any(|service| !service.cgroup.is_empty());
    if divided && Path::new(CGROUP_ROOT).join("cgroup.procs").exists() {
        make_cgroup(OWN_CGROUP, teller)?;
        teller.attempt(&cgroup::path(OWN_CGROUP).join("cgroup.procs"), "0")?;
        for cgroup in &scenario.cgroups {
            make_cgroup(&cgroup.path, teller)?;
            let dir = cgroup::path(&cgroup.path);
            for (file, value) in &cgroup.attributes {
                teller.attempt(&dir.join(file), value)?;
            }
            for (name, value) in &cgroup.xattrs {
                rustix::fs::setxattr(&dir, name.as_str(), value.as_bytes(), XattrFlags::empty())?;
            }
            if let Some(uid) = cgroup.owner {
                delegate(&dir, uid)?;
            }
        }
        for service in &scenario.services {
            make_cgroup(&service.cgroup, teller)?;
        }
    }
    if let Some(zram) = &scenario.zram {
        swap_to(zram).or_else(|e| {
            teller.tell(What::Refused {
                what: "zram".into(),
                error: e.to_string(),
            })
        })?;
    }
    Ok(())
}

/// Makes a cgroup, and tells if a controller is refused.
fn make_cgroup(name: &str, teller: &mut Teller) -> io::Result<()> {
    cgroup::make(name, |file, value| teller.attempt(file, value))
}

/// What systemd does for `Delegate=`: the directory and these files are the user's.
fn delegate(dir: &Path, uid: u32) -> io::Result<()> {
    let files = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];
    for path in std::iter::once(dir.to_owned()).chain(files.map(|file| dir.join(file))) {
        std::os::unix::fs::chown(path, Some(uid), Some(uid))?;
    }
    Ok(())
}

fn swap_to(zram: &Zram) -> io::Result<()> {
    if let Some(algorithm) = &zram.algorithm {
        fs::write("/sys/block/zram0/comp_algorithm", algorithm)?;
    }
    fs::write("/sys/block/zram0/disksize", format!("{}M", zram.size_mb))?;
    for applet in ["mkswap", "swapon"] {
        let done = Command::new("/bin/busybox")
            .args([applet, "/dev/zram0"])
            .output()?;
        if !done.status.success() {
            return Err(io::Error::other(
                String::from_utf8_lossy(&done.stderr).into_owned(),
            ));
        }
    }
    Ok(())
}

/// Sends events to the host.
struct Teller {
    port: File,
    line: Vec<u8>,
}

impl Teller {
    fn open() -> io::Result<Self> {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))?.trim_end() == EVENT_PORT {
                let port = File::options()
                    .write(true)
                    .open(Path::new("/dev").join(entry.file_name()))?;
                return Ok(Self {
                    port,
                    line: Vec::with_capacity(64 << 10),
                });
            }
        }
        Err(io::Error::other("no virtio port for the events"))
    }

    fn tell(&mut self, what: What) -> io::Result<()> {
        self.tell_of(now(), what)
    }

    /// Of something that was a moment ago.
    fn tell_of(&mut self, t: u64, what: What) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, &Event { t, what })?;
        self.line.push(b'\n');
        self.port.write_all(&self.line)
    }

    /// Writes to a kernel file, and tells if that is refused.
    fn attempt(&mut self, path: &Path, value: &str) -> io::Result<()> {
        match fs::write(path, value) {
            Ok(()) => Ok(()),
            Err(e) => self.tell(What::Refused {
                what: format!("{}: {value}", path.display()),
                error: e.to_string(),
            }),
        }
    }
}

/// A service and its process, if it has one.
struct Slot {
    service: Service,
    /// When it is to be started next.
    due: Option<u64>,
    pid: Option<i32>,
    /// Readable when the process has ended.
    pidfd: Option<OwnedFd>,
    output: io::PipeReader,
    /// For the next process; keeps `output` open between two.
    input: io::PipeWriter,
    partial_line: Vec<u8>,
    /// Has written a line.
    spoke: bool,
}

const KMSG: u64 = u64::MAX;
/// Readiness that only wakes the loop, which then reaps.
const CHILD: u64 = u64::MAX - 1;

struct Guest {
    teller: Teller,
    scenario: Scenario,
    slots: Vec<Slot>,
    kmsg: File,
    probe: Probe,
    epoll: OwnedFd,
}

impl Guest {
    fn new(mut scenario: Scenario, teller: Teller) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut kmsg = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/kmsg")?;
        kmsg.seek(SeekFrom::End(0))?;
        epoll::add(&epoll, &kmsg, EventData::new_u64(KMSG), EventFlags::IN)?;
        let start = now();
        let mut slots = Vec::new();
        for service in std::mem::take(&mut scenario.services) {
            let (output, input) = io::pipe()?;
            rustix::io::ioctl_fionbio(&output, true)?;
            epoll::add(
                &epoll,
                &output,
                EventData::new_u64(slots.len() as u64),
                EventFlags::IN,
            )?;
            slots.push(Slot {
                due: service.after.is_none().then_some(start + service.start_ms),
                service,
                pid: None,
                pidfd: None,
                output,
                input,
                partial_line: Vec::with_capacity(4096),
                spoke: false,
            });
        }
        let probe = Probe::open(slots.iter().map(|s| s.service.cgroup.as_str()));
        rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?;
        Ok(Self {
            teller,
            scenario,
            slots,
            kmsg,
            probe,
            epoll,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let or = |value, default| if value == 0 { default } else { value };
        let limit = or(self.scenario.limit_s, Scenario::LIMIT_S) * 1000;
        let period = or(self.scenario.sample_ms, Scenario::SAMPLE_MS);
        let mut sample_due = now();
        let mut end = limit;
        let mut ready = Vec::with_capacity(16);
        while now() < end {
            if sample_due <= now() {
                let sample = self.probe.sample();
                self.teller.tell(What::Sample(sample))?;
                sample_due = now() + period;
            }
            for i in 0..self.slots.len() {
                if self.slots[i].due.is_some_and(|due| due <= now()) {
                    self.start(i)?;
                }
            }
            let due = self
                .slots
                .iter()
                .filter_map(|s| s.due)
                .fold(sample_due.min(end), u64::min);
            let wait = due.saturating_sub(now());
            let timeout = Timespec {
                tv_sec: (wait / 1000) as i64,
                tv_nsec: (wait % 1000) as i64 * 1_000_000,
            };
            ready.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                Some(&timeout),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &ready {
                match event.data.u64() {
                    KMSG => self.read_kernel_log()?,
                    CHILD => {}
                    slot => self.read_output(slot as usize)?,
                }
            }
            if self.reap()? {
                end = limit.min(now() + self.scenario.linger_ms);
            }
        }
        for i in 0..self.slots.len() {
            self.read_output(i)?;
        }
        self.read_kernel_log()?;
        let sample = self.probe.sample();
        self.teller.tell(What::Sample(sample))?;
        for path in std::mem::take(&mut self.scenario.collect) {
            let text = fs::read_to_string(&path).ok();
            self.teller.tell(What::File { path, text })?;
        }
        self.teller.tell(What::Ended {
            timeout: end == limit,
        })
    }

    fn start(&mut self, index: usize) -> io::Result<()> {
        let slot = &mut self.slots[index];
        slot.due = None;
        // What is started may have the processor to itself before this goes on.
        let t = now();
        let child = Command::new("/proc/self/exe")
            .args(["exec", &slot.service.cgroup])
            .args(&slot.service.command)
            .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
            .stdin(Stdio::null())
            .stdout(slot.input.try_clone()?)
            .stderr(slot.input.try_clone()?)
            .spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        epoll::add(
            &self.epoll,
            &pidfd,
            EventData::new_u64(CHILD),
            EventFlags::IN,
        )?;
        slot.pid = Some(pid.as_raw_pid());
        slot.pidfd = Some(pidfd);
        let service = slot.service.name.clone();
        let pid = pid.as_raw_pid();
        self.teller.tell_of(t, What::Started { service, pid })
    }

    /// Takes in every process that has ended. True if that ends the scenario.
    fn reap(&mut self) -> io::Result<bool> {
        let mut ends = false;
        // Ends with None while processes are left, with ECHILD when there are none.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_pid();
            let Some(i) = self.slots.iter().position(|s| s.pid == Some(pid)) else {
                continue;
            };
            self.read_output(i)?;
            let slot = &mut self.slots[i];
            slot.pid = None;
            slot.pidfd = None;
            if slot.service.restart_ms > 0 {
                slot.due = Some(now() + slot.service.restart_ms);
            } else if self.scenario.until.as_ref() == Some(&slot.service.name) {
                ends = true;
            }
            let service = slot.service.name.clone();
            self.teller.tell(What::Exited {
                service,
                pid,
                code: status.exit_status(),
                signal: status.terminating_signal(),
            })?;
        }
        Ok(ends)
    }

    fn read_output(&mut self, index: usize) -> io::Result<()> {
        let slot = &mut self.slots[index];
        let mut spoke = false;
        let mut chunk = [0; 4096];
        // Any error is "nothing more now": the pipe does not block and has a writer, this process.
        while let Ok(n @ 1..) = slot.output.read(&mut chunk) {
            for piece in chunk[..n].split_inclusive(|&b| b == b'\n') {
                slot.partial_line.extend_from_slice(piece);
                if let Some(line) = slot.partial_line.strip_suffix(b"\n") {
                    let line = String::from_utf8_lossy(line).into_owned();
                    self.teller.tell(What::Line {
                        service: slot.service.name.clone(),
                        line,
                    })?;
                    slot.partial_line.clear();
                    spoke = true;
                }
            }
        }
        if spoke {
            self.release_waiting(index);
        }
        Ok(())
    }

    /// Schedules what waits for this service's first line.
    fn release_waiting(&mut self, index: usize) {
        if std::mem::replace(&mut self.slots[index].spoke, true) {
            return;
        }
        let name = self.slots[index].service.name.clone();
        for slot in &mut self.slots {
            if slot.service.after.as_ref() == Some(&name) {
                slot.due = Some(now() + slot.service.start_ms);
            }
        }
    }

    fn read_kernel_log(&mut self) -> io::Result<()> {
        const WARNING: u32 = 4;
        let mut record = [0; 8192];
        loop {
            let n = match self.kmsg.read(&mut record) {
                Ok(n) => n,
                // Records were overwritten before they were read; the next read goes on behind.
                Err(e) if e.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => continue,
                Err(_) => return Ok(()),
            };
            let text = String::from_utf8_lossy(&record[..n]);
            let Some((head, line)) = text.split_once(';') else {
                continue;
            };
            let priority = head.split(',').next().and_then(|p| p.parse::<u32>().ok());
            if priority.is_some_and(|p| p & 7 <= WARNING) {
                let line = line.lines().next().unwrap_or_default().to_owned();
                self.teller.tell(What::Kernel { line })?;
            }
        }
    }
}

/// Reads the memory figures through descriptors that stay open.
struct Probe {
    meminfo: Option<File>,
    pressure: Option<File>,
    vmstat: Option<File>,
    /// By path: memory.current and memory.events.
    cgroups: BTreeMap<String, (Option<File>, Option<File>)>,
    buffer: Vec<u8>,
}

impl Probe {
    fn open<'a>(cgroups: impl Iterator<Item = &'a str>) -> Self {
        let cgroups = cgroups
            .filter(|path| !path.is_empty())
            .map(|path| {
                let file = |name| File::open(cgroup::path(path).join(name)).ok();
                (
                    path.to_owned(),
                    (file("memory.current"), file("memory.events")),
                )
            })
            .collect();
        Self {
            meminfo: File::open("/proc/meminfo").ok(),
            pressure: File::open("/proc/pressure/memory").ok(),
            vmstat: File::open("/proc/vmstat").ok(),
            cgroups,
            buffer: vec![0; 32 << 10],
        }
    }

    fn sample(&mut self) -> Sample {
        let buffer = &mut self.buffer;
        let mut sample = Sample::default();
        let text = read(self.meminfo.as_ref(), buffer);
        sample.free_kb = field(text, "MemFree:");
        sample.available_kb = field(text, "MemAvailable:");
        sample.swap_free_kb = field(text, "SwapFree:");
        let text = read(self.pressure.as_ref(), buffer);
        for (kind, total) in [
            ("some ", &mut sample.some_us),
            ("full ", &mut sample.full_us),
        ] {
            let line = text
                .lines()
                .find(|l| l.starts_with(kind))
                .unwrap_or_default();
            *total = line
                .rsplit('=')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
        }
        sample.oom_kills = field(read(self.vmstat.as_ref(), buffer), "oom_kill ");
        for (path, (current, events)) in &self.cgroups {
            let bytes: u64 = read(current.as_ref(), buffer)
                .trim_end()
                .parse()
                .unwrap_or(0);
            let oom_kills = field(read(events.as_ref(), buffer), "oom_kill ");
            sample.cgroups.insert(
                path.clone(),
                CgroupSample {
                    current_kb: bytes >> 10,
                    oom_kills,
                },
            );
        }
        sample
    }
}

/// The file's text, empty if there is none.
fn read<'a>(file: Option<&File>, buffer: &'a mut [u8]) -> &'a str {
    let n = file.and_then(|f| f.read_at(buffer, 0).ok()).unwrap_or(0);
    std::str::from_utf8(&buffer[..n]).unwrap_or_default()
}
