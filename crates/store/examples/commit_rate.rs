//! Measures durable commits: `commit_rate [DIR [WRITERS [SECONDS [BYTES [WATCHERS [CHECKPOINT_MIB]]]]]]`, then a reopening.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store::{Draft, Embedded, Index, Key, Options, Precondition, Store, Write};

fn argument(at: usize, default: u64) -> u64 {
    std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Result<(), store::StoreError> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "commit_rate.data".into()));
    let (writers, seconds, bytes, watchers) =
        (argument(2, 64), argument(3, 5), argument(4, 4096), argument(5, 0));
    let checkpoint_bytes = argument(6, Options::default().checkpoint_bytes >> 20) << 20;
    let options = Options { checkpoint_bytes, ..Options::default() };
    let opened = Instant::now();
    let store = Embedded::open(&dir, options.clone())?;
    println!("open: {:?} at revision {} with {:?}", opened.elapsed(), store.revision(), store.counts());
    let stop = Arc::new(AtomicBool::new(false));
    let delivered = Arc::new(AtomicU64::new(0));
    for _ in 0..watchers {
        let mut watch = store.watch("core/pods", store.revision())?;
        let delivered = delivered.clone();
        tokio::spawn(async move {
            while let Ok((events, _)) = watch.next(1000).await {
                delivered.fetch_add(events.len() as u64, Ordering::Relaxed);
            }
        });
    }
    let begun = Instant::now();
    let text: bytes::Bytes =
        format!(r#"{{"metadata":{{"resourceVersion":""}},"x":"{}"}}"#, "x".repeat(bytes as usize)).into();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (store, stop, text) = (store.clone(), stop.clone(), text.clone());
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("p-{writer}-{}", n % 1600);
                    let key =
                        Key { resource: "core/pods".into(), namespace: "default".into(), name: name.into() };
                    let value = Some(Draft { bytes: text.clone(), hole: 32, index: Index::default() });
                    let start = Instant::now();
                    let write = Write { key, precondition: Precondition::None, value, last: None };
                    if let Err(error) = store.write(write).await {
                        eprintln!("write: {error}");
                        break;
                    }
                    latencies.push(start.elapsed());
                }
                latencies
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap_or_default());
    }
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    latencies.sort();
    let quantile = |q: f64| latencies.get((latencies.len() as f64 * q) as usize).copied().unwrap_or_default();
    println!(
        "{rate:.0} commits/s, p50 {:?}, p99 {:?}, p99.9 {:?}",
        quantile(0.5),
        quantile(0.99),
        quantile(0.999)
    );
    println!("{} events delivered", delivered.load(Ordering::Relaxed));
    store.close();
    drop(store);
    let opened = Instant::now();
    let store = Embedded::open(&dir, options.clone())?;
    println!("reopen: {:?} at revision {} with {:?}", opened.elapsed(), store.revision(), store.counts());
    store.checkpoint().await?;
    drop(store);
    let opened = Instant::now();
    let store = Embedded::open(&dir, options.clone())?;
    println!("reopen after a checkpoint: {:?} with {:?}", opened.elapsed(), store.counts());
    Ok(())
}
