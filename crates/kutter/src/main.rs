//! The one multi-call binary: composes the roles.

fn main() {}
