//! Durations (`"1h30m"`) and sizes (`"64KiB"`) as they are written.

use std::time::Duration;

const DURATION_HELP: &str = "write a whole number and a unit (ms, s, m, h), e.g. \"500ms\", \"2s\" or \"1h30m\"";
const SIZE_HELP: &str =
    "write bytes as a number, or a number and a unit (B, KB, MB, GB, KiB, MiB, GiB), e.g. \"64KiB\"";

/// From `"500ms"`, `"2s"`, `"1m"`, `"1h30m"`: units in falling order, each at most once.
/// An error is the advice to give.
pub fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut last_unit_ms = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or(DURATION_HELP)?;
        let (unit_ms, after) = duration_unit(after).ok_or(DURATION_HELP)?;
        if unit_ms >= last_unit_ms {
            return Err("write the larger unit first and each unit once, e.g. \"1h30m\"".to_owned());
        }
        last_unit_ms = unit_ms;
        let part = number.checked_mul(unit_ms).map(Duration::from_millis);
        total = part.and_then(|part| total.checked_add(part)).ok_or("this is longer than can be counted")?;
        rest = after;
    }
    if text.is_empty() { Err(DURATION_HELP.to_owned()) } else { Ok(total) }
}

/// Bytes, from `"64KiB"`, `"1MB"` or `"1048576"`. An error is the advice to give.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = leading_number(text).ok_or(SIZE_HELP)?;
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "k" | "K" => return Err(format!("write \"{number}KiB\" (1024 bytes each) or \"{number}KB\" (1000)")),
        "m" | "M" => return Err(format!("write \"{number}MiB\" (1024 KiB each) or \"{number}MB\"")),
        "g" | "G" => return Err(format!("write \"{number}GiB\" (1024 MiB each) or \"{number}GB\"")),
        _ => return Err(SIZE_HELP.to_owned()),
    };
    number.checked_mul(factor).ok_or_else(|| "this is more than can be counted".to_owned())
}

/// The largest unit that loses nothing: `90m` for an hour and a half, `1500ms`.
pub fn shown_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

fn duration_unit(text: &str) -> Option<(u64, &str)> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    units.into_iter().find_map(|(unit, ms)| text.strip_prefix(unit).map(|rest| (ms, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_written() {
        for (text, ms) in [("500ms", 500), ("2s", 2000), ("1m", 60_000), ("1h30m", 5_400_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for text in
            ["", "2", "s", "1.5s", "-1s", "2 s", "30m1h", "1s1s", "1d", "99999999999999999999s", "9999999999999999h"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_as_written() {
        for (text, bytes) in
            [("64KiB", 65_536), ("1MB", 1_000_000), ("10MiB", 10_485_760), ("7", 7), ("1 GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64k", "KiB", "-1", "1.5MB", "99999999999GiB", "1TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(size("64k").unwrap_err(), "write \"64KiB\" (1024 bytes each) or \"64KB\" (1000)");
    }

    #[test]
    fn durations_print_short() {
        for text in ["0s", "90m", "2s", "1500ms", "24h"] {
            assert_eq!(shown_duration(duration(text).unwrap()), text);
        }
    }
}
