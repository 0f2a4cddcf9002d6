//! Rules as a BPF program: a binary search over the call's number, then the rules of that call in their order.

use std::collections::BTreeMap;

/// What becomes of a call, as the kernel writes it (`SECCOMP_RET_…` with its data).
pub type Action = u32;

/// How an argument is compared with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// It is the value.
    Equal,
    /// It is another.
    NotEqual,
    /// It is smaller.
    Less,
    /// It is not larger.
    LessOrEqual,
    /// It is larger.
    Greater,
    /// It is not smaller.
    GreaterOrEqual,
    /// Its bits under the mask are the value.
    MaskedEqual(u64),
}

/// A condition on an argument, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument.
    pub index: u8,
    /// How it is compared.
    pub compare: Compare,
    /// With what.
    pub value: u64,
}

/// What becomes of a call whose arguments meet all conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these.
    pub conditions: Vec<Condition>,
    /// Then this.
    pub action: Action,
}

/// The rules of every call, and what becomes of the others.
#[derive(Clone, Debug)]
pub struct Rules {
    /// By number; the first rule that fits counts.
    pub calls: BTreeMap<u32, Vec<Rule>>,
    /// For all that no rule fits.
    pub otherwise: Action,
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Offsets in what the kernel shows of a call.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where a jump of a condition goes.
#[derive(Clone, Copy, PartialEq)]
enum To {
    Next,
    /// The condition is met.
    Pass,
    /// The rule does not fit.
    Fail,
}

enum Step {
    Plain(u16, u32),
    Test(u16, u32, To, To),
}

fn word(code: u16, yes: u8, no: u8, k: u32) -> u64 {
    u64::from(code) << 48 | u64::from(yes) << 40 | u64::from(no) << 32 | u64::from(k)
}

fn plain(code: u16, k: u32) -> u64 {
    word(code, 0, 0, k)
}

/// The program, one instruction a number: code, jt, jf, k from the top.
pub fn compile(rules: &Rules) -> Vec<u64> {
    // What follows a number up to the next known one has no rules.
    let mut ranges: Vec<(u32, &[Rule])> = vec![(0, &[])];
    let mut next = 0;
    for (number, own) in &rules.calls {
        if *number > next {
            push(&mut ranges, next, &[]);
        }
        push(&mut ranges, *number, own);
        next = number + 1;
    }
    push(&mut ranges, next, &[]);
    let mut program = vec![
        plain(LOAD, ARCH),
        word(JUMP_EQUAL, 1, 0, ARCHITECTURE),
        plain(RETURN, rules.otherwise),
        plain(LOAD, NUMBER),
    ];
    program.extend(search(&ranges, rules.otherwise));
    program
}

fn push<'a>(ranges: &mut Vec<(u32, &'a [Rule])>, from: u32, rules: &'a [Rule]) {
    match ranges.last_mut() {
        Some(last) if last.0 == from => last.1 = rules,
        Some(last) if last.1 == rules => {}
        _ => ranges.push((from, rules)),
    }
}

fn search(ranges: &[(u32, &[Rule])], otherwise: Action) -> Vec<u64> {
    match ranges {
        [] => vec![plain(RETURN, otherwise)],
        [(_, rules)] => leaf(rules, otherwise),
        ranges => {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let low = search(left, otherwise);
            let mut program =
                vec![word(JUMP_GREATER_OR_EQUAL, 0, 1, right[0].0), plain(JUMP, low.len() as u32)];
            program.extend(low);
            program.extend(search(right, otherwise));
            program
        }
    }
}

fn leaf(rules: &[Rule], otherwise: Action) -> Vec<u64> {
    let mut program = Vec::new();
    for rule in rules {
        program.extend(assemble(&rule.conditions, rule.action));
        if rule.conditions.is_empty() {
            return program;
        }
    }
    program.push(plain(RETURN, otherwise));
    program
}

/// The conditions one after the other and the action; what fails goes on behind it.
fn assemble(conditions: &[Condition], action: Action) -> Vec<u64> {
    let parts: Vec<Vec<Step>> = conditions.iter().map(steps).collect();
    let end = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut program = Vec::new();
    let mut pass = 0;
    for part in &parts {
        pass += part.len();
        for step in part {
            let here = program.len();
            let offset = |to: To| match to {
                To::Next => 0,
                To::Pass => (pass - here - 1) as u8,
                To::Fail => (end - here - 1) as u8,
            };
            program.push(match step {
                Step::Plain(code, k) => plain(*code, *k),
                Step::Test(code, k, yes, no) => word(*code, offset(*yes), offset(*no), *k),
            });
        }
    }
    program.push(plain(RETURN, action));
    program
}

