//! What is wrong with an expression, and what went wrong with its evaluation.

use std::fmt;

/// A message at a character of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The character, counted from 0.
    pub at: u32,
    /// What is wrong.
    pub message: String,
}

/// All that is wrong with an expression's text or types. Its `Display` has the form users of Kubernetes know:
/// `ERROR: <input>:1:6: undefined field 'x'` with the line and a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileErrors {
    /// The expression.
    pub text: String,
    /// What is wrong with it, at least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let (mut line, mut column, mut text) = (1, fault.at as usize, "");
            for one in self.text.split('\n') {
                text = one;
                let length = one.chars().count();
                if column <= length {
                    break;
                }
                column -= length + 1;
                line += 1;
            }
            write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, fault.message)?;
            write!(f, "\n | {}\n | {}^", text.replace('\t', " "), ".".repeat(column))?;
        }
        Ok(())
    }
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression failed on these values.
    #[error("{0}")]
    Failed(String),
    /// The expression cost more than it may.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
}

impl EvalError {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> EvalError {
        EvalError::Failed(message.into())
    }

    pub(crate) fn no_overload() -> EvalError {
        EvalError::new("no such overload")
    }
}
