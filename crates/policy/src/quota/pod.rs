//! What pods use of quotas.

use std::collections::{BTreeMap, BTreeSet};

use base::quantity::Quantity;
use serde_json::{Map, Value};

use super::{Usage, add, quantity, text};

const OWN: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Limited resources that every container must then speak of.
const SPOKEN: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub(super) fn uses(name: &str) -> bool {
    OWN.contains(&name)
        || name.starts_with("hugepages-")
        || name.strip_prefix("requests.").is_some_and(|rest| {
            rest.starts_with("hugepages-")
                || (rest.contains('/') && !rest.contains(".storageclass.storage.k8s.io/"))
        })
}

/// Whether the pod still takes anything: not once it has ended, or should have.
pub(super) fn counts(pod: &Value, now: i64) -> bool {
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return false;
    }
    let deleted = text(pod, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>();
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (deleted, grace) {
        (Ok(at), Some(grace)) => now <= at.as_second().saturating_add(grace),
        _ => true,
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn of(container: &Value, which: &str) -> Amounts {
    let map = container.pointer(&format!("/resources/{which}")).and_then(Value::as_object);
    read(map)
}

fn read(map: Option<&Map<String, Value>>) -> Amounts {
    let pairs = map.into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

fn containers<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array).into_iter().flatten()
}

/// The requests or limits of the whole pod: the sum of its containers and sidecars, or what an init container needs
/// at its time if that is more, the pod's own figures where it has some, and the overhead.
fn whole(pod: &Value, which: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in containers(pod, "containers") {
        of(container, which).into_iter().for_each(|(name, amount)| add(&mut sum, name, amount));
    }
    let (mut sidecars, mut init) = (Amounts::new(), Amounts::new());
    for container in containers(pod, "initContainers") {
        let mut at_once = of(container, which);
        if text(container, "/restartPolicy") == "Always" {
            for (name, amount) in at_once {
                add(&mut sum, name.clone(), amount);
                add(&mut sidecars, name, amount);
            }
            at_once = sidecars.clone();
        } else {
            sidecars.iter().for_each(|(name, amount)| add(&mut at_once, name.clone(), *amount));
        }
        for (name, amount) in at_once {
            let most = init.entry(name).or_insert(amount);
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in init {
        let most = sum.entry(name).or_insert(amount);
        *most = (*most).max(amount);
    }
    let own = pod.pointer("/spec").map(|spec| of(spec, which)).unwrap_or_default();
    sum.extend(own);
    for (name, amount) in read(pod.pointer("/spec/overhead").and_then(Value::as_object)) {
        if which == "requests" || sum.contains_key(&name) {
            add(&mut sum, name, amount);
        }
    }
    sum
}

/// Requests and limits under the names that quotas use.
fn named(requests: &Amounts, limits: &Amounts) -> Usage {
    let mut usage = Usage::new();
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                add(&mut usage, name.clone(), *amount);
                add(&mut usage, format!("requests.{name}"), *amount);
            }
            name if name.starts_with("hugepages-") => {
                add(&mut usage, name, *amount);
                add(&mut usage, format!("requests.{name}"), *amount);
            }
            name if name.contains('/') => add(&mut usage, format!("requests.{name}"), *amount),
            _ => {}
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            add(&mut usage, format!("limits.{name}"), *amount);
        }
    }
    usage
}

pub(super) fn usage(pod: &Value) -> Usage {
    let mut usage = named(&whole(pod, "requests"), &whole(pod, "limits"));
    add(&mut usage, "pods", Quantity::from_units(1));
    usage
}

/// A limited resource must be spoken of by every container, unless the pod as a whole does.
pub(super) fn constraints(pod: &Value, limited: &[&str]) -> Result<(), String> {
    let wanted: Vec<&str> = limited.iter().copied().filter(|name| SPOKEN.contains(name)).collect();
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let by_pod = named(&of(spec, "requests"), &of(spec, "limits"));
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in containers(pod, "containers").chain(containers(pod, "initContainers")) {
        let has = named(&of(container, "requests"), &of(container, "limits"));
        for name in wanted.iter().filter(|name| !has.contains_key(**name) && !by_pod.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "/name"));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let list = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
    let lines: Vec<String> =
        missing.iter().map(|(name, containers)| format!("{name} for: {}", list(containers))).collect();
    Err(format!("must specify {}", lines.join("; ")))
}

/// Whether the pod is of this scope.
pub(super) fn in_scope(pod: &Value, scope: &str, operator: &str, values: &[&str]) -> bool {
    let ends = pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = text(pod, "/spec/priorityClassName");
            match operator {
                "In" => values.contains(&class),
                "NotIn" => !class.is_empty() && !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    let says = |container: &Value, which: &str| {
        let amounts = of(container, which);
        ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|amount| !amount.is_zero()))
    };
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let all = containers(pod, "containers").chain(containers(pod, "initContainers")).chain([spec]);
    !all.into_iter().any(|container| says(container, "requests") || says(container, "limits"))
}

/// Whether an affinity term looks into other namespaces.
fn crosses(pod: &Value) -> bool {
    let affinity = ["podAffinity", "podAntiAffinity"];
    let lists =
        ["requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"];
    affinity
        .iter()
        .flat_map(|kind| lists.iter().map(move |list| format!("/spec/affinity/{kind}/{list}")))
        .any(|path| {
            let terms = pod.pointer(&path).and_then(Value::as_array).into_iter().flatten();
            terms.map(|term| term.get("podAffinityTerm").unwrap_or(term)).any(|term| {
                let named = term.get("namespaces").and_then(Value::as_array).is_some_and(|n| !n.is_empty());
                named || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
            })
        })
}
