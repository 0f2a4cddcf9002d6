//! Which of the names a definition wants it gets, and whether a community's group was approved.

use std::collections::HashSet;

use schema::error::go_quote;
use serde_json::{Value, json};

const APPROVED: &str = "api-approved.kubernetes.io";

/// A condition a definition shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The condition's type.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// Words for people.
    pub message: String,
}

/// The names other definitions of the group have.
#[derive(Debug, Default)]
pub struct Taken {
    /// Plural, singular and short names.
    pub resources: HashSet<String>,
    /// Kinds, of lists too.
    pub kinds: HashSet<String>,
}

impl Taken {
    /// Adds the accepted names of another definition.
    pub fn add(&mut self, definition: &Value) {
        let Some(names) = definition.pointer("/status/acceptedNames") else { return };
        let text = |field: &str| names.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
        let short = names.get("shortNames").and_then(Value::as_array).into_iter().flatten();
        let resources = short.filter_map(Value::as_str).chain(text("plural")).chain(text("singular"));
        self.resources.extend(resources.map(str::to_string));
        self.kinds.extend(text("kind").into_iter().chain(text("listKind")).map(str::to_string));
    }
}

/// Accepts what is free of the names wanted, and says whether that was all.
pub fn names(definition: &mut Value, taken: &Taken) -> Verdict {
    let wanted = definition.pointer("/spec/names").cloned().unwrap_or_default();
    let had = definition.pointer("/status/acceptedNames").cloned().unwrap_or_default();
    let mut new = if had.is_object() { had.clone() } else { json!({}) };
    let mut wrong: Option<(&'static str, String)> = None;
    let used = |name: &str| format!("{} is already in use", go_quote(name));
    for (field, set, reason) in [
        ("plural", &taken.resources, "PluralConflict"),
        ("singular", &taken.resources, "SingularConflict"),
        ("shortNames", &taken.resources, "ShortNamesConflict"),
        ("kind", &taken.kinds, "KindConflict"),
        ("listKind", &taken.kinds, "ListKindConflict"),
    ] {
        let (is, was) = (&wanted[field], &had[field]);
        let own = was.as_array().cloned().unwrap_or_default();
        let free = |name: &Value| own.contains(name) || !name.as_str().is_some_and(|name| set.contains(name));
        let clashes: Vec<String> = match is {
            is if is == was => Vec::new(),
            Value::Array(list) => {
                list.iter().filter(|name| !free(name)).map(|name| used(name.as_str().unwrap_or(""))).collect()
            }
            name if free(name) => Vec::new(),
            name => vec![used(name.as_str().unwrap_or(""))],
        };
        match clashes.as_slice() {
            [] => keep(&mut new, field, is),
            [only] => wrong = Some((reason, only.clone())),
            several => wrong = Some((reason, format!("[{}]", several.join(", ")))),
        }
    }
    keep(&mut new, "categories", &wanted["categories"]);
    if let Some(status) = definition.get_mut("status").and_then(Value::as_object_mut) {
        status.insert("acceptedNames".to_string(), new);
    }
    let holds = wrong.is_none();
    let (reason, message) = wrong.unwrap_or(("NoConflicts", "no conflicts found".to_string()));
    Verdict { kind: "NamesAccepted", holds, reason, message }
}

fn keep(names: &mut Value, field: &str, value: &Value) {
    let Some(map) = names.as_object_mut() else { return };
    match value {
        Value::Null => drop(map.remove(field)),
        value => drop(map.insert(field.to_string(), value.clone())),
    }
}

/// Whether the group is one of the community's that needs an approval.
pub fn protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group.strip_suffix(domain).is_some_and(|sub| sub.is_empty() || sub.ends_with('.')))
}

/// Where the approval of a protected group stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// No annotation.
    Missing,
    /// A URL.
    Given,
    /// Words that begin with `unapproved`.
    Bypassed,
    /// Anything else.
    Invalid,
}

