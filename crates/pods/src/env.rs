//! Environment variables of a container: sources in order, `$(VAR)` references, service links.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use crate::downward;

/// What variables may refer to, fetched beforehand.
pub trait Sources {
    /// The data of a ConfigMap of the pod's namespace; `None` when there is no such object.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, String>>;
    /// The data of a Secret of the pod's namespace; `None` when there is no such object.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// A variable of a file in an emptyDir volume (`fileKeyRef`).
    fn file_key(&self, volume: &str, path: &str, key: &str) -> Result<Option<String>, String>;
}

/// Replaces `$(NAME)` with what `find` knows; `$$` is a dollar sign; unknown references stay as they are.
pub fn expand(text: &str, find: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('(') {
            match inner.find(')') {
                Some(end) => {
                    let name = &inner[..end];
                    match find(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &inner[end + 1..];
                }
                None => out.push('$'),
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The container's variables, sorted by name. The error is a `CreateContainerConfigError` message.
pub fn variables(
    pod: &Pod,
    container: &Container,
    services: &BTreeMap<String, String>,
    facts: &downward::Facts<'_>,
    sources: &dyn Sources,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let mut vars = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(r) = &from.config_map_ref {
            let data = sources.config_map(&r.name);
            if data.is_none() && r.optional != Some(true) {
                return Err(format!("configmap \"{}\" not found", r.name));
            }
            for (k, v) in data.unwrap_or_default() {
                vars.insert(format!("{prefix}{k}"), v);
            }
        } else if let Some(r) = &from.secret_ref {
            let data = sources.secret(&r.name);
            if data.is_none() && r.optional != Some(true) {
                return Err(format!("secret \"{}\" not found", r.name));
            }
            for (k, v) in data.unwrap_or_default() {
                vars.insert(format!("{prefix}{k}"), String::from_utf8_lossy(&v).into_owned());
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(v), _) if !v.is_empty() => {
                let find = |n: &str| vars.get(n).or_else(|| services.get(n)).cloned();
                Some(expand(v, find))
            }
            (_, Some(source)) => resolve(pod, container, namespace, source, facts, sources)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            vars.insert(var.name.clone(), value);
        }
    }
    for (k, v) in services {
        vars.entry(k.clone()).or_insert_with(|| v.clone());
    }
    Ok(vars)
}

fn resolve(
    pod: &Pod,
    container: &Container,
    namespace: &str,
    source: &EnvVarSource,
    facts: &downward::Facts<'_>,
    sources: &dyn Sources,
) -> Result<Option<String>, String> {
    if let Some(r) = &source.field_ref {
        return downward::field(pod, &r.field_path, facts).map(Some);
    }
    if let Some(r) = &source.resource_field_ref {
        return downward::resource(pod, Some(&container.name), r, facts).map(Some);
    }
    if let Some(r) = &source.config_map_key_ref {
        let optional = r.optional == Some(true);
        return match sources.config_map(&r.name) {
            None if optional => Ok(None),
            None => Err(format!("configmap \"{}\" not found", r.name)),
            Some(data) => match data.get(&r.key) {
                Some(v) => Ok(Some(v.clone())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name)),
            },
        };
    }
    if let Some(r) = &source.secret_key_ref {
        let optional = r.optional == Some(true);
        return match sources.secret(&r.name) {
            None if optional => Ok(None),
            None => Err(format!("secret \"{}\" not found", r.name)),
            Some(data) => match data.get(&r.key) {
                Some(v) => Ok(Some(String::from_utf8_lossy(v).into_owned())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name)),
            },
        };
    }
    if let Some(r) = &source.file_key_ref {
        return match sources.file_key(&r.volume_name, &r.path, &r.key)? {
            Some(v) => Ok(Some(v)),
            None if r.optional == Some(true) => Ok(None),
            None => Err(format!("environment variable key {:?} not found in file {:?}", r.key, r.path)),
        };
    }
    Ok(None)
}

/// The variables of Services: those of the pod's namespace when it wants links, and `kubernetes` of the
/// default namespace always.
pub fn service_links(services: &[&Service], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for s in services {
        let ns = s.metadata.namespace.as_deref().unwrap_or("");
        let name = s.metadata.name.as_deref().unwrap_or("");
        let master = ns == "default" && name == "kubernetes";
        if (ns == namespace && links) || (master && !chosen.contains_key(name)) {
            chosen.insert(name, s);
        }
    }
    let mut vars = BTreeMap::new();
    for (name, s) in chosen {
        let Some(spec) = &s.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or("");
        if ip.is_empty() || ip == "None" {
            continue;
        }
        links_of(&mut vars, &name.to_uppercase().replace('-', "_"), ip, spec);
    }
    vars
}

fn links_of(
    vars: &mut BTreeMap<String, String>,
    name: &str,
    ip: &str,
    spec: &k8s_openapi::api::core::v1::ServiceSpec,
) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    vars.insert(format!("{name}_SERVICE_HOST"), ip.to_string());
    for (i, p) in ports.iter().enumerate() {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), p.port);
        if i == 0 {
            vars.insert(format!("{name}_SERVICE_PORT"), p.port.to_string());
            vars.insert(format!("{name}_PORT"), url.clone());
        }
        if let Some(port_name) = p.name.as_deref().filter(|n| !n.is_empty()) {
            let word = port_name.to_uppercase().replace('-', "_");
            vars.insert(format!("{name}_SERVICE_PORT_{word}"), p.port.to_string());
        }
        let prefix = format!("{name}_PORT_{}_{}", p.port, protocol.to_uppercase());
        vars.insert(prefix.clone(), url);
        vars.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{prefix}_PORT"), p.port.to_string());
        vars.insert(format!("{prefix}_ADDR"), ip.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let find = |n: &str| (n == "A").then(|| "1".to_string());
        let table = [
            ("$(A)", "1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$", "$"),
            ("$()", "$()"),
        ];
        for (text, want) in table {
            assert_eq!(expand(text, find), want, "{text}");
        }
    }
}
