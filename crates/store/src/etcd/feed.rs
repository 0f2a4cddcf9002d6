//! Feeds the tables from etcd: one list, then one watch, begun again wherever it broke off.

use std::sync::Arc;
use std::time::Duration;

use super::client::told;
use super::proto::{
    CompactionRequest, CompactionResponse, DELETED, RangeRequest, RangeResponse, WatchCreate, WatchEvent,
    WatchRequest,
};
use super::{Inner, names, unavailable};
use crate::api::{Object, StoreError};
use crate::codec::Interner;
use crate::memory::{Change, To, realize};

/// Objects per page of the first list.
const PAGE: i64 = 500;
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// Why a watch ended.
enum Ended {
    /// etcd no longer has what comes next: list again.
    Compacted,
    /// Anything else: watch again.
    Broken(StoreError),
}

/// Lists everything into the tables.
pub(super) async fn load(inner: &Inner) -> Result<(), StoreError> {
    let (mut key, range_end) = inner.prefix.range();
    let mut interner = Interner::default();
    let mut objects: Vec<Arc<Object>> = Vec::new();
    let mut revision = 0;
    loop {
        let request = RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            limit: PAGE,
            revision,
            count_only: false,
        };
        let page: RangeResponse =
            inner.client.call("/etcdserverpb.KV/Range", request).await.map_err(|status| told(&status))?;
        if revision == 0 {
            revision = page.header.as_ref().map_or(0, |header| header.revision);
        }
        for kv in &page.kvs {
            if kv.key == inner.prefix.mark() {
                continue;
            }
            let foreign = |why: &str| {
                let key = String::from_utf8_lossy(&kv.key);
                unavailable(format!("{key} was not written by Kutter ({why}); choose another prefix"))
            };
            let name =
                inner.prefix.key(&kv.key, &mut interner).ok_or_else(|| foreign("unknown form of name"))?;
            let value = names::decode(&name, &kv.value, &inner.keys, &mut interner);
            let (draft, expires) = value.map_err(|error| foreign(&error.to_string()))?;
            let (created, modified) = (kv.create_revision as u64, kv.mod_revision as u64);
            objects.push(Arc::new(realize(name, draft, created, modified, expires)));
        }
        match page.kvs.last() {
            Some(last) if page.more => key = [&last.key[..], &[0]].concat(),
            _ => break,
        }
    }
    inner.memory.reset(objects, revision as u64);
    Ok(())
}

/// Keeps the tables up to date for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let before = inner.memory.revision();
        let mut ended = watch(&inner).await;
        if matches!(ended, Ended::Compacted) {
            tracing::warn!("etcd has compacted what comes after {before}; listing again, watches start anew");
            match load(&inner).await {
                Ok(()) => continue,
                Err(error) => ended = Ended::Broken(error),
            }
        }
        if let Ended::Broken(error) = ended {
            tracing::warn!("watch of etcd broke off, trying again: {error}");
        }
        if inner.memory.revision() > before {
            backoff = BACKOFF_FIRST;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MOST);
    }
}

async fn watch(inner: &Inner) -> Ended {
    let (key, range_end) = inner.prefix.range();
    let start_revision = inner.memory.revision() as i64 + 1;
    let create = WatchCreate { key, range_end, start_revision, progress_notify: true };
    let mut stream = match inner.client.watch(WatchRequest { create: Some(create) }).await {
        Ok(stream) => stream,
        Err(status) => return Ended::Broken(told(&status)),
    };
    let mut interner = Interner::default();
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return Ended::Broken(unavailable("stream ended")),
            Err(status) => return Ended::Broken(told(&status)),
        };
        if response.compact_revision > 0 {
            return Ended::Compacted;
        }
        if response.canceled {
            return Ended::Broken(unavailable(format!("watch was cancelled: {}", response.cancel_reason)));
        }
        let Some(last) = response.events.last().and_then(|event| event.kv.as_ref()) else {
            // On its own a header is only progress: etcd sends it to watchers that have everything up to it.
            if let Some(header) = response.header.filter(|_| !response.created) {
                inner.memory.raise(header.revision as u64);
            }
            continue;
        };
        let revision = last.mod_revision as u64;
        let changes =
            response.events.iter().filter_map(|event| change(inner, event, &mut interner)).collect();
        inner.memory.publish(changes, revision);
    }
}

fn change(inner: &Inner, event: &WatchEvent, interner: &mut Interner) -> Option<Change> {
    let kv = event.kv.as_ref()?;
    if kv.key == inner.prefix.mark() {
        return None;
    }
    let named = inner.prefix.key(&kv.key, interner);
    let Some(key) = named else {
        tracing::error!("ignored {} in etcd: unknown form of name", String::from_utf8_lossy(&kv.key));
        return None;
    };
    let revision = kv.mod_revision as u64;
    if event.kind == DELETED {
        let last = inner.last_state(&key);
        return Some(Change { key, revision, to: To::Delete { last } });
    }
    match names::decode(&key, &kv.value, &inner.keys, interner) {
        Ok((draft, expires)) => {
            let created = Some(kv.create_revision as u64);
            Some(Change { key, revision, to: To::Put { draft, expires, created } })
        }
        Err(error) => {
            tracing::error!("ignored {} in etcd: {error}", String::from_utf8_lossy(&kv.key));
            None
        }
    }
}

/// Lets etcd forget what is older than one interval.
pub(super) async fn compact(inner: Arc<Inner>, every: Duration) {
    loop {
        let revision = inner.memory.revision() as i64;
        tokio::time::sleep(every).await;
        inner.memory.age();
        let request = CompactionRequest { revision };
        let done: Result<CompactionResponse, _> =
            inner.client.call("/etcdserverpb.KV/Compact", request).await;
        // Another server on the same etcd may have been first.
        if let Err(status) = done
            && status.code() != tonic::Code::OutOfRange
        {
            tracing::warn!("compaction of etcd: {}", told(&status));
        }
    }
}
