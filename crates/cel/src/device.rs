//! Selectors of devices (`resource.k8s.io`): expressions over the variable `device`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::budget::{Budget, CALL_COST_MAX};
use crate::env::Env;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::program::{Bindings, Program};
use crate::semver::Semver;
use crate::types::{Decl, DeclKind, FieldType, ObjectType, Type};
use crate::value::{Fields, Key, Lazy, Map, Value};

/// Most attributes and capacities of a device, and characters of driver, of identifiers' domains and of texts.
const ENTRIES_MAX: u64 = 32;
const DRIVER_MAX: u64 = 63;
const TEXT_MAX: u64 = 64;

/// A compiled selector.
#[derive(Debug)]
pub struct DeviceSelector(Program);

/// Why a selector is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It does not compile, or its result is no truth value.
    #[error("{0}")]
    Invalid(String),
    /// It may cost too much.
    #[error("too complex, exceeds cost limit")]
    TooComplex,
}

fn sized(kind: DeclKind, size_max: u64) -> Arc<Decl> {
    Arc::new(Decl { kind, size_max, bytes_min: 1 })
}

fn env() -> Env {
    let by_domain = |of: Type| {
        let value = sized(DeclKind::Plain(of), TEXT_MAX);
        sized(DeclKind::Map(sized(DeclKind::Map(value), ENTRIES_MAX)), ENTRIES_MAX)
    };
    let fields = [
        ("driver", sized(DeclKind::Plain(Type::String), DRIVER_MAX)),
        ("allowMultipleAllocations", sized(DeclKind::Plain(Type::Bool), 1)),
        ("attributes", by_domain(Type::Dyn)),
        ("capacity", by_domain(Type::Named("kubernetes.Quantity"))),
    ];
    let fields =
        fields.into_iter().map(|(name, decl)| (name.into(), FieldType { decl, json: name.into() })).collect();
    let object = ObjectType { name: "kubernetes.DRADevice".into(), fields };
    Env::new().with_bindings().variable("device", sized(DeclKind::Object(Arc::new(object)), 0))
}

impl DeviceSelector {
    /// Compiles a selector.
    pub fn compile(expression: &str) -> Result<DeviceSelector, SelectorError> {
        let program = env()
            .compile(expression)
            .map_err(|errors| SelectorError::Invalid(format!("compilation failed: {errors}")))?;
        match program.output() {
            Type::Bool | Type::Dyn => {}
            other => {
                let message = format!("must evaluate to bool or the unknown type, not {other}");
                return Err(SelectorError::Invalid(message));
            }
        }
        if program.cost_estimate().max > CALL_COST_MAX {
            return Err(SelectorError::TooComplex);
        }
        Ok(DeviceSelector(program))
    }

    /// Whether it selects a device of a driver, given as in a ResourceSlice: with `attributes`, `capacity` and
    /// `allowMultipleAllocations`.
    pub fn matches(&self, driver: &str, device: &Json) -> Result<bool, EvalError> {
        let attributes = Domains::of(driver, device.get("attributes"), attribute)?;
        let capacity = Domains::of(driver, device.get("capacity"), quantity)?;
        let several = device.get("allowMultipleAllocations").and_then(Json::as_bool).unwrap_or(false);
        let fields = [
            ("driver", Value::text(driver)),
            ("allowMultipleAllocations", Value::Bool(several)),
            ("attributes", Value::Map(Map::Lazy(Lazy(&attributes)))),
            ("capacity", Value::Map(Map::Lazy(Lazy(&capacity)))),
        ];
        let map = fields.into_iter().map(|(name, value)| (Key::String(name.into()), value)).collect();
        let device = Value::Map(Map::Own(Arc::new(map)));
        // The selector outlives the device's values only within this call.
        let program: &Program = &self.0;
        let value = program.eval(&Bindings::new().value("device", device), &mut Budget::default())?;
        value.as_bool().ok_or_else(|| {
            let name = value.type_name();
            EvalError::new(format!("CEL result of type {name} could not be converted to bool"))
        })
    }
}

/// What a device has, by domain; a domain it has nothing of is empty.
struct Domains {
    domains: BTreeMap<String, Arc<BTreeMap<Key, Value<'static>>>>,
}

impl Domains {
    fn of(
        driver: &str,
        all: Option<&Json>,
        read: fn(&Json) -> Result<Value<'static>, String>,
    ) -> Result<Domains, EvalError> {
        let mut domains: BTreeMap<String, BTreeMap<Key, Value<'static>>> = BTreeMap::new();
        for (name, json) in all.and_then(Json::as_object).into_iter().flatten() {
            let value = read(json).map_err(|why| EvalError::new(format!("attribute {name}: {why}")))?;
            let (domain, id) = name.split_once('/').unwrap_or((driver, name));
            domains.entry(domain.into()).or_default().insert(Key::String(id.into()), value);
        }
        Ok(Domains { domains: domains.into_iter().map(|(name, ids)| (name, Arc::new(ids))).collect() })
    }
}

impl Fields for Domains {
    fn get<'s>(&'s self, name: &str, _budget: &mut Budget) -> Result<Option<Value<'s>>, EvalError> {
        Ok(Some(Value::Map(Map::Own(self.domains.get(name).cloned().unwrap_or_default()))))
    }

    fn has(&self, name: &str, _budget: &mut Budget) -> Result<bool, EvalError> {
        Ok(self.domains.contains_key(name))
    }
}

fn attribute(json: &Json) -> Result<Value<'static>, String> {
    let one = |kind: &str, json: &Json| match (kind, json) {
        ("int" | "ints", Json::Number(n)) => n.as_i64().map(Value::Int),
        ("bool" | "bools", Json::Bool(b)) => Some(Value::Bool(*b)),
        ("string" | "strings", Json::String(text)) => Some(Value::text(text.as_str())),
        ("version" | "versions", Json::String(text)) => {
            Semver::parse(text, false).ok().map(|v| Value::Opaque(Opaque::Semver(Arc::new(v))))
        }
        _ => None,
    };
    let (kind, value) = json
        .as_object()
        .and_then(|map| map.iter().find(|(_, value)| !value.is_null()))
        .ok_or("unsupported attribute value")?;
    let wrong = || match kind.starts_with("version") {
        true => format!("parse semantic version: {value}"),
        false => "unsupported attribute value".to_string(),
    };
    match value {
        Json::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(|item| one(kind, item)).collect();
            items.map(Value::list).ok_or_else(wrong)
        }
        value => one(kind, value).ok_or_else(wrong),
    }
}

fn quantity(json: &Json) -> Result<Value<'static>, String> {
    let text = json.get("value").and_then(Json::as_str).ok_or("a capacity has a value")?;
    text.parse()
        .map(|q| Value::Opaque(Opaque::Quantity(q)))
        .map_err(|e: base::quantity::QuantityError| e.to_string())
}
