//! A JSON reader that knows the schema: it drops unknown fields, notes them and duplicates in document order, and
//! words syntax errors as Go's decoder does. Types are checked afterwards by [`crate::canonical`].

use serde_json::{Map, Number, Value};

use crate::error::Path;
use crate::types::{Either, Schema, Type};

/// Deeper values are refused.
pub const MAX_DEPTH: usize = 512;
/// More strict errors than this are not collected.
pub const MAX_STRICT: usize = 100;

/// A value and what a strict reader would refuse in it.
#[derive(Debug)]
pub struct Parsed {
    /// The value without unknown fields.
    pub value: Value,
    /// `unknown field "…"` and `duplicate field "…"`, in document order, without repetitions.
    pub strict: Vec<String>,
}

/// A syntax error in Go's words, such as `unexpected end of JSON input`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// Reads one JSON value. Without a schema every field is known.
pub fn parse(bytes: &[u8], schema: Option<&Schema>) -> Result<Parsed, SyntaxError> {
    let lossy;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => {
            lossy = String::from_utf8_lossy(bytes).into_owned();
            &lossy
        }
    };
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, strict: Vec::new() };
    let schema = schema.filter(|s| !matches!(s.ty, Type::Any | Type::Raw));
    let value = reader.value(schema, &Path::Root, 0)?;
    reader.skip_blank();
    if reader.at < reader.bytes.len() {
        return Err(reader.unexpected("after top-level value"));
    }
    Ok(Parsed { value, strict: reader.strict })
}

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    strict: Vec<String>,
}

type Read<T> = Result<T, SyntaxError>;

