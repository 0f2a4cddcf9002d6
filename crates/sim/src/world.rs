//! Time, the network, and everything that goes wrong, out of one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use controllers::{Action, Target};
use futures_util::FutureExt;
use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use store::{EventKind, Store, Watch};

use crate::actors::{Actor, Answer, Controllers, Kubelet, Scheduler};
use crate::cache::{Change, Object};
use crate::scene;
use crate::server::{Sabotage, Server};

/// When the simulation begins.
const BEGIN_S: i64 = 1_800_000_000;
/// A client waits this long for an answer, in milliseconds.
const PATIENCE_MS: u64 = 2_000;
/// Lines of the story that a failure shows.
const STORY: usize = 60;
/// More steps than this are a loop.
const STEPS_MAX: usize = 200_000;

/// What one simulation is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where all choices come from.
    pub seed: u64,
    /// How long things go wrong, in milliseconds.
    pub storm_ms: u64,
    /// How long everything has to settle afterwards.
    pub calm_ms: u64,
    /// What is broken on purpose.
    pub sabotage: Sabotage,
    /// Whether everything that happens is printed.
    pub aloud: bool,
}

impl Options {
    /// The usual storm.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self { seed, storm_ms: 20_000, calm_ms: 600_000, sabotage: Sabotage::Nothing, aloud: false }
    }
}

/// How a simulation went.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Messages delivered.
    pub steps: usize,
    /// Writes of the server.
    pub writes: u64,
    /// Crashes of the server and of clients.
    pub crashes: usize,
    /// A digest of everything that happened: the same for the same seed.
    pub digest: u64,
}

/// What did not hold, and what happened before.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What did not hold.
    pub broken: Vec<String>,
    /// The last things that happened.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, story) = (self.seed, self.story.join("\n  "));
        write!(
            f,
            "seed {seed}: {}\n  {story}\nagain: KUTTER_SIM_SEED={seed} cargo test -p sim",
            self.broken.join("; ")
        )
    }
}

