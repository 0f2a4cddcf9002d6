//! Requests that another server passes on: its certificate proves that it may, its headers say for whom.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::Identity;

/// Names that certificates of the front proxy's authority must have.
pub const ALLOWED: &[&str] = &["front-proxy-client"];

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Whom the headers name; `None` if nobody.
pub fn identity(headers: &HeaderMap) -> Option<Identity> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.filter(|value| !value.is_empty()).map(str::to_string).collect()
    };
    let name = texts(USER).into_iter().next()?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(crate::info::decode(key)).or_default().push(value.to_string());
        }
    }
    let groups = texts(GROUP);
    let outside = groups.iter().any(|group| group == "system:unauthenticated");
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    let identity = match outside {
        true => Identity { name, groups, ..Identity::default() },
        false => Identity::user(name, groups),
    };
    Some(Identity { uid, extra, ..identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_the_user() {
        let mut headers = HeaderMap::new();
        assert_eq!(identity(&headers), None);
        for (name, value) in
            [(USER, "me"), (GROUP, "a"), (GROUP, "b"), (UID, "u"), ("x-remote-extra-example.com%2fkey", "v")]
        {
            headers.append(name, value.parse().expect("value"));
        }
        let found = identity(&headers).expect("identity");
        assert_eq!((found.name.as_str(), found.uid.as_str()), ("me", "u"));
        assert_eq!(found.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(found.extra["example.com/key"], ["v"]);
    }
}
