//! Certificates with many groups, made and signed.

use x509_parser::prelude::*;

use super::*;

fn groups(certificate: &str) -> (String, Vec<String>) {
    let (_, pem) = parse_x509_pem(certificate.as_bytes()).expect("PEM");
    let leaf = pem.parse_x509().expect("certificate");
    let text = |value: &AttributeTypeAndValue<'_>| value.as_str().expect("text").to_owned();
    let name = leaf.subject().iter_common_name().next().map(text).expect("name");
    (name, leaf.subject().iter_organization().map(text).collect())
}

fn verifies(certificate: &str, authority: &Authority) -> bool {
    let (_, leaf) = parse_x509_pem(certificate.as_bytes()).expect("PEM");
    let (_, own) = parse_x509_pem(authority.certificate().as_bytes()).expect("PEM");
    let own = own.parse_x509().expect("authority");
    leaf.parse_x509().expect("certificate").verify_signature(Some(own.public_key())).is_ok()
}

#[test]
fn users_of_several_groups_get_them_all() {
    let authority = Authority::generate("ca").expect("authority");
    let subject = Subject::client("ann", ["a", "b", "system:c"]);
    let pair = authority.issue(&subject, LEAF_LIFE).expect("certificate");
    assert!(verifies(&pair.certificate, &authority) && authority.covers(&pair, &subject));
    assert_eq!(groups(&pair.certificate), ("ann".into(), vec!["a".into(), "b".into(), "system:c".into()]));
    assert!(!authority.covers(&pair, &Subject::client("ann", ["a", "b"])));
}

/// A request as other tools make it: several organizations in one part of the subject, or in parts of their own.
fn request(subject: &[u8], key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["host.example".to_string()]).expect("name");
    params.distinguished_name = DistinguishedName::new();
    let plain = params.serialize_request(key).expect("request");
    encode_pem("CERTIFICATE REQUEST", &subject::give_request(plain.der(), subject, key).expect("request"))
}

#[test]
fn requests_keep_every_attribute() {
    let authority = Authority::generate("ca").expect("authority");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    let apart = subject::encode("bob", &["a".to_string(), "b".to_string()]);
    let together = subject::encode_together("bob", &["a".to_string(), "b".to_string()]);
    for subject in [apart, together] {
        let pem = request(&subject, &key);
        let asked = read_request(pem.as_bytes()).expect("read");
        assert_eq!((asked.organizations, asked.dns), (vec!["a".to_string(), "b".to_string()], 1));
        let usages = ["client auth", "digital signature"].map(str::to_string);
        let life = Duration::from_secs(3600);
        let signed = authority.sign_request(pem.as_bytes(), &usages, life).expect("signed");
        assert!(verifies(&signed, &authority));
        assert_eq!(groups(&signed), ("bob".into(), vec!["a".into(), "b".into()]));
        assert!(authority.sign_request(pem.as_bytes(), &["walk".to_string()], life).is_err());
    }
}
