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

/// Parses a schedule; the error says what is wrong.
pub fn parse(text: &str) -> Result<Schedule, String> {
    let text = text.trim();
    if let Some(every) = text.strip_prefix("@every ") {
        let every = duration(every.trim()).ok_or_else(|| format!("failed to parse duration {text}"))?;
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
        return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    };
    let starred = |f: &str| f.split(',').any(|p| p.starts_with('*') || p.starts_with('?'));
    let either_day = !starred(days) && !starred(weekdays);
    let (days_set, weekdays_set) = (field(days, 1, 31, &[])?, field(weekdays, 0, 7, &WEEKDAYS)?);
    Ok(Schedule::Fields(Fields {
        minutes: field(minutes, 0, 59, &[])?,
        hours: field(hours, 0, 23, &[])?,
        days: days_set,
        months: field(months, 1, 12, &MONTHS)?,
        // Sunday is both 0 and 7.
        weekdays: (weekdays_set | (weekdays_set >> 7)) & 0x7f,
        either_day,
    }))
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

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    text.split(',').try_fold(0, |set, part| Ok(set | part_of(part, min, max, names)?))
}

fn part_of(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let value = |s: &str| -> Result<u32, String> {
        if let Some(at) = names.iter().position(|n| n.eq_ignore_ascii_case(s)) {
            return Ok(at as u32 + u32::from(names.len() == 12));
        }
        s.parse().map_err(|_| format!("failed to parse int from {s}"))
    };
    let (range, step) = match text.split_once('/') {
        Some((range, step)) => {
            (range, Some(step.parse::<u32>().map_err(|_| format!("failed to parse int from {step}"))?))
        }
        None => (text, None),
    };
    let (first, last) = match range {
        "*" | "?" => (min, if names.len() == 7 { 6 } else { max }),
        range => match range.split_once('-') {
            Some((first, last)) => (value(first)?, value(last)?),
            // `5/15` means from 5 to the end.
            None if step.is_some() => (value(range)?, max),
            None => (value(range)?, value(range)?),
        },
    };
    let step = step.unwrap_or(1);
    if first < min || last > max || first > last || step == 0 {
        return Err(format!("{text} is not within {min}-{max}"));
    }
    Ok((first..=last).step_by(step as usize).fold(0, |set, n| set | 1 << n))
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
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:10.5Z", "2026-01-01T01:30:10Z"),
        ];
        for (text, after, want) in cases {
            let next = parse(text)?.next(after.parse()?, &TimeZone::UTC);
            assert_eq!(next, Some(want.parse()?), "{text} after {after}");
        }
        for text in
            ["", "* * * *", "60 * * * *", "* * * * * *", "@never", "*/0 * * * *", "5-1 * * * *", "@every x"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        Ok(())
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
