//! What a node's network counts, for the node's metrics.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use base::exposition::Text;

use super::fabric::Fabric;

/// The proxy's transactions, the answers of DNS, the requests to the ingress.
pub(super) fn show(fabric: &Fabric, out: &mut Text) {
    fabric.state.show(out);
    let name = "kutter_dns_answers_total";
    out.family(name, "counter", "Answers of the node's DNS by where they came from; `failed` had none.");
    let answers = &fabric.answers;
    let sources =
        [("cluster", &answers.cluster), ("upstream", &answers.upstream), ("failed", &answers.failed)];
    for (source, count) in sources {
        out.sample(name, &[("source", source)], count.load(Ordering::Relaxed) as f64);
    }
    let ingress = fabric.ingress.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(counts) = ingress.as_ref().map(net::ingress::Ingress::counts) else { return };
    let name = "kutter_ingress_requests_total";
    out.family(name, "counter", "Requests to the ingress by what became of them; those retried count again.");
    for (result, count) in [
        ("forwarded", &counts.forwarded),
        ("unmatched", &counts.unmatched),
        ("failed", &counts.failed),
        ("retried", &counts.retried),
    ] {
        out.sample(name, &[("result", result)], count.load(Ordering::Relaxed) as f64);
    }
}
