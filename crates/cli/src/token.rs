//! `kutter node token`: the bootstrap tokens with which machines join.

use std::collections::BTreeMap;

use base::bootstrap::{self, Life, keys};
use fleet::ClusterView;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rand::Rng;
use serde_json::json;

use crate::commands::Token;
use crate::manager::Manager;
use crate::output::{self, table};
use crate::{CliError, Doing, Globals, Output, kubeconfig};

/// The group of tokens that let machines join.
pub const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

/// `kutter node token …`.
pub async fn run(globals: &Globals, command: Token) -> Result<(), CliError> {
    let manager = Manager::running(globals).await?;
    match command {
        Token::Create { cluster, ttl, description } => {
            let view = own(&manager, &cluster).await?;
            create(globals, &view, &ttl, &description).await
        }
        Token::List { cluster } => list(globals, &own(&manager, &cluster).await?).await,
        Token::Delete { ids, cluster } => delete(&own(&manager, &cluster).await?, &ids).await,
    }
}

async fn own(manager: &Manager, cluster: &str) -> Result<ClusterView, CliError> {
    let view = manager.cluster(cluster).await?;
    match view.member {
        true => Err(CliError::told(format!(
            "this machine is a member of {cluster}: make tokens on the machine of its control plane"
        ))),
        false => Ok(view),
    }
}

async fn create(globals: &Globals, view: &ClusterView, ttl: &str, words: &str) -> Result<(), CliError> {
    let Some(server) = view.listen else {
        return Err(CliError::told(format!(
            "cluster {} listens for this machine only: name one of its addresses with `kutter up {} --listen ADDR`",
            view.name, view.name
        )));
    };
    let expiration = expiration(ttl, Timestamp::now())?;
    let (id, secret) = (random(6), random(16));
    let mut data = BTreeMap::from([
        (keys::ID, id.clone()),
        (keys::SECRET, secret.clone()),
        (keys::DESCRIPTION, words.to_owned()),
        (keys::GROUPS, GROUP.to_owned()),
        (keys::AUTHENTICATION, "true".to_owned()),
        (keys::SIGNING, "true".to_owned()),
    ]);
    data.extend(expiration.map(|end| (keys::EXPIRATION, end.to_string())));
    let object = Secret {
        metadata: ObjectMeta {
            name: Some(format!("{}{id}", bootstrap::NAME_PREFIX)),
            namespace: Some(bootstrap::NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(bootstrap::SECRET_TYPE.to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
        ..Secret::default()
    };
    kubeconfig::client(view)?.create(&object).await.doing("keep the token")?;
    let hash = serve::pki::key_hash(&authority(view)?).doing("read the cluster's authority")?;
    let token = format!("{id}.{secret}");
    let command = format!("kutter node join {server} --token {token} --ca-hash sha256:{hash}");
    if globals.output == Output::Json {
        return output::json(&json!({
            "server": server, "token": token, "caHash": format!("sha256:{hash}"),
            "expires": expiration.map(|e| e.to_string()), "command": command,
        }));
    }
    println!("{command}");
    Ok(())
}

/// The certificate of the cluster's authority, from the administrator's kubeconfig.
fn authority(view: &ClusterView) -> Result<String, CliError> {
    let config =
        client::Config::from_kubeconfig(&view.kubeconfig, None).doing("read the cluster's kubeconfig")?;
    let material = config.ca.ok_or_else(|| CliError::told("the cluster's kubeconfig names no authority"))?;
    let pem = material.read().doing("read the cluster's authority")?;
    String::from_utf8(pem).doing("read the cluster's authority")
}

/// When a token ends that is made now; none for never.
fn expiration(ttl: &str, now: Timestamp) -> Result<Option<Timestamp>, CliError> {
    if ttl == "0" {
        return Ok(None);
    }
    let wrong = || CliError::told(format!("{ttl:?} is no duration: write 30m, 24h or 90h30m, or 0 for ever"));
    let life: SignedDuration = ttl.parse().map_err(|_| wrong())?;
    if !life.is_positive() {
        return Err(wrong());
    }
    let end = now.checked_add(life).map_err(|_| wrong())?;
    Timestamp::from_second(end.as_second()).map(Some).map_err(|_| wrong())
}

fn random(length: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = rand::rng();
    (0..length).map(|_| char::from(LETTERS[source.random_range(0..LETTERS.len())])).collect()
}

async fn list(globals: &Globals, view: &ClusterView) -> Result<(), CliError> {
    let client = kubeconfig::client(view)?;
    let options = client::ListOptions::default().field("type", bootstrap::SECRET_TYPE);
    let found = client.list::<Secret>(bootstrap::NAMESPACE, &options).await.doing("list tokens")?;
    let now = Timestamp::now();
    let tokens: Vec<[String; 4]> = found.items.iter().filter_map(|s| row(s, now)).collect();
    if globals.output == Output::Json {
        let names = |[id, expires, usages, words]: &[String; 4]| json!({"id": id, "expires": expires, "usages": usages, "description": words});
        return output::json(&tokens.iter().map(names).collect::<Vec<_>>());
    }
    let rows: Vec<Vec<String>> = tokens.into_iter().map(Vec::from).collect();
    print!("{}", table(&["ID", "EXPIRES", "USAGES", "DESCRIPTION"], &rows));
    Ok(())
}

/// What is shown of a token: never its secret half.
fn row(secret: &Secret, now: Timestamp) -> Option<[String; 4]> {
    let id = bootstrap::id_of_name(secret.metadata.name.as_deref()?)?.to_owned();
    let get = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.clone()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let end = get(keys::EXPIRATION);
    let expires = match bootstrap::life(&end, now) {
        Life::Endless => "never".to_owned(),
        Life::For(_) => end,
        Life::Over => "over".to_owned(),
    };
    let usages = [(keys::AUTHENTICATION, "authentication"), (keys::SIGNING, "signing")];
    let usages: Vec<&str> = usages.into_iter().filter(|(k, _)| get(k) == "true").map(|(_, u)| u).collect();
    Some([id, expires, usages.join(","), get(keys::DESCRIPTION)])
}

async fn delete(view: &ClusterView, ids: &[String]) -> Result<(), CliError> {
    let client = kubeconfig::client(view)?;
    for id in ids {
        // A whole token does as well.
        let id = id.split('.').next().unwrap_or_default();
        let name = format!("{}{id}", bootstrap::NAME_PREFIX);
        let done =
            client.delete::<Secret>(bootstrap::NAMESPACE, &name, &client::DeleteOptions::default()).await;
        match done {
            Err(error) if error.is_not_found() => {
                return Err(CliError::told(format!(
                    "there is no token {id:?}: see `kutter node token list`"
                )));
            }
            other => other.map(drop).doing(format!("delete the token {id}"))?,
        }
        println!("token {id} is deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_by_table() {
        let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let end =
            |ttl: &str| expiration(ttl, now).map(|e| e.map(|e| e.to_string())).map_err(|e| e.to_string());
        assert_eq!(end("24h"), Ok(Some("2026-01-02T00:00:00Z".into())));
        assert_eq!(end("1h30m"), Ok(Some("2026-01-01T01:30:00Z".into())));
        assert_eq!(end("0"), Ok(None));
        for wrong in ["", "soon", "-1h", "0s"] {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_have_the_form_of_tokens() {
        let token = format!("{}.{}", random(6), random(16));
        assert!(bootstrap::Token::parse(&token).is_some(), "{token}");
        assert!(bootstrap::groups(GROUP).is_ok());
    }
}
