//! `kutter up`: from nothing to a cluster that answers.

use std::time::Duration;

use fleet::{ClusterView, Phase};
use http::Method;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::commands::Up;
use crate::manager::{Manager, Views};
use crate::output::{self, Paint};
use crate::progress::Progress;
use crate::{CliError, Doing, Globals, Output, demo, doctor, kubeconfig};

/// The node pool that `up` makes.
pub const POOL: &str = "pool";

/// Starts the manager and the cluster as far as they do not run, and waits until every node is ready.
pub async fn run(globals: &Globals, args: Up) -> Result<(), CliError> {
    let quiet = globals.output == Output::Json;
    let timeout = Duration::from_secs(args.timeout);
    check_runtime(&args)?;
    let mut progress = Progress::new(quiet);
    progress.step("manager");
    let manager = Manager::ensure(globals).await?;
    let existing = manager.find(&args.name).await?;
    let running = existing.as_ref().is_some_and(|c| c.phase == Phase::Running);
    if !running {
        doctor::check(globals)?;
    }
    let member = existing.as_ref().is_some_and(|c| c.member);
    if member && (args.nodes.is_some() || args.listen.is_some() || args.host_node) {
        return Err(CliError::told(format!(
            "this machine is a member of {}, whose control plane is elsewhere: change it there",
            args.name
        )));
    }
    let body = wanted(&args, existing.as_ref())?;
    let path = format!("/v1/clusters/{}", args.name);
    let _: ClusterView = manager.call(Method::PUT, &path, Some(&body)).await?;
    let mut views = manager.watch(&args.name).await?;
    progress.step("control plane");
    let mut view = wait(&mut views, &progress, timeout, |v| member || ready(v, "control-plane")).await?;
    progress.step("nodes started");
    // A view comes only when something has changed: the one at hand may already be the last.
    if view.phase != Phase::Running {
        view = wait(&mut views, &progress, timeout, |v| v.phase == Phase::Running).await?;
    }
    progress.step("nodes ready");
    wait_nodes_ready(&view, timeout).await?;
    let merged = !args.no_kubeconfig && !member;
    if merged {
        progress.step("kubeconfig");
        kubeconfig::merge(&view)?;
    }
    let taken = progress.finish();
    if quiet {
        if args.demo {
            demo::deploy(globals, &view, timeout).await?;
        }
        return output::json(&view);
    }
    print_next(&view, running, taken, merged);
    if args.demo {
        demo::deploy(globals, &view, timeout).await?;
    }
    Ok(())
}

/// A runtime of the machine is for nodes that are the machine.
fn check_runtime(args: &Up) -> Result<(), CliError> {
    match &args.runtime {
        Some(runtime) if !args.host_node => Err(CliError::told(format!(
            "local nodes cannot use {runtime}: they live in mount and network namespaces of their own, so that a \
             runtime of this machine neither sees the volumes of their pods nor is reached by them; use --host-node, \
             or leave out --runtime for Kutter's own runtime"
        ))),
        _ => Ok(()),
    }
}

/// What the manager is asked for.
fn wanted(args: &Up, existing: Option<&ClusterView>) -> Result<serde_json::Value, CliError> {
    let host = match args.host_node {
        true => {
            let name = nix::unistd::gethostname().doing("read the hostname")?;
            Some(json!({"node": name.to_string_lossy().to_lowercase(), "runtime": args.runtime}))
        }
        false => None,
    };
    let pool = wanted_nodes(args, existing).map(|n| json!({"name": POOL, "count": n, "host": host}));
    Ok(json!({ "desired": "running", "listen": args.listen, "pools": pool.map(|p| vec![p]) }))
}

/// A new cluster gets one node unless told otherwise; an existing one keeps what it has.
fn wanted_nodes(args: &Up, existing: Option<&ClusterView>) -> Option<u32> {
    match existing {
        Some(_) if args.host_node => Some(1),
        Some(_) => args.nodes,
        None => Some(args.nodes.unwrap_or(1)),
    }
}

fn ready(view: &ClusterView, role: &str) -> bool {
    view.processes.iter().any(|p| p.role == role && p.state == "ready")
}

/// Failures in a row after which a process is not waited for.
const FAILURES_MAX: u32 = 5;

/// Whether something ends again and again: what it says is more use than waiting.
fn hopeless(view: &ClusterView) -> bool {
    view.processes.iter().any(|p| p.failures >= FAILURES_MAX)
}

async fn wait(
    views: &mut Views,
    progress: &Progress,
    timeout: Duration,
    mut done: impl FnMut(&ClusterView) -> bool,
) -> Result<ClusterView, CliError> {
    let seen = views.until(timeout, |view| {
        if let Some(why) = view.why.first() {
            progress.remark(why);
        }
        done(view) || hopeless(view)
    });
    let view = seen.await?.ok_or_else(|| {
        CliError::told("the manager ended while starting the cluster; see `kutter logs manager`")
    })?;
    match hopeless(&view) {
        true => Err(CliError::told(format!("{}; see `kutter doctor`", view.why.join("; ")))),
        false => Ok(view),
    }
}

/// Waits on a watch of the Node objects until as many are Ready as there should be.
pub async fn wait_nodes_ready(view: &ClusterView, timeout: Duration) -> Result<(), CliError> {
    let wanted: Vec<String> = view.pools.iter().flat_map(fleet::NodePool::node_names).collect();
    let client = kubeconfig::client(view)?;
    let nodes = client::Cache::<Node>::builder(client).start();
    let mut changes = nodes.subscribe();
    let all_ready = || wanted.iter().all(|name| nodes.get("", name).is_some_and(|n| is_ready(&n)));
    let waiting = async {
        nodes.synced().await;
        while !all_ready() {
            changes.next().await;
        }
    };
    tokio::time::timeout(timeout, waiting).await.map_err(|_| {
        let missing: Vec<&str> = wanted
            .iter()
            .filter(|name| !nodes.get("", name).is_some_and(|n| is_ready(&n)))
            .map(String::as_str)
            .collect();
        let hint = missing.first().copied().unwrap_or_default();
        CliError::told(format!("nodes {} are not ready; see `kutter logs {hint}`", missing.join(", ")))
    })
}

/// Whether the Ready condition is True.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|c| c.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

fn print_next(view: &ClusterView, was_running: bool, taken: Duration, merged: bool) {
    let paint = Paint::stdout();
    let nodes: usize = view.pools.iter().map(|p| p.node_names().len()).sum();
    let what = if was_running { "already runs" } else { "is ready" };
    println!();
    println!(
        "{} {what}: Kubernetes {}, {nodes} node{}, {:.2} s",
        paint.bold(&format!("Cluster {}", view.name)),
        view.version,
        if nodes == 1 { "" } else { "s" },
        taken.as_secs_f64()
    );
    if merged {
        println!("  Use it:   kubectl --context kutter-{} get pods -A", view.name);
    } else if view.member {
        println!("  It is:    a node of {}", view.api);
    } else {
        println!("  Use it:   kubectl --kubeconfig {} get pods -A", view.kubeconfig.display());
    }
    println!("  Look:     kutter status");
    println!("  Stop:     kutter down      (data stays)");
    println!("  Remove:   kutter delete    (nothing stays)");
}
