//! Cluster addresses and node ports: what is in use, and what a new Service gets.

mod cidr;
pub mod claims;
mod ports;
pub mod shared;
pub mod transition;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rand::Rng;
use serde_json::{Value, json};

pub use cidr::Cidr;
pub use ports::healthy_port_wanted;

use crate::object::{at, set_at};
use crate::resource::Resource;
use crate::server::{ApiServer, Settings};
use crate::status::{Cause, Status};

/// Addresses and ports in use, by the uid of the Service that has them.
#[derive(Default)]
pub struct Allocation {
    cidrs: Vec<Cidr>,
    ranges: RwLock<Vec<Cidr>>,
    ports: (u16, u16),
    /// Other servers give addresses and ports from the same store: what is given is claimed there first.
    shared: bool,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    addresses: HashMap<IpAddr, Arc<str>>,
    ports: HashMap<(u16, &'static str), Arc<str>>,
}

/// What was taken for one object; given back when dropped, unless kept.
pub struct Reserved<'a> {
    allocation: &'a Allocation,
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, &'static str)>,
    /// What was claimed in a store that others share.
    claims: shared::Claims,
    kept: bool,
}

impl Reserved<'_> {
    /// The object has been stored: what it has, it keeps.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.kept {
            self.claims.keep();
            return;
        }
        let mut used = self.allocation.used.lock();
        for address in &self.addresses {
            used.addresses.remove(address);
        }
        for port in &self.ports {
            used.ports.remove(port);
        }
    }
}

impl Allocation {
    /// Nothing in use but the ranges of the configuration.
    pub fn new(settings: &Settings) -> Self {
        Self {
            cidrs: settings.service_cidrs.clone(),
            ranges: RwLock::new(settings.service_cidrs.clone()),
            ports: settings.node_ports,
            shared: settings.shared_store,
            used: Mutex::new(Used::default()),
        }
    }

    /// Notes what a stored Service has.
    pub fn learn(&self, service: &Value) {
        let uid: Arc<str> = Arc::from(crate::object::meta_text(service, "uid"));
        let mut used = self.used.lock();
        for address in addresses(service) {
            used.addresses.insert(address, uid.clone());
        }
        for port in ports::taken(service) {
            used.ports.insert(port, uid.clone());
        }
    }

    /// Gives back what a deleted Service had, and what a changed one has no more.
    pub fn forget(&self, old: &Value, new: Option<&Value>) {
        let kept_addresses = new.map(addresses).unwrap_or_default();
        let kept_ports = new.map(ports::taken).unwrap_or_default();
        let uid = crate::object::meta_text(old, "uid");
        let mut used = self.used.lock();
        for address in addresses(old).iter().filter(|address| !kept_addresses.contains(address)) {
            if used.addresses.get(address).is_some_and(|owner| &**owner == uid) {
                used.addresses.remove(address);
            }
        }
        for port in ports::taken(old).iter().filter(|port| !kept_ports.contains(port)) {
            if used.ports.get(port).is_some_and(|owner| &**owner == uid) {
                used.ports.remove(port);
            }
        }
    }

    /// Gives addresses from the ranges of these ServiceCIDRs that are ready from now on, those of the default one
    /// first.
    pub fn set_ranges(&self, objects: &[Value]) {
        let is_default = |object: &&Value| crate::object::name(object) == "kubernetes";
        let usable = |object: &&Value| {
            let conditions = at(object, "status.conditions").and_then(Value::as_array).into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            !crate::object::is_deleting(object) && ready.is_none_or(|ready| ready["status"] == "True")
        };
        let texts = |object: &Value| {
            let list = at(object, "spec.cidrs").and_then(Value::as_array).cloned().unwrap_or_default();
            list.into_iter().filter_map(|cidr| cidr.as_str()?.parse::<Cidr>().ok()).collect::<Vec<_>>()
        };
        let mut ranges = match objects.iter().any(|object| is_default(&object)) {
            true => Vec::new(),
            false => self.cidrs.clone(),
        };
        ranges.extend(objects.iter().filter(is_default).filter(usable).flat_map(texts));
        ranges.extend(objects.iter().filter(|object| !is_default(object)).filter(usable).flat_map(texts));
        *self.ranges.write() = ranges;
    }

    /// The first address of the primary range: that of the Service `kubernetes`.
    pub fn api_address(&self) -> Option<IpAddr> {
        self.cidrs.first().map(|cidr| cidr.address(1))
    }
}

