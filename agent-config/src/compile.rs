//! From the merged tables to the judge's policy, with the checks that need more than one key.

use super::model::{
    Document, Engine as EngineTable, Group as GroupTable, Level as LevelTable, Ranks,
};
use super::problem::{Problem, Problems};
use super::read::Setting;
use super::source::Sources;
use super::value::{AnyOf, Clause, PATTERNS, Program, Time};
use super::{Ballast, EngineChoice, History, Reflex, Wake};
use lowtide_common::NEVER;
use lowtide_judge::{
    Amount, Condition, GROUPS, Group, LEVELS, Level, LevelPolicy, Policy, Stall, Step, Term,
};
use lowtide_rules::{At, Hooks, Layer, Pair};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// `None` when it does not fit a policy; problems say why.
pub(super) fn compile(
    document: &Document,
    sources: &Sources,
    problems: &mut Problems,
) -> Option<Policy> {
    let mut compiler = Compiler { sources, problems };
    let tables = document.level.tables();
    let levels: [LevelPolicy; LEVELS] =
        std::array::from_fn(|i| compiler.level(Level::CONFIGURED[i], tables[i]));
    let fallback = fallback(&document.everything_else);
    let groups = compiler.groups(document, &fallback)?;
    let limits = &document.limits;
    let policy = Policy {
        levels,
        groups,
        fallback,
        quiet_ms: ms(&document.wake.quiet),
        exit_ms: ms(&limits.exit),
        reclaim_ms: ms(&limits.reclaim),
        worth_permyriad: value(&limits.worth).map_or(0, |share| share.0),
        restarts: value(&limits.restarts).unwrap_or(0),
        restart_window_ms: ms(&limits.restart_window),
        reboot_after_ms: ms(&limits.reboot_after),
    };
    compiler.quiet(document);
    compiler.idle_actions(document, &policy);
    Some(policy)
}

/// Puts what is added to lists into them.
pub(super) fn join_lists(document: &mut Document, sources: &Sources, problems: &mut Problems) {
    for (at, group) in &mut document.group.0 {
        let name = group
            .name
            .as_ref()
            .map_or("", |name| name.value.0.as_str())
            .to_owned();
        if !group.join_lists() {
            problems.warning(|| {
                let message = format!("{name}: there is no list of a lower layer to add to");
                Problem::at(sources, *at, "group", message)
            });
        }
        let lengths = [
            group
                .cgroups
                .as_ref()
                .map(|list| (list.at, list.value.0.len())),
            group
                .processes
                .as_ref()
                .map(|list| (list.at, list.value.0.len())),
        ];
        for (at, length) in lengths.into_iter().flatten() {
            if length > PATTERNS {
                problems.error(|| {
                    let message =
                        format!("{name}: {length} patterns of all layers, at most {PATTERNS} fit");
                    Problem::at(sources, at, "group", message)
                });
            }
        }
    }
}

fn value<T: Copy>(setting: &Setting<T>) -> Option<T> {
    setting.as_ref().map(|set| set.value)
}

fn ms(setting: &Setting<Time>) -> u32 {
    value(setting).map_or(0, |time| time.0)
}

/// Whether there is anything to run; `None` where it is not said.
fn runs(setting: &Setting<Program>) -> Option<bool> {
    setting.as_ref().map(|set| !set.value.0.is_empty())
}

struct Compiler<'a> {
    sources: &'a Sources,
    problems: &'a mut Problems,
}

