//! JSON values to protobuf and back, driven by the schema's tags.
//!
//! Bytes come out exactly as the generated Go code of Kubernetes makes them: fields in tag order, plain zero scalars
//! and structs written, absent pointers not. An object on the wire is the four bytes `k8s\0` and an envelope that names
//! its apiVersion and kind; the bytes of lists and watch events can be put together from encoded items.

mod decode;
mod encode;

pub use decode::{DecodeError, Envelope, MAX_DEPTH, decode, open};
pub use encode::{encode, encode_list, encode_object, encode_watch_event, wrap};

/// What every object on the wire starts with.
pub const PREFIX: &[u8; 4] = b"k8s\0";

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LEN: u32 = 2;
const FIXED32: u32 = 5;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::facts::parse_block;
    use crate::types::{Object, ObjectRef, Schema, Type};

    const FACTS: [(&str, &str); 3] = [
        (
            "Thing",
            "Thing object\n  name 1 string\n  size 2 *int32\n  ~ 3 Inner\n  tags 5 {}string\n  when 6 time\n  port 7 *intorstr\n  cpu 8 *quantity\n  raw 9 *raw\n  data 10 {}bytes\n  list 11 []int64\n  extra 12 {}[]=string\n  kids 13 []Thing",
        ),
        ("Inner", "Inner\n  flag 1 bool\n  deep 2 *Leaf"),
        ("Leaf", "Leaf\n  x 1 float\n  at 2 *microtime"),
    ];

    fn resolve(name: &str) -> Option<Arc<Object>> {
        let (_, short) = name.split_once('.')?;
        let (_, block) = FACTS.iter().find(|(n, _)| *n == short)?;
        parse_block("t_v1", block, resolve).ok().map(Arc::new)
    }

    fn thing() -> Schema {
        Schema::new(Type::Object(ObjectRef::lazy("t_v1.Thing", resolve)))
    }

    #[test]
    fn bytes_by_hand() {
        let value = json!({"name": "a", "size": -1, "flag": true, "when": "1970-01-01T00:00:01Z"});
        let got = encode(&thing(), &value);
        let want = [
            &[0x0a, 1, b'a'][..],
            &[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x1a, 2, 0x08, 1],
            &[0x32, 4, 0x08, 1, 0x10, 0],
        ];
        assert_eq!(got, want.concat());
        let wrapped = wrap("v1", "Thing", &got);
        let opened = open(&wrapped).expect("opens");
        assert_eq!((opened.api_version, opened.kind, opened.raw), ("v1", "Thing", &got[..]));
    }

    #[test]
    fn every_form_comes_back() {
        let value = json!({"name": "a", "size": 0, "flag": true, "deep": {"x": 1.5, "at": "2020-01-02T03:04:05.000006Z"},
            "tags": {"a": "b", "c": ""}, "when": "2020-01-02T03:04:05Z", "port": "http", "cpu": "100m", "raw": {"a": [1]},
            "data": {"k": "AAE="}, "list": [-1, 300], "extra": {"g": ["x", "y"]}, "kids": [{"name": "b", "port": 80}]});
        let bytes = encode(&thing(), &value);
        let mut back = decode(&thing(), &bytes).expect("decodes");
        crate::canonicalize(&thing(), &mut back).expect("canonical");
        let mut want = value;
        crate::canonicalize(&thing(), &mut want).expect("canonical");
        assert_eq!(back, want);
    }

    #[test]
    fn unknown_tags_and_bad_bytes() {
        let known = encode(&thing(), &json!({"name": "a"}));
        let unknown = [&[0xa0, 0x06, 5][..], &known, &[0xaa, 0x06, 2, 1, 2]].concat();
        assert_eq!(decode(&thing(), &unknown).expect("tolerant")["name"], Value::from("a"));
        for bad in
            [&[0x0a][..], &[0x0a, 5, 1], &[0x08, 1], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff; 12]]
        {
            assert!(decode(&thing(), bad).is_err(), "{bad:?}");
        }
        let mut deep = Vec::new();
        for _ in 0..1000 {
            let mut next = vec![0x6a];
            let mut n = deep.len();
            while n >= 0x80 {
                next.push(n as u8 | 0x80);
                n >>= 7;
            }
            next.push(n as u8);
            next.extend(&deep);
            deep = next;
        }
        assert!(decode(&thing(), &deep).is_err());
        assert!(open(b"k8s").is_err() && open(b"").is_err());
    }

    #[test]
    fn lists_from_items() {
        let items = [encode(&thing(), &json!({"name": "a"})), encode(&thing(), &json!({"name": "b"}))];
        let list = encode_list("v1", "ThingList", &[0x12, 1, b'7'], items.iter().map(Vec::as_slice));
        let raw = open(&list).expect("opens").raw;
        assert_eq!(&raw[..5], &[0x0a, 3, 0x12, 1, b'7']);
        assert_eq!(raw[5], 0x12);
    }
}
