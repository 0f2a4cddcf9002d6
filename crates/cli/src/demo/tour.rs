//! `kutter demo tour`: walks a newcomer through what the cluster does, one step after the other, with times.

use std::collections::BTreeMap;
use std::io::{BufRead, IsTerminal};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Cache, Client, Patch, WriteOptions};
use fleet::ClusterView;
use http::Method;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde_json::{Value, json};

use super::{NAMESPACE, ask, door};
use crate::manager::Manager;
use crate::output::{self, Paint};
use crate::{CliError, Doing, Globals, Output, kubeconfig};

const REVISION: &str = "deployment.kubernetes.io/revision";
/// How many requests that burn CPU are under way at once.
const LOAD: usize = 6;

/// A step that is done.
#[derive(Serialize)]
struct Done {
    step: &'static str,
    seconds: f64,
    result: String,
}

struct Tour<'a> {
    manager: &'a Manager,
    view: &'a ClusterView,
    client: Client,
    deployments: Cache<Deployment>,
    pods: Cache<Pod>,
    door: String,
    timeout: Duration,
    done: Vec<Done>,
    quiet: bool,
    pause: bool,
}

/// Takes the tour. With `pause`, a person at a terminal says when to go on.
pub(super) async fn run(
    globals: &Globals,
    manager: &Manager,
    view: &ClusterView,
    timeout: Duration,
    pause: bool,
) -> Result<(), CliError> {
    let client = kubeconfig::client(view)?;
    let deployments = Cache::<Deployment>::builder(client.clone()).namespace(NAMESPACE).start();
    let pods = Cache::<Pod>::builder(client.clone()).namespace(NAMESPACE).start();
    deployments.synced().await;
    pods.synced().await;
    if deployments.get(NAMESPACE, "frontend").is_none() {
        return Err(CliError::told("the demo is not deployed; deploy it with `kutter demo deploy`"));
    }
    let quiet = globals.output == Output::Json;
    let mut tour = Tour {
        manager,
        view,
        client,
        deployments,
        pods,
        door: door(view)?,
        timeout,
        done: Vec::new(),
        quiet,
        pause: pause && !quiet && std::io::stdin().is_terminal(),
    };
    tour.scale().await?;
    tour.crash().await?;
    tour.lose_a_node().await?;
    tour.load().await?;
    tour.roll().await?;
    if quiet {
        return output::json(&tour.done);
    }
    let all: f64 = tour.done.iter().map(|d| d.seconds).sum();
    println!("\nThat was the tour: {} steps, {all:.1} s of work.", tour.done.len());
    println!("  Look around:  kubectl -n {NAMESPACE} get all,events");
    println!("  Remove it:    kutter demo remove");
    Ok(())
}

