//! metrics.k8s.io: what nodes and pods use now, from their kubelets' summaries.
//!
//! Nothing is asked while nobody asks. Rates need two samples: a node's last one is kept, and a question that finds none
//! (or only an old one) takes two, a second apart. The window in the answer is the true distance of the two.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use serve::{Body, outbound};
use store::Range;
use tokio::task::JoinSet;

use crate::answer;
use crate::connect::{Backend, kubelet};
use crate::object::{self, at, meta_text};
use crate::selector::LabelSelector;
use crate::server::Call;
use crate::status::Status;

/// An answer may be made of samples of this age.
const FRESH: Duration = Duration::from_secs(10);
/// An earlier sample older than this is of no use for a rate.
const STALE: Duration = Duration::from_secs(90);
/// The distance of two samples when there is no earlier one.
const APART: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a summary.
const SUMMARY_MAX: usize = 32 << 20;

/// Nanoseconds of CPU and bytes of memory.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    cpu: u64,
    memory: u64,
}

/// What a node said.
#[derive(Debug, Clone, Default)]
struct Sample {
    at: jiff::Timestamp,
    node: Use,
    /// By pod uid and container.
    containers: HashMap<(String, String), Use>,
}

/// The last two samples of a node.
#[derive(Debug, Clone, Default)]
struct Pair {
    before: Option<Arc<Sample>>,
    last: Option<Arc<Sample>>,
}

/// The samples kept, by node.
#[derive(Default)]
pub struct Samples {
    nodes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Pair>>>>,
}

fn number(value: &Value, path: &str) -> u64 {
    at(value, path).and_then(Value::as_u64).unwrap_or(0)
}

impl Sample {
    fn of(summary: &Value) -> Self {
        let used = |of: &Value| Use {
            cpu: number(of, "cpu.usageCoreNanoSeconds"),
            memory: number(of, "memory.workingSetBytes"),
        };
        let mut containers = HashMap::new();
        for pod in summary.get("pods").and_then(Value::as_array).into_iter().flatten() {
            let uid = at(pod, "podRef.uid").and_then(Value::as_str).unwrap_or("");
            for container in pod.get("containers").and_then(Value::as_array).into_iter().flatten() {
                let name = container.get("name").and_then(Value::as_str).unwrap_or("");
                containers.insert((uid.to_owned(), name.to_owned()), used(container));
            }
        }
        let node = summary.get("node").map(used).unwrap_or_default();
        Self { at: jiff::Timestamp::now(), node, containers }
    }
}

/// Two samples to make a rate of.
struct Rates {
    before: Arc<Sample>,
    last: Arc<Sample>,
}

impl Rates {
    fn seconds(&self) -> f64 {
        self.last.at.duration_since(self.before.at).as_secs_f64().max(0.001)
    }

    fn shown(&self, before: Use, last: Use) -> Value {
        let nanos = last.cpu.saturating_sub(before.cpu) as f64 / self.seconds();
        json!({"cpu": format!("{}n", nanos as u64), "memory": format!("{}Ki", last.memory >> 10)})
    }

    fn head(&self, object: &mut Value) {
        object["timestamp"] = object::timestamp(self.last.at).into();
        object["window"] = format!("{:.3}s", self.seconds()).into();
    }
}

async fn fetch(backend: Backend) -> Result<Arc<Sample>, String> {
    let request = Request::get("/stats/summary").header(http::header::HOST, "kubelet").body(serve::empty());
    let request = request.map_err(|e| e.to_string())?;
    let work = async {
        let response = outbound::send(&backend.host, backend.port, backend.tls.as_ref(), request).await;
        let response = response.map_err(|e| e.to_string())?;
        if !response.status().is_success() {
            return Err(format!("the kubelet answers {}", response.status()));
        }
        let (mut body, mut bytes) = (response.into_body(), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| e.to_string())?;
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if bytes.len() > SUMMARY_MAX {
                return Err("the summary is too large".to_owned());
            }
        }
        serde_json::from_slice::<Value>(&bytes).map_err(|e| e.to_string())
    };
    let summary = tokio::time::timeout(TIMEOUT, work).await.map_err(|_| "no answer in time".to_owned())??;
    Ok(Arc::new(Sample::of(&summary)))
}

/// Two samples of a node, taken now where the kept ones are too old.
async fn rates(
    slot: Arc<tokio::sync::Mutex<Pair>>,
    ways: Result<[Backend; 2], String>,
) -> Result<Rates, String> {
    let mut pair = slot.lock().await;
    let age = |sample: &Arc<Sample>| {
        Duration::try_from(jiff::Timestamp::now().duration_since(sample.at)).unwrap_or_default()
    };
    if let Pair { before: Some(before), last: Some(last) } = &*pair
        && age(last) < FRESH
    {
        return Ok(Rates { before: before.clone(), last: last.clone() });
    }
    let [first, second] = ways?;
    let before = match pair.last.take().filter(|last| age(last) < STALE) {
        Some(last) => last,
        None => {
            let first = fetch(first).await?;
            tokio::time::sleep(APART).await;
            first
        }
    };
    let last = fetch(second).await?;
    *pair = Pair { before: Some(before.clone()), last: Some(last.clone()) };
    Ok(Rates { before, last })
}

