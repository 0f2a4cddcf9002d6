//! Thresholds of eviction: what must stay free of the node's resources, for how long it may lack, and when enough is
//! free again.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// A resource that can run low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    NodeFs,
    /// `nodefs.inodesFree`
    NodeFsInodes,
    /// `imagefs.available`
    ImageFs,
    /// `imagefs.inodesFree`
    ImageFsInodes,
    /// `pid.available`
    Pid,
}

impl Signal {
    /// The resource's name in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeFs | Signal::ImageFs => "ephemeral-storage",
            Signal::NodeFsInodes | Signal::ImageFsInodes => "inodes",
            Signal::Pid => "pids",
        }
    }

    /// The node condition it sets.
    pub fn condition(self) -> &'static str {
        match self {
            Signal::Memory => "MemoryPressure",
            Signal::NodeFs | Signal::NodeFsInodes | Signal::ImageFs | Signal::ImageFsInodes => "DiskPressure",
            Signal::Pid => "PIDPressure",
        }
    }

    /// The name that thresholds are written with.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::NodeFs => "nodefs.available",
            Signal::NodeFsInodes => "nodefs.inodesFree",
            Signal::ImageFs => "imagefs.available",
            Signal::ImageFsInodes => "imagefs.inodesFree",
            Signal::Pid => "pid.available",
        }
    }

    fn named(name: &str) -> Option<Signal> {
        use Signal::{ImageFs, ImageFsInodes, Memory, NodeFs, NodeFsInodes, Pid};
        let all = [Memory, NodeFs, NodeFsInodes, ImageFs, ImageFsInodes, Pid];
        all.into_iter().find(|s| s.name() == name)
    }
}

/// What is there of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub signal: Signal,
    /// What is free.
    pub available: u64,
    /// All there is.
    pub capacity: u64,
}

/// How much must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Least {
    /// Bytes or pieces.
    Amount(u64),
    /// Hundredths of a percent of all there is.
    Share(u64),
}

/// What must stay free: upstream's default hard thresholds of 100 MiB of memory, 10 % of the disk, 5 % of the inodes
/// and 15 % of the image disk, but never more of a disk than [`DISK_MOST`]: a tenth of a large disk that is shared
/// with everything else on a machine is no emergency. Thresholds that are given replace all of these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Thresholds {
    given: Option<BTreeMap<Signal, Least>>,
}

/// The most bytes of a disk that must stay free.
pub const DISK_MOST: u64 = 2 << 30;

impl Least {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Least::Amount(n) => n,
            Least::Share(s) => {
                u64::try_from(u128::from(capacity) * u128::from(s) / 10_000).unwrap_or(u64::MAX)
            }
        }
    }
}

impl Thresholds {
    /// What must stay free of a resource; 0 is nothing.
    pub fn of(&self, signal: Signal, capacity: u64) -> u64 {
        if let Some(given) = &self.given {
            return given.get(&signal).map_or(0, |least| least.of(capacity));
        }
        match signal {
            Signal::Memory => 100 << 20,
            Signal::NodeFs => (capacity / 10).min(DISK_MOST),
            Signal::NodeFsInodes | Signal::ImageFsInodes => capacity / 20,
            Signal::ImageFs => (capacity / 100 * 15).min(DISK_MOST),
            Signal::Pid => 0,
        }
    }
}

impl FromStr for Thresholds {
    type Err = String;

    /// From `memory.available<100Mi,nodefs.available<10%`.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { given: Some(list(text, '<', "SIGNAL<QUANTITY or SIGNAL<PERCENT%", least)?) })
    }
}

/// Reads `SIGNAL` `sign` `VALUE`, several by commas.
fn list<T>(
    text: &str,
    sign: char,
    form: &str,
    value: impl Fn(&str) -> Option<T>,
) -> Result<BTreeMap<Signal, T>, String> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    let one = |part: &str| {
        let wrong = || format!("eviction threshold {part:?} is not {form}");
        let (name, text) = part.split_once(sign).ok_or_else(wrong)?;
        let signal = Signal::named(name).ok_or_else(|| format!("eviction signal {name:?} is not known"))?;
        Ok((signal, value(text).ok_or_else(wrong)?))
    };
    parts.map(one).collect()
}

fn least(text: &str) -> Option<Least> {
    let Some(percent) = text.strip_suffix('%') else {
        return Some(Least::Amount(u64::try_from(crate::quantity::value(text)?).ok()?));
    };
    let share: f64 = percent.parse().ok()?;
    (0.0..=100.0).contains(&share).then_some(Least::Share((share * 100.0) as u64))
}

/// All rules of eviction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// What must stay free; a pod is evicted at once.
    pub hard: Thresholds,
    /// What should stay free; a pod is evicted when it has not for a time.
    soft: BTreeMap<Signal, (Least, SignedDuration)>,
    /// How much more than its threshold must be free before eviction ends.
    reclaim: BTreeMap<Signal, Least>,
    /// The most grace of a pod that a soft threshold evicts.
    pub soft_grace_max: SignedDuration,
}

