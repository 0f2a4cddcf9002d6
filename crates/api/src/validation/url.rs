//! Addresses of webhooks: URLs and Services.

use base::names;

use super::check::At;

const FORM: &str = "; desired format: https://host[/path]";

/// The parts of a URL that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

/// Splits a URL as clients written in Go do; the error has their words.
fn parse(text: &str) -> Result<Parts<'_>, String> {
    let fail = |why: &str| Err(format!("parse {}: {why}", schema::error::go_quote(text)));
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return fail("net/url: invalid control character in URL");
    }
    let mut parts = Parts::default();
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    parts.fragment = fragment;
    let mut rest = rest;
    match scheme_end(rest) {
        Ok(Some(end)) => (parts.scheme, rest) = (&rest[..end], &rest[end + 1..]),
        Ok(None) => {}
        Err(why) => return fail(why),
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    parts.query = query;
    if !rest.starts_with('/') {
        let first = rest.split('/').next().unwrap_or("");
        if parts.scheme.is_empty() && first.contains(':') {
            return fail("first path segment in URL cannot contain colon");
        }
        return Ok(parts);
    }
    let Some(authority) = rest.strip_prefix("//") else { return Ok(parts) };
    let authority = authority.split('/').next().unwrap_or("");
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let port = match host.rfind(']') {
        Some(end) => &host[end + 1..],
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit())) {
        return fail(&format!("invalid port {} after host", schema::error::go_quote(port)));
    }
    if let Some(c) = host.chars().find(|c| matches!(c, ' ' | '^' | '{' | '}' | '|' | '\\' | '`')) {
        let what = schema::error::go_quote(&c.to_string());
        return fail(&format!("invalid character {what} in host name"));
    }
    (parts.user, parts.host) = (user, host);
    Ok(parts)
}

/// Where the scheme ends, if there is one.
fn scheme_end(text: &str) -> Result<Option<usize>, &'static str> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme"),
            b':' => return Ok(Some(i)),
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The URL of a webhook: https, a host, and neither user, query nor fragment.
pub fn webhook(at: &At<'_>) {
    let parts = match parse(at.text()) {
        Ok(parts) => parts,
        Err(why) => return at.required(&format!("url must be a valid URL: {why}{FORM}")),
    };
    let scheme = parts.scheme.to_ascii_lowercase();
    if scheme != "https" {
        at.invalid_as(scheme, &format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parts.host.is_empty() {
        at.invalid_as("", &format!("host must be specified{FORM}"));
    }
    if let Some(user) = parts.user {
        at.invalid_as(user, "user information is not permitted in the URL");
    }
    if !parts.fragment.is_empty() {
        at.invalid_as(parts.fragment, "fragments are not permitted in the URL");
    }
    if !parts.query.is_empty() {
        at.invalid_as(parts.query, "query parameters are not permitted in the URL");
    }
}

/// The Service of a webhook. Upstream hands name and namespace over in the wrong order, and clients see its paths.
pub fn service(at: &At<'_>) {
    for (field, shown) in [("namespace", "name"), ("name", "namespace")] {
        if at.get(field).is_empty() {
            at.get(shown).required("");
        }
    }
    let port = at.get("port");
    let wrong = names::port_number(port.int());
    if !wrong.is_empty() {
        port.invalid_as(port.int(), &format!("port is not valid: {}", wrong.join(", ")));
    }
    path(&at.get("path"));
}

fn path(at: &At<'_>) {
    match at.text() {
        "" | "/" => return,
        "//" => return at.invalid("segment[0] may not be empty"),
        text if !text.starts_with('/') => at.invalid("must start with a '/'"),
        _ => {}
    }
    // The first character is taken for the slash even where it is none.
    let mut inner = at.text().chars();
    inner.next();
    let inner = inner.as_str();
    for (i, step) in inner.strip_suffix('/').unwrap_or(inner).split('/').enumerate() {
        if step.is_empty() {
            at.invalid(&format!("segment[{i}] may not be empty"));
            continue;
        }
        for what in names::dns1123_subdomain(step) {
            at.invalid(&format!("segment[{i}]: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let parts = parse("https://u:p@a.b:443/c?d=e#f").expect("parsed");
        let want = Parts { scheme: "https", user: Some("u:p"), host: "a.b:443", query: "d=e", fragment: "f" };
        assert_eq!(parts, want);
        assert_eq!(parse("zzz").expect("a path").host, "");
        let wrong =
            [("a_b:c", "first path"), ("https://a:b/", "port"), (":a", "missing"), ("a\u{1}", "control")];
        for (url, part) in wrong {
            assert!(parse(url).is_err_and(|why| why.contains(part)), "{url}");
        }
    }
}
