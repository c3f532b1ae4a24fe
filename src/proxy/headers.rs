//! Header work on the way in and out: what is between two hops stays there, and Weir adds its own.
//!
//! One pass over the names finds what a request has; only what is there is looked up again. Most requests have
//! nothing to remove.

use super::tunnel;
use crate::routing::mirror::X_WEIR_MIRROR;
use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const VIA: HeaderValue = HeaderValue::from_static("1.1 weir");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// What this hop adds to a request: who sent it, and how.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The client's address, as `X-Forwarded-For` has it.
    ip: HeaderValue,
    tls: bool,
    /// The peer is one of `trusted_proxies`: what it says of earlier hops is kept.
    trusted: bool,
}

impl Hop {
    pub fn new(ip: IpAddr, tls: bool, trusted: bool) -> Hop {
        let ip = HeaderValue::from_str(&ip.to_string()).expect("an address is a valid header value");
        Hop { ip, tls, trusted }
    }

    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn scheme(&self) -> HeaderValue {
        HeaderValue::from_static(if self.tls { "https" } else { "http" })
    }
}

/// What one look at a header map found. The first three mean something to one hop only (RFC 9110 §7.6.1).
#[derive(Default)]
struct Found {
    connection: bool,
    /// `Keep-Alive`, `Proxy-Connection`, `TE` or `Upgrade`.
    other_hop_by_hop: bool,
    upgrade: bool,
    transfer_encoding: bool,
    /// `Forwarded`, `X-Real-IP` or any `X-Forwarded-*`.
    forwarding: bool,
    request_id: bool,
    /// `X-Weir-Mirror`.
    mirror: bool,
}

fn look(headers: &HeaderMap) -> Found {
    let mut found = Found::default();
    for name in headers.keys() {
        match *name {
            header::CONNECTION => found.connection = true,
            header::TRANSFER_ENCODING => found.transfer_encoding = true,
            header::TE => found.other_hop_by_hop = true,
            header::UPGRADE => (found.upgrade, found.other_hop_by_hop) = (true, true),
            header::FORWARDED => found.forwarding = true,
            _ => {
                if name.as_str().starts_with('x') {
                    found.forwarding |= is_forwarding(name.as_str());
                    found.request_id |= *name == X_REQUEST_ID;
                    found.mirror |= is_mirror(name.as_str());
                } else {
                    found.other_hop_by_hop |= *name == KEEP_ALIVE || *name == PROXY_CONNECTION;
                }
            }
        }
    }
    found
}

/// What [`for_target`] took from a request's headers.
pub struct Passed {
    pub request_id: HeaderValue,
    /// The protocols to switch to that may be offered to the target.
    pub upgrade: Option<HeaderValue>,
}

/// Makes a client's request headers those of the request to the target; `identity` are those that its certificate sets.
pub fn for_target(
    headers: &mut HeaderMap,
    hop: &Hop,
    identity: Option<&[(HeaderName, HeaderValue)]>,
    rng: &mut impl Rng,
) -> Passed {
    let found = look(headers);
    let upgrade = if found.upgrade && found.connection { tunnel::offered(headers) } else { None };
    headers.reserve(6);
    let trailers = found.other_hop_by_hop && headers.get_all(header::TE).iter().any(lists_trailers);
    strip_hop_by_hop(headers, &found);
    if let Some(identity) = identity {
        // Again: `Connection` may have named one of them.
        identify(headers, &[], Some(identity));
    }
    if trailers {
        headers.insert(header::TE, TRAILERS);
    }
    if found.forwarding && !hop.trusted {
        strip(headers, |name| name == "forwarded" || is_forwarding(name));
    }
    if found.mirror && !hop.trusted {
        strip(headers, is_mirror);
    }
    add_forwarding(headers, hop);
    append_to_list(headers, header::VIA, VIA);
    let given = if found.request_id && hop.trusted { headers.get(X_REQUEST_ID) } else { None };
    if let Some(id) = given {
        return Passed { request_id: id.clone(), upgrade };
    }
    let id = request_id(rng);
    headers.insert(X_REQUEST_ID, id.clone());
    Passed { request_id: id, upgrade }
}

/// Takes off what a client says of itself in headers that are Weir's, also spelt with underscores, and sets `identity`.
pub fn identify(headers: &mut HeaderMap, reserved: &[HeaderName], identity: Option<&[(HeaderName, HeaderValue)]>) {
    if !reserved.is_empty() {
        let alike = |a: &str, b: &str| a.len() == b.len() && a.bytes().map(dashed).eq(b.bytes().map(dashed));
        let is_reserved = |name: &&HeaderName| reserved.iter().any(|one| alike(one.as_str(), name.as_str()));
        let forged: Vec<HeaderName> = headers.keys().filter(is_reserved).cloned().collect();
        forged.iter().for_each(|name| drop(headers.remove(name)));
    }
    for (name, value) in identity.unwrap_or_default() {
        headers.insert(name.clone(), value.clone());
    }
}

