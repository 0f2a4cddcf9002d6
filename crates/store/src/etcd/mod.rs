//! The replicated store: etcd v3 keeps the data, the same in-memory tables serve reads and watches.
//!
//! A write is one transaction that compares the revision; it is answered when the tables have reached it, so
//! that every client reads its own writes. Everything else comes through one watch.

mod client;
mod feed;
mod names;
mod proto;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use self::client::{Client, told};
use self::names::Prefix;
use self::proto::{
    AlarmRequest, AlarmResponse, Compare, DeleteRangeRequest, EQUAL, GREATER, LeaseGrantRequest,
    LeaseGrantResponse, MOD, NO_SPACE, Operation, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use crate::api::{Draft, Key, Object, Pending, Precondition, Snapshot, Store, StoreError, Watch, Write};
use crate::memory::{History, Memory};
use crate::seal::Keyring;

/// Objects that share a lease at most.
const LEASED_MAX: u32 = 1000;
/// How long a read or write waits for the watch to catch up with what etcd has.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// After this the revision is pushed on by a write of our own.
const NUDGE_FIRST: Duration = Duration::from_millis(50);
const NUDGE_MOST: Duration = Duration::from_secs(2);
/// How often etcd is asked whether it is there, and how long it may take to answer.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(2);

const FULL: &str = "etcd: its database has no space; compact and defragment it, then disarm its alarm";

/// TLS towards etcd.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates of the authorities that are trusted, PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// Own certificate and key, PEM.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// How etcd is used.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// What all keys start with.
    pub prefix: String,
    /// The keys file that seals secret values; made if it does not exist. Servers on one etcd share it.
    pub keys: PathBuf,
    /// Resources whose values are sealed.
    pub secret: Vec<String>,
    /// What is kept for watchers.
    pub history: History,
    /// TLS, for `https` endpoints.
    pub tls: Option<Tls>,
    /// How long etcd keeps history; `None` leaves compaction to others.
    pub compact_every: Option<Duration>,
}

impl EtcdOptions {
    /// The usual options with this keys file.
    pub fn new(keys: impl Into<PathBuf>) -> Self {
        Self {
            prefix: "/registry".into(),
            keys: keys.into(),
            secret: vec!["core/secrets".into()],
            history: History::default(),
            tls: None,
            compact_every: Some(Duration::from_secs(300)),
        }
    }
}

fn unavailable(why: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("etcd: {why}"))
}

/// A lease of etcd and what hangs on it.
struct Lease {
    id: i64,
    objects: u32,
}

struct Inner {
    memory: Memory,
    client: Client,
    keys: Keyring,
    prefix: Prefix,
    /// States to show in deletion events that are on their way. etcd cannot carry them, so only watchers of this
    /// server see them; others see the stored state, as with upstream.
    last: Mutex<HashMap<Key, Draft>>,
    /// By the second at which they end.
    leases: tokio::sync::Mutex<BTreeMap<u64, Lease>>,
    /// Why writes are refused, as far as is known.
    failed: Mutex<Option<String>>,
    /// A write was refused for want of space.
    full: AtomicBool,
}

impl Inner {
    fn last_state(&self, key: &Key) -> Option<Draft> {
        self.last.lock().remove(key)
    }

