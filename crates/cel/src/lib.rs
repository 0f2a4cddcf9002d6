//! The Common Expression Language as Kubernetes speaks it: pure, no I/O, no clock.
//!
//! An [`Env`] declares variables with their types ([`Decl`]); it compiles source text to a [`Program`], which has
//! a type, an estimate of its cost, and is evaluated against [`Bindings`] within a [`Budget`]. Values are views of the
//! JSON that was bound; only what an expression looks at is read.
//!
//! ```
//! use cel::{Bindings, Budget, Decl, Env, Type};
//!
//! let replicas = Decl::plain(Type::Int);
//! let env = Env::new().variable("self", Decl::object("Spec", [("replicas", replicas)])).variable("request", Decl::any());
//! let program = env.compile("self.replicas <= 5 && request.user.startsWith('dev-')").expect("it is well formed");
//! assert_eq!(*program.output(), Type::Bool);
//!
//! let spec = serde_json::json!({"replicas": 3});
//! let request = serde_json::json!({"user": "dev-ann"});
//! let bindings = Bindings::new().json("self", &spec).json("request", &request);
//! let value = program.eval(&bindings, &mut Budget::default()).expect("it evaluates");
//! assert_eq!(value.as_bool(), Some(true));
//!
//! let errors = env.compile("self.size > 1").expect_err("there is no such field");
//! assert!(errors.to_string().starts_with("ERROR: <input>:1:5: undefined field 'size'"));
//! ```
//!
//! - Messages of errors are those that users of Kubernetes know.
//! - All libraries are there: the standard one, strings, lists, sets, regular expressions, optional values, two-variable
//!   loops, URLs, quantities, IP addresses and networks, formats, semantic versions, the authorizer ([`Authorize`] is the
//!   hook).
//! - Depth and size of expressions are bounded, so is what they cost.

mod alike;
mod ast;
mod authorizer;
mod budget;
mod charge;
mod check;
mod cost;
mod declared;
mod device;
mod env;
mod error;
mod escape;
mod eval;
mod format;
mod formats;
mod lex;
mod library;
mod macros;
mod net;
mod opaque;
mod parse;
mod plan;
mod program;
mod regex;
mod reserved;
mod schema;
mod semver;
mod text;
mod times;
mod types;
mod unify;
mod url;
mod value;

pub use authorizer::{Authorize, Authorizer, Check, Decision, Question};
pub use budget::{Budget, CALL_COST_MAX, REQUEST_COST_MAX};
pub use cost::CostEstimate;
pub use device::{DeviceSelector, SelectorError};
pub use env::{Env, Variable};
pub use error::{CompileErrors, EvalError, Fault};
pub use escape::{escape, unescape};
pub use opaque::Opaque;
pub use program::{Bindings, Program};
pub use regex::translated as translated_pattern;
pub use reserved::is_reserved;
pub use schema::decl_of_schema;
pub use types::{Decl, DeclKind, FieldType, ListKind, ObjectType, REQUEST_BYTES_MAX, Type};
pub use value::{Fields, Key, Lazy, List, Map, Text, Value, equal};
