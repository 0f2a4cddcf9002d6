//! Development tasks: the tidy check of layers, headers and purity.

fn main() {}
