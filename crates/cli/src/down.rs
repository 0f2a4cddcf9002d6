//! `kutter down` and `kutter delete`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use fleet::{ClusterView, Phase};
use http::Method;
use serde_json::json;

use crate::commands::{Delete, Down};
use crate::manager::Manager;
use crate::progress::Progress;
use crate::{CliError, Doing, Globals, Output, kubeconfig};

/// How long stopping may take: pods have 30 s by default, and a bit.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// Stops clusters; the manager ends when none is left running.
pub async fn down(globals: &Globals, args: Down) -> Result<(), CliError> {
    let manager = Manager::of(globals);
    if !manager.is_up().await {
        println!("nothing runs for {}", globals.data_dir.display());
        return Ok(());
    }
    let mut progress = Progress::new(globals.output == Output::Json);
    for cluster in chosen(&manager, args.name.as_deref()).await? {
        progress.step(&format!("cluster {} stopped", cluster.name));
        let path = format!("/v1/clusters/{}", cluster.name);
        let mut views = manager.watch(&cluster.name).await?;
        let _: ClusterView = manager.call(Method::PUT, &path, Some(&json!({"desired": "stopped"}))).await?;
        views.until(STOP_TIMEOUT, |v| v.phase == Phase::Stopped).await?;
    }
    end_idle_manager(&manager).await?;
    progress.finish();
    Ok(())
}

/// Removes clusters with all their data.
pub async fn delete(globals: &Globals, args: Delete) -> Result<(), CliError> {
    // Without a running manager there may still be data: the manager knows how to remove it.
    if !globals.data_dir.exists() {
        println!("nothing is kept at {}", globals.data_dir.display());
        return Ok(());
    }
    let manager = Manager::ensure(globals).await?;
    let clusters = chosen(&manager, args.name.as_deref()).await?;
    let names: Vec<&str> = clusters.iter().map(|c| c.name.as_str()).collect();
    if !args.yes && !names.is_empty() && !confirm(&names.join(", "))? {
        return Err(CliError::told("nothing was removed"));
    }
    let mut progress = Progress::new(globals.output == Output::Json);
    for name in names {
        progress.step(&format!("cluster {name} removed"));
        let mut views = manager.watch(name).await?;
        let _: serde_json::Value =
            manager.call(Method::DELETE, &format!("/v1/clusters/{name}"), None).await?;
        views.until(STOP_TIMEOUT, |_| false).await?;
        kubeconfig::unmerge(name)?;
    }
    if manager.clusters().await?.is_empty() {
        progress.step("manager removed");
        shut_down(&manager).await?;
        std::fs::remove_dir_all(&globals.data_dir).doing(format!("remove {}", globals.data_dir.display()))?;
    }
    progress.finish();
    Ok(())
}

async fn chosen(manager: &Manager, name: Option<&str>) -> Result<Vec<ClusterView>, CliError> {
    match name {
        Some(name) => Ok(vec![manager.cluster(name).await?]),
        None => manager.clusters().await,
    }
}

async fn end_idle_manager(manager: &Manager) -> Result<(), CliError> {
    if manager.clusters().await?.iter().all(|c| c.phase == Phase::Stopped) {
        shut_down(manager).await?;
    }
    Ok(())
}

async fn shut_down(manager: &Manager) -> Result<(), CliError> {
    let _: serde_json::Value = manager.call(Method::POST, "/v1/shutdown", None).await?;
    // Its socket goes last but one, its lock with the process.
    while manager.is_up().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn confirm(what: &str) -> Result<bool, CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::told(format!("this removes {what} with all data: say so with --yes")));
    }
    print!("Remove {what} with all data? [y/N] ");
    std::io::stdout().flush().doing("ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).doing("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
