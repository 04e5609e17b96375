//! What can be read, but hardly says what its author meant: marks that never or always hold, keys
//! without the action that would use them, patterns written for another program.

use super::model::{Document, Group, Level as LevelTable};
use super::problem::{Problem, Problems};
use super::read::Setting;
use super::source::Sources;
use super::value::{AnyOf, Clause, Percent, Time};
use lowtide_common::NEVER;
use lowtide_judge::{Amount, Level, Policy, Step};
use lowtide_rules::{At, Layer};

/// Hundredths of a percent in the whole.
const WHOLE: u16 = 10_000;
/// More of RAM than this is hardly ever available: the kernel and the services of an idle device
/// take a fifth.
const HARDLY_AVAILABLE: u16 = 8_000;
/// Less of RAM than this is available on many a device that is well.
const OFTEN_SHORT: u16 = 5_000;

pub(super) fn review(
    document: &Document,
    policy: &Policy,
    sources: &Sources,
    problems: &mut Problems,
) {
    let mut review = Review { sources, problems };
    for (level, table) in Level::CONFIGURED.into_iter().zip(document.level.tables()) {
        let key = |key: &str| format!("level.{}.{key}", level.name());
        review.facts(&table.confirm, &key("confirm"), true);
        review.facts(&table.relief, &key("relief"), false);
    }
    review.no_actions(document, policy);
    review.order_of_levels(document.level.tables());
    review.unused_keys(document, policy);
    for (_, group) in &document.group.0 {
        review.patterns(group, policy);
    }
}

struct Review<'a> {
    sources: &'a Sources,
    problems: &'a mut Problems,
}

