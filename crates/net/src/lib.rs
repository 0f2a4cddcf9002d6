//! Kernel networking: netlink, nftables and the DNS socket.

pub mod netlink;
pub mod netns;
pub mod nft;
pub mod pod;
pub mod route;
pub mod sysctl;
pub mod worker;
