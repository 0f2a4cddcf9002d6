//! Services: types, ports, addresses and families, traffic, and what may not change.

use base::names;
use serde_json::Value;

use super::check::At;
use super::{meta, net};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const AFFINITY_MAX: i64 = 86400;
const BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";

/// A new service.
pub fn create(at: &At<'_>) {
    whole(at);
}

/// A changed service.
pub fn update(new: &At<'_>, old: &At<'_>, subresource: &str) {
    meta::update(&new.get("metadata"), &old.get("metadata"));
    if subresource == "status" {
        return balancer(&new.get("status").get("loadBalancer"), new.get("spec").get("type").text());
    }
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let found = new.found();
    whole(new);
    let addressed = |at: &At<'_>| at.get("type").text() != "ExternalName";
    if new.found() == found && addressed(&spec) && addressed(&before) {
        addresses_kept(&spec, &before);
    }
    let health = spec.get("healthCheckNodePort");
    let local = |at: &At<'_>| {
        at.get("type").text() == "LoadBalancer" && at.get("externalTrafficPolicy").text() == "Local"
    };
    if local(&before) && local(&spec) && !health.same(&before.get("healthCheckNodePort")) {
        health.forbidden("field is immutable");
    }
    let class = spec.get("loadBalancerClass");
    let balanced = |at: &At<'_>| at.get("type").text() == "LoadBalancer";
    if balanced(&before) && balanced(&spec) && !class.same(&before.get("loadBalancerClass")) {
        class.invalid("may not change once set");
    }
}

/// A given address stays; the second one may come and go with the policy.
fn addresses_kept(new: &At<'_>, old: &At<'_>) {
    let (ips, had) = (new.get("clusterIPs"), old.get("clusterIPs"));
    let released = new.get("ipFamilyPolicy").text() == "SingleStack" && ips.len() < had.len();
    for (index, before) in had.items().enumerate() {
        let now = ips.nth(index);
        if before.text().is_empty() || now.text() == before.text() {
            continue;
        }
        match (now.is_set(), index) {
            (false, 0) => {
                if new.get("clusterIP").text().is_empty() && ips.is_empty() {
                    ips.nth(0).invalid_as(ips.value.clone(), "primary clusterIP can not be unset");
                }
            }
            (false, _) if released => {}
            (false, _) => {
                let what = "must be set to 'SingleStack' when releasing the secondary clusterIP";
                new.get("ipFamilyPolicy").invalid(what);
            }
            (true, _) => now.invalid_as(ips.value.clone(), "may not change once set"),
        }
    }
    let (families, had) = (new.get("ipFamilies"), old.get("ipFamilies"));
    if old.get("clusterIP").text() == "None" || new.get("clusterIP").text() == "None" {
        return;
    }
    for (index, before) in had.items().enumerate() {
        let now = families.nth(index);
        if now.text() == before.text() {
            continue;
        }
        match (now.is_set(), index) {
            (false, 0) => now.invalid_as(families.value.clone(), "primary ipFamily can not be unset"),
            (false, _) if new.get("ipFamilyPolicy").text() == "SingleStack" => {}
            (false, _) => {
                let what = "must be set to 'SingleStack' when releasing the secondary ipFamily";
                new.get("ipFamilyPolicy").invalid(what);
            }
            (true, 0) => now.invalid_as(families.value.clone(), "may not change once set"),
            (true, _) => now.invalid_as(ips.value.clone(), "may not change once set"),
        }
    }
}

