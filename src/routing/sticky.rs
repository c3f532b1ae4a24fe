//! What a client is known by, and the bucket it falls into.
//!
//! A key tells clients apart and proves nothing: whoever sends one chooses it, a token's claim as much as a cookie.
//!
//! The hash is part of what users rely on: other proxies of a fleet, services behind the proxy and analysts
//! compute the same bucket. `docs/sticky.md` has the algorithm and the vectors that the tests here read.

mod jwt;

use super::split::Bucket;
use super::table::{ClientId, RequestView};
use crate::limits::STICKY_KEY_BYTES;
use http::HeaderMap;
use http::header::COOKIE;
use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Deref;
use std::time::Duration;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    Header(http::HeaderName),
    Cookie(String),
    Query(String),
    /// The client's IP address; every request has one.
    Ip,
    /// A claim of the bearer token's payload, by its name. The signature is not looked at.
    Jwt(String),
}

impl fmt::Display for KeySource {
    /// As it is written in the configuration: `header:x-user-id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Header(name) => write!(f, "header:{name}"),
            KeySource::Cookie(name) => write!(f, "cookie:{name}"),
            KeySource::Query(name) => write!(f, "query:{name}"),
            KeySource::Ip => f.write_str("ip"),
            KeySource::Jwt(claim) => write!(f, "jwt:{claim}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// An anonymous client id in this cookie, given to everybody who has none.
    Cookie {
        name: String,
        ttl: Duration,
    },
    Ip,
    Random,
}

/// How a route tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// In this order; the first that a request has is its key.
    pub keys: Vec<KeySource>,
    pub fallback: Fallback,
}

/// Which key decided a request's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFound {
    /// Index into [`Sticky::keys`].
    Listed(usize),
    /// The anonymous client id, from the request's cookie or new.
    ClientId,
    /// The client's IP address.
    Ip,
    /// None: a random bucket.
    Random,
}

/// A request's place in a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub bucket: Bucket,
    pub key: KeyFound,
    /// The client has no anonymous id yet and was placed by this one.
    pub new_client_id: Option<ClientId>,
}

impl Place {
    /// The place of a request without any key.
    pub fn random(rng: &mut (impl rand::Rng + ?Sized)) -> Place {
        Place { bucket: Bucket::of(rng.next_u64()), key: KeyFound::Random, new_client_id: None }
    }
}

impl Sticky {
    /// The bucket of a request's key, or of what the fallback gives it; `salt` is the route's.
    pub fn place(&self, salt: &str, request: &RequestView<'_>, rng: &mut (impl rand::Rng + ?Sized)) -> Place {
        if let Some((index, key)) = self.listed_key(request) {
            return Place { bucket: bucket_of(salt, &key), key: KeyFound::Listed(index), new_client_id: None };
        }
        match &self.fallback {
            Fallback::Cookie { name, .. } => {
                let key = KeyFound::ClientId;
                if let Some(id) = client_id(request.headers, name) {
                    return Place { bucket: bucket_of(salt, id), key, new_client_id: None };
                }
                let id = ClientId::new(rng);
                Place { bucket: bucket_of(salt, &id.to_hex()), key, new_client_id: Some(id) }
            }
            Fallback::Ip => {
                let bucket = bucket_of(salt, &IpText::of(request.client_ip));
                Place { bucket, key: KeyFound::Ip, new_client_id: None }
            }
            Fallback::Random => Place::random(rng),
        }
    }

    /// The anonymous id for a client that a rule forced: it has no bucket, but gets its cookie like everybody.
    pub fn new_client_id(&self, request: &RequestView<'_>, rng: &mut (impl rand::Rng + ?Sized)) -> Option<ClientId> {
        let Fallback::Cookie { name, .. } = &self.fallback else { return None };
        let known = self.listed_key(request).is_some() || client_id(request.headers, name).is_some();
        (!known).then(|| ClientId::new(rng))
    }

    fn listed_key<'r>(&self, request: &RequestView<'r>) -> Option<(usize, Key<'r>)> {
        self.keys.iter().enumerate().find_map(|(index, source)| Some((index, source.key(request)?)))
    }
}

