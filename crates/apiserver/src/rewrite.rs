//! Links in HTML that comes through a proxy path: what is absolute on the other end is led through the path.
//!
//! Works on chunks as they arrive. Only a tag that a chunk cuts in two is held back, and no more than
//! [`TAG_MAX`] bytes of it.

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serve::Body;

/// Attributes whose values are links.
const LINKS: [&str; 14] = [
    "action",
    "archive",
    "background",
    "cite",
    "classid",
    "codebase",
    "data",
    "formaction",
    "href",
    "icon",
    "longdesc",
    "manifest",
    "poster",
    "src",
];

/// A tag longer than this goes through as it is.
const TAG_MAX: usize = 64 << 10;

/// The body with its links led through `prefix`. `host` is the other end's own name in absolute links.
pub fn html(body: Body, prefix: &str, host: &str) -> Body {
    let links = Links { prefix: prefix.trim_end_matches('/').to_string(), host: host.to_string() };
    let start = (body.into_data_stream(), Vec::new(), links, false);
    let chunks = futures_util::stream::unfold(start, |(mut source, mut held, links, over)| async move {
        if over {
            return None;
        }
        let Some(chunk) = source.next().await else {
            let rest = std::mem::take(&mut held);
            return (!rest.is_empty()).then(|| (Ok(Bytes::from(rest)), (source, held, links, true)));
        };
        let answer = chunk.map(|chunk| {
            held.extend_from_slice(&chunk);
            Bytes::from(links.pass(&mut held))
        });
        let over = answer.is_err();
        Some((answer, (source, held, links, over)))
    });
    serve::streamed(chunks)
}

/// One link led through the prefix, if it is one of the other end's own.
pub fn link(url: &str, prefix: &str, host: &str) -> Option<String> {
    let prefix = prefix.trim_end_matches('/');
    let path = match url.split_once("://") {
        Some(("http" | "https", rest)) => {
            let rest = rest.strip_prefix(host)?;
            match rest.chars().next() {
                None => "/",
                Some('/' | '?' | '#') => rest,
                Some(_) => return None,
            }
        }
        Some(_) => return None,
        None if url.starts_with("//") || !url.starts_with('/') => return None,
        None => url,
    };
    let through = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    match through {
        true => None,
        false => Some(format!("{prefix}{}{path}", if path.starts_with('/') { "" } else { "/" })),
    }
}

struct Links {
    prefix: String,
    host: String,
}

impl Links {
    /// Takes out of `held` what is complete, rewritten.
    fn pass(&self, held: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while let Some(open) = held[at..].iter().position(|byte| *byte == b'<') {
            out.extend_from_slice(&held[at..at + open]);
            at += open;
            match end_of_tag(&held[at..]) {
                Some(length) => {
                    out.extend_from_slice(&self.tag(&held[at..at + length]));
                    at += length;
                }
                None if held.len() - at > TAG_MAX => {
                    out.extend_from_slice(&held[at..]);
                    held.clear();
                    return out;
                }
                None => {
                    held.drain(..at);
                    return out;
                }
            }
        }
        out.extend_from_slice(&held[at..]);
        held.clear();
        out
    }

    /// A whole tag with its links rewritten.
    fn tag(&self, tag: &[u8]) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(tag) else { return tag.to_vec() };
        let mut out = String::with_capacity(text.len() + self.prefix.len());
        let mut rest = text;
        while let Some(equals) = rest.find('=') {
            let (before, after) = (&rest[..equals], &rest[equals + 1..]);
            let name = before.trim_end().rsplit(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '/'));
            let name = name.into_iter().next().unwrap_or("").to_ascii_lowercase();
            out.push_str(before);
            out.push('=');
            let blank = after.len() - after.trim_start().len();
            let (space, value) = after.split_at(blank);
            out.push_str(space);
            let (quote, value) = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
                _ => (None, value),
            };
            let length = match quote {
                Some(quote) => value.find(quote).unwrap_or(value.len()),
                None => value.find(|c: char| c.is_whitespace() || c == '>').unwrap_or(value.len()),
            };
            let (url, behind) = value.split_at(length);
            out.extend(quote);
            match link(url, &self.prefix, &self.host).filter(|_| LINKS.contains(&name.as_str())) {
                Some(through) => out.push_str(&through),
                None => out.push_str(url),
            }
            if let (Some(quote), Some(behind)) = (quote, behind.get(1..)) {
                out.push(quote);
                rest = behind;
            } else {
                rest = behind;
            }
        }
        out.push_str(rest);
        out.into_bytes()
    }
}

/// How long the tag at the start of the text is, if its end is there. Quoted `>` do not end it.
fn end_of_tag(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/n/pods/p/proxy/";

    #[test]
    fn links_of_the_other_end_go_through_the_path() {
        let through = "/api/v1/namespaces/n/pods/p/proxy";
        let cases = [
            ("/rewriteme", Some(format!("{through}/rewriteme"))),
            ("http://10.1.2.3:80/x?y#z", Some(format!("{through}/x?y#z"))),
            ("http://10.1.2.3:80", Some(format!("{through}/"))),
            ("http://10.1.2.3:8080/x", None),
            ("https://example.org/x", None),
            ("//example.org/x", None),
            ("relative/x", None),
            ("mailto:a@example.org", None),
            (&format!("{through}/again"), None),
        ];
        for (url, wanted) in cases {
            assert_eq!(link(url, PREFIX, "10.1.2.3:80"), wanted, "{url}");
        }
    }

    #[tokio::test]
    async fn tags_cut_by_chunks_are_rewritten_whole() {
        let page = r#"<p>a < b</p><a class="x=1" HREF='/one'>test</a><img src=/two alt=">"><b title="/no">"#;
        let through = "/api/v1/namespaces/n/pods/p/proxy";
        let wanted = page
            .replace("'/one'", &format!("'{through}/one'"))
            .replace("src=/two", &format!("src={through}/two"));
        for size in [1, 2, 7, 1000] {
            let chunks: Vec<_> =
                page.as_bytes().chunks(size).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            let body = html(serve::streamed(futures_util::stream::iter(chunks)), PREFIX, "h");
            let whole = body.collect().await.expect("a body").to_bytes();
            assert_eq!(String::from_utf8_lossy(&whole), wanted, "chunks of {size}");
        }
    }
}
