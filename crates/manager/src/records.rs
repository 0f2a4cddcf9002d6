//! The manager's own state in the embedded store: one table of clusters, one of node pools.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fleet::{Cluster, NodePool};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{Draft, Index, Key, Precondition, Range, Store, StoreError, Write};

use crate::ManagerError;

const CLUSTERS: &str = "fleet/clusters";
const POOLS: &str = "fleet/nodepools";
/// Every record begins with this; the store fills in the revision between the quotes.
const HEAD: &str = r#"{"resourceVersion":"","#;
const HOLE: u32 = 20;

/// Durable records of what users want.
pub struct Records {
    store: Arc<dyn Store>,
}

impl Records {
    /// Opens or creates the records below `dir`.
    pub fn open(dir: &Path) -> Result<Records, ManagerError> {
        let store = store::Embedded::open(dir, store::Options::default())?;
        Ok(Records { store })
    }

    /// Every cluster, by name.
    pub fn clusters(&self) -> Vec<Cluster> {
        self.all(CLUSTERS)
    }

    /// Every node pool, by cluster and name.
    pub fn pools(&self) -> Vec<NodePool> {
        self.all(POOLS)
    }

    /// Keeps the cluster; durable on return.
    pub async fn put_cluster(&self, cluster: &Cluster) -> Result<(), ManagerError> {
        self.put(key(CLUSTERS, "", &cluster.name), cluster).await
    }

    /// Keeps the pool; durable on return.
    pub async fn put_pool(&self, pool: &NodePool) -> Result<(), ManagerError> {
        self.put(key(POOLS, &pool.cluster, &pool.name), pool).await
    }

    /// Forgets a pool.
    pub async fn delete_pool(&self, cluster: &str, name: &str) -> Result<(), ManagerError> {
        self.delete(key(POOLS, cluster, name)).await
    }

    /// Forgets a cluster and its pools.
    pub async fn delete_cluster(&self, name: &str) -> Result<(), ManagerError> {
        for pool in self.pools().iter().filter(|p| p.cluster == name) {
            self.delete_pool(name, &pool.name).await?;
        }
        self.delete(key(CLUSTERS, "", name)).await
    }

    fn all<T: DeserializeOwned>(&self, table: &str) -> Vec<T> {
        let snapshot = self.store.snapshot(table);
        let parse = |object: &Arc<store::Object>| match serde_json::from_slice(&object.json) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::error!(key = ?object.key, %error, "a record cannot be read and is left alone");
                None
            }
        };
        snapshot.iter(&Range::default()).filter_map(parse).collect()
    }

    async fn put(&self, key: Key, record: &impl Serialize) -> Result<(), ManagerError> {
        let body = serde_json::to_string(record).map_err(|e| ManagerError::BadRequest(e.to_string()))?;
        let bytes = Bytes::from(format!("{HEAD}{}", &body[1..]));
        let draft = Draft { bytes, hole: HOLE, index: Index::default() };
        self.write(key, Some(draft)).await
    }

    async fn delete(&self, key: Key) -> Result<(), ManagerError> {
        match self.write(key, None).await {
            Err(ManagerError::Store(StoreError::Conflict { current: None, .. })) => Ok(()),
            other => other,
        }
    }

    async fn write(&self, key: Key, value: Option<Draft>) -> Result<(), ManagerError> {
        let write = Write { key, precondition: Precondition::None, value, last: None };
        self.store.write(write).await.map(drop).map_err(ManagerError::from)
    }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn records_survive_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::new("default", &[], &[]).unwrap();
        let pool = NodePool::new("default", "pool", 2, &[]).unwrap();
        {
            let records = Records::open(dir.path()).unwrap();
            records.put_cluster(&cluster).await.unwrap();
            records.put_pool(&pool).await.unwrap();
        }
        let records = Records::open(dir.path()).unwrap();
        assert_eq!(records.clusters(), [cluster]);
        assert_eq!(records.pools(), [pool]);
        records.delete_cluster("default").await.unwrap();
        records.delete_cluster("default").await.unwrap();
        assert!(records.clusters().is_empty() && records.pools().is_empty());
    }
}
