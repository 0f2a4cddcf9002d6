//! The one schema engine: default, prune, validate, merge and transcode any kind's value tree.
