//! Pure networking: services, network policy, address management and DNS answers compiled to rule sets.
