//! The one thread that talks to the kernel: work arrives as closures over the open sockets, one at a time.

use crate::netlink::{NetlinkError, Socket};
use crate::nft::Nft;

/// The open sockets of a node's network namespace.
pub struct Kernel {
    /// Links, addresses, routes.
    pub route: Socket,
    /// The rule table.
    pub nft: Nft,
    /// Connection tracking.
    pub conntrack: Socket,
}

impl Kernel {
    /// Opens the sockets in the current thread's network namespace.
    pub fn open() -> Result<Kernel, NetlinkError> {
        Ok(Kernel {
            route: Socket::open(libc::NETLINK_ROUTE)?,
            nft: Nft::open(crate::nft::NODE_TABLE)?,
            conntrack: Socket::open(libc::NETLINK_NETFILTER)?,
        })
    }
}

type Job = Box<dyn FnOnce(&Kernel) + Send>;

/// A handle to the worker. Cheap to clone; the thread ends with the last handle.
#[derive(Clone)]
pub struct Worker {
    jobs: tokio::sync::mpsc::Sender<Job>,
}

/// Jobs that may wait.
const QUEUE: usize = 256;

/// The worker is gone: it panicked, or the process is ending.
#[derive(Debug, thiserror::Error)]
#[error("hand work to the network thread: it has ended")]
pub struct WorkerGone;

impl Worker {
    /// Starts the worker in the calling thread's network namespace.
    pub fn start() -> Result<Worker, NetlinkError> {
        let kernel = Kernel::open()?;
        let (jobs, mut queue) = tokio::sync::mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("network".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&kernel);
                }
            })
            .map_err(NetlinkError::Socket)?;
        Ok(Worker { jobs })
    }

    /// Runs `work` on the network thread.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Kernel) -> T + Send + 'static,
    ) -> Result<T, WorkerGone> {
        let (answer, done) = tokio::sync::oneshot::channel();
        let job: Job = Box::new(move |kernel| {
            let _ = answer.send(work(kernel));
        });
        self.jobs.send(job).await.map_err(|_| WorkerGone)?;
        done.await.map_err(|_| WorkerGone)
    }
}
