//! The Python client and kubectl, each with a program of its own beside this file.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::{Cluster, Outcome};

/// Runs a program to its end and shows what it said when it fails.
async fn run(program: &str, arguments: &[&str], cluster: &Cluster) -> Outcome {
    let said = Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("HOME", cluster.dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = tokio::time::timeout(std::time::Duration::from_secs(120), said).await?;
    let said = said.map_err(|e| {
        format!(
            "cannot run {program}: {e}; ./test fetches it, or name one by KUTTER_PYTHON and KUTTER_KUBECTL"
        )
    })?;
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{}\n{out}\n{err}", said.status);
    Ok(())
}

fn beside(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_works() -> Outcome {
    let cluster = Cluster::start().await?;
    let python = std::env::var("KUTTER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    run(&python, &[&beside("client.py")], &cluster).await?;
    cluster.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works() -> Outcome {
    let cluster = Cluster::start().await?;
    let kubectl = std::env::var("KUTTER_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    run("bash", &[&beside("kubectl.sh"), &kubectl], &cluster).await?;
    cluster.end().await;
    Ok(())
}
