//! Questions that are not the cluster's: asked of the machine's name servers, and remembered for a while.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Entries of the cache; at the limit the expired go, then everything (rare, and cheap to refill).
const CACHE_MAX: usize = 10_000;
/// Longest time an answer is kept.
const CACHE_TTL_MAX_S: u32 = 30;
/// Time a negative answer is kept.
const NEGATIVE_TTL_S: u32 = 5;
/// Time one name server gets.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions under way at once; more fail at once.
const UNDER_WAY_MAX: usize = 1000;

/// What upstream said.
#[derive(Debug, Clone)]
pub struct Found {
    /// The response code.
    pub code: ResponseCode,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
}

type CacheKey = (Name, RecordType);

/// The name servers outside the cluster.
#[derive(Clone)]
pub struct Upstream {
    servers: Arc<[SocketAddr]>,
    cache: Arc<Mutex<HashMap<CacheKey, (Instant, Found)>>>,
    under_way: Arc<Semaphore>,
}

/// The name servers of a resolv.conf text, without `own` addresses (a question must not come back to us).
pub fn nameservers(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|l| l.trim().split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|a| !own.contains(a)).map(|a| SocketAddr::new(a, 53)).take(3).collect()
}

impl Upstream {
    /// Asks these servers, in order.
    pub fn new(servers: &[SocketAddr]) -> Upstream {
        Upstream {
            servers: servers.into(),
            cache: Arc::default(),
            under_way: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
        }
    }

    /// The answer for a name; `None` when no server gave one.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Option<Found> {
        let key = (name.to_lowercase(), kind);
        if let Some(hit) = self.cached(&key) {
            return Some(hit);
        }
        let _permit = self.under_way.try_acquire().ok()?;
        for server in self.servers.iter() {
            match tokio::time::timeout(PATIENCE, exchange(*server, name, kind)).await {
                Ok(Ok(m))
                    if !matches!(
                        m.metadata.response_code,
                        ResponseCode::ServFail | ResponseCode::Refused
                    ) =>
                {
                    let found = Found {
                        code: m.metadata.response_code,
                        answers: m.answers,
                        authority: m.authorities,
                    };
                    self.keep(key, &found);
                    return Some(found);
                }
                Ok(Ok(m)) => {
                    tracing::debug!(%server, code = %m.metadata.response_code, "a name server failed")
                }
                Ok(Err(e)) => tracing::debug!(%server, error = %e, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server did not answer"),
            }
        }
        None
    }

    fn cached(&self, key: &CacheKey) -> Option<Found> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, found) = cache.get(key)?;
        let left = until.checked_duration_since(Instant::now())?.as_secs() as u32 + 1;
        let mut found = found.clone();
        for r in found.answers.iter_mut().chain(&mut found.authority) {
            r.ttl = r.ttl.min(left);
        }
        Some(found)
    }

    fn keep(&self, key: CacheKey, found: &Found) {
        let shortest = found.answers.iter().map(|r| r.ttl).min().unwrap_or(NEGATIVE_TTL_S);
        let ttl = Duration::from_secs(u64::from(shortest.min(CACHE_TTL_MAX_S)));
        if ttl.is_zero() {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_MAX {
            cache.retain(|_, (until, _)| *until > now);
            if cache.len() >= CACHE_MAX {
                cache.clear();
            }
        }
        cache.insert(key, (now + ttl, found.clone()));
    }
}

/// A number that an outsider cannot guess, for the question's id. The kernel chooses the source port.
fn question_id() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() as u16
}

async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> std::io::Result<Message> {
    let invalid =
        |e: &dyn std::fmt::Display| std::io::Error::new(std::io::ErrorKind::InvalidData, e.to_string());
    let mut question = Message::query();
    question.metadata.id = question_id();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.set_edns(edns);
    let bytes = question.to_vec().map_err(|e| invalid(&e))?;
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    let answer = loop {
        let n = socket.recv(&mut buffer).await?;
        // Anything that is not the answer to this question is ignored until the patience ends.
        match Message::from_vec(&buffer[..n]) {
            Ok(m) if m.metadata.id == question.metadata.id && m.queries == question.queries => break m,
            _ => {}
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|e| invalid(&e))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&bytes).await?;
    let length = stream.read_u16().await?;
    let mut whole = vec![0; usize::from(length)];
    stream.read_exact(&mut whole).await?;
    Message::from_vec(&whole).map_err(|e| invalid(&e))
}
