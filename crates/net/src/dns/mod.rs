//! The node's DNS server: the cluster's zone from an index in memory, everything else from upstream.
//!
//! It needs no API server: the index is what the node last knew, so names go on resolving while the control plane
//! is away.

mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo, Server};
use hickory_server::zone_handler::MessageResponseBuilder;
use netplan::dns::{Answer, Index, Kind, Record as PlanRecord, RecordData, TTL_S};

pub use upstream::{Upstream, nameservers};

/// The DNS server cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for DNS questions on {address}")]
pub struct DnsError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// The names of the cluster, shared by the server and whoever keeps them current.
pub type SharedIndex = Arc<RwLock<Index>>;

/// Counts of answers.
#[derive(Debug, Default)]
pub struct DnsCounts {
    /// Questions answered from the cluster's names.
    pub cluster: AtomicU64,
    /// Questions answered from upstream or its cache.
    pub upstream: AtomicU64,
    /// Questions that could not be answered.
    pub failed: AtomicU64,
}

/// Connections over TCP that ask nothing for this long are closed.
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_ANSWERS_WAITING: usize = 32;

struct Handler {
    index: SharedIndex,
    upstream: Upstream,
    counts: Arc<DnsCounts>,
}

/// A running server. Dropping it closes the sockets.
pub struct DnsServer {
    server: Server<Handler>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Counts of answers.
    pub counts: Arc<DnsCounts>,
}

impl DnsServer {
    /// Listens on each address, UDP and TCP. Port 0 takes a free port, the same for both.
    pub async fn start(
        addresses: &[SocketAddr],
        index: SharedIndex,
        upstream: Upstream,
    ) -> Result<DnsServer, DnsError> {
        let counts = Arc::new(DnsCounts::default());
        let mut server = Server::new(Handler { index, upstream, counts: counts.clone() });
        let mut bound = Vec::new();
        for address in addresses {
            let fail = |source| DnsError { address: *address, source };
            let tcp = tokio::net::TcpListener::bind(address).await.map_err(fail)?;
            let at = tcp.local_addr().map_err(fail)?;
            server.register_socket(tokio::net::UdpSocket::bind(at).await.map_err(fail)?);
            server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS_WAITING);
            bound.push(at);
        }
        Ok(DnsServer { server, addresses: bound, counts })
    }

    /// Stops answering.
    pub async fn stop(mut self) {
        let _ = self.server.shutdown_gracefully().await;
    }
}

/// What goes back to the client.
#[derive(Default)]
struct Reply {
    code: Option<ResponseCode>,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    extra: Vec<Record>,
}

impl Reply {
    fn failure(code: ResponseCode) -> Reply {
        Reply { code: Some(code), ..Reply::default() }
    }
}

fn kind(t: RecordType) -> Kind {
    match t {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

fn name(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).ok()
}

fn record(r: &PlanRecord) -> Option<Record> {
    let data = match &r.data {
        RecordData::Address(IpAddr::V4(a)) => RData::A(A(*a)),
        RecordData::Address(IpAddr::V6(a)) => RData::AAAA(AAAA(*a)),
        RecordData::Srv { weight, port, target } => RData::SRV(SRV::new(0, *weight, *port, name(target)?)),
        RecordData::Ptr(n) => RData::PTR(PTR(name(n)?)),
        RecordData::Cname(n) => RData::CNAME(CNAME(name(n)?)),
        RecordData::Txt(t) => RData::TXT(TXT::new(vec![t.clone()])),
    };
    Some(Record::from_rdata(name(&r.name)?, TTL_S, data))
}

/// The start of authority that goes with negative answers.
fn authority(zone: &str) -> Vec<Record> {
    let names = (name(zone), name(&format!("ns.dns.{zone}")), name(&format!("hostmaster.{zone}")));
    let (Some(zone), Some(server), Some(contact)) = names else { return Vec::new() };
    let limit = i32::try_from(TTL_S).unwrap_or(5);
    vec![Record::from_rdata(
        zone,
        TTL_S,
        RData::SOA(SOA::new(server, contact, 1, 7200, 1800, 86400, limit as u32)),
    )]
}

impl Handler {
    async fn reply(&self, request: &Request) -> Reply {
        let Ok(info) = request.request_info() else { return Reply::failure(ResponseCode::FormErr) };
        if info.metadata.op_code != OpCode::Query {
            return Reply::failure(ResponseCode::NotImp);
        }
        let question = info.query.original().clone();
        let asked = question.name().to_ascii();
        let (answer, zone) = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            (index.answer(&asked, kind(question.query_type())), index.zone().to_owned())
        };
        let negative =
            |code| Reply { code, authoritative: true, authority: authority(&zone), ..Reply::default() };
        if !matches!(answer, Answer::NotOurs | Answer::Alias(_)) {
            self.counts.cluster.fetch_add(1, Ordering::Relaxed);
        }
        match answer {
            Answer::Records { answers, extra } => Reply {
                authoritative: true,
                answers: answers.iter().filter_map(record).collect(),
                extra: extra.iter().filter_map(record).collect(),
                ..Reply::default()
            },
            Answer::NoData => negative(None),
            Answer::NxDomain => negative(Some(ResponseCode::NXDomain)),
            Answer::NotOurs => self.forward(question.name().clone(), question.query_type()).await,
            Answer::Alias(target) => self.alias(question.name(), &target, question.query_type()).await,
        }
    }

    async fn forward(&self, asked: Name, kind: RecordType) -> Reply {
        match self.upstream.ask(&asked, kind).await {
            Some(found) => {
                self.counts.upstream.fetch_add(1, Ordering::Relaxed);
                Reply {
                    code: Some(found.code),
                    answers: found.answers,
                    authority: found.authority,
                    ..Reply::default()
                }
            }
            None => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                Reply::failure(ResponseCode::ServFail)
            }
        }
    }

    async fn alias(&self, asked: &Name, target: &str, wanted: RecordType) -> Reply {
        let Some(name) = name(target) else { return Reply::failure(ResponseCode::ServFail) };
        let alias = Record::from_rdata(asked.clone(), TTL_S, RData::CNAME(CNAME(name.clone())));
        let mut reply = Reply { authoritative: true, answers: vec![alias], ..Reply::default() };
        if wanted == RecordType::CNAME {
            return reply;
        }
        let local = self.index.read().unwrap_or_else(PoisonError::into_inner).answer(target, kind(wanted));
        match local {
            Answer::Records { answers, .. } => reply.answers.extend(answers.iter().filter_map(record)),
            Answer::NotOurs => reply.answers.extend(self.forward(name, wanted).await.answers),
            _ => {}
        }
        reply
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        metadata.response_code = reply.code.unwrap_or(ResponseCode::NoError);
        let edns = request.edns.as_ref().map(|_| {
            let mut e = hickory_proto::op::Edns::new();
            e.set_max_payload(1232);
            e
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(e) = &edns {
            builder.edns(e);
        }
        let response = builder.build(metadata, &reply.answers, &reply.authority, [], &reply.extra);
        match to.send_response(response).await {
            Ok(info) => info,
            Err(e) => {
                tracing::debug!(error = %e, "a DNS answer could not be sent");
                ResponseInfo::from(hickory_proto::op::Header {
                    metadata,
                    counts: hickory_proto::op::HeaderCounts::default(),
                })
            }
        }
    }
}
