//! How many replicas a resource metric asks for. Follows upstream's `replica_calculator.go`.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// Pods this young may use CPU for their start alone.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_mins(5);
/// Pods that were never ready until this age have not started yet.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);

/// What a pod uses, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The amount.
    pub milli: i64,
    /// When it was taken.
    pub at: Timestamp,
    /// Seconds over which it was taken.
    pub window_s: f64,
}

/// What the metric should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Percent of the requests.
    Utilization(i32),
    /// Thousandths for each pod.
    Average(i64),
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The replicas asked for.
    pub replicas: i32,
    /// Percent of the requests that is used now.
    pub utilization: Option<i32>,
    /// Thousandths that each pod uses now.
    pub average_milli: i64,
}

/// How far the ratio may be from 1 without any change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Below.
    pub down: f64,
    /// Above.
    pub up: f64,
}

impl Tolerances {
    fn hold(&self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// The pods by what their figures are worth.
#[derive(Default)]
struct Groups<'a> {
    ready: Vec<&'a str>,
    unready: Vec<&'a str>,
    missing: Vec<&'a str>,
}

fn group<'a>(pods: &[&'a Pod], samples: &BTreeMap<&str, Sample>, cpu: bool, now: Timestamp) -> Groups<'a> {
    let mut groups = Groups::default();
    for p in pods {
        let name = pod::name(*p);
        if pod::is_deleting(*p) || pod::phase(p) == "Failed" {
            continue;
        }
        let sample = samples.get(name);
        if pod::phase(p) == "Pending" {
            groups.unready.push(name);
        } else if let Some(sample) = sample {
            let waits = cpu && is_starting(p, sample, now);
            if waits { groups.unready.push(name) } else { groups.ready.push(name) }
        } else {
            groups.missing.push(name);
        }
    }
    groups
}

/// Whether the pod's CPU is that of its start.
fn is_starting(p: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = p.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0);
    let (Some(ready), Some(started)) = (pod::condition(p, "Ready"), started) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(started, |t| t.0);
    let not_ready = ready.status == "False";
    if started.saturating_add(CPU_INITIALIZATION).is_ok_and(|until| until > now) {
        let whole = since.saturating_add(SignedDuration::from_secs_f64(sample.window_s));
        not_ready || whole.is_ok_and(|whole| sample.at < whole)
    } else {
        not_ready && started.saturating_add(INITIAL_READINESS).is_ok_and(|until| until > since)
    }
}

/// What of a pod's requests belongs to the metric: `Err` names the container that has none.
pub type Requests<'a> = dyn Fn(&Pod) -> Result<i64, String> + 'a;

/// The replicas for a metric whose samples are given by pod name.
pub fn count(
    current: i32,
    pods: &[&Pod],
    samples: &BTreeMap<&str, Sample>,
    wanted: Wanted,
    requests: &Requests<'_>,
    (cpu, tolerances): (bool, Tolerances),
    now: Timestamp,
) -> Result<Outcome, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(pods, samples, cpu, now);
    let mut figures: BTreeMap<&str, i64> =
        groups.ready.iter().filter_map(|name| Some((*name, samples.get(name)?.milli))).collect();
    let requested: BTreeMap<&str, i64> = match wanted {
        Wanted::Average(_) => BTreeMap::new(),
        Wanted::Utilization(_) => {
            pods.iter().map(|p| Ok((pod::name(*p), requests(p)?))).collect::<Result<_, String>>()?
        }
    };
    if figures.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    let ratio = |figures: &BTreeMap<&str, i64>| -> (f64, Option<i32>) {
        let used: i64 = figures.values().sum();
        match wanted {
            Wanted::Utilization(percent) => {
                let asked: i64 = figures.keys().filter_map(|name| requested.get(name)).sum();
                let now = used.saturating_mul(100).checked_div(asked).unwrap_or(0);
                (now as f64 / f64::from(percent.max(1)), i32::try_from(now).ok())
            }
            Wanted::Average(milli) => {
                let each = used / i64::try_from(figures.len()).unwrap_or(1).max(1);
                (each as f64 / milli.max(1) as f64, None)
            }
        }
    };
    let (first, utilization) = ratio(&figures);
    let average_milli = figures.values().sum::<i64>() / i64::try_from(figures.len()).unwrap_or(1).max(1);
    let done = |replicas: i32| Ok(Outcome { replicas, utilization, average_milli });
    let up_with_unready = !groups.unready.is_empty() && first > 1.0;
    if !up_with_unready && groups.missing.is_empty() {
        let replicas = (first * groups.ready.len() as f64).ceil() as i32;
        return done(if tolerances.hold(first) { current } else { replicas });
    }
    // What is not known is taken for what speaks against the change.
    for name in &groups.missing {
        let assumed = match wanted {
            _ if first >= 1.0 => 0,
            Wanted::Utilization(percent) => {
                requested.get(name).copied().unwrap_or(0) * i64::from(percent.max(100)) / 100
            }
            Wanted::Average(milli) => milli,
        };
        figures.insert(name, assumed);
    }
    if up_with_unready {
        figures.extend(groups.unready.iter().map(|name| (*name, 0)));
    }
    let (second, _) = ratio(&figures);
    if tolerances.hold(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
        return done(current);
    }
    let replicas = (second * figures.len() as f64).ceil() as i32;
    let backwards = (second < 1.0 && replicas > current) || (second > 1.0 && replicas < current);
    done(if backwards { current } else { replicas })
}
