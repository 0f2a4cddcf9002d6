//! Small plugins about pods and nodes: DefaultTolerationSeconds and TaintNodesByCondition.

use serde_json::{Value, json};

use super::{Operation, Request, items, list_mut, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// How long a pod stays on a node that is gone, in seconds, unless it says otherwise.
const STAY_SECONDS: u32 = 300;

/// Pods stay on lost nodes for a while.
pub fn default_tolerations(pod: &mut Value, request: &Request<'_>) {
    let changes = matches!(request.operation, Operation::Create | Operation::Update);
    if !changes || !request.is("", "pods") {
        return;
    }
    for key in [NOT_READY, UNREACHABLE] {
        let tolerated = items(pod, "/spec/tolerations").iter().any(|toleration| {
            ["", key].contains(&text(toleration, "/key"))
                && ["", "NoExecute"].contains(&text(toleration, "/effect"))
        });
        if tolerated {
            continue;
        }
        let toleration = json!({"effect": "NoExecute", "key": key, "operator": "Exists",
            "tolerationSeconds": STAY_SECONDS});
        if let Some(list) = pod.get_mut("spec").and_then(|spec| list_mut(spec, "tolerations")) {
            list.push(toleration);
        }
    }
}

/// A new node takes no pods until it is known to be ready.
pub fn taint_node(node: &mut Value, request: &Request<'_>) {
    if !request.creates("", "nodes") {
        return;
    }
    let tainted = items(node, "/spec/taints")
        .iter()
        .any(|taint| text(taint, "/key") == NOT_READY && text(taint, "/effect") == "NoSchedule");
    let Some(map) = node.as_object_mut().filter(|_| !tainted) else { return };
    let spec = map.entry("spec").or_insert_with(|| json!({}));
    if let Some(list) = list_mut(spec, "taints") {
        list.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
    }
}
