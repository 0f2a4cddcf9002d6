//! Eviction: when a resource of the node runs low, which pod has to go.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use crate::model::End;
use crate::resources;
use crate::threshold::{Met, Reading, Signal};

/// One pod's use, in bytes.
#[derive(Debug, Clone)]
pub struct Use<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Working set.
    pub memory: u64,
    /// Local disk.
    pub disk: u64,
    /// Memory or local disk, as the resource is, of each container.
    pub containers: Vec<(String, u64)>,
}

/// Whether the node never evicts it.
pub fn critical(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let is_static =
        annotations.and_then(|a| a.get("kubernetes.io/config.source")).is_some_and(|s| s != "api");
    is_static || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000)
}

/// The pod to evict for a threshold and how it ends: first those above their request, then the lowest priority, then
/// the furthest above.
pub fn choose<'a>(met: &Met, soft_grace: SignedDuration, uses: &[Use<'a>]) -> Option<(&'a Pod, End)> {
    let Reading { signal, available, .. } = met.reading;
    let asked = |u: &Use<'_>| -> u64 {
        let name = if signal == Signal::Memory { "memory" } else { "ephemeral-storage" };
        let spec = u.pod.spec.as_ref();
        let milli = spec.map(|s| resources::requests(s).get(name).copied().unwrap_or(0)).unwrap_or(0);
        u64::try_from(milli / 1000).unwrap_or(0)
    };
    let amount = |u: &Use<'_>| if signal == Signal::Memory { u.memory } else { u.disk };
    let rank = |u: &&Use<'a>| {
        let (used, request) = (amount(u), asked(u));
        let priority = u.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        (used <= request, priority, std::cmp::Reverse(used.saturating_sub(request)))
    };
    let victim = uses.iter().filter(|u| !critical(u.pod)).min_by_key(rank)?;
    let mut message = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        bytes(met.threshold),
        bytes(available)
    );
    message.push_str(&larger(signal, victim));
    // A hard threshold leaves no time; a soft one what the node allows, and no more than the pod asks for.
    let own = victim.pod.spec.as_ref().map_or(30, crate::spec::grace_seconds);
    let grace = match met.soft {
        true => soft_grace.min(SignedDuration::from_secs(own)),
        false => SignedDuration::from_secs(1),
    };
    let disruption = Some("TerminationByKubelet".to_string());
    Some((victim.pod, End { reason: "Evicted".into(), message, grace: Some(grace), disruption }))
}

/// The containers that use more than they asked for.
fn larger(signal: Signal, victim: &Use<'_>) -> String {
    let resource = signal.resource();
    let mut text = String::new();
    let spec = victim.pod.spec.as_ref();
    let all = spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
    for c in all {
        let Some((_, used)) = victim.containers.iter().find(|(name, _)| *name == c.name) else { continue };
        let asked = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        let amount = asked.and_then(|q| crate::quantity::value(&q.0)).unwrap_or(0);
        if i64::try_from(*used).unwrap_or(i64::MAX) > amount {
            let asked = asked.map_or("0", |q| q.0.as_str());
            let (name, used) = (&c.name, bytes(*used));
            text.push_str(&format!(
                "Container {name} was using {used}, request is {asked}, has larger consumption of {resource}. "
            ));
        }
    }
    text
}

/// As quantities are written: the largest binary unit that leaves a whole number.
fn bytes(n: u64) -> String {
    let mut n = n;
    let mut unit = "";
    for next in ["Ki", "Mi", "Gi", "Ti"] {
        if n == 0 || !n.is_multiple_of(1024) {
            break;
        }
        n /= 1024;
        unit = next;
    }
    format!("{n}{unit}")
}

/// How a pod ends whose emptyDir or total local storage is above its limit, if one is.
pub fn over_limit(pod: &Pod, empty_dirs: &[(String, u64)], total: u64) -> Option<End> {
    let spec = pod.spec.as_ref()?;
    let end = |message| {
        let grace = Some(SignedDuration::from_secs(1));
        Some(End { reason: "Evicted".into(), message, grace, disruption: None })
    };
    for (name, used) in empty_dirs {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == *name);
        let limit = volume.and_then(|v| v.empty_dir.as_ref()).and_then(|e| e.size_limit.as_ref());
        let Some(limit) = limit else { continue };
        if crate::quantity::value(&limit.0).is_some_and(|l| l > 0 && *used > u64::try_from(l).unwrap_or(0)) {
            return end(format!("Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ", limit.0));
        }
    }
    let limit = resources::limits(spec).get("ephemeral-storage").copied().filter(|l| *l > 0)?;
    if i128::from(total) * 1000 > limit {
        let text = bytes(u64::try_from(limit / 1000).unwrap_or(0));
        return end(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {text}. "
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_as_quantities() {
        for (n, text) in
            [(0, "0"), (1000, "1000"), (1024, "1Ki"), (100 << 20, "100Mi"), ((1 << 20) + 1024, "1025Ki")]
        {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn who_uses_more_than_asked_goes_first() {
        let pod = |name: &str, priority: i32, request: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"memory": request}}}]}}),
            )
            .expect("a pod")
        };
        let pods = [pod("within", 0, "100Mi"), pod("above-high", 10, "1Mi"), pod("above", 0, "1Mi")];
        let uses: Vec<Use<'_>> = pods
            .iter()
            .map(|pod| Use { pod, memory: 2 << 20, disk: 0, containers: vec![("c".into(), 2 << 20)] })
            .collect();
        let reading = Reading { signal: Signal::Memory, available: 50 << 20, capacity: 1 << 30 };
        let met = Met { reading, threshold: 100 << 20, soft: false };
        let (victim, end) = choose(&met, SignedDuration::ZERO, &uses).expect("a victim");
        assert_eq!(victim.metadata.name.as_deref(), Some("above"));
        assert_eq!(
            end.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 2Mi, request is 1Mi, has larger consumption of memory. "
        );
        let grace = |soft: bool, most: i64| {
            let end =
                choose(&Met { soft, ..met }, SignedDuration::from_secs(most), &uses).expect("a victim").1;
            end.grace.expect("a grace period").as_secs()
        };
        assert_eq!((grace(false, 10), grace(true, 10), grace(true, 100)), (1, 10, 30));
    }
}
