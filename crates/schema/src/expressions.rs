//! `x-kubernetes-validations`: rules of a CustomResourceDefinition's schema, compiled into a tree of the schema's
//! shape and evaluated along an object and what it was before.

mod evaluate;
mod limits;

pub use limits::check;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

/// Deepest schema that is looked into.
const DEPTH_MAX: usize = 64;

/// The rules of a schema and of the schemas below it; none where there are none.
#[derive(Debug)]
pub struct RuleTree {
    /// `object`, `string` …
    ty: String,
    rules: Vec<Rule>,
    properties: BTreeMap<String, RuleTree>,
    additional: Option<Box<RuleTree>>,
    items: Option<Box<RuleTree>>,
    /// Names of the properties by which items of old and new are matched.
    keys: Option<Vec<String>>,
    all_of: Vec<RuleTree>,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    source: String,
    message: String,
    reason: Option<String>,
    /// Below the value the rule is of.
    field: Option<String>,
    optional_old: bool,
    /// What failed to compile says why.
    program: Result<cel::Program, String>,
    words: Option<Result<cel::Program, String>>,
}

pub(crate) fn text<'a>(from: &'a Value, key: &str) -> &'a str {
    from.get(key).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(from: &'a Value, key: &str) -> &'a [Value] {
    from.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn flag(from: &Value, key: &str) -> bool {
    from.get(key) == Some(&Value::Bool(true))
}

fn schema_at<'a>(from: &'a Value, key: &str) -> Option<&'a Value> {
    from.get(key).filter(|inner| inner.is_object())
}

/// The rules of a definition, compiled when the first object is checked.
#[derive(Debug)]
pub struct Lazy {
    openapi: Value,
    tree: OnceLock<Option<RuleTree>>,
}

impl Lazy {
    /// The rules of a schema; `None` if it has none.
    pub fn new(openapi: &Value) -> Option<Lazy> {
        has_rules(openapi, 0).then(|| Lazy { openapi: openapi.clone(), tree: OnceLock::new() })
    }

    /// The compiled rules.
    pub fn tree(&self) -> Option<&RuleTree> {
        self.tree.get_or_init(|| RuleTree::compile(&self.openapi)).as_ref()
    }
}

fn has_rules(openapi: &Value, depth: usize) -> bool {
    let below = |inner: &Value| depth < DEPTH_MAX && has_rules(inner, depth + 1);
    !list(openapi, "x-kubernetes-validations").is_empty()
        || ["items", "additionalProperties"].iter().any(|key| schema_at(openapi, key).is_some_and(below))
        || openapi
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .any(|(_, inner)| below(inner))
        || list(openapi, "allOf").iter().any(below)
}

impl RuleTree {
    /// The rules of a definition's schema; `None` if it has none.
    pub fn compile(openapi: &Value) -> Option<RuleTree> {
        tree(openapi, openapi, true, 0)
    }
}

/// The tree of a schema. `shape` is the schema with the types, which differs from the one with the rules below `allOf`.
fn tree(openapi: &Value, shape: &Value, root: bool, depth: usize) -> Option<RuleTree> {
    if depth > DEPTH_MAX {
        return None;
    }
    let below = |openapi: &Value, shape: &Value| tree(openapi, shape, false, depth + 1);
    let part = |key: &str| {
        let inner = schema_at(openapi, key)?;
        below(inner, schema_at(shape, key).unwrap_or(inner)).map(Box::new)
    };
    let resource = root || flag(shape, "x-kubernetes-embedded-resource");
    let properties = openapi.get("properties").and_then(Value::as_object);
    let shapes = shape.get("properties").and_then(Value::as_object);
    let list_type = text(shape, "x-kubernetes-list-type");
    let names = |from: &Value| {
        list(from, "x-kubernetes-list-map-keys").iter().filter_map(|k| k.as_str().map(String::from)).collect()
    };
    let tree = RuleTree {
        ty: text(shape, "type").to_string(),
        rules: compile(list(openapi, "x-kubernetes-validations"), shape, resource),
        properties: properties
            .into_iter()
            .flatten()
            .filter_map(|(name, inner)| {
                let shape = shapes.and_then(|all| all.get(name)).unwrap_or(inner);
                Some((name.clone(), below(inner, shape)?))
            })
            .collect(),
        additional: part("additionalProperties"),
        items: part("items"),
        keys: (list_type == "map").then(|| names(shape)),
        all_of: list(openapi, "allOf").iter().filter_map(|one| tree(one, shape, root, depth + 1)).collect(),
    };
    let empty = tree.rules.is_empty()
        && tree.properties.is_empty()
        && tree.additional.is_none()
        && tree.items.is_none()
        && tree.all_of.is_empty();
    (!empty).then_some(tree)
}

/// Compiles the rules of one schema.
fn compile(rules: &[Value], shape: &Value, resource: bool) -> Vec<Rule> {
    if rules.is_empty() {
        return Vec::new();
    }
    let decl = cel::decl_of_schema(shape, resource);
    rules
        .iter()
        .filter(|rule| !text(rule, "rule").trim().is_empty())
        .map(|rule| one(rule, decl.as_ref()))
        .collect()
}

/// The environment of a rule.
fn env(decl: &Arc<cel::Decl>, optional_old: bool) -> cel::Env {
    let env = cel::Env::new().variable("self", decl.clone());
    match optional_old {
        true => env.optional("oldSelf", decl.clone()),
        false => env.variable("oldSelf", decl.clone()),
    }
}

fn program(env: &cel::Env, source: &str, output: &cel::Type, words: &str) -> Result<cel::Program, String> {
    let program = env.compile(source).map_err(|errors| format!("{words}compilation failed: {errors}"))?;
    if program.output() == output {
        return Ok(program);
    }
    Err(match output {
        cel::Type::Bool => "cel expression must evaluate to a bool".to_string(),
        _ => "messageExpression must evaluate to a string".to_string(),
    })
}

fn one(rule: &Value, decl: Option<&Arc<cel::Decl>>) -> Rule {
    let optional_old = flag(rule, "optionalOldSelf");
    let source = text(rule, "rule");
    let (own, words) = match decl {
        Some(decl) => {
            let env = env(decl, optional_old);
            let own = program(&env, source, &cel::Type::Bool, "");
            let message = Some(text(rule, "messageExpression")).filter(|m| !m.is_empty() && own.is_ok());
            (own, message.map(|m| program(&env, m, &cel::Type::String, "messageExpression ")))
        }
        None => (Err("unable to convert structural schema to CEL declarations".to_string()), None),
    };
    Rule {
        source: source.trim().to_string(),
        message: text(rule, "message").trim().to_string(),
        reason: rule.get("reason").and_then(Value::as_str).map(String::from),
        field: Some(text(rule, "fieldPath")).filter(|path| !path.is_empty()).map(normalized),
        optional_old,
        program: own,
        words,
    }
}

/// `.a['b']` as it stands behind a path that has a name already: `a.b`.
fn normalized(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        let name;
        if let Some(quoted) = rest.strip_prefix("['") {
            let (inner, after) = quoted.split_once("']").unwrap_or((quoted, ""));
            (name, rest) = (inner, after);
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            (name, rest) = after.split_at(end);
            if name.is_empty() {
                break;
            }
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(name);
    }
    out
}
