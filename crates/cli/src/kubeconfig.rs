//! Kubeconfig: printing a cluster's own, merging it into the user's and taking it out again.
//!
//! Only entries named `kutter-CLUSTER` are touched; everything else stays as it is.

use std::path::{Path, PathBuf};

use fleet::ClusterView;
use serde_json::{Map, Value, json};

use crate::commands::Kubeconfig;
use crate::manager::Manager;
use crate::{CliError, Doing, Globals};

const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

/// Prints, or merges with `--merge`.
pub async fn run(globals: &Globals, args: Kubeconfig) -> Result<(), CliError> {
    let view = Manager::running(globals).await?.cluster(&args.name).await?;
    if view.member {
        return Err(CliError::told(format!(
            "this machine is a node of {}: the administrator's kubeconfig is on the machine of its control plane",
            view.api
        )));
    }
    if args.merge {
        merge(&view)?;
        println!("context kutter-{} is in {}", view.name, user_path()?.display());
        return Ok(());
    }
    let text =
        std::fs::read_to_string(&view.kubeconfig).doing(format!("read {}", view.kubeconfig.display()))?;
    print!("{text}");
    Ok(())
}

/// A client with the administrator's credentials.
pub fn client(view: &ClusterView) -> Result<client::Client, CliError> {
    let config =
        client::Config::from_kubeconfig(&view.kubeconfig, None).doing("read the cluster's kubeconfig")?;
    client::Client::from_config(config).doing("make a client")
}

/// Puts the context `kutter-NAME` into the user's kubeconfig and makes it current.
pub fn merge(view: &ClusterView) -> Result<(), CliError> {
    let own = parse(&view.kubeconfig)?;
    let path = user_path()?;
    let user = if path.exists() { parse(&path)? } else { json!({"apiVersion": "v1", "kind": "Config"}) };
    write(&path, &merged(user, &own, &format!("kutter-{}", view.name)))
}

/// Takes the context out of the user's kubeconfig, if it is there.
pub fn unmerge(cluster: &str) -> Result<(), CliError> {
    let path = user_path()?;
    if !path.exists() {
        return Ok(());
    }
    let user = parse(&path)?;
    let without = removed(user.clone(), &format!("kutter-{cluster}"));
    if without == user { Ok(()) } else { write(&path, &without) }
}

/// The first file of `KUBECONFIG`, or `~/.kube/config`.
fn user_path() -> Result<PathBuf, CliError> {
    let listed = std::env::var("KUBECONFIG").unwrap_or_default();
    if let Some(first) = listed.split(':').find(|p| !p.is_empty()) {
        return Ok(first.into());
    }
    let home = std::env::var_os("HOME")
        .ok_or_else(|| CliError::told("HOME is not set: where is the kubeconfig?"))?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

fn parse(path: &Path) -> Result<Value, CliError> {
    let what = || format!("read {}", path.display());
    let text = std::fs::read_to_string(path).doing(what())?;
    let value: Value = serde_saphyr::from_str(&text).doing(what())?;
    if value.is_null() {
        return Ok(json!({"apiVersion": "v1", "kind": "Config"}));
    }
    if value.is_object() {
        return Ok(value);
    }
    Err(CliError::told(format!("{} is not a kubeconfig; it was left alone", path.display())))
}

/// `user` with the first cluster, user and a context of `own` under `name`.
fn merged(user: Value, own: &Value, name: &str) -> Value {
    let mut user = removed(user, name);
    for list in LISTS {
        let key = list.trim_end_matches('s');
        let content = match list {
            "contexts" => json!({"cluster": name, "user": name}),
            _ => own[list][0][key].clone(),
        };
        let mut entry = Map::new();
        entry.insert("name".into(), json!(name));
        entry.insert(key.into(), content);
        match user[list].as_array_mut() {
            Some(entries) => entries.push(Value::Object(entry)),
            None => user[list] = json!([entry]),
        }
    }
    user["current-context"] = json!(name);
    user
}

/// `user` without what is named `name`.
fn removed(mut user: Value, name: &str) -> Value {
    for list in LISTS {
        if let Some(entries) = user[list].as_array_mut() {
            entries.retain(|e| e["name"] != name);
        } else if let Some(object) = user.as_object_mut() {
            object.remove(list);
        }
    }
    if user["current-context"] == name {
        user["current-context"] = json!("");
    }
    user
}

/// Replaces the file in one step, readable by its owner only.
fn write(path: &Path, value: &Value) -> Result<(), CliError> {
    use std::os::unix::fs::OpenOptionsExt;
    let what = || format!("write {}", path.display());
    let text = serde_saphyr::to_string(value).doing(what())?;
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).doing(what())?;
    let temporary = path.with_extension(format!("kutter-{}", std::process::id()));
    let file =
        std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary);
    let written = file.and_then(|mut f| {
        std::io::Write::write_all(&mut f, text.as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    written.inspect_err(|_| drop(std::fs::remove_file(&temporary))).doing(what())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Value {
        json!({
            "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:6443"}}],
            "users": [{"name": "x", "user": {"token": "t"}}],
        })
    }

    #[test]
    fn merging_keeps_others_and_is_idempotent() {
        let user = json!({
            "kind": "Config",
            "clusters": [{"name": "prod", "cluster": {"server": "https://prod"}}],
            "users": null,
            "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "me"}}],
            "current-context": "prod",
            "preferences": {"colors": true},
        });
        let once = merged(user, &own(), "kutter-default");
        assert_eq!(once["clusters"][0]["name"], "prod");
        assert_eq!(once["clusters"][1]["cluster"]["server"], "https://127.0.0.1:6443");
        assert_eq!(once["contexts"][1]["context"]["user"], "kutter-default");
        assert_eq!(once["preferences"]["colors"], true);
        assert_eq!(once["current-context"], "kutter-default");
        assert_eq!(merged(once.clone(), &own(), "kutter-default"), once);
        let without = removed(once, "kutter-default");
        assert_eq!(without["clusters"].as_array().map(Vec::len), Some(1));
        assert_eq!(without["current-context"], "");
    }
}
