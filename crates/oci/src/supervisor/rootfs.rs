//! The file tree of a container: overlay, own file systems, mounts, masks, and the step into it.
//!
//! Targets are resolved with the container's root as `/` (`RESOLVE_IN_ROOT`), so that no link in an image
//! leads a mount elsewhere; sources are taken as detached trees before propagation is cut, so that
//! bidirectional mounts keep their peers.

use super::child::{Container, Context, Failure};
use super::users::Users;
use crate::config::{Device, Mount, NamespaceMode, Propagation};
use crate::sys;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknodat};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

const DEVICES: &[(&str, u64, u64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: &[(&str, &str)] = &[
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

const SAFE: u64 = sys::ATTR_NOSUID | sys::ATTR_NODEV | sys::ATTR_NOEXEC;

struct Root<'a> {
    c: &'a Container<'a>,
    users: Option<&'a Users>,
    fd: OwnedFd,
}

/// Builds the tree and makes it this process's root.
pub fn enter(c: &Container<'_>, users: Option<&Users>) -> Result<(), Failure> {
    let spec = c.spec;
    let binds = spec.mounts.iter().map(|m| bind(&m.mount, users)).collect::<Result<Vec<_>, _>>()?;
    let devices = host_devices(c)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("cut mount propagation")?;
    let layers = layers(c, users)?;
    let root = Root { c, users, fd: overlay(c, users, &layers)? };
    let mine = |path: &str| spec.mounts.iter().any(|m| m.mount.container_path == Path::new(path));
    if !mine("/proc") {
        root.attach(sys::new_mount("proc", "proc", &[], SAFE), "/proc", true)?;
    }
    if !mine("/dev") {
        root.dev(&devices)?;
    }
    if !mine("/sys") {
        root.sys()?;
    }
    for (m, tree) in spec.mounts.iter().zip(binds) {
        let tree = tree.map_or_else(|| image(c, m, &layers), Ok)?;
        root.user_mount(&m.mount, tree)?;
    }
    if !spec.privileged {
        root.masks()?;
    }
    if spec.readonly_rootfs {
        sys::mount_setattr(root.fd.as_fd(), false, sys::ATTR_RDONLY, 0).context("make root read-only")?;
    }
    nix::unistd::fchdir(&root.fd).context("enter root")?;
    // The old root ends up stacked on the new one, whose place `.` still is.
    nix::unistd::pivot_root(".", ".").context("pivot root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leave old root")?;
    std::env::set_current_dir("/").context("enter root")
}

/// Where the layers are seen with the ids that the container shall see.
fn layers(c: &Container<'_>, users: Option<&Users>) -> Result<PathBuf, Failure> {
    let all = c.layout.layers();
    let Some(users) = users else { return Ok(all) };
    let tree = sys::open_tree(&all, false).context(format!("open {}", all.display()))?;
    sys::map_ids(tree.as_fd(), users.namespace.as_fd()).context("map ids of layers")?;
    // In the container's own mount namespace only.
    let at = c.layout.container(&c.spec.id).join("lower");
    std::fs::create_dir_all(&at).context(format!("create {}", at.display()))?;
    let place = sys::openat2(nix::fcntl::AT_FDCWD, &at, libc::O_PATH | libc::O_DIRECTORY, 0, 0)
        .context(format!("open {}", at.display()))?;
    sys::move_mount(tree.as_fd(), place.as_fd()).context("mount layers")?;
    Ok(at)
}

/// Mounts the writable overlay and answers with its root.
fn overlay(c: &Container<'_>, users: Option<&Users>, layers: &Path) -> Result<OwnedFd, Failure> {
    let dir = c.layout.container(&c.spec.id);
    let target = dir.join("rootfs");
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    for dir in [&target, &upper, &work] {
        std::fs::create_dir_all(dir).context(format!("create {}", dir.display()))?;
    }
    if let Some(users) = users {
        for dir in [&upper, &work] {
            nix::unistd::chown(dir, Some(users.uid(0)), Some(users.gid(0)))
                .context(format!("own {}", dir.display()))?;
        }
    }
    // Relative names keep 100 layers within the page that options may fill.
    std::env::set_current_dir(layers).context("enter layers")?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        c.spec.layers.join(":"),
        upper.display(),
        work.display()
    );
    mount(Some("overlay"), &target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(
        |e| {
            let hint = match e {
                nix::errno::Errno::EINVAL => {
                    "; the data directory may itself lie on an overlay: put it on ext4, xfs or tmpfs"
                }
                nix::errno::Errno::ENODEV => "; the kernel has no overlay file system",
                _ => "",
            };
            format!("mount overlay on {}: {e}{hint}", target.display())
        },
    )?;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    sys::openat2(nix::fcntl::AT_FDCWD, &target, flags, 0, 0).context("open root")
}

/// The detached tree of a mount; none for an image.
fn bind(spec: &Mount, users: Option<&Users>) -> Result<Option<OwnedFd>, Failure> {
    if spec.image.is_some() {
        return Ok(None);
    }
    let what = spec.host_path.display();
    let tree = sys::open_tree(&spec.host_path, true).context(format!("open mount source {what}"))?;
    let (set, deep) = match (spec.readonly, spec.recursive_readonly) {
        (true, deep) => (sys::ATTR_RDONLY, deep),
        (false, _) => (0, false),
    };
    let propagation = match spec.propagation {
        Propagation::Private => MsFlags::MS_PRIVATE,
        Propagation::HostToContainer => MsFlags::MS_SLAVE,
        Propagation::Bidirectional => MsFlags::MS_SHARED,
    };
    let shared = propagation.bits();
    sys::mount_setattr(tree.as_fd(), true, 0, shared).context(format!("set propagation of {what}"))?;
    if let Some(users) = users {
        sys::map_ids(tree.as_fd(), users.namespace.as_fd()).context(format!(
            "map ids of {what} into the pod's user namespace; its file system may not be able to"
        ))?;
    }
    if set != 0 {
        sys::mount_setattr(tree.as_fd(), deep, set, 0).context(format!("make {what} read-only"))?;
    }
    Ok(Some(tree))
}

/// The detached tree of an image's content.
fn image(c: &Container<'_>, m: &crate::proto::SpecMount, layers: &Path) -> Result<OwnedFd, Failure> {
    let spec = &m.mount;
    let image = spec.image.as_deref().unwrap_or_default();
    std::env::set_current_dir(layers).context("enter layers")?;
    let attrs = sys::ATTR_RDONLY | sys::ATTR_NODEV | sys::ATTR_NOSUID;
    let sub = spec.image_sub_path.trim_start_matches('/');
    // An overlay needs two layers; one stands for itself, with an empty one below.
    let mut lower = m.layers.join(":");
    if m.layers.len() == 1 {
        std::fs::create_dir_all(c.layout.layers().join("empty")).context("create empty layer")?;
        lower.push_str(":empty");
    }
    let options = [("lowerdir", lower.as_str())];
    let tree =
        sys::new_mount("overlay", "overlay", &options, attrs).context(format!("mount image {image:?}"))?;
    if sub.is_empty() {
        return Ok(tree);
    }
    let flags = libc::O_PATH;
    let at = sys::openat2(tree.as_fd(), Path::new(sub), flags, 0, sys::RESOLVE_IN_ROOT)
        .context(format!("open {sub:?} in image {image:?}"))?;
    // A path inside a detached tree can be cloned only where the kernel allows it (6.15).
    sys::open_tree_fd(at.as_fd()).context(format!("mount {sub:?} of image {image:?}"))
}

impl Root<'_> {
    /// Opens `path` inside; makes what is missing.
    fn place(&self, path: &Path, directory: bool) -> Result<OwnedFd, Failure> {
        let open = |p: &Path| sys::openat2(self.fd.as_fd(), p, libc::O_PATH, 0, sys::RESOLVE_IN_ROOT);
        if let Ok(fd) = open(path) {
            return Ok(fd);
        }
        let fail = || format!("create mount point {}", path.display());
        let parts: Vec<_> = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
        let mut so_far = PathBuf::from("/");
        let mut dir = open(&so_far).context(fail())?;
        for (n, part) in parts.iter().enumerate() {
            so_far.push(part);
            let next = match open(&so_far) {
                Ok(fd) => fd,
                Err(_) => {
                    let name = part.as_os_str();
                    if n + 1 == parts.len() && !directory {
                        mknodat(&dir, name, SFlag::S_IFREG, Mode::from_bits_truncate(0o644), 0)
                            .context(fail())?;
                    } else {
                        nix::sys::stat::mkdirat(&dir, name, Mode::from_bits_truncate(0o755))
                            .context(fail())?;
                    }
                    self.own(&dir, name)?;
                    open(&so_far).context(fail())?
                }
            };
            dir = next;
        }
        Ok(dir)
    }

    /// What the node's root makes in the tree is the pod's root's.
    fn own(&self, dir: &OwnedFd, name: &std::ffi::OsStr) -> Result<(), Failure> {
        let Some(users) = self.users else { return Ok(()) };
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        nix::unistd::fchownat(dir, name, Some(users.uid(0)), Some(users.gid(0)), flags)
            .context(format!("own {}", name.display()))
    }

    fn attach(&self, tree: std::io::Result<OwnedFd>, path: &str, directory: bool) -> Result<(), Failure> {
        let tree = tree.context(format!("prepare mount of {path}"))?;
        let at = self.place(Path::new(path), directory)?;
        sys::move_mount(tree.as_fd(), at.as_fd()).context(format!("mount {path}"))
    }

    fn user_mount(&self, m: &Mount, tree: OwnedFd) -> Result<(), Failure> {
        let directory = m.image.is_some() || m.host_path.is_dir();
        let at = self.place(&m.container_path, directory)?;
        sys::move_mount(tree.as_fd(), at.as_fd()).context(format!("mount {}", m.container_path.display()))
    }

    fn dev(&self, extra: &[(PathBuf, SFlag, u32, u64)]) -> Result<(), Failure> {
        let spec = self.c.spec;
        let node = |inside: u32| self.users.map_or(inside, |u| u.gid(inside).as_raw()).to_string();
        let (owner, group, terminals) =
            (self.users.map_or(0, |u| u.uid(0).as_raw()).to_string(), node(0), node(5));
        let options = [("mode", "755"), ("size", "65536k"), ("uid", &*owner), ("gid", &*group)];
        self.attach(sys::new_mount("tmpfs", "tmpfs", &options, sys::ATTR_NOSUID), "/dev", true)?;
        let dev = self.place(Path::new("/dev"), true)?;
        nix::sys::stat::umask(Mode::empty());
        for (name, major, minor) in DEVICES {
            let mode = Mode::from_bits_truncate(0o666);
            mknodat(&dev, *name, SFlag::S_IFCHR, mode, makedev(*major, *minor))
                .context(format!("create device {name}"))?;
            self.own(&dev, (*name).as_ref())?;
        }
        for (name, to) in LINKS {
            nix::unistd::symlinkat(*to, &dev, *name).context(format!("link /dev/{name}"))?;
        }
        nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
        let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &*terminals)];
        let attrs = sys::ATTR_NOSUID | sys::ATTR_NOEXEC;
        self.attach(sys::new_mount("devpts", "devpts", &pts[1..], attrs), "/dev/pts", true)?;
        self.attach(sys::new_mount("mqueue", "mqueue", &[], SAFE), "/dev/mqueue", true)?;
        let shm = if self.c.sandbox.namespaces.ipc == NamespaceMode::Host {
            PathBuf::from("/dev/shm")
        } else {
            self.c.layout.namespace(&spec.sandbox, "shm")
        };
        self.attach(sys::open_tree(&shm, false), "/dev/shm", true)?;
        for (path, kind, mode, rdev) in extra {
            let parent = self.place(path.parent().unwrap_or(Path::new("/dev")), true)?;
            let name = path.file_name().unwrap_or_default();
            let mode = Mode::from_bits_truncate(*mode);
            match mknodat(&parent, name, *kind, mode, *rdev) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(e) => return Err(format!("create device {}: {e}", path.display())),
            }
        }
        Ok(())
    }

    fn sys(&self) -> Result<(), Failure> {
        let spec = self.c.spec;
        let read_only = if spec.privileged { 0 } else { sys::ATTR_RDONLY };
        self.attach(sys::new_mount("sysfs", "sysfs", &[], SAFE | read_only), "/sys", true)?;
        let at = "/sys/fs/cgroup";
        if self.c.cgroups.unified() {
            return self.attach(sys::new_mount("cgroup2", "cgroup", &[], SAFE | read_only), at, true);
        }
        self.attach(sys::new_mount("tmpfs", "tmpfs", &[("mode", "755")], SAFE), at, true)?;
        for (controllers, root) in &self.c.cgroups.v1 {
            let dir = root.join(spec.cgroup.trim_start_matches('/'));
            let tree = sys::open_tree(&dir, false).context(format!("open {}", dir.display()))?;
            if read_only != 0 {
                sys::mount_setattr(tree.as_fd(), false, read_only | SAFE, 0).context("protect cgroups")?;
            }
            let target = format!("{at}/{}", controllers.join(","));
            self.attach(Ok(tree), &target, true)?;
        }
        if read_only != 0 {
            let place = self.place(Path::new(at), true)?;
            sys::mount_setattr(place.as_fd(), false, read_only, 0).context("protect cgroups")?;
        }
        Ok(())
    }

    fn masks(&self) -> Result<(), Failure> {
        let open =
            |p: &str| sys::openat2(self.fd.as_fd(), Path::new(p), libc::O_PATH, 0, sys::RESOLVE_IN_ROOT);
        for path in &self.c.spec.readonly_paths {
            let Ok(at) = open(path) else { continue };
            let tree = sys::open_tree_fd(at.as_fd()).context(format!("open {path}"))?;
            sys::mount_setattr(tree.as_fd(), true, sys::ATTR_RDONLY, 0).context(format!("protect {path}"))?;
            sys::move_mount(tree.as_fd(), at.as_fd()).context(format!("protect {path}"))?;
        }
        for path in &self.c.spec.masked_paths {
            let Ok(at) = open(path) else { continue };
            let kind = nix::sys::stat::fstat(&at).context(format!("stat {path}"))?.st_mode & libc::S_IFMT;
            let cover = if kind == libc::S_IFDIR {
                sys::new_mount("tmpfs", "tmpfs", &[("size", "4k")], sys::ATTR_RDONLY | SAFE)
            } else {
                sys::open_tree(Path::new("/dev/null"), false)
            };
            let cover = cover.context(format!("mask {path}"))?;
            sys::move_mount(cover.as_fd(), at.as_fd()).context(format!("mask {path}"))?;
        }
        Ok(())
    }
}

