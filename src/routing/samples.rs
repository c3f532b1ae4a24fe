//! Random matches and requests for the tests of this room: few names and values, so that they meet.

use super::matcher::{HostMatch, PathMatch, RequestMatch};
use super::pattern::Pattern;
use super::rule::{Subject, Test};
use super::scheme::Scheme;
use super::table::RequestView;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::sync::LazyLock;

/// A request that owns its parts.
#[derive(Clone, Debug)]
pub struct Request {
    pub scheme: Scheme,
    pub host: Option<String>,
    pub path: String,
    pub query: Option<String>,
    pub method: Method,
    pub headers: HeaderMap,
}

impl Request {
    pub fn get(host: Option<&str>, path: &str) -> Request {
        let (host, path) = (host.map(str::to_owned), path.to_owned());
        Request { scheme: Scheme::Http, host, path, query: None, method: Method::GET, headers: HeaderMap::new() }
    }

    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            scheme: self.scheme,
            host: self.host.as_deref(),
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
            client_ip: [192, 0, 2, 7].into(),
        }
    }
}

pub fn header(name: &'static str, test: Test) -> (Subject, Test) {
    (Subject::Header(HeaderName::from_static(name)), test)
}

pub fn query(name: &str, test: Test) -> (Subject, Test) {
    (Subject::Query(name.to_owned()), test)
}

pub fn requests() -> impl Strategy<Value = Request> {
    let host = prop::option::weighted(0.9, "\\.?([abAB]\\.){0,3}[ab]?(:80)?");
    let path = prop_oneof![9 => paths(), 1 => Just("*".to_owned())];
    let query = prop::option::of("([qr](=[ab]{0,2})?&?){0,3}");
    let headers = prop::collection::vec((select(vec!["x", "y"]), select(vec!["", "a", "b", "ab", "\u{ff}b"])), 0..4);
    let drawn = (select(SCHEMES.to_vec()), host, path, query, select(METHODS.to_vec()), headers);
    drawn.prop_map(|(scheme, host, path, query, method, headers)| {
        let field = |(name, value): (&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let headers = headers.into_iter().map(field).collect();
        Request { scheme, host, path, query, method, headers }
    })
}

/// The matches of up to `most` routes; many have a host, a path or a condition from one before.
pub fn tables(most: usize) -> impl Strategy<Value = Vec<RequestMatch>> {
    let like = (any::<prop::sample::Index>(), any::<[bool; 5]>());
    prop::collection::vec((matches(), like), 0..most).prop_map(|drawn| {
        let mut matches: Vec<RequestMatch> = Vec::new();
        for (mut one, (like, [scheme, host, path, methods, conditions])) in drawn {
            if !matches.is_empty() {
                let like = like.get(&matches).clone();
                one.scheme = if scheme { like.scheme } else { one.scheme };
                one.host = if host { like.host } else { one.host };
                one.path = if path { like.path } else { one.path };
                one.methods = if methods { like.methods } else { one.methods };
                one.conditions = if conditions { like.conditions } else { one.conditions };
            }
            matches.push(one);
        }
        matches
    })
}

/// Of every kind of host and path, with and without conditions.
pub fn matches() -> impl Strategy<Value = RequestMatch> {
    let methods = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(METHODS.to_vec(), 1..=3)];
    let conditions = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(conditions(), 1..4)];
    let scheme = prop_oneof![2 => Just(None), 1 => select(SCHEMES.to_vec()).prop_map(Some)];
    (scheme, hosts(), path_matches(), methods, conditions).prop_map(|(scheme, host, path, methods, conditions)| {
        RequestMatch { scheme, host, path, methods, conditions }.normalised()
    })
}

const SCHEMES: [Scheme; 2] = [Scheme::Http, Scheme::Https];
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::PUT];
// Compiled once, since that takes longer than all else here.
static HOST_REGEXES: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let texts = ["", "a", "^a", r"\.b$", r"^(a|B)\.a$", r"^a\.b$", "^.*$", r"(a|b)\.a\.b$", r"^(a\.)+b$"];
    texts.map(|text| Pattern::caseless(text).unwrap()).into()
});
static PATH_REGEXES: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    let texts = ["", ".*", "^/", "^/a", "^/a/(.*)$", "b$", "^/(a|b)/?$", "^/.+$", "/a/b", "^/[ab]+$", r"^/a\b"];
    texts.map(|text| Pattern::new(text).unwrap()).into()
});
static VALUE_REGEXES: LazyLock<Vec<Pattern>> =
    LazyLock::new(|| ["", "^a", "b$", "^ab$", r"(?-u)\xff"].map(|text| Pattern::new(text).unwrap()).into());

fn hosts() -> impl Strategy<Value = HostMatch> {
    let name = "([abA]\\.){0,3}[ab]";
    prop_oneof![
        3 => name.prop_map(|name: String| HostMatch::parse(&name).unwrap()),
        2 => name.prop_map(|name: String| HostMatch::parse(&format!("*.{name}")).unwrap()),
        2 => select(HOST_REGEXES.as_slice()).prop_map(HostMatch::Regex),
        1 => Just(HostMatch::Any),
    ]
}

fn paths() -> impl Strategy<Value = String> {
    "/([ab]{0,2}/){0,3}[ab]{0,2}"
}

fn path_matches() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        2 => paths().prop_map(|path| PathMatch::prefix(&path).unwrap()),
        1 => Just(PathMatch::default()),
        2 => paths().prop_map(|path| PathMatch::exact(&path).unwrap()),
        2 => select(PATH_REGEXES.as_slice()).prop_map(PathMatch::Regex),
    ]
}

fn conditions() -> impl Strategy<Value = (Subject, Test)> {
    let subject = select(vec![
        Subject::Header(HeaderName::from_static("x")),
        Subject::Header(HeaderName::from_static("y")),
        Subject::Query("q".to_owned()),
        Subject::Query("r".to_owned()),
    ]);
    (subject, tests())
}

pub fn tests() -> impl Strategy<Value = Test> {
    let value = || select(vec!["", "a", "b", "ab"]).prop_map(str::to_owned);
    prop_oneof![
        any::<bool>().prop_map(Test::Present),
        value().prop_map(Test::Equals),
        prop::collection::vec(value(), 1..3).prop_map(Test::In),
        value().prop_map(Test::Prefix),
        value().prop_map(Test::Suffix),
        select(VALUE_REGEXES.as_slice()).prop_map(Test::Regex),
    ]
}
