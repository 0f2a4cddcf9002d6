//! What the server did and how long it took, under upstream's names: the document at `/metrics`.
//!
//! - [`requests`]: one series per verb, kind and scope: counts by code, durations, sizes, open watches.
//! - [`stages`]: authentication, authorization and admission.
//! - [`process`]: the process and its build.
//!
//! Recording is a handful of relaxed additions; text is made only when someone asks.

mod histogram;
mod process;
mod requests;
mod stages;

use base::exposition::Text;
use store::Store;

pub use requests::{Requests, Watching};
pub use stages::Stages;

/// Text that other parts of the process add: controllers, scheduler.
pub type More = Box<dyn Fn() -> String + Send + Sync>;

/// All series of the server.
#[derive(Default)]
pub struct Metrics {
    /// Requests by verb, kind and scope.
    pub requests: Requests,
    /// The stages that every request passes.
    pub stages: Stages,
    more: parking_lot::RwLock<Vec<More>>,
}

impl Metrics {
    /// Shows what this gives too.
    pub fn also(&self, more: More) {
        self.more.write().push(more);
    }

    /// The text exposition, format version 0.0.4.
    pub fn text(&self, store: &dyn Store) -> String {
        let mut out = Text::default();
        self.requests.show(&mut out);
        self.stages.show(&mut out);
        stored(store, &mut out);
        process::show(&mut out);
        let mut out = out.done();
        for more in self.more.read().iter() {
            out.push_str(more().trim_end_matches("# EOF\n"));
        }
        out
    }
}

/// How much is stored.
fn stored(store: &dyn Store, out: &mut Text) {
    out.family(
        "kutter_store_writable",
        "gauge",
        "Whether the store takes writes: 1, or 0 when its disk or its etcd does not.",
    );
    out.sample("kutter_store_writable", &[], if store.failure().is_none() { 1.0 } else { 0.0 });
    let counts = store.counts();
    let split = |resource: &str| {
        let (group, plural) = resource.split_once('/').unwrap_or(("core", resource));
        (if group == "core" { String::new() } else { group.to_owned() }, plural.to_owned())
    };
    out.family(
        "apiserver_storage_objects",
        "gauge",
        "[STABLE] Number of stored objects at the time of last check split by kind.",
    );
    for (resource, count) in &counts {
        let (group, plural) = split(resource);
        let name = crate::status::qualified(&group, &plural);
        out.sample("apiserver_storage_objects", &[("resource", &name)], *count as f64);
    }
    out.family(
        "apiserver_resource_objects",
        "gauge",
        "[ALPHA] Number of stored objects at the time of last check split by kind.",
    );
    for (resource, count) in &counts {
        let (group, plural) = split(resource);
        out.sample("apiserver_resource_objects", &[("group", &group), ("resource", &plural)], *count as f64);
    }
}
