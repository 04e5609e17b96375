//! Layers of files, and files that nobody should have written.

use crate::{MAX_FILE, Paths, load};
use lowtide_common::NEVER;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A directory that stands for `/`, removed at the end.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("lowtide-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(path), text).unwrap();
        self
    }

    fn link(&self, path: &str, to: impl AsRef<Path>) -> &Self {
        symlink(to, self.path(path)).unwrap();
        self
    }

    /// The config in force, with the root cut from the names of files.
    fn shown(&self) -> String {
        let loaded = load(&Paths::new(Some(self.0.clone()), Vec::new()));
        let text = match loaded {
            Ok(loaded) => loaded.effective.toml(),
            Err(problems) => problems.to_string(),
        };
        text.replace(self.0.to_str().unwrap(), "")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The line that sets `key`, with the blanks before the comment cut.
fn line(text: &str, key: &str) -> String {
    let line = text.lines().find(|l| l.split(' ').next() == Some(key));
    let (value, origin) = line
        .and_then(|l| l.split_once('#'))
        .unwrap_or_else(|| panic!("no {key} in\n{text}"));
    format!("{} #{origin}", value.trim_end())
}

const EXIT_1: &str = "[limits]\nexit = \"1s\"\n";
const EXIT_2: &str = "\n[limits]\nexit = \"2s\"\n";

#[test]
fn each_layer_covers_the_one_before() {
    let root = Root::new("layers");
    assert_eq!(
        line(&root.shown(), "exit").split(" #").next(),
        Some("exit = \"5s\"")
    );
    root.write("usr/lib/lowtide/config.toml", EXIT_1);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"1s\" # /usr/lib/lowtide/config.toml:2"
    );
    root.write("usr/lib/lowtide/profiles/p.toml", EXIT_2)
        .write("etc/lowtide/config.toml", "profile = \"p\"\n");
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"2s\" # /usr/lib/lowtide/profiles/p.toml:3"
    );
    root.write("etc/lowtide/profiles/p.toml", EXIT_2);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"2s\" # /etc/lowtide/profiles/p.toml:3"
    );
    root.write(
        "etc/lowtide/config.toml",
        format!("profile = \"p\"\n{EXIT_1}"),
    );
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"1s\" # /etc/lowtide/config.toml:3"
    );
    root.write("usr/lib/lowtide/config.d/50-a.toml", EXIT_2);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"2s\" # /usr/lib/lowtide/config.d/50-a.toml:3"
    );
    root.write("etc/lowtide/config.d/10-b.toml", EXIT_1);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"2s\" # /usr/lib/lowtide/config.d/50-a.toml:3"
    );
    root.write("run/lowtide/config.d/50-a.toml", EXIT_1);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"1s\" # /run/lowtide/config.d/50-a.toml:2"
    );
    root.link("etc/lowtide/config.d/50-a.toml", "/dev/null");
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"1s\" # /etc/lowtide/config.d/10-b.toml:2"
    );
    root.write("etc/lowtide/config.d/99-c.txt", EXIT_2);
    assert_eq!(
        line(&root.shown(), "exit"),
        "exit = \"1s\" # /etc/lowtide/config.d/10-b.toml:2"
    );
}

#[test]
fn what_is_shown_reads_back_as_the_same_policy() {
    for profile in ["router", "gateway", "camera", "kiosk"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/profiles");
        let file = dir.join(profile).with_extension("toml");
        let first = load(&Paths::new(None, vec![file])).unwrap_or_else(|p| panic!("{p}"));
        let again =
            super::parse("again", &first.effective.toml()).unwrap_or_else(|p| panic!("{p}"));
        assert_eq!(again.policy, first.policy);
    }
}

#[test]
fn a_missing_profile_says_where_it_was_looked_for() {
    let root = Root::new("profile");
    root.write("etc/lowtide/config.toml", "profile = \"boat\"\n");
    let said = root.shown();
    assert!(
        said.starts_with("/etc/lowtide/config.toml:1:11: profile: no such profile"),
        "{said}"
    );
    assert!(
        said.contains("/etc/lowtide/profiles/boat.toml and /usr/lib/lowtide/profiles/boat.toml"),
        "{said}"
    );
}

