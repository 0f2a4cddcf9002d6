//! Exact resource quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! A quantity is a count of nano-units with the format it was written in. Values finer than a nano-unit are
//! rounded away from zero, values beyond the 64-bit range are capped, as clients of Kubernetes expect.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// The largest magnitude, in nano-units.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Where short numbers are capped: `999999999E`.
const LARGEST: i128 = 999_999_999 * 1_000_000_000_000_000_000 * NANO;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `k`, `M`, `m` …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` …
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// What is wrong with a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text has no quantity's form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Form,
    /// The number is malformed.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality and order ignore the format.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// A whole amount.
    pub fn from_units(units: i64) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// An amount of thousandths.
    pub fn from_millis(millis: i64) -> Quantity {
        Quantity { nanos: i128::from(millis) * 1_000_000, format: Format::DecimalSi }
    }

    /// A whole amount written with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Quantity {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// The same amount written in another format.
    pub fn with_format(self, format: Format) -> Quantity {
        Quantity { format, ..self }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// In nano-units.
    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    /// In whole units, rounded up (away from zero).
    pub fn units(&self) -> i64 {
        clamp(div_away(self.nanos, NANO))
    }

    /// In thousandths, rounded up (away from zero), capped at 64 bits.
    pub fn millis(&self) -> i64 {
        clamp(div_away(self.nanos, 1_000_000))
    }

    /// As a floating-point number.
    pub fn to_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The sum, in this quantity's format unless this is zero.
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: cap(self.nanos + other.nanos), format }
    }

    /// The difference, in this quantity's format unless this is zero.
    pub fn minus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: cap(self.nanos - other.nanos), format }
    }
}

fn cap(nanos: i128) -> i128 {
    nanos.clamp(-LARGEST, LARGEST)
}

fn clamp(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

fn div_away(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by == 0 { quotient } else { quotient + value.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// The suffix's base, exponent and format.
fn suffix(text: &str) -> Option<(u32, i32, Format)> {
    let si = |e| Some((10, e, Format::DecimalSi));
    let binary = |e| Some((2, e, Format::BinarySi));
    match text {
        "n" => si(-9),
        "u" => si(-6),
        "m" => si(-3),
        "" => si(0),
        "k" => si(3),
        "M" => si(6),
        "G" => si(9),
        "T" => si(12),
        "P" => si(15),
        "E" => si(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let digits = text.strip_prefix(['e', 'E'])?;
            let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
            if unsigned.is_empty() || !unsigned.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Some((10, digits.parse().ok()?, Format::DecimalExponent))
        }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() || text.len() > 1024 {
            return Err(QuantityError::Form);
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, tail) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || !tail.bytes().all(|b| b.is_ascii_digit() || b"eEinumkKMGTP+-".contains(&b)) {
            return Err(QuantityError::Form);
        }
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        let (base, exponent, mut format) = suffix(tail).ok_or(QuantityError::Suffix)?;
        // Short decimal numbers go beyond the 64-bit range uncapped.
        let short = base == 10 && number.len() <= 18;
        let mut nanos = magnitude(whole, fraction, base, exponent).min(if short { LARGEST } else { MAX });
        if format == Format::BinarySi && nanos > 0 && nanos < NANO {
            format = Format::DecimalSi;
        }
        if text.starts_with('-') {
            nanos = -nanos;
        }
        Ok(Quantity { nanos, format })
    }
}

/// `whole.fraction * base^exponent` in nano-units, rounded up; saturates above [`MAX`].
fn magnitude(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let lead = digits.iter().take_while(|d| **d == 0).count();
    if lead == digits.len() {
        return 0;
    }
    // The value is 0.DIGITS * 10^point (times 2^exponent for binary suffixes), here in nano-units.
    let power = if base == 10 { exponent } else { 0 };
    let point = whole.len() as i64 + i64::from(power) + 9;
    if point - lead as i64 > 36 {
        return i128::MAX;
    }
    let scale: i128 = if base == 2 { 1 << exponent } else { 1 };
    // Digits before the point make the integer; those after it, times the binary scale, only the rounding.
    let split = point.clamp(0, digits.len() as i64) as usize;
    let mut integer: i128 = 0;
    for d in &digits[..split] {
        integer = integer * 10 + i128::from(*d);
    }
    for _ in split as i64..point {
        integer *= 10;
    }
    let Some(mut total) = integer.checked_mul(scale) else { return i128::MAX };
    let below = if point < 0 { &digits[..] } else { &digits[split..] };
    let zeros = (-point).max(0) as usize;
    if below.iter().any(|d| *d != 0) {
        // At most 18 digits matter exactly next to a scale below 2^61; the rest can only round up.
        let (mut part, mut unit, mut exact) = (0i128, 1i128, true);
        for (i, d) in std::iter::repeat_n(&0, zeros.min(19)).chain(below).enumerate() {
            if i < 18 {
                (part, unit) = (part * 10 + i128::from(*d), unit * 10);
            } else if *d != 0 {
                exact = false;
            }
        }
        let product = part * scale;
        total += product / unit + i128::from(product % unit != 0 || !exact);
    }
    total
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.nanos.abs() >= 1024 * NANO && self.nanos % NANO == 0 {
            const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let (mut units, mut at) = (self.nanos / NANO, 0);
            while units % 1024 == 0 && at + 1 < SUFFIXES.len() {
                (units, at) = (units / 1024, at + 1);
            }
            return write!(f, "{units}{}", SUFFIXES[at]);
        }
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 && exponent < 18 {
            (mantissa, exponent) = (mantissa / 1000, exponent + 3);
        }
        write!(f, "{mantissa}")?;
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { Ok(()) } else { write!(f, "e{exponent}") };
        }
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        f.write_str(SUFFIXES[((exponent + 9) / 3) as usize])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn canonical_forms() {
        let table = "0=0 100m=100m 0.1=100m 1000m=1 1.5Gi=1536Mi 1024Mi=1Gi 1023Mi=1023Mi 0.5Ki=512 1e3=1e3 1E3=1e3 \
                     1500e-3=1500e-3 12E=12E 1.0=1 +5=5 -5=-5 0.0000000001=1n 1n=1n 1001n=1001n 100Ki=100Ki 1000=1k \
                     1500=1500 2000k=2M .5=500m 5.=5 0Ki=0 1023=1023 1000Ki=1000Ki 0.3Mi=314572800m \
                     9223372036854775807=9223372036854775807 9999E=9999E 9999999999E=999999999E 1e-10=1e-9 0.1e-8=1e-9";
        for row in table.split_whitespace() {
            let (text, want) = row.split_once('=').expect("row");
            let want = want.strip_suffix("e0").unwrap_or(want);
            let got = text.parse::<Quantity>().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got.to_string(), want, "{text}");
        }
    }

    #[test]
    fn errors() {
        use QuantityError::*;
        for (text, want) in [
            ("", Form),
            ("abc", Form),
            ("1x", Form),
            ("1.2.3", Number),
            (".", Number),
            ("1mm", Suffix),
            ("1e", Suffix),
            ("1ki", Suffix),
            ("--1", Form),
        ] {
            assert_eq!(text.parse::<Quantity>().map(|q| q.to_string()), Err(want), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |t: &str| t.parse::<Quantity>().expect("quantity");
        assert_eq!(q("1Gi").plus(q("1Gi")).to_string(), "2Gi");
        assert_eq!(q("0").plus(q("1Gi")).to_string(), "1Gi");
        assert_eq!(q("1").minus(q("100m")).to_string(), "900m");
        assert_eq!((q("1.1").units(), q("1.1").millis(), q("1u").millis()), (2, 1100, 1));
        assert!(q("1k") > q("999") && q("1Ki") == q("1024"));
    }

    proptest! {
        #[test]
        fn canonical_form_is_stable(text in "[+-]?[0-9]{0,20}\\.?[0-9]{0,12}(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e-?[0-9]{1,3})?") {
            // Beyond the greatest 64-bit number a short text counts in full, its longer canonical form does not.
            if let Ok(q) = text.parse::<Quantity>() && q.nanos.abs() <= MAX {
                let again: Quantity = q.to_string().parse().expect("canonical form parses");
                prop_assert_eq!(again, q);
                prop_assert_eq!(again.to_string(), q.to_string());
            }
        }
    }
}
