//! Reads the compact fact files that describe built-in types.
//!
//! A file is a module such as `core_v1`; blocks are separated by empty lines; a block is a type:
//!
//! ```text
//! Volume
//!   name 1 string keep required
//!   ~ 2 VolumeSource
//! ```
//!
//! The head line is the type's name and its flags (`object`: has apiVersion and kind; `atomic`). A field line is
//! name, protobuf tag (0: none), type, flags. `~` inlines another type, nested in protobuf under the tag.
//! Types: `bool int32 int64 float string bytes quantity intorstr time microtime duration raw any`, `[]T`, `{}T`
//! (map), `[]=T` (list in a message of its own), `schemaorbool schemaorarray schemaorstrings`, or the name of a
//! type, with its module when that differs (`meta_v1.ObjectMeta`). `*` in front: absence differs from zero.
//! Flags: `keep` (zero is written), `omitzero`, `required`, `nullable`, `immutable`, `list=atomic|set|KEY,KEY`,
//! `map=atomic|granular`, `patch=merge,retainKeys`, `key=KEY`, `enum=A|B` (`_` is a blank;
//! of a list's items), `default=JSON`, `minimum=N`, `maximum=N`,
//! `pattern=RE` (no blanks).

use std::sync::Arc;

use serde_json::Value;

use crate::types::{Either, Emit, Field, ListType, Object, ObjectRef, Resolver, Schema, Text, Type};

/// What is wrong in a facts file.
#[derive(Debug, thiserror::Error)]
#[error("facts: {type_name}: line `{line}`: {what}")]
pub struct FactsError {
    /// The type's name.
    pub type_name: String,
    /// The offending line.
    pub line: String,
    /// What is wrong.
    pub what: &'static str,
}

/// Parses one block of `module`.
pub fn parse_block(
    module: &'static str,
    block: &'static str,
    resolver: Resolver,
) -> Result<Object, FactsError> {
    let mut lines = block.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let head = lines.next().unwrap_or("");
    let mut words = head.split(' ');
    let name = words.next().unwrap_or("");
    let fail = |line: &str, what| FactsError { type_name: name.to_string(), line: line.to_string(), what };
    let (mut atomic, mut root) = (false, false);
    for flag in words {
        match flag {
            "atomic" => atomic = true,
            "object" => root = true,
            _ => return Err(fail(head, "unknown flag")),
        }
    }
    let (mut fields, mut inline) = (Vec::new(), Vec::new());
    for line in lines {
        let mut words = line.trim_start().split(' ');
        let (Some(field), Some(tag), Some(ty)) = (words.next(), words.next(), words.next()) else {
            return Err(fail(line, "wants name, tag, type"));
        };
        let tag: u32 = tag.parse().map_err(|_| fail(line, "tag is no number"))?;
        let (pointer, ty) = ty.strip_prefix('*').map_or((false, ty), |t| (true, t));
        if field == "~" {
            let inner = resolver(&full_name(module, ty)).ok_or_else(|| fail(line, "unknown type"))?;
            fields.extend(inner.fields.iter().cloned());
            inline.push((tag, inner));
            continue;
        }
        let mut schema = parse_type(module, ty, resolver);
        let (mut emit, mut required) = (Emit::OmitEmpty, false);
        for flag in words {
            match flag {
                "keep" => emit = Emit::Keep,
                "omitzero" => emit = Emit::OmitZero,
                "required" => required = true,
                _ => apply_flag(&mut schema, flag).map_err(|what| fail(line, what))?,
            }
        }
        let owner = Text::Borrowed(name);
        fields.push(Field { name: Text::Borrowed(field), tag, pointer, emit, required, owner, schema });
    }
    let mut object = Object::new(Text::Borrowed(name), Text::Borrowed(module), fields, inline);
    (object.atomic, object.root) = (atomic, root);
    Ok(object)
}

fn full_name(module: &str, name: &'static str) -> Text {
    if name.contains('.') { Text::Borrowed(name) } else { Text::Owned(format!("{module}.{name}")) }
}

/// Parses a type expression such as `[]core_v1.Container`.
pub fn parse_type(module: &str, text: &'static str, resolver: Resolver) -> Schema {
    if let Some(item) = text.strip_prefix("[]=") {
        return Schema::new(Type::WrappedStrings(Arc::new(parse_type(module, item, resolver))));
    }
    if let Some(item) = text.strip_prefix("[]") {
        return Schema::new(Type::List(Arc::new(parse_type(module, item, resolver))));
    }
    if let Some(item) = text.strip_prefix("{}") {
        return Schema::new(Type::Map(Arc::new(parse_type(module, item, resolver))));
    }
    let props = || ObjectRef::lazy("apiextensions_v1.JSONSchemaProps", resolver);
    Schema::new(match text {
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "float" => Type::Float,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "quantity" => Type::Quantity,
        "intorstr" => Type::IntOrString,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "duration" => Type::Duration,
        "raw" => Type::Raw,
        "any" => Type::Any,
        "schemaorbool" => Type::Either(Either::Bool, props()),
        "schemaorarray" => Type::Either(Either::Schemas, props()),
        "schemaorstrings" => Type::Either(Either::Strings, props()),
        name => Type::Object(ObjectRef::lazy(full_name(module, name), resolver)),
    })
}

fn apply_flag(schema: &mut Schema, flag: &'static str) -> Result<(), &'static str> {
    let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
    let number = || value.parse::<f64>().map_err(|_| "no number");
    let count = || value.parse::<u64>().map_err(|_| "no number");
    match key {
        "nullable" => schema.nullable = true,
        "immutable" => schema.rules_mut().immutable = true,
        "list" => {
            schema.list = match value {
                "atomic" => ListType::Atomic,
                "set" => ListType::Set,
                keys => ListType::Map(keys.split(',').map(Text::Borrowed).collect()),
            }
        }
        "map" => {
            schema.atomic = value == "atomic";
            schema.granular = value == "granular";
        }
        "patch" => {
            for word in value.split(',') {
                match word {
                    "merge" => schema.patch.merge = true,
                    "retainKeys" => schema.patch.retain_keys = true,
                    "replace" => schema.patch.replace = true,
                    _ => return Err("unknown patch strategy"),
                }
            }
        }
        "key" => schema.patch.key = Some(Text::Borrowed(value)),
        "enum" => {
            let values = value.split('|').map(|v| Value::String(v.replace('_', " "))).collect();
            match &mut schema.ty {
                Type::List(item) => Arc::make_mut(item).rules_mut().enumeration = values,
                _ => schema.rules_mut().enumeration = values,
            }
        }
        "default" => {
            let parsed = serde_json::from_str(value).map_err(|_| "default is no JSON")?;
            schema.rules_mut().default = Some(parsed);
        }
        "minimum" => schema.rules_mut().minimum = Some(number()?),
        "maximum" => schema.rules_mut().maximum = Some(number()?),
        "minLength" => schema.rules_mut().min_length = Some(count()?),
        "maxLength" => schema.rules_mut().max_length = Some(count()?),
        "minItems" => schema.rules_mut().min_items = Some(count()?),
        "maxItems" => schema.rules_mut().max_items = Some(count()?),
        "pattern" => schema.rules_mut().pattern = Some(Text::Borrowed(value)),
        _ => return Err("unknown flag"),
    }
    Ok(())
}
