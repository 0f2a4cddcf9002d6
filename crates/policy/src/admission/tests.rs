//! Tables of what the plugins do to objects.

use serde_json::{Value, json};

use super::*;

struct World(Vec<(&'static str, &'static str, &'static str, Value)>);

impl Lookup for World {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.list(group, plural, namespace).into_iter().find(|object| text(object, "/metadata/name") == name)
    }

    fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Value>> {
        let mine = self.0.iter().filter(|(g, p, ns, _)| (*g, *p, *ns) == (group, plural, namespace));
        mine.map(|(.., object)| Arc::new(object.clone())).collect()
    }
}

fn world() -> World {
    let class = |name: &str, value: i64, default: bool| json!({"metadata": {"name": name}, "value": value, "globalDefault": default});
    World(vec![
        ("", "namespaces", "", json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})),
        ("", "namespaces", "", json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}})),
        (
            "",
            "serviceaccounts",
            "a",
            json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "pull"}]}),
        ),
        (
            "",
            "serviceaccounts",
            "a",
            json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false}),
        ),
        ("scheduling.k8s.io", "priorityclasses", "", class("high", 1000, false)),
        (
            "node.k8s.io",
            "runtimeclasses",
            "",
            json!({"metadata": {"name": "vm"}, "handler": "vm",
            "overhead": {"podFixed": {"cpu": "100m"}}, "scheduling": {"nodeSelector": {"vm": "yes"}}}),
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            "",
            json!({"metadata": {"name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
        ),
    ])
}

fn request(
    operation: Operation,
    group: &'static str,
    plural: &'static str,
    namespace: &'static str,
) -> Request<'static> {
    Request {
        operation,
        group,
        plural,
        subresource: "",
        namespace,
        name: "x",
        old: None,
        letters: "bcdfg",
        user: "u",
        groups: &[],
    }
}

fn create_pod(spec: Value) -> Result<Value, String> {
    let mut pod = json!({"metadata": {"name": "x", "namespace": "a"}, "spec": spec});
    let request = request(Operation::Create, "", "pods", "a");
    mutate(&mut pod, &request, &world()).map_err(|refusal| refusal.to_string())?;
    validate(&pod, &request, &world()).map_err(|refusal| refusal.to_string())?;
    Ok(pod["spec"].take())
}

