//! Pulls from a real registry over loopback.

mod archives;
mod liars;
mod shelf;

use oci::config::{PullRequest, RegistryAuth};
use oci::images::Images;
use shelf::*;

fn request(reference: &str) -> PullRequest {
    PullRequest { reference: reference.into(), auth: None }
}

fn read(dir: &std::path::Path, images: &Images, reference: &str, file: &str) -> String {
    let record = images.find(reference).unwrap().expect("image");
    let found = record.layers.iter().map(|l| dir.join("layers").join(l).join(file)).find(|p| p.exists());
    std::fs::read_to_string(found.expect("file")).unwrap()
}

#[tokio::test]
async fn every_kind_of_layer_and_manifest() {
    let registry = Registry::plain().await;
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let big = vec![7u8; 300 << 10];
    let base = Layer::of(DOCKER_GZIP, &[("etc/base", b"base"), ("big", &big)]);
    for (tag, manifest, top) in [("d", DOCKER, GZIP), ("o", OCI, ZSTD), ("p", OCI, TAR)] {
        let text = format!("top {tag}");
        let top = Layer::of(top, &[("etc/top", text.as_bytes())]);
        let name = registry.image(tag, manifest, &[base.clone(), top]);
        let (to, mut progress) = tokio::sync::mpsc::channel(64);
        let reference = registry.name(&format!("me/app:{tag}"));
        let id = images.pull(request(&reference), Some(to)).await.unwrap();
        let record = images.find(&reference).unwrap().unwrap();
        assert_eq!((&record.id, record.layers.len()), (&id, 2));
        assert_eq!(record.digests, [registry.name(&format!("me/app@{name}"))]);
        assert_eq!(record.config.cmd, ["/bin/app"]);
        assert_eq!(read(dir.path(), &images, &reference, "etc/top"), text);
        let mut last = None;
        while let Some(step) = progress.recv().await {
            last = Some(step);
        }
        let last = last.expect("progress");
        assert_eq!((last.done, last.layers_done), (last.total, 2));
    }
    // The shared layer came once.
    let path = format!("/v2/me/app/blobs/{}", oci::images::digest(&base.blob));
    assert_eq!(registry.seen().iter().filter(|s| s.path == path).count(), 1);
}

#[tokio::test]
async fn an_index_by_tag_and_by_digest() {
    let registry = Registry::plain().await;
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let own = registry.image("x", OCI, &[Layer::of(GZIP, &[("own", b"1")])]);
    let other = registry.image("y", OCI, &[Layer::of(GZIP, &[("other", b"1")])]);
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let of = |digest: &str, arch: &str| {
        serde_json::json!({ "mediaType": OCI, "digest": digest, "size": 1,
            "platform": { "os": "linux", "architecture": arch } })
    };
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [of(&other, "s390x"), of(&own, arch)] });
    let name = registry.manifest("all", INDEX, index.to_string().as_bytes());
    let by_digest = registry.name(&format!("app@{name}"));
    for reference in [registry.name("app:all"), by_digest.clone()] {
        images.pull(request(&reference), None).await.unwrap();
        assert_eq!(read(dir.path(), &images, &reference, "own"), "1");
    }
    let record = images.find(&by_digest).unwrap().unwrap();
    assert_eq!((record.tags, record.digests), (vec![registry.name("app:all")], vec![by_digest]));
}

