//! What a target's answer must be like to be passed on, beyond what hyper sees to.
//!
//! hyper reads an answer as a browser may: the last of several codings decides, equal lengths are one, a length beside a
//! coding is forgotten. Behind a proxy stands another reader, to whom the answer goes with its framing written anew; so
//! an answer that the two could take for different ones is not passed on (RFC 9112 §6.3, §11.1).

use super::guard::decimal;
use super::headers::{is_forwarding, is_mirror};
use super::tunnel;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};

/// Why an answer is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Status,
    Switch,
    Coding,
    Length,
}

impl Fault {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Fault::Status => "a status code above 599",
            Fault::Switch => "101 (Switching Protocols), which nobody asked for",
            Fault::Coding => "a Transfer-Encoding other than chunked, or beside a Content-Length",
            Fault::Length => "a Content-Length that is not one number",
        }
    }
}

/// Looks at an answer's head. Neither a protocol switch that nobody asked for, nor a status that is none (RFC 9110 §15),
/// nor a body whose length two parsers could read differently. A length written in an odd way is written anew.
pub(super) fn answer<B>(response: &mut Response<B>, upgrade: Option<&HeaderValue>) -> Result<(), Fault> {
    let (status, version) = (response.status(), response.version());
    let headers = response.headers_mut();
    if status == StatusCode::SWITCHING_PROTOCOLS
        && upgrade.is_none_or(|offered| tunnel::accepted(headers, offered).is_none())
    {
        return Err(Fault::Switch);
    }
    if status.as_u16() > 599 {
        return Err(Fault::Status);
    }
    // One walk over the few fields of an answer costs less than two look-ups.
    let (mut lengths, mut codings, mut is_odd) = (0_usize, 0_usize, false);
    for (name, value) in &*headers {
        match *name {
            header::CONTENT_LENGTH => (lengths, is_odd) = (lengths + 1, is_odd || !is_plain(value)),
            header::TRANSFER_ENCODING => {
                (codings, is_odd) = (codings + 1, is_odd || !value.as_bytes().eq_ignore_ascii_case(b"chunked"));
            }
            _ => {}
        }
    }
    match (codings, lengths) {
        (0, 0) => Ok(()),
        (0, _) if matches!(status, StatusCode::NO_CONTENT | StatusCode::SWITCHING_PROTOCOLS) => {
            headers.remove(header::CONTENT_LENGTH);
            Ok(())
        }
        (0, 1) if !is_odd => Ok(()),
        (0, _) => canonical_length(headers).ok_or(Fault::Length),
        (1, 0) if !is_odd && version == Version::HTTP_11 => Ok(()),
        _ => Err(Fault::Coding),
    }
}

fn one_line(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

/// As everybody writes it: digits, without leading zeros.
fn is_plain(length: &HeaderValue) -> bool {
    let digits = length.as_bytes();
    let is_short = match digits {
        [] => false,
        [b'0', rest @ ..] => rest.is_empty(),
        _ => digits.len() < 19,
    };
    is_short && digits.iter().all(u8::is_ascii_digit)
}

/// Makes equal lengths one (RFC 9110 §8.6). None when there is one that is no length, or another than the others.
pub(super) fn canonical_length(headers: &mut HeaderMap) -> Option<()> {
    let mut lengths = headers
        .get_all(header::CONTENT_LENGTH)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|length| decimal(length.trim_ascii()));
    let length = lengths.next()??;
    if !lengths.all(|other| other == Some(length)) {
        return None;
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Some(())
}

/// Takes off a request's length what two readers could read differently. None when it can't be told.
pub(super) fn request_length(headers: &mut HeaderMap) -> Option<()> {
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) if !is_plain(length) || one_line(headers, header::CONTENT_LENGTH).is_none() => {
            canonical_length(headers)
        }
        _ => Some(()),
    }
}

