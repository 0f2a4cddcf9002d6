//! What every store must do, whatever it is made of. Each case gets a store of its own.

use std::sync::Arc;
use std::time::Duration;

use store::{Draft, EventKind, Index, Key, Object, Precondition, Range, Store, StoreError, Watch, Write};

pub fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

pub fn pod(name: &str) -> Key {
    key("core/pods", "default", name)
}

pub fn draft(text: &str) -> Draft {
    let head = r#"{"metadata":{"resourceVersion":""#;
    let bytes = format!(r#"{head}"}},"data":"{text}"}}"#).into();
    Draft {
        bytes,
        hole: head.len() as u32,
        index: Index { uid: format!("uid-{text}").into(), ..Index::default() },
    }
}

pub fn json(text: &str, revision: u64) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{revision}"}},"data":"{text}"}}"#)
}

pub fn put(key: &Key, precondition: Precondition, text: &str) -> Write {
    Write { key: key.clone(), precondition, value: Some(draft(text)), last: None }
}

pub fn delete(key: &Key, precondition: Precondition) -> Write {
    Write { key: key.clone(), precondition, value: None, last: None }
}

/// Copies a directory with all that is in it.
pub fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

async fn create(store: &dyn Store, key: &Key, text: &str) -> Arc<Object> {
    store.write(put(key, Precondition::Absent, text)).await.unwrap()
}

fn names(store: &dyn Store, range: &Range) -> Vec<String> {
    let view = store.snapshot("core/pods");
    view.iter(range).map(|object| format!("{}/{}", object.key.namespace, object.key.name)).collect()
}

/// The next `count` events as `(kind, name, revision)`.
async fn events(watch: &mut Box<dyn Watch>, count: usize) -> Vec<(EventKind, String, u64)> {
    let mut out = Vec::new();
    while out.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next(count - out.len()));
        let (events, progress) = next.await.expect("an event within 20 s").unwrap();
        let newest = events.last().unwrap().object.modified;
        assert!(progress + 1 >= newest, "progress {progress} after an event of {newest}");
        out.extend(events.iter().map(|e| (e.kind, e.object.key.name.to_string(), e.object.modified)));
    }
    out
}

pub async fn writes_are_read_back(store: Arc<dyn Store>) {
    let start = store.revision();
    let made = create(&*store, &pod("a"), "one").await;
    assert!(made.modified > start && made.created == made.modified);
    assert_eq!(made.json, json("one", made.modified));
    assert_eq!(&*made.index.uid, "uid-one");
    let read = store.get(&pod("a")).unwrap();
    assert_eq!((read.json.clone(), read.modified), (made.json.clone(), made.modified));
    let changed = store.write(put(&pod("a"), Precondition::Revision(made.modified), "two")).await.unwrap();
    assert_eq!(changed.json, json("two", changed.modified));
    assert!(changed.modified > made.modified && changed.created == made.created);
    let gone = store.write(delete(&pod("a"), Precondition::None)).await.unwrap();
    assert_eq!(gone.json, json("two", gone.modified));
    assert!(store.get(&pod("a")).is_none() && store.revision() >= gone.modified);
    let again = create(&*store, &pod("a"), "three").await;
    assert_eq!(again.created, again.modified);
}

pub async fn preconditions_hold(store: Arc<dyn Store>) {
    let refused = |result: Result<Arc<Object>, StoreError>| match result {
        Err(StoreError::Conflict { current, .. }) => current.map(|object| object.modified),
        other => panic!("expected a conflict, got {other:?}"),
    };
    assert_eq!(refused(store.write(put(&pod("a"), Precondition::Revision(1), "x")).await), None);
    assert_eq!(refused(store.write(delete(&pod("a"), Precondition::None)).await), None);
    let made = create(&*store, &pod("a"), "one").await;
    let now = Some(made.modified);
    assert_eq!(refused(store.write(put(&pod("a"), Precondition::Absent, "x")).await), now);
    let stale = Precondition::Revision(made.modified + 7);
    assert_eq!(refused(store.write(put(&pod("a"), stale, "x")).await), now);
    assert_eq!(refused(store.write(delete(&pod("a"), stale)).await), now);
    assert_eq!(refused(store.write(delete(&pod("a"), Precondition::Absent)).await), now);
    let over = store.write(put(&pod("a"), Precondition::None, "two")).await.unwrap();
    assert_eq!(over.created, made.created);
    store.write(delete(&pod("a"), Precondition::Revision(over.modified))).await.unwrap();
}

pub async fn one_of_many_creators_wins(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(
                async move { store.write(put(&pod("same"), Precondition::Absent, &n.to_string())).await },
            )
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(StoreError::Conflict { current, .. }) => assert!(current.is_some()),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(won, 1);
}

