//! Many seeds; and the proof that each check would notice.

use sim::{Options, Sabotage, run};

/// Seeds of an ordinary run.
const SEEDS: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn what_must_hold_holds() {
    let seeds = match number("KUTTER_SIM_SEED") {
        Some(one) => one..one + 1,
        None => 1..number("KUTTER_SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let aloud = number("KUTTER_SIM_SEED").is_some();
                    match run(Options { aloud, ..Options::of(seed) }) {
                        Ok(report) => println!("seed {seed}: {report:?}"),
                        Err(failure) => panic!("{failure}"),
                    }
                }
            });
        }
    });
}

#[test]
fn a_seed_tells_one_story() {
    let (first, second) = (run(Options::of(7)), run(Options::of(7)));
    assert_eq!(first.expect("holds"), second.expect("holds"));
}

#[test]
fn what_is_broken_on_purpose_is_noticed() {
    for (sabotage, sign) in [
        (Sabotage::BlindBinding, "bound to"),
        (Sabotage::BlindPatch, "adopted by"),
        (Sabotage::LateSync, "after a crash"),
    ] {
        let noticed = (1..=SEEDS).find_map(|seed| {
            let failure = run(Options { sabotage, ..Options::of(seed) }).err()?;
            failure.broken.iter().any(|what| what.contains(sign)).then_some(seed)
        });
        assert!(noticed.is_some(), "{sabotage:?} goes unnoticed in {SEEDS} seeds");
    }
}