impl Rules {
    /// Adds soft thresholds (`memory.available<1Gi`), each with its grace period (`memory.available=1m30s`), and the
    /// most seconds that a pod gets which they evict.
    pub fn set_soft(&mut self, thresholds: &str, grace: &str, most: u32) -> Result<(), String> {
        self.soft_grace_max = SignedDuration::from_secs(most.into());
        let soft = list(thresholds, '<', "SIGNAL<QUANTITY or SIGNAL<PERCENT%", least)?;
        let grace = list(grace, '=', "SIGNAL=DURATION, such as memory.available=1m30s", |text| {
            text.parse::<SignedDuration>().ok().filter(|d| !d.is_negative())
        })?;
        let one = |(signal, least)| match grace.get(&signal) {
            Some(time) => Ok((signal, (least, *time))),
            None => Err(format!("the soft eviction threshold of {} has no grace period", signal.name())),
        };
        self.soft = soft.into_iter().map(one).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Sets how much more must be free before eviction ends (`memory.available=100Mi`).
    pub fn set_reclaim(&mut self, text: &str) -> Result<(), String> {
        self.reclaim = list(text, '=', "SIGNAL=QUANTITY or SIGNAL=PERCENT%", least)?;
        Ok(())
    }

    /// What must or should stay free of a disk of images, whichever is more.
    pub fn wanted(&self, signal: Signal, capacity: u64) -> u64 {
        let soft = self.soft.get(&signal).map_or(0, |(least, _)| least.of(capacity));
        self.hard.of(signal, capacity).max(soft)
    }
}

/// A threshold that is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Met {
    /// What is there.
    pub reading: Reading,
    /// What should be free.
    pub threshold: u64,
    /// Whether it is a soft one.
    pub soft: bool,
}

/// Which thresholds were met before: a soft one counts after a time, and one that led to eviction is met until more
/// than it asks for is free.
#[derive(Debug, Clone, Default)]
pub struct Known {
    since: BTreeMap<(Signal, bool), Timestamp>,
    reclaiming: BTreeSet<(Signal, bool)>,
}

impl Known {
    /// The thresholds that are met, memory first, and of these the ones for which a pod may be evicted now.
    pub fn look(&mut self, rules: &Rules, readings: &[Reading], now: Timestamp) -> (Vec<Met>, Vec<Met>) {
        let (mut met, mut due) = (Vec::new(), Vec::new());
        let mut sorted = readings.to_vec();
        sorted.sort_by_key(|r| r.signal);
        for reading in sorted.into_iter().filter(|r| r.capacity > 0) {
            let signal = reading.signal;
            let hard = (rules.hard.of(signal, reading.capacity), SignedDuration::ZERO);
            let soft = rules.soft.get(&signal).map(|(least, time)| (least.of(reading.capacity), *time));
            for (soft, (threshold, time)) in
                [(false, Some(hard)), (true, soft)].into_iter().filter_map(|(soft, rule)| Some((soft, rule?)))
            {
                let key = (signal, soft);
                let more = rules.reclaim.get(&signal).filter(|_| self.reclaiming.contains(&key));
                let least = threshold.saturating_add(more.map_or(0, |m| m.of(reading.capacity)));
                if threshold == 0 || reading.available >= least {
                    self.since.remove(&key);
                    self.reclaiming.remove(&key);
                    continue;
                }
                let one = Met { reading, threshold, soft };
                met.push(one);
                let since = *self.since.entry(key).or_insert(now);
                if now.duration_since(since) >= time {
                    self.reclaiming.insert(key);
                    due.push(one);
                }
            }
        }
        (met, due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let plain = Thresholds::default();
        assert_eq!(plain.of(Signal::Memory, 1 << 40), 100 << 20);
        assert_eq!(plain.of(Signal::NodeFs, 1000), 100);
        let given: Thresholds = "memory.available<1Gi, nodefs.available<12.5%".parse().expect("thresholds");
        assert_eq!(given.of(Signal::Memory, 0), 1 << 30);
        assert_eq!(given.of(Signal::NodeFs, 1000), 125);
        assert_eq!(given.of(Signal::ImageFs, 1000), 0);
        for bad in ["memory.available>1Gi", "memory.free<1Gi", "memory.available<x", "nodefs.available<101%"]
        {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }

    /// `available` of 1000, second by second; `m` is met, `d` due.
    fn story(rules: &Rules, readings: &[u64]) -> String {
        let mut known = Known::default();
        let mut tell = |(second, available): (usize, &u64)| {
            let reading = Reading { signal: Signal::Memory, available: *available, capacity: 1000 };
            let now = Timestamp::from_second(i64::try_from(second).expect("few")).expect("a time");
            let (met, due) = known.look(rules, &[reading], now);
            format!("{}{}", "m".repeat(met.len()), "d".repeat(due.len()))
        };
        readings.iter().enumerate().map(&mut tell).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn soft_thresholds_wait_and_reclaim_lasts() {
        let mut rules = Rules { hard: "memory.available<10".parse().expect("hard"), ..Rules::default() };
        assert_eq!(story(&rules, &[10, 9, 10]), " md ");
        rules.set_soft("memory.available<10%", "memory.available=2s", 0).expect("soft");
        assert_eq!(story(&rules, &[100, 99, 99, 99, 99, 100, 99]), " m m md md  m");
        rules.set_reclaim("memory.available=50").expect("reclaim");
        // Once it was due, it is until 150 are free; the hard one until 60 are.
        assert_eq!(story(&rules, &[99, 99, 99, 120, 149, 150, 149]), "m m md md md  ");
        assert_eq!(story(&rules, &[9, 59, 60, 59]), "mmd mmd md md");
        for (soft, grace) in [("memory.available<1", ""), ("memory.available<1", "memory.available=x")] {
            assert!(Rules::default().set_soft(soft, grace, 0).is_err(), "{grace}");
        }
    }
}
