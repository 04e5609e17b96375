//! `cargo xtask build-ebpf`: the BPF objects that the agent embeds, the same bytes on every machine.

use crate::host::dirs;
use crate::host::shell::{output, run, say};
use crate::host::toolchain::{self, Toolchain};
use anyhow::{Result, bail};
use argh::FromArgs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The compiler whose output is committed: another one emits other bytes.
const RUST: &str = "1.95";
/// The library of the LLVM that this compiler comes with; bpf-linker has to be of the same one.
const LLVM: &str = "libLLVM.so.22.";
const LINKER: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";
/// The programs, which are the binaries of agent-ebpf, and where their objects are committed.
const PROGRAMS: [&str; 4] = ["survey", "watch", "reflex", "symbols"];
const OBJECTS: &str = "agent/src/sense/bpf";

/// build the BPF objects that are committed beside the agent (Rust 1.95)
#[derive(FromArgs)]
#[argh(subcommand, name = "build-ebpf")]
pub struct BuildEbpf {
    /// leave the committed objects alone, and fail if a fresh build differs from one of them
    #[argh(switch)]
    check: bool,
}

impl BuildEbpf {
    pub fn run(self) -> Result<ExitCode> {
        let tools = Tools::get()?;
        if self.check {
            tools.check()?;
            println!("the objects in {OBJECTS} are what their source gives");
        } else {
            let built = tools.build()?;
            for program in PROGRAMS {
                fs::copy(built.join(program), committed(program))?;
                println!("{program}: {}", describe(&committed(program))?);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What turns Rust into BPF.
pub struct Tools {
    toolchain: Toolchain,
    linker: PathBuf,
}

impl Tools {
    /// Gets the source of `core` and bpf-linker, each once. An error where the compiler in use is
    /// not the pinned one, or these cannot be had.
    pub fn get() -> Result<Self> {
        let version = toolchain::version()?;
        let llvm = llvm(&toolchain::sysroot()?)?;
        let (Some(llvm), true) = (llvm, version.starts_with(&format!("{RUST}."))) else {
            bail!(
                "the BPF objects are built by Rust {RUST} with the LLVM that comes with it, and this \
                 is Rust {version}: run `rustup toolchain install {RUST}.0 --component rust-src`, \
                 then `cargo +{RUST}.0 xtask build-ebpf`"
            );
        };
        let toolchain = toolchain::with_source()?;
        let root = dirs::cache("bpf-linker")?.join(format!("{LINKER}-rust-{version}"));
        dirs::make_once(&root, |into| install_linker(&toolchain, &llvm, into))?;
        Ok(Self {
            toolchain,
            linker: root.join("bin/bpf-linker"),
        })
    }

    /// Says in which directory the fresh objects are, by the names of the programs.
    fn build(&self) -> Result<PathBuf> {
        let target = dirs::target().join("ebpf");
        run(self
            .toolchain
            .cargo()
            .current_dir(dirs::workspace().join("agent-ebpf"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", self.toolchain.sysroot()?.join("lib"))
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            // None of the user's own.
            .env("CARGO_ENCODED_RUSTFLAGS", "")
            .args(["build", "--quiet", "--release", "--locked"])
            .args(["-Zbuild-std=core", "--target", TARGET, "--target-dir"])
            .arg(&target))?;
        Ok(target.join(TARGET).join("release"))
    }

    /// An error that says what to do if a fresh build differs from a committed object.
    pub fn check(&self) -> Result<()> {
        let built = self.build()?;
        for program in PROGRAMS {
            let (built, committed) = (built.join(program), committed(program));
            if fs::read(&built)? != fs::read(&committed)? {
                bail!(
                    "{} is not what its source gives:\n  committed  {}\n  built      {}\n\
                     To fix it, run `cargo xtask build-ebpf` and commit the object.",
                    committed.display(),
                    describe(&committed)?,
                    describe(&built)?
                );
            }
        }
        Ok(())
    }
}

fn committed(program: &str) -> PathBuf {
    dirs::workspace()
        .join(OBJECTS)
        .join(format!("{program}.bpf.o"))
}

/// Size and sha256 of a file.
fn describe(path: &Path) -> Result<String> {
    let sum = output(Command::new("sha256sum").arg(path))?;
    let hash = sum.split_whitespace().next().unwrap_or_default();
    let size = fs::metadata(path)?.len();
    Ok(format!("{size:6} bytes, sha256 {hash}"))
}

/// The LLVM that a rustc from rustup brings along; none where the system's is used.
fn llvm(sysroot: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(sysroot.join("lib"))?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries
        .into_iter()
        .find(|e| e.file_name().to_string_lossy().starts_with(LLVM))
        .map(|e| e.path()))
}

/// Builds bpf-linker against the compiler's own LLVM, so that none has to be installed.
fn install_linker(toolchain: &Toolchain, llvm: &Path, root: &Path) -> Result<()> {
    say(format_args!("building bpf-linker {LINKER}, once"));
    let prefix = tempfile::tempdir()?;
    let lib = prefix.path().join("lib");
    fs::create_dir(&lib)?;
    for name in [llvm.file_name().unwrap_or_default(), "libLLVM.so".as_ref()] {
        std::os::unix::fs::symlink(llvm, lib.join(name))?;
    }
    run(toolchain
        .cargo()
        .env("LLVM_PREFIX", prefix.path())
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "--quiet", "--locked", "--no-track"])
        .args(["bpf-linker", "--version", LINKER])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(root))
}
