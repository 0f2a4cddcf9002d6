//! Discovery of this server and of others in one: pure functions over documents.

use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Map, Value, json};

/// A version of another server, as discovery shows it.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Its group.
    pub group: String,
    /// Its version.
    pub version: String,
    /// What it answered when it was last asked for its resources; null if it never did.
    pub resources: Value,
    /// Whether that is what it answers now.
    pub fresh: bool,
}

/// Priorities by group and version.
pub type Priorities = HashMap<(String, String), (i64, i64)>;

/// Groups in their order, each with its versions in theirs.
pub fn order(
    local: Vec<(String, Vec<String>)>,
    others: &[Shown],
    priorities: &Priorities,
) -> Vec<(String, Vec<String>)> {
    let mut groups = local;
    for other in others {
        let at = groups.iter().position(|(name, _)| *name == other.group).unwrap_or_else(|| {
            groups.push((other.group.clone(), Vec::new()));
            groups.len() - 1
        });
        if !groups[at].1.contains(&other.version) {
            groups[at].1.push(other.version.clone());
        }
    }
    let of = |group: &str, version: &str| {
        let own = priorities.get(&(group.to_string(), version.to_string())).copied();
        own.or_else(|| super::priorities::builtin(group, version)).unwrap_or(super::priorities::CUSTOM)
    };
    let place = |group: &str, versions: &[String]| match group {
        "apiregistration.k8s.io" => super::priorities::OWN,
        group => versions.iter().map(|version| of(group, version).0).max().unwrap_or(0),
    };
    groups.sort_by_cached_key(|(name, versions)| (Reverse(place(name, versions)), name.clone()));
    for (group, versions) in &mut groups {
        versions.sort_by(|a, b| {
            let (first, second) = (of(group, a).1, of(group, b).1);
            second.cmp(&first).then_with(|| api::custom::by_priority(a, b))
        });
    }
    groups
}

/// One group of the legacy list.
pub fn entry(group: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({"groupVersion": api::kinds::join(group, v), "version": v});
    let entries: Vec<Value> = versions.iter().map(entry).collect();
    let preferred = entries.first().cloned().unwrap_or(Value::Null);
    json!({"name": group, "versions": entries, "preferredVersion": preferred})
}

/// The aggregated document: this server's own one, with the others' versions, in order.
pub fn aggregated(mut local: Value, others: &[Shown], groups: &[(String, Vec<String>)]) -> Value {
    let mut known: HashMap<(String, String), Value> = HashMap::new();
    for item in local["items"].as_array_mut().into_iter().flatten() {
        let group = item["metadata"]["name"].as_str().unwrap_or("").to_string();
        for version in item["versions"].as_array_mut().into_iter().flatten() {
            let name = version["version"].as_str().unwrap_or("").to_string();
            known.insert((group.clone(), name), version.take());
        }
    }
    for other in others {
        known.insert((other.group.clone(), other.version.clone()), version(other));
    }
    let items = groups.iter().filter(|(group, _)| !group.is_empty()).map(|(group, versions)| {
        let versions: Vec<Value> =
            versions.iter().filter_map(|v| known.remove(&(group.clone(), v.clone()))).collect();
        json!({"metadata": {"name": group}, "versions": versions})
    });
    local["items"] = items.collect();
    local
}

/// A version in the aggregated form, from the legacy one.
fn version(of: &Shown) -> Value {
    let mut resources: Vec<Map<String, Value>> = Vec::new();
    let list = of.resources["resources"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("").to_string();
    let kind = |entry: &Value| {
        let or = |given: String, own: &str| if given.is_empty() { own.to_string() } else { given };
        json!({"group": or(text(entry, "group"), &of.group), "version": or(text(entry, "version"), &of.version),
            "kind": entry["kind"]})
    };
    for entry in list {
        let name = text(entry, "name");
        if let Some((parent, sub)) = name.split_once('/') {
            let shown = json!({"subresource": sub, "responseKind": kind(entry), "verbs": entry["verbs"]});
            if let Some(parent) = resources.iter_mut().find(|own| own["resource"] == parent) {
                let list = parent.entry("subresources").or_insert_with(|| json!([]));
                list.as_array_mut().into_iter().for_each(|list| list.push(shown.clone()));
            }
            continue;
        }
        let mut shown = Map::new();
        shown.insert("resource".into(), name.into());
        shown.insert("responseKind".into(), kind(entry));
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        shown.insert("scope".into(), scope.into());
        shown.insert("singularResource".into(), text(entry, "singularName").into());
        shown.insert("verbs".into(), entry["verbs"].clone());
        for field in ["shortNames", "categories"] {
            if let Some(names) = entry.get(field).filter(|names| names.is_array()) {
                shown.insert(field.into(), names.clone());
            }
        }
        resources.push(shown);
    }
    let freshness = if of.fresh { "Current" } else { "Stale" };
    let mut out = json!({"version": of.version, "freshness": freshness});
    if !resources.is_empty() {
        out["resources"] = resources.into_iter().map(Value::Object).collect();
    }
    out
}

/// One OpenAPI v2 document: this server's own one, and of every other what is below its prefix.
pub fn openapi_v2<'a>(mut local: Value, others: impl Iterator<Item = (String, &'a Value)>) -> Value {
    for (prefix, other) in others {
        let paths = other["paths"].as_object().into_iter().flatten();
        let below = |path: &str| path.starts_with(&prefix) || path == prefix.trim_end_matches('/');
        let paths: Map<String, Value> =
            paths.filter(|(path, _)| below(path)).map(|(path, item)| (path.clone(), item.clone())).collect();
        let mut paths = Value::Object(paths);
        let theirs = &other["definitions"];
        let mut needed: Vec<String> = Vec::new();
        references(&paths, &mut needed);
        let mut at = 0;
        while let Some(name) = needed.get(at).cloned() {
            references(&theirs[&name], &mut needed);
            at += 1;
        }
        let same = |name: &String| local["definitions"].get(name).is_none_or(|own| *own == theirs[name]);
        let renamed: HashMap<String, String> = needed
            .iter()
            .filter(|name| !same(name))
            .map(|name| (name.clone(), free_name(name, &local["definitions"], theirs)))
            .collect();
        rename(&mut paths, &renamed);
        for name in needed {
            let mut definition = theirs[&name].clone();
            rename(&mut definition, &renamed);
            let name = renamed.get(&name).unwrap_or(&name);
            if local["definitions"].is_object() && !definition.is_null() {
                local["definitions"][name] = definition;
            }
        }
        if let (Some(own), Value::Object(paths)) = (local["paths"].as_object_mut(), paths) {
            for (path, item) in paths {
                own.entry(path).or_insert(item);
            }
        }
    }
    local
}

