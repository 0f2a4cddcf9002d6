//! Validation of built-in kinds: objects with one field changed, and what upstream v1.36 says of them.

use api::Registry;
use serde_json::{Value, json};

const TABLE: &str = include_str!("validation.table");

/// Sets the value at a slash-separated path, or takes it away when the new value is null.
fn change(object: &mut Value, path: &str, new: Value) {
    let (up, last) = path.rsplit_once('/').unwrap_or(("", path));
    let mut here = object;
    for key in up.split('/').filter(|key| !key.is_empty()) {
        here = descend(here, key);
    }
    match (here, new) {
        (Value::Array(list), Value::Null) => {
            list.remove(last.parse().expect("index"));
        }
        (Value::Object(map), Value::Null) => {
            map.remove(last);
        }
        (here, new) => *descend(here, last) = new,
    }
}

fn descend<'a>(here: &'a mut Value, key: &str) -> &'a mut Value {
    match here {
        Value::Array(list) => &mut list[key.parse::<usize>().expect("index")],
        other => &mut other[key],
    }
}

#[test]
fn table() {
    let registry = Registry::builtin();
    let mut base = Value::Null;
    let (mut wrong, mut cases) = (Vec::new(), 0);
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(case) = line.strip_prefix("create ") else {
            let (_, object) = line.split_once(' ').expect("kind and object");
            base = serde_json::from_str(object).expect(object);
            continue;
        };
        let (case, want) = case.split_once(" => ").expect("case and errors");
        let (path, value) = case.split_once(' ').expect("path and value");
        let mut object = base.clone();
        change(&mut object, path, serde_json::from_str(value).expect(value));
        let (group, version) = api::kinds::split(base["apiVersion"].as_str().expect("apiVersion"));
        let kind = base["kind"].as_str().expect("kind");
        let def = registry.by_kind(group, version, kind).expect(kind);
        schema::canonicalize(def.schema(), &mut object).expect(line);
        schema::defaulting::default(def.schema(), &mut object);
        if def.namespaced() {
            object["metadata"]["namespace"] = "v".into();
        }
        let mut got: Vec<String> =
            api::validation::create(def, &object).iter().map(ToString::to_string).collect();
        got.sort();
        cases += 1;
        if got.join("; ") != want {
            wrong.push(format!("{kind} {case}\n  got  {}\n  want {want}", got.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {cases} differ\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 300, "{cases}");
}

#[test]
fn fields_that_never_change() {
    let registry = Registry::builtin();
    let cases = [
        (
            "apps",
            "Deployment",
            r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#,
            "spec/selector/matchLabels/a",
            "spec.selector",
        ),
        ("", "Secret", r#"{"type":"Opaque"}"#, "type", "type"),
        ("storage.k8s.io", "StorageClass", r#"{"provisioner":"a.b/c"}"#, "provisioner", "provisioner"),
        (
            "scheduling.k8s.io",
            "PriorityClass",
            r#"{"preemptionPolicy":"Never"}"#,
            "preemptionPolicy",
            "preemptionPolicy",
        ),
        ("node.k8s.io", "RuntimeClass", r#"{"handler":"h"}"#, "handler", "handler"),
        ("", "ConfigMap", r#"{"immutable":true,"data":{"a":"b"}}"#, "data/a", "data"),
    ];
    for (group, kind, object, path, field) in cases {
        let def = registry.by_kind(group, "v1", kind).expect(kind);
        let old: Value = serde_json::from_str(object).expect(object);
        let mut new = old.clone();
        change(&mut new, path, "x".into());
        let errors = api::validation::update(def, "", &old, &new);
        let immutable = |e: &&schema::FieldError| e.field == field && e.detail.contains("field is immutable");
        assert!(errors.iter().any(|e| immutable(&e)), "{kind}: {errors:?}");
        let same = api::validation::update(def, "", &old, &old);
        assert!(!same.iter().any(|e| immutable(&e)), "{kind}: {same:?}");
    }
}

fn errors_of(group: &str, kind: &str, subresource: &str, old: &Value, new: &Value) -> Vec<String> {
    let def = Registry::builtin().by_kind(group, "v1", kind).expect(kind).clone();
    let errors = api::validation::update(&def, subresource, old, new);
    errors.iter().map(|e| format!("{}: {}", e.field, e.detail)).collect()
}

#[test]
fn a_resize_is_for_the_same_containers() {
    let pod = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": containers}})
    };
    let said = |names: &[&str]| {
        let all = errors_of("", "Pod", "resize", &pod(&["a", "b"]), &pod(names));
        all.into_iter().filter(|e| e.contains("on resize")).collect::<Vec<_>>()
    };
    assert!(said(&["a", "b"]).is_empty());
    let renamed = "containers may not be renamed or reordered on resize";
    assert_eq!(
        said(&["b", "a"]),
        [format!("spec.containers[0].name: {renamed}"), format!("spec.containers[1].name: {renamed}")]
    );
    assert_eq!(said(&["a"]), ["spec.containers: containers may not be added or removed on resize"]);
}

#[test]
fn a_suspended_job_may_ask_for_other_resources() {
    let job = |cpu: &str, image: &str, suspend: bool, status: &Value| {
        let container = json!({"name": "c", "image": image, "resources": {"requests": {"cpu": cpu}}});
        json!({"metadata": {"name": "j", "namespace": "n"}, "status": status,
            "spec": {"suspend": suspend, "template": {"spec": {"containers": [container]}}}})
    };
    let (new, ran) = (json!({}), json!({"startTime": "2026-01-01T00:00:00Z"}));
    let stopped =
        json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Suspended", "status": "True"}]});
    let stopping = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1,
        "conditions": [{"type": "Suspended", "status": "True"}]});
    let template = "spec.template: field is immutable";
    for (suspend, status, image, want) in [
        (true, &new, "i", None),
        (true, &stopped, "i", None),
        (true, &stopping, "i", Some(template)),
        (true, &ran, "i", Some(template)),
        (false, &new, "i", Some(template)),
        (true, &new, "other", Some("spec.template.spec: field is immutable")),
    ] {
        let (old, changed) = (job("1", "i", suspend, status), job("2", image, suspend, status));
        let errors = errors_of("batch", "Job", "", &old, &changed);
        let of_template: Vec<&str> = errors
            .iter()
            .map(String::as_str)
            .filter(|e| e.starts_with("spec.template") && e.contains("immutable"))
            .collect();
        assert_eq!(of_template, want.into_iter().collect::<Vec<_>>(), "{suspend} {status} {image}");
    }
}

#[test]
fn what_ended_comes_back_where_all_are_restarted() {
    let pod = |action: &str, state: Value| {
        let rule = json!({"action": action, "exitCodes": {"operator": "In", "values": [42]}});
        let source = json!({"name": "a", "image": "i", "restartPolicyRules": [rule]});
        json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"restartPolicy": "Never", "containers": [source, {"name": "b", "image": "i"}]},
            "status": {"containerStatuses": [{"name": "b", "state": state}]}})
    };
    let ended = json!({"terminated": {"exitCode": 137}});
    for (action, refused) in [("Restart", true), ("RestartAllContainers", false)] {
        let (old, new) = (pod(action, ended.clone()), pod(action, json!({"running": {}})));
        let errors = errors_of("", "Pod", "status", &old, &new);
        let said = errors.iter().any(|e| e.contains("may not be transitioned to non-terminated state"));
        assert_eq!(said, refused, "{action}: {errors:?}");
    }
}