#[test]
fn pods_get_account_token_priority_and_tolerations() {
    let spec = create_pod(json!({"containers": [{"name": "c"}]})).expect("admitted");
    assert_eq!(
        spec,
        json!({
            "serviceAccountName": "default", "serviceAccount": "default",
            "imagePullSecrets": [{"name": "pull"}],
            "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
            "containers": [{"name": "c", "volumeMounts": [{"name": "kube-api-access-bcdfg", "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "volumes": [{"name": "kube-api-access-bcdfg", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}}],
            "tolerations": [
                {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
                {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}],
        })
    );
}

#[test]
fn pods_are_refused_in_upstreams_words() {
    let table = [
        (
            json!({"serviceAccountName": "no"}),
            "error looking up service account a/no: serviceaccount \"no\" not found",
        ),
        (json!({"priorityClassName": "no"}), "no PriorityClass with name no was found"),
        (
            json!({"priorityClassName": "high", "priority": 5}),
            "the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name",
        ),
        (json!({"runtimeClassName": "no"}), "pod rejected: RuntimeClass \"no\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
    ];
    for (spec, message) in table {
        assert_eq!(create_pod(spec.clone()), Err(message.to_string()), "{spec}");
    }
}

#[test]
fn accounts_and_pods_may_decline_a_token() {
    for spec in [
        json!({"serviceAccountName": "quiet", "containers": [{"name": "c"}]}),
        json!({"automountServiceAccountToken": false, "containers": [{"name": "c"}]}),
    ] {
        let spec = create_pod(spec).expect("admitted");
        assert_eq!(spec.get("volumes"), None);
    }
    let own = json!({"containers": [{"name": "c", "volumeMounts": [
        {"name": "v", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]});
    assert_eq!(create_pod(own).expect("admitted").get("volumes"), None);
}

#[test]
fn classes_fill_in_pods_and_claims() {
    let spec = create_pod(
        json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.1"}, "priorityClassName": "high"}),
    );
    let spec = spec.expect("admitted");
    assert_eq!((&spec["priority"], &spec["nodeSelector"]), (&json!(1000), &json!({"vm": "yes"})));
    let mut claim = json!({"metadata": {"name": "x"}, "spec": {}});
    let create = request(Operation::Create, "", "persistentvolumeclaims", "a");
    mutate(&mut claim, &create, &world()).expect("admitted");
    assert_eq!(claim["spec"]["storageClassName"], "local");
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

#[test]
fn namespaces_must_live() {
    let table = [
        (Operation::Create, "configmaps", "a", None),
        (Operation::Create, "configmaps", "none", Some("namespaces \"none\" not found")),
        (
            Operation::Create,
            "configmaps",
            "going",
            Some("unable to create new content in namespace going because it is being terminated"),
        ),
        (Operation::Update, "configmaps", "going", None),
        (Operation::Delete, "configmaps", "none", None),
        (Operation::Create, "localsubjectaccessreviews", "none", None),
    ];
    for (operation, plural, namespace, message) in table {
        let got = mutate(&mut Value::Null, &request(operation, "", plural, namespace), &world());
        assert_eq!(
            got.err().map(|refusal| refusal.to_string()),
            message.map(String::from),
            "{plural} {namespace}"
        );
    }
    let delete =
        Request { name: "kube-system", ..request(Operation::Delete, "", "namespaces", "kube-system") };
    let refused = mutate(&mut Value::Null, &delete, &world());
    assert_eq!(refused, Err(Refusal::Forbidden("this namespace may not be deleted".into())));
}

#[test]
fn nodes_change_themselves_and_their_pods() {
    let groups = ["system:nodes".to_string()];
    let pod = json!({"metadata": {"name": "p", "uid": "1", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}});
    let other =
        json!({"metadata": {"name": "p", "uid": "1", "labels": {"a": "b"}}, "spec": {"nodeName": "m"}});
    let node = |taints: Value, labels: Value| json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": taints}});
    let bound = |uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "p", "uid": uid}}});
    let mirror = json!({"metadata": {"name": "p", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": "n"}});
    let relabelled = json!({"metadata": {"name": "p", "labels": {}}, "spec": {"nodeName": "n"}});
    let foreign = "is not allowed to set the following labels: node-role.kubernetes.io/x";
    use Operation::{Create, Delete, Update};
    // operation, group, resource[/subresource], namespace, name, old, new, refusal
    let table = [
        (Create, "", "pods", "a", "", None, pod.clone(), "mirror"),
        (Create, "", "pods", "a", "", None, mirror, ""),
        (Update, "", "pods/status", "a", "p", Some(&pod), pod.clone(), ""),
        (Update, "", "pods/status", "a", "p", Some(&other), other.clone(), "set to itself"),
        (Update, "", "pods/status", "a", "p", Some(&pod), relabelled, "update labels"),
        (Delete, "", "pods", "a", "p", None, Value::Null, ""),
        (Delete, "", "pods", "b", "p", None, Value::Null, "set to itself"),
        (
            Create,
            "",
            "nodes",
            "",
            "n",
            None,
            node(json!([]), json!({"kubernetes.io/hostname": "n", "x": "y"})),
            "",
        ),
        (
            Create,
            "",
            "nodes",
            "",
            "n",
            None,
            node(json!([]), json!({"node-role.kubernetes.io/x": ""})),
            foreign,
        ),
        (
            Create,
            "",
            "nodes",
            "",
            "m",
            None,
            json!({"metadata": {"name": "m"}}),
            "not allowed to modify node \"m\"",
        ),
        (
            Update,
            "",
            "nodes",
            "",
            "n",
            Some(&pod),
            node(json!([{"key": "t"}]), json!({"a": "b"})),
            "modify taints",
        ),
        (Create, "", "serviceaccounts/token", "a", "s", None, bound("1"), ""),
        (Create, "", "serviceaccounts/token", "a", "s", None, bound("2"), "another uid"),
        (Create, "", "serviceaccounts/token", "b", "s", None, bound("1"), "different node"),
        (Create, "", "serviceaccounts/token", "a", "s", None, json!({"spec": {}}), "not bound to a pod"),
        (Update, "coordination.k8s.io", "leases", "kube-node-lease", "m", None, json!({}), "same name"),
        (Update, "storage.k8s.io", "csinodes", "", "n", None, json!({}), ""),
    ];
    let lookup = World(vec![("", "pods", "a", pod.clone()), ("", "pods", "b", other.clone())]);
    for (operation, group, resource, namespace, name, old, new, refusal) in table {
        let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let request = Request {
            operation,
            group,
            plural,
            subresource,
            namespace,
            name,
            old,
            letters: "",
            user: "system:node:n",
            groups: &groups,
        };
        let got = super::node::restrict(&new, &request, &lookup);
        match (&got, refusal) {
            (Ok(()), "") => {}
            (Err(cause), wanted) if !wanted.is_empty() => {
                assert!(cause.to_string().contains(wanted), "{resource} {name}: {cause}");
            }
            _ => panic!("{resource} {namespace}/{name}: {got:?}, wanted {refusal:?}"),
        }
    }
}

#[test]
fn limit_ranges_complete_and_bound() {
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m", "memory": "1Gi"},
            "min": {"cpu": "50m"}, "max": {"cpu": "1"}},
        {"type": "Pod", "max": {"cpu": "1500m"}, "maxLimitRequestRatio": {"cpu": "5"}}]}});
    let world = World(vec![("", "limitranges", "a", range)]);
    let pod = |containers: Value| json!({"metadata": {}, "spec": {"containers": containers}});
    let mut bare = pod(json!([{"name": "c"}]));
    super::limits::mutate(&mut bare, &request(Operation::Create, "", "pods", "a"), &world);
    assert_eq!(
        bare["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "500m"}})
    );
    let note = "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c";
    assert_eq!(text(&bare, "/metadata/annotations/kubernetes.io~1limit-ranger"), note);
    let sized = |request: &str, limit: &str| json!({"name": "c", "resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
    let table = [
        (json!([sized("100m", "500m")]), ""),
        (json!([sized("10m", "40m")]), "minimum cpu usage per Container is 50m, but request is 10m"),
        (json!([sized("1", "2")]), "maximum cpu usage per Container is 1, but limit is 2"),
        (json!([sized("1", "1"), sized("1", "1")]), "maximum cpu usage per Pod is 1500m, but limit is 2"),
        (
            json!([sized("100m", "600m")]),
            "cpu max limit to request ratio per Pod is 5, but provided ratio is 6.000000",
        ),
        (json!([{"name": "c"}]), "minimum cpu usage per Container is 50m.  No request is specified"),
    ];
    for (containers, wanted) in table {
        let got =
            super::limits::validate(&pod(containers), &request(Operation::Create, "", "pods", "a"), &world);
        let got = got.err().map(|refusal| refusal.to_string()).unwrap_or_default();
        assert!(got.contains(wanted) && got.is_empty() == wanted.is_empty(), "{got}, wanted {wanted}");
    }
}

#[test]
fn nodes_get_tokens_for_whom_their_pods_name() {
    const API: &str = "https://kubernetes.default.svc.cluster.local";
    let projected = |audience: &str| {
        let token = json!({"path": "t", "audience": audience});
        json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": token}]}})
    };
    let pod = |volumes: Value| {
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"nodeName": "n", "volumes": volumes}})
    };
    let groups = ["system:nodes".to_owned()];
    let ask = |volumes: Value, audiences: Value| {
        let driver = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [{"audience": "vault"}]}});
        let claim = json!({"metadata": {"name": "c"}, "spec": {"volumeName": "pv"}});
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"csi": {"driver": "d"}}});
        let world = World(vec![
            ("", "pods", "a", pod(volumes)),
            ("storage.k8s.io", "csidrivers", "", driver),
            ("", "persistentvolumeclaims", "a", claim),
            ("", "persistentvolumes", "", volume),
        ]);
        let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "u"});
        let object = json!({"spec": {"boundObjectRef": reference, "audiences": audiences}});
        let request = Request {
            operation: Operation::Create,
            group: "",
            plural: "serviceaccounts",
            subresource: "token",
            namespace: "a",
            name: "default",
            old: None,
            letters: "",
            user: "system:node:n",
            groups: &groups,
        };
        node::restrict(&object, &request, &world).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(ask(json!([projected("")]), json!([API])), Ok(()));
    assert_eq!(ask(json!([projected("vault")]), json!(["vault"])), Ok(()));
    assert_eq!(ask(json!([{"name": "v", "csi": {"driver": "d"}}]), json!(["vault"])), Ok(()));
    let claim = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    assert_eq!(ask(claim, json!(["vault"])), Ok(()));
    let why = "audience \"vault\" not found in pod spec volume, system:node:n is not authorized to request tokens for this audience";
    assert_eq!(ask(json!([projected("")]), json!(["vault"])), Err(why.to_owned()));
    let why = "node may only request 0 or 1 audiences";
    assert_eq!(ask(json!([projected("a")]), json!(["a", "b"])), Err(why.to_owned()));
}
