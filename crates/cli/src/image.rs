//! `kutter image`: bringing images to the local nodes of a cluster, and listing them.
//!
//! Nodes keep their images in files, so this works whether they run or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::images::{Images, Record};
use serde::Serialize;

use crate::commands::Image;
use crate::{CliError, Doing, Globals, Output, output};

/// Imports or lists.
pub async fn run(globals: &Globals, args: Image) -> Result<(), CliError> {
    match args {
        Image::Import { file, name, cluster } => {
            let stores = stores(globals, &cluster)?;
            let records = off(move || import(&stores, &file, name.as_deref())).await?;
            show(globals, &records)
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
