//! Which edges of the instrumented crates a run took, as LLVM's sanitizer coverage counts them.
//!
//! The compiler puts an eight-bit counter on every edge and hands their place over before `main`. A build without
//! the instrumentation (every build but the one of `.ci/fuzz`) has no counters: then nothing is learned.

use std::sync::Mutex;

/// The counters of the program, as addresses of start and end. Filled by constructors only.
static COUNTERS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called by each instrumented object before `main`.
///
/// # Safety
/// The two pointers are the bounds of a live, writable section.
// SAFETY: no other symbol of the program has this name; it is LLVM's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    if let Ok(mut known) = COUNTERS.lock() {
        let range = (start as usize, end as usize);
        if range.0 < range.1 && !known.contains(&range) {
            known.push(range);
        }
    }
}

/// What has been seen so far, by counter: one bit for each magnitude of its count.
#[derive(Default)]
pub struct Coverage {
    seen: Vec<u8>,
    /// Edges taken at least once.
    pub edges: usize,
}

impl Coverage {
    /// Counters there are; 0 without instrumentation.
    pub fn counters() -> usize {
        ranges().iter().map(|(start, end)| end - start).sum()
    }

    /// Clears the counters before a run.
    pub fn clear() {
        for (start, end) in ranges() {
            // SAFETY: LLVM said that this range is writable; a lost count of another thread does no harm.
            unsafe { std::ptr::write_bytes(start as *mut u8, 0, end - start) };
        }
    }

    /// Takes the counters of a run; whether it did what none did before.
    pub fn learn(&mut self) -> bool {
        self.seen.resize(Self::counters(), 0);
        let (mut new, mut at) = (false, 0);
        for (start, end) in ranges() {
            // SAFETY: LLVM said that this range is readable; a torn count of another thread does no harm.
            let counts = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) };
            let seen = &mut self.seen[at..at + counts.len()];
            for (chunk, seen) in counts.chunks(64).zip(seen.chunks_mut(64)) {
                if chunk.iter().all(|count| *count == 0) {
                    continue;
                }
                for (count, seen) in chunk.iter().zip(seen) {
                    let bit = magnitude(*count);
                    if bit & !*seen != 0 {
                        self.edges += usize::from(*seen == 0);
                        *seen |= bit;
                        new = true;
                    }
                }
            }
            at += counts.len();
        }
        new
    }
}

fn ranges() -> Vec<(usize, usize)> {
    COUNTERS.lock().map(|known| known.clone()).unwrap_or_default()
}

fn magnitude(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128.. => 128,
    }
}
