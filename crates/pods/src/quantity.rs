//! Kubernetes quantities as the node needs them: exact thousandths.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The amount in thousandths, or `None` when it is no quantity. Amounts beyond the range saturate.
pub fn milli(text: &str) -> Option<i128> {
    let t = text.trim();
    let end = t
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '+' || *c == '-'))));
    let (number, suffix) = t.split_at(end.map_or(t.len(), |(i, _)| i));
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty())
        || fraction.contains('.')
        || whole.len() + fraction.len() > 30
    {
        return None;
    }
    let value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (times, by) = unit(suffix)?;
    let total = value.checked_mul(times)?;
    let divisor = scale.checked_mul(by)?;
    let rounded = total.checked_add(divisor - 1)? / divisor;
    Some(if negative { -rounded } else { rounded })
}

/// The unit as a fraction of thousandths.
fn unit(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1_000),
        "m" => (1, 1),
        "" => (1_000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1_000 << 10, 1),
        "Mi" => (1_000 << 20, 1),
        "Gi" => (1_000 << 30, 1),
        "Ti" => (1_000 << 40, 1),
        "Pi" => (1_000 << 50, 1),
        "Ei" => (1_000 << 60, 1),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs().min(24))?;
            if exponent < 0 { (1_000, power) } else { (1_000i128.checked_mul(power)?, 1) }
        }
    })
}

/// Whole units, rounded up.
pub fn value(text: &str) -> Option<i64> {
    let m = milli(text)?;
    let units = if m >= 0 { (m + 999) / 1000 } else { m / 1000 };
    Some(i64::try_from(units).unwrap_or(if m > 0 { i64::MAX } else { i64::MIN }))
}

/// The amount of resource `name` in thousandths, when the list has it.
pub fn of(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    milli(&list?.get(name)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [
            ("100m", Some(100)),
            ("1", Some(1_000)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("64Mi", Some(67_108_864_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("100u", Some(1)),
            ("-5", Some(-5_000)),
            ("12e-1", Some(1_200)),
            ("", None),
            ("x", None),
            ("1.2.3", None),
            ("1KiB", None),
        ];
        for (text, want) in table {
            assert_eq!(milli(text), want, "{text}");
        }
        assert_eq!(value("1500m"), Some(2));
    }
}
