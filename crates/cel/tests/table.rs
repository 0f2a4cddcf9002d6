//! Expressions with their types, costs, values and errors: tests/table/*.txt, text a person can read.
//!
//! A file has lines `self: JSON` and `schema: JSON`, which hold until the next one, then an expression per line (`␤`
//! for a line feed) followed by what comes of it:
//! `= value: type, cost, least..most`, `! error: type, cost, least..most`, or `? what does not compile` with the first
//! line of each message.

mod common;

use common::show;

fn check(file: &str) {
    let text = std::fs::read_to_string(format!("tests/table/{file}")).expect("the table is there");
    let (mut this, mut schema) = ("null", "");
    let (mut wrong, mut expression) = (Vec::new(), "");
    for line in text.lines() {
        if let Some(json) = line.strip_prefix("self: ") {
            this = json;
        } else if let Some(json) = line.strip_prefix("schema: ") {
            schema = json;
        } else if line.starts_with(['=', '!', '?']) && line[1..].starts_with(' ') {
            let got = show(expression, schema, this);
            if got != line {
                wrong.push(format!("{expression}\n  want {line}\n  got  {got}"));
            }
        } else {
            expression = line;
        }
    }
    assert!(wrong.is_empty(), "{} of {file} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_language() {
    check("language.txt");
}

#[test]
fn the_libraries() {
    check("libraries.txt");
}

#[test]
fn values_of_schemas() {
    check("schemas.txt");
}

#[test]
fn expressions_of_all_sorts() {
    check("mixed.txt");
}
