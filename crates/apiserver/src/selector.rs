//! Label and field selectors, evaluated on the stored index without decoding an object.

use std::sync::Arc;

use store::{Index, Object};

use crate::status::Status;

/// One condition on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Equals(String, String),
    NotEquals(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
}

/// A conjunction of conditions on labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

/// A conjunction of `field = value` and `field != value`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path of the field, such as `spec.nodeName`.
    pub field: String,
    /// Whether the value must be equal (or else different).
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// Both selectors of a request, with the fields resolved to places in the kind's index.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: Vec<(Place, bool, String)>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Name,
    Namespace,
    Index(usize),
}

impl Selection {
    /// Parses both selectors. `fields` are the kind's selectable fields in the order of its index.
    pub fn parse(labels: &str, fields: &str, selectable: &[impl AsRef<str>]) -> Result<Self, Status> {
        let labels = LabelSelector::parse(labels).map_err(Status::bad_request)?;
        let mut resolved = Vec::new();
        for term in FieldSelector::parse(fields).map_err(Status::bad_request)?.0 {
            let place = match term.field.as_str() {
                "metadata.name" => Place::Name,
                "metadata.namespace" => Place::Namespace,
                field => match selectable.iter().position(|known| known.as_ref() == field) {
                    Some(position) => Place::Index(position),
                    None => {
                        let message = format!("field label not supported: {field}");
                        return Err(Status::bad_request(message));
                    }
                },
            };
            resolved.push((place, term.equal, term.value));
        }
        Ok(Self { labels, fields: resolved })
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.labels.0.is_empty() && self.fields.is_empty()
    }

    /// Whether it asks for fields besides name and namespace.
    pub fn has_fields(&self) -> bool {
        self.fields.iter().any(|(place, ..)| matches!(place, Place::Index(_)))
    }

    /// The one name that can match, when the fields ask for it.
    pub fn name(&self) -> Option<&str> {
        self.fields.iter().find_map(|(place, equal, value)| match place {
            Place::Name if *equal => Some(value.as_str()),
            _ => None,
        })
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Object) -> bool {
        self.fields.iter().all(|(place, equal, value)| {
            let actual: &str = match place {
                Place::Name => &object.key.name,
                Place::Namespace => &object.key.namespace,
                Place::Index(position) => object.index.fields.get(*position).map_or("", |(_, value)| value),
            };
            (actual == value) == *equal
        }) && self.labels.matches(&object.index)
    }
}

fn label<'a>(index: &'a Index, key: &str) -> Option<&'a Arc<str>> {
    let found = index.labels.binary_search_by(|(label, _)| label.as_ref().cmp(key)).ok()?;
    index.labels.get(found).map(|(_, value)| value)
}

impl LabelSelector {
    /// Whether all conditions hold.
    pub fn matches(&self, index: &Index) -> bool {
        self.0.iter().all(|requirement| requirement.matches(index))
    }

    /// Parses `a=b,c!=d,e in (f,g),h,!i,j>1`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lexer = Lexer { rest: text };
        let mut requirements = Vec::new();
        loop {
            match lexer.peek() {
                Token::End => break,
                Token::Word(_) | Token::Not => requirements.push(lexer.requirement()?),
                other => {
                    return Err(format!(
                        "found '{}', expected: !, identifier, or 'end of string'",
                        other.text()
                    ));
                }
            }
            match lexer.next() {
                Token::End => break,
                Token::Comma => match lexer.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => {
                        return Err(format!("found '{}', expected: identifier after ','", other.text()));
                    }
                },
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
        Ok(Self(requirements))
    }
}

