//! What a person sees who calls `lowtide-desk` in a way that cannot work.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn desk(dir: &Path, arguments: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide-desk"));
    let command = command.args(arguments).current_dir(dir).stdout(stdout);
    command.output().unwrap()
}

/// Code 2, and words that say what is wrong.
#[test]
fn what_cannot_work_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    fs::write(dir.path().join("other"), [0xff; 300 << 10]).unwrap();
    fs::write(dir.path().join("bad.toml"), "profile = \"x\n").unwrap();
    for (arguments, words) in [
        (&[][..], "no command"),
        (&["rplay"], "did you mean `replay`?"),
        (&["status"], "it is lowtide's: lowtide status"),
        (&["--version=1"], "--version takes no value"),
        (&["replay"], "no recording is named"),
        (&["replay", "nofile"], "nofile: No such file"),
        (&["replay", "dir"], "no file is there"),
        (&["replay", "empty"], "empty: at byte 0: "),
        (
            &["replay", "other"],
            "other: at byte 0: this is no recording",
        ),
        (&["replay", "--config=bad.toml", "empty"], "bad.toml:1:13: "),
        (&["plot", "empty"], "empty: at byte 0: "),
        (&["plot", "dir"], "dir: Is a directory"),
        (
            &["plot", "other", "--output", "./other"],
            "is the recording itself",
        ),
        (
            &["export", "other"],
            "other: at byte 0: this is no recording",
        ),
        (
            &["import", "bustd", "other"],
            "expected earlyoom, nohang or",
        ),
        (&["import", "earlyoom", "nofile"], "nofile: No such file"),
        (&["import", "nohang", "other"], "other: larger than 256 KiB"),
        (
            &["import", "systemd-oomd", "empty"],
            "empty: Not a directory",
        ),
    ] {
        let output = desk(dir.path(), arguments, Stdio::piped());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("os error"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    }
    assert!(dir.path().join("other").metadata().unwrap().len() > 0);
}

#[test]
fn a_full_disk_is_said_and_a_reader_that_has_gone_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["-V"], &["import", "systemd-oomd", "."]] {
        assert!(desk(dir.path(), arguments, Stdio::null()).status.success());
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = desk(dir.path(), arguments, full);
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("No space left on device\n"), "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = desk(dir.path(), arguments, writer);
        assert_eq!(output.stderr, b"", "{arguments:?}");
    }
}
