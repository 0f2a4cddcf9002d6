//! Tokens to a tree: recursive descent with a bound on depth and size.

use std::sync::Arc;

use crate::ast::{Entry, Expr, Field, Kind, Literal};
use crate::error::{CompileErrors, Fault};
use crate::lex::{Token, What, tokens};
use crate::macros;
use crate::reserved::is_kept_back;

/// Longest source, in characters.
const SOURCE_MAX: usize = 100_000;
/// Deepest nesting of brackets in the source. Each level is a dozen calls deep, and expressions are read on threads with
/// stacks of 2 MiB.
const NESTING_MAX: u16 = 100;
/// Deepest tree, macros expanded.
pub(crate) const DEPTH_MAX: u16 = 250;

/// Nodes that macros may copy.
const COPIED_MAX: usize = 10_000;

/// What may begin an operand, in the words of the messages that users know.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, \
                          STRING, BYTES, IDENTIFIER}";

type Parsed<T> = Result<T, Fault>;

/// Reads an expression; with `bindings`, `cel.bind` is a macro.
pub(crate) fn parse(source: &str, bindings: bool) -> Result<Expr, CompileErrors> {
    let errors = |fault| CompileErrors { text: source.to_owned(), faults: vec![fault] };
    let chars: Vec<char> = source.chars().collect();
    if chars.len() > SOURCE_MAX {
        let message =
            format!("expression code point size exceeds limit: size: {}, limit {SOURCE_MAX}", chars.len());
        return Err(errors(Fault { at: 0, message }));
    }
    let tokens = tokens(&chars).map_err(errors)?;
    let mut parser = Parser { tokens, next: 0, maker: Maker { bindings, ..Maker::default() }, depth: 0 };
    let expr = parser.expr().and_then(|expr| parser.end().map(|()| expr)).map_err(errors)?;
    Ok(expr)
}

/// Makes nodes: numbers them and bounds their depth.
#[derive(Default)]
pub(crate) struct Maker {
    ids: u32,
    /// Whether `cel.bind` is a macro.
    pub(crate) bindings: bool,
    copied: usize,
    /// Where the tree became too deep or too large.
    broken: Option<u32>,
}

impl Maker {
    /// A node at a place.
    pub(crate) fn make(&mut self, at: u32, kind: Kind) -> Expr {
        self.ids += 1;
        let mut depth = 0;
        kind.children(|child| depth = depth.max(child.depth));
        if depth >= DEPTH_MAX {
            self.broken.get_or_insert(at);
        }
        Expr { id: self.ids, at, depth: depth.saturating_add(1), kind }
    }

    /// A copy for a macro that needs a part twice. Copies of copies double, so their number is bounded.
    pub(crate) fn copy(&mut self, expr: &Expr) -> Expr {
        self.copied = self.copied.saturating_add(expr.size());
        if self.copied > COPIED_MAX {
            self.broken.get_or_insert(expr.at);
            return self.literal(expr.at, Literal::Null);
        }
        expr.clone()
    }

    /// A call of a plain function.
    pub(crate) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call { function: function.into(), target: None, args })
    }

    /// A call of a method.
    pub(crate) fn method(&mut self, at: u32, target: Expr, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call { function: function.into(), target: Some(Box::new(target)), args })
    }

    /// A name.
    pub(crate) fn name(&mut self, at: u32, name: &str) -> Expr {
        self.make(at, Kind::Ident(name.into()))
    }

    /// A constant.
    pub(crate) fn literal(&mut self, at: u32, literal: Literal) -> Expr {
        self.make(at, Kind::Literal(literal))
    }
}