impl Requirement {
    fn matches(&self, index: &Index) -> bool {
        let number = |key: &str| label(index, key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::Equals(key, value) => label(index, key).is_some_and(|actual| **actual == **value),
            Self::NotEquals(key, value) => label(index, key).is_none_or(|actual| **actual != **value),
            Self::In(key, values) => {
                label(index, key).is_some_and(|actual| values.iter().any(|value| **value == **actual))
            }
            Self::NotIn(key, values) => {
                label(index, key).is_none_or(|actual| values.iter().all(|value| **value != **actual))
            }
            Self::Exists(key) => label(index, key).is_some(),
            Self::Absent(key) => label(index, key).is_none(),
            Self::Greater(key, bound) => number(key).is_some_and(|actual| actual > *bound),
            Self::Less(key, bound) => number(key).is_some_and(|actual| actual < *bound),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    End,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    Word(&'a str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Self::End => "",
            Self::Comma => ",",
            Self::Open => "(",
            Self::Close => ")",
            Self::Not => "!",
            Self::Equals => "=",
            Self::NotEquals => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::Word(word) => word,
        }
    }
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Lexer<'a> {
    fn peek(&self) -> Token<'a> {
        Lexer { rest: self.rest }.next()
    }

    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let symbols = [
            ("==", Token::Equals),
            ("=", Token::Equals),
            ("!=", Token::NotEquals),
            ("!", Token::Not),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        for (symbol, token) in symbols {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return token;
            }
        }
        let end = self
            .rest
            .find(|c: char| "=!,()><".contains(c) || c.is_ascii_whitespace())
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Token::End } else { Token::Word(word) }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let parse = |cause: String| format!("unable to parse requirement: {cause}");
        let absent = self.peek() == Token::Not;
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word,
            other => return Err(parse(format!("found '{}', expected: identifier", other.text()))),
        };
        label_key(key).map_err(parse)?;
        let key = key.to_string();
        if absent {
            return Ok(Requirement::Absent(key));
        }
        match self.peek() {
            Token::End | Token::Comma => return Ok(Requirement::Exists(key)),
            _ => {}
        }
        let operator = self.next();
        match operator {
            Token::Equals => {
                let value = self.exact(&key).map_err(parse)?;
                Ok(Requirement::Equals(key, value))
            }
            Token::NotEquals => {
                let value = self.exact(&key).map_err(parse)?;
                Ok(Requirement::NotEquals(key, value))
            }
            Token::Greater => Ok(Requirement::Greater(key, self.number().map_err(parse)?)),
            Token::Less => Ok(Requirement::Less(key, self.number().map_err(parse)?)),
            Token::Word("in") => {
                let values = self.set(&key).map_err(parse)?;
                Ok(Requirement::In(key, values))
            }
            Token::Word("notin") => {
                let values = self.set(&key).map_err(parse)?;
                Ok(Requirement::NotIn(key, values))
            }
            other => Err(parse(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()))),
        }
    }

    fn exact(&mut self, key: &str) -> Result<String, String> {
        match self.peek() {
            Token::End | Token::Comma => Ok(String::new()),
            Token::Word(word) => {
                self.next();
                label_value(key, 0, word)?;
                Ok(word.to_string())
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn number(&mut self) -> Result<i64, String> {
        let text = self.exact("")?;
        text.parse().map_err(|_| {
            "values[0]: Invalid value: \"".to_string()
                + &text
                + "\": for 'Gt', 'Lt' operators, the value must be an integer"
        })
    }

    fn set(&mut self, key: &str) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Open => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        let mut pending = true;
        loop {
            match self.next() {
                Token::Word(word) => {
                    label_value(key, values.len(), word)?;
                    values.push(word.to_string());
                    pending = false;
                }
                Token::Comma => {
                    if pending {
                        values.push(String::new());
                    }
                    pending = true;
                }
                Token::Close => {
                    if pending {
                        values.push(String::new());
                    }
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
    }
}

fn part(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn label_key(key: &str) -> Result<(), String> {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    if part(name) && name.len() <= 63 && key.matches('/').count() <= 1 && key.len() <= 317 {
        return Ok(());
    }
    Err(format!(
        "<nil>: Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
    ))
}

fn label_value(key: &str, at: usize, value: &str) -> Result<(), String> {
    if value.len() > 63 {
        return Err(format!("values[{at}][{key}]: Invalid value: {value:?}: must be no more than 63 bytes"));
    }
    if value.is_empty() || part(value) {
        return Ok(());
    }
    Err(format!(
        "values[{at}][{key}]: Invalid value: {value:?}: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    ))
}

impl FieldSelector {
    /// Parses `a=b,c!=d`; `\,`, `\=` and `\\` are escapes within values.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            terms.push(
                field_term(&term)
                    .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?,
            );
        }
        Ok(Self(terms))
    }

    /// The terms.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.0
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        let last = terms.len() - 1;
        if escaped || c != ',' {
            terms[last].push(c);
            escaped = !escaped && c == '\\';
        } else {
            terms.push(String::new());
        }
    }
    terms
}

fn field_term(term: &str) -> Option<FieldTerm> {
    let at = term.find('=')?;
    let (left, right) = (&term[..at], &term[at + 1..]);
    let (field, equal, value) = match (left.strip_suffix('!'), right.strip_prefix('=')) {
        (Some(field), _) => (field, false, right),
        (None, Some(value)) => (left, true, value),
        (None, None) => (left, true, right),
    };
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|c| "\\,=".contains(*c))?),
            '=' => return None,
            c => plain.push(c),
        }
    }
    Some(FieldTerm { field: field.to_string(), equal, value: plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(labels: &[(&str, &str)]) -> Index {
        let mut labels: Vec<_> = labels.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect();
        labels.sort();
        Index { labels: labels.into(), ..Index::default() }
    }

    #[test]
    fn labels() {
        let pod = index(&[("app", "web"), ("tier", "front"), ("rank", "5")]);
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            ("app!=web", false),
            ("zone!=a", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("zone notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!zone", true),
            ("rank>4", true),
            ("rank<5", false),
            ("zone=", false),
        ];
        for (text, expected) in table {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&pod), expected, "{text}");
        }
        for (text, message) in [
            ("a=!b", "unable to parse requirement: found '!', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a,", "found '', expected: identifier after ','"),
        ] {
            assert_eq!(LabelSelector::parse(text).expect_err(text), message);
        }
    }

    #[test]
    fn fields() {
        let terms = FieldSelector::parse(r"a=b,c!=d,e==f\,g").expect("parse");
        let seen: Vec<_> =
            terms.terms().iter().map(|t| (t.field.as_str(), t.equal, t.value.as_str())).collect();
        assert_eq!(seen, [("a", true, "b"), ("c", false, "d"), ("e", true, "f,g")]);
        assert!(FieldSelector::parse("a").is_err());
    }
}
