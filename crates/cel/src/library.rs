//! What the declared functions do. One module per library; each function looks at the values it is given.

mod conversions;
mod kubernetes;
mod lists;
mod operators;
mod strings;

pub(crate) use strings::regular;

use crate::error::EvalError;
use crate::eval::Out;
use crate::value::Value;

/// A function: its name and arguments, the target of a method first.
pub(crate) type Native = for<'a> fn(&str, &[Value<'a>]) -> Out<'a>;

/// The function of a name.
pub(crate) fn native(name: &str) -> Option<Native> {
    operators::native(name)
        .or_else(|| conversions::native(name))
        .or_else(|| strings::native(name))
        .or_else(|| lists::native(name))
        .or_else(|| kubernetes::native(name))
}

/// No overload of the function takes these arguments.
fn mismatch<'a>(_name: &str) -> Out<'a> {
    Err(EvalError::no_overload())
}
