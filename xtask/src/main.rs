//! `cargo xtask …`: builds, boots and measures.

mod apt;
mod bench;
mod binaries;
mod build;
mod check;
mod demo;
mod dirs;
mod ebpf;
mod firmware;
mod footprint;
mod fuzz;
mod guest_tests;
mod initramfs;
mod kernel;
mod lint;
mod loads;
mod matrix;
mod monitor;
mod programs;
mod qemu;
mod scenarios;
mod shell;
mod target;
mod vm;
mod vm_command;
mod yocto;

use argh::FromArgs;
use std::process::ExitCode;

/// Developer commands of lowtide.
#[derive(FromArgs)]
struct Xtask {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Bench(bench::Bench),
    Fuzz(fuzz::Fuzz),
    Build(build::Build),
    BuildEbpf(ebpf::BuildEbpf),
    Lint(lint::Lint),
    Demo(demo::Demo),
    Footprint(footprint::Footprint),
    Loads(loads::Loads),
    Matrix(matrix::Matrix),
    Setup(Setup),
    Test(check::Test),
    Vm(vm_command::Vm),
    YoctoCrates(yocto::YoctoCrates),
}

/// get what the guests need: QEMU, the newest kernel, busybox, a static toolchain
#[derive(FromArgs)]
#[argh(subcommand, name = "setup")]
struct Setup {}

fn main() -> ExitCode {
    let result = match argh::from_env::<Xtask>().command {
        Command::Bench(command) => command.run(),
        Command::Fuzz(command) => command.run(),
        Command::Setup(_) => setup().map(|()| ExitCode::SUCCESS),
        Command::Build(command) => command.run(),
        Command::BuildEbpf(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Footprint(command) => command.run(),
        Command::Loads(command) => command.run(),
        Command::Matrix(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Lint(command) => command.run(),
        Command::Vm(command) => command.run(),
        Command::YoctoCrates(command) => command.run(),
    };
    result.unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn setup() -> anyhow::Result<()> {
    let arch = target::Arch::X86_64;
    qemu::install(arch)?;
    kernel::find(arch, None)?;
    initramfs::busybox(arch)?;
    target::prepare(arch)?;
    Ok(())
}
