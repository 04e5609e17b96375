//! Sense: what presses, and who is there. Nothing here decides.

pub mod cgroupfs;
pub mod choose;
pub mod kfunc;
pub mod meminfo;
pub mod psi;
mod text;
pub mod tree;

use lowtide_common::{Request, Row, Rule, Survey, UNCLASSIFIED};
use std::io;
use tree::{OwnRule, Tree};

/// Where the evidence about memcgs comes from. Judge and act do not know which one it is.
pub trait Engine {
    fn name(&self) -> &'static str;

    /// Looks at every memcg and ranks it. Allocates nothing.
    fn run(&mut self, request: &Request) -> io::Result<()>;

    /// What the last run found.
    fn survey(&self) -> &Survey;

    /// The rows that the last run with [`Request::ALL_ROWS`] found room for.
    fn rows(&self) -> &[Row];

    /// Memcgs that the last run had no room to look at.
    fn left_out(&self) -> u32 {
        0
    }

    /// Says which rule a cgroup has from now on.
    fn classify(&mut self, id: u64, rule: Rule) -> io::Result<()>;

    /// Forgets all rules.
    fn forget_all(&mut self) -> io::Result<()>;
}

/// Rounds of classifying that one survey may need; each settles [`UNCLASSIFIED`] new cgroups.
const ROUNDS: usize = 16;

/// Surveys in which every memcg is ranked by its own rule, also one created a moment ago.
pub struct Surveyor {
    engine: Box<dyn Engine>,
    pub tree: Tree,
    classified_up_to: u64,
    found_new: bool,
}

impl Surveyor {
    pub fn new(engine: Box<dyn Engine>, tree: Tree) -> Self {
        Self {
            engine,
            tree,
            classified_up_to: 0,
            found_new: false,
        }
    }

    /// Whether surveys found new cgroups since this was last asked.
    pub fn take_found_new(&mut self) -> bool {
        std::mem::take(&mut self.found_new)
    }

    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// Memcgs that the engine has no room to look at.
    pub fn left_out(&self) -> u32 {
        self.engine.left_out()
    }

    /// See [`Engine::rows`].
    pub fn rows(&self) -> &[Row] {
        self.engine.rows()
    }

    /// Takes over the rules of a config; returns how many cgroups have one of their own now.
    pub fn classify_all(&mut self, rules: &dyn OwnRule) -> io::Result<usize> {
        self.classified_up_to = 0;
        self.tree.classify_all(rules, &mut *self.engine)
    }

    /// One survey. New cgroups that are found on the way are classified first.
    pub fn survey(
        &mut self,
        enough: u64,
        fallback: Rule,
        flags: u32,
        rules: &dyn OwnRule,
    ) -> io::Result<&Survey> {
        for _ in 0..ROUNDS {
            let request = Request {
                enough,
                classified_up_to: self.classified_up_to,
                fallback,
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
                self.tree.classify_new(*id, rules, &mut *self.engine)?;
            }
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
