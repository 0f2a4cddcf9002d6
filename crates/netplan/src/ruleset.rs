//! The rule language: what the kernel can be told, as values that print as text close to that of `nft`.
//!
//! Keys and data of sets are kept as bytes in the kernel's register layout (every field padded to four bytes), so
//! that comparing and sending thousands of elements is cheap; the set's types say how to print them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::cidr::{Cidr, Family};

/// Bytes in register layout.
pub type Bytes = Box<[u8]>;

/// The transport protocols that Services and policies speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: rules are written, kernels without the protocol carry no such packets.
    Sctp,
}

impl Proto {
    /// The protocol of a Kubernetes name; a missing name is TCP, an unknown one nothing.
    pub fn parse(name: Option<&str>) -> Option<Proto> {
        match name.unwrap_or("TCP") {
            "TCP" | "" => Some(Proto::Tcp),
            "UDP" => Some(Proto::Udp),
            "SCTP" => Some(Proto::Sctp),
            _ => None,
        }
    }

    /// The protocol's number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Proto::Tcp => 6,
            Proto::Udp => 17,
            Proto::Sctp => 132,
        }
    }
}

/// The type of one field of a set's key or data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// An address.
    Ip(Family),
    /// A transport protocol.
    Proto,
    /// A port.
    Port,
    /// A number in host byte order.
    Number,
}

impl Type {
    /// Bytes in registers.
    pub fn size(self) -> usize {
        match self {
            Type::Ip(Family::V6) => 16,
            _ => 4,
        }
    }
}

/// Writes keys and data in register layout.
#[derive(Debug, Default, Clone)]
pub struct KeyBuilder(Vec<u8>);

impl KeyBuilder {
    /// An empty key.
    pub fn new() -> KeyBuilder {
        KeyBuilder(Vec::with_capacity(16))
    }

    /// Adds an address.
    pub fn ip(mut self, address: IpAddr) -> KeyBuilder {
        match address {
            IpAddr::V4(a) => self.0.extend(a.octets()),
            IpAddr::V6(a) => self.0.extend(a.octets()),
        }
        self
    }

    /// Adds a protocol.
    pub fn proto(mut self, proto: Proto) -> KeyBuilder {
        self.0.extend([proto.number(), 0, 0, 0]);
        self
    }

    /// Adds a port.
    pub fn port(mut self, port: u16) -> KeyBuilder {
        self.0.extend(port.to_be_bytes());
        self.0.extend([0, 0]);
        self
    }

    /// Adds a number.
    pub fn number(mut self, number: u32) -> KeyBuilder {
        self.0.extend(number.to_ne_bytes());
        self
    }

    /// The bytes.
    pub fn done(self) -> Bytes {
        self.0.into_boxed_slice()
    }
}

/// What a packet meets at the end of a rule or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Let it pass this hook.
    Accept,
    /// Lose it.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Call a chain.
    Jump(String),
    /// Continue in a chain, not coming back.
    Goto(String),
}

/// What an element of a set carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Nothing: the set is a set.
    None,
    /// A verdict.
    Verdict(Verdict),
    /// Bytes in register layout.
    Value(Bytes),
}

/// What the elements of a set carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataKind {
    /// Nothing.
    None,
    /// Verdicts.
    Verdict,
    /// Values of these types.
    Value(Vec<Type>),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name, unique in the table.
    pub name: String,
    /// The key's fields.
    pub key: Vec<Type>,
    /// The elements' data.
    pub data: DataKind,
    /// Keys are ranges.
    pub interval: bool,
    /// Elements are added by packets and expire.
    pub dynamic: bool,
}

/// The last of a range, inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// In sets of addresses.
    Address(IpAddr),
    /// In sets of several fields: their last values.
    Key(Bytes),
}

/// An element: its key, the end of the range in interval sets, and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The set it is in.
    pub set: Cow<'static, str>,
    /// The key.
    pub key: Bytes,
    /// The end of the range, in interval sets.
    pub end: Option<End>,
    /// What it carries.
    pub data: Data,
}

/// Where a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Filter before address translation, from outside.
    PreFilter,
    /// Destination translation from outside.
    PreNat,
    /// Filter after destination translation, from outside.
    PostDnat,
    /// Filter before translation, from this host.
    OutFilter,
    /// Destination translation from this host.
    OutNat,
    /// Filter after translation, from this host.
    OutPostDnat,
    /// Filter of what passes through.
    Forward,
    /// Source translation.
    PostNat,
}

/// A chain: rules in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in the table.
    pub name: String,
    /// The hook of base chains.
    pub hook: Option<Hook>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A rule: statements in order; the first that does not hold ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(pub Vec<Stmt>);

