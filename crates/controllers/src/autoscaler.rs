//! HorizontalPodAutoscaler v2 on resource metrics. Follows upstream's `pkg/controller/podautoscaler`.

pub mod behavior;
pub mod replicas;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition,
    HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::{Action, Note, Plan, Target, Wake};
pub use behavior::Memory;
use replicas::{Outcome, Sample, Tolerances, Wanted, count};

/// How often an autoscaler looks at its metrics.
pub const PERIOD: SignedDuration = SignedDuration::from_secs(15);
const TOLERANCE: f64 = 0.1;

/// What a container uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// The container.
    pub container: String,
    /// Thousandths by resource.
    pub milli: BTreeMap<String, i64>,
}

/// What a pod uses, by container.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUsage {
    /// Its containers.
    pub containers: Vec<Usage>,
    /// When the figures were taken.
    pub at: Timestamp,
    /// Seconds over which they were taken.
    pub window_s: f64,
}

/// What is scaled.
pub struct Scale<'a> {
    /// The object.
    pub target: Target,
    /// The replicas wanted now.
    pub wanted: i32,
    /// The replicas there are.
    pub current: i32,
    /// Its pods.
    pub pods: Vec<&'a Pod>,
}

/// What the plan is made from.
pub struct View<'a> {
    /// The autoscaler.
    pub hpa: &'a HorizontalPodAutoscaler,
    /// What it scales, or why that is not known.
    pub scale: Result<Scale<'a>, String>,
    /// What the pods use by name, or why that is not known.
    pub metrics: Result<BTreeMap<String, PodUsage>, String>,
}

/// What one metric says.
struct Said {
    replicas: i32,
    name: String,
    status: MetricStatus,
}

/// A metric that says nothing.
struct Silent {
    reason: &'static str,
    message: String,
}

struct Conditions<'a> {
    old: &'a [HorizontalPodAutoscalerCondition],
    new: Vec<HorizontalPodAutoscalerCondition>,
    now: Timestamp,
}

impl Conditions<'_> {
    fn set(&mut self, kind: &str, good: bool, reason: &str, message: impl Into<String>) {
        let status = if good { "True" } else { "False" };
        let same = self.old.iter().find(|c| c.type_ == kind && c.status == status);
        let now = Time(Timestamp::from_second(self.now.as_second()).unwrap_or(self.now));
        let since = same.and_then(|c| c.last_transition_time.clone()).unwrap_or(now);
        let made = HorizontalPodAutoscalerCondition {
            last_transition_time: Some(since),
            message: Some(message.into()),
            reason: Some(reason.to_owned()),
            status: status.to_owned(),
            type_: kind.to_owned(),
        };
        self.new.retain(|c| c.type_ != kind);
        self.new.push(made);
    }
}

/// Scales the target when its metrics ask for it, and tells what was seen.
#[must_use]
pub fn plan(view: &View<'_>, memory: &mut Memory, now: Timestamp) -> Plan {
    let hpa = view.hpa;
    let spec = &hpa.spec;
    let old = hpa.status.clone().unwrap_or_default();
    let known = old.conditions.clone().unwrap_or_default();
    let mut conditions = Conditions { old: &known, new: known.clone(), now };
    let mut plan = Plan { wake: Wake::OnChange.or_at(now.checked_add(PERIOD).ok()), ..Plan::default() };
    let mut status =
        HorizontalPodAutoscalerStatus { observed_generation: hpa.metadata.generation, ..old.clone() };
    match &view.scale {
        Err(why) => {
            let text = format!("the HPA controller was unable to get the target's current scale: {why}");
            conditions.set("AbleToScale", false, "FailedGetScale", text);
            plan.actions.push(Action::event(hpa, Note::warning("FailedGetScale", why.clone())));
        }
        Ok(scale) => {
            conditions.set(
                "AbleToScale",
                true,
                "SucceededGetScale",
                "the HPA controller was able to get the target's current scale",
            );
            let decision = decide(view, spec, scale, memory, &mut conditions, &mut plan, now);
            status.current_replicas = Some(scale.current).filter(|n| *n != 0);
            if let Some((desired, why, metrics)) = decision {
                status.current_metrics = Some(metrics).filter(|m| !m.is_empty());
                status.desired_replicas = desired;
                if desired != scale.wanted {
                    let text = format!("New size: {desired}; reason: {why}");
                    let patch = json!({"spec": {"replicas": desired}});
                    plan.actions.push(Action::merge(scale.target.clone(), "scale", patch));
                    plan.actions.push(Action::event(hpa, Note::normal("SuccessfulRescale", text)));
                    let done = format!("the HPA controller was able to update the target scale to {desired}");
                    conditions.set("AbleToScale", true, "SucceededRescale", done);
                    behavior::scaled(memory, scale.wanted, desired, now);
                    status.last_scale_time = Some(Time(now));
                }
            } else {
                status.desired_replicas = scale.wanted;
            }
        }
    }
    status.conditions = Some(conditions.new);
    if status != old {
        let new = HorizontalPodAutoscaler { status: Some(status), ..hpa.clone() };
        plan.actions.extend(Action::patch_status(hpa, &new));
    }
    plan
}

