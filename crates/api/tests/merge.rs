//! Strategic merge and server-side apply over the schemas of built-in kinds.

use api::schema_of;
use schema::fieldset::FieldSet;
use schema::managed::{Actor, ApplyError, apply, track_update};
use schema::strategic::strategic_merge;
use serde_json::{Value, json};

fn actor<'a>(manager: &'a str, now: &'a str) -> Actor<'a> {
    Actor { manager, api_version: "apps/v1", subresource: "", now }
}

const T0: &str = "2026-01-01T00:00:00Z";
const T1: &str = "2026-01-01T00:00:01Z";

fn managed<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|e| e["manager"] == manager).map_or(&Value::Null, |e| &e["fieldsV1"])
}

fn deployment(replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image, "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

#[test]
fn strategic_merge_by_table() {
    let pod = schema_of("core_v1.PodSpec").unwrap();
    let table = [
        // Lists with a key merge by it; new items come last.
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]}),
        ),
        // Deleting an item, and a null deletes a field.
        (
            json!({"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"nodeName": null, "containers": [{"$patch": "delete", "name": "a"}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        // Replacing a list as a whole.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "z"}, {"$patch": "replace"}]}),
            json!({"containers": [{"name": "z"}]}),
        ),
        // Atomic lists are replaced.
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        // The order directive moves patched items, others keep their neighbours.
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "x"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c", "image": "x"}, {"name": "a"}]}),
        ),
        // retainKeys drops the other kinds of volume source.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        ),
        // Replacing a map.
        (
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"$patch": "replace", "c": "3"}}),
            json!({"nodeSelector": {"c": "3"}}),
        ),
    ];
    for (original, patch, expected) in table {
        assert_eq!(strategic_merge(&pod, &original, &patch).unwrap(), expected, "{patch}");
    }
}

#[test]
fn strategic_merge_of_primitives() {
    let meta = schema_of("meta_v1.ObjectMeta").unwrap();
    let original = json!({"finalizers": ["a", "b"]});
    let patch = json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]});
    assert_eq!(strategic_merge(&meta, &original, &patch).unwrap(), json!({"finalizers": ["c", "b"]}));
}

#[test]
fn strategic_merge_refuses_by_table() {
    let pod = schema_of("core_v1.PodSpec").unwrap();
    let original = json!({"containers": [{"name": "a"}]});
    for (patch, message) in [
        (json!([]), "expected a JSON object as the patch"),
        (json!({"$patch": "burn"}), "Unknown patch type found: \"burn\""),
        (
            json!({"containers": [{"image": "x"}]}),
            "map: {\"image\":\"x\"} does not contain declared merge key: name",
        ),
    ] {
        assert_eq!(strategic_merge(&pod, &original, &patch).unwrap_err().to_string(), message);
    }
}

#[test]
fn an_applier_owns_what_it_sets_and_gives_up_what_it_drops() {
    let schema = schema_of("apps_v1.Deployment").unwrap();
    let none = FieldSet::new();
    let live = apply(&schema, &json!({}), &deployment(3, "a"), actor("me", T0), false, &none).unwrap();
    assert_eq!(
        managed(&live, "me"),
        &json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {"f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    }}},
                },
            },
        })
    );
    let mut less = deployment(3, "a");
    less["metadata"]["labels"] = json!({});
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let next = apply(&schema, &live, &less, actor("me", T1), false, &none).unwrap();
    assert_eq!(next["spec"].get("replicas"), None);
    assert!(next["metadata"].get("labels").is_none_or(|l| l == &json!({})));
    assert_eq!(next["spec"]["template"], live["spec"]["template"]);
}

