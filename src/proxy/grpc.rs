//! gRPC as far as a proxy must know it: its deadline, its status, and errors that its clients understand.
//!
//! A gRPC answer is a 200 whose success is told by `grpc-status` in the trailers (or in the head, of an answer without a
//! message). Weir counts the answer by that status, and speaks it itself where no target answered.
//! Source: gRPC over HTTP/2, github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.

use super::failure::Failure;
use crate::boundary::outcomes::Code;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// RESOURCE_EXHAUSTED.
pub(super) const EXHAUSTED: HeaderValue = HeaderValue::from_static("8");
pub(super) const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a request over HTTP/2 is gRPC; gRPC-Web is not.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let rest = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(CONTENT.as_bytes()));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// What the client gives the call: up to eight digits and a unit. None when there is none, or it can't be read.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// How an answer with this status is counted: as the class of HTTP status that the same outcome has elsewhere. None
/// without a status.
pub(super) fn code(headers: &HeaderMap) -> Option<Code> {
    let status = std::str::from_utf8(headers.get(STATUS)?.as_bytes()).ok()?;
    Some(match status.parse::<u8>() {
        Ok(0) => Code::Success,
        // Cancelled, and what the caller did wrong.
        Ok(1 | 3 | 5..=11 | 16) => Code::ClientError,
        // Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss; and what is no status.
        _ => Code::ServerError,
    })
}

/// The status of an answer that Weir gives itself.
pub(super) fn status_of(failure: Failure) -> HeaderValue {
    HeaderValue::from_static(match failure {
        Failure::Connect | Failure::Reset | Failure::BadResponse | Failure::NoTarget | Failure::Queue => "14",
        Failure::ConnectTimeout
        | Failure::TlsTimeout
        | Failure::SendTimeout
        | Failure::ResponseTimeout
        | Failure::RequestTimeout
        | Failure::BodyTimeout => "4",
        Failure::BodyTooLarge => "8",
        Failure::BadBody | Failure::TargetTooLong | Failure::NoHost | Failure::RedirectLoop => "13",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn calls_are_known_by_their_content_type() {
        for (kind, call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_call(&with(CONTENT_TYPE, kind)), call, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn deadlines_are_read_or_left() {
        for (text, deadline_ns) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("99999999S", Some(99_999_999_000_000_000)),
            ("250m", Some(250_000_000)),
            ("7u", Some(7_000)),
            ("7n", Some(7)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("1s", None),
            ("1.5S", None),
        ] {
            let expected = deadline_ns.map(Duration::from_nanos);
            assert_eq!(deadline(&with(TIMEOUT, text)), expected, "{text}");
        }
    }

    #[test]
    fn statuses_count_as_the_class_that_they_mean() {
        for (status, class) in [
            ("0", Code::Success),
            ("1", Code::ClientError),
            ("5", Code::ClientError),
            ("16", Code::ClientError),
            ("2", Code::ServerError),
            ("13", Code::ServerError),
            ("14", Code::ServerError),
            ("banana", Code::ServerError),
        ] {
            assert_eq!(code(&with(STATUS, status)), Some(class), "{status}");
        }
        assert_eq!(code(&HeaderMap::new()), None);
    }
}
