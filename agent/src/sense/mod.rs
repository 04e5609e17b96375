//! Sense: what presses, and who is there. Nothing here decides.

pub mod births;
#[cfg(feature = "bpf")]
pub mod bpf;
pub mod cgroupfs;
pub mod choose;
#[cfg(feature = "bpf")]
pub mod kfunc;
pub mod limited;
pub mod meminfo;
mod names;
pub mod process;
pub mod procfs;
pub mod psi;
pub mod status;
mod text;
pub mod tree;
pub mod walk;
#[cfg(feature = "bpf")]
pub mod watch;

use lowtide_common::{Request, Row, Rule, Survey, UNCLASSIFIED};
use lowtide_judge::Unit;
use rustix::fd::BorrowedFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use tree::{OwnRule, Tree};

/// Where the evidence about memcgs comes from. Judge and act do not know which one it is.
pub trait Engine: Send {
    fn name(&self) -> &'static str;

    /// What its rows are, and so what their ids mean.
    fn unit(&self) -> Unit {
        Unit::Cgroup
    }

    /// Looks at everybody and ranks them. Allocates nothing.
    fn run(&mut self, request: &Request) -> io::Result<()>;

    /// What the last run found.
    fn survey(&self) -> &Survey;

    /// The rows that the last run with [`Request::ALL_ROWS`] found room for.
    fn rows(&self) -> &[Row];

    /// Cgroups, or processes, that the last run had no room to look at.
    fn left_out(&self) -> u32 {
        0
    }

    /// Says which rule a cgroup, or a process, has from now on.
    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()>;

    /// The policy map that the kernel has, where the engine keeps one there.
    fn policy_map(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Forgets all rules.
    fn forget_all(&mut self) -> io::Result<()>;

    /// Forgets what it knows of cgroups that are gone, where that takes time. Not for times of
    /// pressure.
    fn tidy(&mut self) {}

    /// Rules that found no room: those cgroups inherit one.
    fn unruled(&self) -> u32 {
        0
    }
}

/// Rounds of classifying that one survey may need; each settles [`UNCLASSIFIED`] new cgroups.
const ROUNDS: usize = 16;

/// Descriptors left for everything but what an engine keeps open.
const SPARE: u64 = 64;

/// Surveys in which everybody is ranked by a rule of their own, also who came a moment ago.
pub struct Surveyor {
    engine: Box<dyn Engine>,
    pub tree: Tree,
    classified_up_to: u64,
    found_new: bool,
    behind: bool,
}

impl Surveyor {
    pub fn new(engine: Box<dyn Engine>, tree: Tree) -> Self {
        Self {
            engine,
            tree,
            classified_up_to: 0,
            found_new: false,
            behind: false,
        }
    }

    /// Whether surveys found new cgroups since this was last asked.
    pub fn take_found_new(&mut self) -> bool {
        std::mem::take(&mut self.found_new)
    }

    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// See [`Engine::policy_map`].
    pub fn policy_map(&self) -> Option<BorrowedFd<'_>> {
        self.engine.policy_map()
    }

    /// Every cgroup id up to this one was classified.
    pub fn classified_up_to(&self) -> u64 {
        self.classified_up_to
    }

    /// See [`Engine::left_out`].
    pub fn left_out(&self) -> u32 {
        self.engine.left_out()
    }

    /// See [`Engine::rows`].
    pub fn rows(&self) -> &[Row] {
        self.engine.rows()
    }

    pub fn unit(&self) -> Unit {
        self.engine.unit()
    }

    /// Whether the last survey found more new cgroups than it could look at: those are not touched
    /// until [`classify_all`](Self::classify_all) has.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// See [`Engine::unruled`].
    pub fn unruled(&self) -> u32 {
        self.engine.unruled()
    }

    /// See [`Engine::tidy`].
    pub fn tidy(&mut self) {
        self.engine.tidy();
    }

    /// Takes over the rules of a config; returns how many cgroups have one of their own now, or how
    /// many processes there are.
    pub fn classify_all(&mut self, rules: &dyn OwnRule) -> io::Result<usize> {
        self.classified_up_to = 0;
        self.behind = false;
        match self.unit() {
            Unit::Cgroup => {
                // Of those that are there now, the walk comes by all.
                let request = Request {
                    worth: 0,
                    classified_up_to: u64::MAX,
                    fallback: Rule::UNTOUCHABLE,
                    within: 0,
                    flags: 0,
                    _reserved: 0,
                };
                self.engine.run(&request)?;
                let highest = self.engine.survey().highest_id;
                let found = self.tree.classify_all(rules, &mut *self.engine)?;
                self.classified_up_to = highest;
                Ok(found)
            }
            Unit::Process => {
                self.engine.forget_all()?;
                let survey = self.survey(0, 0, Rule::UNTOUCHABLE, 0, rules)?;
                Ok(survey.memcgs as usize)
            }
        }
    }

    /// What the last survey found.
    pub fn last(&self) -> &Survey {
        self.engine.survey()
    }

    /// One survey, of all or `within` one cgroup, see [`Request::within`]. New cgroups that are
    /// found on the way are classified first.
    pub fn survey(
        &mut self,
        worth: u64,
        within: u64,
        fallback: Rule,
        flags: u32,
        rules: &dyn OwnRule,
    ) -> io::Result<&Survey> {
        for _ in 0..ROUNDS {
            let request = Request {
                worth,
                classified_up_to: self.classified_up_to,
                fallback,
                within,
                flags,
                _reserved: 0,
            };
            self.engine.run(&request)?;
            let survey = self.engine.survey();
            let mut new = heapless::Vec::<u64, UNCLASSIFIED>::new();
            let _ = new.extend_from_slice(survey.unclassified());
            let all_listed = survey.unclassified_len as usize <= UNCLASSIFIED;
            let highest = survey.highest_id;
            for id in &new {
                match self.engine.unit() {
                    Unit::Cgroup => self.tree.classify_new(*id, rules, &mut *self.engine)?,
                    Unit::Process => {
                        let rule = process::Id(*id).own_rule(rules, &self.tree);
                        self.engine.classify(*id, rule)?;
                    }
                }
            }
            self.behind = !all_listed;
            if all_listed {
                self.classified_up_to = highest.max(self.classified_up_to);
            }
            if new.is_empty() {
                break;
            }
            self.found_new = true;
        }
        Ok(self.engine.survey())
    }
}

/// How many descriptors an engine may keep, once the limit is as high as it may be.
fn spare_descriptors() -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    let files = limit.maximum.unwrap_or(u64::MAX);
    Ok(files.saturating_sub(SPARE) as usize)
}
