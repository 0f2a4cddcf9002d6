//! Control groups of version 1, 2 and both at once.
//!
//! A path such as `/kubepods/burstable/pod1/c1` names the same group in every hierarchy. Limits go to
//! whichever hierarchy has the controller; killing uses version 2 where it is mounted at all. The kubelet
//! makes the groups of pods with the same code.

use crate::config::Resources;
use crate::proto::now;
use crate::state::{CpuStats, MemoryStats, Pressure, Pressures};
use std::io;
use std::path::{Path, PathBuf};

/// Version 1 hierarchies that containers are put in; the others have nothing that is asked for.
const USED: &[&str] = &["cpu", "cpuacct", "memory", "pids", "cpuset", "devices", "hugetlb"];

/// Nodes that every container may use: null, zero, full, random, urandom, tty, ptmx, terminals; and making
/// (not opening) any.
const DEVICES: &[&str] = &[
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The hierarchies of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Version 1: controllers and where they are mounted.
    pub v1: Vec<(Vec<String>, PathBuf)>,
    /// Version 2, where it is mounted.
    pub v2: Option<PathBuf>,
    /// Version 1 with controllers that are not used here; other runtimes make groups in them too.
    pub unused: Vec<PathBuf>,
}

impl Cgroups {
    /// What is mounted for this process.
    pub fn detect() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
    }

    /// What a `mountinfo` says.
    pub fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup2"), _) => found.v2 = Some(point),
                (Some("cgroup"), Some(options)) => {
                    let controllers: Vec<String> =
                        options.split(',').filter(|o| USED.contains(o)).map(str::to_owned).collect();
                    if controllers.is_empty() {
                        found.unused.push(point);
                    } else if !found.v1.iter().any(|(c, _)| *c == controllers) {
                        found.v1.push((controllers, point));
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// True when limits go to version 2.
    pub fn unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// The directory of `path` in the hierarchy that has `controller`.
    pub fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let v1 = self.v1.iter().find(|(c, _)| c.iter().any(|c| c == controller)).map(|(_, p)| p);
        let root = v1.or(if self.unified() { self.v2.as_ref() } else { None })?;
        Some(join(root, path))
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().map(|(_, p)| p).chain(&self.v2)
    }

    /// Makes the group in every hierarchy, with its parents.
    pub fn create(&self, path: &str) -> io::Result<()> {
        for root in self.roots() {
            let mut dir = root.clone();
            for part in path.split('/').filter(|p| !p.is_empty()) {
                if self.unified() {
                    delegate(&dir);
                }
                dir.push(part);
                match std::fs::create_dir(&dir) {
                    // Who made an existing one may not have come to its sets yet.
                    Ok(()) => inherit_cpuset(&dir),
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => inherit_cpuset(&dir),
                    Err(e) => return Err(named(e, "create cgroup", &dir)),
                }
            }
        }
        Ok(())
    }

    /// Moves the calling process into the group.
    pub fn enter(&self, path: &str) -> io::Result<()> {
        for root in self.roots() {
            let file = join(root, path).join("cgroup.procs");
            std::fs::write(&file, "0").map_err(|e| named(e, "enter cgroup", &file))?;
        }
        Ok(())
    }

    /// Writes limits; answers what this machine cannot do.
    pub fn apply(&self, path: &str, resources: &Resources) -> io::Result<Vec<String>> {
        let mut notes = vec![];
        // A limit that must not be above or below another one may have to wait until that has changed.
        let mut later = vec![];
        for (controller, file, value) in settings(resources, self.unified()) {
            let Some(dir) = self.dir(controller, path) else {
                notes.push(format!("no {controller} controller: {file} is not limited"));
                continue;
            };
            let file = dir.join(&file);
            match std::fs::write(&file, &value) {
                Ok(()) => {}
                // Limits of swap are absent without swap accounting.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    notes.push(format!("{} does not exist: not limited", file.display()));
                }
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => later.push((file, value)),
                Err(e) => return Err(named(e, &format!("write {value:?} to"), &file)),
            }
        }
        for (file, value) in later {
            std::fs::write(&file, &value).map_err(|e| named(e, &format!("write {value:?} to"), &file))?;
        }
        Ok(notes)
    }

    /// Closes devices but the harmless ones and `extra` (lines such as `c 10:200 rwm`).
    pub fn limit_devices(&self, path: &str, extra: &[String]) -> io::Result<()> {
        let Some(dir) = self.v1.iter().find(|(c, _)| c.iter().any(|c| c == "devices")) else {
            return Ok(());
        };
        let dir = join(&dir.1, path);
        std::fs::write(dir.join("devices.deny"), "a")?;
        let allow = dir.join("devices.allow");
        DEVICES
            .iter()
            .copied()
            .chain(extra.iter().map(String::as_str))
            .try_for_each(|l| std::fs::write(&allow, l))
    }

    /// Processes of the group itself.
    pub fn pids(&self, path: &str) -> Vec<i32> {
        let root = self.v2.as_ref().or_else(|| self.v1.first().map(|(_, p)| p));
        let text = root.and_then(|r| std::fs::read_to_string(join(r, path).join("cgroup.procs")).ok());
        text.unwrap_or_default().lines().filter_map(|l| l.parse().ok()).collect()
    }

    /// Kills every process of the group and below.
    pub fn kill(&self, path: &str) {
        let at_once =
            self.v2.as_ref().map(|root| std::fs::write(join(root, path).join("cgroup.kill"), "1").is_ok());
        // Beside version 1, another runtime may have put nothing into version 2.
        match (self.v1.first(), &self.v2) {
            (Some((_, root)), _) => kill_tree(&join(root, path)),
            (None, Some(root)) if at_once == Some(false) => kill_tree(&join(root, path)),
            _ => {}
        }
    }

    /// Whether any hierarchy has the group.
    pub fn exists(&self, path: &str) -> bool {
        self.roots().any(|root| join(root, path).is_dir())
    }

    /// Removes the group everywhere, deepest first; true when nothing of it is left.
    pub fn remove(&self, path: &str) -> bool {
        // Plain iteration: every hierarchy must be tried.
        let left = self.roots().chain(&self.unused).filter(|root| !remove_tree(&join(root, path))).count();
        left == 0
    }

    /// Use of CPU.
    pub fn cpu(&self, path: &str) -> CpuStats {
        let usage = if self.unified() {
            self.dir("cpu", path).and_then(|d| field(&d.join("cpu.stat"), "usage_usec")).map(|us| us * 1000)
        } else {
            self.dir("cpuacct", path).and_then(|d| number(&d.join("cpuacct.usage")))
        };
        CpuStats { timestamp: now(), usage_core_nanoseconds: usage.unwrap_or(0) }
    }

    /// Use of memory.
    pub fn memory(&self, path: &str) -> MemoryStats {
        let Some(dir) = self.dir("memory", path) else { return MemoryStats::default() };
        let v2 = self.unified();
        let pick = |one: &'static str, two: &'static str| if v2 { two } else { one };
        let text = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let stat = |key: &str| lookup(&text, key).unwrap_or(0);
        let usage = number(&dir.join(pick("memory.usage_in_bytes", "memory.current"))).unwrap_or(0);
        let working_set = usage.saturating_sub(stat(pick("total_inactive_file", "inactive_file")));
        let limit = number(&dir.join(pick("memory.limit_in_bytes", "memory.max"))).filter(|l| *l < 1 << 60);
        let (swap, swap_limit) = match v2 {
            true => (number(&dir.join("memory.swap.current")), number(&dir.join("memory.swap.max"))),
            false => {
                // Version 1 limits memory and swap together.
                let both = number(&dir.join("memory.memsw.limit_in_bytes"));
                let swap = both.and(lookup(&text, "total_swap"));
                (swap, both.filter(|l| *l < 1 << 60).zip(limit).map(|(both, l)| both.saturating_sub(l)))
            }
        };
        MemoryStats {
            swap,
            swap_available: swap_limit.zip(swap).map(|(l, s)| l.saturating_sub(s)),
            timestamp: now(),
            working_set,
            available: limit.map(|l| l.saturating_sub(working_set)),
            usage,
            rss: stat(pick("total_rss", "anon")),
            page_faults: stat(pick("total_pgfault", "pgfault")),
            major_page_faults: stat(pick("total_pgmajfault", "pgmajfault")),
        }
    }

    /// Processes and threads.
    pub fn pids_current(&self, path: &str) -> u64 {
        self.dir("pids", path).and_then(|d| number(&d.join("pids.current"))).unwrap_or(0)
    }

    /// How often the group, or one below, was refused another process or thread.
    pub fn forks_refused(&self, path: &str) -> u64 {
        self.dir("pids", path).map_or(0, |dir| refused_below(&dir))
    }

    /// How much its processes wait. Only version 2 tells; on a hybrid machine its tree does.
    pub fn pressures(&self, path: &str) -> Pressures {
        let Some(dir) = self.v2.as_ref().map(|root| join(root, path)) else { return Pressures::default() };
        let of = |what: &str| {
            let text = std::fs::read_to_string(dir.join(format!("{what}.pressure"))).ok()?;
            (!text.is_empty()).then(|| parse_pressure(&text))
        };
        Pressures { cpu: of("cpu"), memory: of("memory"), io: of("io") }
    }

    /// How many processes of the group the kernel killed for want of memory.
    pub fn oom_kills(&self, path: &str) -> u64 {
        let Some(dir) = self.dir("memory", path) else { return 0 };
        let file = if self.unified() { "memory.events" } else { "memory.oom_control" };
        field(&dir.join(file), "oom_kill").unwrap_or(0)
    }
}

