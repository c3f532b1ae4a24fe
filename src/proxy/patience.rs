//! How long a client waits, where it says so: it may shorten the route's time, never lengthen it.

use super::clock::Tick;
use super::exchange::Exchange;
use super::grpc;
use http::HeaderMap;
use http::header::HeaderName;
use std::time::Duration;

const X_REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// Until when, by `grpc-timeout` of a call and by `X-Request-Timeout` of what a trusted proxy sends.
#[inline(always)]
pub(super) fn asked(exchange: &Exchange, headers: &HeaderMap) -> Tick {
    if !exchange.is_grpc() && !exchange.client.hop.is_trusted() {
        return Tick::NEVER;
    }
    either(exchange, headers)
}

#[inline(never)]
fn either(exchange: &Exchange, headers: &HeaderMap) -> Tick {
    let call = if exchange.is_grpc() { grpc::deadline(headers) } else { None };
    let said = if exchange.client.hop.is_trusted() { said(headers) } else { None };
    let least = call.into_iter().chain(said).min();
    least.map_or(Tick::NEVER, |least| exchange.client.worker.clock.now().after(least))
}

/// Seconds, with or without `s` and decimals, or milliseconds: `2`, `1.5`, `2s`, `250ms`. None when there is none, or
/// several, or it can't be read.
fn said(headers: &HeaderMap) -> Option<Duration> {
    let mut values = headers.get_all(X_REQUEST_TIMEOUT).iter();
    let value = values.next().filter(|_| values.next().is_none())?.to_str().ok()?.trim();
    let (number, unit_us) = match value.strip_suffix("ms") {
        Some(number) => (number, 1_000),
        None => (value.strip_suffix('s').unwrap_or(value), 1_000_000),
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || decimals.len() > 6 || !digits(whole) || !digits(decimals) {
        return None;
    }
    let micros: u64 = format!("{decimals:0<6}").parse().ok()?;
    let parts = whole.parse::<u64>().ok()? * unit_us + micros * unit_us / 1_000_000;
    (parts > 0).then_some(Duration::from_micros(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_time_as_clients_write_it() {
        let said = |value: &'static str| {
            said(&HeaderMap::from_iter([(X_REQUEST_TIMEOUT, HeaderValue::from_static(value))]))
                .map(|time| time.as_micros())
        };
        for (value, micros) in [
            ("2", 2_000_000),
            ("1.5", 1_500_000),
            ("2s", 2_000_000),
            ("250ms", 250_000),
            (" 0.25s ", 250_000),
            ("1.5ms", 1_500),
        ] {
            assert_eq!(said(value), Some(micros), "{value}");
        }
        for value in ["", "0", "0ms", "-1", "1m", "1e3", "s", ".5", "1.2.3", "9999999999", "soon"] {
            assert_eq!(said(value), None, "{value}");
        }
        let mut two = HeaderMap::new();
        two.append(X_REQUEST_TIMEOUT, HeaderValue::from_static("1"));
        two.append(X_REQUEST_TIMEOUT, HeaderValue::from_static("2"));
        assert_eq!(super::said(&two), None);
    }
}
