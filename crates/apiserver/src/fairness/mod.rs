//! Priority and fairness: requests are told apart into flows, and each priority level has so many at a time.
//!
//! Without contention a request is looked up in the compiled schemas and takes a seat; nothing is allocated.

mod defaults;
mod ensure;
mod levels;
mod rules;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use http::Response;
use http::header::{HeaderName, HeaderValue};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use serve::Body;

use crate::authenticate::Identity;
use crate::info::RequestInfo;
use levels::{Board, Pass, Queuing, Seats};
use rules::{Distinguisher, FlowSchema};

pub use ensure::follow;

const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Requests at a time, of all levels together.
const CONCURRENCY: u32 = 600;
/// The most seats one request takes.
const SEATS_MAX: u32 = 10;
/// So many objects of a list count as one seat.
const OBJECTS_PER_SEAT: usize = 100;

/// A priority level.
struct Level {
    uid: String,
    exempt: bool,
    queuing: Option<Queuing>,
    seats: Arc<Seats>,
}

/// A flow schema with its level and the headers of its answers.
pub struct Class {
    schema: FlowSchema,
    level: Arc<Level>,
    headers: [HeaderValue; 2],
}

/// What is configured now.
#[derive(Default)]
struct Config {
    /// In the order they are asked.
    classes: Vec<Arc<Class>>,
    /// Levels with seats, by name.
    levels: Vec<(String, Arc<Seats>)>,
}

/// The stage of the request path.
#[derive(Default)]
pub struct Fairness {
    config: RwLock<Arc<Config>>,
    board: Arc<Board>,
    seats: Mutex<HashMap<String, Arc<Seats>>>,
    hash: RandomState,
}

/// A request that may go on, until this is dropped.
pub struct Entered {
    class: Option<Arc<Class>>,
    pass: Option<Pass>,
}

impl Entered {
    /// The request is not held by this stage.
    pub fn untold() -> Self {
        Self { class: None, pass: Some(Pass::exempt()) }
    }

    /// Whether the request may go on.
    pub fn goes_on(&self) -> bool {
        self.pass.is_some()
    }

    /// Says in the answer what the request was taken for.
    pub fn label(&self, response: &mut Response<Body>) {
        if let Some(class) = &self.class {
            let [schema, level] = class.headers.clone();
            response.headers_mut().insert(SCHEMA_HEADER, schema);
            response.headers_mut().insert(LEVEL_HEADER, level);
        }
    }
}

/// The answer to a request that found no seat.
pub fn refusal() -> Response<Body> {
    let mut response = crate::answer::text(429, "Too many requests, please try again later.\n");
    response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// Long requests besides watches take no seat.
fn is_long(info: &RequestInfo) -> bool {
    info.is_resource
        && (info.subresource == "log" && info.resource == "pods"
            || matches!(info.subresource.as_str(), "exec" | "attach" | "portforward" | "proxy"))
}

impl Fairness {
    /// Lets a request in, now or after it has waited. `count` says how many objects a list is over.
    pub async fn enter(
        &self,
        identity: &Identity,
        info: &RequestInfo,
        count: impl FnOnce() -> usize,
    ) -> Entered {
        if is_long(info) {
            return Entered::untold();
        }
        let config = self.config.read().clone();
        let class = config.classes.iter().find(|class| class.schema.fits(identity, info)).cloned();
        let Some(class) = class else { return Entered::untold() };
        if class.level.exempt {
            return Entered { class: Some(class), pass: Some(Pass::exempt()) };
        }
        let flow = match class.schema.distinguisher {
            Distinguisher::None => self.hash.hash_one(&class.schema.name),
            Distinguisher::User => self.hash.hash_one((&class.schema.name, &identity.name)),
            Distinguisher::Namespace => self.hash.hash_one((&class.schema.name, &info.namespace)),
        };
        let seats = match info.verb {
            "list" => {
                u32::try_from(count().div_ceil(OBJECTS_PER_SEAT)).unwrap_or(SEATS_MAX).clamp(1, SEATS_MAX)
            }
            _ => 1,
        };
        let level = &class.level;
        let pass = level.seats.enter(seats, flow, level.queuing).await;
        Entered { class: Some(class), pass }
    }

    /// The seats of the levels as metrics.
    pub fn metrics(&self) -> String {
        let config = self.config.read().clone();
        let name = "apiserver_flowcontrol_nominal_limit_seats";
        let mut out = format!("# HELP {name} Seats of the priority level.\n# TYPE {name} gauge\n");
        for (level, seats) in &config.levels {
            out.push_str(&format!("{name}{{priority_level=\"{level}\"}} {}\n", seats.nominal()));
        }
        out
    }

    /// Configures the stage by these objects.
    fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let shares =
            |level: &Value| level["spec"]["limited"]["nominalConcurrencyShares"].as_u64().unwrap_or(30);
        let limited = |level: &&Value| level["spec"]["type"] == "Limited";
        let total: u64 = levels.iter().filter(limited).map(shares).sum();
        let mut kept = self.seats.lock();
        let mut known: HashMap<&str, Arc<Level>> = HashMap::new();
        for object in levels {
            let name = crate::object::name(object);
            let seats = kept.entry(name.to_string()).or_insert_with(|| Seats::new(&self.board)).clone();
            let own = (u64::from(CONCURRENCY) * shares(object)).div_ceil(total.max(1));
            let lendable = object["spec"]["limited"]["lendablePercent"].as_u64().unwrap_or(0).min(100);
            let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            match limited(&object) {
                true => seats.set(number(own), number((own * lendable + 50) / 100)),
                false => seats.set(0, 0),
            }
            let response = &object["spec"]["limited"]["limitResponse"];
            let queuing = (response["type"] == "Queue").then(|| {
                let part = |field: &str, default| response["queuing"][field].as_u64().unwrap_or(default);
                Queuing {
                    queues: number(part("queues", 64)).max(1),
                    hand: number(part("handSize", 8)).max(1),
                    length: usize::try_from(part("queueLengthLimit", 50)).unwrap_or(50),
                }
            });
            let uid = crate::object::meta_text(object, "uid").to_string();
            known.insert(name, Arc::new(Level { uid, exempt: !limited(&object), queuing, seats }));
        }
        kept.retain(|name, _| known.contains_key(name.as_str()));
        self.board
            .set(known.values().filter(|level| !level.exempt).map(|level| level.seats.clone()).collect());
        let class = |object: &Value| {
            let schema = FlowSchema::of(object);
            let level = known.get(schema.level.as_str())?.clone();
            let header = |text: &str| HeaderValue::from_str(text).ok();
            let headers = [header(&schema.uid)?, header(&level.uid)?];
            Some(Arc::new(Class { schema, level, headers }))
        };
        let mut classes: Vec<Arc<Class>> = schemas.iter().filter_map(class).collect();
        classes.sort_by(|a, b| {
            (a.schema.precedence, &a.schema.name).cmp(&(b.schema.precedence, &b.schema.name))
        });
        let limited = known.iter().filter(|(_, level)| !level.exempt);
        let mut levels: Vec<(String, Arc<Seats>)> =
            limited.map(|(name, level)| (name.to_string(), level.seats.clone())).collect();
        levels.sort_by(|a, b| a.0.cmp(&b.0));
        *self.config.write() = Arc::new(Config { classes, levels });
    }
}
