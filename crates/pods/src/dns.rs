//! A pod's resolv.conf and hosts file.

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

/// Most name servers a resolv.conf may have.
pub const NAMESERVERS: usize = 3;
/// Most search domains.
pub const SEARCHES: usize = 32;
/// Most characters of all search domains with the spaces between them.
pub const SEARCH_CHARS: usize = 2048;

/// The contents of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// Reads a resolv.conf; what it does not understand is left out.
pub fn parse(text: &str) -> Resolver {
    let mut r = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_string);
        match words.next().as_deref() {
            Some("nameserver") => r.servers.extend(words.next()),
            Some("search" | "domain") => r.searches = words.collect(),
            Some("options") => r.options.extend(words),
            _ => {}
        }
    }
    r
}

/// The resolver of a pod and warnings about what was cut off.
pub fn resolver(
    spec: &PodSpec,
    namespace: &str,
    cluster: &[String],
    domain: &str,
    host: &Resolver,
) -> (Resolver, Vec<String>) {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let on_host = spec.host_network == Some(true);
    let use_cluster = !cluster.is_empty()
        && match policy {
            "ClusterFirst" => !on_host,
            "ClusterFirstWithHostNet" => true,
            _ => false,
        };
    let mut r = match policy {
        "None" => Resolver::default(),
        _ if use_cluster => {
            let mut searches: Vec<String> = if domain.is_empty() {
                Vec::new()
            } else {
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()]
            };
            searches.extend(host.searches.iter().cloned());
            Resolver { servers: cluster.to_vec(), searches, options: vec!["ndots:5".into()] }
        }
        _ => host.clone(),
    };
    if let Some(config) = &spec.dns_config {
        r.servers.extend(config.nameservers.iter().flatten().cloned());
        r.searches.extend(config.searches.iter().flatten().cloned());
        for o in config.options.iter().flatten() {
            let name = o.name.clone().unwrap_or_default();
            r.options.retain(|have| have.split(':').next() != Some(&name));
            r.options.push(o.value.as_ref().map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    dedup(&mut r.servers);
    dedup(&mut r.searches);
    let warnings = cut(&mut r);
    (r, warnings)
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| seen.insert(s.clone()));
}

fn cut(r: &mut Resolver) -> Vec<String> {
    let mut warnings = Vec::new();
    if r.servers.len() > NAMESERVERS {
        r.servers.truncate(NAMESERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            r.servers.join(" ")
        ));
    }
    let before = r.searches.len();
    r.searches.truncate(SEARCHES);
    while r.searches.join(" ").len() > SEARCH_CHARS {
        r.searches.pop();
    }
    if r.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            r.searches.join(" ")
        ));
    }
    warnings
}

/// The file's text.
pub fn render(r: &Resolver) -> String {
    let mut out = String::new();
    if !r.searches.is_empty() {
        out += &format!("search {}\n", r.searches.join(" "));
    }
    for s in &r.servers {
        out += &format!("nameserver {s}\n");
    }
    if !r.options.is_empty() {
        out += &format!("options {}\n", r.options.join(" "));
    }
    out
}

/// The text of a pod's hosts file.
pub fn hosts(ips: &[String], hostname: &str, fqdn: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut out = String::from("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n");
    out += "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n";
    out += "fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
    for ip in ips {
        match fqdn {
            Some(fqdn) => out += &format!("{ip}\t{fqdn}\t{hostname}\n"),
            None => out += &format!("{ip}\t{hostname}\n"),
        }
    }
    out + &alias_lines(aliases)
}

/// The hosts file of a pod in the node's network: the node's own, and the aliases.
pub fn host_hosts(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for a in aliases {
        out += &format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    out
}

/// Host name and, for pods with a subdomain, the fully qualified one.
pub fn hostname(spec: &PodSpec, name: &str, namespace: &str, domain: &str) -> (String, Option<String>) {
    if let Some(o) = spec.hostname_override.as_deref().filter(|o| !o.is_empty()) {
        return (o.to_string(), None);
    }
    let wanted = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(name);
    let host = wanted.get(..63).unwrap_or(wanted).trim_end_matches(['-', '.']).to_string();
    let fqdn = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|sub| format!("{host}.{sub}.{namespace}.svc.{domain}"));
    (host, fqdn)
}
