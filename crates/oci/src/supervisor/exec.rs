//! Further processes in a running container.

use super::child::{self, Stdio};
use super::{Child, Supervisor, Token};
use crate::proto::Reply;
use crate::runtime::{Error, TerminalSize};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// One command.
pub(crate) struct Exec {
    pub(super) conn: Token,
    pub(super) pidfd: OwnedFd,
    pub(super) kill_at: Option<Instant>,
    pub(super) timed_out: bool,
    failed: bool,
    timeout_seconds: u32,
    name: String,
}

impl Supervisor {
    pub(super) fn exec(
        &mut self,
        conn: Token,
        id: &str,
        args: &[String],
        (tty, size, timeout_seconds): (bool, Option<TerminalSize>, u32),
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Error> {
        let target = self.find(id)?.pidfd.as_ref().map(OwnedFd::try_clone);
        let running = self.find(id)?.status.state == crate::state::ContainerState::Running;
        let Some(Ok(target)) = target.filter(|_| running) else {
            return Err(Error::State(format!("container {id:?} is not running")));
        };
        let mut spec = self.spec(id)?;
        let mut fds = fds.into_iter();
        let stdio = if tty {
            if !spec.env.iter().any(|e| e.starts_with("TERM=")) {
                spec.env.push("TERM=xterm".into());
            }
            Stdio { streams: [None, None, None], console: fds.next(), size }
        } else {
            Stdio { streams: [fds.next(), fds.next(), fds.next()], console: None, size: None }
        };
        let cgroups = self.cgroups.clone();
        let (pid, pipe, pidfd) = self.spawn(Some(&target), 0, |status| {
            child::exec(&spec, &cgroups, target.as_fd(), args, stdio, status)
        })?;
        let kill_at =
            (timeout_seconds > 0).then(|| Instant::now() + Duration::from_secs(u64::from(timeout_seconds)));
        let name = args.first().cloned().unwrap_or_default();
        let exec = Exec { conn, pidfd, kill_at, timed_out: false, failed: false, timeout_seconds, name };
        self.await_status(pid, pipe, Child::Exec(exec))?;
        Ok(None)
    }

    pub(super) fn exec_started(&mut self, pid: i32, result: Result<(), Error>) {
        let Err(e) = result else { return };
        let Some(Child::Exec(exec)) = self.children.get_mut(&pid) else { return };
        exec.failed = true;
        let conn = exec.conn;
        self.reply(conn, &Reply::Failed(e), &[]);
    }

    pub(super) fn exec_ended(&mut self, exec: Exec, code: i32) {
        if exec.failed {
            return;
        }
        let reply = if exec.timed_out {
            Reply::Failed(Error::Deadline {
                what: format!("command {:?}", exec.name),
                seconds: exec.timeout_seconds,
            })
        } else {
            Reply::Exit { code }
        };
        self.reply(exec.conn, &reply, &[]);
    }
}
