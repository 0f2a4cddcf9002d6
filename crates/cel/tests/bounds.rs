//! Bounds: however deep or long an expression is, it needs little stack, and it costs no more than was estimated.

use cel::{Bindings, Budget, Decl, Env, Type};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Less than a thread of the server has.
const STACK_BYTES: usize = 3 << 19;

/// Compiles and evaluates on a small stack; the answer is what went wrong.
fn on_small_stack(source: String) -> String {
    let run = move || {
        let env = Env::new().variable("self", Decl::any());
        let program = match env.compile(&source) {
            Ok(program) => program,
            Err(errors) => return errors.faults[0].message.clone(),
        };
        let this = json!([1]);
        let bindings = Bindings::new().json("self", &this);
        match program.eval(&bindings, &mut Budget::default()) {
            Ok(_) => "fine".into(),
            Err(error) => error.to_string(),
        }
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).expect("a thread");
    thread.join().expect("the stack is large enough")
}

#[test]
fn depth_is_bounded() {
    let too_deep = "expression recursion limit exceeded: 250";
    let nested = |open: &str, inner: &str, close: &str, n: usize| {
        format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1: ", "1", "}"),
        ("dyn(", "1", ")"),
        ("-(", "1", ")"),
        ("!(", "true", ")"),
        ("true ? true : ", "true", ""),
        ("1 + (", "1", ")"),
        ("self.map(x, ", "1", ")"),
        ("self.all(x, ", "true", ")"),
        ("optional.of(1).optMap(y, ", "1", ")"),
        ("", "self", "[0]"),
        ("", "self", ".a"),
        ("", "self", ".?a"),
        ("", "1", " + 1"),
        ("", "self", ".map(x, x)"),
    ] {
        for n in [20, 60, 100, 125, 200, 249, 250, 251, 2000] {
            let message = on_small_stack(nested(open, inner, close, n));
            if n > 250 {
                assert!(message.starts_with(too_deep), "{open}{inner}{close} {n} times: {message}");
            }
        }
    }
    // Deep on the left and on the right in turns.
    let mut source = "1".to_string();
    for _ in 0..100 {
        source = format!("({source}{})", " + 1".repeat(100));
    }
    assert!(on_small_stack(source).starts_with(too_deep));
}

#[test]
fn copies_of_copies_are_bounded() {
    let source = format!("self.?a{}", ".optMap(x, x)".repeat(40));
    assert!(on_small_stack(source).starts_with("expression recursion limit"));
}

#[test]
fn many_terms_are_balanced() {
    let terms: Vec<String> = (0..5000).map(|i| format!("self[0] == {}", i % 7 + 2)).collect();
    assert_eq!(on_small_stack(terms.join(" || ")), "fine");
    assert!(on_small_stack("1 ".repeat(60_000)).starts_with("expression code point size exceeds limit"));
}

#[test]
fn evaluation_stops_when_the_budget_is_spent() {
    let source = "self.all(a, self.all(b, self.all(c, self.all(d, a + b + c + d > 0))))";
    let this: Value = (1..100).collect();
    let env = Env::new().variable("self", Decl::any());
    let program = env.compile(source).expect("it is well formed");
    let mut budget = Budget::default();
    let error = program.eval(&Bindings::new().json("self", &this), &mut budget).expect_err("it is too long");
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
    assert!(budget.spent() < cel::CALL_COST_MAX + 1000);
}

/// A schema whose sizes are bounded, and expressions of its values by their type.
fn schema() -> Value {
    json!({"type": "object", "properties": {
        "s": {"type": "string", "maxLength": 8},
        "n": {"type": "integer"},
        "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 6}},
        "m": {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "integer"}},
    }})
}

