//! Seccomp filters: the runtime's default profile, profiles from files, and the BPF programs made from them.
//!
//! - [`profile`]: the JSON form that container runtimes share, and what it comes to for a process.
//! - [`default`]: what a container may do that asks for `RuntimeDefault`.
//! - [`program`]: rules as a BPF program.
//! - [`calls`]: names and numbers of system calls.
//!
//! Only calls of the machine's own architecture are allowed: what comes through another one is treated like a call
//! that the profile does not name.

mod calls;
mod default;
mod profile;
mod program;

use std::io;
use std::path::Path;

/// Installs a program (one instruction a number: code, jt, jf, k from the top); none when it is empty.
pub fn install(program: &[u64]) -> io::Result<()> {
    if program.is_empty() {
        return Ok(());
    }
    let filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|i| libc::sock_filter {
            code: (i >> 48) as u16,
            jt: (i >> 40) as u8,
            jf: (i >> 32) as u8,
            k: *i as u32,
        })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::other("filter is too long"))?;
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its filter live through the call, which only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Ok(nix::errno::Errno::result(result).map(drop)?)
}

/// The runtime's default list for a process with these capabilities (a bit set, CAP_CHOWN lowest).
pub fn runtime_default(capabilities: u64) -> Vec<u64> {
    program::compile(&default::rules(capabilities))
}

/// A profile from a file, in the JSON form of container runtimes, for a process with these capabilities.
pub fn from_file(path: &Path, capabilities: u64) -> Result<Vec<u64>, String> {
    let failed = |cause: String| format!("seccomp profile {}: {cause}", path.display());
    let text = std::fs::read(path).map_err(|cause| failed(cause.to_string()))?;
    let rules = profile::read(&text, capabilities).map_err(failed)?;
    Ok(program::compile(&rules))
}
