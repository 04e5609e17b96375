//! Boots a guest, lets it carry out a scenario and collects what it says.

mod initramfs;
pub mod kernel;
mod monitor;
pub mod qemu;

pub use initramfs::busybox;

use self::initramfs::Initramfs;
use self::kernel::Kernel;
use self::monitor::Monitor;
use self::qemu::Accel;
use crate::build::programs::Programs;
use crate::host::dirs;
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result, bail};
use lowtide_guest::{
    EVENT_PORT, Event, MODULE_LIST, Report, SCENARIO_FILE, Sample, Scenario, What,
};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Where the agent lies in a guest.
pub const AGENT: &str = "/bin/lowtide";
/// Where the init, which is also the loads, lies in a guest.
pub const GUEST: &str = "/bin/lowtide-guest";

/// Modules for what guests use beside the disk: events, zram with the compressors that kernels
/// default to, the watchdog.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "virtio_console",
    "zram",
    "lz4",
    "lzo-rle",
    "zsmalloc",
    "i6300esb",
];

/// Module of the disk, and its parameters.
const DISK: (&str, &str) = ("nvme", "");
/// Of a counted guest's: any request, mostly 128 KiB, takes 4 ms, as on a slow card.
pub const COUNTED_DISK: (&str, &str) = ("null_blk", "irqmode=2 completion_nsec=4000000");

/// A counted guest that has something to do all the time is slower than its own clock by this, at
/// worst.
const SLOWER_AT_WORST: u64 = 40;

/// A guest that goes by the host's clock may be slower by this than it is on an idle host.
const BUSY_HOST: u64 = 5;

/// Booting under emulation on a busy machine takes this long at worst.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A guest to boot.
#[derive(Clone, Debug)]
pub struct Guest {
    pub kernel: Kernel,
    pub programs: Programs,
    pub memory_mb: u32,
    pub scenario: Scenario,
    /// Files from the host and where they go.
    pub files: Vec<(PathBuf, String)>,
    /// More words for the kernel's command line.
    pub append: String,
}

/// What a guest did.
#[derive(Debug)]
pub struct Run {
    pub events: Vec<Event>,
}

impl Guest {
    /// Boots, waits for the end and hands out every event as it comes. An error if the guest does
    /// not come to its own end: it may be killed here, or its kernel may have panicked.
    pub fn run(&self, mut on_event: impl FnMut(&Event)) -> Result<Run> {
        let arch = self.kernel.arch;
        let accel = if self.scenario.counted {
            Accel::Counted
        } else if kvm_works(self)? {
            Accel::Kvm
        } else {
            Accel::Emulated
        };
        self.boot(accel, self.limit(), &mut on_event)
            .with_context(|| {
                format!(
                    "guest with Linux {} on {}",
                    self.kernel.release,
                    arch.name()
                )
            })
    }

    fn limit(&self) -> Duration {
        let slower = if self.scenario.counted {
            SLOWER_AT_WORST
        } else {
            1
        };
        BOOT_LIMIT + Duration::from_secs(self.limit_s() * slower)
    }

    /// Seconds by the guest's clock after which it ends in any case. One that is not counted goes by the
    /// host's clock: where it has an end of its own, only what hangs is to reach the limit.
    fn limit_s(&self) -> u64 {
        let own = match self.scenario.limit_s {
            0 => Scenario::LIMIT_S,
            own => own,
        };
        let ends = self.scenario.until.is_some() && !self.scenario.counted;
        own * if ends { BUSY_HOST } else { 1 }
    }