#[tokio::test]
async fn an_image_that_did_not_change_costs_one_question() {
    let registry = Registry::plain().await;
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let reference = registry.name("app:1");
    registry.image("1", OCI, &[Layer::of(GZIP, &[("v", b"1")])]);
    images.pull(request(&reference), None).await.unwrap();
    registry.forget();
    images.pull(request(&reference), None).await.unwrap();
    let asked: Vec<_> = registry.seen().into_iter().map(|s| s.method).collect();
    assert_eq!(asked, ["HEAD"]);
    // The tag moves on: so does the name here.
    registry.image("1", OCI, &[Layer::of(GZIP, &[("v", b"2")])]);
    images.pull(request(&reference), None).await.unwrap();
    assert_eq!(read(dir.path(), &images, &reference, "v"), "2");
    assert_eq!(images.list().unwrap().iter().filter(|r| r.tags.contains(&reference)).count(), 1);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let registry = Registry::plain().await;
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let noise: Vec<u8> = (0..400_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let layer = Layer::of(TAR, &[("noise", &noise)]);
    let whole = layer.blob.clone();
    registry.image("1", OCI, &[layer]);
    let path = format!("/v2/app/blobs/{}", oci::images::digest(&whole));
    let blob = path.clone();
    registry.mood(move |seen, before| match before {
        0 if seen.path == blob => Some(Reply::new(200).body(whole.clone()).cut(100_000)),
        1 if seen.path == blob => Some(Reply::new(503).with("retry-after", "0")),
        _ => None,
    });
    images.pull(request(&registry.name("app:1")), None).await.unwrap();
    let ranges: Vec<_> = registry.seen().into_iter().filter(|s| s.path == path).map(|s| s.range).collect();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert!(ranges[2].as_deref().is_some_and(|r| r.starts_with("bytes=") && r != "bytes=0-"), "{ranges:?}");
}

#[tokio::test]
async fn many_pulls_at_once_bring_a_layer_once() {
    let registry = Registry::plain().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores: Vec<_> = dirs.iter().map(|d| store(d.path())).collect();
    registry.image("1", OCI, &[Layer::of(GZIP, &[("v", b"1")]), Layer::of(ZSTD, &[("w", b"1")])]);
    let reference = registry.name("app:1");
    let wanted = request(&reference);
    let again = || oci::registry::pull(&stores, None, limits(), &wanted, None);
    let (a, b, c) = tokio::join!(again(), again(), again());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    for (dir, images) in dirs.iter().zip(&stores) {
        assert_eq!(read(dir.path(), images, &reference, "w"), "1");
    }
    let blobs = registry.seen().into_iter().filter(|s| s.path.contains("/blobs/"));
    let mut paths: Vec<_> = blobs.map(|s| s.path).collect();
    paths.sort();
    // Two layers once; the configuration is small and comes with each pull.
    let config = paths.len() - 2;
    assert!((1..=3).contains(&config), "{paths:?}");
}

#[tokio::test]
async fn tokens_and_redirects() {
    let (registry, service, cdn) =
        (Registry::plain().await, Registry::plain().await, Registry::plain().await);
    let dir = tempfile::tempdir().unwrap();
    let images = store(dir.path());
    let layer = Layer::of(GZIP, &[("v", b"1")]);
    cdn.blob(&layer.blob);
    let moved = oci::images::digest(&layer.blob);
    registry.image("1", OCI, &[layer]);
    let (realm, target) = (format!("http://{}/token", service.address), format!("http://{}", cdn.address));
    registry.mood(move |seen, _| {
        if seen.authorization.as_deref() != Some("Bearer good") {
            let challenge =
                format!(r#"Bearer realm="{realm}",service="shelf",scope="repository:me/app:pull""#);
            return Some(Reply::new(401).with("www-authenticate", challenge));
        }
        let away = seen.path.ends_with(&moved);
        away.then(|| Reply::new(307).with("location", format!("{target}/files/{moved}?sig=x")))
    });
    service.mood(|seen, _| {
        let good = seen.authorization.as_deref() == Some("Basic bWU6c2VjcmV0");
        let denied = Reply::new(401).body(r#"{"details":"incorrect username or password"}"#);
        Some(if good { Reply::new(200).body(r#"{"access_token":"good"}"#) } else { denied })
    });
    let reference = registry.name("me/app:1");
    let error = images.pull(request(&reference), None).await.unwrap_err().to_string();
    assert!(error.starts_with("not authorized to pull"), "{error}");
    assert!(error.contains("incorrect username or password"), "{error}");
    let auth = RegistryAuth { username: "me".into(), password: "secret".into(), ..RegistryAuth::default() };
    let with = PullRequest { auth: Some(auth), ..request(&reference) };
    images.pull(with, None).await.unwrap();
    let asked = service.seen().pop().expect("asked");
    assert_eq!(asked.query, "service=shelf&scope=repository%3Ame%2Fapp%3Apull&account=me");
    let moved = cdn.seen();
    assert!(!moved.is_empty() && moved.iter().all(|s| s.authorization.is_none()), "{moved:?}");
}

#[tokio::test]
async fn basic_and_tls_and_mirrors_by_the_registries_file() {
    let (registry, authority) = Registry::tls().await;
    let dir = tempfile::tempdir().unwrap();
    let mut images = store(dir.path());
    registry.image("1", OCI, &[Layer::of(GZIP, &[("v", b"1")])]);
    registry.mood(|seen, _| {
        let known = seen.authorization.as_deref() == Some("Basic bWU6c2VjcmV0");
        (!known).then(|| Reply::new(401).with("www-authenticate", "Basic realm=\"shelf\""))
    });
    let reference = "example.invalid/me/app:1";
    let error = images.pull(request(&registry.name("me/app:1")), None).await.unwrap_err().to_string();
    assert!(error.contains("certificate of 127.0.0.1"), "{error}");
    let (ca, file) = (dir.path().join("ca.pem"), dir.path().join("registries.yaml"));
    std::fs::write(&ca, authority).unwrap();
    images.registries = Some(file.clone());
    let text = format!(
        "mirrors:\n  example.invalid:\n    endpoint: [\"http://127.0.0.1:1\", \"https://{0}\"]\n\
         configs:\n  \"{0}\":\n    auth: {{ username: me, password: secret }}\n    tls: {{ ca_file: {1} }}\n",
        registry.address,
        ca.display()
    );
    std::fs::write(&file, text).unwrap();
    images.pull(request(reference), None).await.unwrap();
    assert_eq!(read(dir.path(), &images, reference, "v"), "1");
    assert!(registry.seen().iter().any(|s| s.query == "ns=example.invalid"));
}
