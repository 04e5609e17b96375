//! `lowtide init`: a config for this device, proposed from what runs on it.

use super::explain::{Cgroup, Explanation};
use super::output::{complain, print};
use crate::config::{self, Loaded, Paths};
use crate::tell::record::Quoted;
use crate::units::Size;
use lowtide_common::{NEVER, NO_GROUP};
use lowtide_judge::{NAME, Policy};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where profiles are, below the root.
const PROFILES: [&str; 2] = ["usr/lib/lowtide/profiles", "etc/lowtide/profiles"];
/// Where the proposal goes.
const CONFIG: &str = "etc/lowtide/config.toml";
/// The group that is built in, and that every profile adds to.
const LIFELINE: &str = "lifeline";
/// What holds less is left to the default.
const SMALLEST: u64 = 1 << 20;
/// Groups that are proposed; a policy holds more, but nobody reads them.
const PROPOSED: usize = 24;
/// What a copy does not tell.
const OF_COPY: &str = "\n# Of a copy: which processes run in which cgroup is not known. One that a group protects by its name (sshd,\n\
     # say) stays, whatever the number of its cgroup is.\n";
/// Names in a line that says what a profile knows.
const NAMED: usize = 4;

/// Proposes a config for this device: the profile that knows most of what runs, and a group for each
/// service and container that it does not know. Prints it; nothing is written without --write.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "init")]
pub struct Init {
    /// build on this profile, whichever knows most
    #[argh(option, arg_name = "name")]
    profile: Option<String>,
    /// look at a copy of a device, made with lowtide-snapshot, in the place of this one
    #[argh(option, arg_name = "dir")]
    root: Option<PathBuf>,
    /// write it to /etc/lowtide/config.toml, unless that sets something already
    #[argh(switch)]
    write: bool,
}

