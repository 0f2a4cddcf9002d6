//! The network shim: a CNI plugin that plugs nothing.
//!
//! A CRI runtime makes no sandbox before a CNI network is set up. Kutter plugs sandboxes itself, once the runtime has
//! made them, so that the plugin it gives to the runtime only answers. The address in its answer is never used: the
//! runtime insists on one.

use super::Cri;
use super::tell::NO_ADDRESS;
use crate::proto::write_atomic;
use crate::runtime::{Error, Runtime};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The plugin's name.
const PLUGIN: &str = "kutter-cni";
/// The network's file.
const NETWORK: &str = "10-kutter.conflist";
/// How long the runtime may take to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who plugs sandboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugs {
    /// Kutter, after the runtime made them.
    Kutter,
    /// A CNI network that was set up before.
    Foreign,
}

/// Where the runtime looks for networks and plugins.
struct Places {
    networks: PathBuf,
    plugins: PathBuf,
}

fn places(info: &std::collections::BTreeMap<String, String>) -> Places {
    let config = info.get("config").and_then(|t| serde_json::from_str(t).ok());
    let config: serde_json::Value = config.unwrap_or_default();
    let at = |paths: [&str; 2], fallback: &str| {
        let found = paths.iter().find_map(|p| config.pointer(p)?.as_str().filter(|t| !t.is_empty()));
        PathBuf::from(found.unwrap_or(fallback))
    };
    Places {
        networks: at(["/cni/confDir", "/cni/networkDir"], "/etc/cni/net.d"),
        plugins: at(["/cni/binDir", "/cni/binDirs/0"], "/opt/cni/bin"),
    }
}

/// What the plugin says. It stands for the loopback plugin too, where the runtime wants one and none is there.
fn script() -> String {
    format!(
        r#"#!/bin/sh
# Written by kutter, which plugs sandboxes itself: answers as CNI wants it and changes nothing.
IFS= read -r config || :
version=${{config#*\"cniVersion\":}}
version=${{version#*\"}}
version=${{version%%\"*}}
name=eth0 address={NO_ADDRESS}/32
case $0 in */loopback) name=lo address=127.0.0.1/8 ;; esac
case $CNI_COMMAND in
ADD) printf '{{"cniVersion":"%s","interfaces":[{{"name":"%s","sandbox":"%s"}}],"ips":[{{"version":"4","address":"%s","interface":0}}]}}' \
  "$version" "$name" "$CNI_NETNS" "$address" ;;
VERSION) printf '{{"cniVersion":"%s","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}}' "$version" ;;
esac
"#
    )
}

fn network() -> String {
    format!("{{\"cniVersion\":\"0.4.0\",\"name\":\"kutter\",\"plugins\":[{{\"type\":\"{PLUGIN}\"}}]}}\n")
}

fn is_network(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json")
}

fn install(places: &Places) -> std::io::Result<Plugs> {
    std::fs::create_dir_all(&places.networks)?;
    let found = std::fs::read_dir(&places.networks)?.flatten().map(|e| e.path());
    let mut networks: Vec<PathBuf> = found.filter(|p| is_network(p)).collect();
    networks.sort();
    if networks.first().is_some_and(|first| !first.ends_with(NETWORK)) {
        return Ok(Plugs::Foreign);
    }
    std::fs::create_dir_all(&places.plugins)?;
    for name in [PLUGIN, "loopback"] {
        let path = places.plugins.join(name);
        if name != PLUGIN && path.exists() {
            continue;
        }
        write_atomic(&path, script().as_bytes())?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    write_atomic(&places.networks.join(NETWORK), network().as_bytes())?;
    Ok(Plugs::Kutter)
}

impl Cri {
    /// Gives the runtime the shim, unless a network is set up already, and waits until it has taken it up.
    pub async fn ensure_network(&self) -> Result<Plugs, Error> {
        let places = places(&self.verbose_status().await?.info);
        let plugs = install(&places).map_err(|e| {
            Error::Failed(format!("install the network shim in {}: {e}", places.networks.display()))
        })?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await?;
            if status.network_ready || plugs == Plugs::Foreign {
                return Ok(plugs);
            }
            if tokio::time::Instant::now() > end {
                return Err(Error::State(format!(
                    "the runtime does not take the network up: {}",
                    status.message
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn places_of_runtimes() {
        let told = |text: &str| places(&[("config".to_owned(), text.to_owned())].into());
        let old = told(r#"{"cni":{"binDir":"/b","confDir":"/c"}}"#);
        assert_eq!((old.networks, old.plugins), ("/c".into(), "/b".into()));
        let new = told(r#"{"cni":{"binDirs":["/x","/y"],"confDir":"/c"}}"#);
        assert_eq!(new.plugins, PathBuf::from("/x"));
        assert_eq!(told("").networks, PathBuf::from("/etc/cni/net.d"));
    }

    #[test]
    fn the_plugin_answers_and_a_foreign_network_stays() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { networks: dir.path().join("net.d"), plugins: dir.path().join("bin") };
        assert_eq!(install(&places).unwrap(), Plugs::Kutter);
        assert_eq!(install(&places).unwrap(), Plugs::Kutter);
        for (name, device) in [(PLUGIN, "eth0"), ("loopback", "lo")] {
            let mut child = std::process::Command::new(places.plugins.join(name))
                .env_clear()
                .envs([("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/x")])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(br#"{"cniVersion":"0.3.1","name":"n"}"#).unwrap();
            let out = child.wait_with_output().unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            assert_eq!(answer["cniVersion"], "0.3.1");
            assert_eq!(answer["interfaces"][0]["name"], device);
            assert_eq!(answer["interfaces"][0]["sandbox"], "/run/netns/x");
        }
        std::fs::write(places.networks.join("05-other.conf"), "{}").unwrap();
        assert_eq!(install(&places).unwrap(), Plugs::Foreign);
    }
}
