//! Acting as another: the `Impersonate-*` headers, allowed by the verb `impersonate` on users, groups, service
//! accounts, uids and extra fields. Follows upstream's `WithImpersonation`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use super::Identity;
use crate::authorize::{Attributes, refusal};
use crate::server::ApiServer;
use crate::status::Status;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ACCOUNT: &str = "system:serviceaccount:";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The identity a request is to be judged by: the one its headers ask for, or the sender's own.
pub fn impersonate(
    server: &ApiServer,
    identity: Arc<Identity>,
    headers: &HeaderMap,
) -> Result<Arc<Identity>, Status> {
    let Some(wanted) = wanted(headers)? else { return Ok(identity) };
    for asked in permissions(&wanted) {
        let decision = server.authorize(&identity, &asked);
        if !decision.allowed {
            let cause = refusal(&identity, &asked, &decision.reason);
            return Err(Status::forbidden(&asked.group, &asked.resource, &asked.name, &cause));
        }
    }
    Ok(Arc::new(completed(wanted)))
}

/// What the headers ask for; `None` without them.
fn wanted(headers: &HeaderMap) -> Result<Option<Identity>, Status> {
    let texts = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok()).map(str::to_string).filter(|v| !v.is_empty()).collect()
    };
    let name = texts(USER).into_iter().next().unwrap_or_default();
    let groups = texts(GROUP);
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Keys are percent-encoded: names of headers know no upper case and few signs.
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(crate::info::decode(key)).or_default().push(value.to_string());
        }
    }
    match (name.is_empty(), groups.is_empty() && uid.is_empty() && extra.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => {
            let message = format!(
                "requested {:?} without impersonating a user",
                groups.iter().chain([&uid]).filter(|text| !text.is_empty()).collect::<Vec<_>>()
            );
            Err(Status::new(500, "InternalError", format!("Internal error occurred: {message}")))
        }
        (false, _) => Ok(Some(Identity { name, uid, groups, extra })),
    }
}

/// Everything that must be allowed for this.
fn permissions(wanted: &Identity) -> Vec<Attributes> {
    let ask = |group: &str, resource: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        is_resource: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let mut asked = Vec::new();
    match account(&wanted.name) {
        Some((namespace, name)) => {
            asked.push(Attributes { namespace: namespace.into(), ..ask("", "serviceaccounts", name) });
        }
        None => asked.push(ask("", "users", &wanted.name)),
    }
    asked.extend(wanted.groups.iter().map(|group| ask("", "groups", group)));
    if !wanted.uid.is_empty() {
        asked.push(ask("authentication.k8s.io", "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        for value in values {
            let extra = ask("authentication.k8s.io", "userextras", value);
            asked.push(Attributes { subresource: key.clone(), ..extra });
        }
    }
    asked
}

/// Namespace and name of a service account's user name.
fn account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(ACCOUNT)?.split_once(':').filter(|(a, b)| !a.is_empty() && !b.is_empty())
}

/// Adds the groups that follow from the name.
fn completed(mut identity: Identity) -> Identity {
    if let Some((namespace, _)) = account(&identity.name)
        && identity.groups.is_empty()
    {
        let all = "system:serviceaccounts".to_string();
        identity.groups = vec![all, format!("system:serviceaccounts:{namespace}")];
    }
    let anonymous = identity.name == "system:anonymous";
    let group = if anonymous { UNAUTHENTICATED } else { AUTHENTICATED };
    if !identity.is_in(AUTHENTICATED) && !identity.is_in(UNAUTHENTICATED) {
        identity.groups.push(group.to_string());
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, value.parse().expect("value"));
        }
        map
    }

    #[test]
    fn headers_name_the_user() {
        assert_eq!(wanted(&headers(&[])).expect("none"), None);
        assert!(wanted(&headers(&[("impersonate-group", "g")])).is_err());
        let all = headers(&[
            ("impersonate-user", "system:serviceaccount:a:b"),
            ("impersonate-extra-example.com%2fkey", "v"),
        ]);
        let identity = wanted(&all).expect("valid").expect("given");
        assert_eq!(identity.extra["example.com/key"], ["v"]);
        let asked: Vec<String> = permissions(&identity)
            .into_iter()
            .map(|a| format!("{}/{}/{}/{}", a.resource, a.subresource, a.namespace, a.name))
            .collect();
        assert_eq!(asked, ["serviceaccounts//a/b", "userextras/example.com/key//v"]);
        let groups = ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"];
        assert_eq!(completed(identity).groups, groups);
    }
}
