//! Whether an answer is compressed, and what becomes of its head.

use super::kinds::is_compressible;
use super::{Coding, Codings, accept};
use crate::limits::COMPRESS_FROM_BYTES;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// What is kept of a request for the time when its answer comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What the answer is to be compressed with, if it can be.
    pub coding: Option<Coding>,
    /// The answer has a head only.
    pub is_head: bool,
    if_none_match: Vec<HeaderValue>,
}

/// They are about the bytes as the target sends them (RFC 9530, RFC 3230, RFC 1864): with others they would be wrong.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];
const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("Accept-Encoding");

impl Asked {
    /// `takes_chunks`: not HTTP/1.0, where nothing would tell the end of a body without a length from a cut.
    pub fn new(codings: &Codings, headers: &HeaderMap, is_head: bool, takes_chunks: bool) -> Asked {
        let free = takes_chunks && !forbids_transform(headers);
        Asked {
            coding: if free { accept::preferred(codings, headers) } else { None },
            is_head,
            if_none_match: headers.get_all(header::IF_NONE_MATCH).iter().cloned().collect(),
        }
    }

    /// Whether the client has this strong tag in its weak form, which it can only have from a compressed answer.
    fn has_weak_form(&self, etag: &HeaderValue) -> bool {
        let listed = |line: &HeaderValue| {
            let mut tags = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.any(|tag| tag.strip_prefix(b"W/") == Some(etag.as_bytes()))
        };
        self.if_none_match.iter().any(listed)
    }
}

/// Makes the answer's head what the client is to get. `length`: of the body in bytes, where the header does not say it
/// but it is known. `begin` is asked when the body is to be compressed; what it gives is handed on, and with None the
/// answer goes as it is.
///
/// Every answer that some client would get compressed says so in `Vary`.
pub fn edit_head<C>(
    asked: &Asked,
    status: StatusCode,
    headers: &mut HeaderMap,
    length: Option<u64>,
    begin: impl FnOnce(Coding) -> Option<C>,
) -> Option<C> {
    if status == StatusCode::NOT_MODIFIED {
        not_modified(asked, headers);
        return None;
    }
    if !can_be_compressed(status, headers, length) {
        return None;
    }
    vary(headers);
    let coding = asked.coding?;
    let begun = begin(coding)?;
    headers.insert(header::CONTENT_ENCODING, coding.value());
    headers.remove(header::CONTENT_LENGTH);
    // A range of these bytes is none of the target's.
    headers.remove(header::ACCEPT_RANGES);
    weaken(headers);
    Some(begun)
}

