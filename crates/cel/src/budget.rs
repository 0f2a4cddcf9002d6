//! What an evaluation may cost.

use crate::error::EvalError;

/// The most one expression may cost, in units of about a simple step.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// The most all expressions for one request may cost together.
pub const REQUEST_COST_MAX: u64 = 10_000_000;

/// What is left to spend.
#[derive(Clone, Debug)]
pub struct Budget {
    limit: u64,
    spent: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget::new(CALL_COST_MAX)
    }
}

impl Budget {
    /// So much may be spent.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, spent: 0 }
    }

    /// What was spent.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.spent)
    }

    /// Spends; an error once more was spent than may be.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvalError::Cost) } else { Ok(()) }
    }
}