fn whole(at: &At<'_>) {
    meta::create(&at.get("metadata"), true, names::dns1123_label);
    let spec = at.get("spec");
    let (kind, ip) = (spec.get("type"), spec.get("clusterIP").text());
    let headless = ip == "None" || spec.get("clusterIPs").nth(0).text() == "None";
    let (ports, external) = (spec.get("ports"), kind.text() == "ExternalName");
    if ports.is_empty() && !headless && !external {
        ports.required("");
    }
    by_type(&spec, headless);
    let mut seen: Vec<String> = Vec::new();
    for port in ports.items() {
        let name = port.get("name");
        if ports.len() > 1 && name.is_empty() {
            name.required("");
        } else if !name.is_empty() {
            name.rule(names::dns1123_label);
            if seen.iter().any(|s| s == name.text()) {
                name.duplicate();
            }
            seen.push(name.text().to_string());
        }
        port.get("port").port();
        port.get("protocol").need_one_of(&PROTOCOLS);
        port.get("targetPort").port_or_name();
        if port.get("appProtocol").is_set() {
            port.get("appProtocol").rule(names::qualified_name);
        }
    }
    for (key, value) in spec.get("selector").entries() {
        let selector = spec.get("selector");
        for what in names::qualified_name(key) {
            selector.invalid_as(key, &what);
        }
        for what in names::label_value(value.text()) {
            selector.invalid_as(value.text(), &what);
        }
    }
    affinity(&spec);
    families(&spec, headless, external);
    externals(&spec);
    kind.need_one_of(&["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    port_numbers(&ports, kind.text());
    balancer_fields(&spec);
    traffic(&spec, external);
}

fn by_type(spec: &At<'_>, headless: bool) {
    let ips = spec.get("clusterIPs");
    let kind = spec.get("type").text();
    let first = Value::from("None");
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            ips.nth(0).with(&first).invalid(&format!("may not be set to 'None' for {kind} services"));
        }
        "ExternalName" => {
            if !ips.is_empty() {
                ips.forbidden("may not be set for ExternalName services");
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(field).is_empty() {
                    spec.get(field).forbidden("may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            let text = name.text().strip_suffix('.').unwrap_or(name.text());
            match text {
                "" => name.required(""),
                text => {
                    for what in names::dns1123_subdomain(text) {
                        name.invalid_as(text, &what);
                    }
                }
            }
        }
        _ => {}
    }
}

fn affinity(spec: &At<'_>) {
    spec.get("sessionAffinity").need_one_of(&["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    match spec.get("sessionAffinity").text() {
        "ClientIP" => {
            let words = "when session affinity type is ClientIP";
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            if !config.is_set() {
                config.required(words);
            } else if !client.is_set() {
                client.required(words);
            } else if !timeout.is_set() {
                timeout.required(words);
            } else if !(1..=AFFINITY_MAX).contains(&timeout.int()) {
                timeout.invalid(&format!("must be greater than 0 and less than {AFFINITY_MAX}"));
            }
        }
        "None" if config.is_set() => {
            config.forbidden("must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn families(spec: &At<'_>, headless: bool, external: bool) {
    if external {
        return;
    }
    let (ip, ips) = (spec.get("clusterIP").text(), spec.get("clusterIPs"));
    if !ip.is_empty() {
        if !ips.is_empty() && ips.nth(0).text() != ip {
            ips.invalid("first value must match `clusterIP`");
        }
    } else if !ips.is_empty() {
        ips.invalid("must be empty when `clusterIP` is not specified");
    }
    let list = spec.get("ipFamilies");
    let mut seen: Vec<String> = Vec::new();
    for family in list.items() {
        family.one_of(&["IPv4", "IPv6"]);
        if seen.iter().any(|s| s == family.text()) {
            family.duplicate();
        }
        seen.push(family.text().to_string());
    }
    spec.get("ipFamilyPolicy").one_of_if_set(&["PreferDualStack", "RequireDualStack", "SingleStack"]);
    for (index, item) in ips.items().enumerate() {
        if item.text() == "None" {
            if index > 0 || ips.len() > 1 {
                ips.invalid("'None' must be the first and only value");
            }
            continue;
        }
        net::ip(&item);
    }
    if ips.len() > 2 {
        ips.invalid("may only hold up to 2 values");
    }
    if headless || ips.is_empty() {
        return;
    }
    let six: Vec<bool> = ips.items().map(|item| item.text().contains(':')).collect();
    if six.len() == 2 && six[0] == six[1] {
        ips.invalid("may specify no more than one IP for each IP family");
    }
    for (index, (item, six)) in ips.items().zip(&six).enumerate() {
        let wanted = list.nth(index);
        if (wanted.text() == "IPv4" && *six) || (wanted.text() == "IPv6" && !*six) {
            item.invalid(&format!(
                "expected an {} value as indicated by `ipFamilies[{index}]`",
                wanted.text()
            ));
        }
    }
}

fn externals(spec: &At<'_>) {
    for ip in spec.get("externalIPs").items() {
        let before = ip.found();
        net::ip(&ip);
        if ip.found() == before {
            usable(&ip);
        }
    }
}

/// An address that can be reached from elsewhere.
pub fn usable(at: &At<'_>) {
    let Some(ip) = net::sloppy(at.text()) else {
        return at.invalid_text("must be a valid IP address");
    };
    if ip.is_unspecified() {
        at.invalid(&format!("may not be unspecified ({})", at.text()));
    }
    if ip.is_loopback() {
        at.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link, multicast) = match ip {
        std::net::IpAddr::V4(four) => (four.is_link_local(), four.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(six) => {
            (six.segments()[0] & 0xffc0 == 0xfe80, six.segments()[0] & 0xff0f == 0xff02)
        }
    };
    if link {
        at.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        at.invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn port_numbers(ports: &At<'_>, kind: &str) {
    if kind == "ClusterIP" {
        for port in ports.items() {
            if port.get("nodePort").int() != 0 {
                port.get("nodePort").forbidden("may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    let mut nodes: Vec<(String, i64)> = Vec::new();
    for port in ports.items() {
        let number = port.get("nodePort").int();
        let key = (port.get("protocol").text().to_string(), number);
        if number != 0 && nodes.contains(&key) {
            port.get("nodePort").duplicate();
        }
        nodes.push(key);
    }
    let mut seen: Vec<(String, i64)> = Vec::new();
    for port in ports.items() {
        let key = (port.get("protocol").text().to_string(), port.get("port").int());
        if seen.contains(&key) {
            port.duplicate_of(serde_json::json!({"protocol": key.0, "port": key.1}));
        }
        seen.push(key);
    }
}

fn balancer_fields(spec: &At<'_>) {
    let balancer = spec.get("type").text() == "LoadBalancer";
    let ranges = spec.get("LoadBalancerSourceRanges");
    let ranges = ranges.with(spec.get("loadBalancerSourceRanges").value);
    if !ranges.is_empty() {
        if !balancer {
            ranges.forbidden(BALANCER_ONLY);
        }
        ranges.items().for_each(|range| net::cidr(&range.with(&Value::from(range.text().trim()))));
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if allocate.is_set() && !balancer {
        allocate.forbidden(BALANCER_ONLY);
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        if balancer {
            class.rule(names::qualified_name);
        } else {
            class.forbidden(BALANCER_ONLY);
        }
    }
}

fn traffic(spec: &At<'_>, external: bool) {
    let kind = spec.get("type").text();
    let (policy, health) = (spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort"));
    let outward = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !spec.get("externalIPs").is_empty());
    if !outward {
        if !policy.is_empty() {
            policy.invalid("may only be set for externally-accessible services");
        }
    } else {
        policy.need_one_of(&["Cluster", "Local"]);
    }
    let wanted = kind == "LoadBalancer" && policy.text() == "Local";
    if health.int() != 0 {
        if wanted {
            health.port();
        } else {
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            );
        }
    }
    let internal = spec.get("internalTrafficPolicy");
    if external || !internal.is_set() {
        if !external && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
            internal.required("");
        }
    } else {
        internal.one_of(&["Cluster", "Local"]);
    }
    spec.get("trafficDistribution").one_of_if_set(&["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

/// Where a load balancer is reached.
pub fn balancer(at: &At<'_>, kind: &str) {
    let list = at.get("ingress");
    if kind != "LoadBalancer" && !list.is_empty() {
        return list.forbidden("may only be used when `spec.type` is 'LoadBalancer'");
    }
    for point in list.items() {
        let (ip, mode, host) = (point.get("ip"), point.get("ipMode"), point.get("hostname"));
        if !ip.is_empty() {
            net::ip(&ip);
            match mode.is_set() {
                false => mode.required("must be specified when `ip` is set"),
                true => mode.one_of(&["Proxy", "VIP"]),
            }
        } else if mode.is_set() {
            mode.forbidden("may not be specified when `ip` is not set");
        }
        if !host.is_empty() {
            host.rule(names::dns1123_subdomain);
            if net::sloppy(host.text()).is_some() {
                host.invalid("must be a DNS name, not an IP address");
            }
        }
    }
}