impl<'a> Reader<'a> {
    fn skip_blank(&mut self) {
        while self.bytes.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected(&self, context: &str) -> SyntaxError {
        let Some(c) = self.text.get(self.at..).and_then(|t| t.chars().next()) else {
            return SyntaxError("unexpected end of JSON input".to_string());
        };
        let shown = match c {
            '\'' => r"'\''".to_string(),
            '"' => "'\"'".to_string(),
            '\n' => r"'\n'".to_string(),
            '\t' => r"'\t'".to_string(),
            '\r' => r"'\r'".to_string(),
            c if (c as u32) < 0x20 => format!("'\\x{:02x}'", c as u32),
            c if c.is_ascii() => format!("'{c}'"),
            // Go's scanner works on bytes.
            _ => format!("'{}'", char::from(self.bytes[self.at])),
        };
        SyntaxError(format!("invalid character {shown} {context}"))
    }

    fn note(&mut self, what: &str, path: Path<'_>) {
        if self.strict.len() < MAX_STRICT {
            let text = format!("{what} field \"{}\"", path_text(&path));
            if !self.strict.contains(&text) {
                self.strict.push(text);
            }
        }
    }

    fn value(&mut self, schema: Option<&Schema>, path: &Path<'_>, depth: usize) -> Read<Value> {
        self.skip_blank();
        let open = |r: &Self| {
            if depth >= MAX_DEPTH { Err(r.unexpected("exceeded max depth")) } else { Ok(()) }
        };
        match self.bytes.get(self.at) {
            Some(b'{') => {
                open(self)?;
                self.at += 1;
                self.object(schema, path, depth + 1)
            }
            Some(b'[') => {
                open(self)?;
                self.at += 1;
                self.array(schema, path, depth + 1)
            }
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => {
                let text = self.number()?;
                if schema.is_some_and(|s| matches!(s.ty, Type::Quantity)) {
                    // The digits as written are the quantity.
                    return Ok(Value::String(text.to_string()));
                }
                Ok(Value::Number(to_number(text)))
            }
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Read<Value> {
        for (i, want) in word.bytes().enumerate() {
            if self.bytes.get(self.at) != Some(&want) {
                debug_assert!(i > 0);
                return Err(self.unexpected(&format!("in literal {word} (expecting '{}')", want as char)));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Read<&'a str> {
        let start = self.at;
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else if self.digits() == 0 {
            return Err(self.unexpected("in numeric literal"));
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
        }
        Ok(&self.text[start..self.at])
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let out = self.text[start..self.at].to_string();
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => return self.escaped(self.text[start..self.at].to_string()),
                Some(0x20..) => self.at += 1,
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escaped(&mut self, mut out: String) -> Read<String> {
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let plain = match self.bytes.get(self.at) {
                        Some(b'"') => '"',
                        Some(b'\\') => '\\',
                        Some(b'/') => '/',
                        Some(b'b') => '\u{8}',
                        Some(b'f') => '\u{c}',
                        Some(b'n') => '\n',
                        Some(b'r') => '\r',
                        Some(b't') => '\t',
                        Some(b'u') => {
                            self.at += 1;
                            let c = self.unicode()?;
                            out.push(c);
                            continue;
                        }
                        _ => return Err(self.unexpected("in string escape code")),
                    };
                    out.push(plain);
                    self.at += 1;
                }
                Some(0x20..) => {
                    let start = self.at;
                    while self.bytes.get(self.at).is_some_and(|b| *b >= 0x20 && *b != b'"' && *b != b'\\') {
                        self.at += 1;
                    }
                    out.push_str(&self.text[start..self.at]);
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn hex4(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.bytes.get(self.at).and_then(|b| (*b as char).to_digit(16));
            let digit = digit.ok_or_else(|| self.unexpected("in \\u hexadecimal character escape"))?;
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// After `\u`. Lone surrogates become U+FFFD.
    fn unicode(&mut self) -> Read<char> {
        let code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let joined = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(joined).unwrap_or('\u{fffd}'));
            }
            self.at = back;
        }
        Ok(char::from_u32(code).unwrap_or('\u{fffd}'))
    }

    fn array(&mut self, schema: Option<&Schema>, path: &Path<'_>, depth: usize) -> Read<Value> {
        let either = schema.and_then(|s| match &s.ty {
            Type::Either(Either::Schemas, o) => Some(Schema::new(Type::Object(o.clone()))),
            _ => None,
        });
        let item = either.as_ref().or_else(|| schema.filter(|s| s.is_list()).and_then(Schema::item));
        let mut out = Vec::new();
        self.skip_blank();
        if self.bytes.get(self.at) == Some(&b']') {
            self.at += 1;
            return Ok(Value::Array(out));
        }
        loop {
            let value = self.value(item, &path.index(out.len()), depth)?;
            out.push(value);
            self.skip_blank();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(out));
                }
                _ => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn object(&mut self, schema: Option<&Schema>, path: &Path<'_>, depth: usize) -> Read<Value> {
        let mut out = Map::new();
        self.skip_blank();
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            return Ok(Value::Object(out));
        }
        loop {
            self.skip_blank();
            if self.bytes.get(self.at) != Some(&b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.skip_blank();
            if self.bytes.get(self.at) != Some(&b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.entry(schema, path, depth, key, &mut out)?;
            self.skip_blank();
            match self.bytes.get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(out));
                }
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn entry(
        &mut self,
        schema: Option<&Schema>,
        path: &Path<'_>,
        depth: usize,
        key: String,
        out: &mut Map<String, Value>,
    ) -> Read<()> {
        let here = path.child(&key);
        let object = schema.and_then(|s| match &s.ty {
            Type::Object(o) | Type::Either(_, o) => Some((o.get(), s.preserve_unknown)),
            _ => None,
        });
        let below = match (object, schema.map(|s| &s.ty)) {
            (Some((object, preserve)), _) => match object.field(&key) {
                Some(field) => Some(&field.schema),
                None if preserve => None,
                None => {
                    self.note("unknown", here);
                    return self.skip(depth);
                }
            },
            (None, Some(Type::Map(value))) => Some(value.as_ref()),
            _ => None,
        };
        if out.contains_key(&key) {
            self.note("duplicate", here);
        }
        let below = below.filter(|s| !matches!(s.ty, Type::Raw | Type::Any));
        let opaque = below.is_none() && schema.is_some();
        let value = if opaque {
            // Free-form values are not looked into for duplicates.
            let noted = self.strict.len();
            let value = self.value(None, &here, depth)?;
            self.strict.truncate(noted);
            value
        } else {
            self.value(below, &here, depth)?
        };
        out.insert(key, value);
        Ok(())
    }

    /// Reads a value without keeping it or noting anything in it.
    fn skip(&mut self, depth: usize) -> Read<()> {
        let noted = self.strict.len();
        self.value(None, &Path::Root, depth)?;
        self.strict.truncate(noted);
        Ok(())
    }
}

fn path_text(path: &Path<'_>) -> String {
    path.to_string()
}

fn to_number(text: &str) -> Number {
    if let Ok(n) = text.parse::<i64>() {
        return Number::from(n);
    }
    if let Ok(n) = text.parse::<u64>() {
        return Number::from(n);
    }
    let float: f64 = text.parse().unwrap_or(f64::MAX);
    Number::from_f64(float.clamp(f64::MIN, f64::MAX)).unwrap_or_else(|| Number::from(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn syntax_errors() {
        let table = [
            ("", "unexpected end of JSON input"),
            (r#"{"data""#, "unexpected end of JSON input"),
            (r#"{"a":1} x"#, "invalid character 'x' after top-level value"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
            (r#"{"a" 1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.", "unexpected end of JSON input"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("01", "invalid character '1' after top-level value"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\n\"", r"invalid character '\n' in string literal"),
        ];
        for (text, want) in table {
            assert_eq!(parse(text.as_bytes(), None).expect_err(text).0, want, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(9999), "]".repeat(9999));
        assert_eq!(
            parse(deep.as_bytes(), None).expect_err("deep").0,
            "invalid character '[' exceeded max depth"
        );
    }

    #[test]
    fn escapes() {
        let parsed = parse(br#""a\u00e4\ud83d\ude00\ud800x\n\/""#, None).expect("parses");
        assert_eq!(parsed.value, Value::String("aä😀\u{fffd}x\n/".to_string()));
    }

    proptest! {
        #[test]
        fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let ours = parse(&bytes, None);
            if let Ok(theirs) = serde_json::from_slice::<Value>(&bytes) {
                prop_assert_eq!(ours.expect("valid").value, theirs);
            }
        }

        #[test]
        fn jsonish_text(text in r#"[\[\]{},:"0-9eE.+\-truefalsn\\u ]{0,60}"#) {
            let ours = parse(text.as_bytes(), None);
            if let Ok(theirs) = serde_json::from_str::<Value>(&text) {
                prop_assert_eq!(ours.expect("valid").value, theirs);
            }
        }
    }
}