impl Compiler<'_> {
    fn error(&mut self, at: At, key: &str, message: impl Into<String>) {
        self.problems
            .error(|| Problem::at(self.sources, at, key, message));
    }

    fn warning(&mut self, at: At, key: &str, message: impl Into<String>) {
        self.problems
            .warning(|| Problem::at(self.sources, at, key, message));
    }

    fn level(&mut self, level: Level, table: &LevelTable) -> LevelPolicy {
        let key = |key: &str| format!("level.{}.{key}", level.name());
        let policy = LevelPolicy {
            confirm: self.condition(&table.confirm, &key("confirm")),
            relief: self.condition(&table.relief, &key("relief")),
            actions: table
                .actions
                .as_ref()
                .map(|a| a.value.0.clone())
                .unwrap_or_default(),
        };
        if let (Some(actions), true) = (&table.actions, policy.confirm.any.is_empty())
            && policy.actions.iter().any(|step| *step > Step::Reclaim)
        {
            self.warning(
                actions.at,
                &key("actions"),
                "without `confirm` every wake-up is acted on; the agent is also woken where nothing is wrong",
            );
        }
        if let (Some(confirm), Some(relief)) = (&table.confirm, &table.relief)
            && relief_too_low(&policy)
        {
            self.contradiction(
                (&key("relief"), relief.at),
                (&key("confirm"), confirm.at),
                "relief must lie above what confirms, or the level starts and stops in turns",
            );
        }
        policy
    }

    fn condition(&mut self, setting: &Setting<AnyOf>, key: &str) -> Condition {
        let mut condition = Condition::default();
        let Some(set) = setting else {
            return condition;
        };
        for clause in &set.value.0 {
            let terms = terms(clause);
            let fits =
                heapless::Vec::from_slice(&terms).is_ok_and(|all| condition.any.push(all).is_ok());
            if !fits {
                self.error(set.at, key, "more than 8 facts in one table");
            }
        }
        condition
    }

    /// The quiet time must outlast any window: the time without an event is all that tells the end
    /// of pressure.
    fn quiet(&mut self, document: &Document) {
        let wake = &document.wake;
        let Some(quiet) = &wake.quiet else {
            return;
        };
        let wakes = wake.trigger.as_ref();
        let wakes = wakes.and_then(|set| Some(("wake.trigger", set.at, set.value.0?)));
        let of_groups = document.group.0.iter().filter_map(|(_, group)| {
            let set = group.trigger.as_ref()?;
            Some(("group.trigger", set.at, set.value.0?))
        });
        for (key, at, trigger) in wakes.into_iter().chain(of_groups) {
            if quiet.value.0 <= trigger.window_us / 1_000 {
                self.contradiction(
                    ("wake.quiet", quiet.at),
                    (key, at),
                    "the quiet time must be longer than the window of every trigger, or the agent rests under pressure",
                );
            }
        }
    }

    /// Two values that do not go together: the one of the higher layer is to be mended.
    fn contradiction(&mut self, one: (&str, At), two: (&str, At), message: &str) {
        let layer = |at: At| self.sources.layer(at.source);
        let (wrong, given) = if layer(one.1) < layer(two.1) {
            (two, one)
        } else {
            (one, two)
        };
        let message = format!(
            "{message} ({} is at {})",
            given.0,
            self.sources.origin(given.1)
        );
        self.error(wrong.1, wrong.0, message);
    }

    /// Actions that can never happen.
    fn idle_actions(&mut self, document: &Document, policy: &Policy) {
        let all = || policy.groups.iter().chain([&policy.fallback]);
        let useless = [
            (
                Step::Kill,
                all().all(|g| g.kill == NEVER),
                "everything is `never` killed, so this can never happen",
            ),
            (
                Step::Reclaim,
                all().all(|g| g.reclaim == NEVER),
                "everything is `never` reclaimed from, so this can never happen",
            ),
            (
                Step::Throttle,
                all().all(|g| g.throttle_ms == 0),
                "no group sets `throttle`, so this can never happen",
            ),
            (
                Step::Reboot,
                policy.reboot_after_ms == 0,
                "`limits.reboot_after` is 0s, so this can never happen",
            ),
            (
                Step::Watchdog,
                policy.reboot_after_ms == 0,
                "`limits.reboot_after` is 0s, so this can never happen",
            ),
        ];
        for (level, table) in Level::CONFIGURED.into_iter().zip(document.level.tables()) {
            let Some(actions) = &table.actions else {
                continue;
            };
            for (step, never, message) in &useless {
                if *never && actions.value.0.contains(step) {
                    let key = format!("level.{}.actions: {}", level.name(), step.name());
                    self.warning(actions.at, &key, *message);
                }
            }
        }
    }

    fn groups(
        &mut self,
        document: &Document,
        fallback: &Group,
    ) -> Option<heapless::Vec<Group, GROUPS>> {
        let mut groups = heapless::Vec::new();
        for (at, table) in &document.group.0 {
            if groups.push(group(table, fallback)).is_err() {
                let places = document.group.0.iter().map(|(at, _)| at.source);
                let count = document.group.0.len();
                let shipped = places
                    .filter(|source| self.sources.layer(*source) <= Layer::Profile)
                    .count();
                let message = format!(
                    "{count} groups, {shipped} of them built in or of the profile; a policy holds {GROUPS}"
                );
                self.error(*at, "group", message);
                return None;
            }
            let listed = table
                .cgroups
                .as_ref()
                .is_some_and(|c| !c.value.0.is_empty());
            let containers = table
                .containers
                .as_ref()
                .is_some_and(|c| !c.value.0.is_empty());
            let processes = table
                .processes
                .as_ref()
                .is_some_and(|p| !p.value.0.is_empty());
            // What was given may be among what could not be read.
            let all_read = !self.problems.fatal();
            if all_read && !listed && !containers && !processes && table.xattr.is_none() {
                self.warning(
                    *at,
                    "group",
                    "no `cgroups`, `containers`, `xattr` or `processes`: the group covers nothing",
                );
            }
        }
        Some(groups)
    }
}

