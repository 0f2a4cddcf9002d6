//! What the two halves of the embedded runtime say to each other.
//!
//! One request a connection: a frame (length as four bytes, little endian, then JSON) with file descriptors
//! beside its first byte; the answer is one frame more, for a subscription many. A connection that closes
//! withdraws the request. The flat [`Spec`] of a container lies on disk beside its state, written by the
//! client before `Create`, so that the supervisor need not keep it.

use crate::config::{Filter, Resources, SandboxConfig};
use crate::runtime::{Error, TerminalSize};
use crate::state::{ContainerStatus, Event, LinuxUser, SandboxStatus};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Largest frame either side accepts.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// Name of the socket in the directory of the runtime.
pub const SOCKET: &str = "supervisor.sock";

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Who is there.
    Hello,
    /// Makes the namespaces of a sandbox.
    RunSandbox { id: String, config: Box<SandboxConfig> },
    /// Kills its containers and gives up its namespaces.
    StopSandbox { id: String },
    /// Forgets it and its containers.
    RemoveSandbox { id: String },
    /// Lists.
    Sandboxes { filter: Filter },
    /// Takes up the container whose spec was written.
    Create { status: Box<ContainerStatus> },
    /// Executes its process.
    Start { id: String },
    /// Ends it.
    Stop { id: String, timeout_seconds: u32 },
    /// Forgets it; answers when its files may be deleted.
    Remove { id: String },
    /// Lists.
    Containers { filter: Filter },
    /// Changes limits.
    Update { id: String, resources: Box<Resources> },
    /// Runs one more process. Descriptors: stdin, stdout, stderr; with `tty` one socket that the terminal
    /// is sent over. Answers `Exit` at its end.
    Exec { id: String, args: Vec<String>, tty: bool, size: Option<TerminalSize>, timeout_seconds: u32 },
    /// Copies output into the descriptors given (stdout, then stderr) and answers with standard input or
    /// the terminal, when the container has them; then `Exit`.
    Attach { id: String, stdin: bool, stdout: bool, stderr: bool },
    /// Opens the log file again.
    ReopenLog { id: String },
    /// Everything that happens from now on.
    Events,
}

/// What the supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// To `Hello`.
    Hello {
        pid: u32,
        version: String,
        notes: Vec<String>,
        #[serde(default)]
        user_namespaces: bool,
    },
    /// To `Sandboxes` and `RunSandbox`.
    Sandboxes(Vec<SandboxStatus>),
    /// To `Containers`.
    Containers(Vec<ContainerStatus>),
    /// A process ended.
    Exit { code: i32 },
    /// To `Attach`; descriptor beside it when `input`.
    Attached { input: bool, tty: bool },
    /// To `Events`.
    Event(Event),
    /// Refused or failed.
    Failed(Error),
}

/// Everything needed to execute the process of a container; nothing is looked up later.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    /// Id of the container.
    pub id: String,
    /// Id of its sandbox.
    pub sandbox: String,
    /// Names of layer directories, topmost first.
    pub layers: Vec<String>,
    /// Command with its arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Working directory; made when missing.
    pub cwd: String,
    /// Who runs it.
    pub user: LinuxUser,
    /// Sorted by depth.
    pub mounts: Vec<SpecMount>,
    /// Device nodes.
    pub devices: Vec<crate::config::Device>,
    /// Everything open.
    pub privileged: bool,
    /// Bit set of capabilities.
    pub capabilities: u64,
    /// As asked.
    pub no_new_privs: bool,
    /// As asked.
    pub readonly_rootfs: bool,
    /// BPF program, one instruction a number; empty: no filter.
    pub seccomp: Vec<u64>,
    /// As asked.
    pub masked_paths: Vec<String>,
    /// As asked.
    pub readonly_paths: Vec<String>,
    /// Of the container; network and ipc of the sandbox.
    pub namespaces: crate::config::NamespaceOptions,
    /// Path of its cgroup in every hierarchy.
    pub cgroup: String,
    /// Limits.
    pub resources: Resources,
    /// Keep an input.
    pub stdin: bool,
    /// Close it after the first attach.
    pub stdin_once: bool,
    /// Run behind a terminal.
    pub tty: bool,
    /// Number of the stop signal.
    pub stop_signal: i32,
}

/// One mount, resolved.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SpecMount {
    /// As asked.
    pub mount: crate::config::Mount,
    /// Layer directories when it is an image, topmost first.
    pub layers: Vec<String>,
}

/// Where things lie below the directory of the runtime.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory itself.
    pub dir: PathBuf,
}

impl Layout {
    /// Layout below `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
    /// The socket of the supervisor.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }
    /// All containers.
    pub fn containers(&self) -> PathBuf {
        self.dir.join("containers")
    }
    /// One container.
    pub fn container(&self, id: &str) -> PathBuf {
        self.dir.join("containers").join(id)
    }
    /// The flat description of a container.
    pub fn spec(&self, id: &str) -> PathBuf {
        self.container(id).join("spec.json")
    }
    /// Writable layer of a container.
    pub fn upper(&self, id: &str) -> PathBuf {
        self.container(id).join("upper")
    }
    /// All sandboxes.
    pub fn sandboxes(&self) -> PathBuf {
        self.dir.join("sandboxes")
    }
    /// One sandbox.
    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.dir.join("sandboxes").join(id)
    }
    /// Pinned namespace of a sandbox: `net`, `ipc`, `uts`.
    pub fn namespace(&self, sandbox: &str, kind: &str) -> PathBuf {
        self.sandbox(sandbox).join(kind)
    }
    /// Unpacked layers.
    pub fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }
    /// Blobs by digest.
    pub fn content(&self) -> PathBuf {
        self.dir.join("content")
    }
    /// Index of the images.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images.json")
    }
}

/// One frame of `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, message).map_err(|e| Error::Failed(format!("encode message: {e}")))?;
    let length = out.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(Error::Invalid(format!("message of {length} bytes is over {FRAME_BYTES_MAX}")));
    }
    out[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    Ok(out)
}

/// Length of the frame that `head` begins, when its four bytes are there; an error when it is too long.
pub fn frame_length(head: &[u8]) -> Result<Option<usize>, Error> {
    let Some(four) = head.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*four) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(Error::Invalid(format!("message of {length} bytes is over {FRAME_BYTES_MAX}")));
    }
    Ok(Some(length))
}

/// Writes a file whole or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    std::fs::write(&new, bytes)?;
    std::fs::rename(&new, path)
}

/// Now, in nanoseconds since 1970.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
