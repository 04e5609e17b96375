//! The socket from which `lowtide record` gets what the agent saw and did. The agent writes no file of it:
//! it keeps what happens in memory that it had before, and hands it over when nothing presses.

use super::recording::{Begin, Bounded, Writer};
use super::socket::{Descriptor, accept, listen_at};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use smol::Async;
use smol::future::FutureExt as _;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;

/// Where the agent listens for a recorder.
pub const SOCKET: &str = "/run/lowtide/record";
/// Bytes that wait for the recorder; a look takes a few hundred.
const ROOM: usize = 64 << 10;
/// Longest length of a body, in bytes.
const LENGTH: usize = 10;

/// Nothing but a socket to listen at, until a client records.
pub struct Recorder {
    listening: Async<Descriptor>,
    tape: Option<Box<Tape>>,
}

struct Tape {
    caller: Async<Descriptor>,
    writer: Writer,
    body: Bounded,
    waiting: Vec<u8>,
    /// So many events found no room.
    lost: u64,
}

impl Recorder {
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            listening: listen_at(SOCKET, None)?,
            tape: None,
        })
    }

    /// A client wants to record, or the one that did has gone.
    pub async fn readable(&self) {
        let asked = async {
            if self.listening.readable().await.is_err() {
                pending::<()>().await;
            }
        };
        let gone = async {
            match &self.tape {
                // It says nothing, so that this is its end.
                Some(tape) if tape.caller.readable().await.is_ok() => {}
                _ => pending().await,
            }
        };
        asked.or(gone).await;
    }

    pub fn is_recording(&self) -> bool {
        self.tape.is_some()
    }

    /// Takes in a client that asks, and lets go of one that has gone. What a recording begins with is asked for
    /// where one begins; `None`: not now, as an episode goes on.
    pub fn attend(&mut self, begin: Option<(&Begin, &str)>) -> io::Result<()> {
        if self.tape.as_ref().is_some_and(|tape| tape.is_over()) {
            self.tape = None;
        }
        let Some(caller) = accept(&self.listening, None)? else {
            return Ok(());
        };
        let refusal = match (&self.tape, begin) {
            (Some(_), _) => "another recorder records already",
            (None, None) => "an episode goes on",
            (None, Some((begin, config))) => {
                self.tape = Some(Tape::begin(caller, begin, config)?);
                return Ok(());
            }
        };
        let mut answer = Vec::new();
        let mut body = Vec::new();
        Writer::refused(&mut body, refusal);
        append(&mut answer, &body);
        let _ = send(&caller, &answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        Ok(())
    }

    /// Keeps what `write` writes, where a client records. Allocates nothing.
    pub fn keep(&mut self, write: impl FnOnce(&mut Writer, &mut Bounded)) {
        if let Some(tape) = &mut self.tape {
            tape.keep(write);
        }
    }

    /// The config in force is another one.
    pub fn config(&mut self, config: &str) {
        if let Some(tape) = &mut self.tape {
            let mut body = Vec::new();
            tape.writer.config(&mut body, config);
            tape.append(&body);
        }
    }

    /// Hands over what was kept, without waiting for the recorder; before the time, where `soon` is, only
    /// what would else find no room.
    pub fn hand_over(&mut self, soon: bool) {
        let is_due = |tape: &Tape| soon || tape.waiting.len() > ROOM / 2;
        if let Some(tape) = self.tape.as_mut().filter(|tape| is_due(tape))
            && tape.hand_over().is_err()
        {
            self.tape = None;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(SOCKET);
    }
}

impl Tape {
    fn begin(caller: OwnedFd, begin: &Begin, config: &str) -> io::Result<Box<Self>> {
        let mut this = Box::new(Self {
            caller: Async::new_nonblocking(Descriptor(caller))?,
            writer: Writer::new(),
            body: Bounded::default(),
            waiting: Vec::new(),
            lost: 0,
        });
        // In memory as a whole: the first touch of a page under pressure may wait for it.
        this.waiting.resize(ROOM, 1);
        this.waiting.clear();
        let mut body = Vec::new();
        this.writer.begin(&mut body, begin);
        this.append(&body);
        body.clear();
        this.writer.config(&mut body, config);
        this.append(&body);
        let _ = this.hand_over();
        Ok(this)
    }

    /// The caller has hung up: it sends nothing else.
    fn is_over(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let mut byte = [0_u8; 1];
        !matches!(
            recv(self.caller.get_ref(), &mut byte[..], RecvFlags::DONTWAIT),
            Err(Errno::AGAIN | Errno::INTR)
        )
    }

    fn keep(&mut self, write: impl FnOnce(&mut Writer, &mut Bounded)) {
        self.body.clear();
        write(&mut self.writer, &mut self.body);
        let waiting = &mut self.waiting;
        let fits = |body: &&[u8]| waiting.len() + body.len() + LENGTH <= ROOM;
        // What finds no room is lost, and so is what comes after it, up to where that can be said.
        match self.body.body().filter(|_| self.lost == 0).filter(fits) {
            Some(body) => append(waiting, body),
            None => self.lost += 1,
        }
    }

    /// Not for times of pressure.
    fn append(&mut self, body: &[u8]) {
        if self.lost == 0 {
            append(&mut self.waiting, body);
        } else {
            self.lost += 1;
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.lost > 0 && self.waiting.len() + 16 <= ROOM {
            // Differences begin anew, here and for the reader.
            self.writer = Writer::new();
            self.body.clear();
            self.writer.lost(&mut self.body, self.lost);
            if let Some(body) = self.body.body() {
                append(&mut self.waiting, body);
                self.lost = 0;
            }
        }
        while !self.waiting.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(self.caller.get_ref(), &self.waiting, flags) {
                Ok(sent) => drop(self.waiting.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A body with its length before it.
fn append(to: &mut Vec<u8>, body: &[u8]) {
    super::recording::length(to, body);
    to.extend_from_slice(body);
}
