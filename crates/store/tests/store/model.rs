//! Random operations against a map and a list of events, and a seeded test of concurrent writers.

use std::collections::BTreeMap;

use crate::suite::{delete, json, key, put};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use store::{Embedded, Event, EventKind, Options, Precondition, Range, Store, StoreError};

#[derive(Debug, Clone)]
enum Step {
    Put { name: u8, precondition: u8, text: u8 },
    Delete { name: u8, precondition: u8 },
    Checkpoint,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 0..4u8, any::<u8>()).prop_map(|(name, precondition, text)| Step::Put { name, precondition, text }),
        4 => (0..6u8, 0..4u8).prop_map(|(name, precondition)| Step::Delete { name, precondition }),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Reopen),
    ]
}

type State = BTreeMap<(String, String), (String, u64, u64)>;

fn read(store: &dyn Store, revision: Option<u64>) -> Result<State, StoreError> {
    let view = match revision {
        Some(revision) => store.snapshot_at("core/pods", revision)?,
        None => store.snapshot("core/pods"),
    };
    let entry = |object: &std::sync::Arc<store::Object>| {
        let name = (object.key.namespace.to_string(), object.key.name.to_string());
        (name, (String::from_utf8(object.json.to_vec()).unwrap(), object.created, object.modified))
    };
    Ok(view.iter(&Range::default()).map(entry).collect())
}