fn can_be_compressed(status: StatusCode, headers: &HeaderMap, length: Option<u64>) -> bool {
    // 204, 205: no content; 206: a part of it; 226: a difference to something else.
    if !status.is_success() || matches!(status.as_u16(), 204..=206 | 226) {
        return false;
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    is_compressible(kind.as_bytes())
        && said_length(headers).or(length).is_none_or(|length| length >= COMPRESS_FROM_BYTES)
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !headers.contains_key(header::CONTENT_RANGE)
        && !forbids_transform(headers)
        && !has_digest(headers)
}

fn said_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// `Cache-Control: no-transform`, of a request (RFC 9111 §5.2.1.6) or an answer (§5.2.2.6).
fn forbids_transform(headers: &HeaderMap) -> bool {
    headers.get_all(header::CACHE_CONTROL).iter().any(|line| has_member(line, "no-transform"))
}

fn has_digest(headers: &HeaderMap) -> bool {
    let announced = |line: &HeaderValue| DIGESTS.iter().any(|name| has_member(line, name.as_str()));
    DIGESTS.iter().any(|name| headers.contains_key(name)) || headers.get_all(header::TRAILER).iter().any(announced)
}

/// Whether a list of tokens has this one.
fn has_member(line: &HeaderValue, wanted: &str) -> bool {
    let mut members = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    members.any(|member| member.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Adds `Accept-Encoding` to `Vary`, unless it says that or everything (`*`) already.
fn vary(headers: &mut HeaderMap) {
    let said = |line: &HeaderValue| has_member(line, "*") || has_member(line, "accept-encoding");
    if headers.get_all(header::VARY).iter().any(said) {
        return;
    }
    let mut lines = headers.get_all(header::VARY).iter();
    let joined = match (lines.next(), lines.next()) {
        (Some(only), None) if !only.as_bytes().trim_ascii().is_empty() => {
            HeaderValue::from_bytes(&[only.as_bytes(), b", Accept-Encoding"].concat()).unwrap_or(ACCEPT_ENCODING)
        }
        (None | Some(_), None) => ACCEPT_ENCODING,
        _ => {
            headers.append(header::VARY, ACCEPT_ENCODING);
            return;
        }
    };
    headers.insert(header::VARY, joined);
}

/// The bytes are others than those that a strong tag stands for (RFC 9110 §8.8.1). What is no tag goes.
fn weaken(headers: &mut HeaderMap) {
    let Some(etag) = headers.get(header::ETAG) else { return };
    if etag.as_bytes().starts_with(b"W/\"") {
        return;
    }
    match weak(etag) {
        Some(weak) => drop(headers.insert(header::ETAG, weak)),
        None => drop(headers.remove(header::ETAG)),
    }
}

fn weak(etag: &HeaderValue) -> Option<HeaderValue> {
    let strong = etag.as_bytes();
    let is_tag = strong.len() >= 2 && strong.starts_with(b"\"") && strong.ends_with(b"\"");
    if is_tag { HeaderValue::from_bytes(&[b"W/", strong].concat()).ok() } else { None }
}

/// A 304 says what the 200 in its place would (RFC 9110 §15.4.5): `Vary`, and to a client that has the compressed
/// answer the tag by which it knows that.
fn not_modified(asked: &Asked, headers: &mut HeaderMap) {
    let other = headers.get(header::CONTENT_TYPE).is_some_and(|kind| !is_compressible(kind.as_bytes()));
    if other || headers.contains_key(header::CONTENT_ENCODING) || forbids_transform(headers) {
        return;
    }
    vary(headers);
    if headers.get(header::ETAG).is_some_and(|etag| asked.has_weak_form(etag)) {
        weaken(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    fn asked(fields: &[(&str, &str)]) -> Asked {
        Asked::new(&Codings::new(&Coding::ALL).unwrap(), &map(fields), false, true)
    }

    /// The answer's head as it leaves, and the coding.
    fn edited(asked: &Asked, status: u16, fields: &[(&str, &str)]) -> (HeaderMap, Option<Coding>) {
        let mut headers = map(fields);
        let status = StatusCode::from_u16(status).unwrap();
        let coding = edit_head(asked, status, &mut headers, None, Some);
        (headers, coding)
    }

    const HTML: (&str, &str) = ("content-type", "text/html");

    #[test]
    fn a_compressed_answer_s_head() {
        let gzip = asked(&[("accept-encoding", "gzip")]);
        let fields = [HTML, ("content-length", "5000"), ("etag", "\"abc\""), ("accept-ranges", "bytes"), ("x-a", "b")];
        let (headers, coding) = edited(&gzip, 200, &fields);
        assert_eq!(coding, Some(Coding::Gzip));
        let left =
            [HTML, ("etag", "W/\"abc\""), ("x-a", "b"), ("content-encoding", "gzip"), ("vary", "Accept-Encoding")];
        assert_eq!(headers, map(&left));
    }

    #[test]
    fn a_client_that_takes_none_is_told_that_others_get_another() {
        let plain = asked(&[]);
        let fields = [HTML, ("content-length", "5000"), ("etag", "\"abc\""), ("accept-ranges", "bytes")];
        let (headers, coding) = edited(&plain, 200, &fields);
        assert_eq!(coding, None);
        let mut expected = map(&fields);
        expected.insert(header::VARY, ACCEPT_ENCODING);
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_cannot_be_compressed_is_left_alone() {
        let gzip = asked(&[("accept-encoding", "gzip")]);
        let cases: &[(u16, &[(&str, &str)])] = &[
            (200, &[]),
            (200, &[("content-type", "image/png")]),
            (200, &[HTML, ("content-length", "1023")]),
            (200, &[HTML, ("content-encoding", "br")]),
            (200, &[HTML, ("content-encoding", "identity")]),
            (200, &[HTML, ("cache-control", "public, No-Transform")]),
            (200, &[HTML, ("cache-control", "public"), ("cache-control", "no-transform")]),
            (200, &[HTML, ("content-range", "bytes 0-9/10")]),
            (200, &[HTML, ("content-digest", "sha-256=:x:")]),
            (200, &[HTML, ("repr-digest", "sha-256=:x:")]),
            (200, &[HTML, ("digest", "sha-256=x")]),
            (200, &[HTML, ("content-md5", "x")]),
            (200, &[HTML, ("trailer", "x-sum, Content-Digest")]),
            (204, &[HTML]),
            (205, &[HTML]),
            (206, &[HTML, ("content-range", "bytes 0-9999/20000")]),
            (226, &[HTML]),
            (301, &[HTML]),
            (404, &[HTML]),
            (500, &[HTML]),
        ];
        for (status, fields) in cases {
            assert_eq!(edited(&gzip, *status, fields), (map(fields), None), "{status} {fields:?}");
        }
        for (status, fields) in [(200, &[HTML, ("content-length", "1024")][..]), (201, &[HTML]), (207, &[HTML])] {
            assert_eq!(edited(&gzip, status, fields).1, Some(Coding::Gzip), "{status} {fields:?}");
        }
    }

    #[test]
    fn an_answer_that_gets_no_compressor_goes_as_it_is() {
        let fields = [HTML, ("content-length", "5000"), ("etag", "\"abc\"")];
        let mut headers = map(&fields);
        let gzip = asked(&[("accept-encoding", "gzip")]);
        assert_eq!(edit_head(&gzip, StatusCode::OK, &mut headers, None, |_| None::<()>), None);
        assert_eq!(headers.remove(header::VARY).unwrap(), "Accept-Encoding");
        assert_eq!(headers, map(&fields));
    }

    #[test]
    fn a_length_that_only_the_body_says_counts() {
        let gzip = asked(&[("accept-encoding", "gzip")]);
        for (length, coding) in [(0, None), (1023, None), (1024, Some(Coding::Gzip))] {
            let mut headers = map(&[HTML]);
            assert_eq!(edit_head(&gzip, StatusCode::OK, &mut headers, Some(length), Some), coding, "{length}");
            assert_eq!(headers.contains_key(header::VARY), coding.is_some());
        }
    }

    #[test]
    fn vary_is_joined_and_not_doubled() {
        let joined = |lines: &[&str]| {
            let mut headers: HeaderMap =
                lines.iter().map(|line| (header::VARY, HeaderValue::from_str(line).unwrap())).collect();
            vary(&mut headers);
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            headers.get_all(header::VARY).iter().map(text).collect::<Vec<_>>().join(" | ")
        };
        for (lines, expected) in [
            (&[][..], "Accept-Encoding"),
            (&[""], "Accept-Encoding"),
            (&["Origin"], "Origin, Accept-Encoding"),
            (&["Origin, accept-encoding"], "Origin, accept-encoding"),
            (&["*"], "*"),
            (&["Origin, *"], "Origin, *"),
            (&["Origin", "Cookie"], "Origin | Cookie | Accept-Encoding"),
            (&["Origin", "Accept-Encoding"], "Origin | Accept-Encoding"),
            (&["X-Accept-Encoding"], "X-Accept-Encoding, Accept-Encoding"),
        ] {
            assert_eq!(joined(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn tags_become_weak_once() {
        let gzip = asked(&[("accept-encoding", "gzip")]);
        for (etag, weak) in [
            ("\"a\"", Some("W/\"a\"")),
            ("\"\"", Some("W/\"\"")),
            ("W/\"a\"", Some("W/\"a\"")),
            ("a", None),
            ("\"", None),
            ("w/\"a\"", None),
        ] {
            let (headers, _) = edited(&gzip, 200, &[HTML, ("etag", etag)]);
            assert_eq!(headers.get(header::ETAG).map(|tag| tag.to_str().unwrap()), weak, "{etag}");
        }
    }

    #[test]
    fn a_304_says_what_the_200_would() {
        let not_modified = |request: &[(&str, &str)], fields: &[(&str, &str)]| edited(&asked(request), 304, fields).0;
        let strong = ("etag", "\"a\"");
        let vary = ("vary", "Accept-Encoding");
        let has_weak = [("if-none-match", "\"x\", W/\"a\""), ("accept-encoding", "gzip")];
        assert_eq!(not_modified(&has_weak, &[strong]), map(&[("etag", "W/\"a\""), vary]));
        assert_eq!(not_modified(&[("if-none-match", "\"a\"")], &[strong]), map(&[strong, vary]));
        assert_eq!(not_modified(&[], &[strong]), map(&[strong, vary]));
        let weak = ("etag", "W/\"a\"");
        assert_eq!(not_modified(&has_weak, &[weak]), map(&[weak, vary]));
        let png = ("content-type", "image/png");
        assert_eq!(not_modified(&has_weak, &[strong, png]), map(&[strong, png]));
    }

    #[test]
    fn requests_that_must_go_untouched() {
        let codings = Codings::new(&[Coding::Gzip]).unwrap();
        let takes = map(&[("accept-encoding", "gzip")]);
        assert_eq!(Asked::new(&codings, &takes, true, true).coding, Some(Coding::Gzip));
        assert_eq!(Asked::new(&codings, &takes, false, false).coding, None, "HTTP/1.0");
        let refuses = map(&[("accept-encoding", "gzip"), ("cache-control", "no-cache, no-transform")]);
        assert_eq!(Asked::new(&codings, &refuses, false, true).coding, None);
    }

    proptest! {
        /// Whatever a target says: a coded answer says its coding once, has no length and no strong tag, and says that
        /// it varies; one that is not coded keeps all it had.
        #[test]
        fn heads_are_consistent(
            accepts in prop::sample::select(vec!["", "gzip", "br, zstd", "identity", "*"]),
            status in prop::sample::select(vec![200_u16, 201, 204, 206, 304, 404]),
            fields in prop::collection::vec(prop::sample::select(vec![
                HTML, ("content-type", "image/png"), ("content-length", "10"), ("content-length", "99999"),
                ("etag", "\"a\""), ("etag", "W/\"a\""), ("etag", "odd"), ("vary", "*"), ("vary", "Origin"),
                ("content-encoding", "gzip"), ("cache-control", "no-transform"), ("accept-ranges", "bytes"),
            ]), 0..8),
        ) {
            let asked = asked(&[("accept-encoding", accepts)]);
            let before = map(&fields);
            let (after, coding) = edited(&asked, status, &fields);
            if coding.is_some() {
                prop_assert_eq!(after.get_all(header::CONTENT_ENCODING).iter().count(), 1);
                prop_assert!(!before.contains_key(header::CONTENT_ENCODING));
                prop_assert!(!after.contains_key(header::CONTENT_LENGTH) && !after.contains_key(header::ACCEPT_RANGES));
                prop_assert!(after.get(header::ETAG).is_none_or(|tag| tag.as_bytes().starts_with(b"W/")));
                prop_assert!(after.contains_key(header::VARY));
            } else {
                let mut left = after.clone();
                left.remove(header::VARY);
                let mut had = before.clone();
                had.remove(header::VARY);
                prop_assert_eq!(left, had);
            }
        }
    }
}
