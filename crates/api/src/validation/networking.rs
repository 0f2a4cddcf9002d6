//! Network policies, ingresses and their classes, slices of endpoints, addresses and ranges of Services.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{Create, Rules, Update, meta, net, service};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20000;
const CONTROLLER_MAX: usize = 250;
const HINTS_MAX: usize = 8;
const BAD_SEQUENCES: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const BAD_ENDS: [&str; 2] = ["/..", "/."];

/// The rules of a kind of the networking group.
pub fn rules(kind: &str) -> Option<Rules> {
    let (create, update): (Create, Update) = match kind {
        "NetworkPolicy" => (
            |at| {
                meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
                policy(&at.get("spec"));
            },
            |new, old, _| {
                meta::update(&new.get("metadata"), &old.get("metadata"));
                policy(&new.get("spec"));
            },
        ),
        "Ingress" => (ingress, ingress_update),
        "IngressClass" => (
            |at| {
                meta::create(&at.get("metadata"), false, names::dns1123_subdomain);
                class(&at.get("spec"));
            },
            |new, old, _| {
                meta::update(&new.get("metadata"), &old.get("metadata"));
                new.get("spec").get("controller").immutable(&old.get("spec").get("controller"));
                class(&new.get("spec"));
            },
        ),
        _ => return None,
    };
    Some(Rules { create, update })
}

fn policy(spec: &At<'_>) {
    meta::selector(&spec.get("podSelector"));
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(list).items() {
            rule.get("ports").items().for_each(|port| policy_port(&port));
            rule.get(peers).items().for_each(|peer| policy_peer(&peer));
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid("may not specify more than two policyTypes");
    }
    types.items().for_each(|kind| kind.one_of(&["Ingress", "Egress"]));
}

fn policy_port(at: &At<'_>) {
    at.get("protocol").one_of_if_set(&["TCP", "UDP", "SCTP"]);
    let (port, end) = (at.get("port"), at.get("endPort"));
    match port.value {
        Value::Null if end.is_set() => end.invalid("may not be specified when `port` is not specified"),
        Value::Null => {}
        Value::String(_) => {
            if end.is_set() {
                end.invalid("may not be specified when `port` is non-numeric");
            }
            port.rule(names::port_name);
        }
        _ => {
            port.port();
            if end.is_set() {
                if end.int() < port.int() {
                    end.invalid_as(port.int(), "must be greater than or equal to `port`");
                }
                end.port();
            }
        }
    }
}

fn policy_peer(at: &At<'_>) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if at.get(field).is_set() {
            count += 1;
            meta::selector(&at.get(field));
        }
    }
    let block = at.get("ipBlock");
    if block.is_set() {
        ip_block(&block);
        if count > 0 {
            at.forbidden("may not specify both ipBlock and another peer");
        }
    } else if count == 0 {
        at.required("must specify a peer");
    }
}

fn ip_block(at: &At<'_>) {
    let range = at.get("cidr");
    if !range.need() {
        return;
    }
    net::cidr(&range);
    let Some(outer) = net::parse_cidr(range.text()) else { return };
    for except in at.get("except").items() {
        net::cidr(&except);
        if net::parse_cidr(except.text()).is_some_and(|inner| !net::within(outer, inner)) {
            except.invalid("must be a strict subset of `cidr`");
        }
    }
}

fn ingress(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    ingress_spec(&at.get("spec"));
    let metadata = at.get("metadata");
    let annotations = metadata.get("annotations");
    let class = annotations.get("kubernetes.io/ingress.class");
    let named = at.get("spec");
    let named = named.get("ingressClassName");
    if class.is_set() && named.is_set() && class.text() != named.text() {
        class.invalid("must match `ingressClassName` when both are specified");
    }
}

fn ingress_update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        for point in new.get("status").get("loadBalancer").get("ingress").items() {
            if !point.get("ip").is_empty() {
                net::ip(&point.get("ip"));
            }
            let host = point.get("hostname");
            host.rule_if_set(names::dns1123_subdomain);
            if net::sloppy(host.text()).is_some() {
                host.invalid("must be a DNS name, not an IP address");
            }
        }
        return;
    }
    meta::create(&new.get("metadata"), true, names::dns1123_subdomain);
    ingress_spec(&new.get("spec"));
}

fn ingress_spec(spec: &At<'_>) {
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        spec.invalid_as(rules.value.clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        self::backend(&backend);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        if !host.is_empty() {
            if net::sloppy(host.text()).is_some() {
                host.invalid("must be a DNS name, not an IP address");
            }
            wild(&host);
        }
        let http = rule.get("http");
        if !http.is_set() {
            continue;
        }
        http.get("paths").need();
        http.get("paths").items().for_each(|path| ingress_path(&path));
    }
    for tls in spec.get("tls").items() {
        tls.get("hosts").items().for_each(|host| wild(&host));
        tls.get("secretName").rule_if_set(names::dns1123_subdomain);
    }
    if spec.get("ingressClassName").is_set() {
        spec.get("ingressClassName").rule(names::dns1123_subdomain);
    }
}

fn wild(host: &At<'_>) {
    match host.text().contains('*') {
        true => host.rule(names::wildcard_dns1123_subdomain),
        false => host.rule(names::dns1123_subdomain),
    }
}

