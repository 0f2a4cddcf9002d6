//! ServiceAccount: every pod runs as an account of its namespace and gets a token of it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Lookup, Operation, Refusal, Request, items, list_mut, text};

/// Where containers find their token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Lifetime of a mounted token in seconds: an hour and seven seconds, which marks tokens that clients may not
/// yet renew.
const LIFETIME_SECONDS: u32 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

fn refuse<T>(cause: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Forbidden(cause.into()))
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(MIRROR).is_some())
}

fn account(pod: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<Arc<Value>, Refusal> {
    let (namespace, name) = (request.namespace, text(pod, "/spec/serviceAccountName"));
    if name.is_empty() {
        let pod = text(pod, "/metadata/name");
        return refuse(format!("no service account specified for pod {namespace}/{pod}"));
    }
    match lookup.get("", "serviceaccounts", namespace, name) {
        Some(account) => Ok(account),
        None => refuse(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )),
    }
}

/// Names the account, mounts its token and takes over its pull secrets.
pub fn mutate(pod: &mut Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    if !request.creates("", "pods") {
        return Ok(());
    }
    if is_mirror(pod) {
        return validate(pod, request, lookup);
    }
    if text(pod, "/spec/serviceAccountName").is_empty()
        && let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("serviceAccountName".into(), "default".into());
    }
    let account = account(pod, request, lookup)?;
    let name = text(pod, "/spec/serviceAccountName").to_string();
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else { return Ok(()) };
    spec["serviceAccount"] = name.into();
    let wish = |object: &Value| object.get("automountServiceAccountToken").and_then(Value::as_bool);
    if wish(spec).or_else(|| wish(&account)).unwrap_or(true) {
        mount(spec, request.letters);
    }
    let secrets = items(&account, "/imagePullSecrets");
    if items(spec, "/imagePullSecrets").is_empty() && !secrets.is_empty() {
        let names = secrets.iter().map(|secret| json!({"name": text(secret, "/name")}));
        spec["imagePullSecrets"] = names.collect();
    }
    Ok(())
}

fn mount(spec: &mut Value, letters: &str) {
    let known = items(spec, "/volumes").iter().map(|volume| text(volume, "/name"));
    let known = known.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_string);
    let name = known.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{letters}"));
    let mut needed = false;
    for kind in ["initContainers", "containers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            if items(container, "/volumeMounts").iter().any(|mount| text(mount, "/mountPath") == MOUNT) {
                continue;
            }
            let Some(mounts) = list_mut(container, "volumeMounts") else { continue };
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT}));
            needed = true;
        }
    }
    if known.is_some() || !needed {
        return;
    }
    if let Some(volumes) = list_mut(spec, "volumes") {
        volumes.push(volume(&name));
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": LIFETIME_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [
            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// The account must exist, and mirror pods may not use any.
pub fn validate(pod: &Value, request: &Request<'_>, lookup: &dyn Lookup) -> Result<(), Refusal> {
    if !request.creates("", "pods") || request.operation != Operation::Create {
        return Ok(());
    }
    if is_mirror(pod) {
        return validate_mirror(pod);
    }
    let account = account(pod, request, lookup)?;
    let strict = account.pointer("/metadata/annotations").and_then(|annotations| {
        annotations.get("kubernetes.io/enforce-mountable-secrets").and_then(Value::as_str)
    });
    match strict {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => mountable(pod, &account),
        _ => Ok(()),
    }
}

fn validate_mirror(pod: &Value) -> Result<(), Refusal> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    if secret_names(pod).next().is_some() || !items(pod, "/spec/imagePullSecrets").is_empty() {
        return refuse("a mirror pod may not reference secrets");
    }
    let mut sources =
        items(pod, "/spec/volumes").iter().flat_map(|volume| items(volume, "/projected/sources"));
    match sources.any(|source| source.get("serviceAccountToken").is_some()) {
        true => refuse("a mirror pod may not use ServiceAccountToken volume projections"),
        false => Ok(()),
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| items(pod, kind))
}

fn secret_names(pod: &Value) -> impl Iterator<Item = &str> {
    let env = containers(pod).flat_map(|container| {
        let single = items(container, "/env").iter().map(|env| text(env, "/valueFrom/secretKeyRef/name"));
        single.chain(items(container, "/envFrom").iter().map(|from| text(from, "/secretRef/name")))
    });
    let volumes = items(pod, "/spec/volumes").iter().flat_map(|volume| {
        let sources = items(volume, "/projected/sources").iter();
        sources.map(|source| text(source, "/secret/name")).chain([text(volume, "/secret/secretName")])
    });
    env.chain(volumes).filter(|name| !name.is_empty())
}

fn mountable(pod: &Value, account: &Value) -> Result<(), Refusal> {
    let owner = text(account, "/metadata/name");
    let has =
        |list: &str, name: &str| items(account, list).iter().any(|secret| text(secret, "/name") == name);
    for volume in items(pod, "/spec/volumes") {
        let name = text(volume, "/secret/secretName");
        if !name.is_empty() && !has("/secrets", name) {
            return refuse(format!(
                "volume with secret.secretName=\"{name}\" is not allowed because service account {owner} does not reference that secret"
            ));
        }
    }
    for (kind, word) in [("/spec/initContainers", "init container"), ("/spec/containers", "container")] {
        for container in items(pod, kind) {
            let title = text(container, "/name");
            for env in items(container, "/env") {
                let name = text(env, "/valueFrom/secretKeyRef/name");
                if !name.is_empty() && !has("/secrets", name) {
                    let variable = text(env, "/name");
                    return refuse(format!(
                        "{word} {title} with envVar {variable} referencing secret.secretName=\"{name}\" is not allowed because service account {owner} does not reference that secret"
                    ));
                }
            }
        }
    }
    for (index, secret) in items(pod, "/spec/imagePullSecrets").iter().enumerate() {
        let name = text(secret, "/name");
        if !has("/imagePullSecrets", name) {
            return refuse(format!(
                "imagePullSecrets[{index}].name=\"{name}\" is not allowed because service account {owner} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}
