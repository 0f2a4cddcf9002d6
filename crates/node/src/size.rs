//! A node smaller than its machine: limits of its own for processors and memory, which the cgroup around all its pods
//! enforces and the Node object shows.

use std::io;

use oci::cgroup::Cgroups;
use oci::config::Resources;

use crate::facts::{self, Machine};

/// Length of the scheduler's period, in microseconds.
const PERIOD: u64 = 100_000;

/// How large a node is; what is absent is all of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Processors.
    pub cpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

impl Size {
    /// The machine as the node sees it. A node is never larger than its machine.
    pub fn of(self, mut machine: Machine) -> Machine {
        machine.cpus = self.cpus.map_or(machine.cpus, |c| machine.cpus.min(u64::from(c)));
        machine.memory = self.memory.map_or(machine.memory, |m| machine.memory.min(m));
        machine
    }

    /// What the cgroup around all pods is told; an absent limit takes an earlier one away.
    fn resources(self) -> Resources {
        let quota = self.cpus.map_or(-1, |c| i64::from(c) * PERIOD as i64);
        let memory = self.memory.map_or(-1, |m| i64::try_from(m).unwrap_or(i64::MAX));
        Resources {
            cpu_quota: Some(quota),
            cpu_period: Some(PERIOD),
            memory_limit: Some(memory),
            ..Resources::default()
        }
    }

    /// A container's quota within the node's: the kernel refuses (in version 1) a larger one than its parent has.
    pub fn quota(self, wanted: Option<i64>) -> Option<i64> {
        let most = self.cpus.map(|c| i64::from(c) * PERIOD as i64);
        wanted.map(|w| most.map_or(w, |most| w.min(most)))
    }

    /// Makes the cgroup around all pods and limits it. Gives what this machine cannot limit.
    pub fn enforce(self, cgroup_root: &str) -> io::Result<Vec<String>> {
        let cgroups = Cgroups::detect()?;
        cgroups.create(cgroup_root)?;
        cgroups.apply(cgroup_root, &self.resources())
    }

    /// Memory that pods may still take, in bytes: what the machine has left, or less if the node's own limit is nearer.
    pub fn available(self, cgroup_root: &str) -> u64 {
        let machine = facts::meminfo("MemAvailable");
        let Some(limit) = self.memory else { return machine };
        let used = Cgroups::detect().map_or(0, |c| c.memory(cgroup_root).working_set);
        machine.min(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_no_larger_than_its_machine() {
        let machine = Machine { cpus: 4, memory: 8 << 30, ..Machine::default() };
        let seen = |cpus, memory| {
            let m = Size { cpus, memory }.of(machine.clone());
            (m.cpus, m.memory >> 30)
        };
        assert_eq!(seen(None, None), (4, 8));
        assert_eq!(seen(Some(2), Some(1 << 30)), (2, 1));
        assert_eq!(seen(Some(9), Some(9 << 30)), (4, 8));
    }

    #[test]
    fn quotas_stay_within_the_node() {
        let two = Size { cpus: Some(2), memory: None };
        let table = [(None, None), (Some(50_000), Some(50_000)), (Some(400_000), Some(200_000))];
        for (wanted, expected) in table {
            assert_eq!(two.quota(wanted), expected, "{wanted:?}");
        }
        assert_eq!(Size::default().quota(Some(900_000)), Some(900_000));
    }
}
