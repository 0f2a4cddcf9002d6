//! Archives: what `docker save` of old and new writes for several images and tags, OCI layouts, and bad ones.

use crate::shelf::*;
use oci::images::digest;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One image of an archive.
struct Saved {
    config: Vec<u8>,
    layers: Vec<Vec<u8>>,
}

/// Files of an archive.
type Entries = Vec<(String, Vec<u8>)>;

fn saved(files: &[(&str, &[u8])], base: &[u8]) -> Saved {
    let layers = vec![base.to_vec(), tar(files)];
    Saved { config: config(&layers, "linux", oci::registry::architecture()), layers }
}

fn config(layers: &[Vec<u8>], os: &str, architecture: &str) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|l| digest(l)).collect();
    let config =
        json!({ "os": os, "architecture": architecture, "config": null, "rootfs": { "diff_ids": ids } });
    config.to_string().into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    digest(bytes).replace("sha256:", "")
}

fn write(dir: &Path, entries: &[(String, Vec<u8>)]) -> PathBuf {
    let borrowed: Vec<_> = entries.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let path = dir.join("archive.tar");
    std::fs::write(&path, tar(&borrowed)).unwrap();
    path
}

/// As docker before 25 writes it: a folder for each layer, `manifest.json`.
fn old(images: &[(&Saved, Value)]) -> Entries {
    let mut entries = Vec::new();
    let mut manifest = Vec::new();
    for (image, tags) in images {
        let name = format!("{}.json", hex(&image.config));
        let layers: Vec<_> = image.layers.iter().map(|l| format!("{}/layer.tar", &hex(l)[..12])).collect();
        entries.extend(layers.iter().cloned().zip(image.layers.iter().cloned()));
        entries.push((name.clone(), image.config.clone()));
        manifest.push(json!({ "Config": name, "RepoTags": tags, "Layers": layers }));
    }
    entries.push(("manifest.json".into(), Value::from(manifest).to_string().into_bytes()));
    entries
}

