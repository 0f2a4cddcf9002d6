//! Warnings on new objects: each object of the table with what upstream v1.36 says of it.

use api::Registry;
use serde_json::Value;

const TABLE: &str = include_str!("warnings.table");

#[test]
fn table() {
    let registry = Registry::builtin();
    let mut lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
    let (mut wrong, mut cases) = (Vec::new(), 0);
    while let Some(line) = lines.next() {
        let mut object: Value = serde_json::from_str(line).expect(line);
        let mut want: Vec<&str> =
            std::iter::from_fn(|| lines.next_if(|line| line.starts_with("  "))).map(str::trim).collect();
        let (group, version) = api::kinds::split(object["apiVersion"].as_str().expect("apiVersion"));
        let def = registry.by_kind(group, version, object["kind"].as_str().expect("kind")).expect(line);
        schema::canonicalize(def.schema(), &mut object).expect(line);
        schema::defaulting::default(def.schema(), &mut object);
        let mut got = api::warnings::create(def, &object);
        got.extend(api::warnings::deprecated(def).map(str::to_owned));
        want.sort_unstable();
        got.sort();
        cases += 1;
        if got != want {
            wrong.push(format!("{line}\n  got  {got:#?}\n  want {want:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases > 20, "the table was read");
}
