//! A recording judged again.

use crate::rules::{self, Known};
use anyhow::{Result, anyhow, bail};
use lowtide::tell::recording::{ACTIONS, Begin, Broken, Event, Looked, NAME, Reader};
use lowtide_common::{CANDIDATES, Row, Survey};
use lowtide_config::{Loaded, parse};
use lowtide_judge::{Action, History, Level, Millis, Names, Outcome, Policy, Verdict};
use std::collections::{HashMap, HashSet};

/// What was decided at one look, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// As [`ACTIONS`] has it.
    pub action: &'static str,
    /// To what: the ids, and how they are shown.
    pub ids: Vec<u64>,
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    /// Empty where it is not known.
    pub group: String,
    pub frees: u64,
}

impl Side {
    fn nothing() -> Self {
        Self {
            action: "nothing",
            ids: Vec::new(),
            targets: Vec::new(),
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.action == "nothing"
    }

    /// Whether something ends by it.
    pub fn ends(&self) -> bool {
        matches!(self.action, "terminate" | "kill")
    }

    fn same_as(&self, other: &Self) -> bool {
        self.action == other.action && self.ids == other.ids
    }
}

/// A look at which something was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Milliseconds since the agent's start.
    pub at: Millis,
    /// cgroup id of the domain that it is of; 0: the system.
    pub domain: u64,
    pub level: Level,
    pub available: u64,
    pub total: u64,
    pub done: Side,
    /// It was not possible, or only pretended.
    pub failed: bool,
    pub judged: Side,
    /// Something differed before: the figures are those after what was done, and not those after what
    /// would have been.
    pub guess: bool,
}

impl Decision {
    pub fn differs(&self) -> bool {
        !self.done.same_as(&self.judged)
    }
}

/// What came of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub begin: Begin,
    pub looks: usize,
    pub samples: usize,
    pub last: Millis,
    pub decisions: Vec<Decision>,
    /// When the first of them differs.
    pub differs_at: Option<Millis>,
    /// Events that the agent had no room for.
    pub lost: u64,
    /// Why it ends before the file does.
    pub broken: Option<Broken>,
}

/// One domain's conversation.
#[derive(Default)]
struct Judged {
    history: History,
    /// Victims of its own, that were not killed: each is taken for gone at the next look.
    presumed: Vec<u64>,
    /// One of these was in this episode: it is the last, as how much it would have brought is not known.
    guessing: bool,
}

struct Replaying<'a> {
    config: Option<&'a Loaded>,
    recorded: Option<Box<Loaded>>,
    domains: HashMap<u64, Judged>,
    /// What candidates are called when they come back, see [`Names`].
    names: HashMap<u64, u64>,
    known: Known,
    /// Victims that ended since the last sample, which still has them.
    gone: HashSet<u64>,
    shown: HashMap<u64, String>,
    run: Run,
}

/// Judges it by `config`, or by what was in force. An error where nothing can be judged at all; what is
/// wrong with a later part of the file is in [`Run::broken`].
pub fn replay(file: &[u8], config: Option<&Loaded>) -> Result<Run> {
    let mut replaying = Replaying {
        config,
        recorded: None,
        domains: HashMap::new(),
        names: HashMap::new(),
        known: Known::new(),
        gone: HashSet::new(),
        shown: HashMap::new(),
        run: Run::default(),
    };
    if config.is_some() {
        // What came just before an episode was named only after it.
        replaying.learn(file)?;
    }
    let mut reader = Reader::new(file).map_err(|broken| anyhow!("{broken}"))?;
    while let Some(event) = reader.next() {
        match event {
            Ok(event) => replaying.take(event, reader.sample())?,
            Err(broken) => replaying.run.broken = Some(broken),
        }
    }
    Ok(replaying.end())
}

