//! Pod affinity terms and spread constraints as rules: which pods they speak of.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{PodAffinityTerm, TopologySpreadConstraint, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::affinity::selector_matches;
use crate::info::PodInfo;

/// Labels of namespaces by name.
pub type Namespaces = HashMap<String, BTreeMap<String, String>>;

/// An affinity term with the namespaces that it means for its owner.
#[derive(Debug, Clone)]
pub struct Term {
    /// The label whose values are its domains.
    pub topology_key: String,
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
    selector: Option<LabelSelector>,
}

impl Term {
    /// The term as `owner` means it.
    pub fn of(owner: &PodInfo, term: &PodAffinityTerm) -> Term {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(owner.namespace().to_owned());
        }
        // What `matchLabelKeys` says about the owner's labels becomes part of the selector, as upstream's API server
        // does at creation; saying it twice changes nothing.
        let labels = owner.pod.metadata.labels.as_ref();
        let like = term.match_label_keys.iter().flatten().map(|key| (key, "In"));
        let unlike = term.mismatch_label_keys.iter().flatten().map(|key| (key, "NotIn"));
        let mut selector = term.label_selector.clone();
        if let Some(selector) = &mut selector {
            for (key, operator) in like.chain(unlike) {
                let Some(value) = labels.and_then(|l| l.get(key)) else { continue };
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.to_owned(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
        Term {
            topology_key: term.topology_key.clone(),
            namespaces,
            namespace_selector: term.namespace_selector.clone(),
            selector,
        }
    }

    /// Whether the term speaks of the pod.
    pub fn accepts(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        let named = self.namespaces.iter().any(|n| n == pod.namespace());
        let is_meant = named
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|s| selector_matches(Some(s), namespaces.get(pod.namespace())));
        is_meant && selector_matches(self.selector.as_ref(), pod.pod.metadata.labels.as_ref())
    }

    /// The one namespace whose pods it can speak of, if it is one.
    pub fn only_namespace(&self) -> Option<&str> {
        match (&*self.namespaces, &self.namespace_selector) {
            ([one], None) => Some(one),
            _ => None,
        }
    }
}

/// Which pods are counted.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Those that all of these terms speak of.
    All(Vec<Term>),
    /// Those of this namespace that the selector selects and that are not going.
    Spread {
        /// The namespace.
        namespace: String,
        /// The selector; an empty one counts nothing.
        selector: Option<LabelSelector>,
    },
}

impl Rule {
    /// Whether the pod is counted.
    pub fn accepts(&self, pod: &PodInfo, namespaces: &Namespaces) -> bool {
        match self {
            Rule::All(terms) => terms.iter().all(|t| t.accepts(pod, namespaces)),
            Rule::Spread { namespace, selector } => {
                pod.namespace() == namespace
                    && pod.pod.metadata.deletion_timestamp.is_none()
                    && !selector.as_ref().is_some_and(is_empty)
                    && selector_matches(selector.as_ref(), pod.pod.metadata.labels.as_ref())
            }
        }
    }

    /// The one namespace whose pods can be counted, if it is one.
    pub fn only_namespace(&self) -> Option<&str> {
        match self {
            Rule::All(terms) => terms.iter().find_map(Term::only_namespace),
            Rule::Spread { namespace, .. } => Some(namespace),
        }
    }
}

/// Whether a selector selects everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// The selector of a spread constraint with what `matchLabelKeys` adds for this pod.
pub fn spread_selector(pod: &PodInfo, constraint: &TopologySpreadConstraint) -> Option<LabelSelector> {
    let mut selector = constraint.label_selector.clone();
    let labels = pod.pod.metadata.labels.as_ref();
    for key in constraint.match_label_keys.iter().flatten() {
        if let (Some(selector), Some(value)) = (&mut selector, labels.and_then(|l| l.get(key))) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: "In".to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    selector
}

/// Required affinity terms.
pub fn required_near(pod: &PodInfo) -> &[PodAffinityTerm] {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.pod_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// Required anti-affinity terms.
pub fn required_far(pod: &PodInfo) -> &[PodAffinityTerm] {
    let affinity = pod.spec().affinity.as_ref().and_then(|a| a.pod_anti_affinity.as_ref());
    affinity
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default()
}

/// Preferred terms with 1 for affinity and −1 for anti-affinity.
pub fn preferred(pod: &PodInfo) -> impl Iterator<Item = (&WeightedPodAffinityTerm, i64)> {
    let affinity = pod.spec().affinity.as_ref();
    let near = affinity
        .and_then(|a| a.pod_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    let far = affinity
        .and_then(|a| a.pod_anti_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref())
        .unwrap_or_default();
    near.iter().map(|t| (t, 1)).chain(far.iter().map(|t| (t, -1)))
}
