//! What is fuzzed: a name, seeds, and a function that must come to an end with every input.

mod changes;
mod expressions;
mod files;
mod live;
mod objects;
mod streams;
mod texts;

/// Takes one input. It panics when something holds that must not.
pub type Run = Box<dyn FnMut(&[u8])>;

/// One target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub what: &'static str,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes what is needed once.
    pub start: fn() -> Run,
}

/// All targets.
pub const ALL: &[Target] = &[
    objects::JSON,
    objects::OBJECT,
    texts::TEXT,
    expressions::EXPRESSION,
    changes::PATCH,
    changes::APPLY,
    changes::CUSTOM,
    files::LAYER,
    files::ARCHIVE,
    files::KUBECONFIG,
    files::CERTIFICATE,
    live::REQUEST,
    live::DNS,
    live::RESOLVER,
    live::INGRESS,
    live::ROUTES,
    files::REGISTRY,
    streams::WEBSOCKET,
    streams::SPDY,
    streams::WATCH,
    streams::RECORD,
];

/// The target of a name.
pub fn find(name: &str) -> Result<&'static Target, String> {
    ALL.iter().find(|target| target.name == name).ok_or_else(|| format!("there is no target {name}"))
}

/// The named targets; all for no name.
pub fn choose(names: &[String]) -> Result<Vec<&'static Target>, String> {
    match names {
        [] => Ok(ALL.iter().collect()),
        names => names.iter().map(|name| find(name)).collect(),
    }
}

/// The first line, if it is text, and what follows it.
fn split_line(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&input[..end]).ok()?, &input[end + 1..]))
}

/// Makes a panic end the process, in a task or thread too: tokio would only end the task.
pub fn abort_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// A runtime for one thread, with sockets and timers.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
