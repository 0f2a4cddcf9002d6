//! The process as Prometheus' libraries show it, from `/proc/self`.

use base::exposition::Text;

/// Ticks of the kernel's clock in a second, as every Linux has them.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

/// Adds what is known of the process and its build.
pub fn show(out: &mut Text) {
    build(out);
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let stat = read("stat");
    // The second field is a name in parentheses, which may hold spaces.
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    let mut one = |name: &str, kind: &str, help: &str, value: f64| {
        out.family(name, kind, help);
        out.sample(name, &[], value);
    };
    let cpu = (field(14) + field(15)) / TICKS;
    one("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu);
    one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24) * PAGE);
    one("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    let booted = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok());
    if let Some(booted) = booted {
        let started = booted + field(22) / TICKS;
        one(
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            started,
        );
    }
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    one("process_open_fds", "gauge", "Number of open file descriptors.", open as f64);
    let limits = read("limits");
    let limit =
        limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    if let Some(limit) = limit.and_then(|limit| limit.parse().ok()) {
        one("process_max_fds", "gauge", "Maximum number of open file descriptors.", limit);
    }
}

fn build(out: &mut Text) {
    let version = crate::plain::version();
    let text = |field: &str| version[field].as_str().unwrap_or("").to_owned();
    let pairs = [
        ("build_date", text("buildDate")),
        ("compiler", text("compiler")),
        ("git_commit", text("gitCommit")),
        ("git_tree_state", text("gitTreeState")),
        ("git_version", text("gitVersion")),
        ("go_version", text("goVersion")),
        ("major", text("major")),
        ("minor", text("minor")),
        ("platform", text("platform")),
    ];
    let labels: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    out.family("kubernetes_build_info", "gauge", "[BETA] What was built, as labels of a constant 1.");
    out.sample("kubernetes_build_info", &labels, 1.0);
}
