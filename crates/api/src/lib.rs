//! The kind table and the schema facts of every built-in kind.
