//! `kutter logs`: the log files of the processes.

use std::io::{Read, Write};
use std::path::PathBuf;

use crate::commands::Logs;
use crate::manager::Manager;
use crate::{CliError, Doing, Globals};

/// Prints a log, and with `--follow` what is added to it.
pub async fn run(globals: &Globals, args: Logs) -> Result<(), CliError> {
    let path = path_of(globals, &args).await?;
    let mut file = std::fs::File::open(&path).doing(format!("open {}", path.display()))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).doing(format!("read {}", path.display()))?;
    let start = args.tail.map_or(0, |lines| tail_start(&text, lines));
    let mut out = std::io::stdout();
    out.write_all(&text[start..]).doing("print")?;
    if !args.follow {
        return Ok(());
    }
    follow(&path, file).await
}

async fn path_of(globals: &Globals, args: &Logs) -> Result<PathBuf, CliError> {
    let component = args.component.as_deref().unwrap_or("control-plane");
    if component == "manager" {
        return Ok(globals.data_dir.join("manager/manager.log"));
    }
    let view = Manager::running(globals).await?.cluster(&args.cluster).await?;
    let found = view.processes.iter().find(|p| match p.role.as_str() {
        "control-plane" => component == "control-plane",
        "supervisor" => component.strip_suffix(".supervisor").is_some_and(|n| p.node.as_deref() == Some(n)),
        _ => p.node.as_deref() == Some(component),
    });
    found.map(|p| p.log.clone()).ok_or_else(|| {
        let mut names: Vec<&str> = view.processes.iter().filter_map(|p| p.node.as_deref()).collect();
        names.dedup();
        CliError::told(format!(
            "no component {component:?}: choose manager, control-plane, {} (or NODE.supervisor)",
            names.join(", ")
        ))
    })
}

/// Where the last `lines` lines begin.
fn tail_start(text: &[u8], lines: usize) -> usize {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let breaks = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    if lines == 0 {
        return text.len();
    }
    breaks.map(|(i, _)| i + 1).nth(lines - 1).unwrap_or(0)
}

/// Prints what is added; inotify wakes it.
async fn follow(path: &std::path::Path, mut file: std::fs::File) -> Result<(), CliError> {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).doing("watch the log")?;
    inotify.add_watch(path, AddWatchFlags::IN_MODIFY).doing(format!("watch {}", path.display()))?;
    tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout();
        loop {
            let mut added = Vec::new();
            file.read_to_end(&mut added).doing("read the log")?;
            out.write_all(&added).and_then(|()| out.flush()).doing("print")?;
            inotify.read_events().doing("watch the log")?;
        }
    })
    .await
    .doing("follow the log")?
}

#[cfg(test)]
mod tests {
    use super::tail_start;

    #[test]
    fn tails_by_table() {
        let text = b"one\ntwo\nthree\n";
        for (lines, expected) in [(0, ""), (1, "three\n"), (2, "two\nthree\n"), (9, "one\ntwo\nthree\n")] {
            let got = std::str::from_utf8(&text[tail_start(text, lines)..]).unwrap();
            assert_eq!(got, expected, "{lines}");
        }
    }
}