/// The device that a level's actions need.
pub(super) fn watchdog(document: &Document, policy: &Policy) -> Option<CString> {
    let mut levels = policy.levels.iter();
    let needed = levels.any(|level| level.actions.contains(&Step::Watchdog));
    let device = document.watchdog.device.as_ref()?;
    (needed && policy.reboot_after_ms > 0).then(|| device.value.0.clone())
}

pub(super) fn wake(document: &Document) -> Wake {
    Wake {
        trigger: value(&document.wake.trigger).and_then(|trigger| trigger.0),
        ballast: value(&document.wake.ballast).unwrap_or(Ballast::Auto),
    }
}

pub(super) fn reflex(document: &Document) -> Reflex {
    let table = &document.reflex;
    Reflex {
        kill: value(&table.kill).unwrap_or_default(),
        patience_ms: value(&table.patience).map_or(0, |patience| patience.0),
        survive: value(&table.survive).unwrap_or(false),
        budget: value(&table.budget).map_or(1, |budget| budget.0),
    }
}

pub(super) fn history(document: &Document) -> Option<History> {
    let table = &document.history;
    let path = Path::new(OsStr::from_bytes(table.file.as_ref()?.value.0.to_bytes()));
    Some(History {
        path: path.to_owned(),
        size: value(&table.size).map_or(0, |size| size.0),
    })
}

pub(super) fn dry_run(document: &Document) -> bool {
    value(&document.dry_run).unwrap_or(false)
}

pub(super) fn hooks(document: &Document) -> Hooks {
    let Ranks { before, after, .. } = &document.everything_else;
    let fallback = pair(before, after, &Pair::default());
    let group = |group: &GroupTable| pair(&group.before, &group.after, &fallback);
    Hooks {
        groups: document.group.0.iter().map(|(_, g)| group(g)).collect(),
        limit_ms: ms(&document.limits.command),
        fallback,
    }
}

/// What is not set is as in `fallback`.
fn pair(before: &Setting<Program>, after: &Setting<Program>, fallback: &Pair) -> Pair {
    let own = |setting: &Setting<Program>| setting.as_ref().map(|set| set.value.0.clone());
    Pair {
        before: own(before).unwrap_or_else(|| fallback.before.clone()),
        after: own(after).unwrap_or_else(|| fallback.after.clone()),
    }
}

pub(super) fn engine(table: &EngineTable) -> EngineChoice {
    EngineChoice {
        kind: value(&table.kind).and_then(|kind| kind.0),
        bpf_jit: value(&table.bpf_jit).unwrap_or(false),
    }
}

