//! The node role: kubelet, proxy and DNS of one machine.
