mod device;
mod files;
mod page;
mod properties;
mod said;
mod schema;

use super::*;
use lowtide_common::{NEVER, NO_GROUP, Rule};
use lowtide_judge::{Amount, Stall, Step, Term, Trigger, Unit};

fn policy(text: &str) -> Policy {
    match parse("test.toml", text) {
        Ok(loaded) => loaded.policy,
        Err(problems) => panic!("{problems}"),
    }
}

fn problems(text: &str) -> String {
    parse("test.toml", text)
        .expect_err("this config must not load")
        .to_string()
}

#[test]
fn built_in_is_sensible() {
    let loaded = parse("empty", "").unwrap_or_else(|p| panic!("{p}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let policy = loaded.policy;
    let critical = &policy.levels[1];
    assert_eq!(
        critical.confirm.any[0][..],
        [
            Term::AvailableBelow(Amount::Permyriad(400)),
            Term::SwapFreeBelow(Amount::Permyriad(1_000)),
        ]
    );
    assert_eq!(
        critical.actions[..],
        [Step::Reclaim, Step::Terminate, Step::Kill]
    );
    assert_eq!(
        loaded.wake.trigger,
        Some(Trigger {
            stall: Stall::Some,
            stall_us: 1_000,
            window_us: 500_000
        })
    );
    let own = |path: &str| loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
    for path in [
        "system.slice/dbus.service",
        "services/dnsmasq",
        "services/network.instance1",
        "openrc.networkmanager",
        "init.scope",
    ] {
        let group = own(path).unwrap_or(NO_GROUP);
        assert_eq!(policy.group(group).kill, NEVER, "{path}");
    }
    assert_eq!(own("system.slice/sshguard.service"), None);
}

#[test]
fn a_group_overrides_key_by_key() {
    let policy = policy(
        "[[group]]\nname = \"lifeline\"\nreclaim = 7\n\n[[group]]\nname = \"m\"\ncgroups = \"a/*\"\nunit = \"process\"\n",
    );
    assert_eq!(
        (policy.groups[0].kill, policy.groups[0].reclaim),
        (NEVER, 7)
    );
    assert_eq!(policy.groups[1].unit, Unit::Process);
    assert_eq!(policy.groups[1].grace_ms, 300);
}

#[test]
fn a_group_has_the_commands_of_everything_else_or_its_own_or_none() {
    let text = "[everything_else]\nbefore = [\"/bin/say\", \"\"]\n[limits]\ncommand = \"1s\"\n\
                [[group]]\nname = \"a\"\ncgroups = \"a\"\nbefore = []\nafter = [\"/bin/b\"]\n";
    let loaded = parse("t", text).unwrap_or_else(|p| panic!("{p}"));
    let (policy, hooks) = (&loaded.policy, &loaded.hooks);
    let say = [c"/bin/say".to_owned(), c"".to_owned()];
    for (group, before, after) in [
        (0, &say[..], &[][..]),
        (1, &[][..], &[c"/bin/b".to_owned()][..]),
        (NO_GROUP, &say[..], &[][..]),
    ] {
        assert_eq!(hooks.before(group), before, "{group}");
        assert_eq!(hooks.after(group), after, "{group}");
        assert_eq!(policy.group(group).before, !before.is_empty(), "{group}");
    }
    assert_eq!(hooks.limit_ms, 1_000);
    assert!(!hooks.is_empty());
    assert!(parse("t", "").unwrap().hooks.is_empty());
}

#[test]
fn the_nearest_group_wins() {
    let text = "[[group]]\nname = \"m\"\nkill = 800\ncgroups = [\"a/*\", \"/a/keep/x/\"]\n";
    let loaded = parse("t", text).unwrap();
    let own = |path: &str| loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
    assert_eq!(own("a/b"), Some(1));
    assert_eq!(own("a/b/c"), None);
    assert_eq!(own(""), None);
    assert_eq!(rule(&loaded.policy, 1).flags, Rule::UNIT);
    assert_eq!(rule(&loaded.policy, NO_GROUP).flags, 0);
    assert_eq!(loaded.matcher.nearest(b"a/b/c/d"), Some((1, &b"a/b"[..])));
    assert_eq!(loaded.matcher.nearest(b"z"), None);
}

#[test]
fn names_match_byte_by_byte() {
    let text = "[[group]]\nname = \"m\"\nkill = \"never\"\ncgroups = \"a/*.scope\"\nprocesses = \"ip…*\"\n";
    let loaded = parse("t", text).unwrap();
    let own = |path: &[u8]| loaded.matcher.cgroup(path, &mut |_, _| None);
    assert_eq!(own(b"a/\xff.scope"), Some(1));
    assert_eq!(own(b"a/\x1b\r.scope"), Some(1));
    assert_eq!(
        loaded.matcher.nearest(b"a/\xff.scope/\xfe").map(|n| n.0),
        Some(1)
    );
    let rest = rule(&loaded.policy, NO_GROUP);
    let process = |name| {
        let process = ProcessInfo {
            name,
            exe: None,
            uid: 0,
            is_roots: true,
        };
        loaded.matcher.process(&process, rest)
    };
    // The kernel cuts a name after 15 bytes, which may be inside a character.
    assert_eq!(process(&"ip……………".as_bytes()[..15]), Some(1));
    assert_eq!(process(b"ip\xff"), None);
}

#[test]
fn every_problem_is_said_at_once() {
    let text = problems(
        "[wake]\ntriger = \"x\"\ntrigger = \"some 700ms/500ms\"\nquiet = 3\n[limits]\nexit = \"25h\"\n",
    );
    for part in [
        "test.toml:2:1: wake: unknown key `triger`",
        "did you mean `trigger`?",
        "test.toml:3:11: wake.trigger",
        "test.toml:4:9: wake.quiet: 3 will not do",
        "test.toml:6:8: limits.exit",
    ] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
}

#[test]
fn a_reflex_that_cannot_be_is_refused_with_its_place() {
    let text =
        problems("[reflex]\nkill = \"flor\"\npatience = \"2s\"\nbudget = 0\nsurvive = \"maybe\"\n");
    for part in [
        "test.toml:2:8: reflex.kill",
        "did you mean \"floor\"?",
        "test.toml:3:12: reflex.patience",
        "at most a second",
        "test.toml:4:10: reflex.budget: 0 will not do",
        "test.toml:5:11: reflex.survive",
    ] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
}

#[test]
fn a_higher_layer_takes_a_pattern_over() {
    let text = "[[group]]\nname = \"mine\"\nkill = 900\nprocesses = \"dnsmasq\"\ncgroups = \"init.scope\"\n";
    let loaded = parse("t", text).unwrap();
    let process = ProcessInfo {
        name: b"dnsmasq",
        exe: None,
        uid: 0,
        is_roots: true,
    };
    let rest = rule(&loaded.policy, NO_GROUP);
    assert_eq!(loaded.matcher.process(&process, rest), Some(1));
    assert_eq!(
        loaded.matcher.cgroup(b"init.scope", &mut |_, _| None),
        Some(1)
    );
}

#[test]
fn a_contradiction_is_mended_in_the_higher_layer() {
    let text = problems(
        "[wake]\ntrigger = \"some 1s/10s\"\n\n[level.critical]\nconfirm = { available_below = \"10%\" }\n",
    );
    assert!(
        text.contains("test.toml:2:11: wake.trigger: ")
            && text.contains("(wake.quiet is at built in:"),
        "{text}"
    );
    let of_group =
        problems("[[group]]\nname = \"x\"\ncgroups = [\"x\"]\ntrigger = \"some 1s/10s\"\n");
    assert!(
        of_group.contains("test.toml:4:11: group.trigger: "),
        "{of_group}"
    );
    assert!(
        text.contains("test.toml:5:11: level.critical.confirm: ")
            && text.contains("(level.critical.relief is at built in:"),
        "{text}"
    );
}

#[test]
fn numbers_may_have_a_point_and_units_may_be_spelled_out() {
    let policy = policy(
        "[level.critical]\nactions = \"kill\"\n[engine]\nbpf_jit = 1\n\
         [[group]]\nname = \"a\"\ncgroups = \"a\"\ngrace = \"0.5s\"\nsignal = \"SIGINT\"\nprotect = \"10MB\"\n\
         [[group]]\nname = \"b\"\ncgroups = \"b\"\ngrace = \"1.5 min\"\nsignal = \"usr1\"\nprotect = \"1.5MiB\"\n\
         [[group]]\nname = \"c\"\ncgroups = \"c\"\ngrace = \"500 ms\"\nprotect = \"512k\"\n\
         [[group]]\nname = \"d\"\ncgroups = \"d\"\ngrace = \"1h\"\nprotect = 8388608\n",
    );
    let groups = &policy.groups[policy.groups.len() - 4..];
    let grace: Vec<_> = groups.iter().map(|g| g.grace_ms).collect();
    assert_eq!(grace, [500, 90_000, 500, 3_600_000]);
    let protect: Vec<_> = groups.iter().map(|g| g.protect).collect();
    let sizes = [10 << 20, 3 << 19, 512 << 10, 8 << 20];
    assert_eq!(protect, sizes.map(|bytes| Some(Amount::Bytes(bytes))));
    assert_eq!(groups[0].signal, 2);
    assert_eq!(policy.levels[1].actions[..], [Step::Kill]);
    for time in ["0.0001s", "1.5ms", ".5s", "5.s", "1 week", "25h"] {
        assert!(
            parse("t", &format!("[limits]\nexit = \"{time}\"\n")).is_err(),
            "{time}"
        );
    }
}

#[test]
fn what_is_added_to_a_list_leaves_what_is_in_it() {
    let loaded = parse(
        "t",
        "[[group]]\nname = \"lifeline\"\nprocesses_add = [{ name = \"asterisk\", user = 0 }]\ncgroups_add = \"asterisk\"\n",
    )
    .unwrap_or_else(|p| panic!("{p}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    for name in ["asterisk", "sshd"] {
        let process = ProcessInfo {
            name: name.as_bytes(),
            exe: None,
            uid: 0,
            is_roots: true,
        };
        let rest = rule(&loaded.policy, NO_GROUP);
        assert_eq!(loaded.matcher.process(&process, rest), Some(0), "{name}");
    }
    for path in ["asterisk", "init.scope"] {
        let group = loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
        assert_eq!(group, Some(0), "{path}");
    }
}

#[test]
fn a_name_that_anybody_can_choose_lets_nothing_go_later() {
    let text = "[[group]]\nname = \"safe\"\nkill = \"never\"\ncgroups = \"**/safe\"\nxattr = \"user.safe\"\n\
                processes = [\"safed\", { name = \"mine\", user = 1000 }, { exe = \"/usr/bin/safe\" }]\n\
                [[group]]\nname = \"early\"\nkill = 900\nreclaim = 10\ncgroups = \"**/early\"\nprocesses = \"earlyd\"\n";
    let loaded = parse("t", text).unwrap();
    let rest = rule(&loaded.policy, NO_GROUP);
    let process = |name: &[u8], exe: Option<&[u8]>, uid| {
        let is_roots = uid == 0;
        let process = ProcessInfo {
            name,
            exe,
            uid,
            is_roots,
        };
        let ruled = loaded.matcher.process_rule(&process, rest);
        ruled.map(|ruled| (ruled.rule.kill, ruled.rule.reclaim, ruled.trusted))
    };
    assert_eq!(process(b"safed", None, 0), Some((NEVER, 500, true)));
    assert_eq!(process(b"safed", None, 1000), None);
    assert_eq!(process(b"x", Some(b"/usr/bin/safe"), 1000), None);
    assert_eq!(process(b"mine", None, 1000), Some((NEVER, 500, true)));
    assert_eq!(process(b"mine", None, 1001), None);
    // Root in a container.
    let contained = ProcessInfo {
        name: b"safed",
        exe: None,
        uid: 0,
        is_roots: false,
    };
    assert_eq!(loaded.matcher.process_rule(&contained, rest), None);
    // To its own harm it may be called what it likes.
    assert_eq!(process(b"earlyd", None, 1000), Some((900, 500, false)));
    assert_eq!(process(b"earlyd", None, 0), Some((900, 10, true)));
    // By a look at the name alone: the last pattern asks for the program, and so fits any name.
    assert!(loaded.matcher.may_spare(Some(b"earlyd")));

    let cgroup = |path: &[u8], path_by_root| {
        let chosen = lowtide_rules::Chosen {
            path_by_root,
            marks_by_root: path_by_root,
            above: rest,
        };
        let ruled = loaded.matcher.cgroup_rule(path, &chosen, &mut |_, _| None);
        ruled.map(|ruled| (ruled.rule.kill, ruled.trusted))
    };
    assert_eq!(cgroup(b"a/safe", true), Some((NEVER, true)));
    assert_eq!(cgroup(b"a/safe", false), None);
    assert_eq!(cgroup(b"a/early", false), Some((900, false)));
}

#[test]
fn a_name_that_no_pattern_of_never_has_is_not_spared() {
    let text = "[[group]]\nname = \"safe\"\nkill = \"never\"\nprocesses = [{ name = \"mine*\", user = 1000 }]\n\
                [[group]]\nname = \"early\"\nkill = 900\nprocesses = \"earlyd\"\n";
    let matcher = parse("t", text).unwrap().matcher;
    assert!(matcher.may_spare(None) && matcher.may_spare(Some(b"mine2")));
    assert!(!matcher.may_spare(Some(b"earlyd")) && !matcher.may_spare(Some(b"")));
}

#[test]
fn a_container_is_claimed_by_its_name_before_its_path() {
    let text = "[[group]]\nname = \"path\"\nkill = 900\ncgroups = [\"docker/*\"]\n\
                [[group]]\nname = \"name\"\nkill = \"never\"\ncontainers = [\"home*\"]\n\
                [[group]]\nname = \"exact\"\nkill = 10\ncontainers = \"homepage\"\n";
    let loaded = parse("t", text).unwrap();
    let above = rule(&loaded.policy, NO_GROUP);
    let kill = |name: &str, path_by_root| {
        let chosen = lowtide_rules::Chosen {
            path_by_root,
            marks_by_root: path_by_root,
            above,
        };
        let ruled = loaded
            .matcher
            .cgroup_rule(b"docker/x", &chosen, &mut |asked, value| {
                (asked == lowtide_rules::CONTAINER).then(|| {
                    value[..name.len()].copy_from_slice(name.as_bytes());
                    name.len()
                })
            });
        ruled.map(|ruled| ruled.rule.kill)
    };
    assert_eq!(kill("homeassistant", true), Some(NEVER));
    assert_eq!(kill("homepage", true), Some(10), "the more specific one");
    assert_eq!(kill("other", true), Some(900));
    // In a tree of a user's own, any name is the user's choice.
    assert_eq!(kill("homeassistant", false), Some(900));
    let same = "[[group]]\nname = \"a\"\ncontainers = \"x\"\n[[group]]\nname = \"b\"\ncontainers = \"x\"\n";
    let error = parse("t", same).unwrap_err().to_string();
    assert!(error.contains("group.containers"), "{error}");
}

#[test]
fn the_way_in_is_a_process_wherever_it_runs() {
    let loaded = parse("t", "").unwrap();
    let rest = rule(&loaded.policy, NO_GROUP);
    let own = |path: &str| loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
    for path in [
        "system.slice/ssh.service",
        "services/dropbear",
        "openrc.sshd",
    ] {
        assert_eq!(own(path), None, "{path}");
    }
    for name in ["sshd", "sshd-session", "dropbear"] {
        let process = |is_roots| ProcessInfo {
            name: name.as_bytes(),
            exe: None,
            uid: if is_roots { 0 } else { 1000 },
            is_roots,
        };
        let kill = |is_roots| {
            let ruled = loaded.matcher.process_rule(&process(is_roots), rest);
            ruled.map(|ruled| ruled.rule.kill)
        };
        assert_eq!((kill(true), kill(false)), (Some(NEVER), None), "{name}");
    }
}

#[test]
fn a_protection_that_anybody_could_have_is_told_of() {
    let warnings = |text: &str| parse("t", text).unwrap().warnings.to_string();
    let never = "[[group]]\nname = \"x\"\nkill = \"never\"\n";
    let said = warnings(&format!("{never}processes = [\"mysqld\"]\n"));
    assert!(
        said.contains("t:4:14: warning: group.processes: `mysqld` protects root's processes alone")
            && said.contains("{ name = \"mysqld\", user = \"…\" }"),
        "{said}"
    );
    let said = warnings(&format!("{never}cgroups = [\"**/mysql.service\"]\n"));
    assert!(
        said.contains("t:4:12: warning: group.cgroups: `**/mysql.service` protects"),
        "{said}"
    );
    for quiet in [
        "processes = [{ name = \"mysqld\", user = 103 }]",
        "processes = [\"netifd\", \"dnsmasq\"]",
        "cgroups = [\"system.slice/mysql.service\"]",
    ] {
        assert_eq!(warnings(&format!("{never}{quiet}\n")), "", "{quiet}");
    }
    assert_eq!(
        warnings("[[group]]\nname = \"x\"\nkill = 900\nprocesses = \"a\"\ncgroups = \"**/a\"\n"),
        ""
    );
}

/// Each by the whole name of its scope, in three ranks.
#[test]
fn a_gateway_with_a_hundred_containers_fits() {
    let groups: String = ["low", "middle", "high"]
        .iter()
        .enumerate()
        .map(|(rank, name)| {
            let scopes: String = (0..34)
                .map(|i| format!("\"system.slice/docker-{rank:032x}{i:032x}.scope\", "))
                .collect();
            format!("[[group]]\nname = \"{name}\"\nkill = 10{rank}\ncgroups = [{scopes}]\n")
        })
        .collect();
    let loaded = parse("t", &groups).unwrap_or_else(|p| panic!("{p}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let path = format!("system.slice/docker-{:032x}{:032x}.scope", 2, 33);
    let group = loaded.matcher.cgroup(path.as_bytes(), &mut |_, _| None);
    assert_eq!(loaded.policy.group(group.unwrap()).name, "high");
    let many: String = (0..64)
        .map(|i| format!("[[group]]\nname = \"g{i}\"\ncgroups = \"c{i}\"\n"))
        .collect();
    let said = problems(&many);
    assert!(
        said.contains("65 groups, 1 of them built in or of the profile; a policy holds 64"),
        "{said}"
    );
}

#[test]
fn a_gateway_with_a_hundred_containers_of_three_ranks_fits() {
    let mut text = "profile = \"gateway\"\n".to_owned();
    for (group, kill) in [("broker", 100), ("apps", 500), ("addons", 900)] {
        let names = |kind: &str| {
            let all: Vec<_> = (0..34).map(|i| format!("\"{kind}{group}-{i}\"")).collect();
            all.join(", ")
        };
        text += &format!(
            "[[group]]\nname = \"{group}\"\nkill = {kill}\ncontainers = [{}]\ncgroups = [{}]\n",
            names(""),
            names("docker.slice/"),
        );
    }
    let loaded = parse("t", &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.matcher.containers.len(), 102);
    let of_device = loaded.matcher.cgroups.iter();
    assert!(
        of_device
            .filter(|p| p.glob.matches(b"docker.slice/apps-33"))
            .count()
            == 1
    );
    // What does not fit is said with the built-in ones counted apart.
    let many: String = (0..lowtide_judge::GROUPS)
        .map(|i| format!("[[group]]\nname = \"g{i}\"\ncgroups = \"c{i}\"\n"))
        .collect();
    let error = parse("t", &many).unwrap_err().to_string();
    assert!(error.contains("built in or of the profile"), "{error}");
}
