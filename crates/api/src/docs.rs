//! Descriptions of types and fields, for `explain` and the OpenAPI documents.
//!
//! `docs/MODULE.docs` has one line per description: the path, a blank, a sentence. The path is `Type` or `Type.field`;
//! `*.field` describes a field of any type in any module that has none of its own (in `meta_v1.docs` only).

use std::collections::HashMap;

/// The files, by module. A module without file has no descriptions of its own.
const FILES: [(&str, &str); 1] = [("meta_v1", include_str!("../docs/meta_v1.docs"))];

/// The descriptions of the modules, parsed; made when a document is, and dropped with it.
#[derive(Debug)]
pub struct Docs(HashMap<(&'static str, &'static str), &'static str>);

impl Docs {
    /// Parses the files.
    pub fn load() -> Docs {
        let lines = FILES.iter().flat_map(|(module, text)| text.lines().map(move |line| (*module, line)));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Docs(lines.filter_map(|(module, line)| line.split_once(' ').map(|(p, d)| ((module, p), d))).collect())
    }

    /// The description of a field, or that of its name in any type.
    pub fn field(&self, module: &str, ty: &str, field: &str) -> Option<&'static str> {
        self.own(module, &format!("{ty}.{field}")).or_else(|| self.own("meta_v1", &format!("*.{field}")))
    }

    /// The description of a type.
    pub fn ty(&self, module: &str, ty: &str) -> Option<&'static str> {
        self.own(module, ty)
    }

    fn own(&self, module: &str, path: &str) -> Option<&'static str> {
        self.0.get(&(module, path) as &(&str, &str)).copied()
    }
}
