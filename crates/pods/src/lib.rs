//! Pure kubelet decisions: pod lifecycle, probes, eviction, status.