/// Servers behind CGI take an underscore for a dash.
fn dashed(byte: u8) -> u8 {
    if byte == b'_' { b'-' } else { byte }
}

/// What is left of the hops that a request may still go (RFC 9110 §7.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hops {
    /// Any number, or one less than before.
    Left,
    /// None: the request is for Weir itself.
    Spent,
    Invalid,
}

/// Counts a hop off `Max-Forwards`.
pub(super) fn count_hop(headers: &mut HeaderMap) -> Hops {
    let mut lines = headers.get_all(header::MAX_FORWARDS).iter();
    let digits = match (lines.next(), lines.next()) {
        (None, _) => return Hops::Left,
        (Some(digits), None) => digits.as_bytes(),
        _ => return Hops::Invalid,
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Hops::Invalid;
    }
    // More hops than can be counted are as many as can be.
    let hops: u64 = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX);
    let Some(left) = hops.checked_sub(1) else { return Hops::Spent };
    headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    Hops::Left
}

/// Makes a target's response headers those of the answer to the client.
pub fn for_client(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers, &look(headers));
}

/// `Connection: close`, in any of its lines.
pub fn says_close(headers: &HeaderMap) -> bool {
    let options = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    };
    headers.get_all(header::CONNECTION).iter().any(options)
}

/// Removes the hop-by-hop headers and those that `Connection` names.
fn strip_hop_by_hop(headers: &mut HeaderMap, found: &Found) {
    if found.connection {
        strip_named_by_connection(headers);
    }
    if found.transfer_encoding {
        headers.remove(header::TRANSFER_ENCODING);
    }
    if found.other_hop_by_hop {
        for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::UPGRADE] {
            headers.remove(name);
        }
    }
}

fn strip_named_by_connection(headers: &mut HeaderMap) {
    let Entry::Occupied(connection) = headers.entry(header::CONNECTION) else { return };
    if connection.iter().all(|value| is_option(value.as_bytes())) {
        connection.remove();
        return;
    }
    let (_, values) = connection.remove_entry_mult();
    let named: Vec<HeaderName> = values
        .flat_map(|value| {
            let names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            names
                .filter(|name| !is_option(name))
                .filter_map(|name| HeaderName::from_bytes(name).ok())
                .collect::<Vec<_>>()
        })
        .filter(|name| !is_kept(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Options of `Connection` that name no header, or one that is removed anyway.
fn is_option(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"close") || name.eq_ignore_ascii_case(b"keep-alive")
}

/// What no `Connection` header may take off a message: it would change what the message is.
fn is_kept(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::CONTENT_LENGTH)
}

/// `X-Forwarded-*` or `X-Real-IP`, also with underscores: servers behind CGI take one for the other.
pub(super) fn is_forwarding(name: &str) -> bool {
    begins(name, "x-forwarded-") || (begins(name, "x-real-ip") && name.len() == "x-real-ip".len())
}

/// What only Weir may say: that a request is a copy.
pub(super) fn is_mirror(name: &str) -> bool {
    name.len() == X_WEIR_MIRROR.as_str().len() && begins(name, X_WEIR_MIRROR.as_str())
}

fn begins(name: &str, with: &str) -> bool {
    let same = |(a, b): (u8, u8)| a == b || (a == b'_' && b == b'-');
    name.len() >= with.len() && name.bytes().zip(with.bytes()).all(same)
}

fn lists_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// What a client that is no trusted proxy says of earlier hops, or as if it were Weir, is not believed.
fn strip(headers: &mut HeaderMap, is_meant: fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn add_forwarding(headers: &mut HeaderMap, hop: &Hop) {
    if hop.trusted {
        append_to_list(headers, X_FORWARDED_FOR, hop.ip.clone());
        if !headers.contains_key(X_FORWARDED_PROTO) {
            headers.append(X_FORWARDED_PROTO, hop.scheme());
        }
        if headers.contains_key(X_FORWARDED_HOST) {
            return;
        }
    } else {
        headers.append(X_FORWARDED_FOR, hop.ip.clone());
        headers.append(X_FORWARDED_PROTO, hop.scheme());
    }
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.append(X_FORWARDED_HOST, host);
    }
}

/// Adds an element to a list header, in the last line of that name (RFC 9110 §5.3).
fn append_to_list(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(value);
        }
        Entry::Occupied(mut entry) => {
            let joined: Vec<u8> = {
                let lines: Vec<&[u8]> = entry.iter().map(HeaderValue::as_bytes).chain([value.as_bytes()]).collect();
                lines.join(&b", "[..])
            };
            // Joined from valid values; were it not, the list is left as the new element alone.
            entry.insert(HeaderValue::from_bytes(&joined).unwrap_or(value));
        }
    }
}

