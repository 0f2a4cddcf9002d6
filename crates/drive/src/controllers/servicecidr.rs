//! ServiceCIDRs. Addresses are only looked at when a range is to go, so they are asked for and not cached.

use client::{ListOptions, ObjectKey, PartialObject};
use controllers::{Plan, pod, servicecidr};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use crate::shell::{Planner, Wiring};

const OF_SERVICES: &str = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io";

pub(super) fn protect(wiring: &mut Wiring) -> Planner {
    let known = wiring.cache::<ServiceCIDR>();
    let ranges = wiring.on_change::<ServiceCIDR>(move |change, wake| {
        wake(change.key.clone());
        // A range that comes may set one free that is to go.
        let going = known.list("").into_iter().filter(|range| pod::is_deleting(&**range));
        going.for_each(|range| wake(ObjectKey::of(&*range)));
    });
    let client = wiring.client().clone();
    Planner::asking(move |key, now| {
        let all: Vec<ServiceCIDR> = ranges.list("").iter().map(|range| (**range).clone()).collect();
        let (own, client) = (ranges.get_key(&key), client.clone());
        async move {
            let Some(own) = own else { return Ok(Plan::idle("the range is gone")) };
            if !pod::is_deleting(&*own) || servicecidr::is_covered(&own, &all) {
                return Ok(servicecidr::plan_end(&own, None, now));
            }
            let options = ListOptions { labels: OF_SERVICES.to_owned(), ..ListOptions::default() };
            let resource = <IPAddress as client::Kind>::resource();
            let addresses = client.list_partial::<PartialObject>(&resource, "", &options).await?;
            let names =
                addresses.items.iter().filter_map(|address| address.metadata.name.as_deref()?.parse().ok());
            Ok(servicecidr::plan_end(&own, servicecidr::orphan(&own, &all, names), now))
        }
    })
}
