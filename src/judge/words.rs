//! Numbers as people read them.

/// `7.1 %`, `0.52 %`, `0 %`, of a share.
pub(super) fn percent(share: f64) -> String {
    format!("{} %", short(share * 100.0))
}

/// `0.4 points`, of a difference of shares.
pub(super) fn points(share: f64) -> String {
    format!("{} points", short(share * 100.0))
}

/// About three significant digits, and no zeros after them: `0.0123`, `1.5`, `340`.
pub(super) fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if !size.is_finite() => return "∞".to_owned(),
        size if size >= 99.95 || size == 0.0 => 0,
        size if size >= 1.0 => 1,
        size => ((-size.log10()).ceil() as usize + 2).min(6),
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// `1,530`.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Rounded up to two significant digits, as an estimate deserves: `620`, `1,600`, `7`.
pub(super) fn about(count: u64) -> String {
    let mut unit = 1_u64;
    while count / unit >= 100 {
        unit = unit.saturating_mul(10);
    }
    grouped(count.div_ceil(unit).saturating_mul(unit))
}

/// `40 s`, `3 min`, `2 h`, rounded down.
pub(super) fn span(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> =
            [0.0, 0.004, 0.0052, 0.071, 0.5, 1.0, 0.9996, 0.000_123].iter().map(|&share| percent(share)).collect();
        assert_eq!(shown, ["0 %", "0.4 %", "0.52 %", "7.1 %", "50 %", "100 %", "100 %", "0.0123 %"]);
        assert_eq!(points(0.004), "0.4 points");
        assert_eq!([short(1.5), short(340.4), short(1.0), short(f64::INFINITY)], ["1.5", "340", "1", "∞"]);
        assert_eq!([grouped(0), grouped(999), grouped(1530), grouped(u64::MAX)].concat().len(), 1 + 3 + 5 + 26);
        assert_eq!([about(0), about(7), about(99), about(613), about(1501)], ["0", "7", "99", "620", "1,600"]);
        assert_eq!([span(59.9), span(600.0), span(86400.0)], ["59 s", "10 min", "24 h"]);
        assert!(about(u64::MAX).len() > 20);
    }
}
