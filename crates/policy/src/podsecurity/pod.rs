//! A pod, or the template of one, as checks look at it.

use serde_json::Value;

/// Metadata and specification of a pod.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// `metadata`, null if there is none.
    pub metadata: &'a Value,
    /// `spec`.
    pub spec: &'a Value,
}

/// The value at a path, null counting as absent.
pub fn field<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The text at a path, empty if absent.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    field(value, path).and_then(Value::as_str).unwrap_or("")
}

/// The list at a path, empty if absent.
pub fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    field(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The truth value at a path, if there is one.
pub fn truth(value: &Value, path: &[&str]) -> Option<bool> {
    field(value, path).and_then(Value::as_bool)
}

impl<'a> Pod<'a> {
    /// The pod of an object that is one.
    pub fn of(object: &'a Value) -> Self {
        Self { metadata: &object["metadata"], spec: &object["spec"] }
    }

    /// All containers: those of the start, the ordinary, the ephemeral.
    pub fn containers(self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |name| list(spec, &[name]))
    }

    /// A field of the pod's own security context.
    pub fn security(self, path: &[&str]) -> Option<&'a Value> {
        field(field(self.spec, &["securityContext"])?, path)
    }

    /// The value of an annotation.
    pub fn annotation(self, key: &str) -> Option<&'a str> {
        field(self.metadata, &["annotations"])?.get(key)?.as_str()
    }

    /// Whether it is for Windows, where most of this means nothing.
    pub fn is_windows(self) -> bool {
        text(self.spec, &["os", "name"]) == "windows"
    }

    /// Whether its root is nobody on the machine.
    pub fn has_own_users(self) -> bool {
        truth(self.spec, &["hostUsers"]) == Some(false)
    }
}

/// A field of a container's security context.
pub fn security<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    field(field(container, &["securityContext"])?, path)
}

/// A container's name.
pub fn name(container: &Value) -> &str {
    text(container, &["name"])
}

/// `"a", "b"`.
pub fn quoted<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("\"{}\"", word.as_ref())).collect();
    words.join(", ")
}

/// The word for so many.
pub fn plural(one: &'static str, many: &'static str, count: usize) -> &'static str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`.
pub fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who sets something; `None` if nobody does.
pub fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let mut setters: Vec<String> = pod.then(|| "pod".to_owned()).into_iter().collect();
    if !names.is_empty() {
        setters.push(containers(names));
    }
    (!setters.is_empty()).then(|| setters.join(" and "))
}