/// Arguments have 64 bits and registers 32: the upper half decides, or leaves it to the lower.
fn steps(condition: &Condition) -> Vec<Step> {
    use Step::{Plain, Test};
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    let at = ARGUMENTS + 8 * u32::from(condition.index);
    let (load_low, load_high) = (Plain(LOAD, at), Plain(LOAD, at + 4));
    let ordered = |above: To, below: To, last: u16, met: To, unmet: To| {
        vec![
            Plain(LOAD, at + 4),
            Test(JUMP_GREATER, high, above, To::Next),
            Test(JUMP_EQUAL, high, To::Next, below),
            Plain(LOAD, at),
            Test(last, low, met, unmet),
        ]
    };
    match condition.compare {
        Compare::Equal => vec![
            load_high,
            Test(JUMP_EQUAL, high, To::Next, To::Fail),
            load_low,
            Test(JUMP_EQUAL, low, To::Pass, To::Fail),
        ],
        Compare::NotEqual => vec![
            load_high,
            Test(JUMP_EQUAL, high, To::Next, To::Pass),
            load_low,
            Test(JUMP_EQUAL, low, To::Fail, To::Pass),
        ],
        Compare::MaskedEqual(mask) => vec![
            load_high,
            Plain(AND, (mask >> 32) as u32),
            Test(JUMP_EQUAL, high, To::Next, To::Fail),
            load_low,
            Plain(AND, mask as u32),
            Test(JUMP_EQUAL, low, To::Pass, To::Fail),
        ],
        Compare::Greater => ordered(To::Pass, To::Fail, JUMP_GREATER, To::Pass, To::Fail),
        Compare::GreaterOrEqual => ordered(To::Pass, To::Fail, JUMP_GREATER_OR_EQUAL, To::Pass, To::Fail),
        Compare::Less => ordered(To::Fail, To::Pass, JUMP_GREATER_OR_EQUAL, To::Fail, To::Pass),
        Compare::LessOrEqual => ordered(To::Fail, To::Pass, JUMP_GREATER, To::Fail, To::Pass),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does.
    fn run(program: &[u64], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            offset => {
                let argument = arguments[((offset - ARGUMENTS) / 8) as usize];
                if offset % 8 == 0 { argument as u32 } else { (argument >> 32) as u32 }
            }
        };
        let (mut at, mut register) = (0, 0);
        loop {
            let i = program[at];
            let (code, yes, no, k) = ((i >> 48) as u16, (i >> 40) as u8, (i >> 32) as u8, i as u32);
            at += 1;
            let test = match code {
                LOAD => {
                    register = load(k);
                    continue;
                }
                AND => {
                    register &= k;
                    continue;
                }
                JUMP => {
                    at += k as usize;
                    continue;
                }
                RETURN => return k,
                JUMP_EQUAL => register == k,
                JUMP_GREATER => register > k,
                _ => register >= k,
            };
            at += usize::from(if test { yes } else { no });
        }
    }

    fn meets(condition: &Condition, arguments: [u64; 6]) -> bool {
        let (own, value) = (arguments[usize::from(condition.index)], condition.value);
        match condition.compare {
            Compare::Equal => own == value,
            Compare::NotEqual => own != value,
            Compare::Less => own < value,
            Compare::LessOrEqual => own <= value,
            Compare::Greater => own > value,
            Compare::GreaterOrEqual => own >= value,
            Compare::MaskedEqual(mask) => own & mask == value,
        }
    }

    fn wide() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4u64,
            (0..3u64).prop_map(|n| n << 32),
            Just(u64::MAX),
            (0..3u64).prop_map(|n| (1 << 32) + n)
        ]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let compare = prop_oneof![
            Just(Compare::Equal),
            Just(Compare::NotEqual),
            Just(Compare::Less),
            Just(Compare::LessOrEqual),
            Just(Compare::Greater),
            Just(Compare::GreaterOrEqual),
            wide().prop_map(Compare::MaskedEqual),
        ];
        (0..6u8, compare, wide()).prop_map(|(index, compare, value)| Condition { index, compare, value })
    }

    fn rule() -> impl Strategy<Value = Rule> {
        (prop::collection::vec(condition(), 0..3), 1..5u32)
            .prop_map(|(conditions, action)| Rule { conditions, action })
    }

    proptest! {
        #[test]
        fn programs_do_what_the_rules_say(
            calls in prop::collection::btree_map(0..30u32, prop::collection::vec(rule(), 1..4), 0..12),
            number in 0..40u32,
            arguments in prop::array::uniform6(wide()),
        ) {
            let rules = Rules { calls, otherwise: 9 };
            let program = compile(&rules);
            let fits = |rule: &&Rule| rule.conditions.iter().all(|c| meets(c, arguments));
            let wanted = rules.calls.get(&number).and_then(|own| own.iter().find(fits)).map_or(9, |r| r.action);
            prop_assert_eq!(run(&program, ARCHITECTURE, number, arguments), wanted);
            prop_assert_eq!(run(&program, 3, number, arguments), 9);
        }
    }
}
