//! `kutter nodes`: the members of a cluster.

use fleet::ClusterView;
use http::Method;

use crate::commands::Node;
use crate::manager::Manager;
use crate::output::{self, table};
use crate::{CliError, Globals, Output, join, token};

/// Lists, stops or starts nodes.
pub async fn run(globals: &Globals, command: Node) -> Result<(), CliError> {
    let command = match command {
        Node::Join(args) => return join::run(globals, args).await,
        Node::Token(command) => return token::run(globals, command).await,
        other => other,
    };
    let manager = Manager::running(globals).await?;
    let view: ClusterView = match &command {
        Node::List { cluster } => manager.cluster(cluster).await?,
        Node::Stop { name, cluster } => turn(&manager, cluster, name, "stop").await?,
        Node::Start { name, cluster } => turn(&manager, cluster, name, "start").await?,
        Node::Join(_) | Node::Token(_) => return Ok(()),
    };
    let of_nodes: Vec<_> = view.processes.iter().filter(|p| p.role == "node").collect();
    if globals.output == Output::Json {
        return output::json(&of_nodes);
    }
    let rows: Vec<Vec<String>> = of_nodes
        .iter()
        .map(|p| {
            let pid = p.pid.map_or_else(|| "-".into(), |pid| pid.to_string());
            vec![p.node.clone().unwrap_or_default(), p.state.clone(), pid, p.restarts.to_string()]
        })
        .collect();
    print!("{}", table(&["NAME", "STATE", "PID", "RESTARTS"], &rows));
    Ok(())
}

async fn turn(manager: &Manager, cluster: &str, node: &str, verb: &str) -> Result<ClusterView, CliError> {
    manager.call(Method::POST, &format!("/v1/clusters/{cluster}/nodes/{node}/{verb}"), None).await
}
