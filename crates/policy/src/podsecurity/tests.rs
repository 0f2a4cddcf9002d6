//! Tables of what the standards say of pods and namespaces.

use serde_json::{Value, json};

use super::checks::details;
use super::*;

fn standard(text: &str) -> Standard {
    let (name, at) = text.split_once(':').expect("level:version");
    Standard { level: level(name).expect("level"), version: version(at).expect("version") }
}

/// A pod whose containers and specification say this besides what every pod says.
fn pod(spec: Value, containers: &[Value]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .enumerate()
        .map(|(number, context)| json!({"name": format!("c{number}"), "image": "i", "securityContext": context}))
        .collect();
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// A container's context that `restricted` accepts.
fn hardened() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"}})
}

fn check(at: &str, pod: &Value, expected: &str) {
    let found = details(&evaluate(standard(at), Pod::of(pod)));
    assert_eq!(found, expected, "{at} of {pod}");
}

#[test]
fn what_baseline_forbids() {
    let none = json!({});
    let cases: &[(&str, Value, Vec<Value>, &str)] = &[
        ("privileged:latest", json!({"hostPID": true}), vec![none.clone()], ""),
        ("baseline:latest", json!({}), vec![none.clone()], ""),
        (
            "baseline:latest",
            json!({"hostNetwork": true, "hostIPC": true}),
            vec![json!({"privileged": true}), json!({"privileged": true})],
            "host namespaces (hostNetwork=true, hostIPC=true), privileged (containers \"c0\", \"c1\" must not set securityContext.privileged=true)",
        ),
        (
            "baseline:latest",
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            vec![none.clone()],
            "hostPath volumes (volume \"v\")",
        ),
        (
            "baseline:latest",
            json!({}),
            vec![json!({"capabilities": {"add": ["SYS_ADMIN", "NET_RAW", "CHOWN"]}})],
            "non-default capabilities (container \"c0\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            "baseline:v1.34",
            json!({"hostUsers": false}),
            vec![json!({"procMount": "Unmasked"})],
            "procMount (container \"c0\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        ("baseline:v1.35", json!({"hostUsers": false}), vec![json!({"procMount": "Unmasked"})], ""),
        (
            "baseline:latest",
            json!({"securityContext": {"seLinuxOptions": {"type": "x", "role": "r"}}}),
            vec![json!({"seLinuxOptions": {"user": "u"}})],
            "seLinuxOptions (pod and container \"c0\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set)",
        ),
        (
            "baseline:v1.26",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}}),
            vec![none.clone()],
            "forbidden sysctls (net.ipv4.ip_local_reserved_ports)",
        ),
        (
            "baseline:v1.27",
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_local_reserved_ports"}]}}),
            vec![none.clone()],
            "",
        ),
        (
            "baseline:latest",
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"},
                "appArmorProfile": {"type": "Unconfined"}, "windowsOptions": {"hostProcess": true}}}),
            vec![none],
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\"), seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\"), hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ];
    for (at, spec, containers, expected) in cases {
        check(at, &pod(spec.clone(), containers), expected);
    }
}

#[test]
fn ports_probes_and_annotations() {
    let mut pod = pod(json!({}), &[json!({})]);
    pod["spec"]["containers"][0]["ports"] = json!([{"hostPort": 80}, {"hostPort": 8080}, {"hostPort": 0}]);
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"host": "h"}});
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"tcpSocket": {"host": "g"}}});
    let ports = "hostPort (container \"c0\" uses hostPorts 80, 8080)";
    check("baseline:v1.33", &pod, ports);
    let hosts = "probe or lifecycle host (container \"c0\" uses probe or lifecycle hosts \"g\", \"h\")";
    check("baseline:latest", &pod, &format!("{ports}, {hosts}"));
    let mut pod = super::tests::pod(json!({}), &[json!({})]);
    pod["metadata"]["annotations"] = json!({
        "container.apparmor.security.beta.kubernetes.io/c0": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/c0": "unconfined",
        "seccomp.security.alpha.kubernetes.io/pod": "docker/default",
    });
    let armor = "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c0=\"unconfined\"\")";
    check("baseline:latest", &pod, armor);
    let seccomp = "seccompProfile (forbidden annotation container.seccomp.security.alpha.kubernetes.io/c0=\"unconfined\")";
    check("baseline:v1.18", &pod, &format!("{armor}, {seccomp}"));
}

#[test]
fn what_restricted_forbids() {
    let bare = pod(json!({}), &[json!({})]);
    check(
        "restricted:latest",
        &bare,
        "allowPrivilegeEscalation != false (container \"c0\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c0\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c0\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c0\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    check(
        "restricted:v1.7",
        &bare,
        "runAsNonRoot != true (pod or container \"c0\" must set securityContext.runAsNonRoot=true)",
    );
    check("restricted:latest", &pod(json!({}), &[hardened()]), "");
    let with = |key: &str, value: Value| {
        let mut context = hardened();
        context[key] = value;
        pod(json!({}), &[hardened(), context])
    };
    check(
        "restricted:latest",
        &with("runAsUser", json!(0)),
        "runAsUser=0 (container \"c1\" must not set runAsUser=0)",
    );
    check(
        "restricted:latest",
        &with("runAsNonRoot", json!(false)),
        "runAsNonRoot != true (container \"c1\" must not set securityContext.runAsNonRoot=false)",
    );
    check(
        "restricted:latest",
        &with("capabilities", json!({"add": ["CHOWN", "NET_BIND_SERVICE"]})),
        "unrestricted capabilities (container \"c1\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c1\" must not include \"CHOWN\" in securityContext.capabilities.add)",
    );
    let volumes = json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "nfs": {}},
        {"name": "c", "emptyDir": {}}]});
    check(
        "restricted:latest",
        &pod(volumes, &[hardened()]),
        "restricted volume types (volumes \"a\", \"b\" use restricted volume types \"hostPath\", \"nfs\")",
    );
    check(
        "restricted:latest",
        &pod(json!({"os": {"name": "windows"}}), &[json!({"runAsNonRoot": true})]),
        "",
    );
}

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn labels(pairs: Pairs<'_>) -> Value {
    let labels: serde_json::Map<String, Value> = pairs
        .iter()
        .map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), (*value).into()))
        .collect();
    json!({"metadata": {"name": "ns", "labels": labels}})
}