fn all_events(
    store: &dyn Store,
    after: u64,
    runtime: &tokio::runtime::Runtime,
) -> Option<Vec<std::sync::Arc<Event>>> {
    let mut watch = match store.watch("core/pods", after) {
        Ok(watch) => watch,
        Err(StoreError::Expired { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let mut events = Vec::new();
    while watch.progress() < store.revision() {
        events.extend(runtime.block_on(watch.next(3)).unwrap().0);
    }
    Some(events)
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options =
        || Options { segment_bytes_first: 8 << 10, segment_bytes_max: 8 << 10, ..Options::default() };
    let mut store = Embedded::open(dir.path(), options()).unwrap();
    let mut states = vec![State::new()];
    let mut history: Vec<(EventKind, String)> = Vec::new();
    for step in steps {
        let now = states.last().unwrap().clone();
        let revision = states.len() as u64;
        let name = |name: u8| (format!("ns{}", name % 2), format!("n{name}"));
        let wanted = |number: u8, head: Option<u64>| match number {
            0 => Precondition::None,
            1 => Precondition::Absent,
            2 => Precondition::Revision(head.unwrap_or(1)),
            _ => Precondition::Revision(head.unwrap_or(0) + 1),
        };
        let (name, precondition, text) = match step {
            Step::Checkpoint => {
                prop_assert_eq!(runtime.block_on(store.checkpoint()).unwrap(), revision - 1);
                continue;
            }
            Step::Reopen => {
                drop(store);
                store = Embedded::open(dir.path(), options()).unwrap();
                prop_assert_eq!(&read(&*store, None).unwrap(), &now);
                continue;
            }
            Step::Put { name: n, precondition, text } => (name(*n), *precondition, Some(format!("t{text}"))),
            Step::Delete { name: n, precondition } => (name(*n), *precondition, None),
        };
        let head = now.get(&name).map(|object| object.2);
        let precondition = wanted(precondition, head);
        let allowed = match precondition {
            Precondition::None => text.is_some() || head.is_some(),
            Precondition::Absent => text.is_some() && head.is_none(),
            Precondition::Revision(revision) => head == Some(revision),
        };
        let object = key("core/pods", &name.0, &name.1);
        let write = match &text {
            Some(text) => put(&object, precondition, text),
            None => delete(&object, precondition),
        };
        match runtime.block_on(store.write(write)) {
            Ok(object) => {
                prop_assert!(allowed, "{step:?} on {head:?}");
                prop_assert_eq!(object.modified, revision);
                let mut next = now.clone();
                let kind = match (&text, head) {
                    (None, _) => EventKind::Deleted,
                    (Some(_), None) => EventKind::Created,
                    (Some(_), Some(_)) => EventKind::Updated,
                };
                match text {
                    Some(text) => {
                        let created = now.get(&name).map_or(revision, |object| object.1);
                        next.insert(name, (json(&text, revision), created, revision));
                    }
                    None => drop(next.remove(&name)),
                }
                states.push(next);
                history.push((kind, String::from_utf8(object.json.to_vec()).unwrap()));
            }
            Err(StoreError::Conflict { current, .. }) => {
                prop_assert!(!allowed, "{step:?} on {head:?}");
                prop_assert_eq!(current.map(|object| object.modified), head);
            }
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        }
    }
    for (revision, state) in states.iter().enumerate() {
        match read(&*store, Some(revision as u64)) {
            Ok(then) => prop_assert_eq!(&then, state),
            Err(error) => prop_assert!(matches!(error, StoreError::Expired { .. }), "{error}"),
        }
        let Some(events) = all_events(&*store, revision as u64, &runtime) else { continue };
        let told: Vec<_> =
            events.iter().map(|e| (e.kind, String::from_utf8(e.object.json.to_vec()).unwrap())).collect();
        prop_assert_eq!(&told[..], &history[revision..]);
    }
    prop_assert!(read(&*store, Some(states.len() as u64 - 1)).is_ok());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps)?;
    }
}

/// Concurrent writers with preconditions: the events are one serial history that explains every answer.
#[test]
fn concurrent_writes_have_one_history() {
    for seed in 0..6 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path(), Options::default()).unwrap();
        let work = |task: u64| {
            let store = store.clone();
            async move {
                let mut random = StdRng::seed_from_u64(seed * 100 + task);
                let mut answers = Vec::new();
                for _ in 0..100 {
                    let object = key("core/pods", "ns", &random.random_range(0..5).to_string());
                    let head = store.get(&object).map(|object| object.modified);
                    let precondition = match (random.random_range(0..4), head) {
                        (0, _) => Precondition::None,
                        (_, None) => Precondition::Absent,
                        (_, Some(revision)) => Precondition::Revision(revision),
                    };
                    let write = match random.random_range(0..4) {
                        0 => delete(&object, precondition),
                        n => put(&object, precondition, &n.to_string()),
                    };
                    answers.push((write.clone(), store.write(write).await));
                }
                answers
            }
        };
        let tasks: Vec<_> = (0..8).map(|task| runtime.spawn(work(task))).collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.extend(runtime.block_on(task).unwrap());
        }
        let events = all_events(&*store, 0, &runtime).unwrap();
        let mut heads: BTreeMap<String, u64> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            let name = event.object.key.name.to_string();
            assert_eq!(event.object.modified, at as u64 + 1, "seed {seed}: one revision per change");
            assert_eq!(event.previous.as_ref().map(|object| object.modified), heads.get(&name).copied());
            match event.kind {
                EventKind::Deleted => drop(heads.remove(&name)),
                _ => drop(heads.insert(name, event.object.modified)),
            }
        }
        let found = read(&*store, None).unwrap();
        assert_eq!(
            heads.into_values().collect::<Vec<_>>(),
            found.values().map(|object| object.2).collect::<Vec<_>>()
        );
        let mut done = 0;
        for (write, answer) in answers {
            match answer {
                Ok(object) => {
                    done += 1;
                    let event = &events[object.modified as usize - 1];
                    assert!(std::sync::Arc::ptr_eq(&event.object, &object));
                    let before = event.previous.as_ref().map(|object| object.modified);
                    match write.precondition {
                        Precondition::None => {}
                        Precondition::Absent => assert_eq!(before, None),
                        Precondition::Revision(revision) => assert_eq!(before, Some(revision)),
                    }
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(done, events.len());
    }
}
