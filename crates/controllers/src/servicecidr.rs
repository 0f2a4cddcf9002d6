//! ServiceCIDRs: they are ready as soon as they exist, and do not go while addresses depend on them. Follows
//! upstream's `pkg/controller/servicecidrs`.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;

use crate::{Action, Plan, Target, Wake, pod};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// How long an ending range is kept, so that no server gives addresses from it any more.
const GRACE: SignedDuration = SignedDuration::from_secs(10);
/// After what time the addresses of an ending range are looked at again.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
const BLOCKED: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

/// A range: an address in it, and how many of its bits count.
type Prefix = (IpAddr, u8);

fn prefix(text: &str) -> Option<Prefix> {
    let (base, bits) = text.split_once('/')?;
    Some((base.parse().ok()?, bits.parse().ok()?))
}

fn prefixes(cidr: &ServiceCIDR) -> impl Iterator<Item = Prefix> {
    let texts = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.filter_map(|text| prefix(text))
}

/// The bits of an address, left-aligned, and how many there are.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

fn contains((base, length): Prefix, address: IpAddr) -> bool {
    let ((base, width), (address, same)) = (bits(base), bits(address));
    let shift = 128 - u32::from(length.min(128));
    width == same && (base ^ address).checked_shr(shift).unwrap_or(0) == 0
}

/// Whether an address of this range can be given: not the first, and for IPv4 not the last.
fn gives((base, length): Prefix, address: IpAddr) -> bool {
    let (value, width) = bits(address);
    let low = u128::MAX.checked_shr(u32::from(length)).unwrap_or(0);
    let host = low & (u128::MAX << (128 - u32::from(width)));
    let is_last = width == 32 && value & host == host;
    contains((base, length), address) && value & host != 0 && !is_last
}

fn others<'a>(cidr: &'a ServiceCIDR, all: &'a [ServiceCIDR]) -> impl Iterator<Item = Prefix> {
    all.iter().filter(move |other| pod::name(*other) != pod::name(cidr)).flat_map(prefixes)
}

/// Whether every range of this one is also a part of another ServiceCIDR, so that all its addresses are.
#[must_use]
pub fn is_covered(cidr: &ServiceCIDR, all: &[ServiceCIDR]) -> bool {
    prefixes(cidr).all(|(base, length)| others(cidr, all).any(|o| o.1 <= length && contains(o, base)))
}

/// The first of these addresses that would be without a range.
#[must_use]
pub fn orphan(
    cidr: &ServiceCIDR,
    all: &[ServiceCIDR],
    mut addresses: impl Iterator<Item = IpAddr>,
) -> Option<IpAddr> {
    addresses.find(|address| {
        prefixes(cidr).any(|own| gives(own, *address))
            && !others(cidr, all).any(|other| gives(other, *address))
    })
}

fn with_ready(cidr: &ServiceCIDR, [status, reason, message]: [&str; 3], now: Timestamp) -> Option<Action> {
    let known = cidr.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == "Ready");
    if known.is_some_and(|c| c.status == status && c.reason == reason && c.message == message) {
        return None;
    }
    let mut new = cidr.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        observed_generation: None,
    });
    Action::patch_status(cidr, &new)
}

/// What becomes of a ServiceCIDR that stays.
#[must_use]
pub fn plan(cidr: &ServiceCIDR, now: Timestamp) -> Plan {
    let finalizers = cidr.metadata.finalizers.as_deref().unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        let finalizers: Vec<&str> = finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
        let patch = json!({"metadata": {"finalizers": finalizers,
            "resourceVersion": cidr.metadata.resource_version}});
        // The status is written on top of this change, in the next pass.
        let protect = Action::merge(Target::of(cidr), "", patch);
        return Plan { actions: vec![protect], ..Plan::idle("it is not protected") };
    }
    let ready = with_ready(cidr, ["True", "", "Kubernetes Service CIDR is ready"], now);
    Plan { actions: ready.into_iter().collect(), ..Plan::idle("it stays") }
}

