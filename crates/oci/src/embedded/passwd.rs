//! Users and groups by the image's own /etc/passwd and /etc/group.

use crate::config::{GroupsPolicy, SecurityContext};
use crate::state::LinuxUser;
use crate::sys;
use std::io::Read;
use std::path::Path;

/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The two files of an image; empty when it has none.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// /etc/passwd.
    pub passwd: String,
    /// /etc/group.
    pub group: String,
}

impl Files {
    /// Reads them from the topmost of `layers` that has them.
    pub fn of(dir: &Path, layers: &[String]) -> Self {
        let read = |path: &str| layers.iter().find_map(|l| read_in(&dir.join(l), path)).unwrap_or_default();
        Self { passwd: read("etc/passwd"), group: read("etc/group") }
    }
}

/// A regular file inside `root`, whatever links lead there; a whiteout counts as empty.
fn read_in(root: &Path, path: &str) -> Option<String> {
    use std::os::fd::AsFd;
    let root = std::fs::File::open(root).ok()?;
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::File::from(
        sys::openat2(root.as_fd(), Path::new(path), flags, 0, sys::RESOLVE_IN_ROOT).ok()?,
    );
    if !file.metadata().ok()?.is_file() {
        return Some(String::new());
    }
    let mut bytes = vec![];
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let name = f.next()?;
        let uid = f.nth(1)?.parse().ok()?;
        let gid = f.next()?.parse().ok()?;
        Some(User { name, uid, gid, home: f.nth(1).unwrap_or_default() })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let name = f.next()?;
        let gid = f.nth(1)?.parse().ok()?;
        Some((name, gid, f.next().unwrap_or_default()))
    })
}

/// User, groups and home of the first process.
pub fn resolve(
    security: &SecurityContext,
    image_user: &str,
    files: &Files,
) -> Result<(LinuxUser, String), String> {
    let (mut user_part, mut group_part) = match image_user.split_once(':') {
        Some((user, group)) => (user.to_owned(), group.to_owned()),
        None => (image_user.to_owned(), String::new()),
    };
    let number = |n: i64, what: &str| u32::try_from(n).map_err(|_| format!("{what} {n} is out of range"));
    if let Some(uid) = security.run_as_user {
        (user_part, group_part) = (number(uid, "user id")?.to_string(), String::new());
    } else if let Some(name) = &security.run_as_username {
        (user_part, group_part) = (name.clone(), String::new());
    }
    if let Some(gid) = security.run_as_group {
        group_part = number(gid, "group id")?.to_string();
    }
    let entry = users(&files.passwd).find(|u| u.name == user_part).or_else(|| {
        let uid: u32 = if user_part.is_empty() { 0 } else { user_part.parse().ok()? };
        users(&files.passwd).find(|u| u.uid == uid)
    });
    let uid = match &entry {
        Some(user) => user.uid,
        None if user_part.is_empty() => 0,
        None => user_part
            .parse()
            .map_err(|_| format!("unable to find user {user_part}: no matching entries in passwd file"))?,
    };
    let gid = if group_part.is_empty() {
        entry.as_ref().map_or(0, |u| u.gid)
    } else {
        let found = groups(&files.group).find(|g| g.0 == group_part).map(|g| g.1);
        found
            .or_else(|| group_part.parse().ok())
            .ok_or_else(|| format!("unable to find group {group_part}: no matching entries in group file"))?
    };
    // The primary group counts as well, so that it stays when a program changes it.
    let mut supplemental: Vec<u32> = vec![gid];
    if let (GroupsPolicy::Merge, Some(user)) = (security.groups_policy, &entry) {
        let member = |list: &str| list.split(',').any(|m| m == user.name);
        supplemental.extend(groups(&files.group).filter(|g| member(g.2)).map(|g| g.1));
    }
    for extra in &security.supplemental_groups {
        supplemental.push(number(*extra, "supplemental group")?);
    }
    supplemental.sort_unstable();
    supplemental.dedup();
    let home =
        entry.map(|u| u.home).filter(|h| !h.is_empty()).unwrap_or(if uid == 0 { "/root" } else { "/" });
    Ok((LinuxUser { uid, gid, supplemental_groups: supplemental }, home.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves() {
        let files = Files {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\nbad line\n".into(),
            group: "root:x:0:\nweb:x:102:\ntape:x:26:web,other\n".into(),
        };
        let context = |user: Option<i64>, name: Option<&str>, group, extra: &[i64], policy| SecurityContext {
            run_as_user: user,
            run_as_username: name.map(str::to_owned),
            run_as_group: group,
            supplemental_groups: extra.to_vec(),
            groups_policy: policy,
            ..SecurityContext::default()
        };
        use GroupsPolicy::{Merge, Strict};
        for (image, security, want) in [
            ("", context(None, None, None, &[], Merge), "0:0:[0] /root"),
            ("web", context(None, None, None, &[], Merge), "101:102:[26, 102] /srv"),
            ("web:tape", context(None, None, None, &[7], Strict), "101:26:[7, 26] /srv"),
            ("101", context(None, None, None, &[], Merge), "101:102:[26, 102] /srv"),
            ("web", context(Some(1000), None, None, &[2000], Merge), "1000:0:[0, 2000] /"),
            ("", context(Some(1000), None, Some(3000), &[], Strict), "1000:3000:[3000] /"),
            ("root", context(None, Some("web"), None, &[], Merge), "101:102:[26, 102] /srv"),
        ] {
            let (u, home) = resolve(&security, image, &files).unwrap();
            assert_eq!(format!("{}:{}:{:?} {home}", u.uid, u.gid, u.supplemental_groups), want, "{image}");
        }
        let none = context(None, None, None, &[], Merge);
        assert!(resolve(&none, "nobody", &files).unwrap_err().contains("unable to find user nobody"));
        assert!(resolve(&none, "web:none", &files).unwrap_err().contains("unable to find group none"));
    }
}
