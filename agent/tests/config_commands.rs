//! `lowtide check` and `lowtide config` as a user runs them.

mod json;

use json::assert_documented;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn lowtide(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lowtide"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../config")
        .join(file)
}

fn bad() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent-config/src/tests/golden/together.toml")
}

#[test]
fn check_fails_on_a_bad_file_only() {
    let good = shipped("config.toml");
    let output = lowtide(&["check", "--offline", good.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
    let output = lowtide(&["check", "--offline", bad().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("together.toml:12:10: level.critical.relief: "));
}

#[test]
fn check_lists_problems_as_json() {
    let output = lowtide(&["check", "--offline", "--json", bad().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let problems: Value = serde_json::from_slice(&output.stdout).unwrap();
    let relief = problems
        .as_array()
        .unwrap()
        .iter()
        .find(|p| p["key"] == "level.critical.relief")
        .unwrap();
    assert_eq!(
        (&relief["line"], &relief["column"]),
        (&12.into(), &10.into())
    );
    assert_eq!(relief["severity"], "error");
    assert_eq!(relief["help"], Value::Null);
    assert_documented("check", &problems);
}

/// Where the test may become nobody; else it is run by somebody without rights already.
#[test]
fn without_rights_it_says_run_as_root() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::tempdir().unwrap();
    let for_all = || std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), for_all()).unwrap();
    let program = dir.path().join("lowtide");
    std::fs::copy(env!("CARGO_BIN_EXE_lowtide"), &program).unwrap();
    std::fs::set_permissions(&program, for_all()).unwrap();
    for (arguments, code) in [(&["doctor"][..], 0), (&["reflex", "off"], 1)] {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = text(&said);
        assert!(said.contains("as root"), "{arguments:?}: {said}");
        assert!(said.contains("run"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
}

#[test]
fn doctor_prints_what_is_documented() {
    let output = lowtide(&["doctor", "--json"]);
    assert_documented("doctor", &serde_json::from_slice(&output.stdout).unwrap());
}

#[test]
fn config_shows_where_a_value_comes_from() {
    let file = shipped("profiles/camera.toml");
    let output = lowtide(&["config", "--json", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let config: Value = serde_json::from_slice(&output.stdout).unwrap();
    let exit = &config["limits"]["exit"];
    assert_eq!(exit["value"], "3s");
    assert!(exit["from"].as_str().unwrap().contains("camera.toml:"));
    let quiet = &config["wake"]["quiet"]["from"];
    assert!(quiet.as_str().unwrap().starts_with("built in:"));
    let output = lowtide(&["config", file.to_str().unwrap()]);
    let exit = text(&output.stdout).lines().find(|l| l.starts_with("exit"));
    assert!(exit.unwrap().contains("camera.toml:"));
}

/// A directory of this test's own.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.join("etc/lowtide/config.d")).unwrap();
    dir
}

#[test]
fn check_with_a_file_reads_it_in_its_place() {
    let root = scratch("check-with");
    let config = root.join("etc/lowtide/config.toml");
    std::fs::write(&config, "[limits]\nexit = \"soon\"\n").unwrap();
    let tried = root.join("tried.toml");
    std::fs::write(&tried, "[limits]\nexit = \"4s\"\n").unwrap();
    let (root, tried) = (root.to_str().unwrap(), tried.to_str().unwrap());
    let output = lowtide(&["check", "--root", root]);
    assert!(text(&output.stderr).contains("etc/lowtide/config.toml:2:8: limits.exit"));
    assert!(text(&output.stderr).ends_with("1 error: the config cannot be used\n"));
    let output = lowtide(&["check", "--root", root, "--with", tried]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), "0 warnings: the config can be used\n");
    let output = lowtide(&["check", "--root", root, "--drop-in", tried]);
    assert!(!output.status.success(), "{output:?}");
    let output = lowtide(&["check", "--root", root, tried]);
    assert!(text(&output.stdout).contains("without the files of the system"));
    let output = lowtide(&["check", tried, "--with", tried]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn strict_fails_on_warnings_and_github_marks_their_lines() {
    let root = scratch("check-strict");
    let file = root.join("warn.toml");
    std::fs::write(&file, "[level.critical]\nactions = []\n").unwrap();
    let file = file.to_str().unwrap();
    let output = lowtide(&["check", "--offline", file]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("1 warning: the config can be used"));
    let output = lowtide(&["check", "--offline", "--strict", "--format", "github", file]);
    assert_eq!(output.status.code(), Some(1));
    let place = format!("::warning file={file},line=2,col=11::level.critical.actions: ");
    assert!(text(&output.stdout).starts_with(&place), "{output:?}");
}

#[test]
fn a_command_ends_quietly_without_a_reader_and_says_that_the_disk_is_full() {
    let run = |args: &[&str], stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        command.args(args).stdout(stdout).output().unwrap()
    };
    for args in [
        &["config"][..],
        &["config", "--json"],
        &["--help"],
        &["--version"],
        &["check", "--offline"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(args, writer.into());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert_eq!(text(&output.stderr), "", "{args:?}");
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = run(args, full.into());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
        assert!(
            text(&output.stderr).starts_with("lowtide: cannot write: "),
            "{output:?}"
        );
    }
}

#[test]
fn an_agent_with_a_bad_config_ends_whatever_stderr_is() {
    let run = |stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        let bad = bad();
        let command = command.args(["run", "--config", bad.to_str().unwrap()]);
        command.stderr(stderr).stdin(Stdio::null()).spawn().unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()).wait().unwrap().code(), Some(1));
    // A pipe that is full, and that is not emptied.
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    assert_eq!(run(writer.into()).wait().unwrap().code(), Some(1));
    drop(reader);
}

/// As lowtide-snapshot makes it.
/// Whether one cgroup stands before another in what `explain` says of killing; both have to be there.
fn goes_before(said: &str, first: &str, second: &str) -> bool {
    let (_, killed) = said.split_once("killed").unwrap();
    let place = |path: &str| {
        let place = killed.find(path);
        place.unwrap_or_else(|| panic!("no {path} in\n{said}"))
    };
    place(first) < place(second)
}

#[test]
fn a_copy_of_a_device_is_explained_on_the_desk() {
    let root = scratch("copy");
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    write("sys/fs/cgroup/cgroup.subtree_control", "memory\n");
    write("sys/fs/cgroup/memory.stat", "anon 0\n");
    for (cgroup, anon) in [
        ("apps/a", 60 << 20),
        ("apps/b", 8 << 20),
        ("system.slice/init.service", 4 << 20),
    ] {
        let (parent, _) = cgroup.split_once('/').unwrap();
        write(&format!("sys/fs/cgroup/{parent}/memory.stat"), "anon 0\n");
        write(&format!("sys/fs/cgroup/{parent}/memory.current"), "0\n");
        write(
            &format!("sys/fs/cgroup/{parent}/cgroup.subtree_control"),
            "memory\n",
        );
        let dir = format!("sys/fs/cgroup/{cgroup}");
        write(&format!("{dir}/memory.stat"), &format!("anon {anon}\n"));
        write(&format!("{dir}/memory.current"), &format!("{anon}\n"));
        write(&format!("{dir}/cgroup.events"), "populated 1\nfrozen 0\n");
    }
    write(
        "proc/meminfo",
        "MemTotal: 131072 kB\nMemFree: 8192 kB\nMemAvailable: 20000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
    );
    write(
        "proc/vmstat",
        "workingset_refault_anon 0\nworkingset_refault_file 0\n",
    );
    write("proc/1/comm", "init\n");
    write("proc/1/status", "Name:\tinit\nUid:\t0\t0\t0\t0\n");
    write(
        "etc/lowtide/config.toml",
        "[[group]]\nname = \"b\"\nkill = 900\ncgroups = [\"apps/b\", \"apps/none\"]\nprocesses = [\"init\", \"none\"]\n",
    );
    // Unpacked by somebody whose umask lets a group write: the names are those of the device all the same.
    let group_writes = std::os::unix::fs::PermissionsExt::from_mode(0o775);
    std::fs::set_permissions(root.join("sys/fs/cgroup/apps"), group_writes).unwrap();
    let dir = root.to_str().unwrap();
    let output = lowtide(&["check", "--root", dir]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stderr);
    assert!(
        said.contains("b: 2 of 4 patterns match nothing here now: apps/none, none"),
        "{said}"
    );
    let output = lowtide(&["explain", "--root", dir]);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.starts_with("cgroupfs engine, 5 cgroups\n"), "{said}");
    let output = lowtide(&["explain", "--root", dir, "--json"]);
    assert_documented("explain", &serde_json::from_slice(&output.stdout).unwrap());
    assert!(goes_before(said, "/apps/b", "/apps/a"), "{said}");
    assert!(said.contains("/system.slice/init.service"), "{said}");
    // That of another config.
    let tried = root.join("tried.toml");
    std::fs::write(
        &tried,
        "[[group]]\nname = \"a\"\nkill = 900\ncgroups = \"apps/a\"\n",
    )
    .unwrap();
    let output = lowtide(&["explain", "--root", dir, "--with", tried.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(goes_before(said, "/apps/a", "/apps/b"), "{said}");
    std::fs::write(
        &tried,
        "[[group]]\nname = \"a\"\nkill = \"never\"\ncgroups = \"apps/a\"\n",
    )
    .unwrap();
    let output = lowtide(&["explain", "--root", dir, "--with", tried.to_str().unwrap()]);
    let said = text(&output.stdout);
    let mut lines = said.lines().filter(|line| line.contains("/apps/a "));
    assert!(lines.any(|line| line.contains("never")), "{said}");
    let output = lowtide(&["explain", "--root", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
}

fn lowtide_reads(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lowtide"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses the call has read nothing.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn a_minus_stands_for_what_is_written_to_the_program() {
    let good = "[limits]\nexit = \"7s\"\n";
    let shown = lowtide_reads(&["config", "-"], good);
    assert!(text(&shown.stdout).contains("/dev/stdin:2"), "{shown:?}");
    let root = scratch("stdin");
    let root = root.to_str().unwrap();
    for args in [
        &["check", "-"][..],
        &["check", "--root", root, "--with", "-"],
        &["check", "--root", root, "--drop-in=-"],
    ] {
        assert!(lowtide_reads(args, good).status.success(), "{args:?}");
        let refused = lowtide_reads(args, "[limits]\nexit = 7\n");
        assert_eq!(refused.status.code(), Some(1), "{args:?}");
        let said = [text(&refused.stdout), text(&refused.stderr)].concat();
        assert!(said.contains("/dev/stdin:2:8: "), "{said}");
    }
    // It could not be read anew.
    assert_eq!(
        lowtide_reads(&["run", "--config", "-"], good).status.code(),
        Some(2)
    );
}

/// NO_COLOR asks for what is the case anyway.
#[test]
fn nothing_is_coloured() {
    let bad = bad();
    for args in [
        &["check", bad.to_str().unwrap()][..],
        &["config"],
        &["--help"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        let output = command
            .args(args)
            .env("CLICOLOR_FORCE", "1")
            .output()
            .unwrap();
        assert!(
            ![output.stdout, output.stderr].concat().contains(&0x1b),
            "{args:?}"
        );
    }
}

/// 2 for a wrong call, 1 for what was found.
#[test]
fn a_wrong_call_is_told_from_a_finding() {
    let output = lowtide(&["chek"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no command `chek`; did you mean `check`?"));
    for wrong in [&["check", "--no-such"][..], &["no-such-thing-at-all"], &[]] {
        assert_eq!(lowtide(wrong).status.code(), Some(2), "{wrong:?}");
    }
    let output = lowtide(&["check", bad().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn short_options_and_values_behind_an_equals_sign_are_taken() {
    let long = lowtide(&["check", "--help"]);
    let short = lowtide(&["check", "-h"]);
    assert!(short.status.success());
    assert_eq!(short.stdout, long.stdout);
    let version = lowtide(&["-V"]);
    let wanted = concat!("lowtide ", env!("CARGO_PKG_VERSION"), " (");
    assert!(text(&version.stdout).starts_with(wanted), "{version:?}");
    let root = scratch("equals");
    let option = format!("--root={}", root.display());
    assert!(lowtide(&["check", &option]).status.success());
}

/// Whatever stands where a file or a directory should.
#[test]
fn what_cannot_work_is_said() {
    let dir = scratch("odd");
    std::fs::create_dir_all(dir.join("dir")).unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    std::fs::write(dir.join("binary.toml"), b"# \n\xff\xfe\0").unwrap();
    std::fs::write(dir.join("large.toml"), vec![b'\n'; 300 << 10]).unwrap();
    let _ = std::os::unix::fs::symlink("loop.toml", dir.join("loop.toml"));
    for (arguments, code, words) in [
        (&["check", "none.toml"][..], 1, "none.toml: no such file"),
        (&["check", "dir"], 1, "dir: not a regular file"),
        (&["check", "/dev/zero"], 1, "/dev/zero: not a regular file"),
        (
            &["check", "binary.toml"],
            1,
            "binary.toml: not UTF-8 (line 2)",
        ),
        (
            &["check", "large.toml"],
            1,
            "large.toml: larger than 256 KiB",
        ),
        (
            &["check", "loop.toml"],
            1,
            "Too many levels of symbolic links\n",
        ),
        (&["check", "--root", "none"], 1, "none: no such directory"),
        (&["check", "--root=empty"], 1, "empty: not a directory"),
        (&["check", "--offline=1"], 2, "--offline takes no value"),
        (
            &["check", "--format=xml"],
            2,
            "expected text, json or github",
        ),
        (&["config", "dir"], 1, "dir: not a regular file"),
        (&["explain", "--root=dir"], 1, "lowtide-snapshot copies it"),
        (&["init", "--root=dir"], 1, "lowtide-snapshot copies it"),
        (&["init", "--root=dir", "--write"], 1, "lowtide-snapshot"),
        (
            &["log", "--file=none"],
            1,
            "none: No such file or directory\n",
        ),
        (&["log", "--file=dir"], 1, "dir: Is a directory\n"),
        (&["log", "--since=5"], 2, "no time as 90s"),
        (&["log", "--boot=x"], 2, "--boot"),
        (&["record"], 2, "file"),
        (&["record", "dir", "--size=1"], 2, "at least 64K"),
        (&["run", "--config=-"], 2, "name a file"),
        (
            &["run", "--dry-run", "--config=dir"],
            1,
            "not a regular file",
        ),
        (&["status", "--json", "--openmetrics"], 2, "not both"),
        (&["replay", "x"], 2, "it is lowtide-desk's"),
        (&["reflex", "on"], 2, "off"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
        let output = command.args(arguments).current_dir(&dir).output().unwrap();
        let said = text(&output.stderr);
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("os error"), "{arguments:?}: {said}");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    }
    // What is longer than any clock goes is for ever: no agent is there to be recorded, or it ends here.
    let output = lowtide(&["record", "/nowhere/x", &format!("--minutes={}", u64::MAX)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn a_name_that_is_no_utf8_is_said() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
    let name = std::ffi::OsStr::from_bytes(b"\xff.toml");
    let output = command.arg("check").arg(name).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("\\xFF.toml\" is no UTF-8"));
}