fn ingress_path(at: &At<'_>) {
    let (kind, path) = (at.get("pathType"), at.get("path"));
    let text = path.text();
    if !kind.is_set() {
        return kind.required("pathType must be specified");
    }
    match kind.text() {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                path.invalid_text("must be an absolute path");
            }
            for bad in BAD_SEQUENCES.iter().filter(|bad| text.contains(**bad)) {
                path.invalid(&format!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDS.iter().filter(|bad| text.ends_with(**bad)) {
                path.invalid(&format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                path.invalid("must be an absolute path");
            }
        }
        _ => kind.unsupported(&["Exact", "ImplementationSpecific", "Prefix"]),
    }
    backend(&at.get("backend"));
}

fn backend(at: &At<'_>) {
    let (resource, service) = (at.get("resource"), at.get("service"));
    match (resource.is_set(), service.is_set()) {
        (true, true) => at.invalid_as("", "cannot set both resource and service backends"),
        (false, false) => at.invalid_as("", "resource or service backend is required"),
        (true, false) => {
            if resource.get("apiGroup").is_set() {
                resource.get("apiGroup").rule(names::dns1123_subdomain);
            }
            resource.get("kind").need_rule(names::path_segment);
            resource.get("name").need_rule(names::path_segment);
        }
        (false, true) => {
            service.get("name").need_rule(names::dns1123_label);
            let port = service.get("port");
            match (port.get("name").is_empty(), port.get("number").int() == 0) {
                (false, false) => at.invalid_as("", "cannot set both port name & port number"),
                (false, true) => port.get("name").rule(names::port_name),
                (true, false) => port.get("number").port(),
                (true, true) => at.required("port name or number is required"),
            }
        }
    }
}

fn class(spec: &At<'_>) {
    let controller = spec.get("controller");
    controller.at_most_bytes(CONTROLLER_MAX);
    super::job::domain_path(&controller);
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    if parameters.get("apiGroup").is_set() {
        parameters.get("apiGroup").rule(names::dns1123_subdomain);
    }
    parameters.get("kind").need_rule(names::path_segment);
    parameters.get("name").need_rule(names::path_segment);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.value.as_str() {
        None => scope.required(""),
        Some("Namespace") if !namespace.is_set() => {
            namespace.required("`parameters.scope` is set to 'Namespace'");
        }
        Some("Namespace") => namespace.rule(names::dns1123_label),
        Some("Cluster") if namespace.is_set() => {
            namespace.forbidden("`parameters.scope` is set to 'Cluster'");
        }
        Some("Cluster") => {}
        Some(_) => scope.unsupported(&["Cluster", "Namespace"]),
    }
}

/// A new slice of endpoints.
pub fn slice(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_subdomain);
    at.get("addressType").need_one_of(&["FQDN", "IPv4", "IPv6"]);
    endpoints(&at.get("endpoints"), at.get("addressType").text());
    let ports = at.get("ports");
    ports.at_most(PORTS_MAX);
    let mut seen: Vec<String> = Vec::new();
    for port in ports.items() {
        let name = port.get("name");
        name.rule_if_set(names::dns1123_label);
        if seen.iter().any(|seen| seen == name.text()) {
            name.duplicate_of(name.text());
        }
        seen.push(name.text().to_string());
        match port.get("protocol").is_set() {
            true => port.get("protocol").one_of(&["SCTP", "TCP", "UDP"]),
            false => port.get("protocol").required(""),
        }
        if port.get("appProtocol").is_set() {
            port.get("appProtocol").rule(names::qualified_name);
        }
    }
}

fn endpoints(list: &At<'_>, kind: &str) {
    list.at_most(ENDPOINTS_MAX);
    for endpoint in list.items() {
        let addresses = endpoint.get("addresses");
        addresses.need_for("must contain at least 1 address");
        addresses.at_most(ADDRESSES_MAX);
        for address in addresses.items() {
            match kind {
                "IPv4" | "IPv6" => {
                    let before = address.found();
                    net::ip(&address);
                    if address.found() > before {
                        continue;
                    }
                    if address.text().contains(':') != (kind == "IPv6") {
                        let article = if kind == "IPv4" {
                            "must be an IPv4 address"
                        } else {
                            "must be an IPv6 address"
                        };
                        addresses.invalid_as(address.text(), article);
                    }
                    service::usable(&address);
                }
                "FQDN" => address.rule(names::dns1123_subdomain),
                _ => {}
            }
        }
        if endpoint.get("hostname").is_set() {
            endpoint.get("hostname").rule(names::dns1123_label);
        }
        if endpoint.get("nodeName").is_set() {
            endpoint.get("nodeName").rule(names::dns1123_subdomain);
        }
        let hints = endpoint.get("hints");
        for (field, rule) in [
            ("forZones", names::label_value as fn(&str) -> Vec<String>),
            ("forNodes", names::dns1123_subdomain),
        ] {
            let list = hints.get(field);
            list.at_most(HINTS_MAX);
            let mut seen: Vec<String> = Vec::new();
            for hint in list.items() {
                let name = hint.get("name");
                if seen.iter().any(|seen| seen == name.text()) {
                    name.duplicate_of(name.text());
                }
                seen.push(name.text().to_string());
                name.rule(rule);
            }
        }
    }
}

/// A changed slice keeps the type of its addresses.
pub fn slice_update(new: &At<'_>, old: &At<'_>, _: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    slice(new);
    new.get("addressType").immutable(&old.get("addressType"));
}
