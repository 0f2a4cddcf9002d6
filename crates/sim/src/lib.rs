//! Seeded simulation of all planners with a virtual clock, stale watches and a second actor.