/// Two lines: `some avg10=1.50 avg60=0.00 avg300=0.00 total=123` and the same of `full`.
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let waited = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let hundredths = || value.parse::<f64>().map_or(0, |v| (v * 100.0).round() as u32);
            match key {
                "avg10" => waited.avg10 = hundredths(),
                "avg60" => waited.avg60 = hundredths(),
                "avg300" => waited.avg300 = hundredths(),
                "total" => waited.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}

/// Which file of which controller gets which value.
fn settings(r: &Resources, v2: bool) -> Vec<(&'static str, String, String)> {
    let mut out: Vec<(&'static str, String, String)> = vec![];
    let mut set = |controller, one: &str, two: &str, value: String| {
        let file = if v2 { two } else { one };
        if !file.is_empty() {
            out.push((controller, file.to_owned(), value));
        }
    };
    if let Some(shares) = r.cpu_shares.filter(|s| *s > 0) {
        let shares = shares.clamp(2, 262_144);
        let weight = 1 + (shares - 2) * 9999 / 262_142;
        set("cpu", "cpu.shares", "cpu.weight", if v2 { weight } else { shares }.to_string());
    }
    if r.cpu_quota.is_some() || r.cpu_period.is_some() {
        let period = r.cpu_period.filter(|p| *p > 0).unwrap_or(100_000);
        let quota = r.cpu_quota.filter(|q| *q > 0);
        let max = quota.map_or("max".to_owned(), |q| q.to_string());
        set("cpu", "", "cpu.max", format!("{max} {period}"));
        set("cpu", "cpu.cfs_period_us", "", period.to_string());
        set("cpu", "cpu.cfs_quota_us", "", quota.unwrap_or(-1).to_string());
    }
    let bytes = |limit: i64| match (limit > 0, v2) {
        (true, _) => limit.to_string(),
        (false, true) => "max".to_owned(),
        (false, false) => "-1".to_owned(),
    };
    if let Some(limit) = r.memory_limit {
        set("memory", "memory.limit_in_bytes", "memory.max", bytes(limit));
    }
    if let Some(both) = r.memory_swap_limit {
        // Version 1 counts memory and swap together, version 2 swap alone.
        let swap = if both > 0 { bytes_of_swap(both, r.memory_limit) } else { "max".to_owned() };
        set("memory", "memory.memsw.limit_in_bytes", "memory.swap.max", if v2 { swap } else { bytes(both) });
    }
    if let Some(limit) = r.pids_limit {
        set("pids", "pids.max", "pids.max", if limit > 0 { limit.to_string() } else { "max".into() });
    }
    if !r.cpuset_cpus.is_empty() {
        set("cpuset", "cpuset.cpus", "cpuset.cpus", r.cpuset_cpus.clone());
    }
    if !r.cpuset_mems.is_empty() {
        set("cpuset", "cpuset.mems", "cpuset.mems", r.cpuset_mems.clone());
    }
    for (size, limit) in &r.hugepages {
        let (one, two) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        set("hugetlb", &one, &two, limit.to_string());
    }
    for (file, value) in r.unified.iter().filter(|(f, _)| !f.contains('/') && !f.starts_with("cgroup.")) {
        set("cpu", "", file, value.clone());
    }
    out
}

/// Version 1 counts where the process is, version 2 where the limit is.
fn refused_below(dir: &Path) -> u64 {
    let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = below.map(|entry| entry.path()).filter(|path| path.is_dir());
    field(&dir.join("pids.events"), "max").unwrap_or(0) + dirs.map(|dir| refused_below(&dir)).sum::<u64>()
}

fn bytes_of_swap(both: i64, memory: Option<i64>) -> String {
    (both - memory.filter(|m| *m > 0).unwrap_or(0)).max(0).to_string()
}

fn join(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Hands every controller of `dir` down to its children, one by one since some may be refused.
fn delegate(dir: &Path) {
    let has = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let given = std::fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in has.split_whitespace().filter(|c| !given.split_whitespace().any(|g| g == *c)) {
        // A controller that cannot be handed down shows up as a limit that cannot be set.
        let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Kills what is in a group and in those below it.
fn kill_tree(dir: &Path) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|l| l.parse().ok()) {
        // A process that is gone already is what we want.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            kill_tree(&entry.path());
        }
    }
}

/// Version 1 leaves the sets of a new group empty, and then no process can enter it.
fn inherit_cpuset(dir: &Path) {
    let Some(parent) = dir.parent() else { return };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let empty = std::fs::read_to_string(dir.join(file)).is_ok_and(|s| s.trim().is_empty());
        if empty && let Ok(value) = std::fs::read_to_string(parent.join(file)) {
            // On version 2 an empty set means all of the parent's; writing the same is harmless.
            let _ = std::fs::write(dir.join(file), value.trim());
        }
    }
}