    fn boot(&self, accel: Accel, limit: Duration, on_event: &mut dyn FnMut(&Event)) -> Result<Run> {
        let dir = tempfile::tempdir()?;
        let initramfs = dir.path().join("initramfs");
        fs::write(&initramfs, self.initramfs()?)?;
        let console = dir.path().join("console");
        let (mut qemu, serial) = qemu::command(self.kernel.arch, accel, self.scenario.processors);
        if !self.scenario.boots_again {
            qemu.arg("-no-reboot");
        }
        // On a busy host the timer ticks too late for a kernel that looks whether it does.
        let timer = match self.kernel.arch {
            Arch::X86_64 => " no_timer_check",
            _ => "",
        };
        qemu.args(["-m", &format!("{}M", self.memory_mb)])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&initramfs)
            .arg("-append")
            // The console is for panics only: writing to it holds up the guest. The certificates
            // are for signatures of modules, and these have none: a quarter of a second.
            .arg(format!(
                "console={serial} loglevel=2 panic=-1 mitigations=off{timer} \
                 initcall_blacklist=load_system_certificate_list {}",
                self.append
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args([
                "-device",
                "virtio-serial-pci",
                "-chardev",
                "stdio,id=events,signal=off",
            ])
            .args([
                "-device",
                &format!("virtserialport,chardev=events,name={EVENT_PORT}"),
            ]);
        if self.scenario.disk_mb > 0 && !self.scenario.counted {
            let disk = dir.path().join("disk");
            File::create(&disk)?.set_len(u64::from(self.scenario.disk_mb) << 20)?;
            qemu.arg("-drive")
                .arg(format!(
                    "file={},if=none,id=disk,format=raw,cache=unsafe",
                    disk.display()
                ))
                .args(["-device", "nvme,drive=disk,serial=disk"]);
        }
        let mut monitor = None;
        if self.scenario.watchdog {
            qemu.args(["-device", "i6300esb"]);
            monitor = Some(Monitor::listen(dir.path(), &mut qemu)?);
        }
        // The port counts as unplugged when its input ends, so that stays open until QEMU is gone.
        qemu.stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let qemu = qemu
            .spawn()
            .with_context(|| format!("cannot run {qemu:?}"))?;
        let mut qemu = Running(qemu);
        let (events, ended) = collect(&mut qemu.0, limit, on_event)?;
        let failure = match ended {
            None if self.scenario.restarts => Some("it was not restarted".to_owned()),
            Some(_) if self.scenario.restarts => {
                qemu.stop();
                let restarted = text_of(&console).contains("reboot: Restarting system")
                    || monitor.map_or(Ok(false), Monitor::watchdog_went_off)?;
                ended.filter(|_| !restarted)
            }
            ended => ended,
        };
        if let Some(why) = failure {
            let mut stderr = String::new();
            qemu.stop();
            if let Some(pipe) = qemu.0.stderr.take() {
                stderr = std::io::read_to_string(pipe).unwrap_or_default();
            }
            bail!("{why}\n{stderr}{}", tail(&text_of(&console), 40));
        }
        Ok(Run { events })
    }

    fn initramfs(&self) -> Result<Vec<u8>> {
        let mut root = Initramfs::default();
        root.console()?;
        root.copy("/init", &self.programs.guest)?;
        root.link(GUEST, "/init")?;
        root.copy(AGENT, &self.programs.agent)?;
        root.copy("/bin/busybox", &busybox(self.kernel.arch)?)?;
        // The shell finds the other applets by itself.
        root.link("/bin/sh", "busybox")?;
        let scenario = Scenario {
            limit_s: self.limit_s(),
            ..self.scenario.clone()
        };
        root.file(SCENARIO_FILE, 0o644, &serde_json::to_vec(&scenario)?)?;
        let (disk, parameters) = if self.scenario.counted {
            COUNTED_DISK
        } else {
            DISK
        };
        let own = self.scenario.modules.iter();
        let own = own.map(|(name, parameters)| (name.as_str(), parameters.as_str()));
        let wanted: Vec<_> = MODULES.iter().map(|name| (*name, "")).collect();
        let wanted: Vec<_> = wanted
            .into_iter()
            .chain([(disk, parameters)])
            .chain(own)
            .collect();
        let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
        let mut list = String::new();
        for (name, module) in self.kernel.modules(&names)? {
            root.file(&format!("/lib/modules/{name}"), 0o644, &module)?;
            let is_it = |(wanted, _): &&(&str, &str)| name.strip_suffix(".ko") == Some(*wanted);
            let parameters = wanted
                .iter()
                .find(is_it)
                .map_or("", |(_, parameters)| *parameters);
            list.push_str(&format!("{name} {parameters}\n"));
        }
        root.file(MODULE_LIST, 0o644, list.as_bytes())?;
        for (host, guest) in &self.files {
            root.copy(guest, host)?;
        }
        root.finish()
    }
}

/// Reads events until QEMU is gone. The second value says why that was no proper end.
fn collect(
    qemu: &mut Child,
    limit: Duration,
    on_event: &mut dyn FnMut(&Event),
) -> Result<(Vec<Event>, Option<String>)> {
    let output = BufReader::new(qemu.stdout.take().context("stdout is piped")?);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in output.split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + limit;
    let mut events = Vec::new();
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let event: Event = serde_json::from_slice(&line)
                    .with_context(|| format!("not an event: {}", String::from_utf8_lossy(&line)))?;
                on_event(&event);
                events.push(event);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                return Ok((
                    events,
                    Some(format!("not at its end after {} s", limit.as_secs())),
                ));
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    let ended = matches!(
        events.last(),
        Some(Event {
            what: What::Ended { .. },
            ..
        })
    );
    Ok((events, (!ended).then(|| "it stopped in the middle".into())))
}

/// Kills its process when dropped.
struct Running(Child);

impl Running {
    fn stop(&mut self) {
        // It may be gone by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether guests run under KVM here. That a device is there does not say so: on a nested host
/// kernels may stop half way, so one guest is booted to find out, once per boot of the machine.
fn kvm_works(like: &Guest) -> Result<bool> {
    static WORKS: OnceLock<bool> = OnceLock::new();
    if !qemu::kvm_is_offered(like.kernel.arch) {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let known = dirs::cache("kvm")?.join(boot.trim());
    Ok(*WORKS.get_or_init(|| {
        if let Ok(text) = fs::read_to_string(&known) {
            return text == "yes";
        }
        let scenario = Scenario {
            limit_s: 1,
            ..Scenario::default()
        };
        let probe = Guest {
            scenario,
            files: Vec::new(),
            append: String::new(),
            ..like.clone()
        };
        let works = probe
            .boot(Accel::Kvm, Duration::from_secs(20), &mut |_| {})
            .is_ok();
        // Only a remark: the next run finds out again.
        let _ = fs::write(&known, if works { "yes" } else { "no" });
        works
    }))
}

fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl Run {
    /// When and how the last process of a service ended: exit code or signal.
    pub fn exited(&self, name: &str) -> Option<(u64, Option<i32>, Option<i32>)> {
        self.events.iter().rev().find_map(|e| match &e.what {
            What::Exited {
                service,
                code,
                signal,
                ..
            } if service == name => Some((e.t, *code, *signal)),
            _ => None,
        })
    }

    /// What a service wrote, with the time.
    pub fn lines<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u64, &'a str)> {
        self.events.iter().filter_map(move |e| match &e.what {
            What::Line { service, line } if service == name => Some((e.t, line.as_str())),
            _ => None,
        })
    }

    /// What a load reported, with the time.
    pub fn reports<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u64, Report)> {
        self.lines(name)
            .filter_map(|(t, line)| Some((t, serde_json::from_str(line).ok()?)))
    }

    pub fn samples(&self) -> impl Iterator<Item = (u64, &Sample)> {
        self.events.iter().filter_map(|e| match &e.what {
            What::Sample(sample) => Some((e.t, sample)),
            _ => None,
        })
    }

    /// The files that were collected at the end, those that could be read.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.events.iter().filter_map(|e| match &e.what {
            What::File { path, text } => Some((path.as_str(), text.as_deref()?)),
            _ => None,
        })
    }

    /// The kernel's own record of what it killed.
    pub fn oom_lines(&self) -> impl Iterator<Item = (u64, &str)> {
        self.events.iter().filter_map(|e| match &e.what {
            What::Kernel { line } if line.contains("Killed process") => Some((e.t, line.as_str())),
            _ => None,
        })
    }
}
