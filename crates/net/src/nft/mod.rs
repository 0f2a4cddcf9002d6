//! Own tables of nftables: one transaction per change, and a full replacement to begin with.

mod encode;
mod express;

use netplan::table::{Batch, Table};

use crate::netlink::{NetlinkError, Socket};

/// The kernel's side of the rule table. Not shared: one worker owns it.
pub struct Nft {
    socket: Socket,
    name: String,
}

/// The table of a node.
pub const NODE_TABLE: &str = "kutter";

impl Nft {
    /// Opens the table `name` of the current thread's network namespace; it need not exist.
    pub fn open(name: &str) -> Result<Nft, NetlinkError> {
        Ok(Nft { socket: Socket::open(libc::NETLINK_NETFILTER)?, name: name.to_owned() })
    }

    /// Carries out a batch as one transaction: all of it or nothing.
    pub fn apply(&self, batch: &Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.socket.transact(encode::batch(&self.name, batch))
    }

    /// Carries out `batch`, which came from `table`; if the kernel's table is not what we believed, replaces all.
    /// Gives whether it had to.
    pub fn apply_or_replace(&self, batch: &Batch, table: &Table) -> Result<bool, NetlinkError> {
        match self.apply(batch) {
            Ok(()) => Ok(false),
            Err(e) => {
                tracing::warn!(error = %e, cause = ?e.errno(), "rule change refused, replacing the table");
                self.apply(&table.full()).map(|()| true)
            }
        }
    }

    /// Removes the table.
    pub fn remove(&self) -> Result<(), NetlinkError> {
        self.socket.transact(encode::remove(&self.name))
    }
}
