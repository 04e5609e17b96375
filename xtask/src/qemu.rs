//! QEMU: getting it, and what it is told for each architecture.

use crate::apt;
use crate::shell::{exists, say};
use crate::target::Arch;
use anyhow::{Result, bail};
use std::fs::File;
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
    if exists(program) {
        return Ok(());
    }
    if !apt::is_root() {
        bail!("{program} is missing. As root: apt-get install --no-install-recommends {package}");
    }
    say(format_args!("installing {package}"));
    apt::install(&[package])?;
    if !exists(program) {
        bail!("{package} was installed, but there is no {program}");
    }
    Ok(())
}

/// The emulator with the machine that guests of this architecture get, and the name of its serial
/// console in the guest.
pub fn command(arch: Arch, kvm: bool) -> (Command, &'static str) {
    let mut command = Command::new(names(arch).0);
    let (machine, cpu, console) = match arch {
        Arch::X86_64 => ("q35", "max,la57=off", "ttyS0"),
        Arch::Aarch64 => ("virt", "max,pauth=off", "ttyAMA0"),
        Arch::Riscv64 => ("virt", "max", "ttyS0"),
        Arch::Armv7 => ("virt", "max", "ttyAMA0"),
    };
    command.args(["-machine", machine, "-smp", "2"]);
    if kvm {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        command.args(["-accel", "tcg,thread=multi", "-cpu", cpu]);
    }
    command.args([
        "-no-user-config",
        "-nodefaults",
        "-display",
        "none",
        "-no-reboot",
    ]);
    (command, console)
}

/// Whether KVM can be tried at all for this architecture here.
pub fn kvm_is_offered(arch: Arch) -> bool {
    arch.name() == std::env::consts::ARCH
        && File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok()
}