impl Init {
    /// Fails when the device cannot be looked at, or the file not be written.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        match self.propose() {
            Ok(text) => print(text, ExitCode::SUCCESS),
            Err(error) => {
                complain(format_args!("lowtide init: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn propose(&self) -> io::Result<String> {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let mut best = Known::of(self.root.as_deref(), None)?;
        for name in self.profiles(root)? {
            let known = Known::of(self.root.as_deref(), Some(name))?;
            if known.score() > best.score() || self.profile.is_some() {
                best = known;
            }
        }
        let mut text = proposal(best.profile.as_deref(), &best.things(), &best.names());
        if self.root.is_some() {
            text.push_str(OF_COPY);
        }
        if !self.write {
            return Ok(text);
        }
        let file = root.join(CONFIG);
        write(self.root.clone(), &file, &text)?;
        Ok(format!(
            "{}: written. `lowtide explain` shows the order that it gives; a running agent takes it in with \
             its next reload\n",
            file.display()
        ))
    }

    /// Names of those that there are, or the one that is asked for.
    fn profiles(&self, root: &Path) -> io::Result<Vec<String>> {
        let files = PROFILES.iter().flat_map(|dir| fs::read_dir(root.join(dir)));
        let files = files.flatten().flatten().map(|entry| entry.path());
        let mut names: Vec<_> = files
            .filter(|file| file.extension().is_some_and(|kind| kind == "toml"))
            .filter_map(|file| Some(file.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        let Some(wanted) = &self.profile else {
            return Ok(names);
        };
        if names.contains(wanted) {
            return Ok(vec![wanted.clone()]);
        }
        Err(io::Error::other(format!(
            "no profile {wanted:?} here; there are: {}",
            names.join(", ")
        )))
    }
}

/// What a profile says of the device.
struct Known {
    profile: Option<String>,
    config: Loaded,
    device: Explanation,
}

impl Known {
    fn of(root: Option<&Path>, profile: Option<String>) -> io::Result<Self> {
        let base = root.unwrap_or(Path::new("/"));
        let file = profile.as_ref().and_then(|name| {
            let files = PROFILES.map(|dir| base.join(dir).join(name).with_extension("toml"));
            files.into_iter().rev().find(|file| file.exists())
        });
        let with = Paths {
            with: file,
            ..Paths::new(root.map(Path::to_owned), Vec::new())
        };
        let config =
            config::load(&with).map_err(|problems| io::Error::other(problems.to_string()))?;
        let device = match root {
            Some(root) => Explanation::of_copy(&config, root)?,
            None => Explanation::now(&config)?,
        };
        Ok(Self {
            profile,
            config,
            device,
        })
    }

    /// So much of what runs is in a group of the profile's own.
    fn score(&self) -> usize {
        let things = self.things();
        let own = |thing: &&Thing| {
            thing
                .group
                .as_ref()
                .is_some_and(|(name, _)| name != LIFELINE)
        };
        things.iter().filter(own).count()
    }

    /// Of the groups that it has.
    fn names(&self) -> Vec<&str> {
        let groups = self.config.policy.groups.iter();
        groups.map(|group| group.name.as_str()).collect()
    }

    fn things(&self) -> Vec<Thing> {
        let policy = &self.config.policy;
        let cgroups = self.device.ranked().filter(|cgroup| {
            let rule = cgroup.row.rule;
            // Never for what it is: the agent, init.
            rule.group != NO_GROUP || rule.kill != NEVER
        });
        cgroups.map(|cgroup| Thing::new(policy, cgroup)).collect()
    }
}

/// Something that runs, and could go by itself.
struct Thing {
    /// As the log names it.
    path: String,
    container: Option<String>,
    usage: u64,
    /// Name and `kill` of the group that covers it.
    group: Option<(String, String)>,
}

impl Thing {
    fn new(policy: &Policy, cgroup: &Cgroup) -> Self {
        let rule = cgroup.row.rule;
        let kill = match rule.kill {
            NEVER => "never".to_owned(),
            kill => kill.to_string(),
        };
        let name = || policy.group(rule.group).name.to_string();
        Self {
            path: cgroup.path.clone(),
            container: cgroup.container.clone(),
            usage: cgroup.row.usage,
            group: (rule.group != NO_GROUP).then(|| (name(), kill)),
        }
    }
}

/// A group that is proposed.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    name: String,
    /// What it covers, as a line of TOML.
    covers: String,
    what: &'static str,
    kill: u16,
    usage: u64,
}

/// What is proposed for something that no group covers; `None` where no pattern can name it.
fn group_for(thing: &Thing) -> Option<Group> {
    let path = thing.path.strip_prefix('/');
    let last = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    let quoted = |key: &str, name: &str| format!("{key} = [{}]", Quoted(name));
    let (name, covers, what, kill) = match (&thing.container, path) {
        (Some(container), _) => {
            let covers = quoted("containers", container);
            (container.clone(), covers, "a container", 600)
        }
        (None, Some(path)) if path.starts_with("user.slice/") => {
            let covers = quoted("cgroups", "user.slice/**");
            ("sessions".to_owned(), covers, "what users run", 800)
        }
        (None, Some(path)) => (last(path), quoted("cgroups", path), "a service", 400),
        // `123 (name)`, or `123 (name) of /cgroup`.
        (None, None) => {
            let (_, name) = thing.path.split_once(" (")?;
            let name = name.split_once(')')?.0;
            (name.to_owned(), quoted("processes", name), "a process", 400)
        }
    };
    // A pattern, or a name that is shown escaped: it stands for something else.
    let is_plain = |text: &str| !text.contains(['*', '?', '[', '{', '\\', ']', '}']);
    let stem = name.trim_end_matches(".service").trim_end_matches(".scope");
    let end = stem.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = end.take_while(|end| *end <= NAME).last()?;
    (name == "sessions" || is_plain(&name) && path.is_none_or(is_plain)).then(|| Group {
        name: stem.get(..end).unwrap_or(stem).to_owned(),
        covers,
        what,
        kill,
        usage: thing.usage,
    })
}

/// Groups for what none covers, largest first, each name once. One that is `taken` would change that group, and
/// take its patterns away.
fn groups(things: &[Thing], taken: &[&str]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for mut group in things
        .iter()
        .filter(|t| t.group.is_none())
        .filter_map(group_for)
    {
        if let Some(known) = groups.iter_mut().find(|known| known.covers == group.covers) {
            known.usage += group.usage;
            continue;
        }
        let is_free =
            |name: &str| !taken.contains(&name) && groups.iter().all(|known| known.name != name);
        // As many as there are things, and one more.
        let others = (2..).map(|number| numbered(&group.name, number));
        let mut names = std::iter::once(group.name.clone()).chain(others);
        group.name = names.find(|name| is_free(name)).unwrap_or_default();
        groups.push(group);
    }
    groups.retain(|group| group.usage >= SMALLEST);
    groups.sort_by(|a, b| b.usage.cmp(&a.usage).then(a.name.cmp(&b.name)));
    groups.truncate(PROPOSED);
    groups
}

/// `broker-2`, as long as a name may be.
fn numbered(name: &str, number: usize) -> String {
    let suffix = format!("-{number}");
    let room = NAME.saturating_sub(suffix.len());
    let cut = name.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = cut.take_while(|end| *end <= room).last().unwrap_or(0);
    format!("{}{suffix}", &name[..end])
}

fn proposal(profile: Option<&str>, things: &[Thing], taken: &[&str]) -> String {
    let mut out = String::from(
        "# Proposed by `lowtide init` for what runs here now. `kill` is the order: 0 to 1000, higher goes first;\n\
         # \"never\" stays. `lowtide check --with` this file says what is wrong with it, `lowtide explain --with` it\n\
         # what would go.\n\n",
    );
    // Writing to a String cannot fail.
    let _ = match profile {
        Some(name) => writeln!(out, "profile = {}", Quoted(name)),
        None => writeln!(
            out,
            "# No profile knows more of it than what is built in does."
        ),
    };
    let mut known: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for thing in things {
        if let Some((name, kill)) = &thing.group {
            known.entry((kill, name)).or_default().push(&thing.path);
        }
    }
    if !known.is_empty() {
        out.push_str("# What is known by it, and stays as it is without another word here:\n");
    }
    // "never" first, as it sorts behind the digits.
    for ((kill, group), paths) in known.iter().rev() {
        let shown = paths
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let more = match paths.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let why = match (*kill, *group) {
            ("never", LIFELINE) => " (how one gets at the device, and what all else needs)",
            _ => "",
        };
        let _ = writeln!(out, "#   {kill:5}  {group}{why}: {shown}{more}");
    }
    let groups = groups(things, taken);
    if !groups.is_empty() {
        out.push_str(
            "\n# No group covers these, largest first. The numbers are a guess by what they are: services 400,\n\
             # containers 600, what users run 800. Give a low one, or \"never\", to what the device is for, and a\n\
             # high one to what it can do without; what has no group counts as 500.\n",
        );
    }
    for Group {
        name,
        covers,
        what,
        kill,
        usage,
    } in groups
    {
        let _ = writeln!(
            out,
            "\n[[group]]  # {what}, {} now\nname = {}\nkill = {kill}\n{covers}",
            Size(usage),
            Quoted(name)
        );
    }
    out
}

/// Puts it in its place, where nothing is set yet. What was there is kept beside it.
fn write(root: Option<PathBuf>, file: &Path, text: &str) -> io::Result<()> {
    let at =
        |path: &Path, error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    let there = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        there => Some(there.map_err(|error| at(file, error))?),
    };
    let sets = |line: &str| !line.trim_start().starts_with('#') && !line.trim().is_empty();
    if there.as_ref().is_some_and(|text| text.lines().any(sets)) {
        return Err(io::Error::other(format!(
            "{}: it sets something already, and stays as it is; take over by hand what `lowtide init` prints",
            file.display()
        )));
    }
    let new = file.with_extension("toml.new");
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(|error| at(dir, error))?;
    }
    fs::write(&new, text).map_err(|error| at(&new, error))?;
    let with = Paths {
        with: Some(new.clone()),
        ..Paths::new(root, Vec::new())
    };
    if let Err(problems) = config::load(&with) {
        let _ = fs::remove_file(&new);
        return Err(io::Error::other(problems.to_string()));
    }
    if there.is_some() {
        let old = file.with_extension("toml.old");
        fs::rename(file, &old).map_err(|error| at(&old, error))?;
    }
    fs::rename(&new, file).map_err(|error| at(file, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(path: &str, usage: u64, group: Option<(&str, &str)>) -> Thing {
        Thing {
            path: path.into(),
            container: None,
            usage: usage << 20,
            group: group.map(|(name, kill)| (name.into(), kill.into())),
        }
    }

    fn device() -> Vec<Thing> {
        vec![
            thing("/system.slice/ssh.service", 2, Some(("lifeline", "never"))),
            thing("/system.slice/mosquitto.service", 9, Some(("broker", "50"))),
            thing("/system.slice/app \"x\".service", 38, None),
            thing("/system.slice/tiny.service", 0, None),
            thing("/system.slice/odd[1].service", 5, None),
            thing("/user.slice/user-1000.slice/session-1.scope", 7, None),
            thing("/user.slice/user-1001.slice/session-2.scope", 7, None),
            thing("812 (collector) of /", 3, None),
            Thing {
                container: Some("grafana".into()),
                ..thing("/system.slice/docker-grafana.scope", 60, None)
            },
        ]
    }

    #[test]
    fn what_no_group_covers_is_proposed_largest_first() {
        let groups = groups(&device(), &[]);
        let found: Vec<_> = groups
            .iter()
            .map(|g| (g.name.as_str(), g.kill, g.covers.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("grafana", 600, "containers = [\"grafana\"]"),
                (
                    "app \"x\"",
                    400,
                    "cgroups = [\"system.slice/app \\\"x\\\".service\"]"
                ),
                ("sessions", 800, "cgroups = [\"user.slice/**\"]"),
                ("collector", 400, "processes = [\"collector\"]"),
            ]
        );
    }

    /// A service may be called as a group of the profile is: by that name it would take away what the profile
    /// protects.
    #[test]
    fn a_group_that_there_is_keeps_what_it_has() {
        let long = "x".repeat(NAME);
        let things = [
            thing("/system.slice/lifeline.service", 9, None),
            thing("/apps/web", 8, None),
            thing("/services/web", 7, None),
            thing(&format!("/a/{long}"), 6, None),
        ];
        let found = groups(&things, &["lifeline", "web", "web-3", &long]);
        let names: Vec<_> = found.iter().map(|group| group.name.as_str()).collect();
        let cut = format!("{}-2", "x".repeat(NAME - 2));
        assert_eq!(names, ["lifeline-2", "web-2", "web-4", &cut]);
    }

    #[test]
    fn the_proposal_is_a_config_that_can_be_used() {
        let text = proposal(None, &device(), &[]);
        let config = config::parse("proposal", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let group = config.policy.groups.iter().find(|g| g.name == "grafana");
        assert_eq!(group.map(|g| g.kill), Some(600));
        assert!(
            text.contains("#   never  lifeline (how one gets at"),
            "{text}"
        );
        assert!(proposal(Some("gateway"), &[], &[]).contains("\nprofile = \"gateway\"\n"));
    }

    #[test]
    fn a_file_that_sets_something_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(CONFIG);
        let put = |text: &str| write(Some(dir.path().to_owned()), &file, text);
        put("# all is built in\n").unwrap();
        put("[limits]\nexit = \"4s\"\n").unwrap();
        let old = fs::read_to_string(file.with_extension("toml.old")).unwrap();
        assert_eq!(old, "# all is built in\n");
        assert!(put("").unwrap_err().to_string().contains("stays as it is"));
        assert!(fs::read_to_string(&file).unwrap().contains("4s"));
        fs::write(&file, "").unwrap();
        assert!(put("kill = 1\n").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        assert!(!file.with_extension("toml.new").exists());
    }
}
