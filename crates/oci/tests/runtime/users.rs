//! Pods with a user namespace, on a runtime that gives them.

use crate::rig::{Rig, script};
use oci::config::*;
use oci::runtime::StreamOptions;
use std::os::unix::fs::{MetadataExt, chown};
use tokio::io::AsyncReadExt;

const FIRST: u32 = 16 * 65_536;

/// Ids, files on disk and in volumes, what root may, commands in it.
pub async fn all(rig: &Rig) {
    let status = rig.runtime.status().await.expect("status");
    assert!(status.handlers[0].user_namespaces, "{:?}", status.notes);
    let mut config = rig.sandbox_config("users");
    let range = || vec![IdMapping { host_id: FIRST, container_id: 0, length: 65_536 }];
    config.namespaces.user = Some(UserNamespace { uids: range(), gids: range() });
    let sandbox = rig.runtime.run_sandbox(config).await.expect("sandbox").id;
    let volume = rig.home.dir.join("volume");
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::write(volume.join("f"), "from the node").unwrap();
    chown(volume.join("f"), Some(7), Some(8)).unwrap();
    let mounted = |mut c: ContainerConfig| {
        let at = |host: &std::path::Path, inside: &str| Mount {
            host_path: host.to_owned(),
            container_path: inside.into(),
            ..Mount::default()
        };
        c.mounts = vec![at(&volume, "/v")];
        c
    };

    let text = "id -u; tr -s ' ' < /proc/self/uid_map; \
        stat -c '%u:%g %n' / /bin /bin/busybox /dev /dev/null /dev/shm /v/f; \
        echo x > /v/g; chown 9:10 /v/g; echo y > /w; stat -c '%u:%g' /w; hostname";
    let (code, log) = rig.finish(&sandbox, mounted(script("ids", text))).await;
    let want = format!(
        "0\n 0 {FIRST} 65536\n0:0 /\n0:0 /bin\n0:0 /bin/busybox\n0:0 /dev\n0:0 /dev/null\n0:0 /dev/shm\n\
         7:8 /v/f\n0:0\nusers\n"
    );
    assert_eq!((code, log), (0, want));
    let made = std::fs::metadata(volume.join("g")).unwrap();
    assert_eq!((made.uid(), made.gid()), (9, 10), "volumes keep the ids of the pod");

    // Root may mount and name things inside, and is nobody outside.
    let mut root = script(
        "root",
        "mount -t tmpfs none /mnt2 && hostname other && hostname && cat /proc/1/environ | tr -d '\\0' | grep -c PATH; cat /v/secret",
    );
    root.security.add_capabilities = vec!["SYS_ADMIN".into()];
    root.mounts = mounted(script("", "")).mounts;
    let secret = volume.join("secret");
    std::fs::write(&secret, "s").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    chown(&secret, Some(100_000), Some(100_000)).unwrap();
    root.command[2] = format!("mkdir /mnt2; {}", root.command[2]);
    let (code, log) = rig.finish(&sandbox, root).await;
    assert_eq!((code, log.as_str()), (1, "other\n1\ncat: can't open '/v/secret': Permission denied\n"));

    let mut web = script("web", "id -u; echo out; while true; do sleep 0.1; done");
    web.security.run_as_user = Some(101);
    let id = rig.runtime.create_container(&sandbox, web).await.expect("create");
    rig.runtime.start_container(&id).await.expect("start");
    let status = rig.runtime.container_status(&id).await.expect("status");
    while rig.log(&status.log_path) != "101\nout\n" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let command = |text: &str| ["sh", "-c", text].map(String::from).to_vec();
    let got =
        rig.runtime.exec_sync(&id, command("id -u; hostname; tr -s ' ' < /proc/self/uid_map"), 10).await;
    let got = got.expect("runs");
    assert_eq!(String::from_utf8_lossy(&got.stdout), format!("101\nother\n 0 {FIRST} 65536\n"));
    let want = StreamOptions { stdout: true, tty: true, ..StreamOptions::default() };
    let stream = rig.runtime.exec(&id, command("stat -c %u $(tty)"), want).await.expect("a terminal");
    let mut text = String::new();
    stream.stdout.expect("output").read_to_string(&mut text).await.expect("reads");
    assert_eq!((text.trim(), stream.exit.await.expect("ends")), ("101", 0));
    rig.runtime.remove_sandbox(&sandbox).await.expect("removed");
}
