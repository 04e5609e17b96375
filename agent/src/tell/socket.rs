//! The socket that `lowtide status` and `lowtide top` ask. A caller says nothing: it connects, gets one
//! document, and the connection ends. So a caller has no state here, cannot send anything that would
//! have to be understood, and one that reads slowly is dropped.

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

pub struct Socket(Async<Descriptor>);

/// What smol waits for.
pub(super) struct Descriptor(pub OwnedFd);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Listens at `path` for root. Takes the place of a socket that an agent before this left behind; that no
/// other agent runs is the caller's to know.
pub(super) fn listen_at(path: &str) -> io::Result<Async<Descriptor>> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&socket, &address)?;
    chmod(path, Mode::RUSR | Mode::WUSR)?;
    listen(&socket, CALLERS)?;
    Async::new_nonblocking(Descriptor(socket))
}

/// The one that waits longest; `None` where nobody does, or somebody who is neither root nor the agent's
/// own user.
pub(super) fn accept(listening: &Async<Descriptor>) -> io::Result<Option<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let caller = match accept_with(listening.get_ref(), flags) {
        Ok(caller) => caller,
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let uid = socket_peercred(&caller)?.uid;
    Ok((uid.is_root() || uid == rustix::process::geteuid()).then_some(caller))
}

impl Socket {
    pub fn open() -> io::Result<Self> {
        listen_at(SOCKET).map(Self)
    }

    /// A client has connected.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await
    }

    /// Gives the document that `write` writes to the one that waits longest. Allocates nothing and
    /// waits for no reader.
    pub fn answer(&self, write: impl FnOnce(&mut Answer<'_>) -> fmt::Result) -> io::Result<()> {
        let Some(caller) = accept(&self.0)? else {
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
