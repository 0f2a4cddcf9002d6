//! Source text to tokens.

use std::sync::Arc;

use crate::ast::Literal;
use crate::error::Fault;

/// A token and the character it starts at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub at: u32,
    pub what: What,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Name(Arc<str>),
    /// A name between backquotes.
    Quoted(Arc<str>),
    Literal(Literal),
    /// An integer too large to be one on its own: `-9223372036854775808` needs its sign.
    LargeInt,
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 27] = [
    "==", "!=", "<=", ">=", "&&", "||", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*",
    "/", "%", "<", ">", "=", "&", "|",
];

/// Splits a source into tokens; the last one is the end.
pub(crate) fn tokens(source: &[char]) -> Result<Vec<Token>, Fault> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at as u32;
        let what = lexer.next()?;
        let end = what == What::End;
        tokens.push(Token { at, what });
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    source: &'a [char],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.source.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn skip(&mut self) {
        loop {
            match self.peek(0) {
                ' ' | '\t' | '\n' | '\r' | '\x0c' => self.at += 1,
                '/' if self.peek(1) == '/' => {
                    while self.at < self.source.len() && self.peek(0) != '\n' {
                        self.at += 1;
                    }
                }
                _ => return,
            }
        }
    }

    fn fault<T>(&self, at: usize, what: impl Into<String>) -> Result<T, Fault> {
        Err(Fault { at: at as u32, message: what.into() })
    }

    fn next(&mut self) -> Result<What, Fault> {
        if self.at >= self.source.len() {
            return Ok(What::End);
        }
        let c = self.peek(0);
        if c.is_ascii_digit() || (c == '.' && self.peek(1).is_ascii_digit()) {
            return self.number();
        }
        if let Some((raw, bytes, prefix)) = self.quote_ahead() {
            return self.string(raw, bytes, prefix);
        }
        if c.is_ascii_alphabetic() || c == '_' {
            return Ok(self.name());
        }
        if c == '`' {
            return self.backquoted();
        }
        for sign in SIGNS {
            if sign.chars().enumerate().all(|(i, s)| self.peek(i) == s) {
                if matches!(sign, "=" | "&" | "|") {
                    break;
                }
                self.at += sign.len();
                return Ok(What::Sign(sign));
            }
        }
        self.fault(self.at, format!("Syntax error: token recognition error at: '{c}'"))
    }

    /// Whether a string starts here: raw, bytes, and how many characters come before the quote.
    fn quote_ahead(&self) -> Option<(bool, bool, usize)> {
        let (mut raw, mut bytes, mut n) = (false, false, 0);
        while n < 3 {
            match self.peek(n) {
                '"' | '\'' => return Some((raw, bytes, n)),
                'r' | 'R' if !raw => raw = true,
                'b' | 'B' if !bytes && !raw => bytes = true,
                _ => return None,
            }
            n += 1;
        }
        None
    }

    fn name(&mut self) -> What {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == '_' {
            self.at += 1;
        }
        let name: String = self.source[start..self.at].iter().collect();
        match name.as_str() {
            "true" => What::Literal(Literal::Bool(true)),
            "false" => What::Literal(Literal::Bool(false)),
            "null" => What::Literal(Literal::Null),
            "in" => What::Sign("in"),
            _ => What::Name(name.into()),
        }
    }

    fn backquoted(&mut self) -> Result<What, Fault> {
        let start = self.at;
        self.at += 1;
        while matches!(self.peek(0), 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.' | '-' | '/' | ' ') {
            self.at += 1;
        }
        if self.peek(0) != '`' || self.at == start + 1 {
            return self.fault(start, "Syntax error: token recognition error at: '`'");
        }
        let name: String = self.source[start + 1..self.at].iter().collect();
        self.at += 1;
        Ok(What::Quoted(name.into()))
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<What, Fault> {
        let start = self.at;
        if self.peek(0) == '0' && matches!(self.peek(1), 'x' | 'X') && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() {
                self.at += 1;
            }
            return self.integer(start, start + 2, 16);
        }
        self.digits();
        let mut float = false;
        if self.peek(0) == '.' && self.peek(1).is_ascii_digit() {
            float = true;
            self.at += 1;
            self.digits();
        }
        if matches!(self.peek(0), 'e' | 'E') {
            let sign = usize::from(matches!(self.peek(1), '+' | '-'));
            if self.peek(1 + sign).is_ascii_digit() {
                float = true;
                self.at += 1 + sign;
                self.digits();
            }
        }
        if !float {
            return self.integer(start, start, 10);
        }
        let text: String = self.source[start..self.at].iter().collect();
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() => Ok(What::Literal(Literal::Double(value))),
            _ => self.fault(start, "invalid double literal"),
        }
    }

    fn integer(&mut self, start: usize, digits: usize, radix: u32) -> Result<What, Fault> {
        let text: String = self.source[digits..self.at].iter().collect();
        if matches!(self.peek(0), 'u' | 'U') {
            self.at += 1;
            return match u64::from_str_radix(&text, radix) {
                Ok(value) => Ok(What::Literal(Literal::Uint(value))),
                Err(_) => self.fault(start, "invalid uint literal"),
            };
        }
        match u64::from_str_radix(&text, radix) {
            Ok(value) if value <= i64::MAX as u64 => Ok(What::Literal(Literal::Int(value as i64))),
            Ok(value) if value == 1 << 63 => Ok(What::LargeInt),
            _ => self.fault(start, "invalid int literal"),
        }
    }

    fn string(&mut self, raw: bool, bytes: bool, prefix: usize) -> Result<What, Fault> {
        let start = self.at;
        self.at += prefix;
        let quote = self.peek(0);
        let long = self.peek(1) == quote && self.peek(2) == quote;
        self.at += if long { 3 } else { 1 };
        let mut out = Vec::new();
        loop {
            if self.at >= self.source.len() {
                return self.unclosed(start);
            }
            let c = self.peek(0);
            if c == quote && (!long || (self.peek(1) == quote && self.peek(2) == quote)) {
                self.at += if long { 3 } else { 1 };
                break;
            }
            if !long && matches!(c, '\n' | '\r') {
                return self.unclosed(start);
            }
            self.at += 1;
            match c {
                '\\' if !raw => self.escape(start, bytes, &mut out)?,
                '\r' if long => {
                    if self.peek(0) == '\n' {
                        self.at += 1;
                    }
                    out.push(b'\n');
                }
                '\\' => {
                    push(&mut out, c);
                    if self.at < self.source.len() {
                        push(&mut out, self.peek(0));
                        self.at += 1;
                    }
                }
                c => push(&mut out, c),
            }
        }
        if bytes {
            return Ok(What::Literal(Literal::Bytes(out.into())));
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(What::Literal(Literal::String(text.into()))),
            Err(_) => self.fault(start, "invalid unicode code point"),
        }
    }

    fn unclosed<T>(&self, start: usize) -> Result<T, Fault> {
        let rest: String = self.source[start..self.source.len().min(start + 40)].iter().collect();
        self.fault(start, format!("Syntax error: token recognition error at: '{}'", rest.escape_debug()))
    }

    fn escape(&mut self, start: usize, bytes: bool, out: &mut Vec<u8>) -> Result<(), Fault> {
        let c = self.peek(0);
        self.at += 1;
        let (digits, radix, first) = match c {
            'a' => return plain(out, 7),
            'b' => return plain(out, 8),
            'f' => return plain(out, 12),
            'n' => return plain(out, 10),
            'r' => return plain(out, 13),
            't' => return plain(out, 9),
            'v' => return plain(out, 11),
            '\\' | '\'' | '"' | '`' | '?' => return plain(out, c as u8),
            'x' | 'X' => (2, 16, 0),
            'u' if !bytes => (4, 16, 0),
            'U' if !bytes => (8, 16, 0),
            '0'..='3' => (2, 8, c as u32 - '0' as u32),
            _ => return self.fault(start, format!("Syntax error: token recognition error at: '\\{c}'")),
        };
        let mut value = first;
        for _ in 0..digits {
            let Some(digit) = self.peek(0).to_digit(radix) else {
                return self.fault(start, "unable to unescape string");
            };
            value = value.wrapping_mul(radix).wrapping_add(digit);
            self.at += 1;
        }
        if bytes {
            out.push(value as u8);
            return Ok(());
        }
        match char::from_u32(value) {
            Some(c) => {
                push(out, c);
                Ok(())
            }
            None => self.fault(start, "invalid unicode code point"),
        }
    }
}

fn plain(out: &mut Vec<u8>, byte: u8) -> Result<(), Fault> {
    out.push(byte);
    Ok(())
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