/// Takes what is no trailer's business off a trailer section: framing, routing, authentication, how the content is to be
/// read, and who the client is (RFC 9110 §6.5.1). Who merges trailers into the head would believe it.
pub(super) fn trailers(trailers: &mut HeaderMap) {
    let barred: Vec<HeaderName> = trailers.keys().filter(|name| is_barred(name)).cloned().collect();
    for name in barred {
        trailers.remove(name);
    }
}

fn is_barred(name: &HeaderName) -> bool {
    let name = name.as_str();
    BARRED.binary_search(&name).is_ok() || name.starts_with("if-") || is_forwarding(name) || is_mirror(name)
}

/// In alphabetical order.
const BARRED: [&str; 34] = [
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-request-id",
    "x_request_id",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn vetted(status: u16, lines: &[(&str, &str)]) -> Result<Vec<String>, Fault> {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        let mut response = response.body(()).expect("a response");
        answer(&mut response, None)?;
        let lengths = response.headers().get_all(header::CONTENT_LENGTH).iter();
        Ok(lengths.map(|length| length.to_str().expect("digits").to_owned()).collect())
    }

    #[test]
    fn a_length_is_one_number() {
        for (lines, length) in [
            (&["5"][..], "5"),
            (&["0"], "0"),
            (&["0005"], "5"),
            (&["5", "5"], "5"),
            (&["5, 5", "05"], "5"),
            (&["9223372036854775807"], "9223372036854775807"),
        ] {
            let lines: Vec<(&str, &str)> = lines.iter().map(|value| ("content-length", *value)).collect();
            assert_eq!(vetted(200, &lines), Ok(vec![length.to_owned()]), "{lines:?}");
        }
        for lines in [&["+5"][..], &["-5"], &[""], &["5,"], &["5", "6"], &["5, 6"], &["5 5"], &["9223372036854775808"]]
        {
            let lines: Vec<(&str, &str)> = lines.iter().map(|value| ("content-length", *value)).collect();
            assert_eq!(vetted(200, &lines), Err(Fault::Length), "{lines:?}");
            assert_eq!(vetted(304, &lines), Err(Fault::Length), "{lines:?}");
        }
        assert_eq!(vetted(204, &[("content-length", "5")]), Ok(vec![]));
    }

    #[test]
    fn the_only_coding_is_chunked() {
        let coded = |lines: &[&str]| {
            let lines: Vec<(&str, &str)> = lines.iter().map(|value| ("transfer-encoding", *value)).collect();
            vetted(200, &lines)
        };
        assert_eq!(coded(&["Chunked"]), Ok(vec![]));
        for lines in [&["gzip, chunked"][..], &["chunked, chunked"], &["chunked", "chunked"], &["identity"], &[""]] {
            assert_eq!(coded(lines), Err(Fault::Coding), "{lines:?}");
        }
        let both = [("content-length", "5"), ("transfer-encoding", "chunked")];
        assert_eq!(vetted(200, &both), Err(Fault::Coding));
    }

    #[test]
    fn no_status_beyond_599_and_no_switch_unasked() {
        assert_eq!(vetted(599, &[]), Ok(vec![]));
        assert_eq!(vetted(600, &[]), Err(Fault::Status));
        assert_eq!(vetted(999, &[]), Err(Fault::Status));
        assert_eq!(vetted(101, &[("connection", "upgrade"), ("upgrade", "websocket")]), Err(Fault::Switch));
    }

    #[test]
    fn trailers_say_nothing_of_framing_or_identity() {
        assert!(BARRED.is_sorted());
        let mut map = HeaderMap::new();
        for name in
            BARRED.iter().chain(&["x-forwarded-for", "x_forwarded_for", "x-real-ip", "x-weir-mirror", "if-match"])
        {
            map.insert(*name, HeaderValue::from_static("a"));
        }
        map.insert("grpc-status", HeaderValue::from_static("0"));
        map.insert("x-sum", HeaderValue::from_static("1"));
        map.insert("etag", HeaderValue::from_static("1"));
        trailers(&mut map);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["etag", "grpc-status", "x-sum"]);
    }
}
