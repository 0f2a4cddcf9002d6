//! Volumes of pods and the sources they share with persistent volumes.

use base::names;
use serde_json::Value;

use super::check::At;
use super::container;

const FILE_MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const MODE_MAX: i64 = 0o777;
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Shortest life of a projected token, seconds.
const TOKEN_MIN: i64 = 600;
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Sources in the order of judgement, and the fields they cannot do without.
const SOURCES: [(&str, &[&str]); 30] = [
    ("emptyDir", &[]),
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("persistentVolumeClaim", &["claimName"]),
    ("rbd", &["monitors", "image"]),
    ("cinder", &["volumeID"]),
    ("cephfs", &["monitors"]),
    ("quobyte", &[]),
    ("downwardAPI", &[]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("storageos", &["volumeName"]),
    ("projected", &[]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("ephemeral", &[]),
    ("image", &["reference"]),
];

/// Sources of persistent volumes in the order of judgement.
const PERSISTENT: [(&str, &[&str]); 22] = [
    ("hostPath", &["path"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("glusterfs", &["endpoints", "path"]),
    ("flocker", &[]),
    ("nfs", &["server", "path"]),
    ("rbd", &["monitors", "image"]),
    ("quobyte", &[]),
    ("cephfs", &["monitors"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("cinder", &["volumeID"]),
    ("fc", &[]),
    ("flexVolume", &["driver"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("local", &["path"]),
    ("storageos", &["volumeName"]),
    ("csi", &["driver"]),
];

/// Checks the volumes of a pod; gives those that are good, by name.
pub fn pod_volumes<'a>(
    list: &At<'_>,
    values: Option<&'a Vec<Value>>,
    pod: &str,
) -> Vec<(&'a str, &'a Value)> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    for (at, value) in list.items().zip(values.into_iter().flatten()) {
        let before = at.found();
        let name = value.get("name").and_then(Value::as_str).unwrap_or("");
        source(&at, name, pod);
        at.get("name").need_rule(names::dns1123_label);
        if good.iter().any(|(seen, _)| *seen == name) {
            at.get("name").duplicate();
        }
        if at.found() == before {
            good.push((name, value));
        }
        let claim = at.get("persistentVolumeClaim");
        let claim = claim.get("claimName");
        let made = |volume: At<'_>| {
            volume.get("ephemeral").is_set() && claim.text() == format!("{pod}-{}", volume.get("name").text())
        };
        if !pod.is_empty() && claim.is_set() && list.items().any(made) {
            claim.invalid("must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    good
}

fn source(at: &At<'_>, name: &str, pod: &str) {
    let mut count = 0;
    for (kind, needed) in SOURCES {
        let here = at.get(kind);
        if !here.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            at.get(shown).forbidden("may not specify more than 1 volume type");
            continue;
        }
        match kind {
            "secret" => modes_after(&here, needed),
            "configMap" => modes_after(&here, needed),
            "csi" => csi(&here),
            _ => {
                needed.iter().for_each(|field| {
                    here.get(field).need();
                });
                details(kind, &here);
            }
        }
        if kind == "ephemeral" && !pod.is_empty() {
            let claim = format!("{pod}-{name}");
            for what in names::dns1123_subdomain(&claim) {
                at.get("name").invalid_as(name, &format!("PVC name {claim:?}: {what}"));
            }
        }
    }
    if count == 0 {
        at.required("must specify a volume type");
    }
}

/// What persistent volumes come from; exactly one.
pub fn persistent(at: &At<'_>) {
    let mut count = 0;
    for (kind, needed) in PERSISTENT {
        let here = at.get(kind);
        if !here.is_set() {
            continue;
        }
        count += 1;
        if count > 1 {
            here.forbidden("may not specify more than 1 volume type");
            continue;
        }
        if kind == "csi" {
            csi_driver(&here.get("driver"));
            here.get("volumeHandle").need();
            for secret in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                if here.get(secret).is_set() {
                    here.get(secret).get("name").need();
                    here.get(secret).get("namespace").need_rule(names::dns1123_label);
                }
            }
            continue;
        }
        needed.iter().for_each(|field| {
            here.get(field).need();
        });
        details(kind, &here);
        match kind {
            "local" => no_backsteps(&here.get("path")),
            "azureFile" if here.get("secretNamespace").value.as_str() == Some("") => {
                here.get("secretNamespace").required("");
            }
            _ => {}
        }
    }
    if count == 0 {
        at.required("must specify a volume type");
    }
}

fn details(kind: &str, at: &At<'_>) {
    match kind {
        "emptyDir" => {
            let limit = at.get("sizeLimit");
            if limit.quantity().is_some_and(|size| size.sign() < 0) {
                limit.forbidden("SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            no_backsteps(&at.get("path"));
            at.get("type").one_of_if_set(&HOST_PATH_TYPES);
        }
        "gitRepo" => descending(&at.get("directory")),
        "gcePersistentDisk" | "awsElasticBlockStore" => at.get("partition").range(0, 255),
        "nfs" if !at.get("path").text().starts_with('/') => {
            at.get("path").invalid_text("must be an absolute path");
        }
        "iscsi" => {
            let iqn = at.get("iqn");
            if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| iqn.text().starts_with(p)) {
                iqn.invalid("must be valid format starting with iqn, eui, or naa");
            }
            at.get("lun").range(0, 255);
            let chap = at.get("chapAuthDiscovery").truth() || at.get("chapAuthSession").truth();
            if chap && !at.get("secretRef").is_set() {
                at.get("secretRef").required("");
            }
        }
        "flocker" => flocker(at),
        "quobyte" => quobyte(at),
        "downwardAPI" => {
            mode(&at.get("defaultMode"));
            at.get("items").items().for_each(|file| downward_file(&at.with(file.value)));
        }
        "fc" => fibre(at),
        "projected" => projected(at),
        "ephemeral" => {
            let template = at.get("volumeClaimTemplate");
            if template.is_set() {
                super::storage::claim_spec(&template.get("spec"));
                super::meta::labels(&template.get("metadata").get("labels"));
                super::meta::annotations(&template.get("metadata").get("annotations"));
            } else {
                template.required("");
            }
        }
        "image" => at.get("pullPolicy").need_one_of(&["Always", "IfNotPresent", "Never"]),
        "azureDisk" => {
            at.get("cachingMode").one_of_if_set(&["None", "ReadOnly", "ReadWrite"]);
            at.get("kind").one_of_if_set(&["Dedicated", "Managed", "Shared"]);
        }
        _ => {}
    }
}

fn flocker(at: &At<'_>) {
    let (name, id) = (at.get("datasetName"), at.get("datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => at.required("one of datasetName and datasetUUID is required"),
        (false, false) => {
            at.invalid_as("resource", "datasetName and datasetUUID can not be specified simultaneously");
        }
        _ => {}
    }
    if name.text().contains('/') {
        name.invalid("must not contain '/'");
    }
}

fn quobyte(at: &At<'_>) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.get("registry");
    if registry.is_empty() {
        registry.required(PAIRS);
    } else if at.get("tenant").text().len() > 64 {
        at.get("tenant").required("must be a UUID and may not exceed a length of 64 characters");
    } else if registry.text().split(',').any(|pair| !pair.contains(':')) {
        registry.invalid(PAIRS);
    }
    at.get("volume").need();
}

fn fibre(at: &At<'_>) {
    let (targets, ids) = (at.get("targetWWNs"), at.get("wwids"));
    match (!targets.is_empty(), !ids.is_empty()) {
        (false, false) => {
            targets.required("must specify either targetWWNs or wwids, but not both");
        }
        (true, true) => targets.invalid("targetWWNs and wwids can not be specified simultaneously"),
        (true, false) => match at.get("lun").is_set() {
            false => at.get("lun").required("lun is required if targetWWNs is specified"),
            true => at.get("lun").range(0, 255),
        },
        _ => {}
    }
}

fn mode(at: &At<'_>) {
    if at.is_set() && !(0..=MODE_MAX).contains(&at.int()) {
        at.invalid(FILE_MODE);
    }
}

/// Secrets and config maps: name, mode, items.
fn modes_after(at: &At<'_>, needed: &[&str]) {
    needed.iter().for_each(|field| {
        at.get(field).need();
    });
    mode(&at.get("defaultMode"));
    at.get("items").items().for_each(|item| key_to_path(&item));
}

fn key_to_path(at: &At<'_>) {
    at.get("key").need();
    at.get("path").need();
    not_reserved(&at.get("path"));
    mode(&at.get("mode"));
}

fn downward_file(at: &At<'_>) {
    at.get("path").need();
    not_reserved(&at.get("path"));
    let (field, resource) = (at.get("fieldRef"), at.get("resourceFieldRef"));
    if field.is_set() {
        container::field_ref(&field, &VOLUME_FIELDS);
        if resource.is_set() {
            at.invalid_as("resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if resource.is_set() {
        container::resource_field_ref(&resource, true);
    } else {
        at.required("one of fieldRef and resourceFieldRef is required");
    }
    mode(&at.get("mode"));
}

fn projected(at: &At<'_>) {
    mode(&at.get("defaultMode"));
    let mut paths: Vec<String> = Vec::new();
    let mut claim = |path: &At<'_>, bad: &str, whole: &At<'_>| {
        if path.text().is_empty() {
            return;
        }
        if paths.iter().any(|seen| seen == path.text()) {
            whole.invalid_as(bad, "conflicting duplicate paths");
        }
        paths.push(path.text().to_string());
    };
    for source in at.get("sources").items() {
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let here = source.get(kind);
            if !here.is_set() {
                continue;
            }
            count += 1;
            match kind {
                "secret" | "configMap" => {
                    here.get("name").need();
                    for item in here.get("items").items() {
                        key_to_path(&item);
                        claim(&item.get("path"), here.get("name").text(), at);
                    }
                }
                "downwardAPI" => {
                    for item in here.get("items").items() {
                        downward_file(&here.with(item.value));
                        claim(&item.get("path"), item.get("path").text(), at);
                    }
                }
                "serviceAccountToken" => {
                    let life = here.get("expirationSeconds");
                    if life.int() < TOKEN_MIN {
                        life.invalid_as(life.int(), "may not specify a duration less than 10 minutes");
                    }
                    if life.int() > 1 << 32 {
                        life.invalid("may not specify a duration larger than 2^32 seconds");
                    }
                    if here.get("path").is_empty() {
                        at.get("path").required("");
                    } else {
                        not_reserved(&here.get("path"));
                    }
                }
                "clusterTrustBundle" => trust_bundle(&here, &mut claim, at),
                _ => {}
            }
        }
        if count > 1 {
            source.forbidden("may not specify more than 1 volume type per source");
        }
    }
}

fn trust_bundle(at: &At<'_>, claim: &mut impl FnMut(&At<'_>, &str, &At<'_>), whole: &At<'_>) {
    let (name, signer) = (at.get("name"), at.get("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => at.invalid("only one of name and signerName may be used"),
        (false, false) => at.required("either name or signerName must be specified"),
        (true, false) if name.text().is_empty() => name.required("must be a valid object name"),
        (false, true) if signer.text().is_empty() => signer.required("must be a valid signer name"),
        _ => {}
    }
    at.get("path").need();
    not_reserved(&at.get("path"));
    claim(&at.get("path"), at.get("path").text(), whole);
}

fn csi(at: &At<'_>) {
    csi_driver(&at.get("driver"));
    let secret = at.get("nodePublishSecretRef");
    if secret.is_set() {
        secret.get("name").need_rule(names::dns1123_subdomain);
    }
}

/// The name of a storage driver.
pub fn csi_driver(at: &At<'_>) {
    if !at.need() {
        return;
    }
    at.at_most_bytes(63);
    for what in names::dns1123_subdomain(&at.text().to_ascii_lowercase()) {
        at.invalid(&what);
    }
}

/// A relative path that does not go up.
pub fn descending(at: &At<'_>) {
    if at.text().starts_with('/') {
        at.invalid("must be a relative path");
    }
    no_backsteps(at);
}

fn no_backsteps(at: &At<'_>) {
    if at.text().split('/').any(|part| part == "..") {
        at.invalid("must not contain '..'");
    }
}

/// A relative path whose names do not begin with two dots.
pub fn not_reserved(at: &At<'_>) {
    descending(at);
    let text = at.text();
    if text.starts_with("..") && !text.starts_with("../") {
        at.invalid("must not start with '..'");
    }
}
