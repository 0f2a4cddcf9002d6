//! The flow schemas and priority levels that every cluster has. The mandatory ones are kept as they are here, the
//! suggested ones as long as nobody has taken them over.

use serde_json::{Value, json};

/// Says whether the server keeps an object up to date.
pub const KEPT: &str = "apf.kubernetes.io/autoupdate-spec";

/// A level: name, shares, lendable percent, and queues with hand size (none: requests are refused).
type Level = (&'static str, u32, u32, Option<(u32, u32)>);

const LEVELS: &[Level] = &[
    ("catch-all", 5, 0, None),
    ("system", 30, 33, Some((64, 6))),
    ("node-high", 40, 25, Some((64, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
    ("global-default", 20, 50, Some((128, 6))),
];

/// Requests that may wait in one queue of a default level.
const QUEUE_LENGTH: u32 = 50;

/// What a schema is about.
enum About {
    /// Resources and paths.
    All,
    /// These paths, to be read.
    Paths(&'static [&'static str]),
    /// Resources alone: verbs, group, names, and whether those without namespace are among them.
    Resources(&'static [Rule]),
}

type Rule = (&'static [&'static str], &'static str, &'static [&'static str], bool);

/// A schema: name, level, precedence, distinguisher, subjects, what it is about. A subject is `u:` with a user, `g:`
/// with a group, `s:` with the namespace of service accounts.
type Schema = (&'static str, &'static str, u32, &'static str, &'static [&'static str], About);

const ANY: &[&str] = &["*"];
const EVERYBODY: &[&str] = &["g:system:unauthenticated", "g:system:authenticated"];
const LEADERS: &[&str] = &["u:system:kube-controller-manager", "u:system:kube-scheduler", "s:kube-system"];

const SCHEMAS: &[Schema] = &[
    ("exempt", "exempt", 1, "", &["g:system:masters"], About::All),
    ("probes", "exempt", 2, "", EVERYBODY, About::Paths(&["/healthz", "/readyz", "/livez"])),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        LEADERS,
        About::Resources(&[(&["get", "create", "update"], "coordination.k8s.io", &["leases"], false)]),
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &["g:system:nodes"],
        About::Resources(&[
            (ANY, "", &["nodes", "nodes/status"], true),
            (ANY, "coordination.k8s.io", &["leases"], false),
        ]),
    ),
    ("system-nodes", "system", 500, "ByUser", &["g:system:nodes"], About::All),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &["u:system:kube-controller-manager"],
        About::All,
    ),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", &["u:system:kube-scheduler"], About::All),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", &["s:kube-system"], About::All),
    ("service-accounts", "workload-low", 9000, "ByUser", &["g:system:serviceaccounts"], About::All),
    ("global-default", "global-default", 9900, "ByUser", EVERYBODY, About::All),
    ("catch-all", "catch-all", 10000, "ByUser", EVERYBODY, About::All),
];

/// Whether a default object's spec is always the server's.
pub fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

/// The specs of the default levels by name.
pub fn levels() -> Vec<(&'static str, Value)> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    let level = |(name, shares, lendable, queues): &Level| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand,
                "queueLengthLimit": QUEUE_LENGTH}}),
        };
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable,
            "limitResponse": response});
        (*name, json!({"type": "Limited", "limited": limited}))
    };
    std::iter::once(("exempt", exempt)).chain(LEVELS.iter().map(level)).collect()
}

/// The specs of the default schemas by name.
pub fn schemas() -> Vec<(&'static str, Value)> {
    SCHEMAS.iter().map(|schema| (schema.0, schema_spec(schema))).collect()
}

fn schema_spec((_, level, precedence, distinguisher, subjects, about): &Schema) -> Value {
    let subject = |text: &&str| match text.split_once(':').unwrap_or(("", text)) {
        ("u", name) => json!({"kind": "User", "user": {"name": name}}),
        ("g", name) => json!({"kind": "Group", "group": {"name": name}}),
        (_, namespace) => {
            json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": namespace}})
        }
    };
    let mut rule = json!({"subjects": subjects.iter().map(subject).collect::<Vec<_>>()});
    let resource = |(verbs, group, resources, cluster): &Rule| {
        let mut rule =
            json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
        if *cluster {
            rule["clusterScope"] = true.into();
        }
        rule
    };
    match about {
        About::All => {
            rule["resourceRules"] = json!([resource(&(ANY, "*", ANY, true))]);
            rule["nonResourceRules"] = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        }
        About::Paths(paths) => {
            rule["nonResourceRules"] = json!([{"verbs": ["get"], "nonResourceURLs": paths}]);
        }
        About::Resources(rules) => {
            rule["resourceRules"] = rules.iter().map(resource).collect();
        }
    }
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !distinguisher.is_empty() {
        spec["distinguisherMethod"] = json!({"type": distinguisher});
    }
    spec
}
