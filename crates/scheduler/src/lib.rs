//! Pure scheduling: filters, scores and preemption over an incremental snapshot.
