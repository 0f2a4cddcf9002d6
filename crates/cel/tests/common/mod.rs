//! Evaluates an expression and shows what came of it as one line.

use std::collections::BTreeMap;

use cel::{Bindings, Budget, Decl, Env, Value};

/// What an expression comes to with `self` of a schema (an OpenAPI schema in JSON; none for any value).
pub fn show(expression: &str, schema: &str, this: &str) -> String {
    let expression = expression.replace('␤', "\n");
    let decl = match schema {
        "" => Decl::any(),
        schema => {
            let schema: serde_json::Value = serde_json::from_str(schema).expect("a schema");
            let embedded = schema.get("x-kubernetes-embedded-resource").is_some();
            cel::decl_of_schema(&schema, embedded).expect("expressions see it")
        }
    };
    let this: serde_json::Value = serde_json::from_str(this).expect("JSON");
    let env = Env::new().variable("self", decl);
    let program = match env.compile(&expression) {
        Ok(program) => program,
        Err(errors) => {
            let text = errors.to_string();
            let first: Vec<&str> = text.lines().filter(|line| line.starts_with("ERROR")).collect();
            return format!("? {}", first.join(" "));
        }
    };
    let mut budget = Budget::default();
    let outcome = program.eval(&Bindings::new().json("self", &this), &mut budget);
    let estimate = program.cost_estimate();
    let rest = format!("{}, {}, {}..{}", program.output(), budget.spent(), estimate.min, estimate.max);
    match outcome {
        Ok(value) => format!("= {}: {rest}", shown(&value)),
        Err(error) => format!("! {error}: {rest}"),
    }
}

/// A value as text.
pub fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => format!("{u}u"),
        Value::Double(d) => d.to_string().replace("inf", "+Inf"),
        Value::String(text) => serde_json::Value::from(&**text).to_string(),
        Value::Bytes(bytes) => format!("b{:?}", String::from_utf8_lossy(bytes)),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(nanos) => format!("{nanos}ns"),
        Value::List(list) => format!("[{}]", list.iter().map(|v| shown(&v)).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let entries: BTreeMap<String, String> =
                map.entries().into_iter().map(|(key, value)| (shown(&key.value()), shown(&value))).collect();
            serde_json::to_string(&entries).unwrap_or_default()
        }
        Value::Type(name) => name.to_string(),
        Value::Optional(None) => "optional.none".into(),
        Value::Optional(Some(inner)) => format!("optional({})", shown(inner)),
        Value::Opaque(opaque) => opaque.type_name().into(),
    }
}
