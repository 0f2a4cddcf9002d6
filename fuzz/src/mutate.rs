//! New inputs from old ones: bytes, numbers, words, and whole bracketed parts.

use rand::Rng;
use rand::rngs::StdRng;

/// No input grows beyond this, in bytes.
pub const INPUT_MAX: usize = 32 << 10;

/// Values at which arithmetic and limits turn.
const NUMBERS: &[i64] = &[
    0,
    1,
    -1,
    2,
    7,
    8,
    15,
    16,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    32767,
    32768,
    65535,
    65536,
    i32::MAX as i64,
    i32::MIN as i64,
    u32::MAX as i64,
    1 << 32,
    i64::MAX,
    i64::MIN,
];

/// Words that mean something somewhere: brackets, numbers in text, escapes, directives.
const WORDS: &[&str] = &[
    "{}",
    "[]",
    "null",
    "true",
    "false",
    "\"\"",
    "[",
    "{",
    "}",
    "]",
    ",",
    ":",
    "\"",
    "\\u0000",
    "\\ud800",
    "\u{0}",
    "\u{fffd}",
    "é",
    "1e400",
    "-0",
    "0.1",
    "1E6",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
    "$patch",
    "delete",
    "replace",
    "merge",
    "$retainKeys",
    "$setElementOrder/",
    "$deleteFromPrimitiveList/",
    "name",
    "metadata",
    "managedFields",
    "fieldsV1",
    "f:",
    "k:{",
    "v:",
    ".",
    "op",
    "path",
    "value",
    "add",
    "remove",
    "move",
    "copy",
    "test",
    "from",
    "/-",
    "~1",
    "~0",
    " in (",
    " notin (",
    ")",
    "!",
    "==",
    "!=",
    "=",
    " gt 1",
    "..",
    "../",
    "/",
    "//",
    "%2F",
    "%00",
    "%",
    "&",
    "?",
    "#",
    "- ",
    "? ",
    ": ",
    "&a",
    "*a",
    "<<",
    "!!binary",
    "|",
    ">",
    "---\n",
    "\n",
    "\r\n",
    "\t",
    " ",
    "'",
    "*",
    "@",
    "@every 1h",
    "1Gi",
    "1m",
    "1n",
    "1E",
    "Ki",
    "24:00",
    "2006-01-02T15:04:05Z",
    "9999-12-31T23:59:59Z",
    "0000-00-00",
    "-1h",
    "1.5h",
    "sha256:",
    ":latest",
    "::1",
    "/129",
    "255.255.255.255/33",
];

/// Makes an input from one of the corpus.
pub fn mutate(rng: &mut StdRng, corpus: &[Vec<u8>], own: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[rng.random_range(0..corpus.len())].clone();
    for _ in 0..1 << rng.random_range(0..4) {
        step(rng, &mut input, corpus, own);
        input.truncate(INPUT_MAX);
    }
    input
}

fn step(rng: &mut StdRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], own: &[Vec<u8>]) {
    let (from, to) = range(rng, input.len());
    match rng.random_range(0..16) {
        0 if !input.is_empty() => {
            let at = rng.random_range(0..input.len());
            input[at] ^= 1 << rng.random_range(0..8);
        }
        1 if !input.is_empty() => {
            let at = rng.random_range(0..input.len());
            input[at] = rng.random();
        }
        2 => drop(input.drain(from..to)),
        3 => {
            let part = input[from..to].to_vec();
            insert(rng, input, &part);
        }
        4 | 5 => {
            let word = word(rng, own);
            insert(rng, input, &word);
        }
        6 | 7 => drop(input.splice(from..to.min(from + 12), word(rng, own))),
        8 => number(rng, input),
        9 => digits(rng, input),
        10 => repeat(rng, input),
        11 | 12 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            let (start, end) = range(rng, other.len());
            let part = other[start..end].to_vec();
            insert(rng, input, &part);
        }
        13 => {
            let part = bracketed(rng, input).map(|(a, b)| input[a..b].to_vec()).unwrap_or_default();
            insert(rng, input, &part);
        }
        14 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            let part = bracketed(rng, other).map(|(a, b)| other[a..b].to_vec());
            if let (Some(part), Some((a, b))) = (part, bracketed(rng, input)) {
                input.splice(a..b, part);
            }
        }
        _ => {
            if let Some((a, b)) = bracketed(rng, input) {
                input.drain(a..b);
            }
        }
    }
}

fn range(rng: &mut StdRng, length: usize) -> (usize, usize) {
    let from = rng.random_range(0..=length);
    let longest = (length - from).min(1 << rng.random_range(0..12));
    (from, from + rng.random_range(0..=longest))
}

fn insert(rng: &mut StdRng, input: &mut Vec<u8>, part: &[u8]) {
    let at = rng.random_range(0..=input.len());
    input.splice(at..at, part.iter().copied());
}

fn word(rng: &mut StdRng, own: &[Vec<u8>]) -> Vec<u8> {
    match own.is_empty() || rng.random_ratio(1, 3) {
        true => WORDS[rng.random_range(0..WORDS.len())].as_bytes().to_vec(),
        false => own[rng.random_range(0..own.len())].clone(),
    }
}

/// Overwrites some bytes with a number in either order.
fn number(rng: &mut StdRng, input: &mut [u8]) {
    let width = 1 << rng.random_range(0..4);
    if input.len() < width {
        return;
    }
    let at = rng.random_range(0..=input.len() - width);
    let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
    match rng.random() {
        true => input[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]),
        false => input[at..at + width].copy_from_slice(&number.to_be_bytes()[8 - width..]),
    }
}

/// Replaces a number in text.
fn digits(rng: &mut StdRng, input: &mut Vec<u8>) {
    let places: Vec<usize> = (0..input.len()).filter(|at| input[*at].is_ascii_digit()).collect();
    if places.is_empty() {
        return;
    }
    let at = places[rng.random_range(0..places.len())];
    let end = (at..input.len()).find(|at| !input[*at].is_ascii_digit()).unwrap_or(input.len());
    let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
    input.splice(at..end, number.to_string().into_bytes());
}

/// Repeats one short part many times: depth and length.
fn repeat(rng: &mut StdRng, input: &mut Vec<u8>) {
    let (from, to) = range(rng, input.len());
    let part = input[from..to.min(from + 16)].to_vec();
    let often = rng.random_range(2..2048);
    let many = part.repeat(often.min(INPUT_MAX / part.len().max(1)));
    insert(rng, input, &many);
}

/// A part from an opening bracket or quote to its end.
fn bracketed(rng: &mut StdRng, input: &[u8]) -> Option<(usize, usize)> {
    let start = rng.random_range(0..=input.len());
    let from = start + input[start..].iter().position(|byte| b"{[\"".contains(byte))?;
    if input[from] == b'"' {
        let end = input[from + 1..].iter().position(|byte| *byte == b'"')?;
        return Some((from, from + 2 + end));
    }
    let mut depth = 0usize;
    for (at, byte) in input.iter().enumerate().skip(from) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return Some((from, at + 1)),
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The words of the seeds: what stands between quotes, spaces and signs.
pub fn words(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let ends = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"-_./:$".contains(byte);
    let mut words: Vec<Vec<u8>> = seeds
        .iter()
        .flat_map(|seed| seed.split(ends))
        .filter(|word| (2..=32).contains(&word.len()))
        .map(<[u8]>::to_vec)
        .collect();
    words.sort();
    words.dedup();
    words
}
