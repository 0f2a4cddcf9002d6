//! Words that cannot be identifiers (the language definition of CEL).

/// Whether no variable may have this name: a literal, an operator, or a word that is kept back.
pub fn is_reserved(word: &str) -> bool {
    matches!(word, "true" | "false" | "null" | "in") || is_kept_back(word)
}

/// Whether the language keeps the word back without giving it a meaning.
pub(crate) fn is_kept_back(word: &str) -> bool {
    const WORDS: [&str; 17] = [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    WORDS.contains(&word)
}
