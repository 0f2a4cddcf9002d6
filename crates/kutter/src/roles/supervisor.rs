//! `kutter supervisor`: owns the containers of one node; started by the manager or by `kutter node`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::RoleError;

/// Own the containers of one node.
#[derive(clap::Args)]
pub struct Args {
    /// Where containers, images and the socket are kept.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// How long containers may take to end with the local node they are in.
const GRACE: Duration = Duration::from_secs(5);

/// Runs until it is told to stop. Containers of this machine go on; those of a local node end with it, because
/// the supervisor is the first process of the node's namespaces.
pub fn run(args: Args) -> Result<(), RoleError> {
    super::init_logging();
    super::memory::allow_huge_pages(true);
    oci::supervisor::run(&args.dir, || {
        super::notify_ready();
        super::memory::unmap_program();
    })?;
    if std::process::id() == 1 {
        end_all();
    }
    Ok(())
}

/// Asks every process of the namespace to end and waits for them, a bounded time; the kernel ends the rest.
fn end_all() {
    let everyone = Pid::from_raw(-1);
    if let Err(error) = kill(everyone, Signal::SIGTERM) {
        tracing::debug!(%error, "nobody was left to end");
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline {
        match waitpid(everyone, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(5)),
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
