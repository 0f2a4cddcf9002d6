//! The specification of pods, by itself and in the templates of workloads.

use base::names;
use serde_json::Value;

use super::check::At;
use super::container::{self, Around, Role};
use super::{handler, meta, net, placement, resources, volume};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_CHARS_MAX: usize = 2048;
const SYSCTL_MAX: usize = 253;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const PROFILE_MAX: usize = 4095;
const HOSTNAME_MAX: usize = 64;

/// What ephemeral containers may not have.
const NOT_EPHEMERAL: [&str; 8] = [
    "ports",
    "resources",
    "resizePolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "restartPolicyRules",
];

/// A pod's specification. `name` is the pod's, empty in templates.
pub fn spec(at: &At<'_>, name: &str, is_pod: bool) {
    let grace = at.get("terminationGracePeriodSeconds");
    if !grace.is_set() {
        grace.required("");
    }
    let volumes = at.value.get("volumes").and_then(Value::as_array);
    let volumes = volume::pod_volumes(&at.get("volumes"), volumes, name);
    claims(&at.get("resourceClaims"));
    let host_users = at.get("hostUsers").value.as_bool() != Some(false);
    let around = Around { spec: *at, volumes, host_users };
    containers(at, &around);
    let whole = at.get("resources");
    if whole.is_set() {
        if at.get("os").get("name").text() == "windows" {
            whole.forbidden("may not be set for a windows pod");
        } else {
            resources::pod(&whole, &at.get("resourceClaims"));
        }
    }
    host_network(at, is_pod);
    at.get("restartPolicy").need_one_of(&["Always", "OnFailure", "Never"]);
    at.get("dnsPolicy").need_one_of(&["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    meta::labels(&at.get("nodeSelector"));
    security(&at.get("securityContext"), at);
    placement::affinity(&at.get("affinity"));
    dns(&at.get("dnsConfig"), at.get("dnsPolicy").text());
    for gate in at.get("readinessGates").items() {
        gate.get("conditionType").rule(names::qualified_name);
    }
    gates(&at.get("schedulingGates"));
    placement::spread(&at.get("topologySpreadConstraints"));
    if !host_users {
        for (field, shown) in [("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if at.get(field).truth() {
                at.get(shown).forbidden("when `hostUsers` is false");
            }
        }
        if at.get("hostNetwork").truth() {
            at.get("hostNetwork").forbidden("when `hostUsers` is false");
        }
    }
    names_of_host(at);
    at.get("serviceAccountName").rule_if_set(names::dns1123_subdomain);
    at.get("nodeName").rule_if_set(names::dns1123_subdomain);
    at.get("activeDeadlineSeconds").range(1, i64::from(i32::MAX));
    at.get("hostname").rule_if_set(names::dns1123_label);
    at.get("subdomain").rule_if_set(names::dns1123_label);
    placement::tolerations(&at.get("tolerations"));
    for alias in at.get("hostAliases").items() {
        net::ip(&alias.get("ip"));
        alias.get("hostnames").items().for_each(|name| name.rule(names::dns1123_subdomain));
    }
    at.get("priorityClassName").rule_if_set(names::dns1123_subdomain);
    if at.get("runtimeClassName").is_set() {
        at.get("runtimeClassName").rule(names::dns1123_subdomain);
    }
    at.get("preemptionPolicy").one_of_if_set(&["Never", "PreemptLowerPriority"]);
    for (key, amount) in at.get("overhead").entries() {
        resources::container_name(key, &amount);
        resources::amount(key, &amount);
    }
    let os = at.get("os");
    if os.is_set() {
        let name = os.get("name");
        if name.need() && !matches!(name.text(), "linux" | "windows") {
            os.with(name.value).unsupported(&["linux", "windows"]);
        }
    }
}

fn claims(at: &At<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for claim in at.items() {
        let name = claim.get("name");
        if name.need() {
            if seen.iter().any(|s| s == name.text()) {
                name.duplicate();
            } else {
                name.rule(names::dns1123_label);
                seen.push(name.text().to_string());
            }
        }
        let (own, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (own.is_set(), template.is_set()) {
            (true, true) => claim.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => {
                claim.invalid("must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
            }
            _ => {}
        }
        for name in [own, template] {
            if name.is_set() {
                name.rule(names::dns1123_subdomain);
            }
        }
    }
}

fn containers(spec: &At<'_>, around: &Around<'_>) {
    let main = spec.get("containers");
    if main.is_empty() {
        main.required("");
    }
    list(&main, spec, around, Role::Main);
    list(&spec.get("initContainers"), spec, around, Role::Init);
    list(&spec.get("ephemeralContainers"), spec, around, Role::Ephemeral);
}

fn named<'a>(spec: &At<'a>, lists: &[&str]) -> Vec<&'a str> {
    let lists = lists.iter().filter_map(|list| spec.value.get(list).and_then(Value::as_array));
    lists.flatten().filter_map(|c| c.get("name").and_then(Value::as_str)).collect()
}

fn list(at: &At<'_>, spec: &At<'_>, around: &Around<'_>, role: Role) {
    let mut seen: Vec<&str> = match role {
        _ if at.is_empty() => return,
        Role::Main => Vec::new(),
        Role::Init => named(spec, &["containers"]),
        Role::Ephemeral => named(spec, &["containers", "initContainers"]),
    };
    let others = seen.len();
    let mut ports: Vec<String> = Vec::new();
    for (index, one) in at.items().enumerate() {
        container::common(&one, around);
        if role == Role::Ephemeral {
            trimmed_image(&one);
        } else if role == Role::Init {
            container::restarts(&one);
        }
        let value = at.value.get(index).and_then(|c| c.get("name")).and_then(Value::as_str).unwrap_or("");
        if seen.contains(&value) && !(role == Role::Init && value.is_empty()) {
            one.get("name").duplicate_of(value);
        } else {
            seen.push(value);
        }
        let always = one.get("restartPolicy").text() == "Always";
        match role {
            Role::Main => {
                hooks(&one, spec);
                container::restarts(&one);
            }
            Role::Init => {
                ports.clear();
                host_ports(&one, &mut ports, at);
                init(&one, spec, always);
            }
            Role::Ephemeral => ephemeral(&one, &seen[..others]),
        }
    }
    if role == Role::Main {
        at.items().for_each(|one| host_ports(&one, &mut ports, at));
    }
}

fn hooks(at: &At<'_>, spec: &At<'_>) {
    if at.get("lifecycle").is_set() {
        handler::lifecycle(&at.get("lifecycle"), spec);
    }
    handler::liveness(&at.get("livenessProbe"), spec);
    handler::readiness(&at.get("readinessProbe"), spec);
    handler::liveness(&at.get("startupProbe"), spec);
}

fn init(at: &At<'_>, spec: &At<'_>, always: bool) {
    if always {
        return hooks(at, spec);
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if at.get(field).is_set() {
            at.get(field).forbidden("may not be set for init containers without restartPolicy=Always");
        }
    }
    for policy in at.get("resizePolicy").items() {
        if policy.get("restartPolicy").text() == "RestartContainer" {
            policy
                .get("restartPolicy")
                .invalid("must not be set to 'RestartContainer' for non-sidecar initContainers");
        }
    }
}

fn ephemeral(at: &At<'_>, others: &[&str]) {
    let target = at.get("targetContainerName");
    if !target.is_empty() && !others.contains(&target.text()) {
        target.not_found();
    }
    for field in NOT_EPHEMERAL {
        if !at.get(field).is_empty() {
            at.get(field).forbidden("cannot be set for an Ephemeral Container");
        }
    }
    for mount in at.get("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.get(field).is_empty() {
                mount.get(field).forbidden("cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// Two containers cannot have the same port of the host.
fn host_ports(one: &At<'_>, seen: &mut Vec<String>, _list: &At<'_>) {
    for port in one.get("ports").items() {
        let number = port.get("hostPort").int();
        if number == 0 {
            continue;
        }
        let key = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
        if seen.contains(&key) {
            port.get("hostPort").duplicate_of(key.as_str());
        }
        seen.push(key);
    }
}

/// Images of pods have no space around them; those of templates may.
pub fn trimmed_image(at: &At<'_>) {
    let image = at.get("image");
    if image.text().trim() != image.text() {
        image.invalid("must not have leading or trailing whitespace");
    }
}

fn host_network(at: &At<'_>, is_pod: bool) {
    if !at.get("hostNetwork").truth() {
        return;
    }
    for one in at.get("containers").items() {
        for port in one.get("ports").items() {
            let host = port.get("hostPort").int();
            if (is_pod || host != 0) && host != port.get("containerPort").int() {
                port.get("hostPort")
                    .invalid_as(host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn security(at: &At<'_>, spec: &At<'_>) {
    let shared = spec.get("shareProcessNamespace");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        container::id(&at.get(field));
    }
    at.get("supplementalGroups").items().for_each(|group| container::id(&group));
    if shared.truth() && spec.get("hostPID").truth() {
        at.get("shareProcessNamespace")
            .invalid_as(true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(&at.get("sysctls"), spec);
    at.get("fsGroupChangePolicy").one_of_if_set(&["Always", "OnRootMismatch"]);
    seccomp(&at.get("seccompProfile"));
    app_armor(&at.get("appArmorProfile"));
    at.get("supplementalGroupsPolicy").one_of_if_set(&["Merge", "Strict"]);
    at.get("seLinuxChangePolicy").one_of_if_set(&["MountOption", "Recursive"]);
}

/// Kernel parameters have dotted (or slashed) names of small letters.
fn sysctls(at: &At<'_>, spec: &At<'_>) {
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |part: &str| {
        let bytes = part.as_bytes();
        let ends = bytes.first().copied().is_some_and(edge) && bytes.last().copied().is_some_and(edge);
        ends && bytes.iter().all(|c| edge(*c) || matches!(c, b'-' | b'_'))
    };
    let mut seen: Vec<String> = Vec::new();
    for sysctl in at.items() {
        let name = sysctl.get("name");
        let text = name.text();
        if text.is_empty() {
            name.required("");
        } else if text.len() > SYSCTL_MAX || !text.split(['.', '/']).all(word) {
            name.invalid(&format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL}"));
        } else if seen.iter().any(|s| s == text) {
            name.duplicate();
        }
        seen.push(text.to_string());
        let dotted = text.replace('/', ".");
        if spec.get("hostNetwork").truth() && dotted.starts_with("net.") {
            name.invalid("may not be specified when 'hostNetwork' is true");
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if spec.get("hostIPC").truth() && (ipc || dotted == "kernel.sem") {
            name.invalid("may not be specified when 'hostIPC' is true");
        }
    }
}

/// Which system calls are allowed.
pub fn seccomp(at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "" => kind.required("type is required when seccompProfile is set"),
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        _ => kind.unsupported(&["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    if kind.text() == "Localhost" {
        match profile.is_set() {
            false => profile.required("must be set when seccomp type is Localhost"),
            true => volume::descending(&profile),
        }
    } else if profile.is_set() {
        profile.invalid_as(at.value.clone(), "can only be set when seccomp type is Localhost");
    }
}

/// The AppArmor profile.
pub fn app_armor(at: &At<'_>) {
    if !at.is_set() {
        return;
    }
    let (kind, profile) = (at.get("type"), at.get("localhostProfile"));
    match kind.text() {
        "Localhost" if !profile.is_set() => {
            profile.required("must be set when AppArmor type is Localhost");
        }
        "Localhost" => {
            let text = profile.text();
            if text.trim() != text {
                profile.invalid("must not be padded with whitespace");
            } else if text.is_empty() {
                profile.required("must be set when AppArmor type is Localhost");
            }
            profile.at_most_bytes(PROFILE_MAX);
        }
        "RuntimeDefault" | "Unconfined" if profile.is_set() => {
            profile.invalid("can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => kind.required("type is required when appArmorProfile is set"),
        _ => kind.unsupported(&["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn dns(at: &At<'_>, policy: &str) {
    let servers = at.get("nameservers");
    if policy == "None" {
        if !at.is_set() {
            return at.required("must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > NAMESERVERS_MAX {
        servers.invalid(&format!("must not have more than {NAMESERVERS_MAX} nameservers"));
    }
    servers.items().for_each(|server| net::ip(&server));
    let searches = at.get("searches");
    if searches.len() > SEARCHES_MAX {
        searches.invalid(&format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    let chars: usize = searches.items().map(|search| search.text().len() + 1).sum();
    if chars.saturating_sub(1) > SEARCH_CHARS_MAX {
        searches.invalid(&format!(
            "must not have more than {SEARCH_CHARS_MAX} characters (including spaces) in the search list"
        ));
    }
    for search in searches.items() {
        if search.text() != "." {
            let text = search.text().strip_suffix('.').unwrap_or(search.text());
            for what in names::dns1123_subdomain_with_underscore(text) {
                search.invalid_as(text, &what);
            }
        }
    }
    for option in at.get("options").items() {
        if option.get("name").is_empty() {
            option.required("must not be empty");
        }
    }
}

fn gates(at: &At<'_>) {
    let mut seen: Vec<String> = Vec::new();
    for gate in at.items() {
        let name = gate.get("name").text().to_string();
        for what in names::qualified_name(&name) {
            gate.invalid_as(name.as_str(), &what);
        }
        if seen.contains(&name) {
            gate.duplicate_of(name.as_str());
        }
        seen.push(name);
    }
}

fn names_of_host(at: &At<'_>) {
    let name = at.get("hostnameOverride");
    if !name.is_set() {
        return;
    }
    if at.get("setHostnameAsFQDN").truth() {
        name.forbidden("may not be specified when setHostnameAsFQDN is true");
    }
    if at.get("hostNetwork").truth() {
        name.forbidden("may not be specified when hostNetwork is true");
    }
    name.at_most_bytes(HOSTNAME_MAX);
    name.rule(names::dns1123_subdomain);
}

/// The template of a workload: labels, annotations and a pod that is not one yet.
pub fn template(at: &At<'_>) {
    let metadata = at.get("metadata");
    template_meta(at, &metadata);
    spec(&at.get("spec"), "", false);
    let ephemeral = at.get("spec");
    let ephemeral = ephemeral.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        ephemeral.forbidden("ephemeral containers not allowed in pod template");
    }
}

/// Labels and annotations of a template, whose paths leave `metadata` out.
fn template_meta(at: &At<'_>, metadata: &At<'_>) {
    meta::labels(&at.get("labels").with(metadata.get("labels").value));
    let place = at.get("annotations");
    let own = place.with(metadata.get("annotations").value);
    meta::annotations(&own);
    annotations(&own, &at.get("spec"));
}

/// Annotations that mean something to pods.
pub fn annotations(at: &At<'_>, spec: &At<'_>) {
    let mirror = at.key("kubernetes.io/config.mirror");
    if mirror.is_set() && spec.get("nodeName").is_empty() {
        mirror.invalid("must set spec.nodeName if mirror pod annotation is set");
    }
    let cost = at.key("controller.kubernetes.io/pod-deletion-cost");
    if cost.is_set() && cost.text().parse::<i32>().is_err() {
        cost.invalid("must be a 32bit integer");
    }
}
