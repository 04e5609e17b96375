//! The journal's own protocol, where the journal listens: a line with fields, so that a reader need not take
//! words apart. <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>

use super::{LINE, Weight};
use std::fmt::{Display, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;

const SOCKET: &str = "/run/systemd/journal/socket";
/// Longest message: a line, and fields of which one is a path. One that is longer goes without them.
const MESSAGE: usize = LINE + 1_536;

/// Messages that have an explanation in `pkg/lowtide.catalog`, by the ids that they have there.
pub const VICTIM: &str = "5b0a6f6c6c3e4c0e9a5f0d1c8f2e7a41";
pub const RELIEF: &str = "c1f0e5b7d2a94a3c8b6e4f7091d35c82";
pub const LAST_RESORT: &str = "8e7d3c2b1a0f4e5d9c8b7a6f5e4d3c21";
pub const RELOADED: &str = "2d94b8e17f6a4c53a0e9d8c7b6a5f403";
pub const REFUSED: &str = "f36c5a9e08d14b7283c4d5e6f7a8b9c5";

/// A field and its value, which has no line feed.
pub type Field<'a> = (&'static str, &'a dyn Display);

pub struct Journal(UnixDatagram);

impl Journal {
    pub fn connect() -> io::Result<Self> {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Never waits, and allocates nothing. An error where the journal does not take it at once.
    pub fn send(
        &self,
        weight: Weight,
        id: &str,
        fields: &[Field<'_>],
        line: &str,
    ) -> io::Result<()> {
        let mut message = heapless::String::<MESSAGE>::new();
        let too_long = |_| io::ErrorKind::InvalidInput;
        write!(
            message,
            "MESSAGE={line}\nPRIORITY={}\nSYSLOG_IDENTIFIER=lowtide\nMESSAGE_ID={id}\n",
            weight.severity() as u8
        )
        .map_err(too_long)?;
        for (name, value) in fields {
            writeln!(message, "LOWTIDE_{name}={value}").map_err(too_long)?;
        }
        self.0.send(message.as_bytes()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_id_and_a_line_for_each_field() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(path.to_str().unwrap()).unwrap();
        let fields: [Field<'_>; 2] = [("GROUP", &"media"), ("FREED", &4096)];
        journal
            .send(Weight::Notice, VICTIM, &fields, "kill /apps/media")
            .unwrap();
        let mut buffer = [0; MESSAGE];
        let length = listener.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=kill /apps/media",
                "PRIORITY=5",
                "SYSLOG_IDENTIFIER=lowtide",
                "MESSAGE_ID=5b0a6f6c6c3e4c0e9a5f0d1c8f2e7a41",
                "LOWTIDE_GROUP=media",
                "LOWTIDE_FREED=4096",
            ]
        );
        let long = "x".repeat(MESSAGE);
        let fields: [Field<'_>; 1] = [("GROUP", &long)];
        assert!(journal.send(Weight::Notice, VICTIM, &fields, "").is_err());
    }

    #[test]
    fn each_id_has_an_explanation_in_the_catalog() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../pkg/lowtide.catalog");
        let catalog = std::fs::read_to_string(path).unwrap();
        let ids = [VICTIM, RELIEF, LAST_RESORT, RELOADED, REFUSED];
        let explained = catalog.lines().filter_map(|line| line.strip_prefix("-- "));
        assert!(explained.eq(ids));
    }
}