impl Replaying<'_> {
    fn learn(&mut self, file: &[u8]) -> Result<()> {
        let reader = Reader::new(file).map_err(|broken| anyhow!("{broken}"))?;
        for event in reader.flatten() {
            if let Event::Cgroup(cgroup) = event {
                self.known.insert(cgroup.id, cgroup);
            }
        }
        Ok(())
    }

    fn take(&mut self, event: Event, sample: &[Row]) -> Result<()> {
        match event {
            Event::Begin(begin) => {
                self.run.last = begin.at;
                self.run.begin = begin;
            }
            Event::Config(text) if self.config.is_none() => {
                let parsed = parse("the config that was recorded", &text);
                let parsed = parsed.map_err(|problems| anyhow!("{problems}"))?;
                self.recorded = Some(Box::new(parsed));
            }
            Event::Config(_) => {}
            Event::Look(looked) => {
                self.run.looks += 1;
                self.run.last = looked.at;
                self.look(&looked, sample)?;
            }
            Event::Exit {
                domain,
                id,
                at,
                memory,
            } => {
                let judged = self.domains.entry(domain).or_default();
                judged.history.record_exit(id, memory.as_ref(), at);
                self.gone.insert(id);
            }
            Event::Reconfigured { domain, at } => {
                let judged = self.domains.entry(domain).or_default();
                judged.history.reconfigured(at);
            }
            Event::Named { id, name } => {
                let name = String::from_utf8_lossy(&name).into_owned();
                self.shown.insert(id, name);
            }
            Event::Lost(events) => self.run.lost += events,
            Event::Cgroup(cgroup) => {
                self.known.insert(cgroup.id, cgroup);
            }
            Event::Sample { at, .. } => {
                self.gone.clear();
                self.run.samples += 1;
                self.run.last = at;
            }
            Event::Refused(_) => {}
        }
        Ok(())
    }

    fn look(&mut self, looked: &Looked, sample: &[Row]) -> Result<()> {
        let Some(config) = self.config.or(self.recorded.as_deref()) else {
            bail!("there is no config in it before the first look");
        };
        let policy = &config.policy;
        let judged = self.domains.entry(looked.domain).or_default();
        let named = looked
            .survey
            .iter()
            .flat_map(Survey::kill)
            .zip(looked.names);
        self.names.extend(
            named
                .filter(|(_, name)| *name != 0)
                .map(|(row, name)| (row.id, name)),
        );
        if looked.fired {
            judged.history.woken(looked.at);
        }
        for id in judged.presumed.drain(..) {
            judged.history.record_exit(id, None, looked.at);
        }
        let look = judged.history.look(policy, &looked.memory, looked.at);
        let (survey, names) = match self.config {
            None => {
                let survey = looked.survey.unwrap_or(Survey::EMPTY);
                (survey, looked.names)
            }
            Some(_) if !looked.fired && !look.wants_survey() => (Survey::EMPTY, [0; CANDIDATES]),
            Some(config) => {
                let worth = look.worth();
                let left = |row: &&Row| !self.gone.contains(&row.id);
                let sample: Vec<_> = sample.iter().filter(left).copied().collect();
                let survey = rules::survey(config, &self.known, &sample, looked, worth);
                let mut names: Names = [0; CANDIDATES];
                for (name, row) in names.iter_mut().zip(survey.kill()) {
                    if look.wants_name(row) {
                        *name = self.names.get(&row.id).copied().unwrap_or(0);
                    }
                }
                (survey, names)
            }
        };
        let verdict = look.judge(&survey, &names);
        let done = done(looked);
        let mut side = side(&verdict, policy);
        // Also where nothing came of it.
        let decided = (
            ACTIONS[usize::from(looked.decided.action)],
            &looked.decided.targets,
        );
        let outcomes = if (side.action, &side.ids) == decided {
            looked.decided.outcomes.clone()
        } else {
            presume(&verdict, judged)
        };
        if outcomes.is_empty() {
            side = Side::nothing();
        }
        let same = side.same_as(&done);
        for (id, outcome) in done.ids.iter().zip(&looked.decided.outcomes) {
            if let Outcome::Done { name, .. } = outcome
                && *name != 0
            {
                self.names.insert(*id, *name);
            }
        }
        judged.history.record(policy, &verdict, &outcomes);
        if verdict.acting.is_none() {
            judged.guessing = false;
        }
        if same && done.is_nothing() {
            return Ok(());
        }
        let guess = self.run.differs_at.is_some() || self.run.lost > 0;
        if !same {
            self.run.differs_at.get_or_insert(looked.at);
        }
        let failed = |outcome: &Outcome| matches!(outcome, Outcome::Failed { .. });
        self.run.decisions.push(Decision {
            at: looked.at,
            domain: looked.domain,
            level: verdict.level,
            available: looked.memory.available,
            total: looked.memory.total,
            failed: looked.decided.outcomes.iter().any(failed),
            done,
            judged: side,
            guess,
        });
        Ok(())
    }

    /// With names for what has one by now.
    fn end(self) -> Run {
        let mut run = self.run;
        let groups: HashMap<u64, String> = run
            .decisions
            .iter()
            .flat_map(|decision| decision.judged.ids.iter().zip(&decision.judged.targets))
            .map(|(id, target)| (*id, target.group.clone()))
            .collect();
        let name = |id: &u64| {
            let cgroup = self.known.get(id).map(|cgroup| {
                let name = String::from_utf8_lossy(&cgroup.name).into_owned();
                let is_process = cgroup.attributes.iter().any(|(key, _)| key == NAME);
                if is_process { name } else { format!("/{name}") }
            });
            let shown = self.shown.get(id).cloned();
            shown.or(cgroup).unwrap_or_else(|| "(gone)".to_owned())
        };
        for decision in &mut run.decisions {
            for side in [&mut decision.done, &mut decision.judged] {
                for (id, target) in side.ids.iter().zip(&mut side.targets) {
                    target.name = name(id);
                }
            }
            for (id, target) in decision.done.ids.iter().zip(&mut decision.done.targets) {
                if target.group.is_empty() {
                    target.group = groups.get(id).cloned().unwrap_or_default();
                }
            }
        }
        run
    }
}

