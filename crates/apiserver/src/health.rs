//! `/healthz`, `/livez`, `/readyz`, whole and check by check.

use std::sync::atomic::Ordering;

use base::exposition::Text;
use http::Response;
use serve::Body;

use crate::answer;
use crate::query::Query;
use crate::server::ApiServer;

/// Outcome of a check: its name and, if it failed, why.
type Outcome = (&'static str, Option<String>);

/// Upstream's names for the parts of the start that one step does here: what every cluster has is written, and what
/// is stored (kinds, roles, addresses) is known. Monitors look for these names.
const STEPS: [&str; 12] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/bootstrap-controller",
    "poststarthook/storage-readiness",
];

/// The checks as service level indicators: 1 for each that passes.
pub fn indicators(server: &ApiServer) -> String {
    let mut out = Text::default();
    let name = "kubernetes_healthcheck";
    out.family(name, "gauge", "[STABLE] This metric records the result of a single healthcheck.");
    for endpoint in ["healthz", "livez", "readyz"] {
        for (check, cause) in checks(server, endpoint) {
            let passed = f64::from(u8::from(cause.is_none()));
            out.sample(name, &[("name", check), ("type", endpoint)], passed);
        }
    }
    out.done()
}

fn checks(server: &ApiServer, endpoint: &str) -> Vec<Outcome> {
    let store = server.store_failure();
    let booted = server.bootstrapped.load(Ordering::Acquire);
    let mut outcomes = vec![("ping", None), ("log", None), ("etcd", store.clone())];
    if endpoint == "readyz" {
        outcomes.push(("etcd-readiness", store));
        outcomes.push(("informer-sync", None));
    }
    let unfinished = || (!booted).then(|| "not finished".to_string());
    outcomes.extend(STEPS.map(|step| (step, unfinished())));
    if endpoint == "readyz" {
        let stopping = *server.stopping().borrow();
        outcomes.push(("shutdown", stopping.then(|| "process is shutting down".to_string())));
    }
    outcomes
}

/// Answers one of the three endpoints, or one check below it.
pub fn answer(server: &ApiServer, endpoint: &str, check: &[&str], query: &Query) -> Response<Body> {
    let mut outcomes = checks(server, endpoint);
    if !check.is_empty() {
        let name = check.join("/");
        return match outcomes.iter().find(|(own, _)| *own == name) {
            None => answer::text(404, "404 page not found\n"),
            Some((_, None)) => answer::text(200, "ok"),
            Some((_, Some(cause))) => answer::text(500, format!("internal server error: {cause}\n")),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    outcomes.retain(|(name, _)| !excluded.contains(name));
    let failed = outcomes.iter().any(|(_, cause)| cause.is_some());
    if !failed && !query.flag("verbose") && query.get("verbose").is_none() {
        return answer::text(200, "ok");
    }
    let mut text = String::new();
    for (name, cause) in &outcomes {
        match cause {
            None => text.push_str(&format!("[+]{name} ok\n")),
            Some(_) => text.push_str(&format!("[-]{name} failed: reason withheld\n")),
        }
    }
    let (code, verdict) = if failed { (500, "failed") } else { (200, "passed") };
    text.push_str(&format!("{endpoint} check {verdict}\n"));
    answer::text(code, text)
}
