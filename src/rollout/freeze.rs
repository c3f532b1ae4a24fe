//! Times in which nothing goes forward: Friday afternoons, holidays. Calendar time, so the only place where the wall
//! clock decides anything. What is under way is still judged in them, and still rolled back.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_MIN: i64 = 24 * 60;
const WEEK_MIN: i64 = 7 * DAY_MIN;
const MINUTE_MS: i64 = 60_000;
/// 1 January 1970 was a Thursday; weeks begin on Monday.
const EPOCH_MIN: i64 = 3 * DAY_MIN;

/// A part of every week, from a minute to another, counted from Monday 00:00; it may go over the week's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    from_min: u16,
    to_min: u16,
    /// East of UTC; a zone without summer time.
    offset_min: i16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreezeError {
    #[error("not two times of a week with ` - ` between them")]
    Form,
    #[error("{0:?} is not a time of a week")]
    Time(String),
    #[error("{0:?} is not an offset from UTC")]
    Offset(String),
    #[error("it begins and ends at the same time")]
    Empty,
}

impl Freeze {
    pub fn covers(&self, wall_ms: u64) -> bool {
        self.left_min(wall_ms).is_some()
    }

    /// When the window ends that covers `wall_ms`, in milliseconds since 1970; None if none does.
    pub fn until(&self, wall_ms: u64) -> Option<u64> {
        let left_ms = self.left_min(wall_ms)? * MINUTE_MS - (wall_ms.cast_signed().rem_euclid(MINUTE_MS));
        Some(wall_ms.saturating_add_signed(left_ms))
    }

    /// Whole minutes to its end, the present one counted.
    fn left_min(&self, wall_ms: u64) -> Option<i64> {
        let minute = wall_ms.cast_signed().div_euclid(MINUTE_MS) + EPOCH_MIN + i64::from(self.offset_min);
        let since = (minute - i64::from(self.from_min)).rem_euclid(WEEK_MIN);
        let length = (i64::from(self.to_min) - i64::from(self.from_min)).rem_euclid(WEEK_MIN);
        (since < length).then_some(length - since)
    }
}

/// `fri 16:00 - mon 08:00`, in UTC, or with an offset: `fri 16:00 - mon 08:00 +08:00`.
impl FromStr for Freeze {
    type Err = FreezeError;

    fn from_str(text: &str) -> Result<Freeze, FreezeError> {
        let (from, rest) = text.split_once(" - ").ok_or(FreezeError::Form)?;
        let mut rest = rest.split_whitespace();
        let to = [rest.next(), rest.next()].map(Option::unwrap_or_default).join(" ");
        let offset_min = rest.next().map_or(Ok(0), offset)?;
        if rest.next().is_some() {
            return Err(FreezeError::Form);
        }
        let (from_min, to_min) = (week_minute(from)?, week_minute(&to)?);
        match from_min == to_min {
            true => Err(FreezeError::Empty),
            false => Ok(Freeze { from_min, to_min, offset_min }),
        }
    }
}

fn week_minute(text: &str) -> Result<u16, FreezeError> {
    let wrong = || FreezeError::Time(text.to_owned());
    let (day, time) = text.trim().split_once(' ').ok_or_else(wrong)?;
    let day = DAYS.iter().position(|name| *name == day).ok_or_else(wrong)?;
    let minute = clock_time(time.trim()).ok_or_else(wrong)?;
    u16::try_from(day as i64 * DAY_MIN + minute).map_err(|_| wrong())
}

/// Minutes of `16:00`.
fn clock_time(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let part = |text: &str| text.parse::<u8>().ok().filter(|_| text.len() == 2 && !text.starts_with('+'));
    let (hours, minutes) = (part(hours)?, part(minutes)?);
    (hours < 24 && minutes < 60).then_some(i64::from(hours) * 60 + i64::from(minutes))
}

fn offset(text: &str) -> Result<i16, FreezeError> {
    let wrong = || FreezeError::Offset(text.to_owned());
    let (sign, time) = match text.split_at_checked(1) {
        Some(("+", time)) => (1, time),
        Some(("-", time)) => (-1, time),
        _ => return Err(wrong()),
    };
    let minutes = clock_time(time).filter(|minutes| *minutes <= 14 * 60).ok_or_else(wrong)?;
    i16::try_from(sign * minutes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Friday, 2 January 1970, at this time of the day.
    fn friday(hours: u64, minutes: u64) -> u64 {
        (24 * 60 + hours * 60 + minutes) * 60_000
    }

    #[test]
    fn a_window_over_the_weeks_end() {
        let freeze: Freeze = "fri 16:00 - mon 08:00".parse().unwrap();
        let monday_8 = friday(0, 0) + (3 * 24 + 8) * 3_600_000;
        assert!(!freeze.covers(friday(15, 59)));
        assert_eq!(freeze.until(friday(16, 0) + 1), Some(monday_8));
        assert_eq!(freeze.until(monday_8 - 1), Some(monday_8));
        assert!(!freeze.covers(monday_8));
        assert!(freeze.covers(monday_8 + 4 * 24 * 3_600_000 + 8 * 3_600_000), "and again the Friday after");
    }

    #[test]
    fn a_window_of_another_zone() {
        let freeze: Freeze = "fri 16:00 - fri 18:00 +08:00".parse().unwrap();
        assert_eq!(freeze.until(friday(8, 0)), Some(friday(10, 0)));
        assert!(!freeze.covers(friday(7, 59)) && !freeze.covers(friday(10, 0)) && !freeze.covers(friday(16, 0)));
        let west: Freeze = "fri 16:00 - fri 18:00 -03:30".parse().unwrap();
        assert!(west.covers(friday(19, 30)) && !west.covers(friday(19, 29)));
    }

    #[test]
    fn what_is_no_window_is_told() {
        for text in ["", "fri 16:00", "fri 16:00-mon 08:00", "fri 16:00 - mon 08:00 +08:00 x"] {
            assert_eq!(text.parse::<Freeze>(), Err(FreezeError::Form), "{text}");
        }
        for text in ["fri 24:00 - mon 08:00", "fri 16:00 - mon", "Fri 16:00 - mon 08:00", "fri +1:00 - mon 08:00"] {
            assert!(matches!(text.parse::<Freeze>(), Err(FreezeError::Time(_))), "{text}");
        }
        assert_eq!("fri 16:00 - fri 16:00".parse::<Freeze>(), Err(FreezeError::Empty));
        for offset in ["8", "+8:00", "08:00", "+15:00", "é"] {
            let text = format!("fri 16:00 - mon 08:00 {offset}");
            assert_eq!(text.parse::<Freeze>(), Err(FreezeError::Offset(offset.to_owned())));
        }
    }
}
