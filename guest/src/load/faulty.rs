//! A program from which the kernel withholds something.

use argh::FromArgs;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capabilities, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};
use std::ffi::{c_int, c_long};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

/// become another program that is refused system calls, rights or room
#[derive(FromArgs)]
#[argh(subcommand, name = "faulty")]
pub struct Faulty {
    /// a system call and what it fails with, e.g. bpf=EPERM
    #[argh(option, from_str_fn(refusal))]
    refuse: Vec<Refusal>,
    /// a capability that is missing, e.g. CAP_KILL
    #[argh(option, from_str_fn(capability))]
    without: Vec<CapabilitySet>,
    /// a resource and its limit, e.g. NOFILE=64
    #[argh(option, from_str_fn(limit))]
    limit: Vec<(Resource, u64)>,
    /// a mount that it may only read
    #[argh(option)]
    read_only: Vec<PathBuf>,
    /// program and its arguments
    #[argh(positional, greedy)]
    command: Vec<String>,
}

#[derive(Clone, Copy)]
struct Refusal {
    call: c_long,
    errno: c_int,
}

impl Faulty {
    pub fn run(self) -> io::Result<()> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            return Err(io::Error::other("no program"));
        };
        if !self.read_only.is_empty() {
            // SAFETY: this process has one thread, and shares no mounts that it relies on.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(
                "/",
                MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
            )?;
        }
        for path in &self.read_only {
            mount_bind_recursive(path, path)?;
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY, "")?;
        }
        for (resource, value) in self.limit {
            let value = Some(value);
            setrlimit(
                resource,
                Rlimit {
                    current: value,
                    maximum: value,
                },
            )?;
        }
        for missing in &self.without {
            remove_capability_from_bounding_set(*missing)?;
        }
        let missing = self
            .without
            .iter()
            .fold(CapabilitySet::empty(), |all, one| all | *one);
        if !missing.is_empty() {
            let found = capabilities(None)?;
            set_capabilities(
                None,
                CapabilitySets {
                    effective: found.effective - missing,
                    permitted: found.permitted - missing,
                    inheritable: found.inheritable - missing,
                },
            )?;
        }
        if !self.refuse.is_empty() {
            set_no_new_privs(true)?;
            refuse(&self.refuse)?;
        }
        let error = Command::new(program).args(arguments).exec();
        Err(io::Error::new(error.kind(), format!("{program}: {error}")))
    }
}

/// From now on these calls fail, in this process and in all that it starts (seccomp(2)).
fn refuse(refusals: &[Refusal]) -> io::Result<()> {
    // All as in linux/bpf_common.h and linux/filter.h: load the number of the call, and for each that
    // is refused jump over one instruction unless it is that one.
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let returns = libc::BPF_RET | libc::BPF_K;
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for refusal in refusals {
        filter.push(libc::sock_filter {
            jf: 1,
            ..statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                refusal.call as u32,
            )
        });
        let errno = refusal.errno as u32;
        filter.push(statement(returns, libc::SECCOMP_RET_ERRNO | errno));
    }
    filter.push(statement(returns, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter, which is as long as the program says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn refusal(text: &str) -> Result<Refusal, String> {
    let (call, errno) = text.split_once('=').ok_or("not CALL=ERRNO")?;
    let call = match call {
        "bpf" => libc::SYS_bpf,
        "clone3" => libc::SYS_clone3,
        "flock" => libc::SYS_flock,
        "inotify_init1" => libc::SYS_inotify_init1,
        "mlockall" => libc::SYS_mlockall,
        "name_to_handle_at" => libc::SYS_name_to_handle_at,
        "open_by_handle_at" => libc::SYS_open_by_handle_at,
        "pidfd_open" => libc::SYS_pidfd_open,
        "process_mrelease" => 448,
        "sched_setscheduler" => libc::SYS_sched_setscheduler,
        "socket" => libc::SYS_socket,
        "statx" => libc::SYS_statx,
        _ => return Err(format!("{call}: add it to faulty.rs")),
    };
    let errno = match errno {
        "EAGAIN" => libc::EAGAIN,
        "EINVAL" => libc::EINVAL,
        "EMFILE" => libc::EMFILE,
        "ENOMEM" => libc::ENOMEM,
        "ENOSYS" => libc::ENOSYS,
        "EPERM" => libc::EPERM,
        _ => return Err(format!("{errno}: add it to faulty.rs")),
    };
    Ok(Refusal { call, errno })
}

fn capability(text: &str) -> Result<CapabilitySet, String> {
    let name = text.strip_prefix("CAP_").unwrap_or(text);
    CapabilitySet::from_name(name).ok_or_else(|| format!("{text}: no such capability"))
}

fn limit(text: &str) -> Result<(Resource, u64), String> {
    let (name, value) = text.split_once('=').ok_or("not RESOURCE=NUMBER")?;
    let resource = match name {
        "AS" => Resource::As,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "MEMLOCK" => Resource::Memlock,
        "NOFILE" => Resource::Nofile,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return Err(format!("{name}: add it to faulty.rs")),
    };
    let value = value.parse().map_err(|error| format!("{value}: {error}"))?;
    Ok((resource, value))
}
