//! ConfigMaps and Secrets that pods refer to.
//!
//! One watch per object that pods of this node use, shared by all of them and gone with the last. What is immutable,
//! and the authority's ConfigMap that every pod has, is read without a watch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Cache, Client, Kind, ListOptions};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// Called with the uid of a pod one of whose objects changed.
pub type Waker = Arc<dyn Fn(&str) + Send + Sync>;

/// The ConfigMap with the cluster's authority, in every namespace.
const ROOT_CA: &str = "kube-root-ca.crt";

type Name = (String, String);

struct Held<K: Kind> {
    users: Arc<Mutex<HashSet<String>>>,
    cache: Arc<OnceCell<Source<K>>>,
}

enum Source<K: Kind> {
    Fixed(Arc<K>),
    Watched(Cache<K>),
}

/// Objects of one kind.
struct Table<K: Kind> {
    client: Client,
    held: Mutex<HashMap<Name, Held<K>>>,
    waker: Waker,
    fixed: fn(&K) -> bool,
}

impl<K: Kind> Table<K> {
    async fn get(&self, user: &str, namespace: &str, name: &str) -> Result<Option<Arc<K>>, client::Error> {
        let key = (namespace.to_string(), name.to_string());
        let (users, cell) = {
            let mut held = self.held.lock();
            let entry = held
                .entry(key)
                .or_insert_with(|| Held { users: Arc::default(), cache: Arc::new(OnceCell::new()) });
            entry.users.lock().insert(user.to_string());
            (entry.users.clone(), entry.cache.clone())
        };
        let source = cell.get_or_try_init(|| self.open(namespace, name, users)).await?;
        Ok(match source {
            Source::Fixed(object) => Some(object.clone()),
            Source::Watched(cache) => cache.get(namespace, name),
        })
    }

    async fn open(
        &self,
        namespace: &str,
        name: &str,
        users: Arc<Mutex<HashSet<String>>>,
    ) -> Result<Source<K>, client::Error> {
        if let Some(object) = self.client.find::<K>(namespace, name).await?
            && (self.fixed)(&object)
        {
            return Ok(Source::Fixed(Arc::new(object)));
        }
        let options = ListOptions::default().field("metadata.name", name);
        let cache = Cache::<K>::builder(self.client.clone()).namespace(namespace).options(options).start();
        cache.synced().await;
        let waker = self.waker.clone();
        cache.hook(move |_| {
            for user in users.lock().iter() {
                waker(user);
            }
        });
        Ok(Source::Watched(cache))
    }

    fn release(&self, user: &str) {
        self.held.lock().retain(|_, h| {
            let mut users = h.users.lock();
            users.remove(user);
            !users.is_empty()
        });
    }
}

/// ConfigMaps and Secrets in use on this node.
pub struct Refs {
    maps: Table<ConfigMap>,
    secrets: Table<Secret>,
}

impl Refs {
    /// Reads through `client`; `waker` is told whose objects changed.
    pub fn new(client: Client, waker: Waker) -> Refs {
        Refs {
            maps: Table {
                client: client.clone(),
                held: Mutex::default(),
                waker: waker.clone(),
                fixed: |m| m.immutable == Some(true) || m.metadata.name.as_deref() == Some(ROOT_CA),
            },
            secrets: Table { client, held: Mutex::default(), waker, fixed: |s| s.immutable == Some(true) },
        }
    }

    /// A ConfigMap, for the pod with uid `user`.
    pub async fn config_map(
        &self,
        user: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, client::Error> {
        self.maps.get(user, namespace, name).await
    }

    /// A Secret, for the pod with uid `user`.
    pub async fn secret(
        &self,
        user: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Secret>>, client::Error> {
        self.secrets.get(user, namespace, name).await
    }

    /// The pod is gone: watches that only it needed end.
    pub fn release(&self, user: &str) {
        self.maps.release(user);
        self.secrets.release(user);
    }
}