impl KeySource {
    /// What a request has as this key. A header's, cookie's or parameter's value is as sent, not decoded; an address
    /// is the text of [`IpAddr::to_canonical`]: one of IPv4 that came in over IPv6 is the same client. A value that
    /// is empty or longer than [`STICKY_KEY_BYTES`] counts as absent.
    pub fn key<'r>(&self, request: &RequestView<'r>) -> Option<Key<'r>> {
        let usable = |value: &&[u8]| !value.is_empty() && value.len() <= STICKY_KEY_BYTES;
        let sent = match self {
            KeySource::Header(name) => request.headers.get_all(name).iter().map(|value| value.as_bytes()).find(usable),
            KeySource::Cookie(name) => cookie_value(request.headers, name).filter(usable),
            KeySource::Query(name) => query_value(request.query, name).filter(usable),
            KeySource::Ip => return Some(Key::Ip(IpText::of(request.client_ip))),
            KeySource::Jwt(claim) => {
                let value = jwt::claim(request.headers, claim)?;
                return usable(&value.as_slice()).then(|| Key::Value(value.into()));
            }
        };
        sent.map(|value| Key::Value(value.into()))
    }
}

/// What a client is known by, as bytes.
#[derive(Clone, Debug)]
pub enum Key<'r> {
    Value(Cow<'r, [u8]>),
    Ip(IpText),
}

impl Deref for Key<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Key::Value(value) => value,
            Key::Ip(text) => text,
        }
    }
}

/// An address in its shortest text form, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct IpText {
    text: [u8; IP_BYTES],
    length: usize,
}

/// The longest text of an address.
const IP_BYTES: usize = 45;

impl IpText {
    pub fn of(ip: IpAddr) -> IpText {
        let mut text = [0; IP_BYTES];
        let mut rest = &mut text[..];
        write!(rest, "{}", ip.to_canonical()).expect("an IP address has at most 45 characters");
        let length = IP_BYTES - rest.len();
        IpText { text, length }
    }
}

impl Deref for IpText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

/// XXH3-64 with seed 0 of the salt, a zero byte and the key; modulo 100,000.
pub fn bucket_of(salt: &str, key: &[u8]) -> Bucket {
    Bucket::of(sticky_hash(salt, key))
}

/// The value of the first cookie of exactly this name, over all `Cookie` fields, as sent, without the double
/// quotes around it. Any byte may occur in it.
///
/// Searched for, and not taken apart as [`cookie_pairs`] does: a browser's cookies are many and long.
pub fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(COOKIE).iter().find_map(|field| {
        let field = field.as_bytes();
        first_in_parts(field, name.as_bytes(), b';').find_map(|at| {
            let value = field[at + name.len()..].strip_prefix(b"=")?;
            let before = field[..at].trim_ascii_end();
            (before.is_empty() || before.ends_with(b";")).then(|| unquoted(part(value, b';')))
        })
    })
}

/// All cookies by name, as [`cookie_value`] reads them; what has no `=` is none.
pub fn cookie_pairs(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(|pair| split_at_equals(pair.trim_ascii()).map(|(name, value)| (name, unquoted(value))))
}

/// The value of the first parameter of exactly this name, as sent, not decoded; empty for a name without `=`.
pub fn query_value<'r>(query: Option<&'r str>, name: &str) -> Option<&'r [u8]> {
    let query = query?.as_bytes();
    first_in_parts(query, name.as_bytes(), b'&').find_map(|at| {
        let begins = at == 0 || query[at - 1] == b'&';
        let after = &query[at + name.len()..];
        match after.split_first() {
            _ if !begins => None,
            None | Some((b'&', _)) => Some(&b""[..]),
            Some((b'=', value)) => Some(part(value, b'&')),
            Some(_) => None,
        }
    })
}

/// All parameters by name, as [`query_value`] reads them.
pub fn query_pairs(query: Option<&str>) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = query.into_iter().flat_map(|query| query.as_bytes().split(|&byte| byte == b'&'));
    pairs.map(|pair| split_at_equals(pair).unwrap_or((pair, b"")))
}

