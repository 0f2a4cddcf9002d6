//! Statements of rules as nftables expressions over registers.

use netplan::cidr::{Cidr, Family, from_number};
use netplan::ruleset::{Field, KeyBuilder, Rule, Stmt, Type};

use super::encode::{value, verdict};
use crate::netlink::{Buffer, Nest};

/// The first of sixteen four-byte registers.
const R0: u32 = 8;
const VERDICT: u32 = 0;
/// The packet mark that asks for source translation.
const MASQUERADE_MARK: u32 = 0x4000;

/// Writes all expressions of a rule.
pub(super) fn rule(b: &mut Buffer, rule: &Rule) {
    let mut family = None;
    for stmt in &rule.0 {
        let wanted = match stmt {
            Stmt::IsFamily(f)
            | Stmt::DnatMap { family: f, .. }
            | Stmt::AffinityHit { family: f, .. }
            | Stmt::AffinityPick { family: f, .. } => Some(*f),
            Stmt::InCidr { cidr, .. } => Some(cidr.family()),
            Stmt::InSet { key, .. } | Stmt::VerdictMap { key, .. } => key.iter().find_map(field_family),
            _ => None,
        };
        // Addresses sit at family-dependent places: look only at packets of the family.
        if let (Some(f), None) = (wanted, family) {
            family = Some(f);
            let number = if f == Family::V4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 };
            meta(b, 15, R0);
            compare(b, R0, 0, &[number as u8]);
        }
        statement(b, stmt);
    }
}

fn field_family(f: &Field) -> Option<Family> {
    match f {
        Field::Saddr(f) | Field::Daddr(f) | Field::Any(f) => Some(*f),
        _ => None,
    }
}

fn statement(b: &mut Buffer, stmt: &Stmt) {
    match stmt {
        Stmt::IsFamily(_) => {}
        Stmt::IsProto(p) => {
            meta(b, 16, R0);
            compare(b, R0, 0, &[p.number()]);
        }
        Stmt::DportIn(from, to) => {
            load(b, Field::Dport, R0);
            if from == to {
                compare(b, R0, 0, &from.to_be_bytes());
            } else {
                compare(b, R0, 5, &from.to_be_bytes());
                compare(b, R0, 3, &to.to_be_bytes());
            }
        }
        Stmt::InCidr { field, cidr, negate } => in_cidr(b, *field, cidr, *negate),
        Stmt::InSet { key, set, negate } => {
            load_key(b, key, R0);
            lookup(b, set, R0, None, *negate);
        }
        Stmt::VerdictMap { key, set } => {
            load_key(b, key, R0);
            lookup(b, set, R0, Some(VERDICT), false);
        }
        Stmt::DaddrIsLocal => fib_is_local(b, 2),
        Stmt::SaddrIsLocal => fib_is_local(b, 1),
        Stmt::NotFromLoopback => {
            meta(b, 8, R0);
            compare(b, R0, 1, &libc::ARPHRD_LOOPBACK.to_ne_bytes());
        }
        Stmt::Established => ct_bits(b, 0, 2 | 4),
        Stmt::WasDnat => ct_bits(b, 2, 0x20),
        Stmt::MarkMasquerade => set_mark(b, MASQUERADE_MARK),
        Stmt::TakeMasqueradeMark => {
            meta(b, 3, R0);
            bitwise(b, R0, &MASQUERADE_MARK.to_ne_bytes(), &[0; 4]);
            compare(b, R0, 1, &[0; 4]);
            set_mark(b, 0);
        }
        Stmt::DnatMap { family, key, set } => {
            load_key(b, key, R0);
            lookup(b, set, R0, Some(R0), false);
            dnat(b, *family, R0);
        }
        Stmt::AffinityHit { family, key, set, live, timeout_s } => {
            let client = load_key(b, key, R0);
            load(b, Field::Saddr(*family), client);
            let kept = client + registers(*family);
            lookup(b, set, R0, Some(kept), false);
            dynset(b, 1, set, R0, kept, *timeout_s);
            // The backend right behind the frontend is the key of the live set.
            lookup(b, set, R0, Some(client), false);
            lookup(b, live, R0, None, false);
            dnat(b, *family, client);
        }
        Stmt::AffinityPick { family, key, backends, count, set, timeout_s } => {
            let client = load_key(b, key, R0);
            load(b, Field::Random(*count), client);
            let picked = client + registers(*family);
            lookup(b, backends, R0, Some(picked), false);
            load(b, Field::Saddr(*family), client);
            // An entry of a backend that is gone would keep its old value: remove, then add.
            dynset(b, 2, set, R0, picked, *timeout_s);
            dynset(b, 1, set, R0, picked, *timeout_s);
            dnat(b, *family, picked);
        }
        Stmt::Masquerade => {
            let e = open(b, "masq");
            b.be32(1, 16);
            close(b, e);
        }
        Stmt::Reject => reject(b),
        Stmt::Verdict(v) => {
            let e = open(b, "immediate");
            b.be32(1, VERDICT);
            verdict(b, 2, v);
            close(b, e);
        }
    }
}

struct Expression(Nest, Nest);

fn open(b: &mut Buffer, name: &str) -> Expression {
    let element = b.nest(1);
    b.text(1, name);
    Expression(element, b.nest(2))
}