impl Tour<'_> {
    fn begin(&self, title: &str, what: &str) -> Instant {
        if !self.quiet {
            let paint = Paint::stdout();
            println!("\n{}", paint.bold(title));
            println!("  {}", paint.dim(what));
        }
        if self.pause {
            println!("  press Enter to go on");
            let _ = std::io::stdin().lock().read_line(&mut String::new());
        }
        Instant::now()
    }

    fn end(&mut self, step: &'static str, began: Instant, result: String) {
        let seconds = began.elapsed().as_secs_f64();
        if !self.quiet {
            println!("  {} {result}  ({seconds:.2} s)", Paint::stdout().green("✓"));
        }
        self.done.push(Done { step, seconds, result });
    }

    /// Waits for something that watches tell, within the tour's timeout.
    async fn within<F: Future<Output = ()>>(&self, what: &str, waiting: F) -> Result<(), CliError> {
        let limit = self.timeout.as_secs();
        tokio::time::timeout(self.timeout, waiting).await.map_err(|_| {
            CliError::told(format!(
                "{what} did not happen within {limit} s; see `kubectl -n {NAMESPACE} get pods,events`"
            ))
        })
    }

    async fn patch(&self, name: &str, patch: Value) -> Result<Deployment, CliError> {
        let options = WriteOptions { field_manager: "kutter-demo-tour".into(), ..WriteOptions::default() };
        let patch = Patch::Strategic(patch);
        let changed = self.client.patch::<Deployment>(NAMESPACE, name, &patch, &options).await;
        changed.doing(format!("change Deployment {name}"))
    }

    /// Waits until a Deployment of this generation has all its pods ready, and only these.
    async fn rolled_out(&self, changed: &Deployment) -> Result<(), CliError> {
        let name = changed.metadata.name.clone().unwrap_or_default();
        let generation = changed.metadata.generation;
        let ready = |d: &Deployment| {
            let wanted = d.spec.as_ref().and_then(|s| s.replicas);
            d.status.as_ref().is_some_and(|s| {
                s.observed_generation >= generation
                    && [s.replicas, s.updated_replicas, s.ready_replicas]
                        .iter()
                        .all(|n| n.or(Some(0)) == wanted)
            })
        };
        let waiting = self.deployments.wait_until(|c| c.get(NAMESPACE, &name).is_some_and(|d| ready(&d)));
        self.within(&format!("the roll-out of Deployment {name}"), waiting).await
    }

    fn pods_of(&self, app: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.pods.list(NAMESPACE);
        let is = |p: &Pod| p.metadata.labels.as_ref().and_then(|l| l.get("app")).is_some_and(|a| a == app);
        pods.retain(|p| is(p) && p.metadata.deletion_timestamp.is_none());
        pods
    }

    /// `3 on NODE, 4 on NODE`.
    fn spread(&self, app: &str) -> String {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for p in self.pods_of(app) {
            *count.entry(node_of(&p).unwrap_or("no node").to_owned()).or_default() += 1;
        }
        count.iter().map(|(node, n)| format!("{n} on {node}")).collect::<Vec<_>>().join(", ")
    }

    async fn scale(&mut self) -> Result<(), CliError> {
        let began = self.begin(
            "1. Scale the front end from 3 to 10",
            "kubectl -n shop scale deployment frontend --replicas=10",
        );
        let changed = self.patch("frontend", json!({"spec": {"replicas": 10}})).await?;
        self.rolled_out(&changed).await?;
        self.end("scale", began, format!("10 pods answer: {}", self.spread("frontend")));
        let changed = self.patch("frontend", json!({"spec": {"replicas": 3}})).await?;
        self.rolled_out(&changed).await
    }

    async fn crash(&mut self) -> Result<(), CliError> {
        let began = self.begin("2. Crash a pod of the back end", "curl http://shop.localhost/api/crash");
        let restarts = |pods: &[Arc<Pod>]| -> i32 {
            let statuses = pods.iter().filter_map(|p| p.status.as_ref()?.container_statuses.as_ref());
            statuses.flatten().map(|s| s.restart_count).sum()
        };
        let before = restarts(&self.pods_of("backend"));
        // The connection breaks with the pod: that is the point.
        let _ = ask(&self.door, "/api/crash").await;
        let back = || {
            let pods = self.pods_of("backend");
            restarts(&pods) > before && pods.iter().all(|p| is_ready(p))
        };
        let waiting = self.pods.wait_until(|_| back());
        self.within("the restart of the crashed pod", waiting).await?;
        self.end("crash", began, "the container was started again and is ready".to_owned());
        Ok(())
    }

    async fn lose_a_node(&mut self) -> Result<(), CliError> {
        const TITLE: &str = "3. Stop a node and watch its pods move";
        let home = self.pods_of("database").first().and_then(|p| node_of(p).map(str::to_owned));
        let holds: BTreeMap<String, usize> = self.pods_of("frontend").iter().filter_map(|p| node_of(p)).fold(
            BTreeMap::new(),
            |mut all, node| {
                *all.entry(node.to_owned()).or_default() += 1;
                all
            },
        );
        // The database's data are on one node, so that node is left alone.
        let victim =
            holds.into_iter().filter(|(node, _)| Some(node) != home.as_ref()).max_by_key(|(_, n)| *n);
        let Some((victim, count)) = victim else {
            let began = self.begin(TITLE, "left out: it takes more than one node (`kutter up --nodes 3`)");
            self.end("node", began, "left out".to_owned());
            return Ok(());
        };
        let what =
            format!("kutter nodes stop {victim}   (after 40 s without a sign the cluster gives the node up)");
        let began = self.begin(TITLE, &what);
        self.turn(&victim, "stop").await?;
        let moved = || {
            let pods = self.pods_of("frontend");
            let elsewhere = |p: &Arc<Pod>| is_ready(p) && node_of(p) != Some(&victim);
            pods.iter().filter(|p| elsewhere(p)).count() >= 3
        };
        let waiting = self.pods.wait_until(|_| moved());
        let waited = self.within(&format!("the move of the pods of {victim}"), waiting).await;
        // Whatever came of it, the node is started again.
        self.turn(&victim, "start").await?;
        waited?;
        self.end(
            "node",
            began,
            format!("{count} pods of {victim} run elsewhere: {}", self.spread("frontend")),
        );
        let nodes = Cache::<Node>::builder(self.client.clone()).start();
        let ready = nodes.wait_until(|c| c.get("", &victim).is_some_and(|n| is_node_ready(&n)));
        self.within(&format!("the return of {victim}"), ready).await
    }

    async fn turn(&self, node: &str, verb: &str) -> Result<(), CliError> {
        let path = format!("/v1/clusters/{}/nodes/{node}/{verb}", self.view.name);
        self.manager.call::<ClusterView>(Method::POST, &path, None).await.map(drop)
    }

    async fn load(&mut self) -> Result<(), CliError> {
        let began = self.begin(
            "4. Load the back end until it is scaled",
            "the HorizontalPodAutoscaler looks at its CPU every 15 s and wants 80 % of the request",
        );
        let autoscalers =
            Cache::<HorizontalPodAutoscaler>::builder(self.client.clone()).namespace(NAMESPACE).start();
        let busy: Vec<_> = (0..LOAD)
            .map(|_| {
                let door = self.door.clone();
                tokio::spawn(async move {
                    loop {
                        if ask(&door, "/api/load?ms=400").await.is_err() {
                            tokio::time::sleep(Duration::from_millis(100)).await;
                        }
                    }
                })
            })
            .collect();
        let grown = self.deployments.wait_until(|c| {
            let status = c.get(NAMESPACE, "backend").and_then(|d| d.status.clone());
            status.is_some_and(|s| s.ready_replicas.unwrap_or(0) > 2)
        });
        let waited = self.within("the scaling of the back end", grown).await;
        busy.iter().for_each(tokio::task::JoinHandle::abort);
        waited?;
        let status = autoscalers.get(NAMESPACE, "backend").and_then(|h| h.status.clone());
        let wanted = status.map_or(0, |s| s.desired_replicas);
        self.end("load", began, format!("the autoscaler wants {wanted} pods: {}", self.spread("backend")));
        Ok(())
    }

    async fn roll(&mut self) -> Result<(), CliError> {
        let began = self.begin(
            "5. Roll out a new version, and roll it back",
            "kubectl -n shop set env deployment/frontend SHOP_VERSION=2; kubectl -n shop rollout undo deployment/frontend",
        );
        let env = json!([{"name": "SHOP_VERSION", "value": "2"}]);
        let containers = json!([{"name": "frontend", "env": env}]);
        let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let before = self.deployments.get(NAMESPACE, "frontend");
        let before = before.and_then(|d| Some(d.metadata.annotations.as_ref()?.get(REVISION)?.clone()));
        let changed = self.patch("frontend", patch).await?;
        self.rolled_out(&changed).await?;
        let seconds = began.elapsed().as_secs_f64();
        let sets = Cache::<ReplicaSet>::builder(self.client.clone()).namespace(NAMESPACE).start();
        sets.synced().await;
        let old = sets.list(NAMESPACE).into_iter().find(|s| {
            let of = s.metadata.owner_references.iter().flatten().any(|o| o.name == "frontend");
            of && s.metadata.annotations.as_ref().and_then(|a| a.get(REVISION)) == before.as_ref()
        });
        let old = old.and_then(|s| s.spec.as_ref()?.template.clone());
        let old = old.ok_or_else(|| CliError::told("the version before is not kept by any ReplicaSet"))?;
        let mut template = client::to_value(&old).doing("read the version before")?;
        if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove("pod-template-hash");
        }
        let again = Instant::now();
        template["$patch"] = "replace".into();
        let changed = self.patch("frontend", json!({"spec": {"template": template}})).await?;
        self.rolled_out(&changed).await?;
        let back = again.elapsed().as_secs_f64();
        self.end(
            "roll-out",
            began,
            format!("version 2 after {seconds:.2} s, version 1 again after another {back:.2} s"),
        );
        Ok(())
    }
}

fn node_of(p: &Pod) -> Option<&str> {
    p.spec.as_ref()?.node_name.as_deref()
}

fn is_ready(p: &Pod) -> bool {
    let conditions = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_node_ready(n: &Node) -> bool {
    let conditions = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}
