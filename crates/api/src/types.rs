//! Built-in types by name, compiled from the fact files on first use and kept.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use schema::facts::parse_block;
use schema::{Object, ObjectRef, Schema, Type};

struct Module {
    name: &'static str,
    text: &'static str,
    blocks: OnceLock<HashMap<&'static str, Block>>,
}

/// A type's text and, once it was asked for, the type. `None` in the cell: the text is malformed.
struct Block {
    text: &'static str,
    compiled: OnceLock<Option<Arc<Object>>>,
}

impl Module {
    const fn new(name: &'static str, text: &'static str) -> Module {
        Module { name, text, blocks: OnceLock::new() }
    }

    fn blocks(&self) -> &HashMap<&'static str, Block> {
        self.blocks.get_or_init(|| {
            let texts = self.text.split("\n\n").map(str::trim_end).filter(|b| !b.starts_with('#'));
            let block = |text: &'static str| Block { text, compiled: OnceLock::new() };
            texts.map(|text| (text.split([' ', '\n']).next().unwrap_or(""), block(text))).collect()
        })
    }
}

static MODULES: [Module; 26] = [
    Module::new("admission_v1", include_str!("../facts/admission_v1.facts")),
    Module::new("admissionregistration_v1", include_str!("../facts/admissionregistration_v1.facts")),
    Module::new("apidiscovery_v2", include_str!("../facts/apidiscovery_v2.facts")),
    Module::new("apiextensions_v1", include_str!("../facts/apiextensions_v1.facts")),
    Module::new("apiregistration_v1", include_str!("../facts/apiregistration_v1.facts")),
    Module::new("apps_v1", include_str!("../facts/apps_v1.facts")),
    Module::new("authentication_v1", include_str!("../facts/authentication_v1.facts")),
    Module::new("authorization_v1", include_str!("../facts/authorization_v1.facts")),
    Module::new("autoscaling_v1", include_str!("../facts/autoscaling_v1.facts")),
    Module::new("autoscaling_v2", include_str!("../facts/autoscaling_v2.facts")),
    Module::new("batch_v1", include_str!("../facts/batch_v1.facts")),
    Module::new("certificates_v1", include_str!("../facts/certificates_v1.facts")),
    Module::new("coordination_v1", include_str!("../facts/coordination_v1.facts")),
    Module::new("core_v1", include_str!("../facts/core_v1.facts")),
    Module::new("discovery_v1", include_str!("../facts/discovery_v1.facts")),
    Module::new("events_v1", include_str!("../facts/events_v1.facts")),
    Module::new("flowcontrol_v1", include_str!("../facts/flowcontrol_v1.facts")),
    Module::new("meta_v1", include_str!("../facts/meta_v1.facts")),
    Module::new("metrics_v1beta1", include_str!("../facts/metrics_v1beta1.facts")),
    Module::new("networking_v1", include_str!("../facts/networking_v1.facts")),
    Module::new("node_v1", include_str!("../facts/node_v1.facts")),
    Module::new("policy_v1", include_str!("../facts/policy_v1.facts")),
    Module::new("rbac_v1", include_str!("../facts/rbac_v1.facts")),
    Module::new("resource_v1", include_str!("../facts/resource_v1.facts")),
    Module::new("scheduling_v1", include_str!("../facts/scheduling_v1.facts")),
    Module::new("storage_v1", include_str!("../facts/storage_v1.facts")),
];

/// The object type of this full name, such as `core_v1.PodSpec`.
pub fn object(name: &str) -> Option<Arc<Object>> {
    let (module, ty) = name.split_once('.')?;
    let module = MODULES.iter().find(|m| m.name == module)?;
    let block = module.blocks().get(ty)?;
    let compile = || {
        let parsed = parse_block(module.name, block.text, object);
        let mut parsed = parsed.inspect_err(|e| debug_assert!(false, "{e}")).ok()?;
        parsed.hook = crate::defaults::hook(name);
        Some(Arc::new(parsed))
    };
    // Types inline others, never themselves, so the cells are initialized without a cycle.
    block.compiled.get_or_init(compile).clone()
}

/// The schema of a built-in type by full name, such as `core_v1.Pod`.
pub fn schema_of(name: &'static str) -> Option<Arc<Schema>> {
    object(name).map(|o| Arc::new(Schema::new(Type::Object(ObjectRef::of(o)))))
}

pub(crate) fn schema_of_owned(name: &str) -> Arc<Schema> {
    Arc::new(Schema::new(Type::Object(ObjectRef::lazy(name.to_string(), object))))
}

/// Every module with its type names, for tests and documents that cover all.
pub fn all() -> Vec<String> {
    let mut names: Vec<String> = MODULES
        .iter()
        .flat_map(|m| m.blocks().keys().map(|t| format!("{}.{t}", m.name)).collect::<Vec<_>>())
        .collect();
    names.sort();
    names
}