fn text(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("self.s".to_string()), Just("'abc'".to_string()), Just("''".to_string())];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        leaf,
        (text(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("({a} + {b})")),
        text(depth - 1).prop_map(|a| format!("{a}.lowerAscii()")),
        (truth(depth - 1), text(depth - 1), text(depth - 1))
            .prop_map(|(c, a, b)| format!("({c} ? {a} : {b})")),
        list(depth - 1).prop_map(|a| format!("{a}.join(',')")),
        number(depth - 1).prop_map(|a| format!("string({a})")),
    ]
    .boxed()
}

fn number(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("self.n".to_string()), Just("3".to_string())];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        leaf,
        (number(depth - 1), number(depth - 1)).prop_map(|(a, b)| format!("({a} - {b})")),
        text(depth - 1).prop_map(|a| format!("{a}.size()")),
        list(depth - 1).prop_map(|a| format!("{a}.size()")),
        text(depth - 1).prop_map(|a| format!("self.m[{a}]")),
        (text(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("{a}.indexOf({b})")),
    ]
    .boxed()
}

fn list(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("self.l".to_string()), Just("['x', 'y']".to_string())];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        leaf,
        (list(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("{a}.map(x, x + {b})")),
        (list(depth - 1), truth(depth - 1)).prop_map(|(a, b)| format!("{a}.filter(x, x != '' && ({b}))")),
        (list(depth - 1), list(depth - 1)).prop_map(|(a, b)| format!("({a} + {b})")),
    ]
    .boxed()
}

fn truth(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![Just("true".to_string()), Just("has(self.s)".to_string())];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![
        leaf,
        (text(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("{a} == {b}")),
        (text(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("{a}.contains({b})")),
        (text(depth - 1), text(depth - 1)).prop_map(|(a, b)| format!("{a} < {b}")),
        (number(depth - 1), number(depth - 1)).prop_map(|(a, b)| format!("{a} < {b}")),
        text(depth - 1).prop_map(|a| format!("{a}.matches('^[a-z]*$')")),
        (text(depth - 1), list(depth - 1)).prop_map(|(a, b)| format!("{a} in {b}")),
        (list(depth - 1), truth(depth - 1)).prop_map(|(a, b)| format!("{a}.all(x, x.size() > 0 && ({b}))")),
        (truth(depth - 1), truth(depth - 1)).prop_map(|(a, b)| format!("(({a}) && ({b}))")),
        (truth(depth - 1), truth(depth - 1)).prop_map(|(a, b)| format!("({a} || !({b}))")),
        truth(depth - 1).prop_map(|a| format!("self.m.exists(k, k != '' && ({a}))")),
    ]
    .boxed()
}

fn object() -> impl Strategy<Value = Value> {
    let word = "[a-zé]{0,6}";
    (
        "[a-zé]{0,8}",
        any::<i8>(),
        proptest::collection::vec(word, 0..=5),
        proptest::collection::btree_map("[a-d]{0,3}", any::<i8>(), 0..=4),
    )
        .prop_map(|(s, n, l, m)| json!({"s": s, "n": n, "l": l, "m": m}))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_costs_more_than_estimated(source in truth(3), object in object()) {
        let decl = cel::decl_of_schema(&schema(), false).expect("expressions see it");
        let program = Env::new().variable("self", decl).compile(&source).map_err(|e| {
            TestCaseError::fail(e.to_string())
        })?;
        prop_assert_eq!(program.output(), &Type::Bool);
        let mut budget = Budget::new(u64::MAX);
        let bindings = Bindings::new().json("self", &object);
        let outcome = program.eval(&bindings, &mut budget);
        let estimate = program.cost_estimate();
        // An error that was outvoted leaves parts undone, and parts that are given up on are charged as if done.
        prop_assert!(
            budget.spent() <= estimate.max.saturating_mul(2).saturating_add(100),
            "{source} cost {} of {estimate:?}: {outcome:?}", budget.spent()
        );
        if outcome.is_ok() && !source.contains("self.m[") {
            prop_assert!(budget.spent() <= estimate.max, "{source} cost {} of {estimate:?}", budget.spent());
        }
    }
}