fn policy(pairs: Pairs<'_>) -> (Policy, Vec<BadLabel>) {
    let namespace = labels(pairs);
    Policy::of(&Policy::OPEN, |key| namespace["metadata"]["labels"].get(key)?.as_str())
}

#[test]
fn labels_choose_standards() {
    let cases: &[(Pairs<'_>, &str, usize)] = &[
        (&[], "privileged:latest privileged:latest privileged:latest", 0),
        (&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest", 0),
        (
            &[("enforce", "restricted"), ("enforce-version", "v1.25")],
            "restricted:v1.25 privileged:latest restricted:v1.25",
            0,
        ),
        (
            &[
                ("enforce", "restricted"),
                ("warn", "privileged"),
                ("audit", "baseline"),
                ("audit-version", "v1.0"),
            ],
            "restricted:latest baseline:v1.0 privileged:latest",
            0,
        ),
        (
            &[("enforce", "x"), ("audit", "x"), ("warn", "x")],
            "restricted:latest privileged:latest privileged:latest",
            3,
        ),
        (
            &[("warn-version", "v1.01"), ("audit-version", "1.2")],
            "privileged:latest privileged:latest privileged:latest",
            2,
        ),
    ];
    for (pairs, expected, errors) in cases {
        let (policy, bad) = policy(pairs);
        let found = format!("{} {} {}", policy.enforce, policy.audit, policy.warn);
        assert_eq!((found.as_str(), bad.len()), (*expected, *errors), "{pairs:?}");
    }
    let (_, bad) = policy(&[("enforce", "x")]);
    let said = format!("{}: {}", bad[0].field(), bad[0].message());
    let expected = "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted";
    assert_eq!(said, expected);
}

#[test]
fn namespaces_are_checked_when_they_enforce_more() {
    let open = labels(&[]);
    let base = labels(&[("enforce", "baseline")]);
    let strict = labels(&[("enforce", "restricted")]);
    let broken = labels(&[("warn", "x")]);
    assert!(matches!(namespace(&Policy::OPEN, None, &broken), NamespaceAnswer::Invalid(_)));
    assert!(matches!(namespace(&Policy::OPEN, Some(&open), &broken), NamespaceAnswer::Invalid(_)));
    assert_eq!(namespace(&Policy::OPEN, Some(&broken), &broken), NamespaceAnswer::Fine);
    assert_eq!(namespace(&Policy::OPEN, None, &strict), NamespaceAnswer::Fine);
    assert_eq!(namespace(&Policy::OPEN, Some(&strict), &base), NamespaceAnswer::Fine);
    assert_eq!(
        namespace(&Policy::OPEN, Some(&base), &strict),
        NamespaceAnswer::Check(standard("restricted:latest"))
    );
    let named = |name: &str, owner: &str| {
        let mut pod = pod(json!({"hostPID": true}), &[json!({})]);
        pod["metadata"] = json!({"name": name, "ownerReferences": [{"uid": owner, "controller": true}]});
        pod
    };
    let pods = [named("c", "1"), named("b", "1"), named("a", "2"), pod(json!({}), &[json!({})])];
    let warnings = existing("ns", standard("baseline:latest"), &pods);
    let expected = [
        "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
        "a (and 2 other pods): host namespaces",
    ];
    assert_eq!(warnings, expected);
    assert_eq!(existing("ns", standard("baseline:latest"), &pods[3..]), [""; 0]);
}

#[test]
fn pods_are_refused_and_templates_warned_of() {
    let (policy, bad) = policy(&[("enforce", "baseline"), ("audit", "baseline")]);
    let host = pod(json!({"hostPID": true}), &[json!({})]);
    let answer = review_pod(&policy, &bad, Pod::of(&host));
    let why = "violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(answer.refused.as_deref(), Some(why));
    assert_eq!(answer.warnings, [""; 0]);
    let notes = [
        ("enforce-policy", "baseline:latest".to_owned()),
        ("audit-violations", format!("would {}", why.replacen("violates", "violate", 1))),
    ];
    assert_eq!(answer.notes, notes);
    let deployment = json!({"spec": {"template": host}});
    let answer = controller(&policy, &bad, template("apps", "deployments", &deployment).expect("template"));
    assert_eq!(answer.refused, None);
    let warning = "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(answer.warnings, [warning]);
}

#[test]
fn only_images_and_new_containers_are_significant() {
    let old = pod(json!({}), &[json!({})]);
    let mut new = old.clone();
    new["spec"]["activeDeadlineSeconds"] = json!(1);
    assert!(!is_significant(&old, &new));
    new["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "x"}]);
    assert!(is_significant(&old, &new));
    new["spec"]["containers"][0]["image"] = json!("y");
    assert!(is_significant(&old, &new));
}
