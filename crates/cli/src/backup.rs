//! `kutter backup` and `kutter restore`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use client::{Client, Config};
use http::Method;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use crate::commands::{Backup, Restore};
use crate::manager::Manager;
use crate::{CliError, Doing, Globals, Output, kubeconfig, output};

/// Takes a backup of a running cluster.
pub async fn backup(globals: &Globals, args: Backup) -> Result<(), CliError> {
    if args.file.exists() {
        return Err(CliError::told(format!("{} exists; choose another name", args.file.display())));
    }
    let client = match &args.kubeconfig {
        Some(file) => {
            let config = Config::from_kubeconfig(file, None).doing(format!("read {}", file.display()))?;
            Client::from_config(config).doing("connect")?
        }
        None => kubeconfig::client(&Manager::running(globals).await?.cluster(&args.cluster).await?)?,
    };
    let new = args.file.with_extension("incomplete");
    let written = fetch(&client, &new, !args.without_keys).await;
    let checked = written.and_then(|()| store::verify(&new).doing("check the backup"));
    let info = match checked {
        Ok(info) => info,
        Err(error) => {
            let _ = std::fs::remove_file(&new);
            return Err(error);
        }
    };
    std::fs::rename(&new, &args.file).doing(format!("write {}", args.file.display()))?;
    tell(globals, &args.file, &info)?;
    if info.with_keys && globals.output != Output::Json {
        println!("It holds the keys of its secrets: keep it as safe as the cluster.");
    }
    Ok(())
}

async fn fetch(client: &Client, to: &Path, with_keys: bool) -> Result<(), CliError> {
    let uri = format!("/kutter/backup?keys={with_keys}");
    let response = client.raw(Method::GET, &uri, "*/*", Bytes::new()).await.doing("ask for a backup")?;
    let what = || format!("write {}", to.display());
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(to).await;
    let mut file = file.doing(what())?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.doing("receive the backup")?;
        if let Some(data) = frame.data_ref() {
            file.write_all(data).await.doing(what())?;
        }
    }
    file.sync_all().await.doing(what())
}

fn tell(globals: &Globals, file: &Path, info: &store::BackupInfo) -> Result<(), CliError> {
    if globals.output == Output::Json {
        return output::json(&serde_json::json!({"file": file, "revision": info.revision,
            "objects": info.objects, "withKeys": info.with_keys}));
    }
    println!("{}: {} objects at revision {}", file.display(), info.objects, info.revision);
    Ok(())
}

/// Puts a backup in the place of a stopped cluster's store; the store that was there is kept beside it.
pub async fn restore(globals: &Globals, args: Restore) -> Result<(), CliError> {
    let place = match (&args.to, &args.cluster) {
        (Some(place), _) => place.clone(),
        (None, cluster) => store_of(globals, cluster).await?,
    };
    let kept = if place.exists() { Some(set_aside(&place)?) } else { None };
    let restored = store::restore(&args.file, &place, args.keys.as_deref());
    let info = match (restored, &kept) {
        (Ok(info), _) => info,
        (Err(error), kept) => {
            if let Some(kept) = kept {
                std::fs::rename(kept, &place).doing("put the store back")?;
            }
            return Err(error).doing(format!("restore {}", args.file.display()));
        }
    };
    tell(globals, &args.file, &info)?;
    if globals.output != Output::Json {
        println!("restored to {}", place.display());
        if let Some(kept) = kept {
            println!("what was there is kept at {}", kept.display());
        }
    }
    Ok(())
}

/// The store of a cluster that does not run.
async fn store_of(globals: &Globals, cluster: &str) -> Result<PathBuf, CliError> {
    let manager = Manager::of(globals);
    if manager.is_up().await
        && manager
            .find(cluster)
            .await?
            .is_some_and(|c| c.processes.iter().any(|p| p.role != "manager" && p.pid.is_some()))
    {
        return Err(CliError::told(format!(
            "cluster {cluster} runs; stop it with `kutter down`, or name another place with --to"
        )));
    }
    let home = globals.data_dir.join("clusters").join(cluster).join("control-plane");
    if !home.is_dir() {
        return Err(CliError::told(format!(
            "there is no cluster {cluster} at {}; make it with `kutter up` and stop it, or use --to",
            globals.data_dir.display()
        )));
    }
    Ok(home.join("store"))
}

fn set_aside(place: &Path) -> Result<PathBuf, CliError> {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let kept = place.with_file_name(format!("{name}.before-{stamp}"));
    std::fs::rename(place, &kept).doing(format!("set {} aside", place.display()))?;
    Ok(kept)
}