/// A value of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Source address.
    Saddr(Family),
    /// Destination address.
    Daddr(Family),
    /// Transport protocol.
    L4proto,
    /// Source port.
    Sport,
    /// Destination port.
    Dport,
    /// A random number below the given one.
    Random(u32),
    /// The family's unspecified address: marks entries for any address.
    Any(Family),
}

/// A statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stmt {
    /// The packet's family is this one.
    IsFamily(Family),
    /// The transport protocol is this one.
    IsProto(Proto),
    /// The destination port is in this range, inclusive.
    DportIn(u16, u16),
    /// The field is in the range, or not in it when `negate`.
    InCidr {
        /// An address field.
        field: Field,
        /// The range.
        cidr: Cidr,
        /// Holds when outside.
        negate: bool,
    },
    /// The fields are in the set, or not in it when `negate`.
    InSet {
        /// The key's fields.
        key: Vec<Field>,
        /// The set.
        set: String,
        /// Holds when absent.
        negate: bool,
    },
    /// The verdict of the map's element; nothing when absent.
    VerdictMap {
        /// The key's fields.
        key: Vec<Field>,
        /// The map.
        set: String,
    },
    /// The destination is an address of this host.
    DaddrIsLocal,
    /// The source is an address of this host.
    SaddrIsLocal,
    /// The packet came in over an interface other than the loopback one.
    NotFromLoopback,
    /// The connection is established or related.
    Established,
    /// The connection's destination was translated.
    WasDnat,
    /// Remember that the source is to be translated.
    MarkMasquerade,
    /// The source is to be translated; forgets the mark.
    TakeMasqueradeMark,
    /// Translate the destination to what the map says for the key; nothing when absent.
    DnatMap {
        /// The family.
        family: Family,
        /// The key's fields.
        key: Vec<Field>,
        /// A map to address and port.
        set: String,
    },
    /// Translate the destination to the backend this client had, if `live` (key, address, port) still knows it;
    /// refreshes its time.
    AffinityHit {
        /// The family.
        family: Family,
        /// The frontend's fields.
        key: Vec<Field>,
        /// The map (client, frontend) to backend.
        set: String,
        /// The set of (frontend, backend) that are in use.
        live: String,
        /// Seconds an idle client is remembered.
        timeout_s: u32,
    },
    /// Translate the destination to a random backend and remember it for this client.
    AffinityPick {
        /// The family.
        family: Family,
        /// The frontend's fields.
        key: Vec<Field>,
        /// The map of backends, keyed by frontend and index.
        backends: String,
        /// Number of backends.
        count: u32,
        /// The map (client, frontend) to backend.
        set: String,
        /// Seconds an idle client is remembered.
        timeout_s: u32,
    },
    /// Translate the source to the address of the outgoing interface.
    Masquerade,
    /// Refuse with port unreachable, which TCP clients see as a refused connection.
    Reject,
    /// A verdict.
    Verdict(Verdict),
}

/// A closed piece of a table: what one Service, one policy group or the base contributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Sets it needs; parts may share a set if they say the same of it.
    pub sets: Vec<Set>,
    /// Chains it needs; parts may share a chain if they say the same of it.
    pub chains: Vec<Chain>,
    /// Elements it contributes; no two parts may have the same key in one set.
    pub elements: Vec<Element>,
}

fn verdict_text(v: &Verdict) -> String {
    match v {
        Verdict::Accept => "accept".into(),
        Verdict::Drop => "drop".into(),
        Verdict::Return => "return".into(),
        Verdict::Jump(c) => format!("jump {c}"),
        Verdict::Goto(c) => format!("goto {c}"),
    }
}

/// Prints bytes in register layout.
pub fn bytes_text(types: &[Type], bytes: &[u8]) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut rest = bytes;
    for t in types {
        let Some((field, tail)) = rest.split_at_checked(t.size()) else { break };
        rest = tail;
        out.push(match t {
            Type::Ip(Family::V4) => IpAddr::from(<[u8; 4]>::try_from(field).unwrap_or_default()).to_string(),
            Type::Ip(Family::V6) => IpAddr::from(<[u8; 16]>::try_from(field).unwrap_or_default()).to_string(),
            Type::Proto => match field[0] {
                6 => "tcp".into(),
                17 => "udp".into(),
                132 => "sctp".into(),
                n => n.to_string(),
            },
            Type::Port => u16::from_be_bytes([field[0], field[1]]).to_string(),
            Type::Number => u32::from_ne_bytes(field.try_into().unwrap_or_default()).to_string(),
        });
    }
    out.join(" . ")
}

