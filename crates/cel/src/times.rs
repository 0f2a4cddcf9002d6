//! Durations and timestamps: reading, writing, calendar fields in a time zone.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use crate::error::EvalError;

/// Nanoseconds of `1h30m`, `-1.5h`, `0`: numbers with units, as Kubernetes writes durations.
pub fn duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, after) = rest.split_at(number);
        let unit = after.len() - after.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.').len();
        let (unit, after) = after.split_at(unit);
        rest = after;
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(scale)?)?;
        total += exact_fraction(fraction, scale)?;
        if total > 1 << 63 {
            return None;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The part behind the point, in nanoseconds.
fn exact_fraction(digits: &str, scale: i128) -> Option<i128> {
    let digits = &digits[..digits.len().min(18)];
    if digits.is_empty() {
        return Some(0);
    }
    let value: i128 = digits.parse().ok()?;
    Some(value * scale / 10i128.pow(digits.len() as u32))
}

/// Seconds with as many decimals as needed: `3600s`, `1.5s`.
pub fn show_duration(nanos: i64) -> String {
    format!("{}s", crate::text::show_double(nanos as f64 / 1e9))
}

/// A timestamp of RFC 3339.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    base::time::parse(text).ok()
}

/// A timestamp or a plain date.
pub fn timestamp_or_date(text: &str) -> Option<Timestamp> {
    timestamp(text).or_else(|| timestamp(&format!("{text}T00:00:00Z")))
}

/// RFC 3339 in UTC with as many decimals as needed.
pub fn show_timestamp(time: Timestamp) -> String {
    time.to_string()
}

/// A zone by name (`Europe/Berlin`) or offset (`-08:30`).
fn zone(name: &str) -> Result<TimeZone, EvalError> {
    let Some((hours, minutes)) = name.split_once(':') else {
        if name.is_empty() {
            return Ok(TimeZone::UTC);
        }
        return base::cron::zone(name).ok_or_else(|| EvalError::new(format!("unknown time zone {name}")));
    };
    let number = |text: &str| {
        text.parse::<i32>()
            .map_err(|_| EvalError::new(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let minutes = if name.starts_with('-') { -minutes } else { minutes };
    let seconds = hours.saturating_mul(3600).saturating_add(minutes.saturating_mul(60));
    Offset::from_seconds(seconds)
        .map(TimeZone::fixed)
        .map_err(|_| EvalError::new(format!("time zone offset out of range: {name}")))
}

/// A field of the calendar or clock, by the name of its function.
pub(crate) fn field(time: Timestamp, name: &str, zone_name: Option<&str>) -> Result<i64, EvalError> {
    let zoned = time.to_zoned(zone_name.map_or(Ok(TimeZone::UTC), zone)?);
    Ok(match name {
        "getFullYear" => i64::from(zoned.year()),
        "getMonth" => i64::from(zoned.month()) - 1,
        "getDayOfYear" => i64::from(zoned.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(zoned.day()) - 1,
        "getDate" => i64::from(zoned.day()),
        "getDayOfWeek" => i64::from(zoned.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(zoned.hour()),
        "getMinutes" => i64::from(zoned.minute()),
        "getSeconds" => i64::from(zoned.second()),
        _ => i64::from(zoned.subsec_nanosecond() / 1_000_000),
    })
}
