//! What a request asks for, read from method, path and query alone.

use http::Method;

/// The parts of a request's path, as upstream names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`, or for other
    /// paths the method in lower case.
    pub verb: &'static str,
    /// API group, empty for the legacy one.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, empty for cluster scope.
    pub namespace: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource, may be empty.
    pub subresource: String,
    /// The object's name, may be empty.
    pub name: String,
    /// Segments after resource, name and subresource (the path that `proxy` passes on).
    pub rest: Vec<String>,
}

impl RequestInfo {
    /// Reads method, path and the query's `watch` flag.
    pub fn parse(method: &Method, path: &str, watch: bool) -> Self {
        let path = decode(path);
        let mut info = Self { verb: plain_verb(method), ..Self::default() };
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_string();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_string();
                info.version = (*version).to_string();
                rest
            }
            _ => {
                info.path = path;
                return info;
            }
        };
        info.is_resource = true;
        info.verb = resource_verb(method);
        let legacy_watch = rest[0] == "watch" && rest.len() > 1;
        let rest = if legacy_watch { &rest[1..] } else { rest };
        let rest = info.read_namespace(rest);
        if let [resource, tail @ ..] = rest {
            info.resource = (*resource).to_string();
            if let [name, tail @ ..] = tail {
                info.name = (*name).to_string();
                if let [subresource, tail @ ..] = tail {
                    info.subresource = (*subresource).to_string();
                    info.rest = tail.iter().map(|segment| (*segment).to_string()).collect();
                }
            }
        }
        info.collection_verb(watch, legacy_watch);
        info.path = path;
        info
    }

    fn read_namespace<'a>(&mut self, rest: &'a [&'a str]) -> &'a [&'a str] {
        let ["namespaces", namespace, tail @ ..] = rest else { return rest };
        self.namespace = (*namespace).to_string();
        match tail {
            [] => rest,
            ["status" | "finalize", ..] => rest,
            tail => tail,
        }
    }

    fn collection_verb(&mut self, watch: bool, legacy_watch: bool) {
        if legacy_watch && self.verb == "get" {
            self.verb = "watch";
        } else if self.name.is_empty() {
            self.verb = match self.verb {
                "get" if watch => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                verb => verb,
            };
        }
    }
}

fn resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "post",
        Method::GET => "get",
        Method::HEAD => "head",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

/// Percent-decodes a path or query component; bytes that are not UTF-8 are replaced.
pub fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_string();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |byte: Option<&u8>| byte.and_then(|byte| (*byte as char).to_digit(16));
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths_as_upstream_does() {
        let table = [
            ("GET", "/api/v1/pods", "list", "", "pods", "", "", ""),
            ("GET", "/api/v1/namespaces", "list", "", "namespaces", "", "", ""),
            ("GET", "/api/v1/namespaces/a", "get", "a", "namespaces", "a", "", ""),
            ("PUT", "/api/v1/namespaces/a/finalize", "update", "a", "namespaces", "a", "finalize", ""),
            ("GET", "/api/v1/namespaces/a/pods", "list", "a", "pods", "", "", ""),
            ("DELETE", "/api/v1/namespaces/a/pods", "deletecollection", "a", "pods", "", "", ""),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get", "a", "pods", "b", "log", ""),
            ("POST", "/apis/apps/v1/namespaces/a/deployments", "create", "a", "deployments", "", "", ""),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", "watch", "a", "pods", "b", "", ""),
            ("GET", "/api/v1/nodes/n/proxy/a/b", "get", "", "nodes", "n", "proxy", "a/b"),
            ("PATCH", "/apis/x.io/v1/things/t/status", "patch", "", "things", "t", "status", ""),
        ];
        for (method, path, verb, namespace, resource, name, subresource, rest) in table {
            let method = Method::from_bytes(method.as_bytes()).expect("method");
            let info = RequestInfo::parse(&method, path, false);
            assert!(info.is_resource, "{path}");
            let got = (
                info.verb,
                info.namespace.as_str(),
                info.resource.as_str(),
                info.name.as_str(),
                info.subresource.as_str(),
                info.rest.join("/"),
            );
            assert_eq!(got, (verb, namespace, resource, name, subresource, rest.to_string()), "{path}");
        }
        for path in
            ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/openapi/v2"]
        {
            assert!(!RequestInfo::parse(&Method::GET, path, false).is_resource, "{path}");
        }
    }
}
