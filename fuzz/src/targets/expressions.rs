//! Expressions of the Common Expression Language: read, checked and evaluated within their budget.

use cel::{Bindings, Budget, Decl, Env};
use serde_json::json;

use super::{Run, Target, split_line};

/// An expression on the first line, the JSON of `self` after it.
pub const EXPRESSION: Target =
    Target { name: "expression", what: "expressions and the values they see", seeds, start };

/// Steps an evaluation may take.
const COST_MAX: u64 = 20_000;

const EXAMPLES: &[&str] = &[
    "self.a.all(x, x > 1) && !self.b",
    "has(self.a) ? self.?b.orValue([])[?0].hasValue() : self == {'k': 1u, 'l': [-2.5e3, null]}",
    "self.map(k, v, k).transformMap(i, w, w != '', {w: i}).exists(k, k.matches('^[a-z]{2,}$'))",
    "'%s %d %.2f %x'.format([self, 1, 1.5, b'\\x00']) + r'\\d' + \"\"\"a\"\"\"",
    "quantity('1Gi').add(quantity('1k')).isLessThan(quantity('2Gi')) || semver('1.2.3-a') == semver('v1', true)",
    "cidr('10.0.0.0/8').containsIP(ip('10.1.2.3')) && url('https://a.b:1/c?d=e').getPort() == '1'",
    "timestamp('2020-01-01T00:00:00Z') + duration('1h30m') < timestamp(0) && duration('1s').getSeconds() == 1",
    "[3, 1, 2].sortBy(x, -x).slice(0, 2).sum() + lists.range(5).reverse()[1] % 3 / 1 * -1",
    "sets.contains([1, 2], self.a) && optional.of(1).optMap(x, x + 1).value() == 2",
    "'a,b'.split(',').join('-').replace('-', '').substring(1).indexOf('b') == 'abc'.findAll('[a-b]').size()",
    "format.named('dns1123Label').value().validate('A') == format.uuid().validate('x')",
    "self.s.startsWith('a') && self.n in [1, 2] && self.l.exists_one(x, x == self.s) && self.m['a'] < 5",
    "type(self) == map && string(1) + string(true) == '1true' && int('1') == uint(1)",
];

fn seeds() -> Vec<Vec<u8>> {
    let this =
        r#"{"a":[1,2,3],"b":false,"s":"abc","n":1,"l":["abc"],"m":{"a":1},"t":"2020-01-01T00:00:00Z"}"#;
    EXAMPLES.iter().map(|source| format!("{source}\n{this}").into_bytes()).collect()
}

fn start() -> Run {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "array", "items": {"type": "integer"}}, "b": {"type": "boolean"}, "s": {"type": "string"},
        "n": {"type": "integer"}, "l": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}},
        "t": {"type": "string", "format": "date-time"}}});
    let typed = cel::decl_of_schema(&schema, false).expect("a schema");
    let envs = [Env::new().variable("self", Decl::any()), Env::new().variable("self", typed)];
    Box::new(move |input| {
        let Some((source, rest)) = split_line(input) else { return };
        let Ok(this) = serde_json::from_slice(rest) else { return };
        for env in &envs {
            let program = match env.compile(source) {
                Ok(program) => program,
                Err(errors) => {
                    assert!(!errors.to_string().is_empty());
                    continue;
                }
            };
            let run = || {
                let mut budget = Budget::new(COST_MAX);
                let value = program.eval(&Bindings::new().json("self", &this), &mut budget);
                let shown = value.map(|value| format!("{value:?}")).map_err(|error| error.to_string());
                (shown, budget.spent())
            };
            assert_eq!(run(), run(), "an evaluation is always the same");
        }
    })
}
