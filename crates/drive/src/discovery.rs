//! Which resources the API serves, in the version it prefers.

use client::{ApiResource, Client, Error};
use serde::Deserialize;

/// A resource and what can be done with it.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where it is.
    pub resource: ApiResource,
    /// `list`, `watch`, `delete` …
    pub verbs: Vec<String>,
}

impl Served {
    /// Whether all of these can be done.
    #[must_use]
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|v| self.verbs.iter().any(|w| w == v))
    }
}

/// What the API serves, and what could not be asked.
#[derive(Clone, Debug, Default)]
pub struct Discovered {
    /// The resources, without subresources.
    pub resources: Vec<Served>,
    /// Groups that did not answer, and why.
    pub failure: Option<String>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
    #[serde(rename = "preferredVersion")]
    preferred: Option<Version>,
}

#[derive(Deserialize, Clone, PartialEq)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Asks what is served. Only a server that does not answer at all is an error.
pub async fn discover(client: &Client) -> Result<Discovered, Error> {
    let mut found = Discovered::default();
    let core: Resources = client.get_raw("/api/v1").await?;
    add(&mut found, "", "v1", core);
    let groups: Groups = client.get_raw("/apis").await?;
    let mut failures = Vec::new();
    for group in groups.groups {
        let mut versions: Vec<Version> = group.preferred.into_iter().collect();
        versions.extend(group.versions.into_iter().filter(|v| !versions.contains(v)).collect::<Vec<_>>());
        for Version { version } in versions {
            let path = format!("/apis/{}/{version}", group.name);
            match client.get_raw::<Resources>(&path).await {
                Ok(resources) => add(&mut found, &group.name, &version, resources),
                Err(error) if error.is_not_found() => {}
                Err(error) => failures.push(format!("{}/{version}: {}", group.name, error.chain())),
            }
        }
    }
    if !failures.is_empty() {
        let (count, list) = (failures.len(), failures.join(", "));
        found.failure = Some(format!("Discovery failed for some groups, {count} failing: {list}"));
    }
    Ok(found)
}

/// Adds resources that no version before had.
fn add(found: &mut Discovered, group: &str, version: &str, resources: Resources) {
    for r in resources.resources.into_iter().filter(|r| !r.name.contains('/')) {
        let known = |s: &Served| s.resource.group == group && s.resource.plural == r.name.as_str();
        if found.resources.iter().any(known) {
            continue;
        }
        let resource = ApiResource {
            group: group.to_owned().into(),
            version: version.to_owned().into(),
            kind: r.kind.into(),
            plural: r.name.into(),
            namespaced: r.namespaced,
        };
        found.resources.push(Served { resource, verbs: r.verbs });
    }
}
