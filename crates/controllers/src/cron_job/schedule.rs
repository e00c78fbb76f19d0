//! Schedules in the form of `cron`: minute, hour, day of the month, month, day of the week; or `@hourly` and the like, or `@every 90m`.
//! The dialect is that of the Go package that upstream uses (`robfig/cron`, `ParseStandard`).

use std::time::Duration;

use jiff::civil::{DateTime, Time, date};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};

/// Nothing that is not due within this many years is ever due (like the 30th of February).
const YEARS: i16 = 8;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Schedule {
    /// At the minutes that match.
    Calendar(Calendar),
    /// Again and again after this time.
    Every(Duration),
}

/// One bit per allowed value of each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Calendar {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Where both kinds of days are restricted, either will do; otherwise both must match.
    either_day: bool,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let expanded = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(duration) = expanded.strip_prefix("@every ") {
            let every = parse_duration(duration.trim()).ok_or_else(|| format!("failed to parse duration {text}"))?;
            return Ok(Self::Every(every.max(Duration::from_secs(1))));
        }
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{text}]", fields.len()));
        };
        let (days, every_day) = field(day, 1, 31, &[])?;
        let (weekdays, every_weekday) = field(weekday, 0, 6, &WEEKDAYS)?;
        Ok(Self::Calendar(Calendar {
            minutes: field(minute, 0, 59, &[])?.0,
            hours: field(hour, 0, 23, &[])?.0,
            days,
            months: field(month, 1, 12, &MONTHS)?.0,
            weekdays,
            either_day: !every_day && !every_weekday,
        }))
    }

    /// The first time after `after`, by the clocks of a time zone.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*every).ok()
            }
            Self::Calendar(calendar) => calendar.next(after, zone),
        }
    }
}

impl Calendar {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let last_year = start.year().checked_add(YEARS)?;
        let mut candidate = on_the_minute(start)?.checked_add(1.minute()).ok()?;
        while candidate.year() <= last_year {
            if !has(self.months, candidate.month()) {
                let first = date(candidate.year(), candidate.month(), 1);
                candidate = first.checked_add(1.month()).ok()?.to_datetime(Time::midnight());
            } else if !self.day_matches(candidate) {
                candidate = candidate.date().checked_add(1.day()).ok()?.to_datetime(Time::midnight());
            } else if !has(self.hours, candidate.hour()) {
                candidate = skip(candidate, Span::new().minutes(60 - i64::from(candidate.minute())))?;
            } else if !has(self.minutes, candidate.minute()) {
                candidate = skip(candidate, 1.minute())?;
            } else {
                // A time that the clocks skip is taken when they have gone on; one they show twice, the first time only.
                let found = zone.to_ambiguous_zoned(candidate).compatible().ok()?.timestamp();
                if found > after {
                    return Some(found);
                }
                candidate = skip(candidate, 1.minute())?;
            }
        }
        None
    }

    fn day_matches(&self, candidate: DateTime) -> bool {
        let by_day = has(self.days, candidate.day());
        let by_weekday = has(self.weekdays, candidate.weekday().to_sunday_zero_offset());
        if self.either_day { by_day || by_weekday } else { by_day && by_weekday }
    }
}

fn on_the_minute(time: DateTime) -> Option<DateTime> {
    time.with().second(0).subsec_nanosecond(0).build().ok()
}

fn skip(time: DateTime, span: Span) -> Option<DateTime> {
    time.checked_add(span).ok()
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits & 1u64.checked_shl(value).unwrap_or(0) != 0)
}

/// Reads one field: parts separated by commas, each `*`, a value or a range, with a step or not. Says also whether it is just `*`.
fn field(text: &str, first: u32, last: u32, names: &[&str]) -> Result<(u64, bool), String> {
    let mut bits = 0;
    let mut is_star = false;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(|| format!("step of {part:?} should be a positive number"))?)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" || range == "?" => {
                is_star |= step.is_none_or(|step| step == 1);
                (first, last)
            }
            Some((low, high)) => (value(low, first, last, names)?, value(high, first, last, names)?),
            None => {
                let low = value(range, first, last, names)?;
                (low, if step.is_some() { last } else { low })
            }
        };
        if low > high {
            return Err(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
        }
        let mut number = low;
        while number <= high {
            bits |= 1u64 << number;
            number += step.unwrap_or(1);
        }
    }
    Ok((bits, is_star))
}

fn value(text: &str, first: u32, last: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    let named = names.iter().position(|name| *name == lower).map(|position| position as u32 + first);
    let number = named.or_else(|| text.parse().ok()).ok_or_else(|| format!("failed to parse number {text:?}"))?;
    if number < first || number > last {
        return Err(format!("{number} is not between {first} and {last}"));
    }
    Ok(number)
}

/// Reads a duration as Go writes it: `1h30m`, `90s`, `1.5h`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let number: f64 = number.parse().ok()?;
        let unit_end = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, after: &str, expected: &[&str]) {
        check_in("UTC", schedule, after, expected);
    }

    #[track_caller]
    fn check_in(zone: &str, schedule: &str, after: &str, expected: &[&str]) {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        let mut time: Timestamp = after.parse().unwrap();
        for expected in expected {
            time = schedule.next(time, &zone).unwrap();
            assert_eq!(time.to_string(), *expected);
        }
    }

    #[test]
    fn times_follow_the_fields() {
        check("*/15 * * * *", "2026-01-01T00:07:30Z", &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]);
        check("0 9 * * mon-fri", "2026-01-02T09:00:00Z", &["2026-01-05T09:00:00Z", "2026-01-06T09:00:00Z"]);
        check("30 2 29 2 *", "2026-01-01T00:00:00Z", &["2028-02-29T02:30:00Z"]);
        check("0 0 13 * 5", "2026-02-01T00:00:00Z", &["2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z", "2026-02-20T00:00:00Z"]);
        check("5 4-6/2 1 JAN ?", "2026-01-01T04:05:00Z", &["2026-01-01T06:05:00Z", "2027-01-01T04:05:00Z"]);
        check("@daily", "2026-01-01T00:00:00Z", &["2026-01-02T00:00:00Z"]);
        check("@every 1h30m", "2026-01-01T00:00:00.5Z", &["2026-01-01T01:30:00Z"]);
    }

    #[test]
    fn a_time_zone_counts_with_its_summer_time() {
        check_in("Europe/Berlin", "0 9 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T07:00:00Z", "2026-03-30T07:00:00Z"]);
        // The clocks go from 2:00 to 3:00; then, in autumn, 2:30 comes twice.
        check_in("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]);
        check_in("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "5-3 * * * *", "*/0 * * * *", "@every", "@every 5", "* * * * * *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
        let never = Schedule::parse("0 0 30 2 *").unwrap();
        assert_eq!(never.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }
}