fn free_address(used: &Used, cidr: &Cidr) -> Option<IpAddr> {
    let size = cidr.size();
    // Dynamic addresses come from the upper part, so that the lower one is left for chosen ones.
    let low = (size / 16).clamp(16, 256).min(size.saturating_sub(1)).max(1);
    let usable = size.checked_sub(low).filter(|usable| *usable > 0)?;
    let start = rand::rng().random_range(0..usable);
    let tries = usable.min(1 << 16);
    let upper = (0..tries).map(|step| low + (start + step) % usable);
    let lower = 1..low;
    upper
        .chain(lower)
        .map(|offset| cidr.address(offset))
        .find(|address| !used.addresses.contains_key(address))
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let list = at(service, "spec.clusterIPs").and_then(Value::as_array).into_iter().flatten();
    let one = at(service, "spec.clusterIP");
    let mut found: Vec<IpAddr> =
        list.chain(one).filter_map(Value::as_str).filter_map(|text| text.parse().ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// Gives a new or changed Service its families, addresses and ports. Other kinds pass.
pub fn allocate<'a>(
    server: &'a ApiServer,
    resource: &Resource,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<Reserved<'a>, Status> {
    let allocation = &server.allocation;
    let claims = shared::Claims::default();
    let mut reserved = Reserved { allocation, addresses: Vec::new(), ports: Vec::new(), claims, kept: false };
    if !resource.def.group.is_empty() || resource.def.kind != "Service" {
        return Ok(reserved);
    }
    let kind = at(object, "spec.type").and_then(Value::as_str).unwrap_or("ClusterIP").to_string();
    let families = families(allocation, old, object)
        .map_err(|cause| Status::invalid("", "Service", crate::object::name(object), vec![cause]))?;
    let mut used = allocation.used.lock();
    let uid: Arc<str> = Arc::from(crate::object::meta_text(object, "uid"));
    if kind != "ExternalName" {
        let taken = give_addresses(allocation, &mut used, &uid, &families, object);
        let (given, outcome) = taken;
        reserved.addresses = given;
        if let Err(cause) = outcome {
            drop(used);
            return Err(Status::invalid("", "Service", crate::object::name(object), vec![cause]));
        }
    } else if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
    }
    let (given, outcome) = ports::give(&mut used.ports, allocation.ports, &uid, &kind, old, object);
    reserved.ports = given;
    drop(used);
    if let Err(cause) = outcome {
        return Err(Status::invalid("", "Service", crate::object::name(object), vec![cause]));
    }
    Ok(reserved)
}

/// The families a Service has, primary first; written into the object together with the policy.
fn families(
    allocation: &Allocation,
    old: Option<&Value>,
    object: &mut Value,
) -> Result<Vec<&'static str>, Cause> {
    let served: Vec<&'static str> = allocation.cidrs.iter().map(Cidr::family).collect();
    let kind = at(object, "spec.type").and_then(Value::as_str).unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        return Ok(Vec::new());
    }
    let named = |text: &str| if text == "IPv6" { "IPv6" } else { "IPv4" };
    let list = |value: &Value| -> Vec<&'static str> {
        let items = at(value, "spec.ipFamilies").and_then(Value::as_array).into_iter().flatten();
        items.filter_map(Value::as_str).map(named).collect()
    };
    let asked_addresses = addresses(object);
    let mut families = list(object);
    if families.is_empty() {
        families = old.map(list).unwrap_or_default();
    }
    if families.is_empty() {
        families = asked_addresses.iter().map(|a| if a.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    }
    let headless = at(object, "spec.clusterIP").and_then(Value::as_str) == Some("None");
    let selectorless = at(object, "spec.selector").and_then(Value::as_object).is_none_or(|s| s.is_empty());
    let unselected = headless && selectorless;
    let policy = at(object, "spec.ipFamilyPolicy").and_then(Value::as_str).map(str::to_string);
    let policy = policy.unwrap_or_else(|| {
        if families.len() > 1 || (families.is_empty() && unselected) {
            "RequireDualStack".to_string()
        } else {
            "SingleStack".to_string()
        }
    });
    if families.is_empty() {
        families.extend(served.first());
    }
    for family in &families {
        if !(served.contains(family) || unselected) {
            let value = Value::from(*family);
            return Err(Cause::invalid("spec.ipFamilies[0]", &value, "not configured on this cluster"));
        }
    }
    match policy.as_str() {
        "SingleStack" => families.truncate(1),
        _ => {
            let other = if families.first() == Some(&"IPv4") { "IPv6" } else { "IPv4" };
            let wanted = policy == "RequireDualStack" || served.contains(&other);
            if policy == "RequireDualStack" && served.len() < 2 && !unselected {
                let what = "this cluster is not configured for dual-stack services";
                return Err(Cause::invalid("spec.ipFamilyPolicy", &Value::from(policy.as_str()), what));
            }
            if families.len() < 2 && wanted {
                families.push(other);
            }
        }
    }
    set_at(object, "spec.ipFamilies", json!(families));
    set_at(object, "spec.ipFamilyPolicy", json!(policy));
    Ok(families)
}

