//! Kernel settings of the current thread's network namespace.

use std::io;

/// A setting could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("set the kernel setting {name} to {value}")]
pub struct SysctlError {
    name: String,
    value: String,
    #[source]
    source: io::Error,
}

/// Sets `name` (as a path below /proc/sys), unless it already has the value: a read-only /proc/sys is fine then.
pub fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = format!("/proc/sys/{name}");
    if std::fs::read_to_string(&path).is_ok_and(|have| have.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| SysctlError {
        name: name.into(),
        value: value.into(),
        source,
    })
}

/// What a node needs: forwarding, and node ports on 127.0.0.1. Gives the settings that were refused.
pub fn prepare_node() -> Vec<SysctlError> {
    let wanted = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/route_localnet", "1"),
        // Pods and tunnels share a path through the host: the host must not tell pods to go around it.
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        // Upstream's proxy keeps idle connections for a day, and those that one side has closed for an hour.
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "86400"),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "3600"),
    ];
    wanted.iter().filter_map(|(n, v)| set(n, v).err()).collect()
}