/// An OCI layout with an entry for each tag, as docker since 25 writes it beside `manifest.json`.
fn layout(images: &[(&Saved, &[&str])], annotation: &str) -> Entries {
    let blob = |b: &[u8]| (format!("blobs/sha256/{}", hex(b)), b.to_vec());
    let part = |b: &[u8]| json!({ "digest": digest(b), "size": b.len() });
    let (mut entries, mut index) = (Vec::new(), Vec::new());
    for (image, names) in images {
        let layers: Vec<_> = image.layers.iter().map(|l| part(l)).collect();
        let manifest =
            json!({ "schemaVersion": 2, "config": part(&image.config), "layers": layers }).to_string();
        entries.extend(image.layers.iter().map(|l| blob(l)));
        entries.extend([blob(&image.config), blob(manifest.as_bytes())]);
        for name in *names {
            let mut of = part(manifest.as_bytes());
            of["annotations"] = json!({ annotation: name });
            index.push(of);
        }
    }
    // What signs or describes an image stands beside it.
    index.push(json!({ "digest": digest(b"x"), "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } }));
    entries.push((
        "index.json".into(),
        json!({ "schemaVersion": 2, "manifests": index }).to_string().into_bytes(),
    ));
    entries
}

#[test]
fn several_images_with_several_names() {
    let base = tar(&[("etc/base", b"base")]);
    let (a, b) = (saved(&[("a", b"a")], &base), saved(&[("b", b"b")], &base));
    let both = layout(&[(&a, &["r.io/a:1", "r.io/a:2"]), (&b, &["r.io/b:1"])], "io.containerd.image.name");
    let mut new = both.clone();
    let paths = |s: &Saved| s.layers.iter().map(|l| format!("blobs/sha256/{}", hex(l))).collect::<Vec<_>>();
    let of = |s: &Saved, tags: Value| json!({ "Config": format!("blobs/sha256/{}", hex(&s.config)), "RepoTags": tags, "Layers": paths(s) });
    let manifest = json!([of(&a, json!(["r.io/a:1", "r.io/a:2"])), of(&b, json!(["r.io/b:1"]))]);
    new.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    let before = old(&[(&a, json!(["r.io/a:1", "r.io/a:2"])), (&b, json!(["r.io/b:1"]))]);
    for (what, entries, with_digests) in [("old", before, false), ("new", new, true), ("layout", both, true)]
    {
        let dir = tempfile::tempdir().unwrap();
        let images = store(&dir.path().join("store"));
        images.import(&write(dir.path(), &entries), None).unwrap();
        let found = images.find("r.io/a:2").unwrap().expect(what);
        assert_eq!((found.id.clone(), found.tags.len()), (digest(&a.config), 2), "{what}");
        assert_eq!(found.digests.len(), usize::from(with_digests), "{what}");
        let other = images.find("r.io/b:1").unwrap().expect(what);
        assert_eq!(found.layers.last(), other.layers.last(), "{what}: the base is shared");
        assert_eq!(images.list().unwrap().len(), 2, "{what}");
        // Removing one leaves the other whole.
        images.remove("r.io/a:1", &[]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 2, "{what}");
        images.remove(&other.id, &[]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("store/layers")).unwrap().count(), 0, "{what}");
        assert_eq!(std::fs::read_dir(dir.path().join("store/content")).unwrap().count(), 0, "{what}");
    }
}

#[test]
fn names_given_by_hand_and_none() {
    let dir = tempfile::tempdir().unwrap();
    let images = store(&dir.path().join("store"));
    let base = tar(&[]);
    let (a, b) = (saved(&[("a", b"a")], &base), saved(&[("b", b"b")], &base));
    let two = old(&[(&a, Value::Null), (&b, Value::Null)]);
    let error = images.import(&write(dir.path(), &two), Some("r.io/x:1")).unwrap_err().to_string();
    assert!(error.contains("it holds 2 images, and one name fits one"), "{error}");
    // A tag alone names nothing; the image is known by its id, or by the name that is given.
    let bare = write(dir.path(), &layout(&[(&a, &["latest"])], "org.opencontainers.image.ref.name"));
    let record = images.import(&bare, None).unwrap().remove(0);
    assert!(record.tags.is_empty() && images.find(&record.id).unwrap().is_some());
    images.import(&bare, Some("r.io/x:1")).unwrap();
    assert_eq!(images.find("r.io/x:1").unwrap().unwrap().id, record.id);
}

#[test]
fn a_compressed_archive() {
    let dir = tempfile::tempdir().unwrap();
    let image = saved(&[("a", b"a")], &tar(&[]));
    let plain = std::fs::read(write(dir.path(), &old(&[(&image, json!(["r.io/a:1"]))]))).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    for (number, packed) in
        [gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap()].iter().enumerate()
    {
        let images = store(&dir.path().join(number.to_string()));
        let path = dir.path().join("packed");
        std::fs::write(&path, packed).unwrap();
        images.import(&path, None).unwrap();
        assert!(images.find("r.io/a:1").unwrap().is_some());
    }
}

#[test]
fn archives_that_lie() {
    let base = tar(&[("good", b"1")]);
    let good = || saved(&[("a", b"a")], &base);
    let tags = json!(["r.io/a:1"]);
    let with = |config: Vec<u8>| old(&[(&Saved { config, ..good() }, tags.clone())]);
    let other = vec![base.clone(), tar(&[("a", b"other")])];
    let alien = config(&good().layers, "linux", "pdp11");
    let evil = Saved { layers: vec![base.clone(), tar(&[("../../evil", b"x")])], config: vec![] };
    let evil = Saved { config: config(&evil.layers, "linux", ""), ..evil };
    let missing =
        old(&[(&good(), tags.clone())]).into_iter().filter(|(n, _)| !n.ends_with("layer.tar")).collect();
    let table: [(&str, Entries, &str); 7] = [
        ("another layer", with(config(&other, "linux", "")), "the layer hashes to"),
        ("another platform", with(alien), "it is made for linux/pdp11"),
        ("fewer layers", with(config(&other[..1], "", "")), "differ in number"),
        ("a path out", old(&[(&evil, tags.clone())]), "leads out of the layer"),
        ("a bad name", old(&[(&good(), json!(["BAD:1"]))]), "is invalid"),
        ("no layers", missing, "the archive does not have it"),
        ("no image", vec![("file".into(), b"x".to_vec())], "it has no image"),
    ];
    for (what, entries, want) in table {
        let dir = tempfile::tempdir().unwrap();
        let images = store(&dir.path().join("store"));
        let error = images.import(&write(dir.path(), &entries), None).expect_err(what).to_string();
        assert!(error.contains(want), "{what}: {error}");
        assert!(images.list().unwrap().is_empty(), "{what}");
        for part in ["layers", "content"] {
            let left = std::fs::read_dir(dir.path().join("store").join(part)).unwrap().count();
            assert_eq!(left, 0, "{what}: {part}");
        }
        assert!(!dir.path().join("evil").exists(), "{what}");
    }
}
