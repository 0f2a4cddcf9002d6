//! What holds for namespaces that say nothing, and who is exempt: upstream's `PodSecurityConfiguration`.

use serde::Deserialize;

use super::{Level, Policy, Standard, Version, level, version};

/// Defaults and exemptions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What namespaces without labels are held to.
    pub defaults: Policy,
    /// Users whose requests are not looked at.
    pub usernames: Vec<String>,
    /// Namespaces that are not looked at.
    pub namespaces: Vec<String>,
    /// Runtime classes whose pods are not looked at.
    pub runtime_classes: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            defaults: Policy::OPEN,
            usernames: Vec::new(),
            namespaces: Vec::new(),
            runtime_classes: Vec::new(),
        }
    }
}

/// What a configuration says that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("defaults.{key}: {value:?} {why}")]
pub struct BadSettings {
    key: &'static str,
    value: String,
    why: &'static str,
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    #[serde(default, rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(default, rename = "kind")]
    _kind: Option<String>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Exemptions {
    #[serde(default)]
    usernames: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    runtime_classes: Vec<String>,
}

impl TryFrom<File> for Settings {
    type Error = BadSettings;

    fn try_from(file: File) -> Result<Self, BadSettings> {
        let one = |keys: [&'static str; 2], said: Option<String>, at: Option<String>| {
            let bad = |key, value: &str, why| BadSettings { key, value: value.to_owned(), why };
            let found = match &said {
                None => Level::Privileged,
                Some(text) => level(text).ok_or_else(|| bad(keys[0], text, super::LEVELS))?,
            };
            let of = match &at {
                None => Version::Latest,
                Some(text) => version(text).ok_or_else(|| bad(keys[1], text, super::VERSIONS))?,
            };
            Ok(Standard { level: found, version: of })
        };
        let Defaults { enforce, enforce_version, audit, audit_version, warn, warn_version } = file.defaults;
        let Exemptions { usernames, namespaces, runtime_classes } = file.exemptions;
        let defaults = Policy {
            enforce: one(["enforce", "enforce-version"], enforce, enforce_version)?,
            audit: one(["audit", "audit-version"], audit, audit_version)?,
            warn: one(["warn", "warn-version"], warn, warn_version)?,
        };
        Ok(Self { defaults, usernames, namespaces, runtime_classes })
    }
}

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::try_from(File::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_are_read_or_refused() {
        let read = |value| serde_json::from_value::<Settings>(value).map_err(|error| error.to_string());
        assert_eq!(read(json!({})), Ok(Settings::default()));
        let whole = read(json!({"apiVersion": "pod-security.admission.config.k8s.io/v1",
            "kind": "PodSecurityConfiguration",
            "defaults": {"enforce": "baseline", "enforce-version": "v1.30", "warn": "restricted"},
            "exemptions": {"usernames": ["u"], "namespaces": ["kube-system"], "runtimeClasses": ["vm"]}}));
        let whole = whole.expect("settings");
        assert_eq!(whole.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(whole.defaults.warn.to_string(), "restricted:latest");
        assert_eq!(
            (whole.usernames, whole.namespaces),
            (vec!["u".to_owned()], vec!["kube-system".to_owned()])
        );
        let bad = [
            (json!({"defaults": {"enforce": "strict"}}), "defaults.enforce: \"strict\" must be one of"),
            (json!({"defaults": {"audit-version": "1"}}), "defaults.audit-version"),
            (json!({"default": {}}), "unknown field `default`"),
        ];
        for (file, sign) in bad {
            let error = read(file).unwrap_err();
            assert!(error.contains(sign), "{error}");
        }
    }
}
