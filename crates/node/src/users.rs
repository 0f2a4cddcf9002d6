//! The ids of pods with a user namespace (`hostUsers: false`): each has a range of its own for as long as it is here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::runtime::{IdMapping, UserNamespace};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Ids of one pod.
const LENGTH: u32 = 65_536;

/// In a pod's directory: what it was given.
const FILE: &str = "userns";

/// Ranges of ids that pods have.
pub struct Ranges {
    data_dir: PathBuf,
    /// First id and the number of ranges, or why there are none.
    all: Result<(u32, u32), String>,
    /// The first id of each pod's range, by uid.
    used: Mutex<BTreeMap<String, u32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    uid_mappings: Vec<Range>,
    gid_mappings: Vec<Range>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Range {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Ranges {
    /// Reads what the node may give, and what pods whose directories are here have already.
    pub fn open(data_dir: &Path) -> Ranges {
        let read = |file: &str| std::fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
        let all = whole(&read("passwd"), &read("subuid"), &read("subgid"));
        let uids = volumes::setup::pods_with_data(data_dir);
        let known = uids.into_iter().filter_map(|uid| {
            let first = recall(&volumes::setup::pod_dir(data_dir, &uid))?;
            Some((uid, first))
        });
        Ranges { used: Mutex::new(known.collect()), data_dir: data_dir.to_owned(), all }
    }

    /// The ids of this pod; it gets a range when it has none.
    pub fn of(&self, uid: &str) -> Result<UserNamespace, String> {
        let mut used = self.used.lock();
        if let Some(first) = used.get(uid) {
            return Ok(namespace(*first));
        }
        let (first, count) = self.all.clone()?;
        let free = (0..count).map(|n| first + n * LENGTH).find(|id| used.values().all(|u| u != id));
        let free = free.ok_or("could not find an empty slot to allocate a user namespace")?;
        keep(&volumes::setup::pod_dir(&self.data_dir, uid), free)?;
        used.insert(uid.to_owned(), free);
        Ok(namespace(free))
    }

    /// The pod is gone.
    pub fn release(&self, uid: &str) {
        self.used.lock().remove(uid);
    }
}

fn namespace(first: u32) -> UserNamespace {
    let range = || vec![IdMapping { host_id: first, container_id: 0, length: LENGTH }];
    UserNamespace { uids: range(), gids: range() }
}

fn keep(dir: &Path, first: u32) -> Result<(), String> {
    let range = || vec![Range { host_id: first, container_id: 0, length: LENGTH }];
    let kept = Kept { uid_mappings: range(), gid_mappings: range() };
    let path = dir.join(FILE);
    let text = serde_json::to_vec(&kept).unwrap_or_default();
    let new = dir.join(format!("{FILE}.new"));
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
    written.map_err(|e| format!("write {}: {e}", path.display()))
}

fn recall(dir: &Path) -> Option<u32> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()?;
    Some(kept.uid_mappings.first()?.host_id)
}

/// The ranges of the user `kubelet`, if there is such a user; else all ids but those of the first range, which are the
/// node's own.
fn whole(passwd: &str, subuid: &str, subgid: &str) -> Result<(u32, u32), String> {
    if !passwd.lines().any(|l| l.starts_with("kubelet:")) {
        return Ok((LENGTH, u32::MAX / LENGTH));
    }
    let of = |text: &str| -> Vec<(u32, u32)> {
        let own = text.lines().filter_map(|l| l.strip_prefix("kubelet:")?.split_once(':'));
        own.filter_map(|(first, count)| Some((first.parse().ok()?, count.trim().parse().ok()?))).collect()
    };
    let (uids, gids) = (of(subuid), of(subgid));
    if uids != gids {
        return Err("mismatched subuids and subgids for user \"kubelet\"".into());
    }
    match uids[..] {
        [] => Ok((LENGTH, u32::MAX / LENGTH)),
        [(first, count)] if first % LENGTH == 0 && first >= LENGTH && count % LENGTH == 0 => {
            Ok((first, count / LENGTH))
        }
        [(first, count)] => Err(format!(
            "subordinate ids of user \"kubelet\" begin at {first} and are {count}: both must be multiples of {LENGTH}, \
             and not begin at 0"
        )),
        _ => Err("user \"kubelet\" has more than one range of subordinate ids".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_the_node() {
        let user = "root:x:0:0::/:/bin/sh\nkubelet:x:999:999::/:/bin/false\n";
        for (passwd, subuid, subgid, want) in [
            ("root:x:0:0", "kubelet:131072:65536", "", Ok((65_536, 65_535))),
            (user, "", "", Ok((65_536, 65_535))),
            (user, "a:1:2\nkubelet:131072:196608\n", "kubelet:131072:196608", Ok((131_072, 3))),
            (user, "kubelet:131072:196608", "", Err("mismatched")),
            (user, "kubelet:100:196608", "kubelet:100:196608", Err("multiples")),
            (user, "kubelet:0:65536", "kubelet:0:65536", Err("multiples")),
        ] {
            let got = whole(passwd, subuid, subgid);
            match want {
                Ok(want) => assert_eq!(got, Ok(want), "{subuid}"),
                Err(part) => assert!(got.is_err_and(|e| e.contains(part)), "{subuid}"),
            }
        }
    }

    #[test]
    fn pods_keep_theirs() {
        let data = tempfile::tempdir().expect("a directory");
        for uid in ["a", "b", "c"] {
            std::fs::create_dir_all(volumes::setup::pod_dir(data.path(), uid)).expect("a directory");
        }
        let first = |r: &Ranges, uid: &str| r.of(uid).expect("ids").uids[0].host_id;
        let ranges = Ranges::open(data.path());
        let (a, b) = (first(&ranges, "a"), first(&ranges, "b"));
        assert_eq!((b - a, first(&ranges, "a")), (LENGTH, a));
        drop(ranges);
        let again = Ranges::open(data.path());
        assert_eq!((first(&again, "a"), first(&again, "c")), (a, b + LENGTH));
        again.release("a");
        std::fs::create_dir_all(volumes::setup::pod_dir(data.path(), "d")).expect("a directory");
        assert_eq!(first(&again, "d"), a);
    }
}
