//! Regular expressions in RE2's syntax, within bounds of memory.

use regex_automata::meta;
use regex_automata::util::syntax;

/// Most bytes a compiled expression and its cache may take.
const BYTES_MAX: usize = 1 << 20;

/// A compiled regular expression.
#[derive(Debug)]
pub(crate) struct Regex {
    /// Characters of the source, which its cost goes by.
    pub length: u64,
    inner: meta::Regex,
}

impl Regex {
    /// Compiles an expression.
    pub(crate) fn new(pattern: &str) -> Result<Regex, String> {
        let config = meta::Regex::config().nfa_size_limit(Some(BYTES_MAX)).hybrid_cache_capacity(BYTES_MAX);
        let inner = meta::Regex::builder()
            .configure(config)
            .syntax(syntax::Config::new())
            .build(&translated(pattern))
            .map_err(|_| format!("error parsing regexp: `{pattern}`"))?;
        Ok(Regex { length: pattern.chars().count() as u64, inner })
    }

    /// Whether a text has a match.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.inner.is_match(text)
    }

    /// The first matches, one after the other.
    pub(crate) fn find_all<'t>(&self, text: &'t str, most: usize) -> Vec<&'t str> {
        self.inner.find_iter(text).take(most).filter_map(|m| text.get(m.range())).collect()
    }

    /// The first match.
    pub(crate) fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.inner.find(text).and_then(|m| text.get(m.range()))
    }
}

/// RE2's syntax in that of the engine: `\d`, `\w`, `\s` and `\b` know ASCII only; a brace that counts nothing is a brace;
/// within brackets, brackets and doubled signs have no meaning of their own; `\Q…\E` quotes.
pub fn translated(pattern: &str) -> String {
    let mut translation = Translation { rest: pattern, out: String::with_capacity(pattern.len() + 16) };
    while let Some(c) = translation.next() {
        match c {
            '\\' => translation.escape(false),
            '[' => translation.class(),
            '{' if counted(translation.rest) => translation.out.push('{'),
            '{' => translation.out.push_str("\\{"),
            '}' if !translation.out_counts() => translation.out.push_str("\\}"),
            c => translation.out.push(c),
        }
    }
    translation.out
}

struct Translation<'p> {
    rest: &'p str,
    out: String,
}

/// Whether `{` begins a count: `{2}`, `{2,}`, `{2,3}`.
fn counted(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

impl Translation<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Whether the brace that comes next ends a count or a name in braces.
    fn out_counts(&self) -> bool {
        let Some(open) = self.out.rfind('{') else { return false };
        let escaped = self.out[..open].ends_with('\\');
        !escaped && !self.out[open..].contains('}')
    }

    fn escape(&mut self, class: bool) {
        let Some(c) = self.next() else {
            self.out.push('\\');
            return;
        };
        let word = match c {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => "[\\t\\n\\x0c\\r ]",
            'S' => "[^\\t\\n\\x0c\\r ]",
            'b' if !class => "(?-u:\\b)",
            'Q' => return self.quoted(class),
            'p' | 'P' | 'x' if self.rest.starts_with('{') => {
                let end = self.rest.find('}').map_or(self.rest.len(), |i| i + 1);
                self.out.push('\\');
                self.out.push(c);
                self.out.push_str(&self.rest[..end]);
                self.rest = &self.rest[end..];
                return;
            }
            '<' => "<",
            '>' => ">",
            c => {
                self.out.push('\\');
                self.out.push(c);
                return;
            }
        };
        self.out.push_str(word);
    }

    fn quoted(&mut self, class: bool) {
        let (inner, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
        for c in inner.chars() {
            if c.is_ascii_punctuation() && (class || !matches!(c, '<' | '>')) {
                self.out.push('\\');
            }
            self.out.push(c);
        }
        self.rest = rest;
    }

    /// A class in brackets; the opening one is taken.
    fn class(&mut self) {
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.next();
            self.out.push('^');
        }
        let mut first = true;
        while let Some(c) = self.next() {
            match c {
                ']' if first => self.out.push_str("\\]"),
                ']' => {
                    self.out.push(']');
                    return;
                }
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => {
                    let end = self.rest.find(":]").map_or(self.rest.len(), |i| i + 2);
                    self.out.push('[');
                    self.out.push_str(&self.rest[..end]);
                    self.rest = &self.rest[end..];
                }
                '[' | '&' | '~' => {
                    self.out.push('\\');
                    self.out.push(c);
                }
                '-' if self.rest.starts_with('-') => self.out.push_str("\\-"),
                '\\' => self.escape(true),
                c => self.out.push(c),
            }
            first = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_re2s() {
        for (pattern, text, wanted) in [
            (r"^\d$", "٣", false),
            (r"^\d$", "3", true),
            (r"^[\d.]+$", "1.2", true),
            (r"^[^\W]+$", "a_1", true),
            (r"^\w+$", "é", false),
            (r"^.$", "é", true),
            (r"^a{2,3}$", "aaa", true),
            (r"^a{$", "a{", true),
            (r"^{a}$", "{a}", true),
            (r"^{{x}}$", "{{x}}", true),
            (r"^a{,2}$", "a{,2}", true),
            (r"^[[]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "&", true),
            (r"^[a--b]+$", "b", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"\bword\b", "a word!", true),
            (r"^\x{41}$", "A", true),
            (r"^\pL$", "é", true),
            (r"^\p{Greek}$", "α", true),
            (r"(?i)^ABC$", "abc", true),
            (r"^(?P<name>a)$", "a", true),
            (r"^a\/b$", "a/b", true),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "a-b.c", true),
        ] {
            let regex =
                Regex::new(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}: {}", translated(pattern)));
            assert_eq!(regex.is_match(text), wanted, "{pattern} {text} {}", translated(pattern));
        }
        for pattern in ["(", "[", "(?=a)", r"\1", "a{2000}{2000}"] {
            assert!(Regex::new(pattern).is_err(), "{pattern}");
        }
    }
}