/// What becomes of one that is to go; `orphan` is an address that would be without a range.
#[must_use]
pub fn plan_end(cidr: &ServiceCIDR, orphan: Option<IpAddr>, now: Timestamp) -> Plan {
    let Some(since) = cidr.metadata.deletion_timestamp.as_ref() else { return plan(cidr, now) };
    let at = |time: Timestamp, pause| time.checked_add(pause).map_or(Wake::OnChange, Wake::At);
    if let Some(address) = orphan {
        let actions = with_ready(cidr, ["False", "Terminating", BLOCKED], now).into_iter().collect();
        let why = format!("{address} would be without a range");
        return Plan { actions, wake: at(now, AGAIN), ..Plan::idle(why) };
    }
    match since.0.checked_add(GRACE) {
        Ok(end) if end > now => Plan { wake: at(since.0, GRACE), ..Plan::idle("servers may not know yet") },
        _ => {
            let mut new = cidr.clone();
            new.metadata.finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
            let actions = Action::patch(cidr, &new).into_iter().collect();
            Plan { actions, ..Plan::idle("nothing depends on it") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(name: &str, ranges: &[&str]) -> ServiceCIDR {
        serde_json::from_value(json!({"metadata": {"name": name, "finalizers": [FINALIZER]},
            "spec": {"cidrs": ranges}}))
        .expect("a ServiceCIDR")
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("time")
    }

    #[test]
    fn ranges_cover_and_give() {
        let (small, large) = (cidr("a", &["10.0.1.0/24"]), cidr("b", &["10.0.0.0/16", "fd00::/112"]));
        let all = [small.clone(), large.clone()];
        assert!(is_covered(&small, &all) && !is_covered(&large, &all));
        assert!(is_covered(&small, &[small.clone(), cidr("c", &["10.0.1.0/24"])]));
        let of = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("address")).collect::<Vec<IpAddr>>();
        let addresses = of(&["10.0.1.7", "10.0.2.1", "fd00::1"]);
        assert_eq!(orphan(&small, &all, addresses.iter().copied()), None);
        assert_eq!(orphan(&large, &all, addresses.iter().copied()), Some(addresses[1]));
        assert_eq!(orphan(&large, &all, addresses[2..].iter().copied()), Some(addresses[2]));
        // Neither the first nor the last address is given.
        let ends = of(&["10.0.0.0", "10.0.255.255", "fd00::"]);
        assert_eq!(orphan(&large, &all, ends.into_iter()), None);
        // The small range does not give its first address, so that it is the large one's alone.
        let first = of(&["10.0.1.0"]);
        assert_eq!(orphan(&large, &all, first.iter().copied()), Some(first[0]));
    }

    #[test]
    fn they_become_ready_and_go_when_nothing_depends_on_them() {
        let mut range = cidr("a", &["10.0.1.0/24"]);
        let ready = plan(&range, now());
        let [Action::Patch { patch, subresource: "status", .. }] = ready.actions.as_slice() else {
            panic!("{ready:?}")
        };
        assert_eq!(patch["status"]["conditions"][0]["status"], "True");
        range.metadata.finalizers = None;
        assert!(matches!(plan(&range, now()).actions.as_slice(), [Action::Patch { subresource: "", .. }]));
        let mut range = cidr("a", &["10.0.1.0/24"]);
        range.metadata.deletion_timestamp = Some(Time(now()));
        let blocked = plan_end(&range, "10.0.1.7".parse().ok(), now());
        let [Action::Patch { patch, .. }] = blocked.actions.as_slice() else { panic!("{blocked:?}") };
        assert_eq!(patch["status"]["conditions"][0]["reason"], "Terminating");
        assert_eq!(plan_end(&range, None, now()).actions, []);
        let later = now().checked_add(GRACE).expect("later");
        let free = plan_end(&range, None, later);
        let [Action::Patch { patch, .. }] = free.actions.as_slice() else { panic!("{free:?}") };
        assert!(patch["metadata"]["finalizers"].is_null() || patch["metadata"]["finalizers"] == json!([]));
    }
}
