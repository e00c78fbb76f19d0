//! Times as container logs write them: `2026-03-01T12:00:00.123456789Z`, always in UTC and with nine digits.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970 now; zero where the clock stands before it.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Appends a time in RFC 3339 with nanoseconds.
pub fn write(since_epoch: Duration, out: &mut Vec<u8>) {
    let seconds = since_epoch.as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
        since_epoch.subsec_nanos()
    );
    out.extend_from_slice(text.as_bytes());
}

/// Year, month and day of a day counted from 1970-01-01. Years are counted from March, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, nanoseconds: u32, text: &str) {
        let mut out = Vec::new();
        write(Duration::new(seconds, nanoseconds), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), text);
    }

    #[test]
    fn times_are_written_in_utc_with_nine_digits() {
        check(0, 0, "1970-01-01T00:00:00.000000000Z");
        check(951_782_400, 5, "2000-02-29T00:00:00.000000005Z");
        check(1_767_225_599, 999_999_999, "2025-12-31T23:59:59.999999999Z");
        check(1_772_366_400, 120_000_000, "2026-03-01T12:00:00.120000000Z");
    }
}
