//! What keeps the rules of a definition from being accepted: that they do not compile, that they may cost too much.

use cel::REQUEST_BYTES_MAX;
use serde_json::Value;

use super::{DEPTH_MAX, env, flag, list, program, schema_at, text};
use crate::error::FieldError;

/// The most one rule may cost by estimate, and all rules of a schema together.
const RULE_COST_MAX: u64 = 10_000_000;
const SCHEMA_COST_MAX: u64 = 100_000_000;
/// How many of the costliest rules are named.
const NAMED_MAX: usize = 4;

/// What is wrong with the rules of the schema at `path`.
pub fn check(openapi: &Value, path: &str) -> Vec<FieldError> {
    let mut checker = Checker { out: Vec::new(), total: 0, costly: Vec::new() };
    checker.visit(openapi, path, &Scope { root: true, times: Some(1), unmatched: None }, 0);
    let Checker { mut out, total, mut costly } = checker;
    if total > SCHEMA_COST_MAX {
        costly.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (place, _) in costly.into_iter().take(NAMED_MAX) {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            out.push(FieldError::forbidden(place, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        out.push(FieldError::forbidden(path, too_costly(what, total, SCHEMA_COST_MAX)));
    }
    out
}

/// Where in an object a schema stands.
#[derive(Clone)]
struct Scope {
    root: bool,
    /// How often the value may be there at most; `None` without bound.
    times: Option<u64>,
    /// The schema whose items or values cannot be matched with those before.
    unmatched: Option<String>,
}

struct Checker {
    out: Vec<FieldError>,
    total: u64,
    costly: Vec<(String, u64)>,
}

fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_string()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// How much more often the parts of a value may be there than itself.
fn factor(openapi: &Value) -> Option<u64> {
    let limit = |key: &str| openapi.get(key).and_then(Value::as_i64).map(|n| u64::try_from(n).unwrap_or(0));
    match text(openapi, "type") {
        "object" if openapi.get("additionalProperties").is_some_and(|a| !a.is_null()) => {
            limit("maxProperties")
        }
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

impl Checker {
    fn visit(&mut self, openapi: &Value, path: &str, scope: &Scope, depth: usize) {
        if depth > DEPTH_MAX {
            return;
        }
        let times = scope.times.zip(factor(openapi)).map(|(a, b)| a.saturating_mul(b));
        let below = Scope { root: false, times, unmatched: scope.unmatched.clone() };
        if let Some(inner) = schema_at(openapi, "additionalProperties") {
            self.visit(inner, &format!("{path}.additionalProperties"), &below, depth + 1);
        }
        for (name, inner) in openapi.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.visit(inner, &format!("{path}.properties[{name}]"), &below, depth + 1);
        }
        if let Some(inner) = schema_at(openapi, "items") {
            let mut below = below;
            if text(openapi, "x-kubernetes-list-type") != "map" && below.unmatched.is_none() {
                below.unmatched = Some(path.to_string());
            }
            self.visit(inner, &format!("{path}.items"), &below, depth + 1);
        }
        self.rules(openapi, path, scope);
    }

    fn rules(&mut self, openapi: &Value, path: &str, scope: &Scope) {
        let rules = list(openapi, "x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let resource = scope.root || flag(openapi, "x-kubernetes-embedded-resource");
        let Some(decl) = cel::decl_of_schema(openapi, resource) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                       to convert structural schema to CEL declarations";
            self.out.push(FieldError::internal(format!("{path}.x-kubernetes-validations"), why));
            return;
        };
        let times = scope.times.unwrap_or(REQUEST_BYTES_MAX / (decl.bytes_min + 1));
        for (i, rule) in rules.iter().enumerate() {
            let at = |field: &str| format!("{path}.x-kubernetes-validations[{i}].{field}");
            let optional = flag(rule, "optionalOldSelf");
            let env = env(&decl, optional);
            let own = match program(&env, text(rule, "rule"), &cel::Type::Bool, "") {
                Ok(own) => own,
                Err(why) => {
                    self.out.push(FieldError::invalid(at("rule"), rule.clone(), why));
                    continue;
                }
            };
            let cost = own.cost_estimate().max.saturating_mul(times);
            self.cost(at("rule"), "estimated rule cost", cost);
            let message = text(rule, "messageExpression");
            if !message.is_empty() {
                match program(&env, message, &cel::Type::String, "messageExpression ") {
                    Ok(words) => {
                        let cost = words.cost_estimate().max;
                        self.cost(at("messageExpression"), "estimated messageExpression cost", cost);
                    }
                    Err(why) => {
                        self.out.push(FieldError::invalid(at("messageExpression"), rule.clone(), why))
                    }
                }
            }
            match (own.uses("oldSelf"), &scope.unmatched) {
                (true, Some(unmatched)) => {
                    let why = format!(
                        "oldSelf cannot be used on the uncorrelatable portion of the schema within {unmatched}"
                    );
                    self.out.push(FieldError::invalid(at("rule"), text(rule, "rule"), why));
                }
                (false, _) if rule.get("optionalOldSelf").is_some_and(Value::is_boolean) => {
                    let why = "may not be set if oldSelf is not used in rule";
                    self.out.push(FieldError::invalid(at("optionalOldSelf"), optional, why));
                }
                _ => {}
            }
        }
    }

    fn cost(&mut self, place: String, what: &str, cost: u64) {
        if cost > RULE_COST_MAX {
            self.out.push(FieldError::forbidden(&place, too_costly(what, cost, RULE_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_COST_MAX / 100 {
            self.costly.push((place, cost));
        }
    }
}
