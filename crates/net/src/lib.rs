//! Kernel networking: netlink, nftables, the DNS server and the ingress proxy.

pub mod announce;
pub mod cleanup;
pub mod conntrack;
pub mod dns;
pub mod ingress;
pub mod localnode;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod overlay;
pub mod pod;
pub mod route;
pub mod sysctl;
pub mod worker;
