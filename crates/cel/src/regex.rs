//! Regular expressions, within bounds of memory.

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
            .build(pattern)
            .map_err(|_| format!("error parsing regexp: `{pattern}`"))?;
        Ok(Regex { length: pattern.chars().count() as u64, inner })
    }

    /// Whether a text has a match.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.inner.is_match(text)
    }

    /// All matches, one after the other.
    pub(crate) fn find_all<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let found: Vec<_> = self.inner.find_iter(text).map(|m| m.range()).collect();
        found.into_iter().filter_map(move |range| text.get(range))
    }

    /// The first match.
    pub(crate) fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.inner.find(text).and_then(|m| text.get(m.range()))
    }
}
