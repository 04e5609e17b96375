//! Other OOM killers of user space: with two of them the milder order of the one does not count.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Their names as processes; that of a script is the first argument of its interpreter.
const NAMES: [&str; 6] = [
    "systemd-oomd",
    "earlyoom",
    "nohang",
    "oomd",
    "bustd",
    "lmkd",
];
const INTERPRETER: &[u8] = b"python";

/// Those that run now, each once. Only what a log line is made of: a name proves nothing.
#[inline(never)]
pub fn other_killers() -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        // All else in /proc is no process.
        let name = entry.file_name();
        if !name.as_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        if let Some(name) = killer(&entry.path()).filter(|name| !found.contains(name)) {
            found.push(name);
        }
    }
    found
}

/// Which of them a process is, by its directory in /proc.
fn killer(process: &Path) -> Option<&'static str> {
    let comm = fs::read(process.join("comm")).ok()?;
    let name = comm.trim_ascii_end();
    if !name.starts_with(INTERPRETER) {
        return known(name);
    }
    let arguments = fs::read(process.join("cmdline")).ok()?;
    let script = arguments.split(|byte| *byte == 0).nth(1)?;
    known(Path::new(OsStr::from_bytes(script)).file_name()?.as_bytes())
}

fn known(name: &[u8]) -> Option<&'static str> {
    NAMES.into_iter().find(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(comm: &[u8], cmdline: &[u8]) -> Option<&'static str> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("comm"), comm).unwrap();
        fs::write(dir.path().join("cmdline"), cmdline).unwrap();
        killer(dir.path())
    }

    #[test]
    fn a_killer_is_known_by_its_name() {
        assert_eq!(process(b"earlyoom\n", b""), Some("earlyoom"));
        assert_eq!(process(b"earlyoom-notify\n", b""), None);
        assert_eq!(process(b"\xff\xfe\n", b""), None);
    }

    #[test]
    fn a_script_is_known_by_its_file() {
        let nohang = b"/usr/bin/python3\0/usr/sbin/nohang\0--monitor\0";
        assert_eq!(process(b"python3\n", nohang), Some("nohang"));
        assert_eq!(process(b"python3\n", b"python3\0/srv/app.py\0"), None);
        assert_eq!(process(b"python3\n", b""), None);
    }
}
