//! `lowtide check` and `lowtide config` as a user runs them.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

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
    let good = shipped("profiles/router.toml");
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