/// 128 random bits as 32 hexadecimal digits.
fn request_id(rng: &mut impl Rng) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut random: u128 = rng.random();
    let mut id = [0_u8; 32];
    for digit in &mut id {
        *digit = DIGITS[(random & 15) as usize];
        random >>= 4;
    }
    HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        headers
    }

    fn sent(lines: &[(&str, &str)], trusted: bool) -> HeaderMap {
        let mut headers = map(lines);
        let hop = Hop::new(IpAddr::from([192, 0, 2, 7]), false, trusted);
        for_target(&mut headers, &hop, None, &mut SmallRng::seed_from_u64(1));
        headers
    }

    fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
        headers.get_all(name).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn what_a_client_says_of_earlier_hops_is_not_believed() {
        let lines = [
            ("host", "shop"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded_host", "evil"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("x-request-id", "mine"),
            ("x-weir-mirror", "shop"),
            ("x-weir_mirror", "shop"),
        ];
        let headers = sent(&lines, false);
        assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.7"]);
        assert_eq!(values(&headers, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&headers, "x-forwarded-host"), ["shop"]);
        for gone in [
            "x-forwarded-port",
            "forwarded",
            "x-real-ip",
            "x_forwarded_for",
            "x-forwarded_host",
            "x-weir-mirror",
            "x-weir_mirror",
        ] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(values(&headers, "x-request-id")[0].len(), 32);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_continued() {
        let lines = [
            ("host", "inner"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "shop"),
            ("x-request-id", "theirs"),
            ("via", "1.1 edge"),
            ("x-weir-mirror", "shop"),
        ];
        let headers = sent(&lines, true);
        assert_eq!(values(&headers, "x-forwarded-for"), ["1.2.3.4, 10.0.0.1, 192.0.2.7"]);
        assert_eq!(values(&headers, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&headers, "x-forwarded-host"), ["shop"]);
        assert_eq!(values(&headers, "x-request-id"), ["theirs"]);
        assert_eq!(values(&headers, "via"), ["1.1 edge, 1.1 weir"]);
        assert_eq!(values(&headers, "x-weir-mirror"), ["shop"]);
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop() {
        let lines = [
            ("host", "shop"),
            ("connection", "close, X-Secret,, Host"),
            ("connection", "x-other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("accept", "*/*"),
        ];
        let headers = sent(&lines, false);
        for gone in
            ["connection", "x-secret", "x-other", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding"]
        {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(values(&headers, "te"), ["trailers"]);
        assert_eq!(values(&headers, "host"), ["shop"]);
        assert_eq!(values(&headers, "content-length"), ["5"]);
        assert_eq!(values(&headers, "accept"), ["*/*"]);
    }

    #[test]
    fn only_weir_says_who_the_client_is() {
        let reserved = [HeaderName::from_static("x-client-subject"), HeaderName::from_static("client-cert")];
        let forged = [("x-client-subject", "CN=a"), ("X-Client-Subject", "CN=b"), ("x_client-subject", "CN=c")];
        let mut headers = map(&[&forged[..], &[("client_cert", ":AA==:"), ("x-client", "kept")]].concat());
        identify(&mut headers, &reserved, None);
        assert_eq!(headers.len(), 1);
        let identity = [(reserved[0].clone(), HeaderValue::from_static("CN=real"))];
        let mut headers = map(&forged);
        identify(&mut headers, &reserved, Some(&identity));
        assert_eq!((headers.len(), values(&headers, "x-client-subject")), (1, vec!["CN=real".to_owned()]));
    }

    #[test]
    fn hops_are_counted_down_to_none() {
        for (lines, hops, left) in [
            (&[][..], Hops::Left, None),
            (&["5"], Hops::Left, Some("4")),
            (&["0001"], Hops::Left, Some("0")),
            (&["99999999999999999999999"], Hops::Left, Some("18446744073709551614")),
            (&["0"], Hops::Spent, Some("0")),
            (&["-1"], Hops::Invalid, Some("-1")),
            (&[""], Hops::Invalid, Some("")),
            (&["5", "5"], Hops::Invalid, Some("5")),
        ] {
            let lines: Vec<(&str, &str)> = lines.iter().map(|value| ("max-forwards", *value)).collect();
            let mut headers = map(&lines);
            assert_eq!(count_hop(&mut headers), hops, "{lines:?}");
            assert_eq!(values(&headers, "max-forwards").first().map(String::as_str), left, "{lines:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_fields_leave_one_address_and_one_id(names in proptest::collection::vec("[a-z-]{1,12}", 0..20), value in "[ -~]{0,40}") {
            let value = value.trim().to_owned();
            let lines: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
            let headers = sent(&lines, false);
            proptest::prop_assert_eq!(values(&headers, "x-forwarded-for"), ["192.0.2.7"]);
            proptest::prop_assert_eq!(values(&headers, "x-request-id").len(), 1);
            proptest::prop_assert!(!headers.contains_key("connection") && !headers.contains_key("keep-alive"));
        }
    }
}