enum Message {
    Request { from: usize, life: u64, work: String, action: Box<Action> },
    Answer { to: usize, life: u64, work: String, answer: Answer },
    Told { to: usize, plural: &'static str, epoch: u64, change: Change },
    Connect { to: usize, plural: &'static str, epoch: u64 },
    Listed { to: usize, plural: &'static str, epoch: u64, objects: Vec<Object>, revision: u64 },
    Wake { to: usize, life: u64 },
    Restart,
    Trouble,
}

#[derive(Default)]
struct Stream {
    epoch: u64,
    watch: Option<Box<dyn Watch>>,
    /// When the last of it arrives: a stream keeps its order.
    last_ms: u64,
}

struct Process {
    actor: Box<dyn Actor>,
    make: fn() -> Box<dyn Actor>,
    life: u64,
    wake_ms: Option<u64>,
    streams: BTreeMap<&'static str, Stream>,
}

struct World {
    options: Options,
    rng: StdRng,
    now_ms: u64,
    server: Server,
    processes: Vec<Process>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    messages: BTreeMap<u64, Message>,
    sent: u64,
    crashes: usize,
    story: VecDeque<String>,
    digest: DefaultHasher,
}

/// Runs one simulation.
pub fn run(options: Options) -> Result<Report, Box<Failure>> {
    let failed =
        |broken: String| Box::new(Failure { seed: options.seed, broken: vec![broken], story: Vec::new() });
    let mut world = World::new(options).map_err(failed)?;
    let steps = world.live();
    let mut broken = std::mem::take(&mut world.server.checker.broken);
    if broken.is_empty() {
        broken = scene::unsettled(&world.server);
    }
    match broken.is_empty() && steps < STEPS_MAX {
        true => Ok(Report {
            steps,
            writes: world.server.store().map_or(0, |store| store.revision()),
            crashes: world.crashes,
            digest: world.digest.finish(),
        }),
        false => {
            if steps >= STEPS_MAX {
                broken.push(format!("no end after {steps} steps"));
            }
            Err(Box::new(Failure { seed: options.seed, broken, story: world.story.into() }))
        }
    }
}

impl World {
    fn new(options: Options) -> Result<Self, String> {
        // Two controllers at once: one that has lost its lease may not know it yet.
        let makers: [fn() -> Box<dyn Actor>; 6] = [
            || Box::new(Controllers::all()),
            || Box::new(Controllers::of_a_second_process()),
            || Box::new(Scheduler::default()),
            || Box::new(Kubelet::new("n0", scene::ROOM)),
            || Box::new(Kubelet::new("n1", scene::ROOM)),
            || Box::new(Kubelet::new("n2", scene::ROOM)),
        ];
        let process = |make: fn() -> Box<dyn Actor>| Process {
            actor: make(),
            make,
            life: 0,
            wake_ms: None,
            streams: BTreeMap::new(),
        };
        let mut world = Self {
            options,
            rng: StdRng::seed_from_u64(options.seed),
            now_ms: 0,
            server: Server::new(options.sabotage)?,
            processes: makers.into_iter().map(process).collect(),
            queue: BinaryHeap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            crashes: 0,
            story: VecDeque::new(),
            digest: DefaultHasher::new(),
        };
        for action in scene::beginning() {
            let now = world.now();
            world.server.handle(&action, now).map_err(|refusal| format!("the scene: {refusal:?}"))?;
        }
        (0..world.processes.len()).for_each(|at| world.connect(at));
        world.send(1_000, Message::Trouble);
        Ok(world)
    }

    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.now_ms).unwrap_or(0);
        Timestamp::from_millisecond(BEGIN_S * 1000 + ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    fn storms(&self) -> bool {
        self.now_ms < self.options.storm_ms
    }

    fn tell(&mut self, what: String) {
        what.hash(&mut self.digest);
        if self.options.aloud {
            println!("{:>6} ms {what}", self.now_ms);
        }
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back(format!("{:>6} ms {what}", self.now_ms));
    }

    fn send(&mut self, delay_ms: u64, message: Message) {
        self.queue.push(Reverse((self.now_ms + delay_ms, self.sent)));
        self.messages.insert(self.sent, message);
        self.sent += 1;
    }

    /// How long a message takes; in a storm some take very long, so that others overtake them.
    fn delay(&mut self) -> u64 {
        match self.storms() && self.rng.random_ratio(1, 10) {
            true => self.rng.random_range(10..1_500),
            false => self.rng.random_range(1..10),
        }
    }

    fn loses(&mut self) -> bool {
        self.storms() && self.rng.random_ratio(1, 25)
    }

    fn live(&mut self) -> usize {
        let end = self.options.storm_ms + self.options.calm_ms;
        for step in 0..STEPS_MAX {
            let Some(Reverse((at, id))) = self.queue.pop() else { return step };
            if at > end || !self.server.checker.broken.is_empty() {
                return step;
            }
            self.now_ms = at;
            if let Some(message) = self.messages.remove(&id) {
                self.deliver(message);
            }
        }
        STEPS_MAX
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Request { from, life, work, action } => self.request(from, life, work, &action),
            Message::Answer { to, life, work, answer } if self.processes[to].life == life => {
                self.processes[to].actor.answered(&work, answer, self.now_ms);
                self.work(to);
            }
            Message::Told { to, plural, epoch, change } if self.follows(to, plural, epoch) => {
                self.processes[to].actor.learn(&change);
                self.work(to);
            }
            Message::Connect { to, plural, epoch } if self.follows(to, plural, epoch) => {
                self.list(to, plural)
            }
            Message::Listed { to, plural, epoch, objects, revision } if self.follows(to, plural, epoch) => {
                self.listed(to, plural, objects, revision);
                self.work(to);
            }
            Message::Wake { to, life } if self.processes[to].life == life => {
                self.processes[to].wake_ms = None;
                self.work(to);
            }
            Message::Restart => self.restart(),
            Message::Trouble => self.trouble(),
            _ => {}
        }
    }

    fn follows(&self, to: usize, plural: &str, epoch: u64) -> bool {
        self.processes[to].streams.get(plural).is_some_and(|stream| stream.epoch == epoch)
    }

    /// Lets a process do what it has to do.
    fn work(&mut self, at: usize) {
        let now = self.now();
        let process = &mut self.processes[at];
        let (requests, wake) = process.actor.work(self.now_ms, now);
        let life = process.life;
        for (work, action) in requests {
            let delay = self.delay();
            if self.loses() {
                self.tell(format!("a request of {at} for {work} is lost"));
                self.send(PATIENCE_MS, Message::Answer { to: at, life, work, answer: Answer::Silence });
            } else {
                self.send(delay, Message::Request { from: at, life, work, action: Box::new(action) });
            }
        }
        let wake = wake.filter(|when| self.processes[at].wake_ms.is_none_or(|known| *when < known));
        if let Some(when) = wake {
            self.processes[at].wake_ms = Some(when);
            self.send(when - self.now_ms, Message::Wake { to: at, life });
        }
    }

    fn request(&mut self, from: usize, life: u64, work: String, action: &Action) {
        let now = self.now();
        let result = match self.server.store() {
            Some(_) => self.server.handle(action, now).map(|_| ()),
            None => {
                self.send(PATIENCE_MS, Message::Answer { to: from, life, work, answer: Answer::Silence });
                return;
            }
        };
        let revision = self.server.store().map_or(0, |store| store.revision());
        self.tell(format!("{from} asks {}: {result:?} at {revision}", short(action)));
        let answer = if result.is_ok() { Answer::Done(revision) } else { Answer::Refused };
        let (lost, delay) = (self.loses(), self.delay());
        match lost {
            true => self.send(PATIENCE_MS, Message::Answer { to: from, life, work, answer: Answer::Silence }),
            false => self.send(delay, Message::Answer { to: from, life, work, answer }),
        }
        self.pump();
    }

    /// Sends what the watches have to tell; in a storm some of their connections break.
    fn pump(&mut self) {
        let mut told = Vec::new();
        let mut broken = Vec::new();
        for (to, process) in self.processes.iter_mut().enumerate() {
            for (plural, stream) in &mut process.streams {
                let Some(watch) = &mut stream.watch else { continue };
                while let Some(next) = watch.next(100).now_or_never() {
                    let Ok((events, _)) = next else {
                        broken.push((to, *plural));
                        break;
                    };
                    told.extend(events.into_iter().map(|event| (to, *plural, event)));
                }
            }
        }
        let mut known: BTreeMap<u64, Option<Object>> = BTreeMap::new();
        for (to, plural, event) in told {
            let object = &event.object;
            let gone = event.kind == EventKind::Deleted;
            let parse = || {
                let value = (!gone).then(|| serde_json::from_slice(&object.json).ok()).flatten();
                value.and_then(|value| Object::of(plural, value))
            };
            let parsed = known.entry(object.modified).or_insert_with(parse).clone();
            let change = Change {
                plural,
                name: object.key.name.to_string(),
                object: parsed,
                revision: object.modified,
            };
            let at = self.now_ms + self.delay();
            let Some(stream) = self.processes[to].streams.get_mut(plural) else { continue };
            stream.last_ms = stream.last_ms.max(at);
            let (delay, epoch) = (stream.last_ms - self.now_ms, stream.epoch);
            self.send(delay, Message::Told { to, plural, epoch, change });
            if self.storms() && self.rng.random_ratio(1, 200) {
                broken.push((to, plural));
            }
        }
        broken.into_iter().for_each(|(to, plural)| self.hang_up(to, plural));
    }

    /// Ends a watch; the process lists anew a little later.
    fn hang_up(&mut self, to: usize, plural: &'static str) {
        let delay = 50 + self.delay();
        let stream = self.processes[to].streams.entry(plural).or_default();
        stream.epoch += 1;
        (stream.watch, stream.last_ms) = (None, 0);
        let epoch = stream.epoch;
        self.send(delay, Message::Connect { to, plural, epoch });
    }

    fn connect(&mut self, to: usize) {
        let all = self.processes[to].actor.follows();
        all.iter().for_each(|plural| self.hang_up(to, plural));
    }

    fn list(&mut self, to: usize, plural: &'static str) {
        let Some(store) = self.server.store() else { return self.hang_up(to, plural) };
        let (values, revision) = self.server.list(plural);
        let Ok(watch) = store.watch(plural, revision) else { return self.hang_up(to, plural) };
        let objects = values.into_iter().filter_map(|value| Object::of(plural, value)).collect();
        let at = self.now_ms + self.delay();
        let Some(stream) = self.processes[to].streams.get_mut(plural) else { return };
        (stream.watch, stream.last_ms) = (Some(watch), at);
        let epoch = stream.epoch;
        self.send(at - self.now_ms, Message::Listed { to, plural, epoch, objects, revision });
    }

    fn listed(&mut self, to: usize, plural: &'static str, objects: Vec<Object>, revision: u64) {
        let actor = &mut self.processes[to].actor;
        let there: BTreeMap<String, Object> =
            objects.into_iter().map(|object| (object.name(), object)).collect();
        let gone =
            actor.names(plural).into_iter().filter(|name| !there.contains_key(name)).map(|name| (name, None));
        let gone: Vec<_> = gone.collect();
        for (name, object) in
            gone.into_iter().chain(there.into_iter().map(|(name, object)| (name, Some(object))))
        {
            actor.learn(&Change { plural, name, object, revision });
        }
        actor.reached(plural, revision);
    }

    /// Something goes wrong, or somebody changes their mind.
    fn trouble(&mut self) {
        if !self.storms() {
            return;
        }
        match self.rng.random_range(0..10) {
            0 | 1 if self.server.store().is_some() => self.crash_server(),
            2 | 3 => {
                let at = self.rng.random_range(0..self.processes.len());
                self.tell(format!("process {at} dies and starts again"));
                self.crashes += 1;
                let process = &mut self.processes[at];
                (process.actor, process.wake_ms) = ((process.make)(), None);
                process.life += 1;
                self.connect(at);
            }
            _ => {
                let now = self.now();
                if let Some(action) = scene::whim(&mut self.rng, &self.server)
                    && self.server.store().is_some()
                {
                    let result = self.server.handle(&action, now).map(|_| ());
                    self.tell(format!("someone asks {}: {result:?}", short(&action)));
                    self.pump();
                }
            }
        }
        let pause = self.rng.random_range(50..800);
        self.send(pause, Message::Trouble);
    }

    fn crash_server(&mut self) {
        self.crashes += 1;
        let now = self.now();
        // Half of the crashes come while a write is under way.
        let doing = if self.rng.random() { scene::whim(&mut self.rng, &self.server) } else { None };
        let part: f64 = self.rng.random();
        self.server.crash(doing.as_ref(), now, |length| (length as f64 * part) as usize);
        self.tell(format!("the server dies while {}", doing.as_ref().map_or("idle".into(), short)));
        for at in 0..self.processes.len() {
            self.connect(at);
        }
        let pause = self.rng.random_range(100..3_000);
        self.send(pause, Message::Restart);
    }

    fn restart(&mut self) {
        if let Err(error) = self.server.start() {
            self.server.checker.broken.push(error);
        }
        let revision = self.server.store().map_or(0, |store| store.revision());
        self.tell(format!("the server starts at {revision}"));
    }
}

/// An action in a few words.
fn short(action: &Action) -> String {
    let of = |target: &Target| format!("{}/{}", target.resource.plural, target.name);
    match action {
        Action::Create { resource, object, .. } => {
            format!("create {}/{}", resource.plural, object["metadata"]["name"].as_str().unwrap_or(""))
        }
        Action::Patch { target, subresource, patch, .. } => {
            let mut patch = (**patch).clone();
            patch["metadata"].as_object_mut().map(|meta| meta.remove("uid"));
            let text = patch.to_string();
            format!("patch {} {subresource} {}", of(target), text.chars().take(160).collect::<String>())
        }
        Action::Delete { target, .. } => format!("delete {}", of(target)),
        Action::Post { target, body, .. } => format!("bind {} to {}", of(target), body["target"]["name"]),
        _ => json!("something else").to_string(),
    }
}
