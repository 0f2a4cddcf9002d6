//! Names of properties as expressions spell them: what is no identifier or is reserved is escaped.

use crate::reserved::is_reserved;

const SIGNS: [(char, &str); 4] = [('.', "dot"), ('-', "dash"), ('/', "slash"), ('_', "underscores")];

/// A property's name as an identifier: `a-b` is `a__dash__b`, `namespace` is `__namespace__`. `None` for one that no
/// expression can name.
pub fn escape(name: &str) -> Option<String> {
    if is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("__") {
            out.push_str("__underscores__");
            rest = &rest[2..];
            continue;
        }
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => out.push(c),
            c => {
                let (_, word) = SIGNS.iter().find(|(sign, _)| *sign == c)?;
                out.push_str(&format!("__{word}__"));
            }
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The property that an identifier stands for; `None` for one that no property is escaped to.
pub fn unescape(name: &str) -> Option<String> {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && is_reserved(word)
    {
        return Some(word.into());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        rest = &rest[at + 2..];
        let (sign, word) = SIGNS
            .iter()
            .find(|(_, word)| rest.strip_prefix(word).is_some_and(|after| after.starts_with("__")))?;
        if *sign == '_' {
            out.push_str("__");
        } else {
            out.push(*sign);
        }
        rest = &rest[word.len() + 2..];
    }
    out.push_str(rest);
    Some(out)
}
