//! Labels and taints that a pool puts on its nodes: what of them has to change on a Node that is there already.
//!
//! A node writes them when it registers, and its labels again at every start. What it may not do itself (taints) or
//! cannot know (what the pool said before) is decided here, from what the pool put there last time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NodePool;

/// What a pool puts on its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints, as `KEY[=VALUE]:EFFECT`.
    pub taints: Vec<String>,
}

/// A taint as a Node has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What becomes of pods that do not tolerate it.
    pub effect: String,
    /// Everything else that a Node says of it.
    #[serde(flatten)]
    pub rest: BTreeMap<String, String>,
}

/// What has to change on a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Labels that go.
    pub gone: Vec<String>,
    /// All taints, if they change.
    pub taints: Option<Vec<Taint>>,
}

fn taint(text: &str) -> Option<Taint> {
    let (marked, effect) = text.rsplit_once(':')?;
    let (key, value) = marked.split_once('=').map_or((marked, None), |(key, value)| (key, Some(value)));
    let value = value.filter(|value| !value.is_empty()).map(str::to_owned);
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), rest: BTreeMap::new() })
}

fn same(a: &Taint, b: &Taint) -> bool {
    (&a.key, &a.effect) == (&b.key, &b.effect)
}

impl Marks {
    /// What this pool wants.
    pub fn of(pool: &NodePool) -> Self {
        Self { labels: pool.labels.clone(), taints: pool.taints.clone() }
    }

    /// What has to change on a Node with these labels and taints, on which `known` was put last time. What a person
    /// took away from the Node or wrote over stays so.
    pub fn change(&self, known: &Self, labels: &BTreeMap<String, String>, taints: &[Taint]) -> Change {
        let gone = known.labels.iter().filter(|(key, value)| {
            !self.labels.contains_key(*key) && labels.get(*key).is_some_and(|now| now == *value)
        });
        let gone = gone.map(|(key, _)| key.clone()).collect();
        let before: Vec<Taint> = known.taints.iter().filter_map(|text| taint(text)).collect();
        let wanted: Vec<Taint> = self.taints.iter().filter_map(|text| taint(text)).collect();
        let mut after = taints.to_vec();
        after.retain(|own| {
            !before.iter().any(|old| same(old, own)) || wanted.iter().any(|new| same(new, own))
        });
        for new in wanted.into_iter().filter(|new| !before.contains(new)) {
            match after.iter_mut().find(|own| same(own, &new)) {
                Some(own) => own.value = new.value,
                None => after.push(new),
            }
        }
        Change { gone, taints: (after != taints).then_some(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(labels: &str, taints: &str) -> Marks {
        let pair = |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Marks {
            labels: labels.split_whitespace().filter_map(pair).collect(),
            taints: taints.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// What was put there, what is wanted, what the Node has; labels that go, and the taints afterwards.
    #[test]
    fn changes_by_table() {
        let cases = [
            ("nothing", ("", ""), ("", ""), ("x=1", "own:NoSchedule"), "", None),
            ("the first time", ("", ""), ("a=1", "t=1:NoSchedule"), ("a=1", ""), "", Some("t=1:NoSchedule")),
            (
                "as it was",
                ("a=1", "t:NoSchedule"),
                ("a=1", "t:NoSchedule"),
                ("a=1", "t:NoSchedule"),
                "",
                None,
            ),
            ("all go", ("a=1 b=2", "t:NoSchedule"), ("b=2", ""), ("a=1 b=2", "t:NoSchedule"), "a", Some("")),
            ("a label a person wrote", ("a=1", ""), ("", ""), ("a=2", ""), "", None),
            ("a taint a person took", ("", "t:NoSchedule"), ("", "t:NoSchedule"), ("", ""), "", None),
            (
                "another value, others stay",
                ("", "t=1:NoSchedule"),
                ("", "t=2:NoSchedule u:NoExecute"),
                ("", "own:NoSchedule t=1:NoSchedule"),
                "",
                Some("own:NoSchedule t=2:NoSchedule u:NoExecute"),
            ),
        ];
        for (name, known, wanted, has, gone, after) in cases {
            let taints = |text: &str| text.split_whitespace().filter_map(taint).collect::<Vec<_>>();
            let labels = marks(has.0, "").labels;
            let change = marks(wanted.0, wanted.1).change(&marks(known.0, known.1), &labels, &taints(has.1));
            let gone = gone.split_whitespace().map(str::to_owned).collect();
            assert_eq!(change, Change { gone, taints: after.map(taints) }, "{name}");
        }
    }
}
