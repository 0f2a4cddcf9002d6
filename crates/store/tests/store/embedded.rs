//! The shared suite on the embedded store, and what only it does: files, locks, checkpoints, keys, backups.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::suite::{delete, draft, json, key, pod, put};
use store::{Embedded, History, Options, Precondition, Range, Store, StoreError};

async fn fresh() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    (dir, store)
}

suite!(fresh);

/// Everything of a store, for comparison.
fn dump(store: &dyn Store) -> Vec<(String, u64, u64, Option<u64>, String)> {
    let mut all = Vec::new();
    for resource in store.counts().keys() {
        for object in store.snapshot(resource).iter(&Range::default()) {
            let text = String::from_utf8(object.json.to_vec()).unwrap();
            all.push((format!("{:?}", object.key), object.created, object.modified, object.expires, text));
        }
    }
    all
}

/// Small segments and checkpoints, so that little data goes through all of it.
fn small() -> Options {
    Options {
        segment_bytes_first: 16 << 10,
        segment_bytes_max: 64 << 10,
        checkpoint_bytes: 256 << 10,
        reserve_bytes: 64 << 10,
        ..Options::default()
    }
}

/// Bytes of all files; those that go away meanwhile count nothing.
fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

async fn fill(store: &dyn Store) {
    for n in 0..50 {
        store.write(put(&pod(&format!("p{n}")), Precondition::Absent, "first")).await.unwrap();
    }
    for n in 0..25 {
        store.write(put(&pod(&format!("p{n}")), Precondition::None, "second")).await.unwrap();
    }
    for n in 10..20 {
        store.write(delete(&pod(&format!("p{n}")), Precondition::None)).await.unwrap();
    }
    store.write_until(put(&pod("ttl"), Precondition::Absent, "x"), 1 << 40).await.unwrap();
    let mut write = put(&key("core/secrets", "ns", "s"), Precondition::Absent, "topsecret");
    write.value.as_mut().unwrap().index.labels = [("app".into(), "x".into())].into();
    write.value.as_mut().unwrap().index.owners = ["owner".into()].into();
    store.write(write).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    fill(&*Embedded::open(dir.path(), Options::default()).unwrap()).await;
    for round in 0..6 {
        let store = Embedded::open(dir.path(), Options::default()).unwrap();
        let secret = store.get(&key("core/secrets", "ns", "s")).unwrap();
        assert_eq!(*secret.index.labels, [("app".into(), "x".into())]);
        assert_eq!(store.dependents("owner").len(), 1);
        let revision = store.revision();
        store.write(delete(&pod(&format!("p{round}")), Precondition::None)).await.unwrap();
        let made = store.write(put(&pod("again"), Precondition::None, &format!("{round}"))).await.unwrap();
        assert_eq!(made.modified, revision + 2);
        if round % 2 == 0 {
            assert_eq!(store.checkpoint().await.unwrap(), made.modified);
        }
        let before = (dump(&*store), store.revision());
        drop(store);
        let store = Embedded::open(dir.path(), Options::default()).unwrap();
        assert_eq!((dump(&*store), store.revision()), before);
        assert!(store.get(&pod(&format!("p{round}"))).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_go_on_over_a_restart_within_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    let first = store.write(put(&pod("a"), Precondition::Absent, "1")).await.unwrap();
    let second = store.write(put(&pod("a"), Precondition::None, "2")).await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    let mut watch = store.watch("core/pods", first.modified).unwrap();
    let (events, progress) = watch.next(10).await.unwrap();
    assert_eq!((events.len(), progress), (1, second.modified));
    assert_eq!(events[0].previous.as_ref().unwrap().json, json("1", first.modified));
    assert!(store.snapshot_at("core/pods", first.modified).is_ok());
    store.checkpoint().await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    // Segments from before the checkpoint may still be there, but are not replayed.
    assert!(matches!(store.watch("core/pods", first.modified).err(), Some(StoreError::Expired { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_watchers_expire_and_old_snapshots_too() {
    let dir = tempfile::tempdir().unwrap();
    let history = History { events_max: 10, events_kept: 5, ..History::default() };
    let store = Embedded::open(dir.path(), Options { history, ..Options::default() }).unwrap();
    let mut watch = store.watch("core/pods", 0).unwrap();
    for n in 0..30 {
        store.write(put(&pod("a"), Precondition::None, &n.to_string())).await.unwrap();
    }
    assert!(matches!(watch.next(1).await, Err(StoreError::Expired { oldest: 20, .. })));
    assert!(matches!(store.snapshot_at("core/pods", 19).err(), Some(StoreError::Expired { oldest: 20, .. })));
    assert!(store.snapshot_at("core/pods", 20).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_updates_use_bounded_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), small()).unwrap();
    assert!(disk_bytes(dir.path()) < 64 << 10, "an empty store is tiny");
    let text = "x".repeat(2000);
    let mut most = 0;
    for round in 0..40 {
        let writes =
            (0..100).map(|n| store.write(put(&pod(&format!("{}", n % 50)), Precondition::None, &text)));
        for written in futures_util::future::join_all(writes).await {
            written.unwrap();
        }
        if round > 10 {
            most = most.max(disk_bytes(dir.path()));
        }
    }
    // 8 MB were written. Kept are at most three stretches of log of 256 kB and one round of writes, seven segments of
    // 64 kB that are being made, were made ahead or will be used again, two checkpoints, and what is kept for a
    // full disk.
    assert!(most < 2 << 20, "{most} bytes on disk");
    let before = dump(&*store);
    drop(store);
    assert_eq!(dump(&*Embedded::open(dir.path(), small()).unwrap()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_process_may_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    let error = Embedded::open(dir.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains("lock") && error.contains("another process"), "{error}");
    store.close();
    assert!(matches!(store.write(put(&pod("a"), Precondition::None, "x")).await, Err(StoreError::Closed)));
    drop(store);
    Embedded::open(dir.path(), Options::default()).unwrap();
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_in_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    store.write(put(&key("core/configmaps", "ns", "c"), Precondition::Absent, "in the clear")).await.unwrap();
    let secret = |name: &str| {
        let mut write = put(&key("core/secrets", "ns", name), Precondition::Absent, "top secret");
        write.value.as_mut().unwrap().index.uid = "uid".into();
        write
    };
    store.write(secret("s")).await.unwrap();
    store.checkpoint().await.unwrap();
    store.rotate_keys().unwrap();
    store.write(secret("t")).await.unwrap();
    let backup = dir.path().join("backup");
    store.backup(&backup, false).await.unwrap();
    drop(store);
    let holds = |text: &str| {
        let has = |path: &&std::path::PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        };
        files(dir.path()).iter().filter(has).count()
    };
    assert_eq!((holds("in the clear"), holds("top secret")), (3, 0));
    for path in files(dir.path()) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(dir.path().join("log").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    let read = store.get(&key("core/secrets", "ns", "t")).unwrap();
    assert_eq!(read.json, json("top secret", read.modified));
    drop(store);
    std::fs::remove_file(dir.path().join("keys")).unwrap();
    let error = Embedded::open(dir.path(), Options::default()).unwrap_err().to_string();
    assert!(error.contains("keys file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_a_live_store_restore() {
    let home = tempfile::tempdir().unwrap();
    let (source, target, file) = (home.path().join("a"), home.path().join("b"), home.path().join("backup"));
    let store = Embedded::open(&source, Options::default()).unwrap();
    fill(&*store).await;
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..500 {
                store
                    .write(put(&key("apps/x", "n", &n.to_string()), Precondition::Absent, "x"))
                    .await
                    .unwrap();
            }
        }
    });
    let info = store.backup(&file, true).await.unwrap();
    writer.await.unwrap();
    assert_eq!(store::verify(&file).unwrap(), info);
    assert_eq!(store::restore(&file, &target, None).unwrap(), info);
    let error = store::restore(&file, &target, None).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    let back = Embedded::open(&target, Options::default()).unwrap();
    assert_eq!(back.revision(), info.revision);
    let then: Vec<_> = dump(&*store).into_iter().filter(|object| object.2 <= info.revision).collect();
    assert_eq!(dump(&*back), then);
    let more = back.write(put(&pod("more"), Precondition::Absent, "x")).await.unwrap();
    assert_eq!(more.modified, info.revision + 1);
    drop(back);
    assert_eq!(Embedded::open(&target, Options::default()).unwrap().revision(), more.modified);

    let bare = home.path().join("bare");
    store.backup(&bare, false).await.unwrap();
    let error = store::restore(&bare, &home.path().join("c"), None).unwrap_err().to_string();
    assert!(error.contains("keys"), "{error}");
    store::restore(&bare, &home.path().join("d"), Some(&source.join("keys"))).unwrap();
    let whole = std::fs::read(&bare).unwrap();
    for at in [0, 9, 14, 40, whole.len() / 2, whole.len() - 3] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x20;
        std::fs::write(home.path().join("damaged"), &damaged).unwrap();
        assert!(store::verify(&home.path().join("damaged")).is_err(), "flip at {at}");
        std::fs::write(home.path().join("damaged"), &whole[..at]).unwrap();
        assert!(store::verify(&home.path().join("damaged")).is_err(), "cut at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_may_be_large() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), small()).unwrap();
    let text = "y".repeat(3 << 20);
    for name in ["a", "b"] {
        store.write(put(&pod(name), Precondition::Absent, &text)).await.unwrap();
    }
    let huge = draft(&"z".repeat(17 << 20));
    let write =
        store::Write { key: pod("c"), precondition: Precondition::None, value: Some(huge), last: None };
    assert!(matches!(store.write(write).await, Err(StoreError::Unavailable(_))));
    let before = dump(&*store);
    drop(store);
    assert_eq!(dump(&*Embedded::open(dir.path(), small()).unwrap()), before);
}
