//! A door from this machine into a cluster: loopback ports whose connections go to an address inside.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections through one door at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Forwards a loopback port for as long as it lives.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    targets: Arc<RwLock<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Forward {
    /// Listens on the first port of `ports` that is free and forwards to any of `targets`.
    pub async fn open(ports: &[u16], targets: Vec<SocketAddr>) -> std::io::Result<Forward> {
        let listener = first_free(ports).await?;
        let address = listener.local_addr()?;
        let targets = Arc::new(RwLock::new(targets));
        let task = tokio::spawn(accept(listener, Arc::clone(&targets)));
        Ok(Forward { address, targets, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends new connections to these addresses from now on.
    pub fn set_targets(&self, targets: Vec<SocketAddr>) {
        *self.targets.write().unwrap_or_else(std::sync::PoisonError::into_inner) = targets;
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn first_free(ports: &[u16]) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::from(std::io::ErrorKind::InvalidInput);
    for port in ports {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn accept(listener: TcpListener, targets: Arc<RwLock<Vec<SocketAddr>>>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut turn = 0usize;
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let mut order = targets.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        turn = turn.wrapping_add(1);
        if !order.is_empty() {
            let start = turn % order.len();
            order.rotate_left(start);
        }
        tokio::spawn(async move {
            carry(client, &order).await;
            drop(slot);
        });
    }
}

/// Connects to the first target that answers and copies both ways until both sides are done.
async fn carry(mut client: TcpStream, targets: &[SocketAddr]) {
    for target in targets {
        let Ok(Ok(mut inside)) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await
        else {
            continue;
        };
        for stream in [&client, &inside] {
            stream.set_nodelay(true).ok();
        }
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut inside).await {
            tracing::debug!(%error, %target, "a forwarded connection broke");
        }
        return;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo_once(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.write_all(&buffer).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_target_is_passed_over() {
        let alive = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let dead = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let targets = vec![dead.local_addr().unwrap(), alive.local_addr().unwrap()];
        drop(dead);
        let echo = tokio::spawn(echo_once(alive));
        let forward = Forward::open(&[0], targets).await.unwrap();
        let mut client = TcpStream::connect(forward.address()).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let forward = Forward::open(&[port, 0], Vec::new()).await.unwrap();
        assert_ne!(forward.address().port(), port);
        assert!(Forward::open(&[port], Vec::new()).await.is_err());
    }
}
