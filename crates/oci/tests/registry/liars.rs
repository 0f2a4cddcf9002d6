//! Registries and images that lie: each is refused with a clear message and leaves nothing behind.

use crate::shelf::*;
use oci::config::PullRequest;
use std::path::Path;

/// What is below the directory of a store, without the lock: nothing may be left of a failed pull.
fn left(dir: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for part in ["layers", "content"] {
        for entry in std::fs::read_dir(dir.join(part)).unwrap() {
            out.push(format!("{part}/{}", entry.unwrap().file_name().to_string_lossy()));
        }
    }
    out
}

/// Pulls `app:1`; answers with the error, after looking for what is left.
async fn refused(what: &str, registry: &Registry, dir: &Path) -> String {
    let images = store(dir);
    let request = PullRequest { reference: registry.name("app:1"), auth: None };
    let error = images.pull(request, None).await.expect_err(what).to_string();
    assert_eq!(left(dir), Vec::<String>::new(), "{what}: {error}");
    assert!(images.list().unwrap().is_empty(), "{what}: {error}");
    error
}

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn lying_registries() {
    type Lie = fn(&Registry);
    fn one(r: &Registry) -> String {
        let layer = Layer::of(TAR, &[("noise", &noise(200_000))]);
        r.image("1", OCI, &[Layer::of(GZIP, &[("good", b"1")]), layer.clone()]);
        oci::images::digest(&layer.blob)
    }
    fn change(r: &Registry, edit: fn(&mut serde_json::Value)) {
        let (_, mut manifest) = r.parts(&[Layer::of(TAR, &[("noise", &noise(200_000))])]);
        edit(&mut manifest);
        r.manifest("1", OCI, manifest.to_string().as_bytes());
    }
    let table: [(&str, Lie, &str); 15] = [
        (
            "other content of the same length",
            |r| {
                let name = one(r);
                let other = vec![0; 201_728];
                r.mood(move |s, _| s.path.ends_with(&name).then(|| Reply::new(200).body(other.clone())));
            },
            "hash to sha256:",
        ),
        (
            "other length than the manifest says",
            |r| {
                let name = one(r);
                r.mood(move |s, _| s.path.ends_with(&name).then(|| Reply::new(200).body("short")));
            },
            "it has 5 bytes, its manifest says 201728",
        ),
        (
            "a length in the manifest that is too small",
            |r| {
                change(r, |m| m["layers"][0]["size"] = 1000.into());
            },
            "its manifest says 1000",
        ),
        (
            "lengths beyond all bounds",
            |r| {
                change(r, |m| m["layers"][0]["size"] = u64::MAX.into());
            },
            "absurd",
        ),
        (
            "bodies that end early, for ever",
            |r| {
                change(r, |_| {});
                let name = oci::images::digest(&tar(&[("noise", &noise(200_000))]));
                r.mood(move |s, _| {
                    s.path.ends_with(&name).then(|| Reply::new(200).body(vec![0; 201_728]).cut(0))
                });
            },
            "broke off",
        ),
        (
            "redirects without end",
            |r| {
                one(r);
                r.mood(|s, _| Some(Reply::new(307).with("location", s.path.clone())));
            },
            "redirects more than 10 times",
        ),
        (
            "a redirect to nowhere",
            |r| {
                one(r);
                r.mood(|_, _| Some(Reply::new(302)));
            },
            "redirects to nowhere",
        ),
        (
            "a token that is never enough",
            |r| {
                one(r);
                let realm = format!("http://{}/token", r.address);
                r.mood(move |s, _| {
                    let token = Reply::new(200).body(r#"{"token":"t"}"#);
                    let challenge = format!("Bearer realm=\"{realm}\"");
                    let refusal = Reply::new(401).with("www-authenticate", challenge);
                    Some(if s.path == "/token" { token } else { refusal })
                });
            },
            "its own authorization is refused",
        ),
        (
            "401 without a challenge",
            |r| {
                one(r);
                r.mood(|_, _| Some(Reply::new(401)));
            },
            "not authorized to pull",
        ),
        (
            "a manifest with another digest than promised",
            |r| {
                one(r);
                r.mood(|s, _| {
                    s.path.contains("/manifests/").then(|| {
                        Reply::new(200)
                            .with("docker-content-digest", format!("sha256:{}", "0".repeat(64)))
                            .body("{}")
                    })
                });
            },
            "the 2 bytes of the manifest hash to",
        ),
        (
            "a manifest without end",
            |r| {
                one(r);
                r.mood(|s, _| {
                    s.path.contains("/manifests/").then(|| Reply::new(200).body(vec![b' '; 9 << 20]))
                });
            },
            "more than 8388608 bytes",
        ),
        (
            "a configuration of another length",
            |r| {
                change(r, |m| m["config"]["size"] = 3.into());
            },
            "its manifest says 3 bytes",
        ),
        (
            "no such tag",
            |r| {
                one(r);
                r.mood(|s, _| s.path.contains("/manifests/").then(|| Reply::new(404)));
            },
            "404",
        ),
        (
            "always busy",
            |r| {
                one(r);
                r.mood(|_, _| Some(Reply::new(503).body("busy")));
            },
            "answered 503 Service Unavailable: busy",
        ),
        (
            "no registry at all",
            |r| {
                one(r);
                r.mood(|_, _| Some(Reply::new(200).body("<html>")));
            },
            "does not parse",
        ),
    ];
    for (what, lie, want) in table {
        let registry = Registry::plain().await;
        let dir = tempfile::tempdir().unwrap();
        lie(&registry);
        let error = refused(what, &registry, dir.path()).await;
        assert!(error.contains(want), "{what}: {error}");
        assert!(registry.seen().len() < 40, "{what}: {} requests", registry.seen().len());
    }
}

fn gnu_long_name(length: u64) -> Vec<u8> {
    let mut header = header("././@LongLink", tar::EntryType::GNULongName);
    header.set_size(length);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.resize(out.len() + length as usize, b'x');
    out
}

/// A sparse file of `length` bytes that takes no room in the tar.
fn sparse(length: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..6].copy_from_slice(b"sparse");
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let gnu = header.as_gnu_mut().expect("gnu");
    gnu.set_real_size(length);
    gnu.sparse[0].set_offset(length);
    gnu.sparse[0].set_length(0);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.resize(out.len() + 1024, 0);
    out
}

