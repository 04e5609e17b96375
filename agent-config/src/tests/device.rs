//! What a config is told about the device it is on.

use crate::{Device, ProcessInfo};
use lowtide_judge::{Stall, Trigger};
use lowtide_rules::CONTAINER;
use std::ffi::CStr;

struct Fake {
    cgroups: Vec<Vec<u8>>,
    marked: &'static str,
    process: &'static str,
}

impl Device for Fake {
    fn cgroups(&self) -> &[Vec<u8>] {
        &self.cgroups
    }

    fn attribute(&self, path: &[u8], name: &CStr, value: &mut [u8]) -> Option<usize> {
        if name == CONTAINER {
            let container = path.strip_prefix(b"docker/")?;
            value[..container.len()].copy_from_slice(container);
            return Some(container.len());
        }
        (path == self.marked.as_bytes() && name == c"user.lowtide").then(|| {
            value[..1].copy_from_slice(b"m");
            1
        })
    }

    fn unnamed_containers(&self) -> usize {
        let unnamed = |path: &&Vec<u8>| path.starts_with(b"unnamed/");
        self.cgroups.iter().filter(unnamed).count()
    }

    fn has_process(&self, fits: &dyn Fn(&ProcessInfo<'_>) -> bool) -> bool {
        fits(&ProcessInfo {
            name: self.process.as_bytes(),
            exe: None,
            uid: 0,
            is_roots: true,
        })
    }

    fn total(&self) -> u64 {
        100 << 20
    }

    fn arm(&self, trigger: &Trigger) -> Result<(), String> {
        match trigger.stall {
            Stall::Some => Ok(()),
            Stall::Full => Err("no such stall here".to_owned()),
        }
    }

    fn is_limited(&self, path: &[u8]) -> bool {
        path.starts_with(b"box")
    }

    fn has_program(&self, path: &CStr) -> bool {
        path == c"/bin/there"
    }
}

fn device(cgroups: &[&str]) -> Fake {
    Fake {
        cgroups: cgroups.iter().map(|c| (*c).into()).collect(),
        marked: "a",
        process: "sshd",
    }
}

fn said(text: &str, device: &Fake) -> String {
    let loaded = super::parse("t", text).unwrap_or_else(|p| panic!("{p}"));
    loaded.idle_here(device).to_string()
}

const QUIET: &str = "[wake]\ntrigger = \"some 1s/2s\"\nquiet = \"3s\"\n";

#[test]
fn nothing_to_say() {
    let text = format!(
        "{QUIET}[[group]]\nname = \"a\"\ncgroups = \"a\"\nprocesses = \"s?hd\"\nxattr = \"user.lowtide=m\"\n"
    );
    assert_eq!(said(&text, &device(&["a", "a/b"])), "");
}

#[test]
fn a_trigger_that_the_kernel_refuses() {
    let text = said("[wake]\ntrigger = \"full 1s/1s\"\n", &device(&["a"]));
    assert!(
        text.contains("t:2:11: warning: wake.trigger: no such stall here"),
        "{text}"
    );
}

#[test]
fn patterns_that_match_nothing() {
    let text = format!(
        "{QUIET}[[group]]\nname = \"media\"\ncgroups = [\"a\", \"c/*\"]\nprocesses = [\"x*\"]\nxattr = \"user.lowtide=n\"\n"
    );
    let text = said(&text, &device(&["a", "b"]));
    assert!(text.contains("t:4:1: warning: group: media: 3 of 4 patterns match nothing here now: c/*, x*, user.lowtide"), "{text}");
}

#[test]
fn a_tie_on_a_real_cgroup() {
    let text = format!(
        "{QUIET}[[group]]\nname = \"one\"\nkill = 10\ncgroups = [\"a*\"]\n[[group]]\nname = \"two\"\nkill = 900\ncgroups = [\"*b\"]\n"
    );
    assert!(!said(&text, &device(&["aa", "bb"])).contains("equally"));
    let text = said(&text, &device(&["aa", "ab", "axb", "bb"]));
    assert!(
        text.contains("t:7:12: warning: group.cgroups: ab fits *b at t:11 equally well"),
        "{text}"
    );
    assert_eq!(text.matches("equally").count(), 1);
}

#[test]
fn never_for_everything_that_there_is() {
    let text = format!("{QUIET}[[group]]\nname = \"all\"\nkill = \"never\"\ncgroups = [\"a\"]\n");
    assert!(said(&text, &device(&["a", "a/b"])).contains("every cgroup here is `never` killed"));
    assert_eq!(said(&text, &device(&["a", "a/b", "c"])), "");
}

#[test]
fn sizes_and_shares_that_meet_here() {
    let text = |relief: &str| {
        format!(
            "{QUIET}[level.strained]\nconfirm = {{ available_below = \"10%\" }}\nrelief = {{ available_above = \"{relief}\" }}\n"
        )
    };
    assert!(!said(&text("11M"), &device(&[])).contains("strained.relief"));
    let text = said(&text("10M"), &device(&[]));
    assert!(
        text.contains(
            "t:6:10: warning: level.strained.relief: with the 100 MiB here it is not above"
        ),
        "{text}"
    );
}

#[test]
fn too_much_protected() {
    let text = format!(
        "{QUIET}[[group]]\nname = \"x\"\ncgroups = \"a\"\nprotect = \"30%\"\n[[group]]\nname = \"y\"\ncgroups = \"b\"\nprotect = \"21M\"\n"
    );
    assert!(
        said(&text, &device(&["a", "b"]))
            .contains("t:7:11: warning: group.protect: all groups together protect 51 of 100 MiB")
    );
    assert!(!said(&text.replace("21M", "20M"), &device(&["a", "b"])).contains("protect"));
}

#[test]
fn a_trigger_of_a_cgroup_without_a_limit_is_named() {
    let text = "[[group]]\nname = \"x\"\ncgroups = [\"*\"]\ntrigger = \"some 50ms/500ms\"\n";
    assert!(!said(text, &device(&["box"])).contains("memory.max"));
    let said = said(text, &device(&["box", "apps"]));
    assert!(
        said.contains("t:4:11") && said.contains("apps has neither"),
        "{said}"
    );
}

#[test]
fn more_cgroups_with_a_trigger_than_are_watched_are_named() {
    let text = "[[group]]\nname = \"x\"\ncgroups = [\"box/*\"]\ntrigger = \"some 50ms/500ms\"\n";
    let boxes: Vec<_> = (0..17).map(|n| format!("box/{n}")).collect();
    let mut boxes: Vec<_> = boxes.iter().map(String::as_str).collect();
    assert!(said(text, &device(&boxes)).contains("17 cgroups with a trigger"));
    boxes.pop();
    assert!(!said(text, &device(&boxes)).contains("cgroups with a trigger"));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let text = "[everything_else]\nafter = [\"/bin/gone\"]\n[[group]]\nname = \"a\"\ncgroups = [\"a\"]\nbefore = [\"/bin/there\", \"x\"]\n";
    let said = said(text, &device(&["a"]));
    assert!(
        said.contains("t:2:9: warning: everything_else.after: /bin/gone: no such program here"),
        "{said}"
    );
    assert!(!said.contains("/bin/there"), "{said}");
}

#[test]
fn what_is_shipped_may_be_unused() {
    let text = "[[group]]\nname = \"lifeline\"\nprocesses_add = \"asterisk\"\n";
    let loaded = super::parse("t", text).unwrap_or_else(|p| panic!("{p}"));
    let fake = Fake {
        cgroups: Vec::new(),
        marked: "",
        process: "x",
    };
    let said = loaded.idle_here(&fake).to_string();
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains("warning"))
        .collect();
    assert_eq!(
        lines,
        ["t:3:17: warning: group: lifeline: 1 of 1 patterns match nothing here now: asterisk"]
    );
}

#[test]
fn containers_are_found_by_name_and_it_is_said_where_there_is_none() {
    let text = format!(
        "{QUIET}[[group]]\nname = \"home\"\nkill = 900\ncontainers = [\"addon_*\", \"none\"]\n"
    );
    let here = said(&text, &device(&["docker/addon_zwave", "unnamed/c"]));
    assert!(
        here.contains("t:4:1: warning: group: home: 1 of 2 patterns match nothing here now: none"),
        "{here}"
    );
    assert!(
        here.contains("t:7:14: warning: group.containers: the names of 1 containers here"),
        "{here}"
    );
    assert!(here.contains("cgroup_parent"), "{here}");
    let none = said(QUIET, &device(&["unnamed/c"]));
    assert_eq!(none, "", "no group goes by names");
}
