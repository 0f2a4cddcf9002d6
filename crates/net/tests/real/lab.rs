//! A laboratory of network namespaces: nodes, pods and outside machines, with real packets between them.
//!
//! Nothing touches the namespace the tests were started in. Names carry the process id and a counter, so that
//! tests run in parallel; dropping the lab removes everything, also after a panic.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use net::netlink::{Buffer, Socket};
use net::netns;
use net::pod::{self, PodLink};
use net::route::{self, Route, VethEnd};
use net::worker::Kernel;
use netplan::base_rules::{BaseFacts, base_part};
use netplan::services::{NodeFacts, ServicePlan, compile};
use netplan::table::Table;
use serde_json::{Value, json};

static COUNTER: AtomicU32 = AtomicU32::new(0);
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything a test makes.
pub struct Lab {
    prefix: String,
    namespaces: Vec<String>,
    stop: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

/// A namespace of the lab.
#[derive(Clone)]
pub struct Ns(pub PathBuf);

impl Ns {
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(&self.0, work).expect("enter the namespace")
    }

    /// What `from` hears when it connects over TCP: the server's name and the address it saw.
    pub fn tcp(&self, to: &str) -> Result<(String, IpAddr), String> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let mut s =
                TcpStream::connect_timeout(&to, Duration::from_millis(1500)).map_err(|e| e.to_string())?;
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            s.read_to_string(&mut text).map_err(|e| e.to_string())?;
            parse(&text)
        })
    }

    pub fn udp(&self, to: &str) -> Result<(String, IpAddr), String> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let s = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            s.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            s.connect(to).map_err(|e| e.to_string())?;
            udp_ask(&s)
        })
    }
}

pub fn udp_ask(s: &UdpSocket) -> Result<(String, IpAddr), String> {
    s.send(b"who").map_err(|e| e.to_string())?;
    let mut b = [0; 256];
    let n = s.recv(&mut b).map_err(|e| e.to_string())?;
    parse(&String::from_utf8_lossy(&b[..n]))
}

fn parse(text: &str) -> Result<(String, IpAddr), String> {
    let (name, peer) = text.split_once(' ').ok_or_else(|| format!("garbled answer {text:?}"))?;
    Ok((name.to_owned(), peer.parse().map_err(|_| format!("garbled answer {text:?}"))?))
}

/// A node: its namespace, its kernel sockets and its rule table.
pub struct Node {
    pub ns: Ns,
    pub kernel: Kernel,
    pub table: Table,
    pub facts: NodeFacts,
}

impl Node {
    pub fn apply<I: IntoIterator<Item = (String, Option<netplan::ruleset::Part>)>>(&mut self, changes: I) {
        let batch = self.table.replace(changes);
        if let Err(e) = self.kernel.nft.apply(&batch) {
            panic!("apply rules: {e}: {:?}", e.errno());
        }
    }

    /// Widens what pods reach with their own address.
    pub fn native(&mut self, cidrs: &[&str]) {
        let base = BaseFacts {
            native_cidrs: cidrs.iter().map(|c| c.parse().unwrap()).collect(),
            pod_cidrs: self.facts.pod_cidrs.clone(),
            ..BaseFacts::default()
        };
        self.apply([("base".to_owned(), Some(base_part(&base)))]);
    }

    /// Installs a Service with the backends of one slice.
    pub fn service(&mut self, service: Value, endpoints: Value) -> ServicePlan {
        let service = serde_json::from_value(service).unwrap();
        let slice = serde_json::from_value(endpoints).unwrap();
        let plan = compile(&service, &[&slice], &self.facts);
        let name = service.metadata.name.unwrap();
        self.apply([(format!("svc/{name}"), Some(plan.part.clone()))]);
        plan
    }
}

impl Lab {
    pub fn new() -> Lab {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        Lab {
            prefix: format!("kt{}x{n}", std::process::id()),
            namespaces: Vec::new(),
            stop: Arc::new(AtomicBool::new(false)),
            servers: Vec::new(),
        }
    }

    /// An empty namespace with its loopback up.
    pub fn namespace(&mut self, name: &str) -> Ns {
        let name = format!("{}-{name}", self.prefix);
        let path = netns::create(&name).expect("create a namespace");
        self.namespaces.push(name);
        let ns = Ns(path);
        ns.run(|| {
            let s = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let mut b = Buffer::new();
            route::set_up(&mut b, 1);
            s.call(b).unwrap();
        });
        ns
    }

    /// A node with the base rules for `pod_cidrs`.
    pub fn node(&mut self, name: &str, pod_cidrs: &[&str]) -> Node {
        let ns = self.namespace(name);
        let pod_cidrs: Vec<_> = pod_cidrs.iter().map(|c| c.parse().unwrap()).collect();
        let kernel = ns.run(|| {
            let refused = net::sysctl::prepare_node();
            assert!(refused.is_empty(), "{refused:?}");
            Kernel::open().unwrap()
        });
        ns.run(|| {
            let mut b = Buffer::new();
            route::add_address(&mut b, 1, "192.168.100.1".parse().unwrap(), 32);
            route::add_address(&mut b, 1, "fd00:100::1".parse().unwrap(), 128);
            kernel.route.call(b).unwrap();
        });
        let facts = NodeFacts { name: name.into(), zone: None, pod_cidrs: pod_cidrs.clone() };
        let base = BaseFacts { native_cidrs: pod_cidrs.clone(), pod_cidrs, ..BaseFacts::default() };
        let mut node = Node { ns, kernel, table: Table::new(), facts };
        node.table.replace([("base".to_owned(), Some(base_part(&base)))]);
        let full = node.table.full();
        if let Err(e) = node.kernel.nft.apply(&full) {
            panic!("install base: {e}: {:?}", e.errno());
        }
        node
    }

