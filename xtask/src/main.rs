//! `cargo xtask …`: builds, boots and measures.
//!
//! By floors, each of which imports only what is below it: bench, demo > test > scenario > vm > build >
//! host.

mod bench;
mod build;
mod demo;
mod host;
mod scenario;
mod test;
mod vm;

use argh::FromArgs;
use host::toolchain::{self, Arch};
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
    Build(build::Build),
    BuildEbpf(build::ebpf::BuildEbpf),
    Demo(demo::Demo),
    Dist(build::dist::Dist),
    Faults(test::faults::Faults),
    Footprint(bench::idle::Footprint),
    Fuzz(test::fuzz::Fuzz),
    Lint(test::lint::Lint),
    Loads(test::loads::Loads),
    Matrix(test::matrix::Matrix),
    Setup(Setup),
    Soak(test::soak::Soak),
    Test(test::Test),
    Vm(scenario::command::Vm),
    YoctoCrates(build::yocto::YoctoCrates),
}

/// get what the guests need: QEMU, the newest kernel, busybox, a static toolchain
#[derive(FromArgs)]
#[argh(subcommand, name = "setup")]
struct Setup {}

fn main() -> ExitCode {
    let result = match argh::from_env::<Xtask>().command {
        Command::Bench(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::BuildEbpf(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Dist(command) => command.run(),
        Command::Faults(command) => command.run(),
        Command::Footprint(command) => command.run(),
        Command::Fuzz(command) => command.run(),
        Command::Lint(command) => command.run(),
        Command::Loads(command) => command.run(),
        Command::Matrix(command) => command.run(),
        Command::Setup(_) => setup().map(|()| ExitCode::SUCCESS),
        Command::Soak(command) => command.run(),
        Command::Test(command) => command.run(),
        Command::Vm(command) => command.run(),
        Command::YoctoCrates(command) => command.run(),
    };
    result.unwrap_or_else(|e| {
        eprintln!("error: {e:#}");
        ExitCode::FAILURE
    })
}

fn setup() -> anyhow::Result<()> {
    let arch = Arch::X86_64;
    vm::qemu::install(arch)?;
    vm::kernel::find(arch, None)?;
    vm::busybox(arch)?;
    toolchain::prepare(arch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::dirs::workspace;

    /// In the docs as in the workflow of a developer.
    #[test]
    fn commands_in_the_docs_are_taken() -> anyhow::Result<()> {
        let mut pages = vec![
            workspace().join("README.md"),
            workspace().join("CONTRIBUTING.md"),
        ];
        for entry in std::fs::read_dir(workspace().join("docs"))? {
            pages.push(entry?.path());
        }
        pages.retain(|page| page.extension().is_some_and(|kind| kind == "md"));
        let mut seen = 0;
        for page in pages {
            let text = std::fs::read_to_string(&page)?;
            for line in text.lines().filter_map(|l| l.strip_prefix("cargo xtask ")) {
                let line = line.split('#').next().unwrap_or_default();
                let words: Vec<_> = line.split_whitespace().collect();
                let taken = Xtask::from_args(&["xtask"], &words);
                let refused = taken.err().map(|early| early.output);
                assert_eq!(refused, None, "{}: {line}", page.display());
                seen += 1;
            }
        }
        assert!(seen > 5, "{seen}");
        Ok(())
    }
}