/// How strongly a binary operator binds, with its function.
fn binary(sign: &str) -> Option<(u8, &'static str)> {
    Some(match sign {
        "<" => (1, "_<_"),
        "<=" => (1, "_<=_"),
        ">" => (1, "_>_"),
        ">=" => (1, "_>=_"),
        "==" => (1, "_==_"),
        "!=" => (1, "_!=_"),
        "in" => (1, "@in"),
        "+" => (2, "_+_"),
        "-" => (2, "_-_"),
        "*" => (3, "_*_"),
        "/" => (3, "_/_"),
        "%" => (3, "_%_"),
        _ => return None,
    })
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    maker: Maker,
    depth: u16,
}

impl Parser {
    fn peek(&self) -> &What {
        &self.tokens[self.next].what
    }

    fn at(&self) -> u32 {
        self.tokens[self.next].at
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), What::Sign(s) if *s == sign)
    }

    fn bump(&mut self) -> u32 {
        let at = self.at();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        at
    }

    /// Takes a sign if it is next.
    fn take(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| self.bump())
    }

    fn expect(&mut self, sign: &str) -> Parsed<u32> {
        self.take(sign).map_or_else(
            || match (sign, self.peek()) {
                (")", What::End) => {
                    Err(Fault { at: self.at(), message: "Syntax error: missing ')' at '<EOF>'".into() })
                }
                ("]" | "}", _) => self.unexpected(&format!("{{'{sign}', ','}}")),
                _ => self.unexpected(&format!("'{sign}'")),
            },
            Ok,
        )
    }

    fn end(&self) -> Parsed<()> {
        if *self.peek() == What::End {
            return Ok(());
        }
        let last = self.tokens.get(self.next + 1).is_none_or(|token| token.what == What::End);
        let word = if last { "extraneous" } else { "mismatched" };
        let message = format!("Syntax error: {word} input '{}' expecting <EOF>", shown(self.peek()));
        Err(Fault { at: self.at(), message })
    }

    fn unexpected<T>(&self, expected: &str) -> Parsed<T> {
        // One sign too many is said to be so.
        let more = expected == BEGINNINGS && self.tokens.get(self.next + 1).is_some_and(|t| begins(&t.what));
        let word = if more { "extraneous" } else { "mismatched" };
        let message = format!("Syntax error: {word} input '{}' expecting {expected}", shown(self.peek()));
        Err(Fault { at: self.at(), message })
    }

    fn whole(&self, expr: Expr) -> Parsed<Expr> {
        self.maker.broken.map_or(Ok(expr), |at| Err(Self::too_deep(at)))
    }

    fn too_deep(at: u32) -> Fault {
        Fault { at, message: format!("expression recursion limit exceeded: {DEPTH_MAX}") }
    }

    /// Goes one level down, or says that it is too deep.
    fn down(&mut self, inner: impl FnOnce(&mut Parser) -> Parsed<Expr>) -> Parsed<Expr> {
        if self.depth >= NESTING_MAX {
            return Err(Self::too_deep(self.at()));
        }
        self.depth += 1;
        let answer = inner(self);
        self.depth -= 1;
        answer.and_then(|expr| self.whole(expr))
    }

    fn expr(&mut self) -> Parsed<Expr> {
        self.down(|p| {
            // `a ? b : c ? d : e` goes on to the right without going deeper.
            let mut choices = Vec::new();
            let mut last = loop {
                let condition = p.logic("||", "_||_")?;
                let Some(at) = p.take("?") else { break condition };
                let yes = p.logic("||", "_||_")?;
                p.expect(":")?;
                choices.push((at, condition, yes));
            };
            while let Some((at, condition, yes)) = choices.pop() {
                last = p.maker.call(at, "_?_:_", vec![condition, yes, last]);
                last = p.whole(last)?;
            }
            Ok(last)
        })
    }

    /// Terms joined by `&&` or `||`, as a balanced tree.
    fn logic(&mut self, sign: &str, function: &'static str) -> Parsed<Expr> {
        let mut terms = Vec::new();
        let mut signs = Vec::new();
        loop {
            terms.push(if sign == "||" { self.logic("&&", "_&&_")? } else { self.chain(1)? });
            match self.take(sign) {
                Some(at) => signs.push(at),
                None => break,
            }
        }
        Ok(self.balance(function, &mut terms.into_iter(), &signs))
    }

    fn balance(&mut self, function: &str, terms: &mut std::vec::IntoIter<Expr>, signs: &[u32]) -> Expr {
        if signs.is_empty() {
            return match terms.next() {
                Some(term) => term,
                None => self.maker.literal(0, Literal::Null),
            };
        }
        let middle = signs.len() / 2;
        let left = self.balance(function, terms, &signs[..middle]);
        let right = self.balance(function, terms, &signs[middle + 1..]);
        self.maker.call(signs[middle], function, vec![left, right])
    }

    /// Operators of at least this strength, from left to right.
    fn chain(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        while let What::Sign(sign) = self.peek()
            && let Some((strength, function)) = binary(sign)
            && strength >= least
        {
            let at = self.bump();
            let right = self.chain(strength + 1)?;
            left = self.maker.call(at, function, vec![left, right]);
            left = self.whole(left)?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Expr> {
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            if !self.is(sign) {
                continue;
            }
            let at = self.at();
            let mut times = 0;
            while self.is(sign) {
                self.bump();
                times += 1;
            }
            if times % 2 == 1 && sign == "-" && is_number(self.peek()) {
                // A sign right before a number is the number's.
                self.next -= 1;
                return self.member();
            }
            let operand = self.member()?;
            return Ok(if times % 2 == 1 { self.maker.call(at, function, vec![operand]) } else { operand });
        }
        self.member()
    }

    fn member(&mut self) -> Parsed<Expr> {
        let mut expr = self.primary()?;
        loop {
            expr = self.whole(expr)?;
            if let Some(at) = self.take(".") {
                expr = self.dot(at, expr)?;
            } else if let Some(at) = self.take("[") {
                let function = if self.take("?").is_some() { "_[?_]" } else { "_[_]" };
                let index = self.expr()?;
                self.expect("]")?;
                expr = self.maker.call(at, function, vec![expr, index]);
            } else if self.is("{")
                && let Some(name) = expr.dotted()
            {
                expr = self.object(&name)?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn dot(&mut self, at: u32, operand: Expr) -> Parsed<Expr> {
        let optional = self.take("?").is_some();
        let (field, quoted) = match self.peek() {
            What::Name(name) => (name.clone(), false),
            What::Quoted(name) => (name.clone(), true),
            _ => return self.unexpected("IDENTIFIER"),
        };
        let field_at = self.bump();
        if optional {
            let field = self.maker.literal(field_at, Literal::String(field));
            return Ok(self.maker.call(at, "_?._", vec![operand, field]));
        }
        if !quoted && let Some(open) = self.take("(") {
            let args = self.list(")", Parser::expr)?;
            return match macros::method(&mut self.maker, open, operand, &field, args)? {
                macros::Expanded::Yes(expr) => Ok(expr),
                macros::Expanded::No(target, args) => Ok(self.maker.method(open, target, &field, args)),
            };
        }
        Ok(self.maker.make(at, Kind::Select { operand: Box::new(operand), field, test: false }))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        match self.peek().clone() {
            What::Literal(literal) => {
                let at = self.bump();
                Ok(self.maker.literal(at, literal))
            }
            What::LargeInt => Err(Fault { at: self.at(), message: "invalid int literal".into() }),
            What::Sign("-") if is_number(&self.tokens[self.next + 1].what) => self.negative(),
            What::Sign("(") => {
                self.bump();
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            What::Sign("[") => {
                let at = self.bump();
                let items = self.list("]", |p| {
                    let optional = p.take("?").is_some();
                    Ok((p.expr()?, optional))
                })?;
                Ok(self.maker.make(at, Kind::List(items)))
            }
            What::Sign("{") => {
                let at = self.bump();
                let entries = self.list("}", |p| {
                    let optional = p.take("?").is_some();
                    let key = p.expr()?;
                    p.expect(":")?;
                    Ok(Entry { key, value: p.expr()?, optional })
                })?;
                Ok(self.maker.make(at, Kind::Map(entries)))
            }
            What::Sign(".") => {
                self.bump();
                match self.peek().clone() {
                    What::Name(name) => self.name(&name),
                    _ => self.unexpected("IDENTIFIER"),
                }
            }
            What::Name(name) => self.name(&name),
            _ => self.unexpected(BEGINNINGS),
        }
    }

    fn negative(&mut self) -> Parsed<Expr> {
        let at = self.bump();
        let literal = match self.peek() {
            What::LargeInt => Literal::Int(i64::MIN),
            What::Literal(Literal::Int(value)) => Literal::Int(-value),
            What::Literal(Literal::Double(value)) => Literal::Double(-value),
            _ => {
                let operand = self.primary()?;
                return Ok(self.maker.call(at, "-_", vec![operand]));
            }
        };
        self.bump();
        Ok(self.maker.literal(at, literal))
    }

    fn name(&mut self, name: &Arc<str>) -> Parsed<Expr> {
        let at = self.bump();
        if is_kept_back(name) {
            return Err(Fault { at, message: format!("reserved identifier: {name}") });
        }
        let Some(open) = self.take("(") else { return Ok(self.maker.make(at, Kind::Ident(name.clone()))) };
        let args = self.list(")", Parser::expr)?;
        match macros::function(&mut self.maker, open, name, args)? {
            Ok(expr) => Ok(expr),
            Err(args) => Ok(self.maker.call(open, name, args)),
        }
    }

    fn object(&mut self, name: &str) -> Parsed<Expr> {
        let at = self.bump();
        let fields = self.list("}", |p| {
            let optional = p.take("?").is_some();
            let at = p.at();
            let (What::Name(name) | What::Quoted(name)) = p.peek().clone() else {
                return p.unexpected("IDENTIFIER");
            };
            p.bump();
            p.expect(":")?;
            Ok(Field { at, name, value: p.expr()?, optional })
        })?;
        Ok(self.maker.make(at, Kind::Struct { name: name.into(), fields }))
    }

    /// Items parted by commas up to a closing sign; a last comma is allowed where brackets are.
    fn list<T>(&mut self, close: &str, mut item: impl FnMut(&mut Parser) -> Parsed<T>) -> Parsed<Vec<T>> {
        let mut items = Vec::new();
        loop {
            if (items.is_empty() || close != ")") && self.take(close).is_some() {
                return Ok(items);
            }
            items.push(item(self)?);
            if self.take(",").is_none() {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }
}

/// Whether a token may begin an operand.
fn begins(what: &What) -> bool {
    match what {
        What::Name(_) | What::Literal(_) | What::LargeInt => true,
        What::Sign(sign) => matches!(*sign, "[" | "{" | "(" | "." | "-" | "!"),
        What::Quoted(_) | What::End => false,
    }
}

fn is_number(what: &What) -> bool {
    matches!(what, What::LargeInt | What::Literal(Literal::Int(_) | Literal::Uint(_) | Literal::Double(_)))
}

fn shown(what: &What) -> String {
    match what {
        What::Name(name) => name.to_string(),
        What::Quoted(name) => format!("`{name}`"),
        What::Literal(Literal::String(text)) => format!("\"{text}\""),
        What::Literal(Literal::Int(value)) => value.to_string(),
        What::Literal(Literal::Uint(value)) => format!("{value}u"),
        What::Literal(Literal::Double(value)) => value.to_string(),
        What::Literal(Literal::Bool(value)) => value.to_string(),
        What::Literal(Literal::Bytes(_)) => "b\"…\"".into(),
        What::Literal(Literal::Null) => "null".into(),
        What::LargeInt => "9223372036854775808".into(),
        What::Sign(sign) => (*sign).into(),
        What::End => "<EOF>".into(),
    }
}