    /// A lease that ends at `expires` or a little later.
    async fn lease(&self, expires: u64) -> Result<i64, StoreError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let remaining = expires.saturating_sub(now).max(1);
        // Objects that expire close together share a lease: each costs etcd memory.
        let end = (now + remaining).next_multiple_of((remaining / 20).clamp(1, 60));
        let mut leases = self.leases.lock().await;
        let live = leases.split_off(&now);
        *leases = live;
        if let Some(lease) = leases.get_mut(&end).filter(|lease| lease.objects < LEASED_MAX) {
            lease.objects += 1;
            return Ok(lease.id);
        }
        let request = LeaseGrantRequest { ttl_seconds: i64::try_from(end - now).unwrap_or(i64::MAX) };
        let granted: LeaseGrantResponse = self
            .client
            .call("/etcdserverpb.Lease/LeaseGrant", request)
            .await
            .map_err(|status| told(&status))?;
        leases.insert(end, Lease { id: granted.id, objects: 1 });
        Ok(granted.id)
    }

    async fn write(&self, write: Write, expires: Option<u64>) -> Result<Arc<Object>, StoreError> {
        let Write { key, precondition, value, last } = write;
        let path = self.prefix.path(&key);
        let compare = |result: i32, revision: u64| Compare {
            result,
            target: MOD,
            key: path.clone(),
            mod_revision: Some(i64::try_from(revision).unwrap_or(i64::MAX)),
        };
        let compare = match (precondition, &value) {
            (Precondition::Absent, Some(_)) => vec![compare(EQUAL, 0)],
            // Nothing that is absent can be deleted.
            (Precondition::Absent, None) => {
                let current = self.memory.get(&key);
                return Err(StoreError::Conflict { key, current });
            }
            (Precondition::Revision(revision), _) => vec![compare(EQUAL, revision), compare(GREATER, 0)],
            (Precondition::None, Some(_)) => Vec::new(),
            (Precondition::None, None) => vec![compare(GREATER, 0)],
        };
        let operation = match &value {
            Some(draft) => {
                let value = names::encode(&key, draft, expires, &self.keys).map_err(unavailable)?;
                let lease = match expires {
                    Some(expires) => self.lease(expires).await?,
                    None => 0,
                };
                Operation::Put(PutRequest { key: path.clone(), value, lease })
            }
            None => Operation::Delete(DeleteRangeRequest { key: path.clone() }),
        };
        let shown = last.is_some();
        if let Some(last) = last {
            self.last.lock().insert(key.clone(), last);
        }
        let request = TxnRequest { compare, success: vec![RequestOp { request: Some(operation) }] };
        let answer: Result<TxnResponse, _> = self.client.call("/etcdserverpb.KV/Txn", request).await;
        let done = match answer {
            Ok(answer) => {
                let revision = answer.header.map_or(0, |header| header.revision as u64);
                self.catch_up(revision, CATCH_UP_MAX).await.map(|_| (answer.succeeded, revision))
            }
            Err(status) => Err(match told(&status) {
                StoreError::NoSpace(text) => {
                    self.full.store(true, Ordering::Relaxed);
                    *self.failed.lock() = Some(text.clone());
                    StoreError::NoSpace(text)
                }
                StoreError::Unavailable(text) => {
                    StoreError::Unavailable(format!("{text}; the write may have happened"))
                }
                other => other,
            }),
        };
        if shown {
            self.last_state(&key);
        }
        match done? {
            (true, revision) => self.memory.version(&key, revision).ok_or_else(|| {
                unavailable(format!("revision {revision} was written, but is no longer known here"))
            }),
            (false, _) => {
                let current = self.memory.get(&key);
                Err(StoreError::Conflict { key, current })
            }
        }
    }

    /// Waits for the watch to reach a revision that etcd has. Keys of others move the revision without an event
    /// for us; then a write of our own, which follows everything, makes the watch move.
    async fn catch_up(&self, revision: u64, most: Duration) -> Result<u64, StoreError> {
        let start = tokio::time::Instant::now();
        let mut nudge = NUDGE_FIRST;
        loop {
            match tokio::time::timeout(nudge, self.memory.reach(revision)).await {
                Ok(reached) => return reached,
                Err(_) if start.elapsed() > most => {
                    let at = self.memory.revision();
                    return Err(unavailable(format!("still at revision {at}, waiting for {revision}")));
                }
                Err(_) => {}
            }
            if self.latest().await? >= revision {
                let put = PutRequest { key: self.prefix.mark(), value: Vec::new(), lease: 0 };
                let request = TxnRequest {
                    compare: Vec::new(),
                    success: vec![RequestOp { request: Some(Operation::Put(put)) }],
                };
                let _: TxnResponse = self
                    .client
                    .call("/etcdserverpb.KV/Txn", request)
                    .await
                    .map_err(|status| told(&status))?;
            }
            nudge = (nudge * 2).min(NUDGE_MOST);
        }
    }

    /// Notes again and again whether etcd takes writes.
    async fn look(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let found = tokio::time::timeout(LOOK_MAX, self.trouble()).await;
            let found =
                found.unwrap_or_else(|_| Some(format!("etcd: no answer in {} s", LOOK_MAX.as_secs())));
            let before = std::mem::replace(&mut *self.failed.lock(), found.clone());
            match (before, found) {
                (None, Some(text)) => tracing::error!("{text}; writes fail until this is mended"),
                (Some(_), None) => tracing::info!("etcd takes writes again"),
                _ => {}
            }
        }
    }

    /// Why etcd would not take a write. Without a quorum it does not answer, and only its alarms tell that a
    /// write which found no space would find it now.
    async fn trouble(&self) -> Option<String> {
        if let Err(error) = self.latest().await {
            return Some(error.to_string());
        }
        if !self.full.load(Ordering::Relaxed) {
            return None;
        }
        let answer: Result<AlarmResponse, _> =
            self.client.call("/etcdserverpb.Maintenance/Alarm", AlarmRequest {}).await;
        match answer {
            Err(status) => Some(told(&status).to_string()),
            Ok(answer) if answer.alarms.iter().any(|alarm| alarm.alarm == NO_SPACE) => Some(FULL.to_owned()),
            Ok(_) => {
                self.full.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    /// What the quorum has now.
    async fn latest(&self) -> Result<u64, StoreError> {
        let request =
            RangeRequest { key: self.prefix.mark(), limit: 1, count_only: true, ..RangeRequest::default() };
        let answer: RangeResponse =
            self.client.call("/etcdserverpb.KV/Range", request).await.map_err(|status| told(&status))?;
        Ok(answer.header.map_or(0, |header| header.revision as u64))
    }
}

/// A store in etcd.
pub struct Etcd {
    inner: Arc<Inner>,
    tasks: Vec<AbortHandle>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("revision", &self.inner.memory.revision()).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects to etcd at `endpoints` (URLs of one cluster) and loads everything under the prefix.
    pub async fn connect(endpoints: &[String], options: EtcdOptions) -> Result<Arc<Self>, StoreError> {
        let secret = options.secret.iter().map(String::as_str);
        let keys = Keyring::load(&options.keys, secret).map_err(unavailable)?;
        if keys.is_empty() && !options.secret.is_empty() {
            keys.add().and_then(|()| keys.save(&options.keys)).map_err(unavailable)?;
        }
        let inner = Arc::new(Inner {
            memory: Memory::new(options.history),
            client: Client::new(endpoints, &options)?,
            keys,
            prefix: Prefix::new(&options.prefix),
            last: Mutex::default(),
            leases: tokio::sync::Mutex::default(),
            failed: Mutex::default(),
            full: AtomicBool::new(false),
        });
        feed::load(&inner).await?;
        let mut tasks = vec![
            tokio::spawn(feed::run(inner.clone())).abort_handle(),
            tokio::spawn(inner.clone().look()).abort_handle(),
        ];
        if let Some(every) = options.compact_every {
            tasks.push(tokio::spawn(feed::compact(inner.clone(), every)).abort_handle());
        }
        Ok(Arc::new(Self { inner, tasks }))
    }

    /// Ends all watches and the connection.
    pub fn close(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        self.inner.memory.close();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for Etcd {
    fn revision(&self) -> u64 {
        self.inner.memory.revision()
    }

    fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.inner.memory.get(key)
    }

    fn snapshot(&self, resource: &str) -> Arc<dyn Snapshot> {
        self.inner.memory.snapshot(resource)
    }

    fn snapshot_at(&self, resource: &str, revision: u64) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.inner.memory.snapshot_at(resource, revision)
    }

    fn dependents(&self, uid: &str) -> Vec<Arc<Object>> {
        self.inner.memory.dependents(uid)
    }

    fn write(&self, write: Write) -> Pending<'_, Arc<Object>> {
        Box::pin(self.inner.write(write, None))
    }

    fn write_until(&self, write: Write, expires: u64) -> Pending<'_, Arc<Object>> {
        Box::pin(self.inner.write(write, Some(expires)))
    }

    fn reach(&self, revision: Option<u64>) -> Pending<'_, u64> {
        Box::pin(async move {
            match revision {
                Some(revision) if self.inner.memory.revision() >= revision => {
                    Ok(self.inner.memory.revision())
                }
                // The caller says how long to wait for a revision that may never come.
                Some(revision) => self.inner.catch_up(revision, Duration::MAX).await,
                None => {
                    let latest = self.inner.latest().await?;
                    self.inner.catch_up(latest, CATCH_UP_MAX).await
                }
            }
        })
    }

    fn watch(&self, resource: &str, revision: u64) -> Result<Box<dyn Watch>, StoreError> {
        self.inner.memory.watch(resource, revision)
    }

    fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        self.inner.memory.counts()
    }

    fn failure(&self) -> Option<String> {
        self.inner.failed.lock().clone()
    }
}
