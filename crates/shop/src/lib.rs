//! The demo application: what a small web shop is made of, as roles of one program.
//!
//! The front end asks the back end, the back end asks the database, each by the DNS name of its Service. Who
//! answered is part of every page, so that scaling, failures and rollouts can be watched in a browser.

mod backend;
mod database;
mod frontend;
mod web;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};

/// Why a part of the shop ended.
#[derive(Debug, thiserror::Error)]
pub enum ShopError {
    /// Files, sockets.
    #[error("failed to {what}")]
    Io {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another part of the shop did not answer.
    #[error("{url} does not answer: {reason}")]
    Peer {
        /// What was asked.
        url: String,
        /// Why there is no answer.
        reason: String,
    },
}

/// `kutter shop …`.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Serve the page
    Frontend(Serve),
    /// Serve the products and take orders
    Backend(Serve),
    /// Keep keys and values in files
    Database {
        #[command(flatten)]
        serve: Serve,
        /// Where the files are
        #[arg(long, default_value = "/data")]
        dir: PathBuf,
    },
    /// Count the orders once
    Tick,
    /// Say every minute on which node this runs
    Agent,
}

#[derive(Debug, ClapArgs)]
struct Serve {
    /// TCP port
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// Runs one part of the shop until it is told to end.
pub fn run(args: Args) -> Result<(), ShopError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| ShopError::Io { what: "start the runtime".into(), source })?;
    runtime.block_on(async {
        tokio::select! {
            result = part(args.part) => result,
            () = terminated() => Ok(()),
        }
    })
}

async fn part(part: Part) -> Result<(), ShopError> {
    match part {
        Part::Frontend(serve) => web::serve(serve.port, frontend::answer).await,
        Part::Backend(serve) => web::serve(serve.port, backend::answer).await,
        Part::Database { serve, dir } => database::serve(serve.port, dir).await,
        Part::Tick => tick().await,
        Part::Agent => agent().await,
    }
}

async fn tick() -> Result<(), ShopError> {
    let orders = web::get(&format!("{}/api/orders", web::backend())).await?;
    println!("orders so far: {}", String::from_utf8_lossy(&orders));
    Ok(())
}

async fn agent() -> Result<(), ShopError> {
    loop {
        println!("{} looks after {}", web::pod(), web::node());
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// SIGTERM, which as process 1 of a pod must be asked for.
async fn terminated() {
    let kind = tokio::signal::unix::SignalKind::terminate();
    match tokio::signal::unix::signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}
