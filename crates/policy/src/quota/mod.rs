//! ResourceQuota: what objects use, which quotas count them, and what a request may still take. Follows upstream's
//! `pkg/quota/v1/evaluator` and the admission plugin ResourceQuota.

mod pod;

use std::collections::BTreeMap;

use base::quantity::Quantity;
use serde_json::Value;

/// Amounts by the quota's names of resources.
pub type Usage = BTreeMap<String, Quantity>;

/// A kind whose objects quotas count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub plural: &'a str,
}

/// Kinds of the legacy group that are also counted under their plain name.
const PLAIN: [&str; 7] = [
    "configmaps",
    "secrets",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "persistentvolumeclaims",
    "pods",
];
const CLASS_STORAGE: &str = ".storageclass.storage.k8s.io/requests.storage";
const CLASS_CLAIMS: &str = ".storageclass.storage.k8s.io/persistentvolumeclaims";

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    }
}

fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let slot =
        usage.entry(name.into()).or_insert_with(|| Quantity::from_units(0).with_format(amount.format()));
    *slot = slot.plus(amount);
}

/// Amounts in a list such as `status.hard`.
pub fn amounts(quota: &Value, pointer: &str) -> Usage {
    let map = quota.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
}

impl<'a> Counted<'a> {
    /// The kind that a resource's name counts, or `None` for names of amounts within pods, services and claims.
    pub fn by_count(name: &'a str) -> Option<Counted<'a>> {
        let kind = match name.strip_prefix("count/") {
            Some(kind) => kind,
            None if PLAIN.contains(&name) => name,
            None => return None,
        };
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        Some(Counted { group, plural })
    }

    fn is(&self, plural: &str) -> bool {
        self.group.is_empty() && self.plural == plural
    }

    /// Whether a request is charged: pods when they are made, resized, given a deadline or relieved of it; services
    /// and claims whenever they change. `old` and `new` are the object before and after.
    pub fn is_charged(&self, subresource: &str, old: Option<&Value>, new: &Value) -> bool {
        let creates = old.is_none();
        let limited = |pod: &Value| pod.pointer("/spec/activeDeadlineSeconds").is_some_and(|s| !s.is_null());
        let rescoped = || self.is("pods") && old.is_some_and(|old| limited(old) != limited(new));
        match subresource {
            "" => creates || self.is("services") || self.is("persistentvolumeclaims") || rescoped(),
            "resize" => !creates && self.is("pods"),
            _ => false,
        }
    }

    fn count_name(&self) -> String {
        match self.group {
            "" => format!("count/{}", self.plural),
            group => format!("count/{}.{group}", self.plural),
        }
    }

    /// Whether objects of this kind can use this resource.
    pub fn uses(&self, name: &str) -> bool {
        if name == self.count_name() || (PLAIN.contains(&self.plural) && self.is(name)) {
            return true;
        }
        match self.plural {
            "pods" if self.group.is_empty() => pod::uses(name),
            "services" if self.group.is_empty() => {
                matches!(name, "services.nodeports" | "services.loadbalancers")
            }
            "persistentvolumeclaims" if self.group.is_empty() => {
                name == "requests.storage" || name.ends_with(CLASS_STORAGE) || name.ends_with(CLASS_CLAIMS)
            }
            _ => false,
        }
    }

    /// What one object uses. `now` is in seconds since the epoch.
    pub fn usage(&self, object: &Value, now: i64) -> Usage {
        let mut usage = Usage::new();
        add(&mut usage, self.count_name(), Quantity::from_units(1));
        if self.is("pods") {
            if pod::counts(object, now) {
                usage.extend(pod::usage(object));
            }
            return usage;
        }
        if self.group.is_empty() && PLAIN.contains(&self.plural) {
            add(&mut usage, self.plural, Quantity::from_units(1));
        }
        if self.is("services") {
            usage.extend(service(object));
        } else if self.is("persistentvolumeclaims") {
            usage.extend(claim(object));
        }
        usage
    }
}

fn service(object: &Value) -> Usage {
    let mut usage = Usage::new();
    let kind = text(object, "/spec/type");
    let ports = object.pointer("/spec/ports").and_then(Value::as_array);
    let ports: i64 = ports.map_or(0, |ports| i64::try_from(ports.len()).unwrap_or(i64::MAX));
    let without = object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    let node_ports = match kind {
        "NodePort" => ports,
        "LoadBalancer" if !without => ports,
        _ => 0,
    };
    add(&mut usage, "services.nodeports", Quantity::from_units(node_ports));
    add(&mut usage, "services.loadbalancers", Quantity::from_units(i64::from(kind == "LoadBalancer")));
    usage
}

fn claim(object: &Value) -> Usage {
    let mut usage = Usage::new();
    let class = match text(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class") {
        "" => text(object, "/spec/storageClassName"),
        class => class,
    };
    if !class.is_empty() {
        add(&mut usage, format!("{class}{CLASS_CLAIMS}"), Quantity::from_units(1));
    }
    if let Some(size) = object.pointer("/spec/resources/requests/storage").and_then(quantity) {
        let given = object.pointer("/status/allocatedResources/storage").and_then(quantity);
        let size = given.map_or(size, |given| if given > size { given } else { size });
        add(&mut usage, "requests.storage", size);
        if !class.is_empty() {
            add(&mut usage, format!("{class}{CLASS_STORAGE}"), size);
        }
    }
    usage
}

/// Whether the quota counts this object: it limits something the kind uses, and all its scopes fit.
pub fn matches(quota: &Value, kind: Counted<'_>, object: &Value) -> bool {
    amounts(quota, "/status/hard").keys().any(|name| kind.uses(name)) && in_scope(quota, kind, object)
}

/// Whether all scopes of a quota fit; only pods have scopes.
pub fn in_scope(quota: &Value, kind: Counted<'_>, object: &Value) -> bool {
    let plain = quota.pointer("/spec/scopes").and_then(Value::as_array).into_iter().flatten();
    let plain = plain.filter_map(Value::as_str).map(|scope| (scope, "Exists", Vec::new()));
    let selected = quota.pointer("/spec/scopeSelector/matchExpressions").and_then(Value::as_array);
    let selected = selected.into_iter().flatten().map(|term| {
        let values = term.get("values").and_then(Value::as_array).into_iter().flatten();
        (text(term, "/scopeName"), text(term, "/operator"), values.filter_map(Value::as_str).collect())
    });
    plain.chain(selected).all(|(scope, operator, values)| match scope {
        "VolumeAttributesClass" => {
            kind.is("persistentvolumeclaims") && in_class(&classes(object), operator, &values)
        }
        _ => kind.is("pods") && pod::in_scope(object, scope, operator, &values),
    })
}

/// The VolumeAttributesClasses of a claim: the one it wants, has, and is on the way to.
pub fn classes(claim: &Value) -> Vec<&str> {
    let places = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    places.map(|place| text(claim, place)).into_iter().filter(|name| !name.is_empty()).collect()
}

fn in_class(classes: &[&str], operator: &str, values: &[&str]) -> bool {
    match operator {
        "In" => classes.iter().any(|class| values.contains(class)),
        "NotIn" => classes.is_empty() || classes.iter().any(|class| !values.contains(class)),
        "DoesNotExist" => classes.is_empty(),
        _ => !classes.is_empty(),
    }
}

/// The usage a quota shows after this request, or the cause of a refusal. `None` when nothing changes.
pub fn charge(
    quota: &Value,
    kind: Counted<'_>,
    new: &Value,
    old: Option<&Value>,
    now: i64,
) -> Result<Option<Usage>, String> {
    if !matches(quota, kind, new) {
        return Ok(None);
    }
    let name = text(quota, "/metadata/name");
    let (hard, used) = (amounts(quota, "/status/hard"), amounts(quota, "/status/used"));
    let limited: Vec<&str> = hard.keys().map(String::as_str).filter(|name| kind.uses(name)).collect();
    if kind.is("pods") {
        pod::constraints(new, &limited).map_err(|cause| format!("failed quota: {name}: {cause}"))?;
    }
    if limited.iter().any(|resource| !used.contains_key(*resource)) {
        return Err(format!("status unknown for quota: {name}, resources: {}", limited.join(",")));
    }
    let mut delta = kind.usage(new, now);
    if let Some(old) = old.filter(|old| matches(quota, kind, old)) {
        for (resource, amount) in kind.usage(old, now) {
            if let Some(own) = delta.get_mut(&resource) {
                *own = own.minus(amount);
            }
        }
    }
    delta.retain(|resource, amount| hard.contains_key(resource) && amount.sign() > 0);
    if delta.is_empty() {
        return Ok(None);
    }
    let mut after = used.clone();
    delta.iter().for_each(|(resource, amount)| add(&mut after, resource.clone(), *amount));
    let exceeded: Vec<&String> = delta.keys().filter(|name| after.get(*name) > hard.get(*name)).collect();
    if exceeded.is_empty() {
        return Ok(Some(after));
    }
    let show = |list: &Usage| {
        let shown: Vec<String> =
            exceeded.iter().filter_map(|name| Some(format!("{name}={}", list.get(*name)?))).collect();
        shown.join(",")
    };
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        show(&delta),
        show(&used),
        show(&hard)
    ))
}

/// The usage of a whole namespace for one quota: every resource of `hard`, with what `objects` of each kind use.
pub fn total<'a>(
    quota: &Value,
    objects: impl IntoIterator<Item = (Counted<'a>, &'a Value)>,
    now: i64,
) -> Usage {
    let hard = amounts(quota, "/spec/hard");
    let mut used: Usage = hard
        .iter()
        .map(|(name, limit)| (name.clone(), Quantity::from_units(0).with_format(limit.format())))
        .collect();
    for (kind, object) in objects {
        if !in_scope(quota, kind, object) {
            continue;
        }
        for (name, amount) in kind.usage(object, now) {
            if let Some(own) = used.get_mut(&name) {
                *own = own.plus(amount);
            }
        }
    }
    used
}

#[cfg(test)]
mod tests;