/// What was done at a look.
fn done(looked: &Looked) -> Side {
    let decided = &looked.decided;
    // Nothing came of it: in a dry run one victim is the last until the pressure is over, and the
    // watchdog is starved once.
    let action = match decided.outcomes.is_empty() {
        true => "nothing",
        false => ACTIONS[usize::from(decided.action)],
    };
    let ids = match action {
        "nothing" => Vec::new(),
        _ => decided.targets.clone(),
    };
    let row = |id: &u64| {
        let rows = looked.survey.iter().flat_map(Survey::kill);
        rows.clone()
            .find(|row| row.id == *id)
            .map_or(0, Row::freed_by_kill)
    };
    let targets = ids.iter().map(|id| Target {
        frees: row(id),
        ..Target::default()
    });
    Side {
        action,
        targets: targets.collect(),
        ids,
    }
}

fn side(verdict: &Verdict, policy: &Policy) -> Side {
    let target = |row: &Row, frees: u64| Target {
        name: String::new(),
        group: policy.group(row.rule.group).name.as_str().to_owned(),
        frees,
    };
    let mut ids: Vec<_> = verdict.victims().map(|judged| judged.row.id).collect();
    let mut targets: Vec<_> = verdict
        .victims()
        .map(|judged| target(&judged.row, judged.frees))
        .collect();
    if let (Some(row), true) = (verdict.action.target(), ids.is_empty()) {
        ids.push(row.id);
        targets.push(target(row, row.freed_by_kill()));
    }
    let name = verdict.action.name();
    Side {
        action: ACTIONS
            .into_iter()
            .find(|action| *action == name)
            .unwrap_or("nothing"),
        ids,
        targets,
    }
}

/// What would have come of it, as far as that can be guessed: it went well.
fn presume(verdict: &Verdict, judged: &mut Judged) -> Vec<Outcome> {
    if verdict.action.ends() && std::mem::replace(&mut judged.guessing, true) {
        return Vec::new();
    }
    if verdict.action == Action::Nothing {
        return Vec::new();
    }
    judged
        .presumed
        .extend(verdict.victims().map(|victim| victim.row.id));
    vec![Outcome::DONE; verdict.victims().count().max(1)]
}
