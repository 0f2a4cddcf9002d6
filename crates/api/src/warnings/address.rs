//! Addresses in forms that other programs read differently.

use std::net::IpAddr;

use super::Found;
use crate::validation::check::At;
use crate::validation::net;

/// Warns of an address with leading zeros, an IPv4 address in an IPv6 one, or an IPv6 address in a long form.
pub fn ip(at: &At<'_>, found: &mut Found) {
    let text = at.text();
    let Some(address) = net::sloppy(text) else { return };
    let plain = text.parse::<IpAddr>().ok();
    match plain {
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            if v6.to_string() != text {
                found.push(format!(
                    "{}: IPv6 address {text:?} should be in RFC 5952 canonical format ({:?})",
                    at.place(),
                    v6.to_string()
                ));
            }
        }
        Some(IpAddr::V4(_)) => {}
        _ => {
            let better = address.to_canonical().to_string();
            found
                .push(format!("{}: non-standard IP address {text:?} is invalid: use {better:?}", at.place()));
        }
    }
}

/// Warns of a range with bits behind its length, or written as [`ip`] warns of.
pub fn cidr(at: &At<'_>, found: &mut Found) {
    let text = at.text();
    let Some((address, length)) = net::parse_cidr(text) else { return };
    let network = net::masked(address, length);
    let before = found.len();
    if network != address {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        found.push(format!(
            "{}: CIDR value {text:?} is ambiguous in this context (should be \"{network}/{length}\" or \"{address}/{bits}\"?)",
            at.place()
        ));
    }
    let written = text.split_once('/').and_then(|(ip, _)| ip.parse::<IpAddr>().ok());
    match written {
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => {
            let better = format!("{v6}/{length}");
            if found.len() == before && better != text {
                found.push(format!(
                    "{}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({better:?})",
                    at.place()
                ));
            }
        }
        Some(IpAddr::V4(_)) => {}
        _ => {
            found.push(format!(
                "{}: non-standard CIDR value {text:?} is invalid: use \"{}/{length}\"",
                at.place(),
                network.to_canonical()
            ));
        }
    }
}