type Decision = Option<(i32, String, Vec<MetricStatus>)>;

fn decide(
    view: &View<'_>,
    spec: &HorizontalPodAutoscalerSpec,
    scale: &Scale<'_>,
    memory: &mut Memory,
    conditions: &mut Conditions<'_>,
    plan: &mut Plan,
    now: Timestamp,
) -> Decision {
    let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
    if scale.wanted == 0 && min != 0 {
        let text = "scaling is disabled since the replica count of the target is zero";
        conditions.set("ScalingActive", false, "ScalingDisabled", text);
        return Some((0, String::new(), Vec::new()));
    }
    if scale.wanted > max {
        return Some((max, "Current number of replicas above Spec.MaxReplicas".to_owned(), Vec::new()));
    }
    if scale.wanted < min {
        return Some((min, "Current number of replicas below Spec.MinReplicas".to_owned(), Vec::new()));
    }
    let (mut said, mut silent): (Vec<Said>, Vec<Silent>) = (Vec::new(), Vec::new());
    for metric in spec.metrics.iter().flatten() {
        match judge(metric, view, scale, now) {
            Ok(one) => said.push(one),
            Err(one) => silent.push(one),
        }
    }
    for one in &silent {
        plan.actions.push(Action::event(view.hpa, Note::warning(one.reason, one.message.clone())));
    }
    let most = said.iter().max_by_key(|one| one.replicas);
    // Without all figures a target may grow, but not shrink.
    let usable = most.filter(|one| silent.is_empty() || one.replicas > scale.wanted);
    let Some(most) = usable else {
        let (reason, message) = match silent.first() {
            Some(one) => (one.reason, one.message.clone()),
            None => ("InvalidMetricSourceType", "no metric is given".to_owned()),
        };
        let text = format!("the HPA was unable to compute the replica count: {message}");
        conditions.set("ScalingActive", false, reason, text);
        return None;
    };
    let text = format!("the HPA was able to successfully calculate a replica count from {}", most.name);
    conditions.set("ScalingActive", true, "ValidMetricFound", text);
    let wish = most.replicas;
    let (desired, stable, limited) = behavior::bounded(spec, memory, scale.wanted, wish, now);
    let (reason, text) = match stable == wish {
        true => ("ReadyForNewScale", "recommended size matches current size"),
        false if stable > wish => (
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        ),
        false => (
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        ),
    };
    conditions.set("AbleToScale", true, reason, text);
    match limited {
        Some((reason, text)) => conditions.set("ScalingLimited", true, reason, text),
        None => conditions.set(
            "ScalingLimited",
            false,
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        ),
    }
    let why = match desired > scale.wanted {
        true => format!("{} above target", most.name),
        false => "All metrics below target".to_owned(),
    };
    Some((desired, why, said.into_iter().map(|one| one.status).collect()))
}

