//! Layers of files, and files that nobody should have written.

use crate::{MAX_FILE, Paths, load, rule};
use lowtide_common::{NEVER, NO_GROUP};
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

    /// What is warned of, in the same way.
    fn warnings(&self) -> String {
        let loaded = load(&Paths::new(Some(self.0.clone()), Vec::new()));
        let text = loaded.map_or_else(|e| e.to_string(), |loaded| loaded.warnings.to_string());
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
    fs::create_dir_all(root.path("dev/shm/x")).unwrap();
    for (target, said) in [
        ("/dev/shm", "not a regular file"),
        // Not the host's.
        ("/dev/zero", "no such file"),
        ("/proc/self/fd", "no such file"),
    ] {
        fs::remove_file(root.path(config)).unwrap();
        root.link(config, target);
        assert_eq!(root.shown(), format!("/{config}: {said}"));
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
    let rest = rule(&loaded.policy, NO_GROUP);
    let process = |uid| super::ProcessInfo {
        name: b"x",
        exe: None,
        uid,
        is_roots: false,
    };
    let group = loaded.matcher.process(&process(1001), rest).unwrap();
    assert_eq!(loaded.policy.group(group).kill, NEVER);
    assert_eq!(loaded.matcher.process(&process(1002), rest), None);
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

#[test]
fn each_layer_adds_to_the_list_or_takes_its_place() {
    let group = |keys: &str| format!("[[group]]\nname = \"g\"\nkill = 7\n{keys}\n");
    for key in ["cgroups", "containers", "processes"] {
        let root = Root::new(&format!("adds-{key}"));
        let list = || {
            let shown = root.shown();
            let own = shown.split("name = \"g\"").nth(1).unwrap_or(&shown);
            line(own, key).split(" #").next().unwrap().to_owned()
        };
        root.write(
            "usr/lib/lowtide/config.toml",
            group(&format!("{key} = \"a\"")),
        )
        .write(
            "etc/lowtide/config.toml",
            group(&format!("{key}_add = \"b\"")),
        );
        assert_eq!(list(), format!("{key} = [\"a\", \"b\"]"));
        root.write(
            "etc/lowtide/config.d/1.toml",
            group(&format!("{key}_add = [\"c\", \"d\"]")),
        );
        assert_eq!(list(), format!("{key} = [\"a\", \"b\", \"c\", \"d\"]"));
        root.write(
            "etc/lowtide/config.d/2.toml",
            group(&format!("{key} = \"e\"")),
        );
        assert!(
            matches!(list().as_str(), e if e == format!("{key} = [\"e\"]") || e == format!("{key} = \"e\""))
        );
        root.write(
            "etc/lowtide/config.d/3.toml",
            group(&format!("{key}_add = \"f\"")),
        );
        assert_eq!(list(), format!("{key} = [\"e\", \"f\"]"));
    }
}

#[test]
fn a_layer_that_takes_a_protection_away_is_warned_of_by_name() {
    let vendor = |key: &str, patterns: &str| {
        format!("[[group]]\nname = \"kept\"\nkill = \"never\"\n{key} = {patterns}\n")
    };
    for (key, patterns, own, lost) in [
        (
            "cgroups",
            "[\"apps/a\", \"apps/b\"]",
            "cgroups = \"apps/b\"",
            "apps/a",
        ),
        (
            "containers",
            "[\"broker\", \"hass\"]",
            "containers = \"hass\"",
            "broker",
        ),
        (
            "processes",
            "[{ name = \"modem\", user = 0 }, { name = \"gps\", user = 0 }]",
            "processes = [{ name = \"gps\", user = 0 }]",
            "modem + user 0",
        ),
        (
            "xattr",
            "\"user.keep\"",
            "xattr = \"user.other=1\"",
            "user.keep",
        ),
        ("containers", "\"broker\"", "kill = 300", "broker"),
    ] {
        let root = Root::new(&format!("takes-{key}-{}", own.len()));
        root.write("usr/lib/lowtide/config.toml", vendor(key, patterns))
            .write(
                "etc/lowtide/config.toml",
                format!("[[group]]\nname = \"kept\"\n{own}\n"),
            );
        let warnings = root.warnings();
        assert!(
            warnings.contains(&format!(
                "group.{key}: no longer protected as kept: {lost}\n"
            )) && warnings.contains("/etc/lowtide/config.toml:3:"),
            "{own}: {warnings}"
        );
        let adds = format!("`{key}_add` adds to what kept has");
        let has_more = ["cgroups", "containers", "processes"].contains(&key);
        assert_eq!(
            warnings.contains(&adds),
            has_more && own.starts_with(key),
            "{own}: {warnings}"
        );
    }
}

#[test]
fn a_container_that_another_group_takes_over_is_no_longer_protected() {
    let root = Root::new("takes-over");
    root.write(
        "usr/lib/lowtide/config.toml",
        "[[group]]\nname = \"kept\"\nkill = \"never\"\ncontainers = [\"broker\", \"hass\"]\n",
    )
    .write(
        "etc/lowtide/config.toml",
        "[[group]]\nname = \"mine\"\nkill = 900\ncontainers = \"broker\"\n",
    );
    let warnings = root.warnings();
    let expected =
        "config.toml:4:14: warning: group.containers: no longer protected as kept: broker";
    assert!(warnings.contains(expected), "{warnings}");
}

#[test]
fn links_of_an_image_are_followed_inside_it() {
    let root = Root::new("links");
    root.write("data/lowtide/config.toml", EXIT_1)
        .write(
            "data/lowtide/config.d/1.toml",
            "[limits]\nreclaim = \"77ms\"\n",
        )
        .link("data/lowtide/config.d/2.toml", "/dev/null");
    fs::create_dir_all(root.path("etc/x")).unwrap();
    symlink("/data/lowtide", root.0.join("etc/lowtide")).unwrap();
    let shown = root.shown();
    assert_eq!(
        line(&shown, "exit"),
        "exit = \"1s\" # /etc/lowtide/config.toml:2"
    );
    assert_eq!(
        line(&shown, "reclaim"),
        "reclaim = \"77ms\" # /etc/lowtide/config.d/1.toml:2"
    );
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    let missing = std::env::temp_dir().join("lowtide-no-such-root");
    let problems = load(&Paths::new(Some(missing.clone()), Vec::new())).unwrap_err();
    assert_eq!(
        problems.to_string(),
        format!("{}: no such directory", missing.display())
    );
}

#[test]
fn files_that_are_not_read_and_programs_that_are_not_there_are_warned_of() {
    let root = Root::new("stray");
    root.write("etc/lowtide/config.d/50-mine", EXIT_1)
        .write("etc/lowtide/config.d/50-mine.toml~", EXIT_1)
        .write("etc/lowtide/mine.toml", EXIT_1)
        .write(
            "etc/lowtide/config.toml",
            "[everything_else]\nbefore = \"/bin/there\"\nafter = \"/bin/not\"\n",
        )
        .write("data/there", "");
    root.link("bin/there", "/data/there");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(root.path("data/there"), mode).unwrap();
    let paths = Paths::new(Some(root.0.clone()), Vec::new());
    let loaded = load(&paths).unwrap_or_else(|p| panic!("{p}"));
    let said = loaded
        .warnings
        .to_string()
        .replace(root.0.to_str().unwrap(), "");
    assert_eq!(
        said,
        "/etc/lowtide/config.d/50-mine: warning: this is not read: the name of a drop-in ends in .toml\n\
         /etc/lowtide/mine.toml: warning: this is not read: only config.toml and what is in config.d are"
    );
    let idle = loaded.idle_in(&root.0).to_string();
    assert!(
        idle.contains("config.toml:3:9: warning: everything_else.after: /bin/not: no such program"),
        "{idle}"
    );
    assert!(!idle.contains("there:"), "{idle}");
}

/// As `check --with` and `check --drop-in` ask for.
#[test]
fn a_file_is_tried_in_its_place() {
    let root = Root::new("with");
    root.write("etc/lowtide/config.toml", EXIT_1)
        .write(
            "etc/lowtide/config.d/50-a.toml",
            "[limits]\nreclaim = \"50ms\"\n",
        )
        .write("tried/new.toml", EXIT_2)
        .write("tried/50-a.toml", "[limits]\nreclaim = \"60ms\"\n");
    let mut paths = Paths::new(Some(root.0.clone()), Vec::new());
    let limits = |paths: &Paths| {
        let shown = load(paths)
            .unwrap_or_else(|p| panic!("{p}"))
            .effective
            .toml();
        ["exit", "reclaim"].map(|key| line(&shown, key).split(" #").next().unwrap().to_owned())
    };
    assert_eq!(limits(&paths), ["exit = \"1s\"", "reclaim = \"50ms\""]);
    paths.with = Some(root.path("tried/new.toml"));
    assert_eq!(limits(&paths), ["exit = \"2s\"", "reclaim = \"50ms\""]);
    paths.drop_ins = vec![root.path("tried/50-a.toml")];
    assert_eq!(limits(&paths), ["exit = \"2s\"", "reclaim = \"60ms\""]);
}

/// A file in a directory of this machine, as `run --config` reads it; `None` where it is only tried.
fn said_of(file: &Path, in_earnest: bool) -> String {
    let paths = Paths {
        in_earnest,
        ..Paths::new(None, vec![file.to_owned()])
    };
    match load(&paths) {
        Ok(loaded) => loaded.warnings.to_string(),
        Err(problems) => format!("refused: {problems}"),
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// Mode and directory, and what is to be said of `DIR/x/mine.toml` and of nothing else.
const MODES: [(u32, u32, Option<&str>); 6] = [
    (0o644, 0o755, None),
    (0o666, 0o755, Some("x/mine.toml")),
    (0o664, 0o755, Some("x/mine.toml")),
    (0o644, 0o777, Some("x")),
    (0o644, 0o775, Some("x")),
    // As /tmp: what is not one's own cannot be replaced there.
    (0o644, 0o1777, None),
];

#[test]
fn a_file_that_others_can_write_is_warned_of() {
    let root = Root::new("exposed-warned");
    let file = root.path("x/mine.toml");
    root.write("x/mine.toml", EXIT_1);
    for (mode, of_dir, exposed) in MODES {
        set_mode(&file, mode);
        set_mode(&root.path("x/"), of_dir);
        let said = said_of(&file, true);
        let Some(exposed) = exposed else {
            assert_eq!(said, "");
            continue;
        };
        let exposed = root.0.join(exposed);
        let exposed = exposed.display();
        assert!(
            said.starts_with(&format!("{exposed}: warning: others")),
            "{said}"
        );
        assert!(said.ends_with(&format!("; chmod go-w {exposed}")), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn no_program_is_run_that_a_file_names_which_others_can_write() {
    let root = Root::new("exposed");
    let file = root.path("x/mine.toml");
    let said = || said_of(&file, true);
    root.write("x/mine.toml", "[everything_else]\nbefore = \"/bin/true\"\n");
    for (mode, of_dir, exposed) in MODES {
        set_mode(&file, mode);
        set_mode(&root.path("x/"), of_dir);
        let Some(exposed) = exposed else {
            assert_eq!(said(), "");
            continue;
        };
        let mode = if exposed == "x" { of_dir } else { mode };
        let exposed = root.0.join(exposed);
        let exposed = exposed.display();
        let owner = rustix::process::geteuid().as_raw();
        let why = format!(
            "mine.toml:2:10: no program is run that this file names: others than root can write \
             {exposed} (owner {owner}, mode {mode:04o})"
        );
        assert!(said().starts_with("refused: "), "{}", said());
        assert!(said().contains(&why), "{}", said());
        assert!(
            said().contains(&format!("^ chmod go-w {exposed}")),
            "{}",
            said()
        );
    }
}

#[test]
fn a_file_that_is_only_tried_may_be_anybody_s_and_its_group_s() {
    let root = Root::new("exposed-tried");
    let file = root.path("x/mine.toml");
    root.write("x/mine.toml", "[everything_else]\nbefore = \"/bin/true\"\n");
    set_mode(&file, 0o664);
    assert_eq!(said_of(&file, false), "");
    set_mode(&file, 0o666);
    assert!(said_of(&file, false).starts_with("refused: "));
}

#[test]
fn a_link_is_no_way_around_that() {
    let root = Root::new("exposed-link");
    root.write("data/open/mine.toml", EXIT_1)
        .link("x/mine.toml", "../dir/mine.toml")
        .link("dir", root.path("data/open"));
    let file = root.0.join("x/mine.toml");
    assert_eq!(said_of(&file, true), "");
    for (path, mode, closed) in [
        ("data/open/mine.toml", 0o666, 0o644),
        ("data/open", 0o777, 0o755),
        ("data", 0o777, 0o755),
    ] {
        let path = root.0.join(path);
        set_mode(&path, mode);
        let said = said_of(&file, true);
        let place = format!(
            "{}: warning: others than root can write it (",
            path.display()
        );
        assert!(said.starts_with(&place), "{said}");
        set_mode(&path, closed);
    }
    assert_eq!(said_of(&file, true), "");
}

#[test]
fn what_belongs_to_another_user_is_exposed_to_it() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root gives files away");
        return;
    }
    let root = Root::new("exposed-owner");
    let file = root.path("x/mine.toml");
    root.write("x/mine.toml", "[everything_else]\nbefore = \"/bin/true\"\n");
    std::os::unix::fs::chown(&file, Some(1000), None).unwrap();
    let said = said_of(&file, true);
    assert!(said.starts_with("refused: "), "{said}");
    assert!(said.contains("(owner 1000, mode 0644)"), "{said}");
    assert!(
        said.ends_with(&format!("^ chown root {}", file.display())),
        "{said}"
    );
    assert_eq!(said_of(&file, false), "");
}

#[test]
fn a_program_that_others_can_write_is_warned_of() {
    let root = Root::new("exposed-program");
    let program = root.path("save");
    root.write("save", "#!/bin/sh\n");
    let text = format!(
        "[everything_else]\nafter = {:?}\n",
        program.display().to_string()
    );
    root.write("mine.toml", text);
    let file = root.0.join("mine.toml");
    assert_eq!(said_of(&file, true), "");
    set_mode(&program, 0o777);
    let said = said_of(&file, true);
    let place = format!("{}:2:9: warning: ", file.display());
    assert!(said.starts_with(&place), "{said}");
    assert!(
        said.ends_with(&format!("^ chmod go-w {}", program.display())),
        "{said}"
    );
}
