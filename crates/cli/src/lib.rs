//! The command line: flags defined once, readable tables, live progress.
