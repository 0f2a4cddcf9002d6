//! Bodies of requests against built-in kinds: what clients are told about bad ones.

use schema::decode::{Decoded, Format, Refusal, Target, decode};
use serde_json::json;

use crate::Registry;

fn read(format: Format, group: &str, kind: &str, body: &[u8]) -> Result<Decoded, Refusal> {
    let registry = Registry::builtin();
    let def = registry.by_kind(group, "v1", kind).expect("kind");
    decode(format, body, &Target { group, version: "v1", kind, schema: def.schema() })
}

/// Kind, body, the words after `cannot be handled as a KIND: ` or `(must be of type KIND): `.
const REFUSED: &str = r#"
Deployment {"spec":{"replicas":"x"}} json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32
Deployment {"spec":{"replicas":1.5}} json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32
Deployment {"spec":{"replicas":99999999999}} json: cannot unmarshal number 99999999999 into Go struct field DeploymentSpec.spec.replicas of type int32
Deployment {"metadata":{"name":5}} json: cannot unmarshal number into Go struct field ObjectMeta.metadata.name of type string
Deployment {"metadata":{"labels":{"a":1}}} json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string
Deployment {"metadata":{"labels":["a"]}} json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string
Deployment {"metadata":"x"} json: cannot unmarshal string into Go struct field Deployment.metadata of type v1.ObjectMeta
Deployment {"spec":{"template":{"spec":{"containers":{"a":1}}}}} json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container
Deployment {"spec":{"template":{"spec":{"containers":["a"]}}}} json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type v1.Container
Deployment {"spec":{"template":{"spec":{"containers":[{"ports":[{"containerPort":"x"}]}]}}}} json: cannot unmarshal string into Go struct field ContainerPort.spec.template.spec.containers.ports.containerPort of type int32
Deployment {"spec":{"template":{"spec":{"hostNetwork":"true"}}}} json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.hostNetwork of type bool
Deployment {"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":true}}}]}}}} quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'
Deployment {"metadata":{"creationTimestamp":"x"}} parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"
Deployment {"metadata":{"creationTimestamp":5}} json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string
Deployment {"spec":{"strategy":{"rollingUpdate":{"maxSurge":1.5}}}} json: cannot unmarshal number 1.5 into Go struct field RollingUpdateDeployment.spec.strategy.rollingUpdate.maxSurge of type int32
Secret {"data":{"a":"%%"}} illegal base64 data at input byte 0
Secret {"data":{"a":5}} json: cannot unmarshal number into Go struct field Secret.data of type []uint8
Secret {"data" couldn't get version/kind; json parse error: unexpected end of JSON input ({"data")
Secret [] couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)
Secret {"kind":5} couldn't get version/kind; json parse error: json: cannot unmarshal number into Go struct field .kind of type string ({"kind":5})
Secret {a:1} couldn't get version/kind; json parse error: invalid character 'a' looking for beginning of object key string ({a:1})
Lease {"spec":{"renewTime":"x"}} parsing time "x" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "x" as "2006"
"#;

#[test]
fn refused_bodies() {
    for row in REFUSED.trim().lines() {
        let (kind, rest) = row.split_once(' ').expect("row");
        let (body, want) = rest.split_once(' ').expect("row");
        let group = match kind {
            "Deployment" => "apps",
            "Lease" => "coordination.k8s.io",
            _ => "",
        };
        let got = read(Format::Json, group, kind, body.as_bytes()).expect_err(row).0;
        let handled = format!("{kind} in version \"v1\" cannot be handled as a {kind}: {want}");
        let known = format!("the object provided is unrecognized (must be of type {kind}): {want}");
        assert!(got == handled || got == known, "{got}\n{handled}");
    }
}

#[test]
fn strict_errors_in_document_order() {
    let body =
        br#"{"metadata":{"name":"a","foo":1},"spec":{"bar":{},"replicas":1,"replicas":2,"template":{"spec":{
        "containers":[{"x":1,"name":"a","name":"b"}],"volumes":[{"hostpath":{},"emptyDir":{"m":""}}]}}}}"#;
    let decoded = read(Format::Json, "apps", "Deployment", body).expect("decodes");
    let want = [
        r#"unknown field "metadata.foo""#,
        r#"unknown field "spec.bar""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.template.spec.containers[0].x""#,
        r#"duplicate field "spec.template.spec.containers[0].name""#,
        r#"unknown field "spec.template.spec.volumes[0].hostpath""#,
        r#"unknown field "spec.template.spec.volumes[0].emptyDir.m""#,
    ];
    assert_eq!(decoded.strict, want);
    assert_eq!(decoded.value["spec"]["replicas"], json!(2));
    assert!(decoded.value["spec"].get("bar").is_none());
}

#[test]
fn canonical_forms() {
    let body = br#"{"metadata":{"name":"a","labels":{},"annotations":null},"spec":{"hostNetwork":false,"containers":[
        {"name":"c","image":"i","env":[],"resources":{"limits":{"cpu":"1000m","memory":1024}}}]},"status":null}"#;
    let decoded = read(Format::Json, "", "Pod", body).expect("decodes");
    let want = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "status": {}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}]}});
    assert_eq!(decoded.value, want);
    let empty = read(Format::Json, "apps", "Deployment", b"{}").expect("decodes").value;
    let want = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "status": {},
        "spec": {"selector": null, "strategy": {}, "template": {"metadata": {}, "spec": {"containers": null}}}});
    assert_eq!(empty, want);
}

#[test]
fn yaml_bodies() {
    let body = b"metadata: {name: a, foo: 1}\nspec:\n  replicas: 1\n  paused: true\n";
    let decoded = read(Format::Yaml, "apps", "Deployment", body).expect("decodes");
    assert_eq!(decoded.strict, [r#"unknown field "metadata.foo""#]);
    assert_eq!(decoded.value["spec"]["paused"], json!(true));
    let twice =
        read(Format::Yaml, "apps", "Deployment", b"spec: {replicas: 1, replicas: 2}").expect("decodes");
    assert_eq!((twice.strict.len(), &twice.value["spec"]["replicas"]), (1, &json!(2)));
    assert!(read(Format::Yaml, "apps", "Deployment", b"a: [").is_err());
    assert!(read(Format::Yaml, "apps", "Deployment", b"- a").is_err());
}

#[test]
fn protobuf_bodies() {
    let registry = Registry::builtin();
    let schema = registry.by_kind("", "v1", "Pod").expect("pods").schema().clone();
    let json =
        read(Format::Json, "", "Pod", br#"{"metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}"#);
    let value = json.expect("decodes").value;
    let bytes = schema::protobuf::encode_object(&schema, "v1", "Pod", &value);
    assert_eq!(read(Format::Protobuf, "", "Pod", &bytes).expect("decodes").value, value);
    let refused = read(Format::Protobuf, "", "Secret", &bytes).expect_err("another kind").0;
    assert!(refused.starts_with("Pod in version \"v1\" cannot be handled as a Secret"), "{refused}");
    let refused = read(Format::Protobuf, "", "Pod", b"k8s").expect_err("short").0;
    assert!(refused.ends_with("expected prefix [107 56 115 0] (6b3873)"), "{refused}");
}
