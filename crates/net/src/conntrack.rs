//! Connection tracking: UDP flows that still go to a backend that is gone are forgotten.

use std::net::IpAddr;

use netplan::services::UdpFrontend;

use crate::netlink::{Buffer, NetlinkError, Socket, attributes};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

type Point = (IpAddr, u16);

/// A tracked UDP flow: where the client sent to, and who answers.
struct Flow {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    to: Point,
    from: Point,
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Source, destination, protocol and ports of a tuple.
fn tuple(bytes: &[u8]) -> Option<(Point, Point, u8)> {
    let (mut source, mut destination, mut proto, mut ports) = (None, None, 0, (0, 0));
    for (kind, value) in attributes(bytes) {
        for (inner, v) in attributes(value) {
            match (kind, inner) {
                (1, 1 | 3) => source = address(v),
                (1, 2 | 4) => destination = address(v),
                (2, 1) => proto = *v.first()?,
                (2, 2) => ports.0 = u16::from_be_bytes(v.try_into().ok()?),
                (2, 3) => ports.1 = u16::from_be_bytes(v.try_into().ok()?),
                _ => {}
            }
        }
    }
    Some(((source?, ports.0), (destination?, ports.1), proto))
}

fn flow(body: &[u8]) -> Option<Flow> {
    let (head, rest) = body.split_first_chunk::<4>()?;
    let (mut original, mut reply, mut zone) = (None, None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            1 => original = Some(value),
            2 => reply = Some(value),
            18 => zone = Some(value.to_vec()),
            _ => {}
        }
    }
    let (_, to, proto) = tuple(original?)?;
    let (from, _, _) = tuple(reply?)?;
    (proto == 17).then(|| Flow {
        family: head[0],
        original: original.unwrap_or_default().to_vec(),
        zone,
        to,
        from,
    })
}

/// A flow to a frontend that is answered by none of its backends.
fn is_stale(f: &Flow, frontends: &[UdpFrontend], own: &[IpAddr]) -> bool {
    let hit = frontends.iter().find(|u| {
        let same = u.address.map_or_else(|| own.contains(&f.to.0), |a| a == f.to.0);
        same && u.port == f.to.1 && u.backends.iter().all(|b| b.0.is_ipv4() == f.to.0.is_ipv4())
    });
    hit.is_some_and(|u| !u.backends.contains(&f.from))
}

/// Forgets the stale flows of `frontends`; `own` has the node's addresses, for node ports. Gives how many.
pub fn forget_stale(
    socket: &Socket,
    frontends: &[UdpFrontend],
    own: &[IpAddr],
) -> Result<usize, NetlinkError> {
    if frontends.is_empty() {
        return Ok(0);
    }
    let mut stale = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut b = Buffer::new();
        b.message(GET, 0, &[family as u8, 0, 0, 0], "list tracked connections");
        socket.dump(b, |_, body| stale.extend(flow(body).filter(|f| is_stale(f, frontends, own))))?;
    }
    let mut b = Buffer::new();
    for f in &stale {
        b.message(DELETE, 0, &[f.family, 0, 0, 0], "forget a tracked connection");
        b.bytes(1 | 0x8000, &f.original);
        if let Some(zone) = &f.zone {
            b.bytes(18, zone);
        }
    }
    // A flow may have expired meanwhile.
    let refused = socket.run(b)?.into_iter().find(|e| !e.missing());
    refused.map_or(Ok(stale.len()), Err)
}
