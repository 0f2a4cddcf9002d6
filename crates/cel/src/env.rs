//! The environment of expressions: which variables and object types they know.

use std::sync::Arc;

use crate::error::CompileErrors;
use crate::program::Program;
use crate::types::{Decl, ObjectType, Type};

/// A declared variable.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name; may have dots, such as `authorizer.requestResource`.
    pub name: Arc<str>,
    /// What it holds.
    pub decl: Arc<Decl>,
    /// Whether it may be missing, so that expressions see an optional value.
    pub optional: bool,
}

impl Variable {
    /// The type that expressions see.
    pub(crate) fn ty(&self) -> Type {
        if self.optional { Type::optional(self.decl.ty()) } else { self.decl.ty() }
    }
}

/// What expressions may use. All libraries of Kubernetes are there; variables are declared by the caller.
#[derive(Clone, Debug, Default)]
pub struct Env {
    pub(crate) variables: Vec<Variable>,
    objects: Vec<Arc<ObjectType>>,
    patches: bool,
    pub(crate) bindings: bool,
}

impl Env {
    /// No variables.
    pub fn new() -> Env {
        Env::default()
    }

    /// Declares a variable.
    pub fn variable(mut self, name: &str, decl: Arc<Decl>) -> Env {
        self.variables.push(Variable { name: name.into(), decl, optional: false });
        self
    }

    /// Declares a variable that may be missing.
    pub fn optional(mut self, name: &str, decl: Arc<Decl>) -> Env {
        self.variables.push(Variable { name: name.into(), decl, optional: true });
        self
    }

    /// Declares an object type that expressions may make: `Name{field: value}`.
    pub fn object_type(mut self, object: Arc<ObjectType>) -> Env {
        self.objects.push(object);
        self
    }

    /// Allows what mutating policies make: `Object{…}`, `Object.spec{…}` with any fields, and the function
    /// `jsonpatch.escapeKey`. (`JSONPatch` is to be declared with [`Env::object_type`].)
    pub fn with_patches(mut self) -> Env {
        self.patches = true;
        self
    }

    /// Allows the macro `cel.bind(name, value, expression)`, as selectors of devices do.
    pub fn with_bindings(mut self) -> Env {
        self.bindings = true;
        self
    }

    /// Reads, checks and plans an expression.
    pub fn compile(&self, source: &str) -> Result<Program, CompileErrors> {
        Program::compile(self, source)
    }

    /// Whether a declared function is in the environment.
    pub(crate) fn has(&self, function: &str) -> bool {
        self.patches || function != "jsonpatch.escapeKey"
    }

    /// A type to make objects of, and whether any field will do.
    pub(crate) fn object(&self, name: &Arc<str>) -> Option<(Arc<ObjectType>, bool)> {
        if let Some(object) = self.objects.iter().find(|o| o.name == *name) {
            return Some((object.clone(), false));
        }
        let dynamic = self.patches && (**name == *"Object" || name.starts_with("Object."));
        dynamic.then(|| (Arc::new(ObjectType { name: name.clone(), fields: Default::default() }), true))
    }
}