    /// A pod on `node` with `addresses`, and an echo server on 8080 that gives its name and who asked.
    pub fn pod(&mut self, node: &Node, name: &str, addresses: &[&str]) -> Ns {
        let ns = self.namespace(name);
        let link = PodLink {
            uid: format!("{}-{name}", self.prefix),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            mtu: 1450,
            ingress_bytes_per_s: None,
            egress_bytes_per_s: None,
        };
        node.ns.run(|| pod::attach(&node.kernel.route, &ns.0, &link)).expect("attach the pod");
        self.serve(&ns, name, 8080);
        ns
    }

    /// Echo servers, TCP and UDP, on all addresses of a namespace.
    pub fn serve(&mut self, ns: &Ns, name: &str, port: u16) {
        let (ready, wait) = mpsc::channel();
        let (ns, name, stop) = (ns.clone(), name.to_owned(), self.stop.clone());
        self.servers.push(std::thread::spawn(move || ns.run(|| serve(&name, port, &stop, &ready))));
        wait.recv_timeout(PATIENCE).expect("the echo server starts");
    }

    /// A link between two namespaces with one address on each side.
    pub fn wire(&mut self, a: &Ns, a_ip: &str, b: &Ns, b_ip: &str, length: u8) {
        let id = COUNTER.fetch_add(1, Ordering::Relaxed);
        let (a_name, b_name) = (format!("w{id}a"), format!("w{id}b"));
        let other = std::fs::File::open(&b.0).unwrap();
        let side = |name: &str, ip: &str| {
            let s = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let mut m = Buffer::new();
            let index = route::index_of(name).unwrap();
            route::set_up(&mut m, index);
            route::add_address(&mut m, index, ip.parse().unwrap(), length);
            s.call(m).unwrap();
        };
        a.run(|| {
            let s = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let mut m = Buffer::new();
            let near = VethEnd { name: &a_name, mac: None, netns: None };
            let fd = std::os::fd::AsRawFd::as_raw_fd(&other);
            let far = VethEnd { name: &b_name, mac: None, netns: Some(fd) };
            route::veth(&mut m, &near, &far, 1500);
            s.call(m).unwrap();
            side(&a_name, a_ip);
        });
        b.run(|| side(&b_name, b_ip));
    }

    /// A route in a namespace.
    pub fn route(&self, ns: &Ns, to: &str, via: &str) {
        ns.run(|| {
            let s = Socket::open(libc::NETLINK_ROUTE).unwrap();
            let links = route::links(&s).unwrap();
            let link = links.iter().rev().find(|l| l.name.starts_with('w')).unwrap().index;
            let mut b = Buffer::new();
            let r = Route { to: to.parse().unwrap(), via: Some(via.parse().unwrap()), link };
            route::put_route(&mut b, &r);
            s.call(b).unwrap();
        });
    }
}

fn serve(name: &str, port: u16, stop: &AtomicBool, ready: &mpsc::Sender<()>) {
    let any = if Path::new("/proc/thread-self/net/if_inet6").exists() { "[::]" } else { "0.0.0.0" };
    let tcp = TcpListener::bind(format!("{any}:{port}")).unwrap();
    let udp = UdpSocket::bind(format!("{any}:{port}")).unwrap();
    tcp.set_nonblocking(true).unwrap();
    udp.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    ready.send(()).unwrap();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        while let Ok((mut s, peer)) = tcp.accept() {
            let _ = s.write_all(format!("{name} {}", peer.ip().to_canonical()).as_bytes());
        }
        if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", peer.ip().to_canonical()).as_bytes(), peer);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for s in self.servers.drain(..) {
            let _ = s.join();
        }
        for n in &self.namespaces {
            let _ = netns::remove(n);
        }
    }
}

/// A Service as JSON: one TCP and one UDP port 80, named `t` and `u`; `more` overrides fields of the spec.
pub fn service(name: &str, ip: &str, more: &Value) -> Value {
    let mut spec = json!({
        "clusterIP": ip, "clusterIPs": [ip],
        "ports": [
            {"name": "t", "port": 80, "protocol": "TCP"},
            {"name": "u", "port": 80, "protocol": "UDP"},
        ],
    });
    for (k, v) in more.as_object().into_iter().flatten() {
        spec[k] = v.clone();
    }
    json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

/// An EndpointSlice: (address, node, ready) each, port 8080.
pub fn slice(endpoints: &[(&str, &str, bool)]) -> Value {
    let kind = if endpoints.iter().any(|e| e.0.contains(':')) { "IPv6" } else { "IPv4" };
    let list: Vec<Value> = endpoints
        .iter()
        .map(|(a, n, r)| json!({"addresses": [a], "nodeName": n, "conditions": {"ready": r}}))
        .collect();
    json!({
        "metadata": {"name": "s"}, "addressType": kind, "endpoints": list,
        "ports": [
            {"name": "t", "port": 8080, "protocol": "TCP"},
            {"name": "u", "port": 8080, "protocol": "UDP"},
        ],
    })
}
