//! Profiles in JSON, as Docker and containerd read them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::calls;
use super::program::{Action, Compare, Condition, Rule, Rules};
use crate::caps;

/// More than this a file is not read.
const BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Calls>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Calls {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Filter,
    #[serde(default)]
    excludes: Filter,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// What a group of calls is tied to.
#[derive(Deserialize, Default)]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
}

/// The rules of a profile for a process with these capabilities.
pub fn read(text: &[u8], capabilities: u64) -> Result<Rules, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("larger than {BYTES_MAX} bytes"));
    }
    let profile: Profile = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    let otherwise = action(&profile.default_action, profile.default_errno_ret)?;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for group in profile.syscalls.iter().filter(|group| group.holds(capabilities)) {
        let action = action(&group.action, group.errno_ret)?;
        let conditions: Result<Vec<Condition>, String> =
            group.args.iter().flatten().map(Argument::condition).collect();
        let rule = Rule { conditions: conditions?, action };
        // Names that this architecture does not have are no mistake.
        for number in group.names.iter().chain(&group.name).filter_map(|name| calls::number(name)) {
            calls.entry(number).or_default().push(rule.clone());
        }
    }
    Ok(Rules { calls, otherwise })
}

impl Calls {
    fn holds(&self, capabilities: u64) -> bool {
        let has = |name: &String| caps::bit(name).is_some_and(|bit| capabilities & bit != 0);
        let here = |arch: &String| calls::ARCHITECTURES.contains(&arch.as_str());
        self.includes.caps.iter().all(has)
            && (self.includes.arches.is_empty() || self.includes.arches.iter().any(here))
            && !self.excludes.caps.iter().any(has)
            && !self.excludes.arches.iter().any(here)
    }
}

impl Argument {
    fn condition(&self) -> Result<Condition, String> {
        if self.index > 5 {
            return Err(format!("a call has no argument {}", self.index));
        }
        let (mut value, mut compare) = (self.value, Compare::Equal);
        match self.op.as_str() {
            "SCMP_CMP_EQ" => {}
            "SCMP_CMP_NE" => compare = Compare::NotEqual,
            "SCMP_CMP_LT" => compare = Compare::Less,
            "SCMP_CMP_LE" => compare = Compare::LessOrEqual,
            "SCMP_CMP_GT" => compare = Compare::Greater,
            "SCMP_CMP_GE" => compare = Compare::GreaterOrEqual,
            "SCMP_CMP_MASKED_EQ" => {
                compare = Compare::MaskedEqual(self.value);
                value = self.value_two;
            }
            other => return Err(format!("operator {other:?} is not known")),
        }
        Ok(Condition { index: self.index, compare, value })
    }
}

/// The kernel's number for an action.
pub fn action(name: &str, errno: Option<u32>) -> Result<Action, String> {
    let errno = errno.unwrap_or(libc::EPERM as u32) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | errno,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        other => return Err(format!("action {other:?} is not supported")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_by_capability_and_architecture() {
        let text = br#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "archMap": [], "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "arm64"]}},
            {"name": "socket", "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]}]}"#;
        let number = |name| calls::number(name).expect(name);
        let bare = read(text, 0).expect("profile");
        assert_eq!(bare.otherwise, libc::SECCOMP_RET_ERRNO | 38);
        assert!(bare.calls.contains_key(&number("read")) && !bare.calls.contains_key(&number("mount")));
        assert!(!bare.calls.contains_key(&number("reboot")));
        assert_eq!(bare.calls[&number("socket")][0].conditions[0].compare, Compare::NotEqual);
        assert!(read(text, 1 << 21).expect("profile").calls.contains_key(&number("mount")));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("{", "EOF while parsing an object at line 1 column 1"),
            (r#"{"defaultAction": "NO"}"#, "action \"NO\" is not supported"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_KILL",
                    "args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}]}"#,
                "a call has no argument 9",
            ),
        ];
        for (text, cause) in cases {
            assert_eq!(read(text.as_bytes(), 0).expect_err(text), cause);
        }
    }
}