#[test]
fn a_profile_cannot_build_on_another() {
    let root = Root::new("nested");
    root.write("etc/lowtide/config.toml", "profile = \"a\"\n")
        .write("usr/lib/lowtide/profiles/a.toml", "profile = \"b\"\n");
    assert!(
        root.shown()
            .contains("/profiles/a.toml:1:11: profile: a profile cannot build on another")
    );
}

#[test]
fn bad_files_are_named_and_nothing_is_read_without_bounds() {
    let root = Root::new("bad");
    let config = "etc/lowtide/config.toml";
    root.write(config, vec![b'#'; 10 << 20]);
    assert_eq!(
        root.shown(),
        format!("/{config}: larger than {} KiB", MAX_FILE / 1024)
    );
    root.write(config, b"a = 1\nb = \"\xff\"\n");
    assert_eq!(root.shown(), format!("/{config}: not UTF-8 (line 2)"));
    fs::remove_file(root.path(config)).unwrap();
    root.link(config, "config.toml");
    let said = root.shown();
    assert!(
        said.starts_with(&format!("/{config}: ")) && said.contains("symbolic link"),
        "{said}"
    );
    for target in ["/dev/zero", "/dev", "/proc/self/fd"] {
        fs::remove_file(root.path(config)).unwrap();
        root.link(config, target);
        assert_eq!(root.shown(), format!("/{config}: not a regular file"));
    }
    fs::remove_file(root.path(config)).unwrap();
    root.link(config, "nowhere");
    assert_eq!(root.shown(), format!("/{config}: no such file"));
    fs::remove_file(root.path(config)).unwrap();
    fs::create_dir(root.path(config)).unwrap();
    assert_eq!(root.shown(), format!("/{config}: not a regular file"));
}

#[test]
fn many_drop_ins_are_refused() {
    let root = Root::new("many");
    for i in 0..100 {
        root.write(&format!("etc/lowtide/config.d/{i}.toml"), "");
    }
    assert_eq!(root.shown(), "/etc/lowtide/config.d: more than 64 drop-ins");
}

#[test]
fn as_many_groups_as_a_file_can_hold() {
    let groups = "[[group]]\n".repeat(MAX_FILE as usize / 10);
    let said = super::problems(&groups);
    assert!(said.contains("26214 groups; a policy holds 64"), "{said}");
    assert!(said.lines().last().unwrap().ends_with(" more"), "{said}");
}

#[test]
fn a_deep_text_is_refused() {
    let said = super::problems(&format!("a = {}", "[".repeat(100_000)));
    assert!(said.starts_with("test.toml:1:"), "{said}");
    let said = super::problems(&format!("a{} = 1", ".a".repeat(100_000)));
    assert!(said.starts_with("test.toml:1:"), "{said}");
}

#[test]
fn users_are_those_of_the_root() {
    let root = Root::new("users");
    root.write("etc/passwd", "root:x:0:0::/:/bin/sh\nkiosk:x:1001:1001::/home/kiosk:/bin/sh\n")
        .write("etc/lowtide/config.toml", "[[group]]\nname = \"k\"\nkill = \"never\"\nprocesses = [{ user = \"kiosk\" }, { user = \"cat\" }]\n");
    let loaded =
        load(&Paths::new(Some(root.0.clone()), Vec::new())).unwrap_or_else(|p| panic!("{p}"));
    let process = |uid| super::ProcessInfo {
        name: b"x",
        exe: None,
        uid,
    };
    let group = loaded.matcher.process(&process(1001)).unwrap();
    assert_eq!(loaded.policy.group(group).kill, NEVER);
    assert_eq!(loaded.matcher.process(&process(1002)), None);
    let warnings = loaded.warnings.to_string();
    assert!(
        warnings.contains("config.toml:4:43: warning: group.processes.user: no such user"),
        "{warnings}"
    );
}

#[test]
fn an_error_behind_many_warnings_is_still_one() {
    let warnings: String = (0..60)
        .map(|i| format!("[[group]]\nname = \"{i}\"\n"))
        .collect();
    let same = ["a", "b"].map(|n| format!("[[group]]\nname = \"{n}\"\ncgroups = \"x\"\n"));
    let text = warnings + &same.concat();
    assert!(super::problems(&text).ends_with(" more"));
}

#[test]
fn as_many_unknown_keys_as_a_file_can_hold() {
    let keys: String = (0..20_000).map(|i| format!("k{i}=0\n")).collect();
    assert!(super::problems(&keys).ends_with("and 19950 more"));
}
