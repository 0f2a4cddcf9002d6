//! Manifests: their media types, and which of several is for this machine.

use super::Fault;
use serde::Deserialize;

/// Manifests and configurations larger than this are refused.
pub const DOCUMENT_MAX: usize = 8 << 20;
/// Layers of one image; the kernel mounts no more.
const LAYERS_MAX: usize = 500;

/// What is accepted, in the order of preference.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A part of an image by digest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// A manifest as read.
#[derive(Debug)]
pub enum Manifest {
    /// Of one image.
    Image {
        /// The configuration.
        config: Descriptor,
        /// Lowest first.
        layers: Vec<Descriptor>,
    },
    /// Of the same image for several platforms: the one for this machine.
    Index(Descriptor),
}

/// This machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Reads a manifest.
pub fn parse(bytes: &[u8], media_type: &str) -> Result<Manifest, Fault> {
    let document: Document = serde_json::from_slice(bytes)
        .map_err(|e| Fault::protocol(format!("its manifest does not parse: {e}")))?;
    if document.schema_version == 1 || media_type.contains("manifest.v1") && !media_type.contains("oci") {
        return Err(Fault::protocol(
            "its manifest is of schema version 1, which is no longer supported: push the image again".into(),
        ));
    }
    let kind = if document.media_type.is_empty() { media_type } else { &document.media_type };
    match (document.manifests, document.config) {
        (Some(manifests), None) => choose(&manifests).map(Manifest::Index),
        (None, Some(config)) => image(config, document.layers),
        _ => Err(Fault::protocol(format!("its manifest is neither of an image nor an index ({kind:?})"))),
    }
}

fn image(config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, Fault> {
    let known =
        ["", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
    if !known.contains(&config.media_type.as_str()) {
        return Err(Fault::protocol(format!("it is no container image but {}", config.media_type)));
    }
    if layers.len() > LAYERS_MAX {
        return Err(Fault::protocol(format!("it has {} layers; at most {LAYERS_MAX} work", layers.len())));
    }
    for layer in &layers {
        if layer.media_type.ends_with("+encrypted") {
            return Err(Fault::protocol(format!("layer {} is encrypted", layer.digest)));
        }
        let tar = layer.media_type.contains(".tar") || layer.media_type.is_empty();
        if !tar {
            return Err(Fault::protocol(format!("layer {} is of type {}", layer.digest, layer.media_type)));
        }
    }
    let whole = layers.iter().try_fold(config.size, |sum, l| sum.checked_add(l.size));
    whole.ok_or_else(|| Fault::protocol("the sizes in its manifest are absurd".into()))?;
    for part in layers.iter().chain([&config]) {
        if !crate::images::is_digest(&part.digest) {
            return Err(Fault::protocol(format!("{:?} in its manifest is no sha256 digest", part.digest)));
        }
    }
    Ok(Manifest::Image { config, layers })
}

/// The manifest for this machine: the plainest variant of its architecture.
fn choose(manifests: &[Descriptor]) -> Result<Descriptor, Fault> {
    let own = architecture();
    let rank = |d: &Descriptor| match &d.platform {
        None => Some(3),
        Some(p) if p.os != "linux" || p.architecture != own => None,
        Some(p) => match (own, p.variant.as_str()) {
            (_, "") | ("amd64", "v1") | ("arm64", "v8") => Some(0),
            _ => Some(1),
        },
    };
    let suited = manifests.iter().filter_map(|d| rank(d).map(|r| (r, d))).min_by_key(|(rank, _)| *rank);
    let Some((_, found)) = suited else {
        let named = manifests.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
        let mut all: Vec<String> = named.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
        all.dedup();
        all.truncate(20);
        return Err(Fault::protocol(format!(
            "it is not made for linux/{own}, only for: {}",
            if all.is_empty() { "nothing".to_owned() } else { all.join(", ") }
        )));
    };
    if !crate::images::is_digest(&found.digest) {
        return Err(Fault::protocol(format!("{:?} in its index is no sha256 digest", found.digest)));
    }
    Ok(found.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(c: char) -> String {
        format!("sha256:{}", String::from(c).repeat(64))
    }

    fn index(platforms: &[(&str, &str, &str)]) -> Vec<u8> {
        let each = platforms.iter().zip('a'..).map(|((os, arch, variant), c)| {
            serde_json::json!({ "digest": hex(c), "size": 1,
                "platform": { "os": os, "architecture": arch, "variant": variant } })
        });
        serde_json::json!({ "schemaVersion": 2, "manifests": each.collect::<Vec<_>>() })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn the_plainest_variant_of_this_machine_is_taken() {
        let own = architecture();
        let bytes = index(&[
            ("windows", own, ""),
            ("linux", own, "v3"),
            ("linux", own, ""),
            ("unknown", "unknown", ""),
        ]);
        let Ok(Manifest::Index(found)) = parse(&bytes, "") else { panic!("no index") };
        assert_eq!(found.digest, hex('c'));
        let error = parse(&index(&[("linux", "pdp11", ""), ("unknown", "unknown", "")]), "").unwrap_err();
        assert!(error.to_string().ends_with("only for: linux/pdp11"), "{error}");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let part = |media: &str| serde_json::json!({ "digest": hex('a'), "size": 1, "mediaType": media });
        let of = |config: &str, layer: &str| {
            serde_json::json!({ "schemaVersion": 2, "config": part(config), "layers": [part(layer)] })
                .to_string()
        };
        let config = "application/vnd.oci.image.config.v1+json";
        let layer = "application/vnd.oci.image.layer.v1.tar+zstd";
        assert!(parse(of(config, layer).as_bytes(), "").is_ok());
        for (text, want) in [
            (of("application/vnd.cncf.helm.config.v1+json", layer), "no container image"),
            (of(config, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), "encrypted"),
            (of(config, "text/plain"), "of type text/plain"),
            (of(config, layer).replace(&hex('a'), "sha512:00"), "no sha256 digest"),
            (r#"{"schemaVersion":1}"#.into(), "schema version 1"),
            ("{}".into(), "neither"),
            ("nonsense".into(), "does not parse"),
        ] {
            let error = parse(text.as_bytes(), "").unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
