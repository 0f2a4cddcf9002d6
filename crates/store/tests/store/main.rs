//! The tests of the store, in one binary: linking is what most of their build time goes into.

/// Makes one test per case, over a factory `async fn() -> (guard, Arc<dyn Store>)`.
macro_rules! suite {
    ($factory:path) => {
        suite!($factory: writes_are_read_back, preconditions_hold, one_of_many_creators_wins,
            compare_and_swap_counts, lists_are_ordered_and_ranged, snapshots_of_the_past_stay,
            watches_see_everything_after, quiet_tables_make_progress, many_watchers_see_the_same,
            owners_are_indexed, expired_objects_go, waiting_for_a_revision, secrets_and_clusterscoped_names);
    };
    ($factory:path: $($case:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let (_guard, store) = $factory().await;
                crate::suite::$case(store).await;
            }
        )*
    };
}

mod crash;
mod damage;
mod embedded;
mod etcd;
mod etcd_tls;
mod model;
mod suite;
