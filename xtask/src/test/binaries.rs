//! Tests of the binaries as they are shipped: what they are, and that they run, those for other
//! architectures under QEMU's user mode.

use crate::build::programs::{self, Profile};
use crate::host::dirs;
use crate::host::shell::say;
use crate::host::toolchain::Arch;
use crate::test::code;
use crate::test::harness::{Tally, verdict};
use crate::vm::qemu;
use anyhow::{Context as _, Result, ensure};
use object::{Architecture, Object as _, ObjectSection as _};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Those of `cargo xtask test`, one with words of 32 bits among them. Where rustup has no standard
/// library, it takes a minute to build; `cargo xtask matrix` tests all architectures.
pub const EVERY_RUN: [Arch; 3] = [Arch::X86_64, Arch::Aarch64, Arch::Armv7];

/// Builds and tests those whose test name contains the filter. Skipped where the emulator cannot
/// be had.
pub fn test(archs: &[Arch], filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    for &arch in archs {
        let name = format!("binary::{}", arch.name());
        if filter.is_some_and(|f| !name.contains(f)) {
            continue;
        }
        say(&name);
        let emulator = if Arch::host().is_ok_and(|host| host == arch) {
            None
        } else {
            match qemu::user(arch) {
                Ok(emulator) => Some(emulator),
                Err(e) => {
                    println!("test {name} ... SKIPPED\n    no emulator: {e:#}");
                    tally.skipped += 1;
                    continue;
                }
            }
        };
        let binary = programs::build_agent(arch, Profile::Release)?;
        let lowtide = || match &emulator {
            None => Command::new(&binary),
            Some(emulator) => {
                let mut command = Command::new(emulator);
                command.arg(&binary);
                command
            }
        };
        let map = programs::link_map(arch, Profile::Release);
        let result = is_as_shipped(&binary, arch)
            .and_then(|()| code::is_where_it_belongs(&map))
            .and_then(|()| runs(arch, lowtide));
        println!("test {name} ... {}", verdict(result.is_ok()));
        if let Err(e) = &result {
            println!("    {e:#}");
        }
        tally.count(result.is_ok());
    }
    Ok(tally)
}

fn is_as_shipped(binary: &Path, arch: Arch) -> Result<()> {
    let contents = fs::read(binary)?;
    let file = object::File::parse(&*contents)?;
    is_static_and_stripped(&file, arch)?;
    is_small(contents.len(), arch)?;
    can_give_back_code(&file)
}

/// Flash is what the smallest devices have least of.
fn is_small(bytes: usize, arch: Arch) -> Result<()> {
    let limit = match arch {
        Arch::X86_64 => (1 << 20) * 115 / 100,
        Arch::Aarch64 | Arch::Riscv64 | Arch::Armv7 => 1 << 20,
    };
    ensure!(
        bytes <= limit,
        "{bytes} bytes, and {limit} are the limit; is it built with the standard library that \
         `cargo xtask` makes?"
    );
    Ok(())
}

fn is_static_and_stripped(file: &object::File<'_>, arch: Arch) -> Result<()> {
    let wanted = match arch {
        Arch::X86_64 => Architecture::X86_64,
        Arch::Aarch64 => Architecture::Aarch64,
        Arch::Riscv64 => Architecture::Riscv64,
        Arch::Armv7 => Architecture::Arm,
    };
    ensure!(
        file.architecture() == wanted,
        "it is for {:?}",
        file.architecture()
    );
    ensure!(
        file.section_by_name(".interp").is_none(),
        "it needs a loader"
    );
    ensure!(file.imports()?.is_empty(), "it needs libraries");
    ensure!(file.symbols().next().is_none(), "it is not stripped");
    Ok(())
}

/// What only the start needs is told by names of functions, which a compiler may write in another way:
/// then it would be locked in memory with the rest. It is nearly as much as that; on aarch64, where the
/// compiler shares pieces of functions (`OUTLINED_FUNCTION_`, which are in the rest), seven tenths of it.
fn can_give_back_code(file: &object::File<'_>) -> Result<()> {
    let size = |name| {
        let section = file.section_by_name(name);
        section.map_or(0, |section| section.size())
    };
    let (rest, cold) = (size(".text"), size("lowtide_cold"));
    ensure!(
        cold >= rest * 2 / 3,
        "{cold} bytes of code can be given back, {rest} stay in memory"
    );
    Ok(())
}

fn runs(arch: Arch, lowtide: impl Fn() -> Command) -> Result<()> {
    let run = |arguments: &[&Path]| -> Result<Output> {
        let mut command = lowtide();
        command.args(arguments);
        command
            .output()
            .with_context(|| format!("cannot run {command:?}"))
    };
    let version = run(&["--version".as_ref()])?;
    let said = String::from_utf8_lossy(&version.stdout).into_owned();
    ensure!(
        version.status.success()
            && said.starts_with(concat!("lowtide ", env!("CARGO_PKG_VERSION"), " ("))
            && said.ends_with(&format!("bpf, {})\n", arch.triple())),
        "--version: {version:?}"
    );
    let router = dirs::workspace().join("config/profiles/router.toml");
    let check = run(&["check".as_ref(), "--offline".as_ref(), &router])?;
    ensure!(check.status.success(), "check: {check:?}");
    let dir = tempfile::tempdir()?;
    let bad = dir.path().join("bad.toml");
    fs::write(&bad, "[wake]\ntrigger = \"lots\"\n")?;
    let check = run(&["check".as_ref(), "--offline".as_ref(), &bad])?;
    ensure!(
        check.status.code() == Some(1)
            && String::from_utf8_lossy(&check.stderr).contains("bad.toml:2:"),
        "check of a bad file: {check:?}"
    );
    let config = run(&["config".as_ref(), &router])?;
    let shown = String::from_utf8_lossy(&config.stdout);
    ensure!(
        config.status.success() && shown.contains("router.toml:"),
        "config: {config:?}"
    );
    // What is printed is a config again, and the same.
    let printed = dir.path().join("printed.toml");
    fs::write(&printed, &config.stdout)?;
    let check = run(&["check".as_ref(), "--offline".as_ref(), &printed])?;
    ensure!(
        check.status.success(),
        "check of what config printed: {check:?}"
    );
    Ok(())
}
