//! Kills a writing process at random moments, hundreds of times, and fills its disk.
//!
//! The process is this test binary again. Every writer in it does a fixed sequence of operations on keys of its
//! own and reports each one when it was acknowledged, so what may be found afterwards is exactly known: the
//! state after the last acknowledged operation, or after the one that was under way.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::suite::{copy_dir, delete, draft, json, pod, put};
use rand::{Rng, SeedableRng, rngs::StdRng};
use store::{Embedded, Options, Precondition, Store, StoreError};

const WRITERS: usize = 6;
const KEYS: u64 = 4;
/// Independent stores, each killed `ROUNDS` times.
const STORES: u64 = 4;
const ROUNDS: usize = 75;
/// Set for the process that is killed: its directory and the operations its writers start with.
const CHILD: &str = "KUTTER_TEST_CRASH_CHILD";
/// Set for the process whose disk is filled: its directory.
const FULL: &str = "KUTTER_TEST_FULL_CHILD";

fn small() -> Options {
    Options {
        segment_bytes_first: 16 << 10,
        segment_bytes_max: 64 << 10,
        checkpoint_bytes: 128 << 10,
        reserve_bytes: 64 << 10,
        ..Options::default()
    }
}

/// What operation `n` of a writer does: `None` deletes.
fn operation(writer: usize, n: u64) -> (String, Option<String>) {
    let name = format!("w{writer}-{}", n % KEYS);
    let length = (n * 7919 % 1500) as usize;
    (name, (n % 11 != 10).then(|| format!("{n}:{}", "x".repeat(length))))
}

/// A writer's objects after its first `count` operations, as texts by name.
fn state(writer: usize, count: u64) -> BTreeMap<String, String> {
    let mut state = BTreeMap::new();
    // Only the last operation on each key counts.
    for n in count.saturating_sub(KEYS)..count {
        match operation(writer, n) {
            (name, Some(text)) => state.insert(name, text),
            (name, None) => state.remove(&name),
        };
    }
    state
}

/// The process that is killed. As a test of its own it does nothing.
#[test]
fn child_that_writes() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let mut parts = order.split('\n');
    let store = Embedded::open(Path::new(parts.next().unwrap()), small()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).build().unwrap();
    let write = |writer: usize, start: u64| {
        let store = store.clone();
        async move {
            for n in start.. {
                let (name, text) = operation(writer, n);
                let result = match text {
                    Some(text) => store.write(put(&pod(&name), Precondition::None, &text)).await,
                    None => store.write(delete(&pod(&name), Precondition::None)).await,
                };
                let revision = match result {
                    Ok(object) => object.modified,
                    // A key that its own operation has deleted before.
                    Err(StoreError::Conflict { current: None, .. }) => 0,
                    Err(error) => panic!("{error}"),
                };
                // One write of less than a page is not torn.
                let line = format!("ack {writer} {n} {revision}\n");
                std::io::stderr().write_all(line.as_bytes()).unwrap();
            }
        }
    };
    let tasks: Vec<_> = parts
        .enumerate()
        .map(|(writer, start)| runtime.spawn(write(writer, start.parse().unwrap())))
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
}

/// Lets the process write for a while, kills it, and gives its acknowledgements as (writer, operation, revision).
fn run_and_kill(dir: &Path, starts: &[u64], after: Duration) -> Vec<(usize, u64, u64)> {
    let starts: Vec<_> = starts.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_that_writes", "--nocapture"])
        .env(CHILD, format!("{}\n{}", dir.display(), starts.join("\n")))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for line in lines.map_while(Result::ok) {
            let parts: Vec<&str> = line.split(' ').collect();
            let ["ack", writer, n, revision] = parts[..] else {
                panic!("the writing process failed: {line}")
            };
            acknowledged.push((writer.parse().unwrap(), n.parse().unwrap(), revision.parse().unwrap()));
        }
        acknowledged
    });
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// One store, killed again and again; gives how many writes were acknowledged.
fn kill_again_and_again(seed: u64) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let (mut next, mut newest, mut total) = ([0u64; WRITERS], 0, 0);
    for round in 0..ROUNDS {
        let after = Duration::from_millis(random.random_range(1..150));
        let acknowledged = run_and_kill(&dir, &next, after);
        total += acknowledged.len() as u64;
        let mut written = BTreeMap::new();
        for (writer, n, revision) in acknowledged {
            assert_eq!(n, next[writer], "seed {seed}, round {round}: writer {writer} skipped");
            next[writer] = n + 1;
            if revision > 0 {
                assert!(revision > newest, "seed {seed}, round {round}: revision {revision} was used before");
                written.insert(operation(writer, n).0, revision);
            }
        }
        newest = written.values().copied().max().unwrap_or(newest).max(newest);
        let copy = home.path().join("copy");
        if !dir.exists() {
            continue;
        }
        copy_dir(&dir, &copy);
        let store = Embedded::open(&copy, small()).unwrap();
        assert!(store.revision() >= newest, "seed {seed}, round {round}: acknowledged revision lost");
        newest = store.revision();
        for (writer, next) in next.iter_mut().enumerate() {
            let read = |key: u64| {
                let name = format!("w{writer}-{key}");
                let object = store.get(&pod(&name))?;
                let uid = object.index.uid.strip_prefix("uid-").unwrap().to_string();
                assert_eq!(object.json, json(&uid, object.modified), "half a write is visible");
                Some((name, uid))
            };
            let found: BTreeMap<_, _> = (0..KEYS).filter_map(read).collect();
            // The next operation may have been committed and not yet told.
            if found != state(writer, *next) {
                *next += 1;
                assert_eq!(found, state(writer, *next), "seed {seed}, round {round}, writer {writer}");
            } else {
                for (name, revision) in written.iter().filter(|(name, _)| found.contains_key(*name)) {
                    assert_eq!(store.get(&pod(name)).unwrap().modified, *revision);
                }
            }
        }
        drop(store);
        std::fs::remove_dir_all(&copy).unwrap();
    }
    total
}

