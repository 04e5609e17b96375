use crate::evidence::Memory;
use crate::history::History;
use crate::policy::{Amount, Condition, Policy, Term};

/// The moment at which memory runs out, for [`judge`](crate::judge()) to say what would be done.
///
/// An alarm has just come, every level's condition holds, and as little memory is available
/// as the highest level waits for.
#[derive(Clone, Debug)]
pub struct Outlook {
    pub policy: Policy,
    pub memory: Memory,
    pub history: History,
}

impl Outlook {
    /// From what applies now.
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

    /// Bytes that would then be missing to relief.
    pub fn enough(&self) -> u64 {
        self.policy.enough(&self.memory)
    }
}
