//! Every user command and flag, defined once.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// Where clusters and their data are kept
    #[arg(
        long,
        global = true,
        env = "KUTTER_DATA_DIR",
        default_value = "/var/lib/kutter",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,
    /// How to print: a table for people, JSON for machines
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub output: Output,
    /// File with values for flags that are not given otherwise; /etc/kutter/config.yaml if that exists
    #[arg(long, global = true, env = "KUTTER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns, with colours on a terminal
    Table,
    /// One JSON document
    Json,
}

/// User commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the cluster, or say what is running
    Up(Up),
    /// Stop clusters and keep their data
    Down(Down),
    /// Remove clusters and all they have
    Delete(Delete),
    /// Show clusters, nodes and processes
    Status(Status),
    /// Print the log of a component
    Logs(Logs),
    /// Print or merge a cluster's kubeconfig
    Kubeconfig(Kubeconfig),
    /// Create, list, show and delete clusters
    #[command(subcommand)]
    Cluster(Cluster),
    /// Add, list, scale and delete node pools
    #[command(subcommand)]
    Nodepool(Nodepool),
    /// Join machines, and list, stop or start local nodes; also `kutter node VERB`
    #[command(subcommand, name = "nodes", alias = "member")]
    Node(Node),
    /// Import and list the images of local nodes
    #[command(subcommand)]
    Image(Image),
    /// Deploy, remove and tour the demo application
    #[command(subcommand)]
    Demo(Demo),
    /// Say what this machine lacks and how to mend it
    Doctor,
    /// Write all objects of a running cluster to a file
    Backup(Backup),
    /// Put a backup in the place of a stopped cluster's objects
    Restore(Restore),
}

/// `kutter backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file, which must not exist
    pub file: PathBuf,
    /// The cluster
    #[arg(long, default_value = "default")]
    pub cluster: String,
    /// An API server of its own, by an administrator's kubeconfig
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Leave out the keys of secrets: restoring then needs the store's file `keys`
    #[arg(long)]
    pub without_keys: bool,
}

/// `kutter restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// The cluster, which must be stopped
    #[arg(long, default_value = "default")]
    pub cluster: String,
    /// Another place: the folder `store` of an API server's data directory
    #[arg(long, value_name = "DIR", conflicts_with = "cluster")]
    pub to: Option<PathBuf>,
    /// The keys of a backup that was taken without them
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
}

/// `kutter up`.
#[derive(Debug, Args)]
pub struct Up {
    /// Name of the cluster
    #[arg(default_value = "default")]
    pub name: String,
    /// How many local nodes
    #[arg(long, value_name = "N")]
    pub nodes: Option<u32>,
    /// This machine itself as the one node, in its own network, instead of local nodes
    #[arg(long, conflicts_with = "nodes")]
    pub host_node: bool,
    /// A container runtime of this machine for the pods, with --host-node, as cri=unix:///PATH
    #[arg(long, value_name = "cri=unix:///PATH")]
    pub runtime: Option<String>,
    /// Listen for other machines on this address of this machine, so that they can join, or `off`
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub listen: Option<String>,
    /// Deploy the demo application and wait until its page answers
    #[arg(long)]
    pub demo: bool,
    /// Do not merge a context into the kubeconfig
    #[arg(long)]
    pub no_kubeconfig: bool,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `kutter down`.
#[derive(Debug, Args)]
pub struct Down {
    /// The cluster; all of them if absent
    pub name: Option<String>,
}

/// `kutter delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// The cluster; all of them if absent
    pub name: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `kutter status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The cluster; all of them if absent
    pub name: Option<String>,
    /// Go on and print again at every change
    #[arg(long, short)]
    pub watch: bool,
}

/// `kutter logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// `manager`, `control-plane`, or a node's name; the control plane if absent
    pub component: Option<String>,
    /// The cluster
    #[arg(long, default_value = "default")]
    pub cluster: String,
    /// Go on as lines are added
    #[arg(long, short)]
    pub follow: bool,
    /// Print only the last lines
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,
}

/// `kutter kubeconfig`.
#[derive(Debug, Args)]
pub struct Kubeconfig {
    /// The cluster
    #[arg(default_value = "default")]
    pub name: String,
    /// Merge it into the user's kubeconfig as context kutter-NAME
    #[arg(long)]
    pub merge: bool,
}

