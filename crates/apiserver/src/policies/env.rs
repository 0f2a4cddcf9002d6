//! What expressions of admission may use: the variables with their types.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::{Decl, DeclKind, Env, FieldType, ObjectType, Program, REQUEST_BYTES_MAX, Type};

/// Variables that are not always there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Extras {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// What mutations are made of.
    pub patches: bool,
}

fn text() -> Arc<Decl> {
    Decl::plain(Type::String)
}

fn list(of: Type) -> Arc<Decl> {
    Decl::plain(Type::list(of))
}

fn request() -> Arc<Decl> {
    let kind = |last: &'static str, name: &str| {
        Decl::object(name, [("group", text()), ("version", text()), (last, text())])
    };
    let (gvk, gvr) =
        (kind("kind", "kubernetes.GroupVersionKind"), kind("resource", "kubernetes.GroupVersionResource"));
    let extra = Decl::plain(Type::map(Type::String, Type::list(Type::String)));
    let user = Decl::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", list(Type::String)), ("extra", extra)],
    );
    Decl::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", gvk.clone()),
            ("resource", gvr.clone()),
            ("subResource", text()),
            ("requestKind", gvk),
            ("requestResource", gvr),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Decl::plain(Type::Bool)),
            ("options", Decl::any()),
        ],
    )
}

fn namespace() -> Arc<Decl> {
    let (time, number) = (Decl::plain(Type::Timestamp), Decl::plain(Type::Int));
    let texts = Decl::plain(Type::map(Type::String, Type::String));
    let condition = Decl::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time.clone()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let conditions = Arc::new(Decl {
        kind: DeclKind::List(condition, cel::ListKind::Atomic),
        size_max: REQUEST_BYTES_MAX,
        bytes_min: 2,
    });
    let metadata = Decl::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", texts.clone()),
            ("annotations", texts),
            ("UID", text()),
            ("creationTimestamp", time.clone()),
            ("deletionGracePeriodSeconds", number.clone()),
            ("deletionTimestamp", time),
            ("generation", number),
            ("resourceVersion", text()),
            ("finalizers", list(Type::String)),
        ],
    );
    let spec = Decl::object("kubernetes.NamespaceSpec", [("finalizers", list(Type::String))]);
    let status = Decl::object("kubernetes.NamespaceStatus", [("conditions", conditions), ("phase", text())]);
    Decl::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}

/// The type of the entries that a JSON patch is made of.
pub fn json_patch() -> Arc<ObjectType> {
    static TYPE: LazyLock<Arc<ObjectType>> = LazyLock::new(|| {
        let fields = [("op", text()), ("path", text()), ("from", text()), ("value", Decl::any())];
        let field =
            |(name, decl): (&str, Arc<Decl>)| (Arc::from(name), FieldType { decl, json: Arc::from(name) });
        Arc::new(ObjectType { name: "JSONPatch".into(), fields: fields.into_iter().map(field).collect() })
    });
    TYPE.clone()
}

/// The type of what ApplyConfiguration expressions make.
pub fn apply_configuration() -> Type {
    Type::Object(Arc::new(ObjectType { name: "Object".into(), fields: BTreeMap::new() }))
}

/// An environment; `object` and `params` have these declarations, or may be anything.
pub fn env(extras: Extras, object: Option<&Arc<Decl>>, params: Option<&Arc<Decl>>) -> Env {
    static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(request);
    static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(namespace);
    let any = Decl::any();
    let object = object.unwrap_or(&any);
    let mut env = Env::new()
        .variable("object", object.clone())
        .variable("oldObject", object.clone())
        .variable("namespaceObject", NAMESPACE.clone())
        .variable("request", REQUEST.clone());
    if extras.params {
        env = env.variable("params", params.unwrap_or(&any).clone());
    }
    if extras.authorizer {
        let named = |name| Decl::plain(Type::Named(name));
        env = env
            .variable("authorizer", named("kubernetes.authorization.Authorizer"))
            .variable("authorizer.requestResource", named("kubernetes.authorization.ResourceCheck"));
    }
    match extras.patches {
        true => env.object_type(json_patch()).with_patches(),
        false => env,
    }
}

/// The declaration of `variables` with these types.
pub fn variables(known: &[(String, Type)]) -> Arc<Decl> {
    let field = |(name, of): &(String, Type)| {
        let name: Arc<str> = Arc::from(name.as_str());
        (name.clone(), FieldType { decl: Decl::plain(of.clone()), json: name })
    };
    let object =
        ObjectType { name: "kubernetes.variables".into(), fields: known.iter().map(field).collect() };
    let kind = DeclKind::Object(Arc::new(object));
    Arc::new(Decl { kind, size_max: REQUEST_BYTES_MAX, bytes_min: 2 })
}

/// Compiles an expression that must be of one of these types; of any, if there are none.
pub fn compile(env: &Env, expression: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = env.compile(expression).map_err(|errors| format!("compilation failed: {errors}"))?;
    if wanted.is_empty() || wanted.contains(program.output()) {
        return Ok(program);
    }
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let got = program.output();
    Err(match names.as_slice() {
        [one] => format!("must evaluate to {one} but got {got}"),
        _ => format!("must evaluate to one of [{}] but got {got}", names.join(" ")),
    })
}