/// The longest anonymous client id that is taken from a cookie, in bytes; Weir's own have 32.
const CLIENT_ID_BYTES: usize = 256;

/// Whatever the cookie holds: an id that another system gave out serves as well as our own.
fn client_id<'h>(headers: &'h HeaderMap, cookie: &str) -> Option<&'h [u8]> {
    cookie_value(headers, cookie).filter(|id| !id.is_empty() && id.len() <= CLIENT_ID_BYTES)
}

/// XXH3 is fastest on one slice, so short inputs are put together on the stack.
fn sticky_hash(salt: &str, key: &[u8]) -> u64 {
    let (middle, length) = (salt.len(), salt.len() + 1 + key.len());
    let mut whole = [0; 240];
    match whole.get_mut(..length) {
        Some(whole) => {
            whole[..middle].copy_from_slice(salt.as_bytes());
            whole[middle + 1..].copy_from_slice(key);
            xxh3_64(whole)
        }
        None => {
            let mut hasher = Xxh3Default::new();
            hasher.update(salt.as_bytes());
            hasher.update(&[0]);
            hasher.update(key);
            hasher.digest()
        }
    }
}

/// Where `name` first stands in each of the parts that have it. What a part begins with is nowhere before in it.
fn first_in_parts<'t>(text: &'t [u8], name: &'t [u8], separator: u8) -> impl Iterator<Item = usize> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + memchr::memmem::find(text.get(from..)?, name)?;
        from = memchr::memchr(separator, &text[at..]).map_or(usize::MAX, |end| at + end + 1);
        Some(at)
    })
}

