//! QEMU's monitor: tells what happens to a machine that the guest in it cannot tell.

use anyhow::{Result, bail};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};

/// Listens to one machine.
pub struct Monitor {
    socket: PathBuf,
    listening: JoinHandle<io::Result<Vec<String>>>,
}

impl Monitor {
    /// Listens in a folder, and has QEMU speak there.
    pub fn listen(dir: &Path, qemu: &mut Command) -> Result<Self> {
        let socket = dir.join("monitor");
        let listener = UnixListener::bind(&socket)?;
        qemu.arg("-chardev")
            .arg(format!("socket,id=monitor,path={}", socket.display()))
            .args(["-mon", "monitor,mode=control"]);
        let listening = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            // Events are told to who has asked for the capabilities, whatever these are.
            stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n")?;
            BufReader::new(stream).lines().collect()
        });
        Ok(Self { socket, listening })
    }

    /// Whether the machine's watchdog went off. To ask when QEMU is gone.
    pub fn watchdog_went_off(self) -> Result<bool> {
        // If QEMU never came, there is an end to waiting for it.
        drop(UnixStream::connect(&self.socket));
        let Ok(lines) = self.listening.join() else {
            bail!("listening to QEMU's monitor panicked")
        };
        for line in lines? {
            let message: serde_json::Value = serde_json::from_str(&line)?;
            if message["event"] == "WATCHDOG" {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
