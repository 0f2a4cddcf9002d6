//! Flips bits and cuts files: what is found is either named and refused, or was the last write.

use std::path::{Path, PathBuf};

use crate::suite::{copy_dir, delete, key, pod, put};
use proptest::prelude::*;
use store::{Embedded, Options, Precondition, Range, Store};

const WRITES: u64 = 60;

fn small() -> Options {
    Options { segment_bytes_first: 8 << 10, segment_bytes_max: 16 << 10, ..Options::default() }
}

type Dump = Vec<(String, u64)>;

fn dump(store: &Embedded) -> Dump {
    let mut all = Vec::new();
    for resource in store.counts().keys() {
        let view = store.snapshot(resource);
        all.extend(
            view.iter(&Range::default()).map(|o| (String::from_utf8_lossy(&o.json).into(), o.modified)),
        );
    }
    all
}

/// A store's directory as a crash leaves it, as an orderly end leaves it, and its state after every revision.
struct Sample {
    _home: tempfile::TempDir,
    crashed: PathBuf,
    closed: PathBuf,
    states: Vec<Dump>,
}

fn sample() -> Sample {
    let home = tempfile::tempdir().unwrap();
    let (dir, crashed, closed) =
        (home.path().join("a"), home.path().join("crashed"), home.path().join("closed"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = Embedded::open(&dir, small()).unwrap();
    let mut states = vec![dump(&store)];
    for n in 0..WRITES {
        let name = pod(&(n % 7).to_string());
        let write = match n {
            _ if n % 10 == 9 && store.get(&name).is_some() => delete(&name, Precondition::None),
            _ if n % 5 == 0 => put(&key("core/secrets", "ns", &n.to_string()), Precondition::None, "s"),
            _ => put(&name, Precondition::None, &"y".repeat((n * 37 % 900) as usize)),
        };
        runtime.block_on(store.write(write)).unwrap();
        states.push(dump(&store));
        if n == WRITES / 2 {
            runtime.block_on(store.checkpoint()).unwrap();
        }
    }
    // A copy of a live directory is what a crash leaves.
    copy_dir(&dir, &crashed);
    drop(store);
    copy_dir(&dir, &closed);
    Sample { _home: home, crashed, closed, states }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // What is kept for a full disk holds nothing.
    files.retain(|file| file.extension().is_some());
    files.push(dir.join("checkpoint"));
    files.sort();
    files
}

/// Damages one file of a copy and opens it. Gives the damaged file, and the state found or the error.
fn damaged(
    from: &Path,
    file: usize,
    damage: impl FnOnce(&mut Vec<u8>),
) -> (String, Result<(u64, Dump), String>) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("copy");
    copy_dir(from, &dir);
    let files = files(&dir);
    let file = &files[file % files.len()];
    let mut bytes = std::fs::read(file).unwrap();
    damage(&mut bytes);
    std::fs::write(file, bytes).unwrap();
    let found = match Embedded::open(&dir, small()) {
        Ok(store) => Ok((store.revision(), dump(&store))),
        Err(error) => Err(error.to_string()),
    };
    (file.display().to_string(), found)
}

fn named(error: &str, file: &str) -> bool {
    // A missing record may be found missing only by what follows in another file.
    let dir = Path::new(file).ancestors().find(|dir| dir.ends_with("copy")).unwrap();
    error.contains(&*dir.to_string_lossy()) && error.contains("offset")
}

#[test]
fn damage_is_named_or_was_the_last_write() {
    let sample = sample();
    let last = WRITES;
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 400, ..Default::default() });
    // Most of a segment is still empty: half of the positions are near its start, where records are.
    let place = prop_oneof![0.0..1.0f64, 0.0..0.3f64];
    runner
        .run(&(any::<bool>(), any::<usize>(), place, 0..8u32), |(crash, file, place, bit)| {
            let from = if crash { &sample.crashed } else { &sample.closed };
            let (file, found) = damaged(from, file, |bytes| {
                let at = (bytes.len() as f64 * place) as usize;
                bytes[at] ^= 1 << bit;
            });
            match found {
                Ok((revision, state)) => {
                    prop_assert!(revision == last || (crash && revision == last - 1), "{file}: {revision}");
                    prop_assert_eq!(&state, &sample.states[revision as usize]);
                }
                Err(error) => prop_assert!(named(&error, &file), "{file}: {error}"),
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_file_that_is_cut_is_refused() {
    let sample = sample();
    for file in 0..files(&sample.closed).len() {
        for place in [0.0, 0.1, 0.3, 0.6, 0.99] {
            let (file, found) = damaged(&sample.closed, file, |bytes| {
                bytes.truncate((bytes.len() as f64 * place) as usize);
            });
            let error = found.unwrap_err();
            assert!(error.contains(&file) && error.contains("offset"), "{file}: {error}");
        }
    }
}

#[test]
fn a_file_that_is_missing_is_refused() {
    let sample = sample();
    let files = files(&sample.closed);
    // The last segment is made ahead and empty, the one before it is in use.
    for file in &files[..files.len() - 2] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("copy");
        copy_dir(&sample.closed, &dir);
        std::fs::remove_file(dir.join(file.strip_prefix(&sample.closed).unwrap())).unwrap();
        let error = Embedded::open(&dir, small()).unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("kutter restore"), "{}: {error}", file.display());
    }
}
