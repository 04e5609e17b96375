use crate::evidence::Memory;
use crate::history::History;
use crate::look::Look;
use crate::policy::{Amount, Condition, Policy, Term};

/// The moment at which memory runs out, for a look to say what would be done.
///
/// An alarm has just come, every level's condition holds, and as little memory is available
/// as the highest level waits for.
#[derive(Clone, Debug)]
pub struct Outlook {
    policy: Policy,
    memory: Memory,
    history: History,
}

impl Outlook {
    /// From what applies now.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "bytes of memory that there are"
    )]
    pub fn new(policy: &Policy, memory: &Memory) -> Self {
        let mut policy = policy.clone();
        let mut history = History::default();
        history.woken(0);
        let last = policy.levels.iter().rev().find(|l| !l.actions.is_empty());
        let mark = last.and_then(|l| l.confirm.available_marks(memory.total).min());
        let mut memory = *memory;
        memory.available = mark.map_or(memory.available, |mark| memory.available.min(mark));
        let holds = Term::AvailableBelow(Amount::Bytes(memory.available + 1));
        for rules in &mut policy.levels {
            rules.confirm = Condition::all(&[holds]).unwrap_or_default();
        }
        Self {
            policy,
            memory,
            history,
        }
    }

    /// The look at that moment; every one is the first.
    pub fn look(&mut self) -> Look<'_> {
        self.history.look(&self.policy, &self.memory, 0)
    }
}
