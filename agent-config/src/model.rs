//! The tables of a config file.

use super::Ballast;
use super::read::{Field, Node, Reader, Setting, table};
use super::tree::Tree;
use super::value::{
    AbsolutePath, Actions, AnyOf, Attribute, Budget, Bytes, Clause, EngineKind, Globs, GroupName,
    List, OwnTrigger, Patience, Percent, Priority, Processes, ProfileName, Program, ReflexKill,
    Signal, Time, UserGroup, WakeTrigger,
};
use lowtide_judge::{Amount, Unit};
use lowtide_rules::At;
use toml::de::DeValue;

/// `[[group]]` tables of one file that are looked at; more than a policy can hold, so that what is
/// wrong with them is still said.
const LOOKED_AT: usize = 256;

table! {
    /// A config file.
    pub struct Document {
        /// Profile to build on: /etc/lowtide/profiles/NAME.toml or /usr/lib/lowtide/profiles/NAME.toml.
        pub profile: Setting<ProfileName>,
        /// What ends the agent's sleep. It decides nothing: the levels do.
        pub wake: Wake,
        /// Only say what would be done: nothing is reclaimed, asked, killed or set. Counts from the next start on.
        pub dry_run: Setting<bool>,
        /// What each level of pressure needs and does.
        pub level: Levels,
        /// Where the evidence comes from.
        pub engine: Engine,
        /// What the kernel does by itself where the agent cannot answer.
        pub reflex: Reflex,
        /// How long things may take.
        pub limits: Limits,
        /// What restarts the device when nothing else is left.
        pub watchdog: Watchdog,
        /// What is kept of decisions.
        pub history: History,
        /// Who may ask the agent.
        pub status: Status,
        /// What applies to cgroups and processes that no group covers.
        pub everything_else: Ranks,
        /// Cgroups and processes that matter alike. The same name in a later file changes single keys.
        pub group: Groups,
    }
}

table! {
    /// What ends the agent's sleep. It decides nothing: the levels do.
    pub struct Wake {
        /// PSI trigger on the system: `"some|full STALL/WINDOW"`, or `"off"`.
        pub trigger: Setting<WakeTrigger>,
        /// The device is calm again after this long without a wake-up; longer than the window of any trigger.
        pub quiet: Setting<Time>,
        /// Memory that the kernel takes last, and says so, where nothing better wakes the agent: `"auto"` for 2 to 8 MB by RAM, `"off"`, or a size from 1M to 16M to have it in any case; at most an eighth of RAM.
        pub ballast: Setting<Ballast>,
    }
}

table! {
    /// The levels of pressure. Awake, with no level's condition holding, it is alert.
    pub struct Levels {
        /// Memory has become short.
        pub strained: Level,
        /// The device is about to stall.
        pub critical: Level,
    }
    gone {
        watch: "delete this table: an agent that is awake with no level holding is `alert`; what wakes it is `trigger` under [wake]",
    }
}

impl Levels {
    /// Mildest first, as [`lowtide_judge::Level::CONFIGURED`].
    pub fn tables(&self) -> [&Level; lowtide_judge::LEVELS] {
        [&self.strained, &self.critical]
    }
}

table! {
    /// One level of pressure.
    pub struct Level {
        /// The level holds, and its actions begin, while this does: all keys of one table, or of any one table of a list.
        pub confirm: Setting<AnyOf>,
        /// What ends the actions.
        pub relief: Setting<AnyOf>,
        /// What is done, in order: reclaim, throttle, terminate, kill, reboot, watchdog. An empty list turns the level off.
        pub actions: Setting<Actions>,
    }
    gone {
        trigger: "delete it here: one trigger wakes the agent for all levels, `trigger` under [wake], and what a level needs is its `confirm`",
    }
}

table! {
    /// Where the evidence comes from.
    pub struct Engine {
        /// `auto` takes the best that works here.
        pub kind: Setting<EngineKind>,
        /// May the BPF JIT be turned on where it is off? The kfunc engine needs it.
        pub bpf_jit: Setting<bool>,
    }
}

table! {
    /// What the kernel does by itself where the agent cannot answer: a BPF program ends the first of the order.
    pub struct Reflex {
        /// `floor`: where the kernel's OOM killer is next. `on`: also where the agent has not answered within `patience`. `off`: never.
        pub kill: Setting<ReflexKill>,
        /// With `kill = "on"`, what the agent gets first; at most a second.
        pub patience: Setting<Patience>,
        /// Does it stay armed when the agent dies? Needs a bpffs at /sys/fs/bpf.
        pub survive: Setting<bool>,
        /// Kills within 10 s; then it waits for the agent.
        pub budget: Setting<Budget>,
    }
}

