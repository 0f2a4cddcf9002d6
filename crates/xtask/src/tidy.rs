//! The tidy check: arrows between crates point down, every module says its purpose, deciders are pure,
//! files stay readable in one sitting.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates by layer, lowest first. A crate may depend on lower layers only, and on those named for it in
/// [`SIDEWAYS`].
const LAYERS: &[&[&str]] = &[
    &["base", "cel", "schema", "api", "trust"],
    &["policy", "controllers", "scheduler", "pods", "netplan", "fleet"],
    &["store", "client", "drive", "serve", "oci", "net", "volumes"],
    &["apiserver", "node", "manager", "cli", "bench", "shop", "sim", "xtask"],
    &["kutter"],
];

/// The arrows allowed within a layer. The scheduler finds volumes by the rule of their binder.
const SIDEWAYS: &[(&str, &str)] = &[
    ("cel", "base"),
    ("schema", "base"),
    ("schema", "cel"),
    ("api", "base"),
    ("api", "cel"),
    ("api", "schema"),
    ("drive", "client"),
    ("scheduler", "controllers"),
];

/// How many of the layers, from the lowest, hold pure crates.
const PURE_LAYERS: usize = 2;

/// What pure code must not name. Tests inside pure crates are free.
const IMPURE: &[&str] = &[
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::",
    "SystemTime",
    "Instant::now",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
    "tokio",
    "static mut",
    "Mutex<",
    "RwLock<",
    "sync::atomic",
];

/// A file longer than this needs a line `//! Long because …` in its header.
const LINES_MAX: usize = 500;

/// One thing to mend.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    place: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Checks the workspace at `root`; an empty answer means tidy.
pub fn check(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut crates: Vec<PathBuf> =
        fs::read_dir(root.join("crates")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    crates.sort();
    for dir in crates.iter().filter(|d| d.join("Cargo.toml").exists()) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap_or_default();
        findings.extend(arrows(&name, &manifest));
        for file in rust_files(&dir.join("src")) {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let place = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            findings.extend(header(&place, &text));
            findings.extend(length(&place, &text));
            if layer(&name).is_some_and(|l| l < PURE_LAYERS) {
                findings.extend(purity(&place, &text));
            }
        }
    }
    findings
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

/// Dependencies on own crates that do not point down.
fn arrows(name: &str, manifest: &str) -> Vec<Finding> {
    let place = format!("crates/{name}/Cargo.toml");
    let Some(own) = layer(name) else {
        return vec![Finding { place, what: "the crate is in no layer: add it to LAYERS in tidy.rs".into() }];
    };
    let parsed: toml::Table = match manifest.parse() {
        Ok(table) => table,
        Err(error) => return vec![Finding { place, what: format!("cannot be read: {error}") }],
    };
    let Some(dependencies) = parsed.get("dependencies").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    dependencies
        .keys()
        .filter_map(|to| layer(to).map(|l| (to, l)))
        .filter(|(to, l)| *l >= own && !SIDEWAYS.contains(&(name, to.as_str())))
        .map(|(to, l)| Finding {
            place: place.clone(),
            what: format!("depends on {to}, which is in layer {l} and not below layer {own}"),
        })
        .collect()
}

fn header(place: &str, text: &str) -> Option<Finding> {
    let starts = text.trim_start().starts_with("//!");
    (!starts).then(|| Finding { place: place.into(), what: "no `//!` header that says its purpose".into() })
}

fn length(place: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let excused = text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.contains("Long because"));
    (lines > LINES_MAX && !excused).then(|| Finding {
        place: place.into(),
        what: format!("{lines} lines: split it, or say `Long because …` in its header"),
    })
}

/// Impure names outside the file's tests (everything after `#[cfg(test)]`) and outside comments.
fn purity(place: &str, text: &str) -> Vec<Finding> {
    text.lines()
        .take_while(|line| !line.trim_start().starts_with("#[cfg(test)]"))
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter_map(|(number, line)| {
            let word = IMPURE.iter().find(|word| line.contains(**word))?;
            Some(Finding {
                place: format!("{place}:{}", number + 1),
                what: format!("`{word}` in a pure crate: pass it in as an argument"),
            })
        })
        .collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings = check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "{}", text.join("\n"));
    }

    #[test]
    fn an_upward_arrow_is_found() {
        let findings = arrows("store", "[dependencies]\nbase.workspace = true\napiserver.workspace = true\n");
        assert_eq!(findings.len(), 1);
        assert!(findings[0].what.contains("apiserver"));
    }

    #[test]
    fn an_arrow_between_roles_is_found() {
        assert_eq!(arrows("node", "[dependencies]\nmanager.workspace = true\n").len(), 1);
    }

    #[test]
    fn impurity_is_found_outside_tests_and_comments() {
        let text =
            "//! x\n// std::fs in a comment\nuse std::fs;\n#[cfg(test)]\nmod tests { use std::env; }\n";
        let findings = purity("a.rs", text);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].place, "a.rs:3");
    }

    #[test]
    fn a_missing_header_and_a_long_file_are_found() {
        assert!(header("a.rs", "fn main() {}\n").is_some());
        assert!(header("a.rs", "//! Purpose.\n").is_none());
        let long = format!("//! Purpose.\n{}", "\n".repeat(LINES_MAX));
        assert!(length("a.rs", &long).is_some());
        assert!(length("a.rs", &format!("//! Long because it is a table.\n{long}")).is_none());
    }
}