#[test]
fn nothing_acknowledged_is_lost_by_sigkill() {
    let threads: Vec<_> =
        (0..STORES).map(|seed| std::thread::spawn(move || kill_again_and_again(seed))).collect();
    let total: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(total > 1000, "the writing processes acknowledged only {total} writes");
}

/// The process in whose mount namespace the disk is tiny. As a test of its own it does nothing.
#[test]
fn child_that_fills_its_disk() {
    let Ok(dir) = std::env::var(FULL) else { return };
    let dir = Path::new(&dir);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    std::fs::write(dir.join("filler"), vec![1; 1 << 20]).unwrap();
    let store = Embedded::open(&dir.join("store"), Options { checkpoint_bytes: 1 << 30, ..small() }).unwrap();
    let text = "x".repeat(10_000);
    let write = |store: &Arc<Embedded>, n: u64| {
        runtime.block_on(store.write(put(&pod(&n.to_string()), Precondition::Absent, &text)))
    };
    let mut done = 0;
    let error = loop {
        match write(&store, done) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 1000, "the disk never was full");
    };
    assert!(matches!(error, StoreError::NoSpace(_)), "{error}");
    assert!(done > 10);
    assert!(store.failure().is_some_and(|text| text.contains("only deletions")), "{:?}", store.failure());
    let revision = store.revision();
    for _ in 0..20 {
        assert!(matches!(write(&store, 5000), Err(StoreError::NoSpace(_))));
        assert!((0..done).all(|n| store.get(&pod(&n.to_string())).is_some()), "reads go on");
    }
    assert_eq!(store.revision(), revision);
    let ending = draft(r#"x","deletionTimestamp":"now"#);
    let ending =
        store::Write { key: pod("0"), precondition: Precondition::None, value: Some(ending), last: None };
    assert_eq!(runtime.block_on(store.write(ending)).unwrap().modified, revision + 1);
    for n in 0..9 {
        let deleted = runtime.block_on(store.write(delete(&pod(&n.to_string()), Precondition::None)));
        assert_eq!(deleted.unwrap().modified, revision + 2 + n);
    }
    assert!(store.failure().is_some());
    std::fs::remove_file(dir.join("filler")).unwrap();
    until_there_is_space(&store);
    let after = write(&store, done).unwrap();
    assert_eq!(after.modified, revision + 11);
    assert_eq!(store.failure(), None);
    drop(store);
    let store = Embedded::open(&dir.join("store"), small()).unwrap();
    assert_eq!(store.revision(), after.modified);
    assert!((9..=done).all(|n| store.get(&pod(&n.to_string())).is_some()));
    assert!((0..9).all(|n| store.get(&pod(&n.to_string())).is_none()));
    assert!(store.get(&pod("5000")).is_none());
}

/// The disk is looked at every second.
fn until_there_is_space(store: &Embedded) {
    for _ in 0..1000 {
        if store.failure().is_none() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{:?}", store.failure());
}

/// A store that filled the disk by itself: what is deleted makes room for what comes.
#[test]
fn child_that_makes_room() {
    let Ok(dir) = std::env::var(FULL) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Embedded::open(&Path::new(&dir).join("store"), small()).unwrap();
    let text = "x".repeat(10_000);
    let write =
        |n: u64| runtime.block_on(store.write(put(&pod(&n.to_string()), Precondition::Absent, &text)));
    let done = (0..1000).find(|n| write(*n).is_err()).expect("the disk never was full");
    for n in 0..done {
        runtime.block_on(store.write(delete(&pod(&n.to_string()), Precondition::None))).unwrap();
    }
    runtime.block_on(store.checkpoint()).unwrap();
    until_there_is_space(&store);
    for n in 0..20 {
        write(5000 + n).unwrap();
    }
}

fn on_a_tiny_disk(child: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=3m tmpfs "$0" && exec "$1" --exact "crash::$2" --nocapture"#;
    let mut command = Command::new("unshare");
    // Who is not root becomes it in a user namespace.
    command.args(if nix::unistd::geteuid().is_root() { &["-m"][..] } else { &["-Urm"][..] });
    command.args(["sh", "-c", script]).arg(dir.path()).arg(std::env::current_exe().unwrap()).arg(child);
    let output = command.env(FULL, dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the mount stayed in its namespace");
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    on_a_tiny_disk("child_that_fills_its_disk");
}

#[test]
fn deletions_make_room_on_a_full_disk() {
    on_a_tiny_disk("child_that_makes_room");
}