fn remove_tree(dir: &Path) -> bool {
    match std::fs::remove_dir(dir) {
        Ok(()) => return true,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    let Ok(entries) = std::fs::read_dir(dir) else { return !dir.exists() };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_tree(&entry.path());
    }
    std::fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn field(file: &Path, key: &str) -> Option<u64> {
    lookup(&std::fs::read_to_string(file).ok()?, key)
}

fn lookup(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.split(' ').next() == Some(key))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn named(e: io::Error, what: &str, path: &Path) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let got = Cgroups::parse(hybrid);
        assert!(!got.unified());
        assert_eq!(got.dir("cpuacct", "/a/b").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b"));
        assert_eq!(got.dir("pids", "/a"), None);
        assert_eq!(got.unused, [Path::new("/sys/fs/cgroup/systemd")]);
        let v2 = Cgroups::parse("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert!(v2.unified());
        assert_eq!(v2.dir("memory", "a").unwrap(), Path::new("/sys/fs/cgroup/a"));
    }

    #[test]
    fn pressure() {
        let text = "some avg10=98.51 avg60=0.07 avg300=97.04 total=9894381973\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let got = parse_pressure(text);
        assert_eq!(
            got.some,
            crate::state::Waited { avg10: 9851, avg60: 7, avg300: 9704, total: 9_894_381_973 }
        );
        assert_eq!(got.full, crate::state::Waited { total: 7, ..Default::default() });
    }

    #[test]
    fn settings_of_both_versions() {
        let r = Resources {
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            memory_limit: Some(1 << 20),
            pids_limit: Some(0),
            ..Resources::default()
        };
        let show = |v2| {
            settings(&r, v2).into_iter().map(|(_, f, v)| format!("{f}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            show(false),
            "cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 memory.limit_in_bytes=1048576 pids.max=max"
        );
        assert_eq!(show(true), "cpu.weight=39 cpu.max=50000 100000 memory.max=1048576 pids.max=max");
    }
}
