//! Sets of completion indexes, and their text form: `0-3,7`.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::{INDEX_FAILURES, index_of, policy};
use crate::pod;

/// A set of completion indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Parses the text form; what is not understood, or not below `end`, is left out.
    #[must_use]
    pub fn parse(text: &str, end: i32) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse::<i32>().ok()?, last.trim().parse::<i32>().ok()?))
        });
        Self(ranges.flat_map(|(first, last)| first.max(0)..=last.min(end - 1)).collect())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// How many are in both.
    #[must_use]
    pub fn shared(&self, other: &Self) -> usize {
        self.0.intersection(&other.0).count()
    }
}

impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for index in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => ranges.push((*index, *index)),
            }
        }
        let text = ranges.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        f.write_str(&text.collect::<Vec<_>>().join(","))
    }
}

/// Indexes that have succeeded: by the status, or by a pod.
pub(super) fn succeeded(job: &Job, pods: &[&Pod], completions: i32) -> Indexes {
    let text = job.status.as_ref().and_then(|s| s.completed_indexes.as_deref()).unwrap_or("");
    let mut done = Indexes::parse(text, completions);
    let succeeded = pods.iter().filter(|p| pod::phase(p) == "Succeeded").filter_map(|p| index_of(p));
    done.0.extend(succeeded.filter(|i| *i < completions));
    done
}

/// How often pods of the index failed, by the newest of them.
pub(super) fn failures(pods: &[&Pod], index: i32) -> i32 {
    let of = pods
        .iter()
        .filter(|p| index_of(p) == Some(index) && (pod::phase(p) == "Failed" || pod::is_deleting(**p)));
    of.map(|p| own_failures(p) + 1).max().unwrap_or(0)
}

fn own_failures(p: &Pod) -> i32 {
    let annotations = p.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(INDEX_FAILURES)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Indexes that have failed for good: by the status, by the count of their failures, or by the policy.
pub(super) fn failed(job: &Job, pods: &[&Pod], completions: i32) -> Indexes {
    let text = job.status.as_ref().and_then(|s| s.failed_indexes.as_deref()).unwrap_or("");
    let mut lost = Indexes::parse(text, completions);
    let Some(spec) = &job.spec else { return lost };
    let limit = spec.backoff_limit_per_index.unwrap_or(i32::MAX);
    for p in pods.iter().filter(|p| pod::phase(p) == "Failed") {
        let ignored = policy::is_ignored(spec, p);
        let ends = !ignored && own_failures(p) >= limit;
        if let Some(index) =
            index_of(p).filter(|i| *i < completions && (ends || policy::fails_index(spec, p)))
        {
            lost.0.insert(index);
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        for (text, want) in
            [("", ""), ("0,1,2", "0-2"), ("5,1-3,9-20", "1-3,5,9"), ("0,1,4", "0,1,4"), ("x,2", "2")]
        {
            assert_eq!(Indexes::parse(text, 10).to_string(), want, "{text}");
        }
    }
}