type Found = HashMap<String, Result<Rates, String>>;

async fn of_nodes(call: &Call, nodes: Vec<String>) -> Found {
    let mut tasks = JoinSet::new();
    for node in nodes {
        let way = || kubelet(call, &node, String::new()).map_err(|status| status.message);
        let ways = way().and_then(|first| Ok([first, way()?]));
        let slot = call.server.samples.nodes.lock().entry(node.clone()).or_default().clone();
        tasks.spawn(async move { (node, rates(slot, ways).await) });
    }
    tasks.join_all().await.into_iter().collect()
}

/// Objects of a kind that a request is about, in its namespace and by its label selector.
fn asked(call: &Call, plural: &str) -> Result<Vec<Value>, Status> {
    let catalog = call.server.catalog();
    let resource = catalog.stored("", plural).ok_or_else(Status::no_resource)?;
    if !call.info.name.is_empty() {
        let key = resource.key(&call.info.namespace, &call.info.name);
        let found = call.server.store.get(&key).ok_or_else(|| call.not_found(&call.info.name))?;
        return Ok(vec![serde_json::from_slice(&found.json).map_err(Status::internal)?]);
    }
    let labels = LabelSelector::parse(call.query.text("labelSelector")).map_err(Status::bad_request)?;
    let namespace = (!call.info.namespace.is_empty()).then(|| call.info.namespace.as_str().into());
    let snapshot = call.server.store.snapshot(&resource.table);
    let objects = snapshot.iter(&Range { namespace, after: None });
    let chosen = objects.filter(|object| labels.matches(&object.index));
    Ok(chosen.filter_map(|object| serde_json::from_slice(&object.json).ok()).collect())
}

fn metadata(of: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = of.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.into(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".into(), object::timestamp(jiff::Timestamp::now()).into());
    metadata.into()
}

async fn nodes(call: &Call) -> Result<Vec<Value>, Status> {
    let all = asked(call, "nodes")?;
    let names = all.iter().map(|node| object::name(node).to_owned()).collect();
    let found = of_nodes(call, names).await;
    let show = |node: &Value| {
        let rates = found.get(object::name(node))?.as_ref().ok()?;
        let usage = rates.shown(rates.before.node, rates.last.node);
        let mut shown = json!({"metadata": metadata(node), "usage": usage});
        rates.head(&mut shown);
        Some(shown)
    };
    let shown: Vec<Value> = all.iter().filter_map(show).collect();
    explain(call, &shown, &found)?;
    Ok(shown)
}

async fn pods(call: &Call) -> Result<Vec<Value>, Status> {
    let mut all = asked(call, "pods")?;
    all.retain(|pod| at(pod, "status.phase").and_then(Value::as_str) == Some("Running"));
    let node = |pod: &Value| at(pod, "spec.nodeName").and_then(Value::as_str).unwrap_or("").to_owned();
    let mut names: Vec<String> = all.iter().map(node).filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    let found = of_nodes(call, names).await;
    let show = |pod: &Value| {
        let rates = found.get(node(pod).as_str())?.as_ref().ok()?;
        let uid = meta_text(pod, "uid");
        let list = at(pod, "spec.containers").and_then(Value::as_array)?;
        let containers: Option<Vec<Value>> = list
            .iter()
            .map(|container| {
                let name = container.get("name").and_then(Value::as_str)?;
                let key = (uid.to_owned(), name.to_owned());
                let (before, last) = (rates.before.containers.get(&key)?, rates.last.containers.get(&key)?);
                Some(json!({"name": name, "usage": rates.shown(*before, *last)}))
            })
            .collect();
        let mut shown = json!({"metadata": metadata(pod), "containers": containers?});
        rates.head(&mut shown);
        Some(shown)
    };
    let shown: Vec<Value> = all.iter().filter_map(show).collect();
    explain(call, &shown, &found)?;
    Ok(shown)
}

/// One object that has no figures is an error that says why; a list goes without it.
fn explain(call: &Call, shown: &[Value], found: &Found) -> Result<(), Status> {
    for (node, why) in found.iter().filter_map(|(node, got)| got.as_ref().err().map(|why| (node, why))) {
        tracing::debug!(node, why, "a node does not tell its usage");
    }
    match shown.is_empty() && !call.info.name.is_empty() {
        true => Err(call.not_found(&call.info.name)),
        false => Ok(()),
    }
}

/// GET of one object or a list.
pub async fn answer(call: &mut Call) -> Result<Response<Body>, Status> {
    let output = call.output()?;
    let def = call.resource.def.clone();
    let items = match def.plural.as_ref() {
        "nodes" => nodes(call).await?,
        _ => pods(call).await?,
    };
    let version = def.api_version();
    let typed = |mut item: Value| {
        item["kind"] = def.kind.as_ref().into();
        item["apiVersion"] = version.as_str().into();
        item
    };
    let shown = match call.info.name.is_empty() {
        true => json!({"kind": def.list_kind.as_ref(), "apiVersion": version, "metadata": {},
            "items": items.into_iter().map(typed).collect::<Vec<_>>()}),
        false => typed(items.into_iter().next().unwrap_or_default()),
    };
    Ok(answer::value(200, output.format, &shown))
}
