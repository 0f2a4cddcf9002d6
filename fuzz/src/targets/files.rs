//! Files from elsewhere: layers, image archives, kubeconfigs, certificates and requests for them.
//!
//! What unpacks does so below a root of its own, so that a name that leads out harms nothing and is seen.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use serve::pki;

use super::{Run, Target, split_line};

/// Layers.
pub const LAYER: Target = Target { name: "layer", what: "image layers", seeds: layer_seeds, start: layers };

/// Archives of images.
pub const ARCHIVE: Target =
    Target { name: "archive", what: "docker-save and OCI archives", seeds: archive_seeds, start: archives };

/// Registries.
pub const REGISTRY: Target = Target {
    name: "registry",
    what: "manifests, challenges, credentials and mirrors of registries",
    seeds: registry_seeds,
    start: || Box::new(registry),
};

/// Kubeconfigs.
pub const KUBECONFIG: Target = Target {
    name: "kubeconfig",
    what: "kubeconfig files",
    seeds: config_seeds,
    start: || Box::new(kubeconfig),
};

/// Certificates and requests.
pub const CERTIFICATE: Target = Target {
    name: "certificate",
    what: "certificates and requests, PEM and DER",
    seeds: pki_seeds,
    start: || Box::new(certificate),
};

const BLOCK: usize = 512;

/// What is in a layer: name, kind, content or link.
const ENTRIES: &[(&str, tar::EntryType, &str)] = &[
    ("etc/", tar::EntryType::Directory, ""),
    ("etc/passwd", tar::EntryType::Regular, "root:x:0:0:root:/root:/bin/sh\n"),
    ("bin", tar::EntryType::Symlink, "usr/bin"),
    ("etc/hard", tar::EntryType::Link, "etc/passwd"),
    ("up", tar::EntryType::Symlink, "/"),
    ("up/etc/x", tar::EntryType::Regular, "x"),
    ("away", tar::EntryType::Symlink, "../../outside"),
    ("etc/.wh.motd", tar::EntryType::Regular, ""),
    ("var/.wh..wh..opq", tar::EntryType::Regular, ""),
    ("dev/null", tar::EntryType::Char, ""),
    ("run/fifo", tar::EntryType::Fifo, ""),
];

fn tar_of<'a>(entries: impl Iterator<Item = (&'a str, tar::EntryType, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        header.set_size(if link { 0 } else { content.len() as u64 });
        let fields = header.as_old_mut();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        if link {
            fields.linkname[..content.len()].copy_from_slice(content);
        }
        header.set_cksum();
        builder.append(&header, if link { &[][..] } else { content }).expect("append to memory");
    }
    builder.into_inner().expect("finish in memory")
}

fn layer_seeds() -> Vec<Vec<u8>> {
    let all = ENTRIES.iter().map(|(name, kind, text)| (*name, *kind, text.as_bytes()));
    let mut seeds: Vec<Vec<u8>> = all.clone().map(|one| tar_of([one].into_iter())).collect();
    seeds.push(tar_of(all.filter(|(name, ..)| !name.starts_with("up/"))));
    seeds
}

/// Gives headers the checksum that belongs to them: no change inside one would be read otherwise.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| &block[257..262] == b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// A root for this process alone. Only for a process that does nothing else.
fn enclose() {
    let dir = tempfile::Builder::new().prefix("fuzz").tempdir().expect("temporary directory");
    std::os::unix::fs::chroot(dir.path()).expect("chroot needs root");
    std::env::set_current_dir("/").expect("enter the root");
    // The directory cannot be removed from within: whoever started the process gave it a TMPDIR to remove.
    let _ = dir.keep();
    std::fs::create_dir("/work").expect("create in an empty root");
}

/// What lies at the top of the root.
fn top() -> BTreeSet<std::ffi::OsString> {
    std::fs::read_dir("/").into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

fn wipe(dir: &Path) {
    std::fs::remove_dir_all(dir).expect("remove what was unpacked");
}

fn layers() -> Run {
    enclose();
    let before = top();
    Box::new(move |input| {
        let mut tar = input.to_vec();
        mend(&mut tar);
        let to = Path::new("/work/a/layer");
        std::fs::create_dir_all(to).expect("create");
        drop(oci::images::unpack_layer(tar.as_slice(), to, 1 << 20));
        let names: Vec<_> =
            std::fs::read_dir("/work/a").expect("list").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["layer"], "something was put beside the layer");
        assert_eq!(top(), before, "something was put outside the layer");
        wipe(Path::new("/work/a"));
    })
}

fn archive_seeds() -> Vec<Vec<u8>> {
    let layer = tar_of([("a", tar::EntryType::Regular, &b"x"[..])].into_iter());
    let layer_digest = oci::images::digest(&layer);
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Cmd": null, "User": "1:2"},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]}})
    .to_string();
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    let config_digest = oci::images::digest(config.as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": {"digest": config_digest, "size": config.len()},
        "layers": [{"digest": layer_digest, "size": layer.len(), "mediaType": "application/vnd.oci.image.layer.v1.tar"}]})
    .to_string();
    let manifest_digest = oci::images::digest(manifest.as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{"digest": manifest_digest, "size": manifest.len(),
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "platform": {"architecture": "amd64", "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": "x.io/a:1"}}]})
    .to_string();
    let saved = json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}]).to_string();
    let file = tar::EntryType::Regular;
    let docker = [
        ("c.json".to_string(), config.clone().into_bytes()),
        ("l/layer.tar".to_string(), layer.clone()),
        ("manifest.json".to_string(), saved.into_bytes()),
    ];
    let layout = [
        ("oci-layout".to_string(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_string(), index.into_bytes()),
        (blob(&manifest_digest), manifest.into_bytes()),
        (blob(&config_digest), config.into_bytes()),
        (blob(&layer_digest), layer),
    ];
    let tar =
        |files: &[(String, Vec<u8>)]| tar_of(files.iter().map(|(n, c)| (n.as_str(), file, c.as_slice())));
    vec![tar(&docker), tar(&layout)]
}