impl Review<'_> {
    fn error(&mut self, at: At, key: &str, message: impl Into<String>, help: &str) {
        let problem = || Problem {
            help: Some(help.to_owned()),
            ..Problem::at(self.sources, at, key, message)
        };
        self.problems.error(problem);
    }

    fn warning(&mut self, at: At, key: &str, message: impl Into<String>, help: &str) {
        let problem = || Problem {
            help: Some(help.to_owned()),
            ..Problem::at(self.sources, at, key, message)
        };
        self.problems.warning(problem);
    }

    /// Whether somebody wrote it for this device or image, and not for all of a kind.
    fn is_own(&self, at: At) -> bool {
        matches!(
            self.sources.layer(at.source),
            Layer::Vendor | Layer::Device(_)
        )
    }

    /// Facts that no device makes true, or each does.
    fn facts(&mut self, setting: &Setting<AnyOf>, key: &str, confirms: bool) {
        for clause in setting.iter().flat_map(|set| &set.value.0) {
            self.impossible(clause, key);
            if let (Some(set), true) = (&clause.available_below, confirms)
                && let Amount::Permyriad(share) = set.value
                && share > OFTEN_SHORT
            {
                let message = format!(
                    "less than {} % of RAM is available on many a device that is well",
                    share / 100
                );
                self.warning(
                    set.at,
                    &format!("{key}.available_below"),
                    message,
                    "marks are a few percent",
                );
            }
            if let (Some(set), false) = (&clause.available_above, confirms)
                && let Amount::Permyriad(share) = set.value
                && (HARDLY_AVAILABLE..WHOLE).contains(&share)
            {
                let message = format!(
                    "{} % of RAM is hardly ever available: the actions go on until it is",
                    share / 100
                );
                self.warning(
                    set.at,
                    &format!("{key}.available_above"),
                    message,
                    "marks are a few percent above `confirm`",
                );
            }
        }
    }

    fn impossible(&mut self, clause: &Clause, key: &str) {
        let none = |amount: Amount| matches!(amount, Amount::Bytes(0) | Amount::Permyriad(0));
        let all = |amount: Amount| amount == Amount::Permyriad(WHOLE);
        let amount = |set: &Setting<Amount>, never: &dyn Fn(Amount) -> bool| {
            set.as_ref()
                .filter(|set| never(set.value))
                .map(|set| set.at)
        };
        let share = |set: &Setting<Percent>, never: u16| {
            set.as_ref()
                .filter(|set| set.value.0 == never)
                .map(|set| set.at)
        };
        let found = [
            (
                "available_below",
                amount(&clause.available_below, &none),
                false,
            ),
            (
                "available_below",
                amount(&clause.available_below, &all),
                true,
            ),
            (
                "available_above",
                amount(&clause.available_above, &all),
                false,
            ),
            (
                "swap_free_above",
                amount(&clause.swap_free_above, &all),
                false,
            ),
            ("zram_below", amount(&clause.zram_below, &none), false),
            ("zram_above", amount(&clause.zram_above, &all), false),
            ("some_below", share(&clause.some_below, 0), false),
            ("some_above", share(&clause.some_above, WHOLE), false),
            ("full_below", share(&clause.full_below, 0), false),
            ("full_above", share(&clause.full_above, WHOLE), false),
            ("limited_below", share(&clause.limited_below, 0), false),
            ("limited_above", share(&clause.limited_above, WHOLE), false),
        ];
        for (fact, at, always) in found {
            if let Some(at) = at {
                let message = if always {
                    "this always holds"
                } else {
                    "this never holds"
                };
                let help = "a share between the two is meant";
                self.error(at, &format!("{key}.{fact}"), message, help);
            }
        }
    }

    /// A level that ends nothing though the device is about to stall.
    fn no_actions(&mut self, document: &Document, policy: &Policy) {
        let highest = policy.levels.len() - 1;
        let tables = document.level.tables();
        let (level, table) = (Level::CONFIGURED[highest], tables[highest]);
        let Some(set) = &table.actions else { return };
        let ends = |step: &Step| *step > Step::Throttle;
        if !set.value.0.iter().any(ends) {
            let message = "nothing is ended when the device is about to stall";
            let key = format!("level.{}.actions", level.name());
            self.warning(set.at, &key, message, "add \"terminate\" and \"kill\"");
        }
    }

    /// The milder level is to hold before the harsher.
    fn order_of_levels(&mut self, tables: [&LevelTable; lowtide_judge::LEVELS]) {
        // Clauses that ask for something else as well hold later than their mark says.
        let mark = |table: &LevelTable| {
            let clauses = table.confirm.iter().flat_map(|set| &set.value.0);
            let alone = clauses.filter(|c| {
                let others = [c.swap_free_above.is_some(), c.zram_above.is_some()];
                let shares = [&c.some_above, &c.full_above].map(|set| set.is_some());
                !others.into_iter().chain(shares).any(|other| other)
            });
            let marks = alone.filter_map(|c| match c.available_below.as_ref()?.value {
                Amount::Permyriad(share) => Some(share),
                Amount::Bytes(_) => None,
            });
            marks.max()
        };
        for pair in tables.windows(2) {
            let acts = pair[0]
                .actions
                .as_ref()
                .is_some_and(|a| !a.value.0.is_empty());
            let (Some(mild), Some(harsh), Some(below), Some(above)) = (
                mark(pair[0]),
                mark(pair[1]),
                &pair[0].confirm,
                &pair[1].confirm,
            ) else {
                continue;
            };
            if acts && harsh > mild {
                let at = if self.is_own(above.at) {
                    above.at
                } else {
                    below.at
                };
                let message = format!(
                    "critical holds at {} % of RAM, before strained does at {} %",
                    f64::from(harsh) / 100.0,
                    f64::from(mild) / 100.0
                );
                self.warning(
                    at,
                    "level",
                    message,
                    "the milder level needs the higher mark",
                );
            }
        }
    }

    /// Keys that only an action uses which no level has.
    fn unused_keys(&mut self, document: &Document, policy: &Policy) {
        let has = |step| {
            policy
                .levels
                .iter()
                .any(|level| level.actions.contains(&step))
        };
        let mut unused = |set: Option<At>, key: &str, what: &str| {
            if let Some(at) = set.filter(|at| self.is_own(*at)) {
                let message =
                    format!("no level has {what} among its `actions`, so this does nothing");
                self.warning(at, key, message, "add it there, or delete this");
            }
        };
        let time =
            |set: &Setting<Time>| set.as_ref().filter(|set| set.value.0 > 0).map(|set| set.at);
        if !has(Step::Reboot) && !has(Step::Watchdog) {
            let at = time(&document.limits.reboot_after);
            unused(at, "limits.reboot_after", "\"reboot\" or \"watchdog\"");
        }
        let rest = &document.everything_else;
        let of_rest = ("everything_else", &rest.throttle, &rest.grace, &rest.signal);
        let groups = document.group.0.iter();
        let groups = groups.map(|(_, g)| ("group", &g.throttle, &g.grace, &g.signal));
        for (table, throttle, grace, signal) in [of_rest].into_iter().chain(groups) {
            if !has(Step::Throttle) {
                unused(time(throttle), &format!("{table}.throttle"), "\"throttle\"");
            }
            if !has(Step::Terminate) {
                unused(time(grace), &format!("{table}.grace"), "\"terminate\"");
                let at = signal.as_ref().map(|set| set.at);
                unused(at, &format!("{table}.signal"), "\"terminate\"");
            }
        }
    }

    fn patterns(&mut self, group: &Group, policy: &Policy) {
        let kill = group
            .kill
            .as_ref()
            .map_or(policy.fallback.kill, |kill| kill.value.0);
        for set in group.cgroups.iter().flat_map(|list| &list.value.0) {
            let (at, key, written) = (set.at, "group.cgroups", set.value.as_written());
            let trimmed = written.trim_matches('/');
            if let Some(rest) = trimmed.strip_prefix("sys/fs/cgroup") {
                let help = format!(
                    "write \"{}\"",
                    rest.trim_start_matches("/unified").trim_matches('/')
                );
                self.error(at, key, "paths begin below /sys/fs/cgroup", &help);
            }
            if kill == NEVER && is_everything(trimmed) {
                self.warning(
                    at,
                    key,
                    "this is every cgroup, and none of them may be killed",
                    "name those that matter",
                );
            }
            self.regex(at, key, written);
        }
        for set in group.processes.iter().flat_map(|list| &list.value.0) {
            let Some(name) = &set.value.name else {
                continue;
            };
            let (at, key, written) = (name.at, "group.processes", name.value.as_written());
            if written.contains('/') {
                let help = format!("write {{ exe = \"{written}\" }}");
                self.error(at, key, "the name of a process is no path", &help);
            }
            if kill == NEVER
                && is_everything(written)
                && set.value.exe.is_none()
                && set.value.user.is_none()
            {
                self.warning(
                    at,
                    key,
                    "this is every process, and none of them may be killed",
                    "name those that matter",
                );
            }
            self.regex(at, key, written);
        }
    }

    fn regex(&mut self, at: At, key: &str, written: &str) {
        let signs = [".*", ".+", "\\.", "|", "\\d", "\\w"];
        let is_alternative = written.contains("{") && written.contains(".*}");
        let sign = signs
            .into_iter()
            .find(|sign| written.contains(sign) && !is_alternative);
        let anchor = (written.starts_with('^') || written.ends_with('$')).then_some("^ or $");
        if let Some(sign) = sign.or(anchor) {
            let message = format!("`{sign}` is of regular expressions, and stands for itself here");
            let help = "patterns are globs: `*`, `?`, `[a-z]`, `{a,b}`; they match the whole";
            self.warning(at, key, message, help);
        }
    }
}

/// Nothing but wildcards.
fn is_everything(pattern: &str) -> bool {
    pattern.contains('*') && pattern.bytes().all(|b| b"*/".contains(&b))
}
