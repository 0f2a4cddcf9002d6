//! Kernel networking: netlink, nftables and the DNS socket.
