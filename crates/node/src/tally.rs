//! What this node counts for its metrics.

use std::collections::BTreeMap;

use base::exposition::Text;
use parking_lot::Mutex;
use pods::spec::Sort;

const ENDED: &str = "kubelet_terminated_containers_total";

/// Counts since the process started.
#[derive(Debug, Default)]
pub struct Tally {
    /// Ended containers by kind, exit code and reason. The reasons are a closed set of the runtime, the codes a byte.
    ended: Mutex<BTreeMap<(&'static str, i32, String), u64>>,
}

impl Tally {
    /// Counts a container that has ended.
    pub fn ended(&self, sort: Sort, exit_code: i32, reason: &str) {
        let kind = match sort {
            Sort::Init | Sort::Sidecar => "init_container",
            Sort::Regular => "container",
            Sort::Ephemeral => "ephemeral_container",
        };
        *self.ended.lock().entry((kind, exit_code, reason.to_owned())).or_default() += 1;
    }

    /// Writes the counts.
    pub fn write(&self, t: &mut Text) {
        t.family(ENDED, "counter", "Cumulative number of container terminations.");
        for ((kind, code, reason), count) in &*self.ended.lock() {
            let code = code.to_string();
            let labels =
                [("container_type", *kind), ("exit_code", code.as_str()), ("reason", reason.as_str())];
            t.sample(ENDED, &labels, *count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_by_kind_code_and_reason() {
        let tally = Tally::default();
        tally.ended(Sort::Regular, 139, "Error");
        tally.ended(Sort::Regular, 139, "Error");
        tally.ended(Sort::Init, 0, "Completed");
        tally.ended(Sort::Ephemeral, 1, "Error");
        let mut text = Text::default();
        tally.write(&mut text);
        let text = text.done();
        let sample = |labels: &str, count| format!("{ENDED}{{{labels}}} {count}\n");
        for want in [
            sample("container_type=\"container\",exit_code=\"139\",reason=\"Error\"", 2),
            sample("container_type=\"ephemeral_container\",exit_code=\"1\",reason=\"Error\"", 1),
            sample("container_type=\"init_container\",exit_code=\"0\",reason=\"Completed\"", 1),
        ] {
            assert!(text.contains(&want), "{want}: {text}");
        }
    }
}
