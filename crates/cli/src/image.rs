//! `kutter image`: bringing images to the local nodes of a cluster, from archives and registries, and listing
//! them.
//!
//! Nodes keep their images in files, so this works whether they run or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::config::PullRequest;
use oci::images::{Images, Record};
use oci::registry::keyring::Keyring;
use oci::runtime::{Error, ImageError};
use serde::Serialize;

use crate::commands::Image;
use crate::progress::Progress;
use crate::{CliError, Doing, Globals, Output, output};

/// Imports, pulls or lists.
pub async fn run(globals: &Globals, args: Image) -> Result<(), CliError> {
    match args {
        Image::Import { file, name, cluster } => {
            let stores = stores(globals, &cluster)?;
            let records = off(move || import(&stores, &file, name.as_deref())).await?;
            show(globals, &records)
        }
        Image::Pull { images, registries, cluster } => {
            let stores = stores(globals, &cluster)?;
            let rows = pull(globals, &stores, &images, &registries).await?;
            show(globals, &rows)
        }
        Image::List { cluster } => {
            let stores = stores(globals, &cluster)?;
            let rows = off(move || list(&stores)).await?;
            show(globals, &rows)
        }
    }
}

/// An image and the nodes that have it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    id: String,
    size: u64,
    nodes: Vec<String>,
}

/// The image folder of one local node.
#[derive(Debug, Clone)]
pub struct Store {
    /// Name of the node.
    pub node: String,
    /// Folder of its runtime.
    pub dir: PathBuf,
}

/// The image folders of a cluster's local nodes.
pub fn stores(globals: &Globals, cluster: &str) -> Result<Vec<Store>, CliError> {
    let nodes = globals.data_dir.join("clusters").join(cluster).join("nodes");
    let entries = std::fs::read_dir(&nodes)
        .doing(format!("list the nodes of cluster {cluster}; is there one? see `kutter status`"))?;
    let mut stores: Vec<Store> = entries
        .flatten()
        .map(|e| Store { node: e.file_name().to_string_lossy().into_owned(), dir: e.path().join("runtime") })
        .filter(|s| s.dir.is_dir())
        .collect();
    stores.sort_by(|a, b| a.node.cmp(&b.node));
    if stores.is_empty() {
        return Err(CliError::told(format!(
            "cluster {cluster} has no local node: start it with `kutter up`"
        )));
    }
    Ok(stores)
}

/// Runs blocking work off the event loop.
pub async fn off<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.doing("work in the background")?
}

/// Opens the images of one node.
pub fn open(store: &Store) -> Result<Images, CliError> {
    Images::open(&store.dir).doing(format!("open the images of node {}", store.node))
}

fn import(stores: &[Store], file: &Path, name: Option<&str>) -> Result<Vec<Row>, CliError> {
    let mut rows = BTreeMap::new();
    for store in stores {
        let what = format!("import {} to node {}", file.display(), store.node);
        for record in open(store)?.import(file, name).doing(what)? {
            add(&mut rows, &record, &store.node);
        }
    }
    Ok(rows.into_values().collect())
}

async fn pull(
    globals: &Globals,
    stores: &[Store],
    images: &[String],
    registries: &Path,
) -> Result<Vec<Row>, CliError> {
    let all = stores.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let keyring = keyring()?;
    let mut rows = BTreeMap::new();
    let mut progress = Progress::new(globals.output == Output::Json);
    for image in images {
        progress.step(&format!("pull {image}"));
        // Several credentials may be for the same registry; whatever none of them gets is asked for without.
        let mut tries: Vec<_> = keyring.lookup(image).into_iter().map(Some).collect();
        tries.push(None);
        let mut refused = None;
        let mut pulled = None;
        for auth in tries {
            let request = PullRequest { reference: image.clone(), auth };
            match one(&progress, &all, &request, registries).await {
                Ok(record) => {
                    pulled = Some(record);
                    break;
                }
                Err(error @ Error::Image(ImageError::Unauthorized { .. } | ImageError::NotFound { .. })) => {
                    refused.get_or_insert(error);
                }
                other => {
                    other.doing(format!("pull {image}"))?;
                }
            }
        }
        let record = match (pulled, refused) {
            (Some(record), _) => record,
            (None, Some(error)) => return Err(error).doing(format!("pull {image}")),
            (None, None) => continue,
        };
        for store in stores {
            add(&mut rows, &record, &store.node);
        }
    }
    progress.finish();
    Ok(rows.into_values().collect())
}

/// Pulls while saying how far it is.
async fn one(
    progress: &Progress,
    stores: &[Images],
    request: &PullRequest,
    registries: &Path,
) -> Result<Record, Error> {
    let (to, mut steps) = tokio::sync::mpsc::channel(16);
    let limits = oci::registry::Limits::default();
    let pull = oci::registry::pull(stores, Some(registries), limits, request, Some(to));
    let tell = async {
        while let Some(step) = steps.recv().await {
            let (done, total) = (step.done as f64 / 1e6, step.total as f64 / 1e6);
            let (ready, layers) = (step.layers_done, step.layers);
            progress.remark(&format!("{done:.1} of {total:.1} MB, {ready} of {layers} layers"));
        }
    };
    tokio::join!(pull, tell).0
}

/// What `docker login` left.
fn keyring() -> Result<Keyring, CliError> {
    let mut keyring = Keyring::default();
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".docker"));
    let Some(dir) = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or(home) else { return Ok(keyring) };
    let path = dir.join("config.json");
    match std::fs::read(&path) {
        Ok(bytes) => keyring.add_config(&bytes).doing(format!("read {}", path.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => {
            other.doing(format!("read {}", path.display()))?;
        }
    }
    Ok(keyring)
}

fn list(stores: &[Store]) -> Result<Vec<Row>, CliError> {
    let mut rows = BTreeMap::new();
    for store in stores {
        for record in open(store)?.list().doing(format!("list the images of node {}", store.node))? {
            add(&mut rows, &record, &store.node);
        }
    }
    Ok(rows.into_values().collect())
}

fn add(rows: &mut BTreeMap<(String, String), Row>, record: &Record, node: &str) {
    let names = if record.tags.is_empty() { &record.digests } else { &record.tags };
    let name = names.join(",");
    let key = (name.clone(), record.id.clone());
    let row = Row { name, id: record.id.clone(), size: record.size, nodes: Vec::new() };
    rows.entry(key).or_insert(row).nodes.push(node.to_owned());
}

fn show(globals: &Globals, rows: &[Row]) -> Result<(), CliError> {
    if globals.output == Output::Json {
        return output::json(&rows);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let id: String = r.id.trim_start_matches("sha256:").chars().take(12).collect();
            let size = format!("{:.1} MB", r.size as f64 / 1e6);
            vec![r.name.clone(), id, size, r.nodes.join(",")]
        })
        .collect();
    print!("{}", output::table(&["NAME", "ID", "SIZE", "NODES"], &cells));
    Ok(())
}
