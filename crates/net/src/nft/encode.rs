//! Batches of the rule table as netlink messages. Numbers are those of linux/netfilter/nf_tables.h.

use std::net::IpAddr;

use netplan::cidr::{Family, from_number, number};
use netplan::ruleset::{Chain, Data, DataKind, Element, End, Hook, KeyBuilder, Rule, Set, Type, Verdict};
use netplan::table::{Batch, Op};

use super::express;
use crate::netlink::{Buffer, flags};

const SUBSYSTEM: u16 = 10 << 8;
const INET: u8 = 1;
/// Elements of one message stay below the 64 KiB that a nested attribute can say.
const MESSAGE_BYTES_MAX: usize = 60_000;
/// Clients that session affinity remembers.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

fn begin(b: &mut Buffer) {
    b.message(16, 0, &[0, 0, 0, 10], "begin a rule transaction");
}

fn end(b: &mut Buffer) {
    b.message(17, 0, &[0, 0, 0, 10], "commit a rule transaction");
}

fn message(b: &mut Buffer, kind: u16, flags: u16, what: impl Into<String>) {
    b.message(SUBSYSTEM | kind, flags, &[INET, 0, 0, 0], what);
}

/// Messages that remove the table, whether it exists or not.
pub(super) fn remove(t: &str) -> Buffer {
    let mut b = Buffer::new();
    begin(&mut b);
    table(&mut b, t, 0, flags::CREATE, "create the rule table");
    table(&mut b, t, 2, 0, "delete the rule table");
    end(&mut b);
    b
}

fn table(b: &mut Buffer, t: &str, kind: u16, flags: u16, what: &str) {
    message(b, kind, flags, what);
    b.text(1, t);
}

/// The messages of a batch.
pub(super) fn batch(t: &str, batch: &Batch) -> Buffer {
    let mut b = Buffer::new();
    begin(&mut b);
    if batch.replace {
        table(&mut b, t, 0, flags::CREATE, "create the rule table");
        table(&mut b, t, 2, 0, "delete the rule table");
        table(&mut b, t, 0, flags::CREATE, "create the rule table");
    }
    let mut list = ElementList::default();
    for op in &batch.ops {
        match op {
            Op::AddElement(e) => list.push(&mut b, t, 12, e),
            Op::DelElement(e) => list.push(&mut b, t, 14, e),
            other => {
                list.close(&mut b);
                frame(&mut b, t, other);
            }
        }
    }
    list.close(&mut b);
    end(&mut b);
    b
}

fn frame(b: &mut Buffer, t: &str, op: &Op) {
    match op {
        Op::AddSet(s) => set(b, t, s),
        Op::AddChain(c) => chain(b, t, c),
        Op::FlushChain(name) => {
            message(b, 8, 0, format!("empty the rule chain {name}"));
            b.text(1, t);
            b.text(2, name);
        }
        Op::AddRules(c) => c.rules.iter().for_each(|r| rule(b, t, &c.name, r)),
        Op::DelChain(name) => {
            message(b, 5, 0, format!("delete the rule chain {name}"));
            b.text(1, t);
            b.text(3, name);
        }
        Op::DelSet(name) => {
            message(b, 11, 0, format!("delete the rule set {name}"));
            b.text(1, t);
            b.text(2, name);
        }
        Op::AddElement(_) | Op::DelElement(_) => {}
    }
}

/// Type numbers as `nft list` knows them, so that a person can read the table.
fn type_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |n, t| {
        (n << 6)
            | match t {
                Type::Ip(Family::V4) => 7,
                Type::Ip(Family::V6) => 8,
                Type::Proto => 12,
                Type::Port => 13,
                Type::Number => 19,
            }
    })
}

fn set(b: &mut Buffer, t: &str, s: &Set) {
    message(b, 9, flags::CREATE, format!("create the rule set {}", s.name));
    b.text(1, t);
    b.text(2, &s.name);
    let concatenated = s.interval && s.key.len() > 1;
    let bits =
        [(s.interval, 4_u32), (s.data != DataKind::None, 8), (s.dynamic, 0x10 | 0x20), (concatenated, 0x80)];
    b.be32(3, bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum());
    b.be32(4, type_number(&s.key));
    b.be32(5, s.key.iter().map(|t| t.size() as u32).sum());
    match &s.data {
        DataKind::None => {}
        DataKind::Verdict => b.be32(6, 0xffff_ff00),
        DataKind::Value(types) => {
            b.be32(6, type_number(types));
            b.be32(7, types.iter().map(|t| t.size() as u32).sum());
        }
    }
    // The transaction-local id is mandatory; lookups go by name.
    b.be32(10, set_id(&s.name));
    if s.dynamic || concatenated {
        let description = b.nest(9);
        if s.dynamic {
            b.be32(1, AFFINITY_CLIENTS_MAX);
        }
        if concatenated {
            let fields = b.nest(2);
            for part in &s.key {
                let field = b.nest(1);
                b.be32(1, field_len(*part));
                b.end(field);
            }
            b.end(fields);
        }
        b.end(description);
    }
}

