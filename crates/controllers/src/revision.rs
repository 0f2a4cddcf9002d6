//! ControllerRevisions: the versions of a template, kept as objects.

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};

use crate::select::Labels;
use crate::{Action, Object, Target, diff, names, pod};

/// The label that has a revision's hash.
pub const HASH: &str = "controller-revision-hash";
const HASH_OLD: &str = "controller.kubernetes.io/hash";

/// A revision, whether it exists yet or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Revision {
    /// Its name.
    pub name: String,
    /// The hash in its name.
    pub hash: String,
    /// The template.
    pub template: PodTemplateSpec,
}

/// The revision of the present template, and what makes it so.
pub struct Resolved {
    /// The revision.
    pub update: Revision,
    /// Creates or renumbers it, if need be.
    pub action: Option<Action>,
    /// The collision count, which is raised when another revision has the name.
    pub collisions: Option<i32>,
}

/// The template a revision holds.
#[must_use]
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.pointer("/spec/template")?;
    serde_json::from_slice(&serde_json::to_vec(template).ok()?).ok()
}

/// An existing revision.
#[must_use]
pub fn known(revision: &ControllerRevision) -> Option<Revision> {
    let labels = revision.metadata.labels.as_ref();
    let hash = labels.and_then(|l| l.get(HASH).or_else(|| l.get(HASH_OLD)));
    let name = pod::name(revision);
    let hash = hash.map_or_else(|| name.rsplit('-').next().unwrap_or(""), String::as_str);
    Some(Revision { name: name.to_owned(), hash: hash.to_owned(), template: template_of(revision)? })
}

/// Finds or makes the revision of the template. `revisions` are those of the owner.
#[must_use]
pub fn resolve(
    owner: &Target,
    template: &PodTemplateSpec,
    labels: &Labels,
    revisions: &[&ControllerRevision],
    collisions: Option<i32>,
) -> Resolved {
    let newest = revisions.iter().map(|r| r.revision).max().unwrap_or(0);
    let same = revisions.iter().filter(|r| template_of(r).as_ref() == Some(template));
    if let Some(equal) = same.max_by_key(|r| r.revision)
        && let Some(update) = known(equal)
    {
        let mut new = (*equal).clone();
        if equal.revision < newest {
            new.revision = newest + 1;
        }
        return Resolved { update, action: Action::patch(*equal, &new), collisions };
    }
    let data = data_of(template);
    let hash = names::hash_of(&data, collisions.filter(|c| *c != 0));
    let name = format!("{}-{hash}", owner.name);
    if revisions.iter().any(|r| pod::name(*r) == name) {
        let collisions = Some(collisions.unwrap_or(0) + 1);
        let hash = names::hash_of(&data, collisions);
        return make(owner, template, labels, (newest + 1, &hash, data), collisions);
    }
    make(owner, template, labels, (newest + 1, &hash, data), collisions)
}

fn make(
    owner: &Target,
    template: &PodTemplateSpec,
    labels: &Labels,
    (number, hash, data): (i64, &str, Value),
    collisions: Option<i32>,
) -> Resolved {
    let name = format!("{}-{hash}", owner.name);
    let mut labels = labels.clone();
    labels.insert(HASH.to_owned(), hash.to_owned());
    labels.insert(HASH_OLD.to_owned(), hash.to_owned());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(owner.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![owner.controller_reference()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision: number,
    };
    let update = Revision { name, hash: hash.to_owned(), template: template.clone() };
    Resolved { update, action: Some(Action::create(&revision)), collisions }
}

fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = diff::value(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Deletes revisions that nothing uses, oldest first, down to the limit.
#[must_use]
pub fn truncate(
    revisions: &[&ControllerRevision],
    is_live: impl Fn(&str) -> bool,
    limit: i32,
) -> Vec<Action> {
    let mut dead: Vec<&&ControllerRevision> = revisions.iter().filter(|r| !is_live(pod::name(**r))).collect();
    dead.sort_by_key(|r| r.revision);
    let surplus = dead.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    dead[..surplus].iter().map(|r| Action::delete(**r)).collect()
}

/// The kind of revisions, for gathering them.
#[must_use]
pub fn resource() -> crate::Resource {
    ControllerRevision::resource()
}