/// The approval of a definition, and the words about it.
pub fn approval(definition: &Value) -> (Approval, String) {
    let text = definition.pointer("/metadata/annotations").and_then(|all| all.get(APPROVED));
    let text = text.and_then(Value::as_str).unwrap_or("");
    let more = "see https://github.com/kubernetes/enhancements/pull/1111";
    let must = format!("protected groups must have approval annotation \"{APPROVED}\"");
    let host = text.split_once("://").map(|(scheme, rest)| (scheme, rest.split('/').next().unwrap_or("")));
    match text {
        "" => (Approval::Missing, format!("{must}, {more}")),
        text if text.starts_with("unapproved") => {
            (Approval::Bypassed, format!("not approved: {}", go_quote(text)))
        }
        _ if host.is_some_and(|(scheme, host)| !scheme.is_empty() && !host.is_empty()) => {
            (Approval::Given, format!("approved in {text}"))
        }
        _ => {
            let what = "with either a URL or a reason starting with \"unapproved\"";
            (Approval::Invalid, format!("{must} {what}, {more}"))
        }
    }
}

/// The condition that tells of the approval, for protected groups.
pub fn conformance(definition: &Value) -> Option<Verdict> {
    let group = definition.pointer("/spec/group").and_then(Value::as_str)?;
    if !protected(group) {
        return None;
    }
    let (state, message) = approval(definition);
    let reason = match state {
        Approval::Missing => "MissingAnnotation",
        Approval::Given => "ApprovedAnnotation",
        Approval::Bypassed => "UnapprovedAnnotation",
        Approval::Invalid => "InvalidAnnotation",
    };
    let kind = "KubernetesAPIApprovalPolicyConformant";
    Some(Verdict { kind, holds: state == Approval::Given, reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, short: &[&str], kind: &str) -> Value {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "shortNames": short,
            "kind": kind, "listKind": format!("{kind}List")});
        json!({"spec": {"group": "a.b", "names": names}, "status": {"acceptedNames": {}}})
    }

    #[test]
    fn names_that_are_taken() {
        let mut first = definition("foos", &["f"], "Foo");
        let verdict = names(&mut first, &Taken::default());
        assert!(verdict.holds, "{verdict:?}");
        assert_eq!(first["status"]["acceptedNames"], first["spec"]["names"]);
        let mut taken = Taken::default();
        taken.add(&first);
        let cases = [
            (definition("foos", &[], "Bar"), "PluralConflict", "\"foos\" is already in use"),
            (definition("bars", &["b", "f"], "Bar"), "ShortNamesConflict", "\"f\" is already in use"),
            (
                definition("bars", &["f", "foos"], "Bar"),
                "ShortNamesConflict",
                "[\"f\" is already in use, \"foos\" is already in use]",
            ),
            (definition("bars", &[], "FooList"), "KindConflict", "\"FooList\" is already in use"),
        ];
        for (mut wants, reason, message) in cases {
            let verdict = names(&mut wants, &taken);
            assert_eq!((verdict.holds, verdict.reason, verdict.message.as_str()), (false, reason, message));
        }
        assert!(names(&mut first, &taken).holds, "own names stay");
    }

    #[test]
    fn approvals() {
        let of = |text: &str| json!({"metadata": {"annotations": {APPROVED: text}}, "spec": {"group": "x.k8s.io"}});
        let cases = [
            ("", "MissingAnnotation"),
            ("https://a.b/c", "ApprovedAnnotation"),
            ("unapproved, x", "UnapprovedAnnotation"),
            ("x", "InvalidAnnotation"),
        ];
        for (text, reason) in cases {
            assert_eq!(conformance(&of(text)).map(|v| v.reason), Some(reason), "{text}");
        }
        assert!(protected("k8s.io") && protected("a.kubernetes.io") && !protected("xk8s.io"));
    }
}