fn close(b: &mut Buffer, e: Expression) {
    b.end(e.1);
    b.end(e.0);
}

/// Registers that an address takes.
fn registers(family: Family) -> u32 {
    Type::Ip(family).size() as u32 / 4
}

fn load_key(b: &mut Buffer, key: &[Field], first: u32) -> u32 {
    let mut register = first;
    for field in key {
        load(b, *field, register);
        register += field_family(field).map_or(1, registers);
    }
    register
}

fn load(b: &mut Buffer, field: Field, register: u32) {
    match field {
        Field::Saddr(Family::V4) => payload(b, register, 1, 12, 4),
        Field::Saddr(Family::V6) => payload(b, register, 1, 8, 16),
        Field::Daddr(Family::V4) => payload(b, register, 1, 16, 4),
        Field::Daddr(Family::V6) => payload(b, register, 1, 24, 16),
        Field::L4proto => meta(b, 16, register),
        Field::Sport => payload(b, register, 2, 0, 2),
        Field::Dport => payload(b, register, 2, 2, 2),
        Field::Random(count) => {
            let e = open(b, "numgen");
            b.be32(1, register);
            b.be32(2, count);
            b.be32(3, 1);
            close(b, e);
        }
        Field::Any(f) => {
            let e = open(b, "immediate");
            b.be32(1, register);
            value(b, 2, &KeyBuilder::new().ip(f.unspecified()).done());
            close(b, e);
        }
    }
}

fn payload(b: &mut Buffer, register: u32, base: u32, offset: u32, length: u32) {
    let e = open(b, "payload");
    b.be32(1, register);
    b.be32(2, base);
    b.be32(3, offset);
    b.be32(4, length);
    close(b, e);
}

fn meta(b: &mut Buffer, key: u32, register: u32) {
    let e = open(b, "meta");
    b.be32(1, register);
    b.be32(2, key);
    close(b, e);
}

fn set_mark(b: &mut Buffer, bits: u32) {
    meta(b, 3, R0);
    bitwise(b, R0, &(!MASQUERADE_MARK).to_ne_bytes(), &bits.to_ne_bytes());
    let e = open(b, "meta");
    b.be32(2, 3);
    b.be32(3, R0);
    close(b, e);
}

fn compare(b: &mut Buffer, register: u32, operation: u32, with: &[u8]) {
    let e = open(b, "cmp");
    b.be32(1, register);
    b.be32(2, operation);
    value(b, 3, with);
    close(b, e);
}

fn bitwise(b: &mut Buffer, register: u32, mask: &[u8], xor: &[u8]) {
    let e = open(b, "bitwise");
    b.be32(1, register);
    b.be32(2, register);
    b.be32(3, mask.len() as u32);
    value(b, 4, mask);
    value(b, 5, xor);
    close(b, e);
}

fn lookup(b: &mut Buffer, set: &str, from: u32, to: Option<u32>, negate: bool) {
    let e = open(b, "lookup");
    b.text(1, set);
    b.be32(2, from);
    if let Some(to) = to {
        b.be32(3, to);
    }
    if negate {
        b.be32(5, 1);
    }
    close(b, e);
}

fn in_cidr(b: &mut Buffer, field: Field, cidr: &Cidr, negate: bool) {
    load(b, field, R0);
    let family = cidr.family();
    let bytes = |a| KeyBuilder::new().ip(a).done();
    if cidr.length() < family.bits() {
        let free = u32::from(family.bits() - cidr.length());
        let mask = from_number(family, u128::MAX.checked_shl(free).unwrap_or(0));
        bitwise(b, R0, &bytes(mask), &bytes(family.unspecified()));
    }
    compare(b, R0, u32::from(negate), &bytes(cidr.first()));
}

fn fib_is_local(b: &mut Buffer, which: u32) {
    let e = open(b, "fib");
    b.be32(1, R0);
    b.be32(2, 3);
    b.be32(3, which);
    close(b, e);
    compare(b, R0, 0, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
}

fn ct_bits(b: &mut Buffer, key: u32, bits: u32) {
    let e = open(b, "ct");
    b.be32(1, R0);
    b.be32(2, key);
    close(b, e);
    bitwise(b, R0, &bits.to_ne_bytes(), &[0; 4]);
    compare(b, R0, 1, &[0; 4]);
}

/// Destination translation to the address and port in registers from `register` on. The family is in the rule's
/// first comparison, as the table holds both.
fn dnat(b: &mut Buffer, family: Family, register: u32) {
    let e = open(b, "nat");
    b.be32(1, 1);
    b.be32(2, if family == Family::V4 { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 } as u32);
    b.be32(3, register);
    b.be32(5, register + registers(family));
    close(b, e);
}

fn dynset(b: &mut Buffer, operation: u32, set: &str, key: u32, data: u32, timeout_s: u32) {
    let e = open(b, "dynset");
    b.text(1, set);
    b.be32(3, operation);
    b.be32(4, key);
    b.be32(5, data);
    b.bytes(6, &(u64::from(timeout_s) * 1000).to_be_bytes());
    close(b, e);
}

/// Port unreachable in the packet's own family. TCP clients see a refused connection from it, too.
fn reject(b: &mut Buffer) {
    let e = open(b, "reject");
    b.be32(1, 2);
    b.bytes(2, &[1]);
    close(b, e);
}
