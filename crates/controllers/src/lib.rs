//! Pure planners, one file per controller: a view in, a plan out.