fn give_addresses(
    allocation: &Allocation,
    used: &mut Used,
    uid: &Arc<str>,
    families: &[&'static str],
    object: &mut Value,
) -> (Vec<IpAddr>, Result<(), Cause>) {
    let mut given = Vec::new();
    let ranges = allocation.ranges.read().clone();
    let list = at(object, "spec.clusterIPs").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut texts: Vec<String> = list.iter().filter_map(Value::as_str).map(str::to_string).collect();
    let one = at(object, "spec.clusterIP").and_then(Value::as_str).unwrap_or("").to_string();
    if texts.is_empty() && !one.is_empty() {
        texts.push(one);
    }
    if texts.first().map(String::as_str) == Some("None") {
        set_at(object, "spec.clusterIP", "None".into());
        set_at(object, "spec.clusterIPs", json!(["None"]));
        return (given, Ok(()));
    }
    texts.truncate(families.len());
    for (position, family) in families.iter().enumerate() {
        let of_family = |cidr: &&Cidr| cidr.family() == *family;
        if !allocation.cidrs.iter().any(|cidr| of_family(&cidr)) {
            continue;
        }
        let address = match texts.get(position).filter(|text| !text.is_empty()) {
            Some(text) => {
                let field = "spec.clusterIPs";
                let refuse = |what: &str| {
                    let what = format!("failed to allocate IP {text}: {what}");
                    Cause::invalid(field, &json!([text]), &what)
                };
                let Ok(address) = text.parse::<IpAddr>() else {
                    let cause = Cause::invalid(
                        "spec.clusterIPs[0]",
                        &json!(text),
                        "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    );
                    return (given, Err(cause));
                };
                if !ranges.iter().any(|cidr| cidr.holds(address)) {
                    return (given, Err(refuse("the provided network does not match the current range")));
                }
                match used.addresses.get(&address) {
                    Some(owner) if owner != uid => {
                        return (given, Err(refuse("provided IP is already allocated")));
                    }
                    Some(_) => continue,
                    None => address,
                }
            }
            None => match ranges.iter().filter(of_family).find_map(|cidr| free_address(used, cidr)) {
                Some(address) => {
                    texts.resize(texts.len().max(position + 1), String::new());
                    texts[position] = address.to_string();
                    address
                }
                None => {
                    let cause =
                        Cause::field("InternalError", "spec.clusterIPs", "Internal error: range is full");
                    return (given, Err(cause));
                }
            },
        };
        used.addresses.insert(address, uid.clone());
        given.push(address);
    }
    if let Some(first) = texts.first() {
        set_at(object, "spec.clusterIP", first.as_str().into());
    }
    set_at(object, "spec.clusterIPs", json!(texts));
    (given, Ok(()))
}

impl ApiServer {
    /// Takes in what is stored, once at the start.
    pub fn learn_allocations(&self) {
        for object in self.store.snapshot("core/services").iter(&store::Range::default()) {
            if let Ok(service) = serde_json::from_slice::<Value>(&object.json) {
                self.allocation.learn(&service);
            }
        }
        let ranges = self.store.snapshot("networking.k8s.io/servicecidrs");
        let ranges = ranges.iter(&store::Range::default());
        let ranges: Vec<Value> =
            ranges.filter_map(|object| serde_json::from_slice(&object.json).ok()).collect();
        self.allocation.set_ranges(&ranges);
    }
}

impl ApiServer {
    /// Whether what follows from a write looks at the states before and after it. If not, they are better gone
    /// before the write is waited for: where it ends is another thread.
    pub fn remembers(&self, resource: &Resource, namespace: &str) -> bool {
        let def = &resource.def;
        def.group == "networking.k8s.io"
            || def.group.is_empty() && def.kind == "Service"
            || self.quotas.compares(resource, namespace)
    }

    /// What follows from every write, in the process that made it.
    pub fn after_write(&self, resource: &Resource, old: Option<&Value>, new: Option<&Value>) {
        self.quotas.wrote(resource, old, new);
        if resource.def.group.is_empty() && resource.def.kind == "Service" {
            match (old, new) {
                (Some(old), new) => {
                    claims::gone(self, old, new);
                    shared::gone(self, old, new);
                    self.allocation.forget(old, new);
                }
                (None, Some(new)) => self.allocation.learn(new),
                (None, None) => {}
            }
        }
        if resource.def.group == "networking.k8s.io" {
            claims::after_write(self, resource, old, new);
        }
    }
}
