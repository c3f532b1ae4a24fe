//! Seconds since 1970 to calendar dates and back: what certificates are dated with and what people read.

use super::der::{Der, GENERALIZED_TIME, UTC_TIME};
use std::time::{SystemTime, UNIX_EPOCH};

pub const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Seconds since 1970; negative before.
pub fn unix(time: SystemTime) -> i64 {
    let seconds = |duration: std::time::Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    time.duration_since(UNIX_EPOCH).map_or_else(|before| -seconds(before.duration()), seconds)
}

/// `2026-11-21`.
pub fn date(unix: i64) -> String {
    let (year, month, day) = civil(unix.div_euclid(DAY_SECONDS));
    format!("{year:04}-{month:02}-{day:02}")
}

/// The next element: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, in UTC (RFC 5280 §4.1.2.5).
pub(super) fn read(der: &mut Der<'_>) -> Option<i64> {
    let (tag, content) = der.any()?;
    let text = std::str::from_utf8(content.bytes()).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize, most: i64| rest[at..at + 2].parse::<i64>().ok().filter(|part| *part <= most);
    let (month, day) = (part(0, 12).filter(|month| *month > 0)?, part(2, 31).filter(|day| *day > 0)?);
    let (hour, minute, second) = (part(4, 23)?, part(6, 59)?, part(8, 60)?);
    Some(days(year, month, day) * DAY_SECONDS + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar. The year is taken to begin in March, so that the leap day is last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(tag: u8, text: &str) -> Option<i64> {
        let mut bytes = vec![tag, u8::try_from(text.len()).unwrap()];
        bytes.extend_from_slice(text.as_bytes());
        read(&mut Der::new(&bytes))
    }

    #[test]
    fn times_as_certificates_write_them() {
        assert_eq!(parsed(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(parsed(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(parsed(UTC_TIME, "500101000000Z"), Some(-631_152_000));
        assert_eq!(parsed(GENERALIZED_TIME, "20240229120001Z"), Some(1_709_208_001));
        assert_eq!(parsed(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for text in ["20241301000000Z", "20240100000000Z", "2024022912000Z", "20240229120001", "2024022912000éZ"] {
            assert_eq!(parsed(GENERALIZED_TIME, text), None, "{text}");
        }
    }

    #[test]
    fn dates_and_back() {
        for (unix, text) in [(0, "1970-01-01"), (-1, "1969-12-31"), (1_709_208_001, "2024-02-29")] {
            assert_eq!(date(unix), text);
        }
        for day in (-800_000..3_000_000).step_by(17) {
            let (y, m, d) = civil(day);
            assert_eq!(days(y, m, d), day, "{y}-{m}-{d}");
        }
    }
}
