//! Kinds that make pods from a template.

use super::{Found, claim_spec, hostname, pod};
use crate::KindDef;
use crate::validation::check::At;

/// From this many completions and pods at once on, an Indexed job may lose count of failed indexes.
const COMPLETIONS_SOFT: i64 = 100_000;
const PARALLELISM_SOFT: i64 = 10_000;

/// A new object.
pub fn create(def: &KindDef, at: &At<'_>, found: &mut Found) {
    if matches!(def.kind.as_ref(), "Deployment" | "ReplicaSet" | "ReplicationController" | "Job" | "CronJob")
    {
        hostname(at, "this is used in Pod names and hostnames", found);
    }
    body(def, at, found);
}

/// A changed object: templates are looked at only when what they are part of changed.
pub fn update(def: &KindDef, at: &At<'_>, old: &At<'_>, found: &mut Found) {
    if !at.get("spec").same(&old.get("spec")) || def.kind == "PodTemplate" {
        body(def, at, found);
    }
    let schedule = at.get("spec");
    if def.kind == "CronJob" && schedule.get("schedule").text().contains("TZ") {
        found.push(
            "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
}

fn body(def: &KindDef, at: &At<'_>, found: &mut Found) {
    let spec = at.get("spec");
    match def.kind.as_ref() {
        "PodTemplate" => pod::pod(&at.get("template"), true, found),
        "ControllerRevision" => {}
        "Job" => job(&spec, found),
        "CronJob" => job(&spec.get("jobTemplate").get("spec"), found),
        "StatefulSet" => {
            pod::pod(&spec.get("template"), true, found);
            let mut claims = Found::new();
            spec.get("volumeClaimTemplates").items().for_each(|c| claim_spec(&c.get("spec"), &mut claims));
            // Upstream leaves the step out of the path.
            found.extend(claims.into_iter().map(|text| text.replacen("].spec.", "].", 1)));
            if spec.get("revisionHistoryLimit").int() < 0 {
                found.push(
                    "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                        .to_owned(),
                );
            }
        }
        _ => pod::pod(&spec.get("template"), true, found),
    }
}

fn job(spec: &At<'_>, found: &mut Found) {
    if spec.get("completionMode").text() == "Indexed"
        && spec.get("completions").int() > COMPLETIONS_SOFT
        && spec.get("parallelism").int() > PARALLELISM_SOFT
    {
        found.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            spec.place()
        ));
    }
    pod::pod(&spec.get("template"), true, found);
}
