//! Files of one volume that are mounted over each other.

use super::Found;
use crate::validation::check::At;

/// A path within a volume and where it comes from.
#[derive(Clone, PartialEq)]
struct Origin {
    path: String,
    source: String,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.source.as_str() {
            "" => write!(f, "{:?}", self.path),
            source => write!(f, "{:?} ({source})", self.path),
        }
    }
}

/// Looks through the volumes of a pod.
pub fn volumes(volumes: &At<'_>, found: &mut Found) {
    for volume in volumes.items() {
        let name = volume.get("name").text();
        for (kind, label, named) in [
            ("configMap", "ConfigMap", "name"),
            ("secret", "Secret", "secretName"),
            ("downwardAPI", "DownwardAPI", ""),
        ] {
            let source = volume.get(kind);
            if source.is_set() {
                let what = match named {
                    "" => label.to_owned(),
                    named => format!("{label} {:?}", source.get(named).text()),
                };
                collisions(&what, name, items(&source, ""), &mut Vec::new(), found);
            }
        }
        let projected = volume.get("projected");
        let mut seen = Vec::new();
        for source in projected.get("sources").items() {
            if source.is_empty() {
                found.push(format!("volume {name:?} (Projected) has no sources provided"));
                continue;
            }
            collisions("Projected", name, projection(&source), &mut seen, found);
        }
    }
}

fn collisions(what: &str, volume: &str, paths: Vec<Origin>, seen: &mut Vec<Origin>, found: &mut Found) {
    for mut one in paths {
        one.path.truncate(one.path.trim_end_matches('/').len());
        for other in seen.iter().filter(|other| overlap(other, &one)) {
            found.push(format!("volume {volume:?} ({what}): overlapping paths: {one} with {other}"));
        }
        seen.push(one);
    }
}

/// Whether one is the other or lies below it.
fn overlap(a: &Origin, b: &Origin) -> bool {
    let below =
        |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    !a.path.is_empty() && !b.path.is_empty() && (below(&a.path, &b.path) || below(&b.path, &a.path))
}

fn items(source: &At<'_>, from: &str) -> Vec<Origin> {
    let one = |item: At<'_>| Origin { path: item.get("path").text().to_owned(), source: from.to_owned() };
    source.get("items").items().map(one).collect()
}

fn projection(source: &At<'_>) -> Vec<Origin> {
    let one = |path: &str, source: &str| Origin { path: path.to_owned(), source: source.to_owned() };
    let part = |kind| Some(source.get(kind).value).filter(|v| !v.is_null());
    if part("configMap").is_some() {
        let of = source.get("configMap");
        return items(&of, &format!("ConfigMap {:?}", of.get("name").text()));
    }
    if part("secret").is_some() {
        let of = source.get("secret");
        return items(&of, &format!("Secret {:?}", of.get("name").text()));
    }
    if part("downwardAPI").is_some() {
        return items(&source.get("downwardAPI"), "DownwardAPI");
    }
    if part("serviceAccountToken").is_some() {
        return vec![one(source.get("serviceAccountToken").get("path").text(), "ServiceAccountToken")];
    }
    if part("clusterTrustBundle").is_some() {
        let of = source.get("clusterTrustBundle");
        let name = [of.get("name").text(), of.get("signerName").text()].into_iter().find(|n| !n.is_empty());
        return vec![one(of.get("path").text(), &format!("ClusterTrustBundle {:?}", name.unwrap_or("")))];
    }
    let of = source.get("podCertificate");
    let parts = [
        ("certificateChainPath", "PodCertificate chain"),
        ("keyPath", "PodCertificate key"),
        ("credentialBundlePath", "PodCertificate credential bundle"),
    ];
    parts
        .iter()
        .map(|(field, label)| one(of.get(field).text(), label))
        .filter(|o| !o.path.is_empty())
        .collect()
}
