//! Timestamps as the API writes them: RFC 3339 in UTC, with seconds or with microseconds.

use jiff::Timestamp;

/// What is wrong with a timestamp.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {rest:?} as {what:?}")]
pub struct TimeError {
    /// The whole text.
    pub text: String,
    /// From where it fails.
    pub rest: String,
    /// The layout element that was wanted.
    pub what: &'static str,
}

/// Parses RFC 3339 with any offset and any fraction of a second.
pub fn parse(text: &str) -> Result<Timestamp, TimeError> {
    check_form(text)?;
    text.parse().map_err(|_| TimeError { text: text.to_string(), rest: text.to_string(), what: "2006" })
}

/// The layout `2006-01-02T15:04:05[.fraction](Z|±07:00)`, strictly.
fn check_form(text: &str) -> Result<(), TimeError> {
    const PARTS: [(&str, &str, usize); 6] =
        [("2006", "", 4), ("01", "-", 2), ("02", "-", 2), ("15", "T", 2), ("04", ":", 2), ("05", ":", 2)];
    let fail = |rest: &str, what| TimeError { text: text.to_string(), rest: rest.to_string(), what };
    let mut rest = text;
    for (what, before, digits) in PARTS {
        let literal = match before {
            "-" => "-",
            "T" => "T",
            _ => ":",
        };
        if !before.is_empty() {
            rest = rest.strip_prefix(before).ok_or_else(|| fail(rest, literal))?;
        }
        let number = rest.get(..digits).filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
        number.ok_or_else(|| fail(rest, what))?;
        rest = &rest[digits..];
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        rest = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let offset = rest.len() == 6 && rest.starts_with(['+', '-']) && rest.as_bytes()[3] == b':';
    if rest == "Z" || offset { Ok(()) } else { Err(fail(rest, "Z07:00")) }
}

/// Seconds since 1970 of an RFC 3339 time; `None` if it cannot be read.
pub fn unix_seconds(text: &str) -> Option<i64> {
    parse(text).ok().map(|time| time.as_second())
}

/// `2026-01-02T03:04:05Z`; fractions are cut off.
pub fn format_seconds(time: Timestamp) -> String {
    let seconds = time.as_second() - i64::from(time.subsec_nanosecond() < 0);
    let whole = Timestamp::from_second(seconds).unwrap_or(time);
    whole.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`; finer fractions are cut off.
pub fn format_micros(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let t = parse("2026-01-02T03:04:05.678901234+01:00").expect("parses");
        assert_eq!(format_seconds(t), "2026-01-02T02:04:05Z");
        assert_eq!(format_micros(t), "2026-01-02T02:04:05.678901Z");
        let zero = parse("1970-01-01T00:00:00Z").expect("parses");
        assert_eq!(format_micros(zero), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn errors() {
        let text = parse("yesterday").expect_err("no time").to_string();
        assert_eq!(
            text,
            r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
        );
        for bad in ["", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z", "2026-01-02 03:04:05Z"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
