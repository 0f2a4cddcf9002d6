//! What is checked after types: that the parts of literals are alike, and constant arguments well formed.

use crate::ast::{Expr, Kind};
use crate::check::{Checked, Meaning};
use crate::error::Fault;
use crate::regex::Regex;
use crate::types::Type;

/// What is wrong with literals and constant arguments.
pub(crate) fn faults(expr: &Expr, checked: &Checked) -> Vec<Fault> {
    let mut found = Found { checked, faults: Vec::new() };
    found.visit(expr, false);
    found.faults.sort_by_key(|fault| fault.at);
    found.faults
}

struct Found<'a> {
    checked: &'a Checked,
    faults: Vec<Fault>,
}

impl Found<'_> {
    fn fault(&mut self, at: u32, message: String) {
        self.faults.push(Fault { at, message });
    }

    /// `formatted` is true within the arguments of `format`, whose lists may hold anything.
    fn visit(&mut self, expr: &Expr, formatted: bool) {
        let mut inner = formatted;
        match &expr.kind {
            Kind::List(items) if !formatted => self.alike(items.iter().map(|(item, o)| (item, *o)), true),
            Kind::Map(entries) if !formatted => {
                self.alike(entries.iter().map(|e| (&e.key, false)), false);
                self.alike(entries.iter().map(|e| (&e.value, e.optional)), false);
            }
            Kind::Call { target, args, .. } => {
                if let Some(Meaning::Function { name, .. }) = self.checked.meanings.get(&expr.id) {
                    inner |= *name == "format";
                    self.arguments(expr, name, target.as_deref(), args);
                }
            }
            _ => {}
        }
        expr.kind.children(|child| self.visit(child, inner));
    }

    /// Refuses parts whose type is not the first one's.
    fn alike<'e>(&mut self, parts: impl Iterator<Item = (&'e Expr, bool)>, once: bool) {
        let mut first: Option<Type> = None;
        for (part, optional) in parts {
            let ty = match (self.checked.ty(part), optional) {
                (Type::Optional(of), true) => (**of).clone(),
                (ty, _) => ty.clone(),
            };
            match &first {
                None => first = Some(ty),
                Some(first) if *first == ty => {}
                Some(first) => {
                    let message = format!("expected type '{first}' but found '{ty}'");
                    self.fault(part.at, message);
                    if once {
                        return;
                    }
                }
            }
        }
    }

    fn arguments(&mut self, call: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) {
        match (name, target, args) {
            ("matches", Some(_), [pattern]) | ("matches", None, [_, pattern])
                if pattern.text().is_some_and(|p| Regex::new(p).is_err()) =>
            {
                self.fault(pattern.at, "invalid matches argument".into());
            }
            ("duration", _, [arg]) if arg.text().is_some_and(|t| crate::times::duration(t).is_none()) => {
                self.fault(arg.at, "invalid duration argument".into());
            }
            ("timestamp", _, [arg]) if arg.text().is_some_and(|t| crate::times::timestamp(t).is_none()) => {
                self.fault(arg.at, "invalid timestamp argument".into());
            }
            ("format", Some(template), [list]) => {
                if let (Some(template), Kind::List(items)) = (template.text(), &list.kind)
                    && items.iter().all(|(_, optional)| !optional)
                {
                    let types: Vec<&Type> = items.iter().map(|(item, _)| self.checked.ty(item)).collect();
                    if let Err((which, message)) = crate::format::check(template, &types) {
                        let at = which.and_then(|i| items.get(i)).map_or(call.at, |(item, _)| item.at);
                        self.fault(at, message);
                    }
                }
            }
            _ => {}
        }
    }
}
