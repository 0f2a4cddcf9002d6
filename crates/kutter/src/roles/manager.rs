//! `kutter manager`: the managed service, usually started by `kutter up`.

use std::path::Path;

use super::RoleError;

/// Loopback ports for the ingress, in order of preference; 0 is any.
const INGRESS_PORTS: [u16; 4] = [80, 8080, 8081, 0];

/// Runs the manager of the state directory until it is told to stop.
pub fn run(data_dir: &Path) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(false);
    let directory = std::path::absolute(data_dir)?;
    let options = manager::Options { directory, ingress_ports: INGRESS_PORTS.to_vec() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        super::memory::settle_soon();
        manager::Manager::run(options).await
    })?)
}