fn archives() -> Run {
    enclose();
    let before = top();
    Box::new(move |input| {
        let mut tar = input.to_vec();
        mend(&mut tar);
        std::fs::create_dir_all("/work/b").expect("create");
        std::fs::write("/work/b/archive.tar", &tar).expect("write");
        let images = oci::images::Images::open(Path::new("/work/b/images")).expect("open");
        if let Ok(records) = images.import(Path::new("/work/b/archive.tar"), None) {
            for record in records {
                let found = images.find(&record.id).expect("read the index");
                assert!(found.is_some(), "an imported image is not found");
            }
        }
        assert_eq!(top(), before, "something was put outside the images");
        wipe(Path::new("/work/b"));
    })
}

fn registry_seeds() -> Vec<Vec<u8>> {
    let digest = oci::images::digest(b"");
    let part =
        json!({"digest": digest, "size": 5, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"});
    let config =
        json!({"digest": digest, "size": 5, "mediaType": "application/vnd.oci.image.config.v1+json"});
    let image = json!({"schemaVersion": 2, "config": config, "layers": [part, part]});
    let platform = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
    let index = json!({"schemaVersion": 2, "manifests": [
        {"digest": digest, "size": 1, "platform": platform},
        {"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}]});
    let auths = json!({"auths": {"https://a.b:5000/v1/": {"auth": "dTpw"}, "*.b": {"username": "u", "password": "p"},
        "x/y": {"identitytoken": "t"}}});
    let file =
        "mirrors:\n  docker.io:\n  - https://mirror.example/p\nauth:\n  a.b: {username: u, password: p}\n";
    vec![
        format!("answer\n\n{image}").into(),
        format!("answer\nBearer realm=\"https://a/t\",service=\"r\",scope=\"repository:x:pull\"\n{index}")
            .into(),
        "answer\nBasic realm=x\n{\"schemaVersion\":1}".into(),
        format!("keys a.b:5000/c/d:1\n{auths}").into(),
        format!("legacy c.b/x\n{}", auths["auths"]).into(),
        format!("file\n{file}").into(),
    ]
}

fn registry(input: &[u8]) {
    use oci::registry::{Registries, keyring::Keyring, read_answer};
    let Some((head, rest)) = split_line(input) else { return };
    let (kind, image) = head.split_once(' ').unwrap_or((head, ""));
    let mut keys = Keyring::default();
    match kind {
        "answer" => {
            let Some((challenge, body)) = split_line(rest) else { return };
            let mut headers = http::HeaderMap::new();
            if let Ok(value) = challenge.parse() {
                headers.insert(http::header::WWW_AUTHENTICATE, value);
            }
            read_answer(body, &headers);
        }
        "keys" if keys.add_config(rest).is_ok() => drop(keys.lookup(image)),
        "legacy" if keys.add_legacy(rest).is_ok() => drop(keys.lookup(image)),
        "file" => drop(std::str::from_utf8(rest).map(Registries::parse)),
        _ => {}
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster:\n    server: https://h:6443\n    \
        certificate-authority-data: YQ==\n    insecure-skip-tls-verify: false\n    tls-server-name: x\n    proxy-url: http://p\n\
        contexts:\n- name: a\n  context: {cluster: a, user: a, namespace: n}\nusers:\n- name: a\n  user:\n    token: t\n    \
        client-certificate-data: YQ==\n    client-key-data: YQ==\n    exec: {apiVersion: v1, command: /nonexistent}\n";
    let json = r#"{"clusters":[{"name":"a","cluster":{"server":"https://[::1]:1"}}],"users":[],"contexts":[{"name":"a","context":{"cluster":"a","user":"b"}}],"current-context":"a"}"#;
    vec![text.into(), json.into()]
}

fn kubeconfig(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        drop(client::Config::parse(text, Path::new("/nonexistent"), None));
    }
}

fn pki_seeds() -> Vec<Vec<u8>> {
    let authority = pki::Authority::generate("fuzz").expect("an authority");
    let subject = pki::Subject::server("n", vec!["a.b".into()], vec![[127, 0, 0, 1].into()]);
    let pair = authority.issue(&subject, std::time::Duration::from_secs(60)).expect("a certificate");
    let body: String = pair.certificate.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).expect("base64");
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["a.b".to_string()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n");
    let request = params.serialize_request(&key).expect("a request");
    vec![
        format!("certificate\n{}", pair.certificate).into_bytes(),
        format!("key\n{}", pair.key).into_bytes(),
        format!("request\n{}", request.pem().expect("PEM")).into_bytes(),
        [&b"der\n"[..], request.der()].concat(),
        [&b"der\n"[..], &der].concat(),
    ]
}

fn certificate(input: &[u8]) {
    let Some((kind, rest)) = split_line(input) else { return };
    match kind {
        "certificate" => drop(pki::expiry(rest)),
        "key" => drop(net::ingress::certified_key(rest, rest)),
        "request" => drop(pki::read_request(rest)),
        "der" => {
            let begin = "-----BEGIN CERTIFICATE REQUEST-----\n";
            let pem = format!("{begin}{}\n-----END CERTIFICATE REQUEST-----\n", STANDARD.encode(rest));
            drop(pki::read_request(pem.as_bytes()));
            drop(apiserver::authenticate::certificate_identity(rest));
        }
        _ => {}
    }
}