/// What one metric asks for.
fn judge(metric: &MetricSpec, view: &View<'_>, scale: &Scale<'_>, now: Timestamp) -> Result<Said, Silent> {
    let (container, name, target, reason, kind) = match (&metric.resource, &metric.container_resource) {
        (Some(r), _) => (None, &r.name, &r.target, "FailedGetResourceMetric", "resource"),
        (_, Some(r)) => {
            (Some(&r.container), &r.name, &r.target, "FailedGetContainerResourceMetric", "container resource")
        }
        _ => {
            let message =
                format!("unable to get metrics of type {:?}: no such metrics API is served", metric.type_);
            let reason = match metric.type_.as_str() {
                "Pods" => "FailedGetPodsMetric",
                "Object" => "FailedGetObjectMetric",
                "External" => "FailedGetExternalMetric",
                _ => "InvalidMetricSourceType",
            };
            return Err(Silent { reason, message });
        }
    };
    let failed = |what: &str| Silent {
        reason,
        message: format!(
            "failed to get {name} {}: {what}",
            if is_share(target) { "utilization" } else { kind }
        ),
    };
    let usage = view
        .metrics
        .as_ref()
        .map_err(|why| failed(&format!("unable to get metrics for resource {name}: {why}")))?;
    let fits = |own: &str| container.is_none_or(|wanted| wanted == own);
    let sample = |pod: &PodUsage| -> Option<Sample> {
        let chosen = pod.containers.iter().filter(|c| fits(&c.container));
        let all: Option<Vec<i64>> = chosen.map(|c| c.milli.get(name.as_str()).copied()).collect();
        let all = all.filter(|all| !all.is_empty())?;
        Some(Sample { milli: all.iter().sum(), at: pod.at, window_s: pod.window_s })
    };
    let samples: BTreeMap<&str, Sample> =
        usage.iter().filter_map(|(pod, used)| Some((pod.as_str(), sample(used)?))).collect();
    let wanted = match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => Wanted::Utilization(percent),
        (None, Some(value)) => Wanted::Average(milli(value).unwrap_or(1)),
        (None, None) => return Err(failed("the metric has no target")),
    };
    let requests = |p: &Pod| requested(p, name, &fits);
    let tolerances = tolerances(&view.hpa.spec);
    let outcome =
        count(scale.wanted, &scale.pods, &samples, wanted, &requests, (name == "cpu", tolerances), now)
            .map_err(|why| failed(&why))?;
    let suffix = if is_share(target) { " utilization (percentage of request)" } else { "" };
    Ok(Said {
        replicas: outcome.replicas,
        name: format!("{name} {kind}{suffix}"),
        status: status_of(metric, container, name, &outcome),
    })
}

fn is_share(target: &MetricTarget) -> bool {
    target.average_utilization.is_some()
}

fn tolerances(spec: &HorizontalPodAutoscalerSpec) -> Tolerances {
    let behavior = spec.behavior.as_ref();
    let given = |q: &Option<Quantity>| q.as_ref().and_then(milli).map(|m| m as f64 / 1000.0);
    Tolerances {
        down: behavior.and_then(|b| given(&b.scale_down.as_ref()?.tolerance)).unwrap_or(TOLERANCE),
        up: behavior.and_then(|b| given(&b.scale_up.as_ref()?.tolerance)).unwrap_or(TOLERANCE),
    }
}

/// Thousandths of a quantity.
#[must_use]
pub fn milli(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<base::quantity::Quantity>().ok().map(|q| q.millis())
}

/// What the pod's containers request together.
fn requested(p: &Pod, resource: &str, fits: &dyn Fn(&str) -> bool) -> Result<i64, String> {
    let Some(spec) = &p.spec else { return Ok(0) };
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut sum = 0;
    for c in spec.containers.iter().chain(sidecars).filter(|c| fits(&c.name)) {
        let own = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        sum += own.and_then(milli).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {}", c.name, crate::pod::name(p))
        })?;
    }
    Ok(sum)
}

fn status_of(metric: &MetricSpec, container: Option<&String>, name: &str, outcome: &Outcome) -> MetricStatus {
    let average = Quantity(base::quantity::Quantity::from_millis(outcome.average_milli).to_string());
    let current = MetricValueStatus {
        average_utilization: outcome.utilization,
        average_value: Some(average),
        value: None,
    };
    let mut status = MetricStatus { type_: metric.type_.clone(), ..MetricStatus::default() };
    match container {
        None => status.resource = Some(ResourceMetricStatus { current, name: name.to_owned() }),
        Some(container) => {
            status.container_resource = Some(ContainerResourceMetricStatus {
                container: container.clone(),
                current,
                name: name.to_owned(),
            });
        }
    }
    status
}

#[cfg(test)]
mod tests;
