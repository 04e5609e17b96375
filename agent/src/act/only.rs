//! One agent at a time: two would kill for the same shortage.
//!
//! The claim is a name among the abstract sockets: it needs no file, so none can be missing, full or
//! deleted, and the kernel takes it back when the agent ends in whatever way.

use crate::tell::Log;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, bind, connect, listen,
    socket_with,
};
use std::io;

const NAME: &[u8] = b"lowtide";

/// The claim, for as long as this lives. `None` where it could not be made.
pub struct Only(#[expect(dead_code, reason = "the descriptor is the claim")] Option<OwnedFd>);

impl Only {
    /// Fails when another agent has it. Anybody may take a name, so one that is held by a user with
    /// fewer rights than this agent means nothing.
    pub fn claim(log: &mut Log) -> io::Result<Self> {
        match claim(NAME) {
            Ok(held) => Ok(Self(Some(held))),
            Err(Errno::ADDRINUSE) => match holder(NAME) {
                Ok(holder) if holder.uid.is_root() || holder.uid == rustix::process::geteuid() => {
                    Err(another_runs())
                }
                holder => {
                    let holder = holder.map_or(0, |holder| holder.pid.as_raw_pid());
                    log.warning(format_args!(
                        "process {holder} of a user without rights has taken the name that tells a \
                         second agent apart"
                    ));
                    Ok(Self(None))
                }
            },
            Err(error) => {
                log.warning(format_args!(
                    "a second agent would not be told apart: no local socket: {error}"
                ));
                Ok(Self(None))
            }
        }
    }
}

/// Why this one must not run.
pub fn another_runs() -> io::Error {
    io::Error::other("another lowtide runs")
}

fn claim(name: &[u8]) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    bind(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    listen(&socket, 1)?;
    Ok(socket)
}

/// The process that listens at the name.
fn holder(name: &[u8]) -> Result<UCred, Errno> {
    let socket = new_socket()?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name)?)?;
    socket_peercred(&socket)
}

/// One that does not wait for the other side.
fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_claim_is_refused_and_the_first_ends_with_its_holder() {
        let name = format!("lowtide-test-{}", std::process::id());
        let name = name.as_bytes();
        let first = claim(name).unwrap();
        assert_eq!(claim(name).unwrap_err(), Errno::ADDRINUSE);
        assert_eq!(holder(name).unwrap().uid, rustix::process::geteuid());
        drop(first);
        claim(name).unwrap();
    }
}
