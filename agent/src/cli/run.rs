use super::backoff;
use super::output::complain;
use crate::act;
use crate::config::{self, Paths};
use crate::daemon::{Daemon, rights, tell_mistakes, tell_warnings};
use crate::stack;
use crate::tell::Log;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::{Builder, JoinHandle};

/// Runs the agent until SIGTERM; SIGHUP reads the config anew.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "run")]
pub struct Run {
    /// read this file alone, on top of what is built in; may be given more than once, later ones
    /// set single keys over earlier ones
    #[argh(option, arg_name = "file")]
    config: Vec<PathBuf>,
    /// only say what would be done: nothing is reclaimed, asked, killed or set
    #[argh(switch)]
    dry_run: bool,
    /// show what the kernel's verifier says when it refuses the BPF program
    #[argh(switch)]
    verifier_log: bool,
}

impl Run {
    /// Fails when the config cannot be used or the kernel offers nothing to work with.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        if self
            .config
            .iter()
            .any(|file| file == Path::new(config::STDIN))
        {
            complain(
                "lowtide run: a config that is written to it could not be read anew: name a file",
            );
            return ExitCode::from(super::USAGE);
        }
        act::let_go_at_panic();
        let mut log = Log::open();
        // While there is one thread: those to come have no more.
        if let Err(error) = rights::give_up_others(is_jit_off()) {
            log.warning(format_args!("all rights are kept: {error}"));
        }
        // What waits for signals has one, and panics where it cannot be started.
        if let Err(error) = Builder::new().spawn(|| ()).map(JoinHandle::join) {
            log.error(format_args!(
                "no thread can be started: {error}; the agent needs three, see pids.max of its cgroup"
            ));
            return ExitCode::FAILURE;
        }
        // From the first moment on: what comes before its handler ends it, also a SIGHUP.
        let signals = Daemon::signals(&mut log);
        let paths = Paths {
            in_earnest: true,
            ..Paths::new(None, self.config)
        };
        // Not tried by hand.
        let is_service = paths.files.is_empty();
        let config = match stack::on_its_own(|| config::load(&paths).map(Box::new)) {
            Ok(config) => config,
            Err(problems) => {
                tell_mistakes(&problems, &mut log);
                log.error(format_args!(
                    "the config cannot be used ({}), see `lowtide check`",
                    problems.count()
                ));
                if is_service {
                    backoff::fail(signals);
                }
                return ExitCode::FAILURE;
            }
        };
        let dry_run = self.dry_run || config.dry_run;
        tell_warnings(&config, &mut log);
        if let Err(error) = rights::forbid_more(&config) {
            log.warning(format_args!(
                "set-user-ID programs keep their rights: {error}"
            ));
        }
        let daemon = match Daemon::start(config, log, dry_run, self.verifier_log) {
            Ok(started) => started,
            Err(error) if self.verifier_log => {
                complain(error);
                return ExitCode::FAILURE;
            }
            Err(error) => {
                Log::open().error(format_args!("{error}"));
                if is_service {
                    backoff::fail(signals);
                }
                return ExitCode::FAILURE;
            }
        };
        if is_service {
            backoff::clear();
        }
        smol::block_on(daemon.run(&paths, signals));
        ExitCode::SUCCESS
    }
}

/// Whether this kernel has a BPF JIT that is off.
fn is_jit_off() -> bool {
    #[cfg(feature = "bpf")]
    return crate::sense::bpf::is_jit_off();
    #[cfg(not(feature = "bpf"))]
    false
}