/// Bytes of a field without padding.
fn field_len(t: Type) -> u32 {
    match t {
        Type::Proto => 1,
        Type::Port => 2,
        other => other.size() as u32,
    }
}

fn set_id(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h: u32, c| (h ^ u32::from(c)).wrapping_mul(0x0100_0193))
}

fn chain(b: &mut Buffer, t: &str, c: &Chain) {
    message(b, 3, flags::CREATE, format!("create the rule chain {}", c.name));
    b.text(1, t);
    b.text(3, &c.name);
    let Some(hook) = c.hook else { return };
    let (number, priority, kind) = match hook {
        Hook::PreFilter => (0, -110, "filter"),
        Hook::PreNat => (0, -100, "nat"),
        Hook::PostDnat => (0, -90, "filter"),
        Hook::OutFilter => (3, -110, "filter"),
        Hook::OutNat => (3, -100, "nat"),
        Hook::OutPostDnat => (3, -90, "filter"),
        Hook::Forward => (2, 0_i32, "filter"),
        Hook::PostNat => (4, 100, "nat"),
    };
    let nest = b.nest(4);
    b.be32(1, number);
    b.bytes(2, &priority.to_be_bytes());
    b.end(nest);
    b.text(7, kind);
}

fn rule(b: &mut Buffer, t: &str, chain: &str, rule: &Rule) {
    message(b, 6, flags::CREATE | flags::APPEND, format!("add to the rule chain {chain}: {rule}"));
    b.text(1, t);
    b.text(2, chain);
    let list = b.nest(4);
    express::rule(b, rule);
    b.end(list);
}

/// Writes a verdict as data.
pub(super) fn verdict(b: &mut Buffer, kind: u16, v: &Verdict) {
    let (code, chain) = match v {
        Verdict::Drop => (0_i32, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(c) => (-3, Some(c)),
        Verdict::Goto(c) => (-4, Some(c)),
        Verdict::Return => (-5, None),
    };
    let data = b.nest(kind);
    let v = b.nest(2);
    b.bytes(1, &code.to_be_bytes());
    if let Some(c) = chain {
        b.text(2, c);
    }
    b.end(v);
    b.end(data);
}

/// Writes a value as data.
pub(super) fn value(b: &mut Buffer, kind: u16, bytes: &[u8]) {
    let data = b.nest(kind);
    b.bytes(1, bytes);
    b.end(data);
}

/// Consecutive elements of one set share messages.
#[derive(Default)]
struct ElementList {
    open: Option<(u16, String, crate::netlink::Nest)>,
}

impl ElementList {
    fn push(&mut self, b: &mut Buffer, t: &str, kind: u16, e: &Element) {
        let same = self.open.as_ref().is_some_and(|(k, s, _)| *k == kind && *s == e.set);
        if !same || b.message_len() > MESSAGE_BYTES_MAX {
            self.close(b);
            let verb = if kind == 12 { "add elements to" } else { "remove elements from" };
            message(
                b,
                kind,
                if kind == 12 { flags::CREATE } else { 0 },
                format!("{verb} the rule set {}", e.set),
            );
            b.text(1, t);
            b.text(2, &e.set);
            self.open = Some((kind, e.set.to_string(), b.nest(3)));
        }
        element(b, e, kind == 12);
        if let Some(End::Address(last)) = &e.end {
            range_end(b, *last);
        }
    }

    fn close(&mut self, b: &mut Buffer) {
        if let Some((_, _, nest)) = self.open.take() {
            b.end(nest);
        }
    }
}

fn element(b: &mut Buffer, e: &Element, with_data: bool) {
    let nest = b.nest(1);
    value(b, 1, &e.key);
    if let Some(End::Key(end)) = &e.end {
        value(b, 10, end);
    }
    match &e.data {
        Data::Verdict(v) if with_data => verdict(b, 2, v),
        Data::Value(v) if with_data => value(b, 2, v),
        _ => {}
    }
    b.end(nest);
}

/// Ranges of addresses are two elements: the first address and, flagged, the one after the last.
fn range_end(b: &mut Buffer, last: IpAddr) {
    let family = Family::of(last);
    if number(last) == number(netplan::Cidr::new(family.unspecified(), 0).last()) {
        return;
    }
    let nest = b.nest(1);
    value(b, 1, &KeyBuilder::new().ip(from_number(family, number(last) + 1)).done());
    b.be32(3, 1);
    b.end(nest);
}