fn free_name(name: &str, ours: &Value, theirs: &Value) -> String {
    let mut names = (2..).map(|i: u32| format!("{name}_v{i}"));
    let free = |name: &String| ours.get(name).is_none() && theirs.get(name).is_none();
    names.find(free).unwrap_or_default()
}

const REFERENCE: &str = "#/definitions/";

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let name = map.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(REFERENCE));
            if let Some(name) = name.filter(|name| !found.iter().any(|known| known == name)) {
                found.push(name.to_string());
            }
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &HashMap<String, String>) {
    if names.is_empty() {
        return;
    }
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get_mut("$ref")
                && let Some(new) = text.strip_prefix(REFERENCE).and_then(|name| names.get(name))
            {
                *text = format!("{REFERENCE}{new}");
            }
            map.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(group: &str, version: &str) -> Shown {
        let resources = json!({"resources": [
            {"name": "cars", "singularName": "car", "namespaced": true, "kind": "Car", "verbs": ["get"],
                "shortNames": ["c"]},
            {"name": "cars/scale", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale",
                "verbs": ["get"]}]});
        Shown { group: group.into(), version: version.into(), resources, fresh: true }
    }

    #[test]
    fn priorities_order_groups_and_versions() {
        let local =
            [("", "v1"), ("apps", "v1"), ("a.example.com", "v1beta1"), ("apiregistration.k8s.io", "v1")];
        let local = local.map(|(group, version)| (group.to_string(), vec![version.to_string()])).to_vec();
        let others =
            [shown("z.example.com", "v1"), shown("a.example.com", "v1"), shown("b.example.com", "v1")];
        let mut priorities = Priorities::new();
        priorities.insert(("z.example.com".into(), "v1".into()), (17900, 5));
        let names = |priorities: &Priorities| -> Vec<String> {
            let ordered = order(local.clone(), &others, priorities).into_iter();
            ordered.map(|(group, versions)| format!("{group}:{}", versions.join("+"))).collect()
        };
        let wanted = [
            "apiregistration.k8s.io:v1",
            ":v1",
            "z.example.com:v1",
            "apps:v1",
            "a.example.com:v1+v1beta1",
            "b.example.com:v1",
        ];
        assert_eq!(names(&priorities), wanted);
        priorities.insert(("a.example.com".into(), "v1beta1".into()), (1000, 200));
        assert_eq!(names(&priorities)[4], "a.example.com:v1beta1+v1");
    }

    #[test]
    fn a_version_is_shown_in_the_aggregated_form() {
        let local = json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "apps"},
            "versions": [{"version": "v1", "freshness": "Current"}]}]});
        let mut other = shown("a.example.com", "v1");
        other.fresh = false;
        let groups =
            [("apps".to_string(), vec!["v1".to_string()]), ("a.example.com".into(), vec!["v1".into()])];
        let merged = aggregated(local, &[other], &groups);
        assert_eq!(merged["items"][0]["versions"][0]["version"], "v1");
        let version = &merged["items"][1]["versions"][0];
        assert_eq!(
            (&version["freshness"], &version["resources"][0]["scope"]),
            (&json!("Stale"), &json!("Namespaced"))
        );
        assert_eq!(version["resources"][0]["subresources"][0]["responseKind"]["group"], "autoscaling");
        assert_eq!(version["resources"][0]["responseKind"]["group"], "a.example.com");
    }

    #[test]
    fn schemas_of_the_same_name_keep_apart() {
        let local = json!({"paths": {"/apis/": {}}, "definitions": {"same": {"type": "object"}, "mine": {"type": "string"}}});
        let other = json!({"paths": {"/apis/g/v1/cars": {"get": {"$ref": "#/definitions/mine"}}, "/apis/x/": {}},
            "definitions": {"same": {"type": "object"}, "unused": {},
                "mine": {"properties": {"a": {"$ref": "#/definitions/same"}, "b": {"$ref": "#/definitions/mine"}}}}});
        let merged = openapi_v2(local, [("/apis/g/v1/".to_string(), &other)].into_iter());
        assert_eq!(merged["paths"].as_object().map(Map::len), Some(2));
        assert_eq!(merged["paths"]["/apis/g/v1/cars"]["get"]["$ref"], "#/definitions/mine_v2");
        assert_eq!(merged["definitions"]["mine_v2"]["properties"]["b"]["$ref"], "#/definitions/mine_v2");
        assert_eq!(merged["definitions"]["mine"]["type"], "string");
        assert!(merged["definitions"].get("unused").is_none());
    }
}