table! {
    /// How long things may take.
    pub struct Limits {
        /// A victim may take this long to be gone before the next one is looked for.
        pub exit: Setting<Time>,
        /// Part of what is missing that one victim has to free, or one cache to give, at least: less comes last. 256K or more, whatever is missing.
        pub worth: Setting<Percent>,
        /// Reclaim may go on for this long in one go.
        pub reclaim: Setting<Time>,
        /// What came back this often after its end, each time within `restart_window`, loops: it is not asked any more, and goes first of equal numbers; nothing else goes for it. 0: never.
        pub restarts: Setting<u8>,
        /// See `restarts`.
        pub restart_window: Setting<Time>,
        /// A command (`before`, `after`) may take this long before it is killed.
        pub command: Setting<Time>,
        /// With nothing killable left for this long, a level whose actions say so reboots, or gives the watchdog no more signs of life; 0s: never.
        pub reboot_after: Setting<Time>,
    }
    gone {
        quiet: "write it as `quiet` under [wake]",
    }
}

table! {
    /// What restarts the device when nothing else is left.
    pub struct Watchdog {
        /// Held open while a level's actions have `watchdog`, and given signs of life until their turn comes.
        pub device: Setting<AbsolutePath>,
    }
}

table! {
    /// What is kept of decisions.
    pub struct History {
        /// A file that outlives a restart of the device, written after an episode; without it they are kept in /run/lowtide/history alone.
        pub file: Setting<AbsolutePath>,
        /// Most bytes of that file; as many again are in the one before it, which has `.1` at the end of its name.
        pub size: Setting<Bytes>,
    }
}

table! {
    /// Who may ask the agent.
    pub struct Status {
        /// Users of this group, besides root, get answers to `lowtide status` and `lowtide top`; they can change nothing.
        pub group: Setting<UserGroup>,
    }
}

table! {
    /// What may happen to cgroups and processes, and in which order.
    pub struct Ranks {
        /// The order, 0 to 1000, or never. The highest `kill` goes first, of equal numbers what frees most; what frees less than a sixteenth of what is missing (`limits.worth`) comes last, and what frees less than 256K never goes.
        pub kill: Setting<Priority>,
        /// The order in which file cache is given back, 0 to 1000, in the same way; or never.
        pub reclaim: Setting<Priority>,
        /// What is killed at once: the cgroup with all below it, or its process that frees most.
        pub unit: Setting<Unit>,
        /// Time between the signal that asks and the kill; 0s: not asked.
        pub grace: Setting<Time>,
        /// The signal that asks.
        pub signal: Setting<Signal>,
        /// Longest time that it may be held back in one go; 0s: never.
        pub throttle: Setting<Time>,
        /// Program and arguments to run before it is asked to stop, for which the first half of the grace is; without a grace, while it is killed.
        pub before: Setting<Program>,
        /// Program and arguments to run when it has ended.
        pub after: Setting<Program>,
    }
}

table! {
    /// A group.
    pub struct Group {
        /// Its name, unique within a file.
        pub name: Setting<GroupName>,
        /// Globs on the path below the cgroup root: `*` within one component, `**` over any number. What is below a match belongs to it unless matched itself. What users named so, in a cgroup of their own, goes no later for it.
        pub cgroups: Setting<Globs>,
        /// The same, besides those that a lower layer has for this group: `cgroups` alone takes their place.
        pub cgroups_add: Setting<Globs>,
        /// Containers by name, `*` and `?` as above: of Docker, Podman, containerd and k3s as far as they keep it where they usually do, of LXC, Incus and systemd-nspawn. It counts before `cgroups`, and only for a container that root's runtime has made; `lowtide check` says where a name cannot be known.
        pub containers: Setting<Globs>,
        /// The same, besides those that a lower layer has for this group: `containers` alone takes their place.
        pub containers_add: Setting<Globs>,
        /// Attribute set on the cgroup's directory, `user.NAME` or `user.NAME=VALUE`; ranks above any glob. Only where the directory is root's does anything go later for it.
        pub xattr: Setting<Attribute>,
        /// Processes by name, program or user, wherever they run. A cgroup that no pattern names goes with the group when all its processes belong to it; where they differ, or one is `never`, its processes go one by one. Only root's processes, and those of the user that the pattern names, go later for it.
        pub processes: Setting<Processes>,
        /// The same, besides those that a lower layer has for this group: `processes` alone takes their place.
        pub processes_add: Setting<Processes>,
        /// The order, 0 to 1000, or never. The highest `kill` goes first, of equal numbers what frees most; what frees less than a sixteenth of what is missing (`limits.worth`) comes last, and what frees less than 256K never goes.
        pub kill: Setting<Priority>,
        /// The order in which file cache is given back, 0 to 1000, in the same way; or never.
        pub reclaim: Setting<Priority>,
        /// What is killed at once: the cgroup with all below it, or its process that frees most.
        pub unit: Setting<Unit>,
        /// Time between the signal that asks and the kill; 0s: not asked.
        pub grace: Setting<Time>,
        /// The signal that asks.
        pub signal: Setting<Signal>,
        /// Longest time that it may be held back in one go; 0s: never.
        pub throttle: Setting<Time>,
        /// Program and arguments to run before it is asked to stop, for which the first half of the grace is; without a grace, while it is killed.
        pub before: Setting<Program>,
        /// Program and arguments to run when it has ended.
        pub after: Setting<Program>,
        /// Memory that is never reclaimed from it (memory.min), of RAM.
        pub protect: Setting<Amount>,
        /// Memory that is reclaimed from it only when nothing else is left (memory.low), of RAM.
        pub protect_low: Setting<Amount>,
        /// PSI trigger on each of its cgroups that has a limit of its own (memory.max or memory.high): pressure inside is judged by that limit and solved inside, among the cgroups below it. Without memory.high one is set a sixteenth below memory.max, so that there is a stall before the end. At most 16 cgroups.
        pub trigger: Setting<OwnTrigger>,
    }
}