/// Many tasks add one to a counter by compare-and-swap; no addition may be lost.
pub async fn compare_and_swap_counts(store: Arc<dyn Store>) {
    create(&*store, &pod("n"), "0").await;
    let add = |store: Arc<dyn Store>| async move {
        for _ in 0..20 {
            loop {
                let now = store.get(&pod("n")).unwrap();
                let count: u32 = now.index.uid.strip_prefix("uid-").unwrap().parse().unwrap();
                let write = put(&pod("n"), Precondition::Revision(now.modified), &(count + 1).to_string());
                match store.write(write).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(add(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(&*store.get(&pod("n")).unwrap().index.uid, "uid-160");
}

pub async fn lists_are_ordered_and_ranged(store: Arc<dyn Store>) {
    for (namespace, name) in [("b", "2"), ("a", "9"), ("b", "1"), ("c", "1"), ("a", "1"), ("b-x", "1")] {
        create(&*store, &key("core/pods", namespace, name), "x").await;
    }
    create(&*store, &key("core/services", "b", "other"), "x").await;
    let all = Range::default();
    assert_eq!(names(&*store, &all), ["a/1", "a/9", "b/1", "b/2", "b-x/1", "c/1"]);
    let only = Range { namespace: Some("b".into()), after: None };
    assert_eq!(names(&*store, &only), ["b/1", "b/2"]);
    let rest = Range { namespace: Some("b".into()), after: Some(("b".into(), "1".into())) };
    assert_eq!(names(&*store, &rest), ["b/2"]);
    let after = Range { namespace: None, after: Some(("b".into(), "2".into())) };
    assert_eq!(names(&*store, &after), ["b-x/1", "c/1"]);
    let early = Range { namespace: Some("b".into()), after: Some(("a".into(), "1".into())) };
    assert_eq!(names(&*store, &early), ["b/1", "b/2"]);
    assert_eq!(store.snapshot("core/pods").len(), 6);
    assert!(store.snapshot("core/none").is_empty());
    let counts = store.counts();
    assert_eq!((counts.get("core/pods"), counts.get("core/services")), (Some(&6), Some(&1)));
}

pub async fn snapshots_of_the_past_stay(store: Arc<dyn Store>) {
    let texts = |view: &dyn store::Snapshot| -> Vec<String> {
        view.iter(&Range::default()).map(|object| String::from_utf8(object.json.to_vec()).unwrap()).collect()
    };
    let a = create(&*store, &pod("a"), "1").await;
    let b = create(&*store, &pod("b"), "1").await;
    let kept = store.snapshot("core/pods");
    let then = b.modified;
    store.write(put(&pod("a"), Precondition::None, "2")).await.unwrap();
    store.write(delete(&pod("b"), Precondition::None)).await.unwrap();
    create(&*store, &pod("c"), "1").await;
    create(&*store, &pod("b"), "2").await;
    let expected = [json("1", a.modified), json("1", b.modified)];
    assert_eq!(texts(&*kept), expected);
    for _ in 0..2 {
        let past = store.snapshot_at("core/pods", then).unwrap();
        assert_eq!(past.revision(), then);
        assert_eq!(texts(&*past), expected);
    }
    assert_eq!(texts(&*store.snapshot_at("core/pods", a.modified).unwrap()), expected[..1]);
    let now = store.snapshot("core/pods");
    assert_eq!(now.len(), 3);
    let ahead = store.snapshot_at("core/pods", store.revision() + 1000);
    assert!(matches!(ahead, Err(StoreError::Future { .. })));
}

pub async fn watches_see_everything_after(store: Arc<dyn Store>) {
    use EventKind::{Created, Deleted, Updated};
    let a = create(&*store, &pod("a"), "1").await;
    let mut late = store.watch("core/pods", a.modified).unwrap();
    let mut early = store.watch("core/pods", a.modified - 1).unwrap();
    let two = store.write(put(&pod("a"), Precondition::None, "2")).await.unwrap();
    create(&*store, &key("core/services", "x", "y"), "1").await;
    let mut gone = delete(&pod("a"), Precondition::None);
    gone.last = Some(draft("final"));
    let gone = store.write(gone).await.unwrap();
    let name = |kind, revision| (kind, "a".to_string(), revision);
    let after = [name(Updated, two.modified), name(Deleted, gone.modified)];
    assert_eq!(events(&mut late, 2).await, after);
    let mut all = vec![name(Created, a.modified)];
    all.extend(after);
    assert_eq!(events(&mut early, 3).await, all);
    assert!(late.progress() >= gone.modified);
    let mut shown = store.watch("core/pods", two.modified).unwrap();
    let (last, _) = shown.next(10).await.unwrap();
    assert_eq!(last[0].object.json, json("final", gone.modified));
    assert_eq!(last[0].previous.as_ref().unwrap().json, json("2", two.modified));
    let ahead = store.watch("core/pods", store.revision() + 1000);
    assert!(matches!(ahead.err(), Some(StoreError::Future { .. })));
}

pub async fn quiet_tables_make_progress(store: Arc<dyn Store>) {
    let watch = store.watch("apps/deployments", store.revision()).unwrap();
    let made = create(&*store, &pod("a"), "1").await;
    assert!(watch.progress() >= made.modified);
    let mut waiting = store.watch("apps/deployments", made.modified).unwrap();
    let nothing = tokio::time::timeout(Duration::from_millis(50), waiting.next(1)).await;
    assert!(nothing.is_err());
}

/// Many watchers under concurrent writers: each sees every event once, in order.
pub async fn many_watchers_see_the_same(store: Arc<dyn Store>) {
    let start = store.revision();
    let watchers: Vec<_> = (0..100)
        .map(|_| {
            let mut watch = store.watch("core/pods", start).unwrap();
            tokio::spawn(async move { events(&mut watch, 200).await })
        })
        .collect();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..25 {
                    create(&*store, &pod(&format!("{writer}-{n}")), "x").await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let mut first: Option<Vec<_>> = None;
    for watcher in watchers {
        let seen = watcher.await.unwrap();
        assert!(seen.windows(2).all(|pair| pair[0].2 < pair[1].2));
        assert_eq!(*first.get_or_insert_with(|| seen.clone()), seen);
    }
}

pub async fn owners_are_indexed(store: Arc<dyn Store>) {
    let owned = |name: &str, owner: &str, precondition| {
        let mut write = put(&pod(name), precondition, "x");
        write.value.as_mut().unwrap().index.owners = [owner.into()].into();
        write
    };
    store.write(owned("a", "u1", Precondition::Absent)).await.unwrap();
    store.write(owned("b", "u1", Precondition::Absent)).await.unwrap();
    let names = |uid: &str| -> Vec<String> {
        store.dependents(uid).iter().map(|object| object.key.name.to_string()).collect()
    };
    assert_eq!(names("u1"), ["a", "b"]);
    store.write(owned("a", "u2", Precondition::None)).await.unwrap();
    store.write(delete(&pod("b"), Precondition::None)).await.unwrap();
    assert_eq!((names("u1").len(), names("u2")), (0, vec!["a".to_string()]));
}

pub async fn expired_objects_go(store: Arc<dyn Store>) {
    let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 2;
    let mut watch = store.watch("core/pods", store.revision()).unwrap();
    let event = store.write_until(put(&pod("event"), Precondition::Absent, "x"), soon).await.unwrap();
    assert_eq!(event.expires, Some(soon));
    let kept = store.write_until(put(&pod("kept"), Precondition::Absent, "x"), soon).await.unwrap();
    store.write(put(&pod("kept"), Precondition::Revision(kept.modified), "y")).await.unwrap();
    let seen = events(&mut watch, 4).await;
    assert_eq!((seen[3].0, &*seen[3].1), (EventKind::Deleted, "event"));
    assert!(store.get(&pod("event")).is_none() && store.get(&pod("kept")).is_some());
}

pub async fn waiting_for_a_revision(store: Arc<dyn Store>) {
    let made = create(&*store, &pod("a"), "1").await;
    assert!(store.reach(Some(made.modified)).await.unwrap() >= made.modified);
    assert!(store.reach(None).await.unwrap() >= made.modified);
    let wanted = made.modified + 1;
    let ahead = tokio::spawn({
        let store = store.clone();
        async move { store.reach(Some(wanted)).await }
    });
    tokio::task::yield_now().await;
    let next = create(&*store, &pod("b"), "1").await;
    assert!(ahead.await.unwrap().unwrap() >= wanted && next.modified >= wanted);
}

pub async fn secrets_and_clusterscoped_names(store: Arc<dyn Store>) {
    let secret = key("core/secrets", "ns", "token");
    let made = create(&*store, &secret, "hidden").await;
    assert_eq!(store.get(&secret).unwrap().json, json("hidden", made.modified));
    let node = key("core/nodes", "", "n1");
    create(&*store, &node, "node").await;
    assert_eq!(&*store.get(&node).unwrap().key.namespace, "");
    let empty = Range { namespace: Some("".into()), after: None };
    assert_eq!(store.snapshot("core/nodes").iter(&empty).count(), 1);
}