fn field_text(field: Field) -> String {
    let ip = |f: Family| if f == Family::V4 { "ip" } else { "ip6" };
    match field {
        Field::Saddr(f) => format!("{} saddr", ip(f)),
        Field::Daddr(f) => format!("{} daddr", ip(f)),
        Field::L4proto => "meta l4proto".into(),
        Field::Sport => "th sport".into(),
        Field::Dport => "th dport".into(),
        Field::Random(n) => format!("numgen random mod {n}"),
        Field::Any(f) => f.unspecified().to_string(),
    }
}

fn key_text(key: &[Field]) -> String {
    key.iter().map(|f| field_text(*f)).collect::<Vec<_>>().join(" . ")
}

impl std::fmt::Display for Stmt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = |n: &bool| if *n { "!= " } else { "" };
        match self {
            Stmt::IsFamily(Family::V4) => f.write_str("meta nfproto ipv4"),
            Stmt::IsFamily(Family::V6) => f.write_str("meta nfproto ipv6"),
            Stmt::IsProto(p) => write!(f, "meta l4proto {}", format!("{p:?}").to_lowercase()),
            Stmt::DportIn(a, b) if a == b => write!(f, "th dport {a}"),
            Stmt::DportIn(a, b) => write!(f, "th dport {a}-{b}"),
            Stmt::InCidr { field, cidr, negate } => write!(f, "{} {}{cidr}", field_text(*field), not(negate)),
            Stmt::InSet { key, set, negate } => write!(f, "{} {}@{set}", key_text(key), not(negate)),
            Stmt::VerdictMap { key, set } => write!(f, "{} vmap @{set}", key_text(key)),
            Stmt::DaddrIsLocal => f.write_str("fib daddr type local"),
            Stmt::SaddrIsLocal => f.write_str("fib saddr type local"),
            Stmt::NotFromLoopback => f.write_str("iif != lo"),
            Stmt::Established => f.write_str("ct state established,related"),
            Stmt::WasDnat => f.write_str("ct status dnat"),
            Stmt::MarkMasquerade => f.write_str("mark for masquerade"),
            Stmt::TakeMasqueradeMark => f.write_str("marked for masquerade, clear"),
            Stmt::DnatMap { key, set, .. } => write!(f, "dnat to {} map @{set}", key_text(key)),
            Stmt::AffinityHit { set, live, timeout_s, .. } => {
                write!(f, "dnat to the client's backend in @{set} if in @{live}, refresh {timeout_s}s")
            }
            Stmt::AffinityPick { backends, count, set, timeout_s, .. } => {
                write!(f, "dnat to one of {count} in @{backends}, keep in @{set} {timeout_s}s")
            }
            Stmt::Masquerade => f.write_str("masquerade"),
            Stmt::Reject => f.write_str("reject"),
            Stmt::Verdict(v) => f.write_str(&verdict_text(v)),
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&text.join("; "))
    }
}

/// Prints one element with the types of its set.
pub fn element_text(set: &Set, e: &Element) -> String {
    let mut text = bytes_text(&set.key, &e.key);
    match &e.end {
        Some(End::Address(last)) => _ = write!(text, " - {last}"),
        Some(End::Key(end)) => _ = write!(text, " - {}", bytes_text(&set.key, end)),
        None => {}
    }
    match (&e.data, &set.data) {
        (Data::Verdict(v), _) => {
            let _ = write!(text, " : {}", verdict_text(v));
        }
        (Data::Value(bytes), DataKind::Value(types)) => {
            let _ = write!(text, " : {}", bytes_text(types, bytes));
        }
        _ => {}
    }
    text
}

impl Part {
    /// The part as readable text; `known` has the sets of other parts that its elements refer to.
    pub fn text(&self, known: &[Set]) -> String {
        let mut out = String::new();
        for set in &self.sets {
            let kind = if set.data == DataKind::None { "set" } else { "map" };
            let _ = writeln!(out, "{kind} {}", set.name);
        }
        for chain in &self.chains {
            match chain.hook {
                Some(h) => _ = writeln!(out, "chain {} ({h:?})", chain.name),
                None => _ = writeln!(out, "chain {}", chain.name),
            }
            for rule in &chain.rules {
                let _ = writeln!(out, "  {rule}");
            }
        }
        for e in &self.elements {
            let set = self.sets.iter().chain(known).find(|s| s.name == e.set);
            let text = set.map_or_else(|| format!("{:?}", e.key), |s| element_text(s, e));
            let _ = writeln!(out, "{}: {text}", e.set);
        }
        out
    }
}
