//! Descriptions of types and fields, for `explain` and the OpenAPI documents.
//!
//! `docs/MODULE.docs` is a table of blocks. A line at the margin is a type, a blank and a sentence; the indented lines
//! below it are its fields, each with a blank and a sentence. `Type = Other` gives a type the fields of another one of
//! the module where it has none of its own (for what is inlined). Below `*` are fields of any type of the module, and
//! in `meta_v1.docs` of any module. Lists need no line.

use std::collections::HashMap;

macro_rules! files {
    ($($module:literal)*) => { [$(($module, include_str!(concat!("../docs/", $module, ".docs")))),*] };
}

/// The files, by module.
static FILES: &[(&str, &str)] = &files![
    "admission_v1" "admissionregistration_v1" "apidiscovery_v2" "apiextensions_v1" "apiregistration_v1"
    "apps_v1" "authentication_v1" "authorization_v1" "autoscaling_v1" "autoscaling_v2"
    "batch_v1" "certificates_v1" "coordination_v1" "core_v1" "discovery_v1"
    "events_v1" "flowcontrol_v1" "meta_v1" "metrics_v1beta1" "networking_v1"
    "node_v1" "policy_v1" "rbac_v1" "resource_v1" "scheduling_v1"
    "storage_v1"
];

/// The descriptions of one module by type and field; a type's own has no field.
#[derive(Debug, Default)]
struct Table {
    lines: HashMap<(&'static str, &'static str), &'static str>,
    like: HashMap<&'static str, &'static str>,
}

impl Table {
    fn parse(text: &'static str) -> Table {
        let mut table = Table::default();
        let mut ty = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let indented = line.starts_with(' ');
            let (name, words) = line.trim_start().split_once(' ').unwrap_or((line.trim_start(), ""));
            if indented {
                table.lines.insert((ty, name), words);
                continue;
            }
            ty = name;
            match words.strip_prefix("= ") {
                Some(other) => drop(table.like.insert(ty, other)),
                None if words.is_empty() => {}
                None => drop(table.lines.insert((ty, ""), words)),
            }
        }
        table
    }

    fn get(&self, ty: &str, field: &str) -> Option<&'static str> {
        let own = |ty: &str| self.lines.get(&(ty, field) as &(&str, &str)).copied();
        let like = || self.like.get(ty).and_then(|other| own(other));
        own(ty).or_else(like).or_else(|| own("*").filter(|_| !field.is_empty()))
    }
}

/// The descriptions of the modules, parsed; made when a document is, and dropped with it.
#[derive(Debug)]
pub struct Docs(HashMap<&'static str, Table>);

impl Docs {
    /// Parses the files.
    pub fn load() -> Docs {
        Docs(FILES.iter().map(|(module, text)| (*module, Table::parse(text))).collect())
    }

    /// The description of a field, or that of its name in any type.
    pub fn field(&self, module: &str, ty: &str, field: &str) -> Option<&'static str> {
        self.get(module, ty, field).or_else(|| self.get("meta_v1", "*", field))
    }

    /// The description of a type; lists are described by what they list.
    pub fn ty(&self, module: &str, ty: &str) -> Option<String> {
        let list = || ty.strip_suffix("List").map(|item| format!("{item}List is a list of {item} objects."));
        self.get(module, ty, "").map(str::to_string).or_else(list)
    }

    /// Everything the files describe: module, type (`*` for any) and field (empty for the type itself).
    pub fn paths(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> + '_ {
        self.0.iter().flat_map(|(m, t)| t.lines.keys().map(|(ty, field)| (*m, *ty, *field)))
    }

    fn get(&self, module: &str, ty: &str, field: &str) -> Option<&'static str> {
        self.0.get(module).and_then(|table| table.get(ty, field))
    }
}
