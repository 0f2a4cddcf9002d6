//! `kutter demo`: a small web shop that shows what the cluster can do.

mod objects;
mod program;
mod tour;

use std::time::Duration;

use client::{Cache, Client, DeleteOptions};
use fleet::ClusterView;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Namespace;
use tokio::net::TcpStream;

use crate::commands::Demo;
use crate::manager::Manager;
use crate::progress::Progress;
use crate::{CliError, Doing, Globals, Output, image, kubeconfig};

const NAMESPACE: &str = "shop";
const HOST: &str = "shop.localhost";
/// What a page of the shop has in it.
const MARK: &str = "Kutter shop";
/// Between two looks at the page, which no watch can tell about.
const LOOK: Duration = Duration::from_millis(100);

/// Deploys or removes.
pub async fn run(globals: &Globals, args: Demo) -> Result<(), CliError> {
    let manager = Manager::running(globals).await?;
    match args {
        Demo::Deploy { cluster, timeout } => {
            let view = manager.cluster(&cluster).await?;
            deploy(globals, &view, Duration::from_secs(timeout)).await
        }
        Demo::Image { cluster } => {
            let stores = image::stores(globals, &cluster)?;
            let nodes: Vec<String> = stores.iter().map(|s| s.node.clone()).collect();
            image::off(move || program::install(&stores)).await?;
            println!("{} has the demo's image", nodes.join(", "));
            Ok(())
        }
        Demo::Tour { cluster, timeout, yes } => {
            let view = manager.cluster(&cluster).await?;
            tour::run(globals, &manager, &view, Duration::from_secs(timeout), !yes).await
        }
        Demo::Remove { cluster } => remove(&manager.cluster(&cluster).await?).await,
    }
}

/// Deploys the shop, waits until it answers and says where. What the cluster could not do is said, too.
pub async fn deploy(globals: &Globals, view: &ClusterView, timeout: Duration) -> Result<(), CliError> {
    let quiet = globals.output == Output::Json;
    let mut progress = Progress::new(quiet);
    progress.step("demo image");
    let stores = image::stores(globals, &view.name)?;
    image::off(move || program::install(&stores)).await?;
    progress.step("demo objects");
    let client = kubeconfig::client(view)?;
    let mut lacking = objects::apply(&client).await?;
    progress.step("demo ready");
    lacking.extend(wait_ready(&client, timeout).await);
    progress.step("demo page");
    let address = wait_page(view, timeout).await;
    let taken = progress.finish();
    for line in &lacking {
        eprintln!("  ✗ {line}");
    }
    let address = address?;
    if quiet {
        return Ok(());
    }
    println!("\nDemo is ready: {address}  ({:.2} s)", taken.as_secs_f64());
    Ok(())
}

async fn remove(view: &ClusterView) -> Result<(), CliError> {
    let client = kubeconfig::client(view)?;
    match client.delete::<Namespace>("", NAMESPACE, &DeleteOptions::default()).await {
        Ok(_) => println!("namespace {NAMESPACE} is being deleted"),
        Err(error) if error.is_not_found() => println!("the demo is not deployed"),
        Err(error) => return Err(error).doing("delete the demo's namespace"),
    }
    Ok(())
}

/// Waits on watches until every workload has all its pods ready; gives a line for each that has not.
async fn wait_ready(client: &Client, timeout: Duration) -> Vec<String> {
    let deployments = Cache::<Deployment>::builder(client.clone()).namespace(NAMESPACE).start();
    let sets = Cache::<StatefulSet>::builder(client.clone()).namespace(NAMESPACE).start();
    let waiting = async {
        deployments.synced().await;
        deployments.wait_until(|c| c.list(NAMESPACE).iter().all(|d| deployment_lacks(d).is_none())).await;
        sets.synced().await;
        sets.wait_until(|c| c.list(NAMESPACE).iter().all(|s| set_lacks(s).is_none())).await;
    };
    // What is missing when the time is up is told below.
    let _ = tokio::time::timeout(timeout, waiting).await;
    let mut lacking: Vec<String> =
        deployments.list(NAMESPACE).iter().filter_map(|d| deployment_lacks(d)).collect();
    lacking.extend(sets.list(NAMESPACE).iter().filter_map(|s| set_lacks(s)));
    lacking
}

fn deployment_lacks(d: &Deployment) -> Option<String> {
    let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    lacks("Deployment", d.metadata.name.as_deref(), wanted, ready)
}

fn set_lacks(s: &StatefulSet) -> Option<String> {
    let wanted = s.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let ready = s.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
    lacks("StatefulSet", s.metadata.name.as_deref(), wanted, ready)
}

fn lacks(kind: &str, name: Option<&str>, wanted: i32, ready: i32) -> Option<String> {
    let name = name.unwrap_or_default();
    (ready < wanted).then(|| {
        format!("{kind} {name}: {ready} of {wanted} ready; see `kubectl -n {NAMESPACE} describe pods`")
    })
}

/// Where on this machine the cluster's ingress answers.
fn door(view: &ClusterView) -> Result<String, CliError> {
    view.ingress.clone().ok_or_else(|| {
        CliError::told("no port of this machine leads to the cluster's ingress; see `kutter logs manager`")
    })
}

/// Asks for the page through the ingress until it comes.
async fn wait_page(view: &ClusterView, timeout: Duration) -> Result<String, CliError> {
    let door = door(view)?;
    let port = door.rsplit(':').next().unwrap_or("80");
    let address = if port == "80" { format!("http://{HOST}/") } else { format!("http://{HOST}:{port}/") };
    let mut last = String::from("no answer");
    let asking = async {
        loop {
            match page(&door).await {
                Ok(()) => return,
                Err(error) => last = error,
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(timeout, asking).await {
        Ok(()) => Ok(address),
        Err(_) => Err(CliError::told(format!("{address} does not show the shop: {last}"))),
    }
}

async fn page(door: &str) -> Result<(), String> {
    let text = ask(door, "/").await?;
    if text.contains(MARK) { Ok(()) } else { Err("another page".to_owned()) }
}

/// What the shop answers to a GET through the ingress.
async fn ask(door: &str, path: &str) -> Result<String, String> {
    let asking = async {
        let stream = TcpStream::connect(door).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let request = Request::builder().uri(path).header("host", HOST).body(Empty::<bytes::Bytes>::new());
        let response =
            sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(text) } else { Err(status.to_string()) }
    };
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, asking).await.unwrap_or_else(|_| Err("no answer within 5 s".into()))
}
