//! URLs, absolute or absolute paths.

use std::collections::BTreeMap;

/// A URL in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `https`, in lower case.
    pub scheme: String,
    /// Host and port as written.
    pub host: String,
    /// The path with escapes.
    pub path: String,
    /// What stands behind `?`.
    pub query: String,
    rest: String,
}

impl Url {
    /// Reads a URL that is absolute or an absolute path.
    pub fn parse(text: &str) -> Result<Url, String> {
        let fail = |why: String| Err(format!("parse {text:?}: {why}"));
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return fail("net/url: invalid control character in URL".into());
        }
        if text.is_empty() {
            return fail("empty url".into());
        }
        let (scheme, after) = match scheme(text) {
            Ok(parts) => parts,
            Err(why) => return fail(why.into()),
        };
        let (before, fragment) = after.split_once('#').map_or((after, ""), |(a, b)| (a, b));
        let (before, query) = before.split_once('?').unwrap_or((before, ""));
        if !before.starts_with('/') {
            if scheme.is_empty() {
                return fail("invalid URI for request".into());
            }
            // Opaque, such as `mailto:someone`.
            return Ok(Url {
                scheme: scheme.to_ascii_lowercase(),
                host: String::new(),
                path: String::new(),
                query: query.into(),
                rest: text.into(),
            });
        }
        let (host, path) = match before.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
                let end = rest.find('/').unwrap_or(rest.len());
                (&rest[..end], &rest[end..])
            }
            _ => ("", before),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if let Some(why) = host_fault(host) {
            return fail(why);
        }
        for part in [path, host] {
            if let Some(escape) = bad_escape(part) {
                return fail(format!("invalid URL escape {escape:?}"));
            }
        }
        Ok(Url {
            scheme: scheme.to_ascii_lowercase(),
            host: unescape(host, false),
            path: escaped(path),
            query: query.into(),
            rest: fragment.into(),
        })
    }

    /// The host without port and brackets.
    pub fn hostname(&self) -> &str {
        let host = match self.host.rfind(':') {
            Some(i) if !self.host[i..].contains(']') => &self.host[..i],
            _ => &self.host,
        };
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    /// The port, or nothing.
    pub fn port(&self) -> &str {
        match self.host.rfind(':') {
            Some(i) if !self.host[i..].contains(']') => &self.host[i + 1..],
            _ => "",
        }
    }

    /// The query's parameters.
    pub fn parameters(&self) -> BTreeMap<String, Vec<String>> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if bad_escape(name).is_some() || bad_escape(value).is_some() {
                continue;
            }
            all.entry(unescape(name, true)).or_default().push(unescape(value, true));
        }
        all
    }
}

/// The scheme and what follows; no scheme is an empty one.
fn scheme(text: &str) -> Result<(&str, &str), &'static str> {
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme"),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    let first = text.split(['/', '?', '#']).next().unwrap_or("");
    if first.contains(':') { Err("first path segment in URL cannot contain colon") } else { Ok(("", text)) }
}

fn host_fault(host: &str) -> Option<String> {
    let (name, port) = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return Some("missing ']' in host".into()) };
        (&host[..=end], &host[end + 1..])
    } else {
        host.rfind(':').map_or((host, ""), |i| (&host[..i], &host[i..]))
    };
    let digits = port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !port.is_empty() && !digits {
        return Some(format!("invalid port {port:?} after host"));
    }
    let bad = name.chars().find(|c| matches!(c, ' ' | '<' | '>' | '"' | '\\' | '^' | '`' | '{' | '|' | '}'));
    bad.map(|c| format!("invalid character {:?} in host name", c.to_string()))
}

/// The first `%` that is not followed by two digits.
fn bad_escape(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        let digits = |n: usize| bytes.get(i + n).is_some_and(u8::is_ascii_hexdigit);
        if *b == b'%' && !(digits(1) && digits(2)) {
            let end = (i + 3).min(bytes.len());
            return Some(String::from_utf8_lossy(&bytes[i..end]).into_owned());
        }
    }
    None
}

fn unescape(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) if plus => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A path with what must be escaped escaped.
fn escaped(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&b);
    if path.bytes().all(plain) {
        return path.into();
    }
    let mut out = String::with_capacity(path.len());
    for b in unescape(path, false).bytes() {
        if (b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b)) && b != b'%' {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}
