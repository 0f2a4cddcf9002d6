//! How fast a target may be scaled: stabilization windows and policies. Follows upstream's `horizontal.go`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerSpec};

/// What is remembered of a target between passes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What was recommended, and when.
    pub recommendations: Vec<(Timestamp, i32)>,
    /// Replicas added, and when.
    pub ups: Vec<(Timestamp, i32)>,
    /// Replicas removed, and when.
    pub downs: Vec<(Timestamp, i32)>,
}

/// Seconds of the default window before a target shrinks.
const DOWN_WINDOW_S: i32 = 300;
/// Nothing older than this is looked at: the longest window and period there may be.
const MEMORY: SignedDuration = SignedDuration::from_hours(1);

struct Rules {
    window_s: i32,
    select: String,
    policies: Vec<HPAScalingPolicy>,
    up: bool,
}

fn policy(kind: &str, value: i32, seconds: i32) -> HPAScalingPolicy {
    HPAScalingPolicy { type_: kind.to_owned(), value, period_seconds: seconds }
}

impl Rules {
    fn of(spec: &HorizontalPodAutoscalerSpec, up: bool) -> Self {
        let behavior = spec.behavior.as_ref();
        let given: Option<&HPAScalingRules> =
            behavior.and_then(|b| if up { b.scale_up.as_ref() } else { b.scale_down.as_ref() });
        let default = match up {
            true => vec![policy("Pods", 4, 15), policy("Percent", 100, 15)],
            false => vec![policy("Percent", 100, 15)],
        };
        Self {
            window_s: given.and_then(|g| g.stabilization_window_seconds).unwrap_or(if up {
                0
            } else {
                DOWN_WINDOW_S
            }),
            select: given.and_then(|g| g.select_policy.clone()).unwrap_or_else(|| "Max".to_owned()),
            policies: given.and_then(|g| g.policies.clone()).filter(|p| !p.is_empty()).unwrap_or(default),
            up,
        }
    }

    /// The most (or, downwards, the fewest) replicas that the policies allow now.
    fn limit(&self, current: i32, memory: &Memory, now: Timestamp) -> i32 {
        let changed = |policy: &HPAScalingPolicy, list: &[(Timestamp, i32)]| -> i32 {
            let from = now - SignedDuration::from_secs(i64::from(policy.period_seconds));
            list.iter().filter(|(at, _)| *at > from).map(|(_, n)| n).sum()
        };
        let each = self.policies.iter().map(|p| {
            let start = current - changed(p, &memory.ups) + changed(p, &memory.downs);
            let share = f64::from(p.value) / 100.0;
            match (self.up, p.type_ == "Percent") {
                (true, true) => (f64::from(start) * (1.0 + share)).ceil() as i32,
                (true, false) => start + p.value,
                (false, true) => (f64::from(start) * (1.0 - share)) as i32,
                (false, false) => start - p.value,
            }
        });
        let fastest = (self.select == "Max") == self.up;
        let found = match self.select.as_str() {
            "Disabled" => Some(current),
            _ if fastest => each.max(),
            _ => each.min(),
        };
        found.unwrap_or(current)
    }
}

/// Why the wish was bounded: the words of the condition ScalingLimited.
pub type Limited = Option<(&'static str, &'static str)>;

/// What is done of `wish` now.
pub fn bounded(
    spec: &HorizontalPodAutoscalerSpec,
    memory: &mut Memory,
    current: i32,
    wish: i32,
    now: Timestamp,
) -> (i32, i32, Limited) {
    let old = |at: &Timestamp| now.duration_since(*at) > MEMORY;
    memory.recommendations.retain(|(at, _)| !old(at));
    memory.ups.retain(|(at, _)| !old(at));
    memory.downs.retain(|(at, _)| !old(at));
    let (up, down) = (Rules::of(spec, true), Rules::of(spec, false));
    let within = |rules: &Rules| {
        let from = now - SignedDuration::from_secs(i64::from(rules.window_s));
        memory.recommendations.iter().filter(move |(at, _)| *at > from).map(|(_, n)| *n).collect::<Vec<_>>()
    };
    let highest = within(&down).into_iter().chain([wish]).max().unwrap_or(wish);
    let lowest = within(&up).into_iter().chain([wish]).min().unwrap_or(wish);
    memory.recommendations.push((now, wish));
    let stable = if current < lowest {
        lowest
    } else if current > highest {
        highest
    } else {
        current
    };
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    let (done, limited): (i32, Limited) = if stable > current {
        let rate = up.limit(current, memory, now).max(current);
        let (most, why) = match rate < max {
            true => (
                rate,
                (
                    "ScaleUpLimit",
                    "the desired replica count is increasing faster than the maximum scale rate",
                ),
            ),
            false => {
                (max, ("TooManyReplicas", "the desired replica count is more than the maximum replica count"))
            }
        };
        if stable > most { (most, Some(why)) } else { (stable, None) }
    } else if stable < current {
        let rate = down.limit(current, memory, now).min(current);
        let (least, why) = match rate > min {
            true => (
                rate,
                (
                    "ScaleDownLimit",
                    "the desired replica count is decreasing faster than the maximum scale rate",
                ),
            ),
            false => {
                (min, ("TooFewReplicas", "the desired replica count is less than the minimum replica count"))
            }
        };
        if stable < least { (least, Some(why)) } else { (stable, None) }
    } else {
        (stable, None)
    };
    (done, stable, limited)
}

/// Remembers a change of the target.
pub fn scaled(memory: &mut Memory, from: i32, to: i32, now: Timestamp) {
    match to > from {
        true => memory.ups.push((now, to - from)),
        false => memory.downs.push((now, from - to)),
    }
}
