//! `kutter status`: clusters, their processes and what is missing.

use fleet::{ClusterView, Phase};

use crate::commands::Status;
use crate::manager::Manager;
use crate::output::{self, Paint, table};
use crate::{CliError, Globals, Output};

/// Prints once, or again at every change.
pub async fn run(globals: &Globals, args: Status) -> Result<(), CliError> {
    let manager = Manager::of(globals);
    if !manager.is_up().await {
        return match globals.output {
            Output::Json => output::json(&Vec::<ClusterView>::new()),
            Output::Table => {
                println!("no manager runs for {}; start one with `kutter up`", globals.data_dir.display());
                Ok(())
            }
        };
    }
    if !args.watch {
        let clusters = match &args.name {
            Some(name) => vec![manager.cluster(name).await?],
            None => manager.clusters().await?,
        };
        return print(globals, clusters);
    }
    let name = args.name.as_deref().unwrap_or("default");
    let mut views = manager.watch(name).await?;
    while let Some(view) = views.next().await? {
        print(globals, vec![view])?;
    }
    Ok(())
}

fn print(globals: &Globals, mut clusters: Vec<ClusterView>) -> Result<(), CliError> {
    for process in clusters.iter_mut().flat_map(|c| &mut c.processes) {
        process.memory_bytes = process.pid.and_then(resident_bytes);
    }
    if globals.output == Output::Json {
        return output::json(&clusters);
    }
    print!("{}", render(&clusters, Paint::stdout()));
    Ok(())
}

/// Resident memory of a process of this machine, shared pages included (`VmRSS` of proc_pid_status(5)).
fn resident_bytes(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The screen: per cluster a line, its processes, and why it is not running if it is not.
fn render(clusters: &[ClusterView], paint: Paint) -> String {
    let mut text = String::new();
    for cluster in clusters {
        let phase = format!("{:?}", cluster.phase).to_lowercase();
        let phase = match cluster.phase {
            Phase::Running => paint.green(&phase),
            Phase::Degraded => paint.red(&phase),
            _ => paint.dim(&phase),
        };
        text.push_str(&format!(
            "{}  {phase}  {}  {}",
            paint.bold(&cluster.name),
            cluster.version,
            cluster.api
        ));
        if let Some(ingress) = &cluster.ingress {
            text.push_str(&format!("  ingress {ingress}"));
        }
        text.push('\n');
        let rows: Vec<Vec<String>> = cluster
            .processes
            .iter()
            .map(|p| {
                vec![
                    format!("  {}", p.role),
                    p.node.clone().unwrap_or_else(|| "-".into()),
                    p.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                    p.state.clone(),
                    p.restarts.to_string(),
                    p.memory_bytes.map_or_else(|| "-".into(), |b| format!("{} MiB", b >> 20)),
                ]
            })
            .collect();
        if !rows.is_empty() {
            text.push_str(&table(&["  ROLE", "NODE", "PID", "STATE", "RESTARTS", "MEMORY"], &rows));
        }
        for why in &cluster.why {
            text.push_str(&format!("  {why}\n"));
        }
    }
    if clusters.is_empty() {
        text.push_str("no clusters; create one with `kutter up`\n");
    }
    text
}
