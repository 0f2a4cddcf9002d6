//! Facts of the machine: processors, memory, kernel, boot.

use std::fs;

/// What the Node object says of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors usable here.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory: u64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's uuid, or the machine id.
    pub system_uuid: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// Name of the distribution.
    pub os_image: String,
    /// `amd64`, `arm64`, …
    pub arch: String,
}

fn text(path: &str) -> String {
    fs::read_to_string(path).map(|t| t.trim().to_string()).unwrap_or_default()
}

/// A line `name: N kB` of /proc/meminfo, in bytes.
pub fn meminfo(name: &str) -> u64 {
    let table = text("/proc/meminfo");
    let line = table.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Reads the machine's facts.
pub fn machine() -> Machine {
    let release = text("/etc/os-release");
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    let machine_id = text("/etc/machine-id");
    let uuid = text("/sys/class/dmi/id/product_uuid");
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory: meminfo("MemTotal"),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty.map_or("Linux".into(), |p| p.trim_matches('"').to_string()),
        arch: match std::env::consts::ARCH {
            "x86_64" => "amd64".into(),
            "aarch64" => "arm64".into(),
            other => other.into(),
        },
    }
}

/// How many processes there can be.
pub fn pid_max() -> u64 {
    std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
}

/// How many processes and threads there are.
pub fn processes() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let field = text.split_whitespace().nth(3).and_then(|f| f.split('/').nth(1));
    field.and_then(|n| n.parse().ok()).unwrap_or(0)
}
