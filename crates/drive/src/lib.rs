//! The reconcile shell: queues, freshness, back-off and execution for every planner.