/// What comes before the separator.
fn part(text: &[u8], separator: u8) -> &[u8] {
    &text[..memchr::memchr(separator, text).unwrap_or(text.len())]
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

fn split_at_equals(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', pair)?;
    Some((&pair[..at], &pair[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::scheme::Scheme;
    use http::{HeaderValue, Method};
    use proptest::prelude::*;
    use proptest::sample::select;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn request<'r>(headers: &'r HeaderMap, query: Option<&'r str>) -> RequestView<'r> {
        let client_ip = IpAddr::from([192, 0, 2, 7]);
        RequestView { scheme: Scheme::Http, host: None, path: "/", query, method: &Method::GET, headers, client_ip }
    }

    fn sticky(fallback: Fallback) -> Sticky {
        let keys = vec![
            KeySource::Header(http::HeaderName::from_static("x-user-id")),
            KeySource::Cookie("uid".to_owned()),
            KeySource::Query("uid".to_owned()),
        ];
        Sticky { keys, fallback }
    }

    fn anonymous() -> Sticky {
        sticky(Fallback::Cookie { name: "weir_shop".to_owned(), ttl: Duration::from_secs(86_400) })
    }

    /// The lines of the document's table: | `salt` | `key` | `hash` | bucket |
    fn documented_vectors() -> Vec<(&'static str, &'static str, u64, u32)> {
        let document = include_str!("../../docs/sticky.md");
        let (_, section) = document.split_once("## Test vectors").expect("the document has test vectors");
        let (section, _) = section.split_once("### Tokens").expect("tokens come after");
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
        let rows = cells.map(|line| {
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [salt, key, hash, bucket] = cells[..] else { panic!("not a vector: {line}") };
            (salt, key, u64::from_str_radix(hash, 16).unwrap(), bucket.parse().unwrap())
        });
        rows.collect()
    }

    #[test]
    fn hashes_and_buckets_are_the_documented_ones() {
        let vectors = documented_vectors();
        assert!(vectors.len() >= 12, "{} vectors", vectors.len());
        for (salt, key, hash, bucket) in vectors {
            assert_eq!(sticky_hash(salt, key.as_bytes()), hash, "{salt} {key}");
            assert_eq!(bucket_of(salt, key.as_bytes()).index(), bucket, "{salt} {key}");
        }
    }

    #[test]
    fn tokens_have_the_documented_keys() {
        let document = include_str!("../../docs/sticky.md");
        let (_, section) = document.split_once("### Tokens").expect("the document has tokens");
        let mut seen = 0;
        for line in section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let [token, claim, key, bucket] = cells[..] else { panic!("not a vector: {line}") };
            let headers = headers(&[("authorization", format!("Bearer {token}").as_bytes())]);
            let found = KeySource::Jwt(claim.to_owned()).key(&request(&headers, None));
            let found = found.map(|key| (key.to_vec(), bucket_of("shop", &key).index().to_string()));
            let expected = (key != "none").then(|| (key.as_bytes().to_vec(), bucket.to_owned()));
            assert_eq!(found, expected, "{token}");
            seen += 1;
        }
        assert!(seen >= 7, "{seen} tokens");
    }

    #[test]
    fn long_keys_hash_like_short_ones() {
        let key = vec![b'k'; STICKY_KEY_BYTES];
        for length in (0..600).chain([STICKY_KEY_BYTES]) {
            let whole = [b"shop\0", &key[..length]].concat();
            assert_eq!(sticky_hash("shop", &key[..length]), xxh3_64(&whole), "{length}");
        }
    }

    #[test]
    fn cookies_are_found_by_exact_name() {
        let headers = headers(&[
            ("cookie", b"xab_test=1; ab_testx=2;ab_test=\"3\" ; ab_test=4; flag; a=b=c; q=\"; e="),
            ("cookie", b"late=\xe4\xff; ab_test=5;; =x"),
        ]);
        for (name, value) in [
            ("ab_test", Some(&b"3"[..])),
            ("xab_test", Some(b"1")),
            ("late", Some(b"\xe4\xff")),
            ("a", Some(b"b=c")),
            ("q", Some(b"\"")),
            ("e", Some(b"")),
            ("flag", None),
            ("test", None),
            ("AB_TEST", None),
        ] {
            assert_eq!(cookie_value(&headers, name), value, "{name}");
        }
        assert_eq!(cookie_value(&HeaderMap::new(), "ab_test"), None);
    }

    #[test]
    fn query_parameters_are_found_by_exact_name() {
        let query = Some("xuid=1&uid=a%20b&uid=2&flag&e=");
        assert_eq!(query_value(query, "uid"), Some(&b"a%20b"[..]));
        assert_eq!(query_value(query, "flag"), Some(&b""[..]));
        assert_eq!(query_value(query, "e"), Some(&b""[..]));
        assert_eq!(query_value(query, "id"), None);
        assert_eq!(query_value(None, "uid"), None);
    }

    proptest! {
        #[test]
        fn a_search_finds_what_taking_apart_finds(
            fields in prop::collection::vec(prop::collection::vec(select(b"ab=;& \"\t\xff".to_vec()), 0..24), 0..3),
            name in select(vec!["a", "b", "ab", "aa", "aba"]),
        ) {
            let fields: Vec<(&'static str, &[u8])> = fields.iter().map(|field| ("cookie", field.trim_ascii())).collect();
            let headers = headers(&fields);
            let taken_apart = cookie_pairs(&headers).find(|(cookie, _)| *cookie == name.as_bytes());
            prop_assert_eq!(cookie_value(&headers, name), taken_apart.map(|(_, value)| value));
            let query = fields.first().map(|(_, field)| String::from_utf8_lossy(field).into_owned());
            let taken_apart = query_pairs(query.as_deref()).find(|(parameter, _)| *parameter == name.as_bytes());
            prop_assert_eq!(query_value(query.as_deref(), name), taken_apart.map(|(_, value)| value));
        }
    }

    #[test]
    fn keys_are_what_a_request_says() {
        let token = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1MSJ9.x";
        let empty = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIifQ.x";
        let claim = |headers: &HeaderMap, name: &str| {
            KeySource::Jwt(name.to_owned()).key(&request(headers, None)).map(|key| key.to_vec())
        };
        assert_eq!(claim(&headers(&[("authorization", token.as_bytes())]), "sub").as_deref(), Some(&b"u1"[..]));
        assert_eq!(claim(&headers(&[("authorization", token.as_bytes())]), "iss"), None);
        assert_eq!(claim(&headers(&[("authorization", empty.as_bytes())]), "sub"), None);
        assert_eq!(claim(&HeaderMap::new(), "sub"), None);
        let none = HeaderMap::new();
        assert_eq!(&*KeySource::Ip.key(&request(&none, None)).unwrap(), b"192.0.2.7");
        let keys = vec![KeySource::Jwt("sub".to_owned()), KeySource::Ip];
        let sticky = Sticky { keys, fallback: Fallback::Random };
        let place = sticky.place("shop", &request(&none, None), &mut StdRng::seed_from_u64(1));
        assert_eq!((place.bucket, place.key), (bucket_of("shop", b"192.0.2.7"), KeyFound::Listed(1)));
    }

    #[test]
    fn first_listed_key_with_a_value_wins() {
        let rng = &mut StdRng::seed_from_u64(1);
        let long = vec![b'x'; STICKY_KEY_BYTES + 1];
        let longest = &long[1..];
        for (fields, query, found, key) in [
            (&[("x-user-id", &b"u1"[..]), ("cookie", b"uid=u2")][..], Some("uid=u3"), 0, &b"u1"[..]),
            (&[("x-user-id", b""), ("x-user-id", b"u1")], None, 0, b"u1"),
            (&[("x-user-id", b""), ("cookie", b"uid=u2")], Some("uid=u3"), 1, b"u2"),
            (&[("x-user-id", &long), ("cookie", b"uid=")], Some("uid=u3"), 2, b"u3"),
            (&[("x-user-id", longest)], None, 0, longest),
        ] {
            let headers = headers(fields);
            let place = anonymous().place("shop", &request(&headers, query), rng);
            let expected = Place { bucket: bucket_of("shop", key), key: KeyFound::Listed(found), new_client_id: None };
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn first_and_next_anonymous_request_agree() {
        let rng = &mut StdRng::seed_from_u64(2);
        let none = HeaderMap::new();
        for _ in 0..1_000 {
            let first = anonymous().place("shop", &request(&none, None), rng);
            let id = first.new_client_id.expect("a client without cookie gets an id");
            let cookie = [b"weir_shop=", &id.to_hex()[..]].concat();
            let next = anonymous().place("shop", &request(&headers(&[("cookie", &cookie)]), None), rng);
            assert_eq!(next, Place { new_client_id: None, ..first });
        }
    }

    #[test]
    fn any_short_cookie_is_an_id_and_a_long_or_empty_one_is_replaced() {
        let rng = &mut StdRng::seed_from_u64(3);
        for (value, kept) in [(vec![b'x'; 256], true), (vec![b'x'; 257], false), (vec![], false)] {
            let headers = headers(&[("cookie", &[b"weir_shop=", &value[..]].concat())]);
            let request = request(&headers, None);
            let place = anonymous().place("shop", &request, rng);
            assert_eq!(place.key, KeyFound::ClientId);
            assert_eq!(place.new_client_id.is_none(), kept);
            assert_eq!(place.bucket == bucket_of("shop", &value), kept);
            assert_eq!(anonymous().new_client_id(&request, rng).is_none(), kept);
        }
        let known = headers(&[("x-user-id", b"u1")]);
        assert_eq!(anonymous().new_client_id(&request(&known, None), rng), None);
    }

    #[test]
    fn addresses_are_hashed_in_canonical_form() {
        let rng = &mut StdRng::seed_from_u64(4);
        let none = HeaderMap::new();
        for (ip, text) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:DB8:0::7", "2001:db8::7"),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let request = RequestView { client_ip: ip.parse().unwrap(), ..request(&none, None) };
            let place = sticky(Fallback::Ip).place("shop", &request, rng);
            assert_eq!((place.bucket, place.key), (bucket_of("shop", text.as_bytes()), KeyFound::Ip));
        }
    }

    #[test]
    fn random_fallback_sets_no_cookie_and_spreads() {
        let rng = &mut StdRng::seed_from_u64(5);
        let none = HeaderMap::new();
        let mut buckets = std::collections::HashSet::new();
        for _ in 0..100 {
            let place = sticky(Fallback::Random).place("shop", &request(&none, None), rng);
            assert_eq!((place.key, place.new_client_id), (KeyFound::Random, None));
            buckets.insert(place.bucket.index());
        }
        assert!(buckets.len() > 95);
    }
}
