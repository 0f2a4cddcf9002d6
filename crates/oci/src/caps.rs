//! Capabilities: names, the default set, and what the kernel is told.

use std::io;

/// Names in the order of their numbers.
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it asks otherwise; the set all runtimes agree on.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability that Kutter knows.
pub const ALL: u64 = (1 << NAMES.len()) - 1;

/// Bit of a capability, with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|n| *n == plain).map(|n| 1 << n)
}

/// The set of a container; the error names an unknown capability.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, String> {
    if privileged {
        return Ok(ALL);
    }
    let is_all = |list: &[String]| list.iter().any(|n| n.eq_ignore_ascii_case("all"));
    let bits = |list: &[String]| -> Result<u64, String> {
        let named = list.iter().filter(|n| !n.eq_ignore_ascii_case("all"));
        named
            .map(|n| bit(n).ok_or_else(|| format!("unknown capability {n:?}")))
            .try_fold(0, |all, b| Ok(all | b?))
    };
    let (added, dropped) = (bits(add)?, bits(drop)?);
    let default = DEFAULT.iter().filter_map(|n| bit(n)).fold(0, |all, b| all | b);
    let mut set = if is_all(add) { ALL } else { default };
    if is_all(drop) {
        set = 0;
    }
    Ok((set | added) & !dropped)
}

/// Those that this process has; a container cannot get more.
fn permitted() -> io::Result<u64> {
    Ok(get()?[1])
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Effective, permitted, inheritable.
fn get() -> io::Result<[u64; 3]> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [0u32; 6];
    // SAFETY: version 3 takes two triples, which is what the array holds.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) };
    nix::errno::Errno::result(result)?;
    Ok([0, 1, 2].map(|n| u64::from(data[n]) | u64::from(data[n + 3]) << 32))
}

fn put(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let mut data = [0u32; 6];
    for (n, set) in [effective, permitted, inheritable].into_iter().enumerate() {
        data[n] = set as u32;
        data[n + 3] = (set >> 32) as u32;
    }
    // SAFETY: version 3 takes two triples, which is what the array holds.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Ok(nix::errno::Errno::result(result).map(drop)?)
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: the options used here take plain numbers.
    Ok(nix::errno::Errno::result(unsafe { libc::prctl(option, a, b, 0, 0) })?)
}

/// Takes from the bounding set everything not in `set`.
pub fn bound(set: u64) -> io::Result<()> {
    for n in 0..64u64 {
        if set & (1 << n) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, n, 0) {
            Ok(_) => {}
            // Past the last that the kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Whether a change of user leaves the permitted set.
pub fn keep(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), 0).map(drop)
}

/// Makes what is permitted effective again after a change of user.
pub fn regain() -> io::Result<()> {
    let [_, permitted, inheritable] = get()?;
    put(permitted, permitted, inheritable)
}

/// The last word: exactly `set`, as far as it is permitted, and nothing inheritable.
pub fn set(set: u64) -> io::Result<()> {
    let set = set & permitted()?;
    put(set, set, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let list = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let default = resolve(false, &[], &[]).unwrap();
        assert_eq!(default.count_ones(), 14);
        for (add, drop, want) in [
            (list(&[]), list(&["ALL"]), 0),
            (list(&["CAP_SYS_TIME"]), list(&["all"]), 1 << 25),
            (list(&["net_admin"]), list(&["KILL"]), (default | 1 << 12) & !(1 << 5)),
            (list(&["ALL"]), list(&["CHOWN"]), ALL & !1),
        ] {
            assert_eq!(resolve(false, &add, &drop).unwrap(), want, "{add:?} {drop:?}");
        }
        assert_eq!(resolve(false, &list(&["FLY"]), &[]).unwrap_err(), "unknown capability \"FLY\"");
        assert_eq!(resolve(true, &[], &list(&["ALL"])).unwrap(), ALL);
    }
}