type Node = (PathBuf, SFlag, u32, u64);

/// Device nodes to make: those asked for, and with a privileged container all of the host's.
fn host_devices(c: &Container<'_>) -> Result<Vec<Node>, Failure> {
    let mut nodes = vec![];
    if c.spec.privileged {
        collect(Path::new("/dev"), Path::new("/dev"), &mut nodes);
    }
    for device in &c.spec.devices {
        let before = nodes.len();
        collect(&device.host_path, &device.container_path, &mut nodes);
        if nodes.len() == before {
            return Err(format!("{} is no device", device.host_path.display()));
        }
    }
    Ok(nodes)
}

fn collect(host: &Path, inside: &Path, nodes: &mut Vec<Node>) {
    const KEPT_OUT: &[&str] = &["pts", "shm", "mqueue", "console", "ptmx", ".lxc", "fd", ".udev"];
    let Ok(meta) = std::fs::metadata(host) else { return };
    let kind = meta.file_type();
    if kind.is_dir() {
        let Ok(entries) = std::fs::read_dir(host) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let real = entry.file_type().is_ok_and(|t| !t.is_symlink());
            if real && !KEPT_OUT.iter().any(|k| name == *k) && nodes.len() < 4096 {
                collect(&entry.path(), &inside.join(&name), nodes);
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        let flag = if kind.is_char_device() { SFlag::S_IFCHR } else { SFlag::S_IFBLK };
        nodes.push((inside.to_owned(), flag, meta.mode() & 0o777, meta.rdev()));
    }
}

/// Lines for the device controller that open `devices`.
pub fn device_rules(devices: &[Device]) -> Result<Vec<String>, Failure> {
    let mut rules = vec![];
    for device in devices {
        let mut nodes = vec![];
        collect(&device.host_path, &device.container_path, &mut nodes);
        for (_, kind, _, rdev) in nodes {
            let letter = if kind == SFlag::S_IFCHR { 'c' } else { 'b' };
            let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
            let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
            rules.push(format!("{letter} {major}:{minor} {permissions}"));
        }
    }
    Ok(rules)
}