/// What no group covers; what the file does not set is as the judge has it.
fn fallback(table: &Ranks) -> Group {
    let default = Group::everything_else();
    Group {
        kill: value(&table.kill).map_or(default.kill, |p| p.0),
        reclaim: value(&table.reclaim).map_or(default.reclaim, |p| p.0),
        unit: value(&table.unit).unwrap_or(default.unit),
        grace_ms: value(&table.grace).map_or(default.grace_ms, |t| t.0),
        signal: value(&table.signal).map_or(default.signal, |s| s.0),
        throttle_ms: value(&table.throttle).map_or(default.throttle_ms, |t| t.0),
        before: runs(&table.before).unwrap_or(default.before),
        ..default
    }
}

/// A group; what it does not set is as for everything else.
fn group(table: &GroupTable, fallback: &Group) -> Group {
    Group {
        name: table
            .name
            .as_ref()
            .map(|name| name.value.0.clone())
            .unwrap_or_default(),
        kill: value(&table.kill).map_or(fallback.kill, |p| p.0),
        reclaim: value(&table.reclaim).map_or(fallback.reclaim, |p| p.0),
        unit: value(&table.unit).unwrap_or(fallback.unit),
        grace_ms: value(&table.grace).map_or(fallback.grace_ms, |t| t.0),
        signal: value(&table.signal).map_or(fallback.signal, |s| s.0),
        throttle_ms: value(&table.throttle).map_or(fallback.throttle_ms, |t| t.0),
        before: runs(&table.before).unwrap_or(fallback.before),
        protect: value(&table.protect),
        prefer: value(&table.protect_low),
        trigger: value(&table.trigger).and_then(|t| t.0),
    }
}

/// Whether memory can be short enough to confirm and plentiful enough for relief at once.
fn relief_too_low(policy: &LevelPolicy) -> bool {
    let overlap = |above: &Amount, below: &Amount| match (above, below) {
        (Amount::Bytes(above), Amount::Bytes(below)) => above <= below,
        (Amount::Permyriad(above), Amount::Permyriad(below)) => above <= below,
        // That depends on the size of RAM.
        _ => false,
    };
    let confirm = policy.confirm.any.iter().flatten();
    confirm.into_iter().any(|term| match term {
        Term::AvailableBelow(below) => policy
            .relief
            .any
            .iter()
            .flatten()
            .any(|term| matches!(term, Term::AvailableAbove(above) if overlap(above, below))),
        _ => false,
    })
}

fn terms(clause: &Clause) -> Vec<Term> {
    // Each by name: a key that is left out here is one that does nothing.
    let Clause {
        available_below,
        available_above,
        swap_free_below,
        swap_free_above,
        zram_above,
        zram_below,
        refaults_above,
        refaults_below,
        some_above,
        some_below,
        full_above,
        full_below,
        limited_above,
        limited_below,
        shrinking_by,
    } = clause;
    [
        value(available_below).map(Term::AvailableBelow),
        value(available_above).map(Term::AvailableAbove),
        value(swap_free_below).map(Term::SwapFreeBelow),
        value(swap_free_above).map(Term::SwapFreeAbove),
        value(zram_above).map(Term::ZramAbove),
        value(zram_below).map(Term::ZramBelow),
        value(refaults_above).map(Term::RefaultsAbove),
        value(refaults_below).map(Term::RefaultsBelow),
        value(some_above).map(|p| Term::PressureAbove(Stall::Some, p.0)),
        value(some_below).map(|p| Term::PressureBelow(Stall::Some, p.0)),
        value(full_above).map(|p| Term::PressureAbove(Stall::Full, p.0)),
        value(full_below).map(|p| Term::PressureBelow(Stall::Full, p.0)),
        value(limited_above).map(|p| Term::LimitedAbove(p.0)),
        value(limited_below).map(|p| Term::LimitedBelow(p.0)),
        value(shrinking_by).map(|b| Term::ShrinkingBy(b.0)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
