//! Words every layer shares: quantities, timestamps, revisions, names and the error chain.
