//! The image of the tests: a static busybox, the same on both runtimes.

use oci::images::{Binary, ProcessConfig};
use std::path::PathBuf;

/// The name of the image.
pub const IMAGE: &str = "localhost/busybox:1";

/// Debian's static busybox, which `.ci/tools` fetches and names.
pub fn busybox() -> PathBuf {
    let named = std::env::var_os("KUTTER_BUSYBOX").map(PathBuf::from);
    let known = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    let found = named.into_iter().chain(known).find(|p| p.exists());
    found.expect("no busybox: install Debian's busybox-static, or name a static one in KUTTER_BUSYBOX")
}

/// The image as the embedded runtime takes it.
pub fn busybox_image(name: &str) -> Binary {
    let applets = "sh ls cat echo id true false sleep touch mkdir rm stat mount hostname env pwd ps head tail \
        wc dd grep tr nc kill trap date seq ip mknod readlink test sort yes chmod umount unshare stty expr cut";
    let links = applets.split_whitespace().map(|a| (format!("/bin/{a}").into(), "/bin/busybox".into()));
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n";
    let group = "root:x:0:\nweb:x:102:\ntape:x:26:web\n";
    Binary {
        name: name.into(),
        source: busybox(),
        target: "/bin/busybox".into(),
        links: links.collect(),
        files: vec![("/etc/passwd".into(), passwd.into()), ("/etc/group".into(), group.into())],
        config: ProcessConfig { cmd: vec!["sh".into()], ..ProcessConfig::default() },
    }
}