/// `kutter cluster …`.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Create a cluster, or change how many nodes it has
    Create {
        /// Its name
        name: String,
        /// How many local nodes
        #[arg(long, default_value_t = 1)]
        nodes: u32,
    },
    /// List clusters
    List,
    /// Show one cluster
    Show {
        /// Its name
        name: String,
    },
    /// Remove a cluster and all it has
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// `kutter nodepool …`.
#[derive(Debug, Subcommand)]
pub enum Nodepool {
    /// Add a pool of local nodes, or change what its nodes are
    Add {
        /// Its name
        name: String,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
        /// How many nodes; 1 if absent, or as many as there are
        #[arg(long, value_name = "N")]
        count: Option<u32>,
        /// CPU cores of each node; all of this machine if absent
        #[arg(long)]
        cpus: Option<u32>,
        /// Memory of each node in MiB; all of this machine if absent
        #[arg(long)]
        memory_mib: Option<u64>,
        /// Pods each node takes at most
        #[arg(long, value_name = "N")]
        max_pods: Option<u32>,
        /// Labels of the nodes
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Taints of the nodes
        #[arg(long = "taint", value_name = "KEY=VALUE:EFFECT")]
        taints: Vec<String>,
    },
    /// List the pools of a cluster
    List {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Change how many nodes a pool has
    Scale {
        /// Its name
        name: String,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
        /// How many nodes
        #[arg(long)]
        count: u32,
    },
    /// Remove a pool and its nodes
    Delete {
        /// Its name
        name: String,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
}

/// `kutter nodes …`.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes of a cluster
    List {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Stop a local node as if its machine had failed
    Stop {
        /// Its name
        name: String,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Make this machine a node of a cluster on another machine
    Join(Join),
    /// Make, list and delete the tokens with which machines join
    #[command(subcommand)]
    Token(Token),
    /// Start a stopped local node
    Start {
        /// Its name
        name: String,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
}

/// `kutter node join`.
#[derive(Debug, Args)]
pub struct Join {
    /// The API server, as `kutter node token create` prints it
    #[arg(value_name = "ADDR:PORT")]
    pub server: String,
    /// The token
    #[arg(long, env = "KUTTER_JOIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// What the cluster's authority must be: the SHA-256 of its public key
    #[arg(long, value_name = "sha256:HEX")]
    pub ca_hash: String,
    /// Name of the node; this machine's hostname if absent
    #[arg(long)]
    pub name: Option<String>,
    /// This machine's address for the other machines; the one that leads to the server if absent
    #[arg(long, value_name = "ADDR")]
    pub ip: Option<std::net::IpAddr>,
    /// A container runtime of this machine for the pods instead of Kutter's own, as cri=unix:///PATH
    #[arg(long, value_name = "cri=unix:///PATH")]
    pub runtime: Option<String>,
    /// What to call the cluster here; its own name if absent
    #[arg(long = "as", value_name = "NAME")]
    pub cluster: Option<String>,
    /// Labels of the node
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// Taints of the node
    #[arg(long = "taint", value_name = "KEY=VALUE:EFFECT")]
    pub taints: Vec<String>,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `kutter node token …`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print the command with which a machine joins
    Create {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
        /// How long it is good: 30m, 24h, 90h30m; 0 for ever
        #[arg(long, default_value = "24h", value_name = "DURATION")]
        ttl: String,
        /// Words for people
        #[arg(long, default_value = "made by kutter node token create")]
        description: String,
    },
    /// List tokens, without their secret halves
    List {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Delete tokens by their ids, so that nobody joins with them any more
    Delete {
        /// Their ids, the part before the dot
        #[arg(required = true)]
        ids: Vec<String>,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
}

/// `kutter image …`.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Bring the images of an archive (docker save, OCI) to every local node
    Import {
        /// The archive, as it is or compressed with gzip or zstd
        file: PathBuf,
        /// What to call its one image, instead of the name in the archive
        #[arg(long)]
        name: Option<String>,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Pull images from their registries to every local node of a cluster, each layer once
    ///
    /// Credentials are those of `docker login` (~/.docker/config.json, or below $DOCKER_CONFIG) and of the
    /// registries file.
    Pull {
        /// What to pull, e.g. nginx:1.29 or registry.example.com/team/app@sha256:…
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Mirrors, credentials and authorities of image registries
        #[arg(long, value_name = "FILE", default_value = oci::registry::FILE)]
        registries: PathBuf,
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// List the images of local nodes
    List {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
}

/// `kutter demo …`.
#[derive(Debug, Subcommand)]
pub enum Demo {
    /// Deploy the demo application and wait until its page answers
    Deploy {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
        /// Give up after this many seconds
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Bring the demo's image to the nodes of this machine, as one that has joined needs it
    Image {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
    /// Walk through what the cluster does: scale, crash, lose a node, load, roll out and back
    Tour {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
        /// Give up on a step after this many seconds
        #[arg(long, default_value_t = 120, value_name = "SECONDS")]
        timeout: u64,
        /// Do not wait for Enter before each step
        #[arg(long, short)]
        yes: bool,
    },
    /// Remove the demo application and its data
    Remove {
        /// The cluster
        #[arg(long, default_value = "default")]
        cluster: String,
    },
}
