//! QEMU: getting it, and what it is told for each architecture.

use crate::host::apt::{self, Apt};
use crate::host::dirs;
use crate::host::shell::exists;
use crate::host::toolchain::Arch;
use anyhow::{Context as _, Result};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// Name of the emulator and the Debian package that has it.
const fn names(arch: Arch) -> (&'static str, &'static str) {
    match arch {
        Arch::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Arch::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        Arch::Riscv64 => ("qemu-system-riscv64", "qemu-system-misc"),
        Arch::Armv7 => ("qemu-system-arm", "qemu-system-arm"),
    }
}

/// Makes sure that the emulator is there: installs it as root, says what to install otherwise.
pub fn install(arch: Arch) -> Result<()> {
    let (program, package) = names(arch);
    apt::need(package, || exists(program)).context(program)
}

/// The emulator of single programs, from Debian's package; nothing is installed.
pub fn user(arch: Arch) -> Result<PathBuf> {
    let dir = dirs::cache("qemu-user")?;
    let name = match arch {
        Arch::Armv7 => "qemu-arm",
        Arch::X86_64 | Arch::Aarch64 | Arch::Riscv64 => &format!("qemu-{}", arch.name()),
    };
    let kept = dir.join(name);
    dirs::make_once(&kept, |into| {
        // It has one for each of forty architectures.
        let unpacked = tempfile::tempdir_in(&dir)?;
        let host = Arch::host()?.debian();
        Apt::unpack_first(&["trixie", "sid"], host, &["qemu-user"], unpacked.path())?;
        fs::rename(unpacked.path().join("usr/bin").join(name), into.join(name))
            .with_context(|| format!("no {name} in qemu-user"))
    })?;
    Ok(kept.join(name))
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Emulated,
    /// See [`lowtide_guest::Scenario::counted`].
    Counted,
}

/// The emulator with the machine that guests of this architecture get, with so many processors (0: as
/// [`lowtide_guest::Scenario::processors`] says), and the name of its serial console in the guest.
pub fn command(arch: Arch, accel: Accel, processors: u32) -> (Command, &'static str) {
    let mut command = Command::new(names(arch).0);
    let (machine, cpu, console) = match arch {
        Arch::X86_64 => ("q35", "max,la57=off", "ttyS0"),
        Arch::Aarch64 => ("virt", "max,pauth=off", "ttyAMA0"),
        // QEMU knows "max" from 8.2 on only.
        Arch::Riscv64 => ("virt", "rv64", "ttyS0"),
        Arch::Armv7 => ("virt", "max", "ttyAMA0"),
    };
    command.args(["-machine", machine]);
    let processors = match (processors, accel) {
        (0, Accel::Counted) => 1,
        (0, _) => 2,
        (some, _) => some,
    };
    command.args(["-smp", &processors.to_string()]);
    match accel {
        Accel::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
        Accel::Emulated => command.args(["-accel", "tcg,thread=multi", "-cpu", cpu]),
        Accel::Counted => {
            command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", cpu])
        }
    };
    command.args(["-no-user-config", "-nodefaults", "-display", "none"]);
    (command, console)
}

/// Whether KVM can be tried at all for this architecture here.
pub fn kvm_is_offered(arch: Arch) -> bool {
    Arch::host().is_ok_and(|host| host == arch)
        && File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