#[tokio::test]
async fn lying_layers() {
    let lying = |layer: Layer| Layer { diff_id: format!("sha256:{}", "1".repeat(64)), ..layer };
    let table = [
        (
            "another tar than the configuration says",
            lying(Layer::of(GZIP, &[("a", b"1")])),
            "the layer hashes to",
        ),
        (
            "a digest that is a path",
            Layer { diff_id: "../../../../../../../..".into(), ..Layer::of(GZIP, &[]) },
            "which is no digest",
        ),
        ("a name that leads out", Layer::of(GZIP, &[("../evil", b"1")]), "../evil leads out of the layer"),
        ("a whiteout that leads out", Layer::of(GZIP, &[("../.wh.evil", b"1")]), "leads out of the layer"),
        (
            "zeros without end, gzip",
            Layer::packed(GZIP, &tar(&[("zeros", &vec![0; 9 << 20])])),
            "unpacks to more than 8388608 bytes",
        ),
        (
            "zeros without end, zstd",
            Layer::packed(ZSTD, &tar(&[("zeros", &vec![0; 9 << 20])])),
            "unpacks to more than 8388608 bytes",
        ),
        ("zeros after the end", Layer::packed(ZSTD, &vec![0; 9 << 20]), "unpacks to more than 8388608 bytes"),
        ("holes without end", Layer::packed(GZIP, &sparse(1 << 40)), "unpacks to more than 8388608 bytes"),
        (
            "a name without end",
            Layer::packed(GZIP, &gnu_long_name(6 << 20)),
            "headers are over 4194304 bytes",
        ),
        ("no tar", Layer::packed(GZIP, &noise(5000)), "layer"),
        (
            "half a gzip stream",
            Layer {
                blob: Layer::of(GZIP, &[("a", &noise(50_000))]).blob[..1000].to_vec(),
                ..Layer::of(GZIP, &[("a", b"")])
            },
            "layer",
        ),
    ];
    for (what, layer, want) in table {
        let registry = Registry::plain().await;
        let dir = tempfile::tempdir().unwrap();
        registry.image("1", OCI, &[Layer::of(GZIP, &[("good", b"1")]), layer]);
        let error = refused(what, &registry, &dir.path().join("store")).await;
        assert!(error.contains(want), "{what}: {error}");
        assert!(!dir.path().join("evil").exists() && !dir.path().join("store/evil").exists(), "{what}");
    }
}

/// Links may point anywhere: in a container they mean something. Following them while unpacking stays inside.
#[tokio::test]
async fn links_are_followed_within_the_layer_only() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let link = |name: &str, kind, to: &str| {
        let mut header = header(name, kind);
        header.as_old_mut().linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let through = tar(&[("way/file", b"1"), ("way/.wh.secret", b""), ("way/.wh..wh..opq", b"")]);
    let tricks = [
        [link("way", tar::EntryType::Symlink, &target), through.clone()].concat(),
        [link("way", tar::EntryType::Symlink, "../../../../../../../../tmp"), through].concat(),
        [link("copy", tar::EntryType::Link, &format!("{target}/secret")), vec![0; 1024]].concat(),
        [link("copy", tar::EntryType::Link, "../../../../../../etc/passwd"), vec![0; 1024]].concat(),
    ];
    for (number, trick) in tricks.into_iter().enumerate() {
        let registry = Registry::plain().await;
        let dir = tempfile::tempdir().unwrap();
        registry.image("1", OCI, &[Layer::packed(GZIP, &trick)]);
        refused("a trick with links", &registry, dir.path()).await;
        let left: Vec<_> =
            std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["secret"], "{number}");
        assert!(!Path::new("/tmp/file").exists(), "{number}");
    }
    // A link to a folder of the same layer works, also an absolute one.
    let mut usual = tar::Builder::new(Vec::new());
    usual.append(&header("usr/", tar::EntryType::Directory), &[][..]).unwrap();
    let mut bytes = usual.into_inner().unwrap();
    bytes.truncate(512);
    bytes.extend(link("lib", tar::EntryType::Symlink, "/usr"));
    bytes.extend(tar(&[("lib/file", b"1")]));
    let registry = Registry::plain().await;
    let dir = tempfile::tempdir().unwrap();
    registry.image("1", OCI, &[Layer::packed(GZIP, &bytes)]);
    let images = store(dir.path());
    let reference = registry.name("app:1");
    images.pull(PullRequest { reference: reference.clone(), auth: None }, None).await.unwrap();
    let layer = images.find(&reference).unwrap().unwrap().layers.remove(0);
    assert!(dir.path().join("layers").join(layer).join("usr/file").exists());
}