impl Group {
    /// Takes over what a layer of higher rank sets; what it adds to lists stays apart until all
    /// layers are there.
    fn cover(&mut self, mut over: Self) {
        let (cgroups, containers) = (over.cgroups_add.take(), over.containers_add.take());
        let processes = over.processes_add.take();
        add(&mut self.cgroups_add, cgroups, over.cgroups.is_some());
        let replaces = over.containers.is_some();
        add(&mut self.containers_add, containers, replaces);
        add(&mut self.processes_add, processes, over.processes.is_some());
        self.merge(over);
    }

    /// Puts what is added into the lists; whether there was anything to add to.
    pub fn join_lists(&mut self) -> bool {
        let nothing = |list: bool, more: bool| more && !list;
        let adds_to_nothing = nothing(self.cgroups.is_some(), self.cgroups_add.is_some())
            || nothing(self.containers.is_some(), self.containers_add.is_some())
            || nothing(self.processes.is_some(), self.processes_add.is_some());
        add(&mut self.cgroups, self.cgroups_add.take(), false);
        add(&mut self.containers, self.containers_add.take(), false);
        add(&mut self.processes, self.processes_add.take(), false);
        !adds_to_nothing
    }
}

/// Puts `more` behind a list, or in its place.
fn add<L: List>(list: &mut Setting<L>, more: Setting<L>, replaces: bool) {
    match (list.as_mut(), more) {
        (Some(list), Some(more)) if !replaces => {
            list.value.append(more.value);
            list.at = more.at;
        }
        (Some(_), None) if !replaces => {}
        (_, more) => *list = more,
    }
}

/// The groups in the order of their first mention, with the place of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(pub Vec<(At, Group)>);

impl Groups {
    fn position(&self, name: &GroupName) -> Option<usize> {
        self.0
            .iter()
            .position(|(_, g)| g.name.as_ref().is_some_and(|n| n.value == *name))
    }
}

impl Field for Groups {
    fn read(&mut self, node: &Node<'_>, reader: &mut Reader<'_>) {
        let DeValue::Array(tables) = node.get_ref() else {
            reader.unexpected(node, "`[[group]]` tables");
            return;
        };
        if tables.len() > LOOKED_AT {
            reader.fail(
                node.span(),
                format!(
                    "{} groups; a policy holds {}",
                    tables.len(),
                    lowtide_judge::GROUPS
                ),
            );
        }
        for table in tables.iter().take(LOOKED_AT) {
            let mut group = Group::default();
            group.read(table, reader);
            let Some(name) = &group.name else {
                if table
                    .get_ref()
                    .as_table()
                    .is_some_and(|t| !t.contains_key("name"))
                {
                    reader.fail(table.span(), "a group without `name`");
                }
                continue;
            };
            match self.position(&name.value) {
                Some(first) => reader.below("name", |r| r.twice(name.at, self.0[first].0)),
                None => self.0.push((reader.at(table.span()), group)),
            }
        }
    }

    fn merge(&mut self, over: Self) {
        for (at, group) in over.0 {
            let known = group.name.as_ref().and_then(|n| self.position(&n.value));
            match known {
                Some(i) => self.0[i].1.cover(group),
                None => self.0.push((at, group)),
            }
        }
    }

    fn tree(&self) -> Option<Tree> {
        let tables: Vec<_> = self.0.iter().filter_map(|(_, g)| g.tree()).collect();
        (!tables.is_empty()).then_some(Tree::Tables(tables))
    }

    #[cfg(test)]
    fn schema() -> serde_json::Value {
        let mut group = Group::schema();
        group["required"] = serde_json::json!(["name"]);
        serde_json::json!({ "type": "array", "items": group, "maxItems": lowtide_judge::GROUPS })
    }
}

/// Where a key belongs, for one that stands elsewhere; `None` for one that is nowhere known, or in
/// several places.
pub(super) fn place_of(key: &str) -> Option<&'static str> {
    let places: [(&str, &[&str]); 7] = [
        ("above the first [table] or [[group]]", &["profile"]),
        ("under [wake]", &["quiet"]),
        ("under [level.strained] or [level.critical]", Level::KEYS),
        ("under [engine]", Engine::KEYS),
        ("under [limits]", Limits::KEYS),
        ("under a [[group]]", Group::KEYS),
        ("in a table of `confirm` or `relief`", Clause::KEYS),
    ];
    let mut fitting = places.iter().filter(|(_, keys)| keys.contains(&key));
    fitting.next().map(|(place, _)| *place)
}
