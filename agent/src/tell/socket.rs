//! The socket that `lowtide status` and `lowtide top` ask. A caller says nothing: it connects, gets one
//! document, and the connection ends. So a caller has no state here, cannot send anything that would
//! have to be understood, and one that reads slowly is dropped.

use crate::sys;
use rustix::fs::{Mode, chmod};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with,
    bind, connect, listen, recv, send, socket_with,
};
use smol::Async;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the agent listens.
pub const SOCKET: &str = "/run/lowtide/status";
/// Callers that may wait for their turn; more are turned away by the kernel.
const CALLERS: i32 = 4;
/// Longest answer that a caller takes in.
const ANSWER: usize = 256 << 10;

pub struct Socket {
    listening: Async<Descriptor>,
    /// Id of the users' group that gets answers as well.
    group: Option<u32>,
}

/// What smol waits for.
pub(super) struct Descriptor(pub OwnedFd);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who is let in beside root; which of them gets an answer, [`accept`] finds out.
const fn mode(group: Option<u32>) -> Mode {
    let own = Mode::RUSR.union(Mode::WUSR);
    match group {
        Some(_) => own
            .union(Mode::RGRP)
            .union(Mode::WGRP)
            .union(Mode::ROTH)
            .union(Mode::WOTH),
        None => own,
    }
}

/// Listens at `path` for root, and for a group where there is one. Takes the place of a socket that an agent before this left behind; that no
/// other agent runs is the caller's to know.
pub(super) fn listen_at(path: &str, group: Option<u32>) -> io::Result<Async<Descriptor>> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&socket, &address)?;
    chmod(path, mode(group))?;
    listen(&socket, CALLERS)?;
    Async::new_nonblocking(Descriptor(socket))
}

/// The caller that waits longest; `None` where there is none, or one that is neither root nor the agent's own
/// user nor in the group.
pub(super) fn accept(
    listening: &Async<Descriptor>,
    group: Option<u32>,
) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let caller = match accept_with(listening.get_ref(), flags) {
        Ok(caller) => caller,
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let peer = socket_peercred(&caller)?;
    let is_own = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    let in_group = |id| peer.gid.as_raw() == id || sys::is_peer_in_group(caller.as_fd(), id);
    Ok((is_own || group.is_some_and(in_group)).then_some(caller))
}

impl Socket {
    /// For root, and for the users of a group where one is given.
    pub fn open(group: Option<u32>) -> io::Result<Self> {
        listen_at(SOCKET, group).map(|listening| Self { listening, group })
    }

    /// From now on another group gets answers, or none.
    pub fn let_in(&mut self, group: Option<u32>) -> io::Result<()> {
        self.group = group;
        Ok(chmod(SOCKET, mode(group))?)
    }

    /// A client has connected.
    pub async fn readable(&self) -> io::Result<()> {
        self.listening.readable().await
    }

    /// Gives the document that `write` writes to the one that waits longest. Allocates nothing and
    /// waits for no reader.
    pub fn answer(&self, write: impl FnOnce(&mut Answer<'_>) -> fmt::Result) -> io::Result<()> {
        let Some(caller) = accept(&self.listening, self.group)? else {
            return Ok(());
        };
        let mut answer = Answer {
            caller: caller.as_fd(),
            buffer: heapless::Vec::new(),
        };
        // An error is the caller's: it is gone, or does not read.
        let _ = write(&mut answer).and_then(|()| answer.flush());
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(SOCKET);
    }
}

/// What goes to a caller, some hundred bytes at a time.
pub struct Answer<'a> {
    caller: BorrowedFd<'a>,
    buffer: heapless::Vec<u8, 512>,
}

impl Answer<'_> {
    fn flush(&mut self) -> fmt::Result {
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            match send(self.caller, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(_) => return Err(fmt::Error),
            }
        }
        self.buffer.clear();
        Ok(())
    }
}

impl fmt::Write for Answer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.as_bytes().chunks(self.buffer.capacity()) {
            if self.buffer.extend_from_slice(part).is_err() {
                self.flush()?;
                // The buffer is empty, and a part is no longer than it.
                let _ = self.buffer.extend_from_slice(part);
            }
        }
        Ok(())
    }
}

/// The running agent's answer. `ENOENT` and `ECONNREFUSED` where none runs, `EACCES` for a caller
/// without rights.
pub fn ask() -> io::Result<String> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    connect(&socket, &SocketAddrUnix::new(SOCKET)?)?;
    let mut answer = Vec::new();
    let mut part = [0_u8; 4096];
    loop {
        let (got, _) = recv(&socket, part.as_mut_slice(), RecvFlags::empty())?;
        if got == 0 {
            break;
        }
        answer.extend_from_slice(part.get(..got).unwrap_or_default());
        if answer.len() > ANSWER {
            return Err(io::Error::other("the answer has no end"));
        }
    }
    if answer.is_empty() {
        return Err(Errno::ACCESS.into());
    }
    String::from_utf8(answer).map_err(io::Error::other)
}