#[test]
fn taking_a_field_of_another_manager_is_a_conflict() {
    let schema = schema_of("apps_v1.Deployment").unwrap();
    let none = FieldSet::new();
    let live = apply(&schema, &json!({}), &deployment(3, "a"), actor("me", T0), false, &none).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    track_update(&schema, Some(&live), &mut scaled, actor("scaler", T1), &none);
    assert_eq!(managed(&scaled, "scaler"), &json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(managed(&scaled, "me")["f:spec"].get("f:replicas"), None);
    let refused = apply(&schema, &scaled, &deployment(3, "a"), actor("me", T1), false, &none).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );
    let forced = apply(&schema, &scaled, &deployment(3, "a"), actor("me", T1), true, &none).unwrap();
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(managed(&forced, "scaler"), &Value::Null);
    // The same value is shared, not fought over.
    let shared = apply(&schema, &forced, &deployment(3, "a"), actor("other", T1), false, &none).unwrap();
    assert_ne!(managed(&shared, "other"), &Value::Null);
    assert_ne!(managed(&shared, "me"), &Value::Null);
}

#[test]
fn creating_tracks_the_updater_as_upstream_does() {
    let schema = schema_of("apps_v1.Deployment").unwrap();
    let mut object = deployment(1, "a");
    track_update(&schema, None, &mut object, actor("kubectl-create", T0), &FieldSet::of_fields(&["status"]));
    assert_eq!(
        managed(&object, "kubectl-create"),
        &json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:replicas": {},
                "f:selector": {},
                "f:template": {
                    "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    }}},
                },
            },
        })
    );
}

#[test]
fn an_unchanged_update_changes_nothing() {
    let schema = schema_of("apps_v1.Deployment").unwrap();
    let none = FieldSet::new();
    let mut live = deployment(1, "a");
    track_update(&schema, None, &mut live, actor("a", T0), &none);
    let mut again = live.clone();
    track_update(&schema, Some(&live), &mut again, actor("b", T1), &none);
    assert_eq!(again, live);
    // A client that knows nothing of managedFields does not delete them.
    let mut naive = live.clone();
    naive["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&schema, Some(&live), &mut naive, actor("b", T1), &none);
    assert_eq!(naive, live);
    // One empty entry asks for a fresh start.
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema, Some(&live), &mut reset, actor("b", T1), &none);
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[test]
fn a_list_item_of_another_manager_survives() {
    let schema = schema_of("core_v1.Service").unwrap();
    let none = FieldSet::new();
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let a = service(json!([{"port": 80, "protocol": "TCP"}]));
    let b = service(json!([{"port": 443, "protocol": "TCP"}]));
    let live = apply(&schema, &json!({}), &a, actor("a", T0), false, &none).unwrap();
    let live = apply(&schema, &live, &b, actor("b", T0), false, &none).unwrap();
    assert_eq!(live["spec"]["ports"].as_array().unwrap().len(), 2);
    let live = apply(&schema, &live, &service(json!([])), actor("a", T1), false, &none).unwrap();
    assert_eq!(live["spec"]["ports"], json!([{"port": 443, "protocol": "TCP"}]));
}

#[test]
fn managed_fields_in_a_configuration_are_refused() {
    let schema = schema_of("apps_v1.Deployment").unwrap();
    let mut config = deployment(1, "a");
    config["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    let refused = apply(&schema, &json!({}), &config, actor("me", T0), false, &FieldSet::new());
    assert_eq!(refused, Err(ApplyError::ManagedFields));
}

#[test]
fn a_new_object_sets_what_an_empty_one_lacks() {
    let port = json!({"containerPort": 80, "protocol": "TCP"});
    let container = json!({"name": "c", "image": "i", "resources": {}, "ports": [port],
        "env": [{"name": "A", "value": "1"}, {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec"}}}]});
    let spec = json!({"containers": [container], "volumes": null, "hostNetwork": false, "securityContext": {},
        "tolerations": [{"key": "a", "operator": "Exists"}], "nodeSelector": {"a": "b"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": ""}},
        "spec": spec, "status": {}});
    for (kind, object) in [("core_v1.Pod", pod), ("apps_v1.Deployment", deployment(0, "i"))] {
        let mut object = object;
        let schema = schema_of(kind).unwrap();
        for canonical in [false, true] {
            if canonical {
                schema::canonicalize(&schema, &mut object).unwrap();
            }
            let change = schema::typed::compare(&schema, &json!({}), &object);
            assert!(change.removed.is_empty());
            assert_eq!(
                schema::typed::added(&schema, &object),
                change.modified.union(&change.added),
                "{kind}"
            );
        }
    }
}
