//! HorizontalPodAutoscaler: asks for the scale and the metrics of its target every 15 seconds, and only while there is
//! an autoscaler.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Client, Error};
use controllers::autoscaler::{Memory, PodUsage, Scale, Usage, View, plan};
use controllers::{Plan, Resource, Target, pod};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale as ScaleObject;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, HorizontalPodAutoscaler};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::Value;

use crate::shell::{Planner, Wiring};

/// What is remembered of each autoscaler, by uid.
type Memories = Arc<Mutex<HashMap<String, Memory>>>;

pub(super) fn horizontal(wiring: &mut Wiring) -> Planner {
    // What this controller writes into the status is no reason to look again.
    let autoscalers = wiring.on_change::<HorizontalPodAutoscaler>(|change, wake| {
        let wish = |hpa: &Arc<HorizontalPodAutoscaler>| (hpa.metadata.uid.clone(), hpa.spec.clone());
        if change.old.map(wish) != change.new.map(wish) {
            wake(change.key.clone());
        }
    });
    let client = wiring.client().clone();
    let memories = Memories::default();
    Planner::asking(move |key, now| {
        let (known, client, memories) = (autoscalers.get_key(&key), client.clone(), memories.clone());
        let alive: Vec<String> = match known {
            // What is gone is forgotten.
            None => autoscalers.list("").iter().map(|a| pod::uid(&**a).to_owned()).collect(),
            Some(_) => Vec::new(),
        };
        async move {
            let Some(hpa) = known else {
                memories.lock().retain(|uid, _| alive.contains(uid));
                return Ok(Plan::idle("the autoscaler is gone"));
            };
            let target = resource(&client, &hpa.spec.scale_target_ref).await;
            let found = match target {
                Ok(resource) => {
                    scale(&client, &key.namespace, &hpa.spec.scale_target_ref.name, resource).await
                }
                Err(why) => Err(why),
            };
            let (pods, metrics) = match &found {
                Ok((_, object)) => {
                    let selector =
                        object.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
                    figures(&client, &key.namespace, &selector).await?
                }
                Err(_) => (Vec::new(), Ok(BTreeMap::new())),
            };
            let scale = found.map(|(target, object)| Scale {
                target,
                wanted: object.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
                current: object.status.as_ref().map_or(0, |s| s.replicas),
                pods: pods.iter().collect(),
            });
            let uid = pod::uid(&*hpa).to_owned();
            let mut memory = memories.lock().get(&uid).cloned().unwrap_or_default();
            let made = plan(&View { hpa: &hpa, scale, metrics }, &mut memory, now);
            memories.lock().insert(uid, memory);
            Ok(made)
        }
    })
}

/// Where the API serves the kind of a reference.
pub(super) async fn resource(client: &Client, of: &CrossVersionObjectReference) -> Result<Resource, String> {
    let version = of.api_version.as_deref().unwrap_or("v1");
    let base = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let served: Value = client.get_raw(&base).await.map_err(|e| e.chain().to_string())?;
    let all = served.get("resources").and_then(Value::as_array).into_iter().flatten();
    let text = |r: &Value, field: &str| r.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let found = all
        .filter(|r| !text(r, "name").contains('/'))
        .find(|r| text(r, "kind") == of.kind)
        .ok_or_else(|| format!("no matches for kind {:?} in group {version:?}", of.kind))?;
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    Ok(Resource {
        group: group.to_owned().into(),
        version: short.to_owned().into(),
        kind: of.kind.clone().into(),
        plural: text(found, "name").into(),
        namespaced: true,
    })
}

/// The scale of an object of the namespace.
pub(super) async fn scale(
    client: &Client,
    namespace: &str,
    name: &str,
    resource: Resource,
) -> Result<(Target, ScaleObject), String> {
    let base = match resource.group.is_empty() {
        true => format!("/api/{}", resource.version),
        false => format!("/apis/{}", resource.api_version()),
    };
    let uri = format!("{base}/namespaces/{namespace}/{}/{name}/scale", resource.plural);
    let object: ScaleObject = client.get_raw(&uri).await.map_err(|e| e.chain().to_string())?;
    let mut target = Target::at(resource, &object.metadata);
    target.namespace = namespace.to_owned();
    Ok((target, object))
}

type Metrics = Result<BTreeMap<String, PodUsage>, String>;

/// The pods of a selector and what they use.
async fn figures(client: &Client, namespace: &str, selector: &str) -> Result<(Vec<Pod>, Metrics), Error> {
    let options = client::ListOptions { labels: selector.into(), ..Default::default() };
    let pods = client.list::<Pod>(namespace, &options).await?.items;
    let chosen: String = selector.bytes().map(escape).collect();
    let uri = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={chosen}");
    let metrics = client.get_raw::<Value>(&uri).await.map_err(|e| e.chain().to_string());
    let metrics = metrics.and_then(|list| {
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        let read: BTreeMap<String, PodUsage> = items.iter().filter_map(read).collect();
        match read.is_empty() {
            true => Err("no metrics returned from resource metrics API".to_owned()),
            false => Ok(read),
        }
    });
    Ok((pods, metrics))
}

fn escape(byte: u8) -> String {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    }
}

/// Name and usage of one PodMetrics.
fn read(item: &Value) -> Option<(String, PodUsage)> {
    let text = |path: &str| item.pointer(path).and_then(Value::as_str);
    let containers = item.get("containers")?.as_array()?.iter().filter_map(|c| {
        let milli = c.get("usage")?.as_object()?.iter().filter_map(|(name, amount)| {
            let amount = k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.as_str()?.to_owned());
            Some((name.clone(), controllers::autoscaler::milli(&amount)?))
        });
        Some(Usage { container: c.get("name")?.as_str()?.to_owned(), milli: milli.collect() })
    });
    let usage = PodUsage {
        containers: containers.collect(),
        at: text("/timestamp")?.parse::<Timestamp>().ok()?,
        window_s: text("/window").and_then(|w| w.strip_suffix('s')?.parse().ok()).unwrap_or(15.0),
    };
    Some((text("/metadata/name")?.to_owned(), usage))
}
