//! What requests a route takes, and which route wins when several do.
//!
//! The plain definition is here: [`RequestMatch::takes`] and [`RequestMatch::precedence`]. The table's index
//! gives the same answer without asking every route; a test holds the two against each other.
//!
//! Paths are compared as sent. `..`, `//` and `%2f` mean what the servers behind the route say they mean; a
//! proxy that rewrites or decodes them for its own decision and sends on the original is a way around its rules.

use super::pattern::Pattern;
use super::redact::{Open, Redact};
use super::rule::{Subject, Test};
use super::scheme::Scheme;
use super::table::RequestView;
use http::Method;
use std::fmt;
use std::io::Write;
use std::net::Ipv6Addr;

/// Host names are lower case, without port and trailing dot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// Also a request that names no host.
    #[default]
    Any,
    Exact(String),
    /// `*.example.com` as `example.com`: any name that ends in `.example.com`.
    Wildcard(String),
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// On segment borders, without the trailing slash: `/v1` matches `/v1` and `/v1/x`, not `/v10`; `""` matches all.
    Prefix(String),
    Exact(String),
    Regex(Pattern),
}

/// The default takes every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RequestMatch {
    /// None: either.
    pub scheme: Option<Scheme>,
    pub host: HostMatch,
    pub path: PathMatch,
    /// Any of these; none: every method.
    pub methods: Vec<Method>,
    /// All of these, on headers and query parameters.
    pub conditions: Vec<(Subject, Test)>,
}

/// How specific a match is: the greater one wins; on a tie the first in the file.
///
/// The order is that of the fields: a comparison looks at the next one when all before are equal. But for the scheme
/// it is the order of the Gateway API's `HTTPRouteRule`, which leaves the place of regular expressions open. There a
/// listener is chosen first and its routes compete among themselves; so here a route for one scheme comes before all
/// that are for both, and one redirect to https takes all that comes by http, however specific other routes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    /// Whether it is for one scheme only.
    scheme: bool,
    host: HostPrecedence,
    path: PathPrecedence,
    /// Whether there is a condition on the method.
    method: bool,
    /// Conditions on headers.
    headers: usize,
    /// Conditions on query parameters.
    queries: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum HostPrecedence {
    Any,
    Regex,
    /// The suffix's length in bytes.
    Wildcard(usize),
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathPrecedence {
    /// The prefix's length in bytes.
    Prefix(usize),
    Regex,
    Exact,
}

/// Why a route does not take a request: the first reason, in the order of [`RequestMatch`]'s fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss<'m> {
    Scheme(Scheme),
    Host(&'m HostMatch),
    Path(&'m PathMatch),
    Method(&'m [Method]),
    Condition(&'m Subject, &'m Test),
}

/// Why a `host` cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("host {0:?} has a port; a route's host is a name without one")]
    Port(String),
    #[error("host {0:?}: \"*\" stands alone or for the first labels, as in \"*.example.com\"")]
    Star(String),
    #[error("host {host:?} has the character {character:?}; a name in another script is written in its xn-- form")]
    Character { host: String, character: char },
    #[error("host {0:?} has an empty label, or one of more than 63 bytes")]
    Label(String),
    #[error("host {0:?} is longer than 253 bytes")]
    Long(String),
    #[error("host {0:?} is not an IPv6 address in brackets")]
    Ipv6(String),
}

/// Why a `path` cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path {0:?} does not start with \"/\"")]
    Relative(String),
    #[error("path {path:?} has the character {character:?}, which the path of a request cannot have")]
    Character { path: String, character: char },
}

impl HostMatch {
    /// From the configuration: `""` and `"*"` are any host, `"*.x"` the names under x, otherwise one name or address.
    pub fn parse(host: &str) -> Result<HostMatch, HostError> {
        let lower = host.to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            _ if lower.is_empty() || lower == "*" => Ok(HostMatch::Any),
            Some(suffix) => Ok(HostMatch::Wildcard(checked_name(suffix, host)?)),
            None => Ok(HostMatch::Exact(match lower.strip_prefix('[') {
                Some(bracketed) => checked_ipv6(bracketed, host)?,
                None => checked_name(&lower, host)?,
            })),
        }
    }

    /// `name` as [`host_name`] gives it; None when the request names no host that can be matched.
    pub(super) fn takes(&self, name: Option<&[u8]>) -> bool {
        match self {
            HostMatch::Any => true,
            HostMatch::Exact(exact) => name == Some(exact.as_bytes()),
            HostMatch::Wildcard(suffix) => {
                name.and_then(|name| name.strip_suffix(suffix.as_bytes())).is_some_and(|front| front.ends_with(b"."))
            }
            HostMatch::Regex(pattern) => name.is_some_and(|name| pattern.is_match(name)),
        }
    }
}

impl Default for PathMatch {
    /// Every path.
    fn default() -> PathMatch {
        PathMatch::Prefix(String::new())
    }
}

impl PathMatch {
    /// `/v1` and `/v1/` are the same prefix; `/` takes every request, also `OPTIONS *`.
    pub fn prefix(path: &str) -> Result<PathMatch, PathError> {
        let path = checked_path(path)?;
        Ok(PathMatch::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned()))
    }

    /// The whole path, without the query; a trailing slash counts.
    pub fn exact(path: &str) -> Result<PathMatch, PathError> {
        Ok(PathMatch::Exact(checked_path(path)?.to_owned()))
    }

    pub fn takes(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => path == exact,
            PathMatch::Prefix(prefix) if prefix.is_empty() => true,
            PathMatch::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::Regex(pattern) => pattern.is_match(path.as_bytes()),
        }
    }
}

impl RequestMatch {
    /// Whether the route takes the request.
    pub fn takes(&self, request: &RequestView<'_>) -> bool {
        self.misses(request).is_none()
    }

    /// Why the route does not take the request; None when it does.
    pub fn misses(&self, request: &RequestView<'_>) -> Option<Miss<'_>> {
        let mut scratch = HostScratch::default();
        let name = request.host.and_then(|host| host_name(host, &mut scratch));
        self.misses_named(name, request)
    }

    /// As [`RequestMatch::misses`], for whoever has the request's [`host_name`] already.
    pub fn misses_named(&self, name: Option<&[u8]>, request: &RequestView<'_>) -> Option<Miss<'_>> {
        if let Some(scheme) = self.scheme.filter(|scheme| *scheme != request.scheme) {
            return Some(Miss::Scheme(scheme));
        }
        if !self.host.takes(name) {
            return Some(Miss::Host(&self.host));
        }
        if !self.path.takes(request.path) {
            return Some(Miss::Path(&self.path));
        }
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Some(Miss::Method(&self.methods));
        }
        let failed = self.conditions.iter().find(|(subject, test)| !subject.passes(request, test));
        failed.map(|(subject, test)| Miss::Condition(subject, test))
    }

    pub fn precedence(&self) -> Precedence {
        let host = match &self.host {
            HostMatch::Any => HostPrecedence::Any,
            HostMatch::Regex(_) => HostPrecedence::Regex,
            HostMatch::Wildcard(suffix) => HostPrecedence::Wildcard(suffix.len()),
            HostMatch::Exact(_) => HostPrecedence::Exact,
        };
        let path = match &self.path {
            PathMatch::Prefix(prefix) => PathPrecedence::Prefix(prefix.len()),
            PathMatch::Regex(_) => PathPrecedence::Regex,
            PathMatch::Exact(_) => PathPrecedence::Exact,
        };
        let headers = self.conditions.iter().filter(|(subject, _)| matches!(subject, Subject::Header(_))).count();
        let queries = self.conditions.len() - headers;
        let (scheme, method) = (self.scheme.is_some(), !self.methods.is_empty());
        Precedence { scheme, host, path, method, headers, queries }
    }

    /// The same requests, written in one way: methods and conditions in an order of their own, each once.
    pub fn normalised(mut self) -> RequestMatch {
        self.methods.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        self.methods.dedup();
        // Headers before query parameters, by the first letter.
        self.conditions.sort_by_cached_key(|(subject, test)| (subject.told(&Open), test.told(&Open)));
        self.conditions.dedup();
        self
    }
}

impl Miss<'_> {
    /// For people: `the path is not under /v1`.
    pub fn told(&self, redact: &dyn Redact) -> String {
        match self {
            Miss::Scheme(scheme) => format!("the scheme is not {}", scheme.name()),
            Miss::Host(host @ HostMatch::Regex(_)) => format!("the host does not match {}", host.told(redact)),
            Miss::Host(host) => format!("the host is not {}", host.told(redact)),
            Miss::Path(PathMatch::Prefix(prefix)) => format!("the path is not under {}", redact.shown(prefix)),
            Miss::Path(PathMatch::Exact(exact)) => format!("the path is not {}", redact.shown(exact)),
            Miss::Path(PathMatch::Regex(pattern)) => {
                format!("the path does not match {}", redact.shown(pattern.as_str()))
            }
            Miss::Method(methods) => format!("the method is not {}", any_of(methods, redact)),
            Miss::Condition(subject, test) => {
                format!("{} does not pass {}", subject.told(redact), test.told(redact))
            }
        }
    }
}

/// `GET or HEAD`.
pub(super) fn any_of(methods: &[Method], redact: &dyn Redact) -> String {
    methods.iter().map(|method| redact.shown(method.as_str())).collect::<Vec<_>>().join(" or ")
}

impl HostMatch {
    /// For people: as it is written in the configuration.
    pub fn told(&self, redact: &dyn Redact) -> String {
        match self {
            HostMatch::Regex(pattern) => redact.shown(pattern.as_str()).to_owned(),
            host => redact.shown(&host.to_string()).to_owned(),
        }
    }
}

impl fmt::Display for HostMatch {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostMatch::Any => f.write_str("*"),
            HostMatch::Exact(name) => f.write_str(name),
            HostMatch::Wildcard(suffix) => write!(f, "*.{suffix}"),
            HostMatch::Regex(pattern) => write!(f, "{pattern}"),
        }
    }
}

/// The longest host name, by DNS; a longer one in a request is matched by [`HostMatch::Any`] only.
const HOST_BYTES: usize = 253;

/// Room for a host name that must be rewritten to be compared.
pub struct HostScratch([u8; HOST_BYTES]);

impl Default for HostScratch {
    fn default() -> HostScratch {
        HostScratch([0; HOST_BYTES])
    }
}

/// A request's host as matches hold it: without port and trailing dot, lower case, an IPv6 address in its
/// shortest form. Borrows from the request unless something must be rewritten; never allocates.
pub fn host_name<'h>(host: &'h str, scratch: &'h mut HostScratch) -> Option<&'h [u8]> {
    if let Some(bracketed) = host.strip_prefix('[') {
        let address: Ipv6Addr = bracketed.split(']').next()?.parse().ok()?;
        let mut rest = &mut scratch.0[..];
        write!(rest, "[{address}]").ok()?;
        let length = HOST_BYTES - rest.len();
        return Some(&scratch.0[..length]);
    }
    let name = host.as_bytes().split(|&byte| byte == b':').next()?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.len() > HOST_BYTES {
        return None;
    }
    if !name.iter().any(u8::is_ascii_uppercase) {
        return Some(name);
    }
    let lower = &mut scratch.0[..name.len()];
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// `name` is lower case, what is left of `host` after a wildcard.
fn checked_name(name: &str, host: &str) -> Result<String, HostError> {
    let host = || host.to_owned();
    if name.contains('*') {
        return Err(HostError::Star(host()));
    }
    if let Some((_, port)) = name.split_once(':') {
        let several_colons = port.contains(':');
        return Err(if several_colons { HostError::Ipv6(host()) } else { HostError::Port(host()) });
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(character) = name.chars().find(|&c| !allowed(c)) {
        return Err(HostError::Character { host: host(), character });
    }
    if name.len() > HOST_BYTES {
        return Err(HostError::Long(host()));
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err(HostError::Label(host()));
    }
    Ok(name.to_owned())
}

fn checked_ipv6(bracketed: &str, host: &str) -> Result<String, HostError> {
    let (address, after) = bracketed.split_once(']').ok_or_else(|| HostError::Ipv6(host.to_owned()))?;
    if after.starts_with(':') {
        return Err(HostError::Port(host.to_owned()));
    }
    match address.parse::<Ipv6Addr>() {
        Ok(address) if after.is_empty() => Ok(format!("[{address}]")),
        _ => Err(HostError::Ipv6(host.to_owned())),
    }
}

fn checked_path(path: &str) -> Result<&str, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative(path.to_owned()));
    }
    match path.chars().find(|&c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#')) {
        Some(character) => Err(PathError::Character { path: path.to_owned(), character }),
        None => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(name: &str) -> Result<HostMatch, HostError> {
        Ok(HostMatch::Exact(name.to_owned()))
    }

    #[test]
    fn hosts_are_normalised() {
        assert_eq!(HostMatch::parse(""), Ok(HostMatch::Any));
        assert_eq!(HostMatch::parse("*"), Ok(HostMatch::Any));
        assert_eq!(HostMatch::parse("Shop.Example.COM."), exact("shop.example.com"));
        assert_eq!(HostMatch::parse("*.Example.com"), Ok(HostMatch::Wildcard("example.com".to_owned())));
        assert_eq!(HostMatch::parse("10.0.0.1"), exact("10.0.0.1"));
        assert_eq!(HostMatch::parse("[0:0::1]"), exact("[::1]"));
        assert_eq!(HostMatch::parse("my_host"), exact("my_host"));
        assert_eq!(HostMatch::parse("*.Example.com").unwrap().to_string(), "*.example.com");
    }

    #[test]
    fn hosts_that_no_request_can_have_are_refused() {
        let long = ["a"; 128].join(".");
        for (host, part) in [
            ("shop:8080", "has a port"),
            ("[::1]:8080", "has a port"),
            ("::1", "in brackets"),
            ("[::1", "in brackets"),
            ("[::1]x", "in brackets"),
            ("[nonsense]", "in brackets"),
            ("shop.*.com", "stands alone"),
            ("*shop.com", "stands alone"),
            ("*.*.com", "stands alone"),
            ("*.", "empty label"),
            (".", "empty label"),
            ("a..b", "empty label"),
            (&"a".repeat(64), "63 bytes"),
            (&long, "253 bytes"),
            ("shop/x", "character '/'"),
            ("süß.de", "xn--"),
        ] {
            let error = HostMatch::parse(host).unwrap_err().to_string();
            assert!(error.contains(part), "{host}: {error}");
        }
    }

    #[test]
    fn request_hosts_are_compared_as_matches_hold_them() {
        let upper = format!("{}.example.com", "A".repeat(300));
        for (sent, name) in [
            ("shop.localhost", Some("shop.localhost")),
            ("shop.localhost:8080", Some("shop.localhost")),
            ("Shop.LOCALHOST.:8080", Some("shop.localhost")),
            ("[::1]:8080", Some("[::1]")),
            ("[0:0:0::1]", Some("[::1]")),
            ("[FE80::A]", Some("[fe80::a]")),
            ("[nonsense]", None),
            ("[", None),
            ("", None),
            (":80", None),
            (".", None),
            (&upper, None),
            (&upper.to_ascii_lowercase(), None),
        ] {
            assert_eq!(host_name(sent, &mut HostScratch::default()), name.map(str::as_bytes), "{sent}");
        }
    }

    #[test]
    fn prefixes_end_on_segment_borders() {
        let prefix = PathMatch::prefix("/v1/").unwrap();
        assert_eq!(prefix, PathMatch::Prefix("/v1".to_owned()));
        for (path, takes) in [("/v1", true), ("/v1/", true), ("/v1/x", true), ("/v10", false), ("/v", false)] {
            assert_eq!(prefix.takes(path), takes, "{path}");
        }
        let all = PathMatch::prefix("/").unwrap();
        assert!(all.takes("/") && all.takes("/x") && all.takes("*") && all.takes(""));
        let exact = PathMatch::exact("/v1/").unwrap();
        assert!(exact.takes("/v1/") && !exact.takes("/v1"));
    }

    #[test]
    fn paths_that_no_request_can_have_are_refused() {
        assert_eq!(PathMatch::prefix(""), Err(PathError::Relative(String::new())));
        assert_eq!(PathMatch::exact("v1"), Err(PathError::Relative("v1".to_owned())));
        let query = PathError::Character { path: "/v1?a=b".to_owned(), character: '?' };
        assert_eq!(PathMatch::prefix("/v1?a=b"), Err(query));
        assert!(PathMatch::exact("/a b").is_err());
    }

    fn regex(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    fn header(name: &str, test: Test) -> (Subject, Test) {
        (Subject::Header(name.parse().unwrap()), test)
    }

    fn query(name: &str, test: Test) -> (Subject, Test) {
        (Subject::Query(name.to_owned()), test)
    }

    fn is(value: &str) -> Test {
        Test::Equals(value.to_owned())
    }

    fn matching(host: HostMatch, path: PathMatch, methods: &[Method], conditions: &[(Subject, Test)]) -> RequestMatch {
        RequestMatch { scheme: None, host, path, methods: methods.into(), conditions: conditions.into() }
    }

    #[test]
    fn precedence_is_the_order_of_the_fields() {
        let (host, prefix, exact) = (
            |host: &str| HostMatch::parse(host).unwrap(),
            |path: &str| PathMatch::prefix(path).unwrap(),
            |path: &str| PathMatch::exact(path).unwrap(),
        );
        let (any, a) = (HostMatch::Any, || host("a.example.com"));
        let two = [header("x", is("1")), header("y", is("1"))];
        let all = [&two[..], &[query("q", is("1"))]].concat();
        let ascending = [
            matching(any.clone(), prefix("/"), &[], &[]),
            matching(any.clone(), prefix("/longer"), &[], &[]),
            matching(any.clone(), PathMatch::Regex(regex("/")), &[], &[]),
            matching(any, exact("/long/exact/path"), &[Method::GET], &all),
            matching(HostMatch::Regex(regex("a")), prefix("/"), &[], &[]),
            matching(HostMatch::Regex(regex("longer")), exact("/"), &[], &[]),
            matching(host("*.com"), prefix("/"), &[], &[]),
            matching(host("*.example.com"), prefix("/"), &[], &[]),
            matching(a(), prefix("/"), &[], &[]),
            matching(a(), prefix("/"), &[], &[query("q", is("1"))]),
            matching(a(), prefix("/"), &[], &[query("q", is("1")), query("r", is("1"))]),
            matching(a(), prefix("/"), &[], &two[..1]),
            matching(a(), prefix("/"), &[], &[two[0].clone(), query("q", is("1"))]),
            matching(a(), prefix("/"), &[], &two),
            matching(a(), prefix("/"), &[Method::GET, Method::PUT], &[]),
            matching(a(), prefix("/"), &[Method::GET], &all),
            matching(a(), prefix("/v1"), &[], &[]),
            matching(a(), prefix("/v1/users"), &[], &[]),
            matching(a(), PathMatch::Regex(regex("^/v1/users/[0-9]+$")), &[], &[]),
            matching(a(), exact("/"), &[], &[]),
            RequestMatch { scheme: Some(Scheme::Http), ..RequestMatch::default() },
            RequestMatch { scheme: Some(Scheme::Https), ..matching(a(), prefix("/"), &[], &[]) },
        ];
        let precedences: Vec<_> = ascending.iter().map(RequestMatch::precedence).collect();
        assert!(precedences.is_sorted_by(|low, high| low < high), "{precedences:#?}");
    }

    #[test]
    fn first_thing_that_does_not_fit_is_the_miss() {
        let conditions = [header("x-region", Test::Regex(regex("^eu-"))), query("beta", Test::Present(true))];
        let route = matching(
            HostMatch::parse("*.shop.test").unwrap(),
            PathMatch::prefix("/v1").unwrap(),
            &[Method::GET, Method::HEAD],
            &conditions,
        );
        let headers: http::HeaderMap = [("x-region", "us"), ("x-region", "eu-west")]
            .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
            .into_iter()
            .collect();
        let none = http::HeaderMap::new();
        let client_ip = [192, 0, 2, 7].into();
        for (host, path, method, headers, query, miss) in [
            (None, "/", Method::PUT, &none, None, Some("the host is not *.shop.test")),
            (Some("eu.Shop.test:80"), "/v10", Method::PUT, &none, None, Some("the path is not under /v1")),
            (Some("eu.shop.test"), "/v1", Method::PUT, &none, None, Some("the method is not GET or HEAD")),
            (
                Some("eu.shop.test"),
                "/v1",
                Method::GET,
                &none,
                None,
                Some("header x-region does not pass regex = \"^eu-\""),
            ),
            (
                Some("eu.shop.test"),
                "/v1",
                Method::GET,
                &headers,
                Some("beta2"),
                Some("query parameter beta does not pass present = true"),
            ),
            (Some("eu.shop.test"), "/v1/x", Method::HEAD, &headers, Some("a&beta"), None),
        ] {
            let request = RequestView { scheme: Scheme::Http, host, path, query, method: &method, headers, client_ip };
            assert_eq!(route.misses(&request).map(|miss| miss.told(&Open)).as_deref(), miss);
            assert_eq!(route.takes(&request), miss.is_none());
        }
    }

    #[test]
    fn regexes_see_the_name_and_the_path_as_sent() {
        let headers = http::HeaderMap::new();
        let takes = |route: &RequestMatch, host, path| {
            let client_ip = [192, 0, 2, 7].into();
            route.takes(&RequestView {
                scheme: Scheme::Http,
                host,
                path,
                query: None,
                method: &Method::GET,
                headers: &headers,
                client_ip,
            })
        };
        let host = Pattern::caseless(r"^(eu|US)\.shop\.test$").unwrap();
        let host = RequestMatch { host: HostMatch::Regex(host), ..RequestMatch::default() };
        assert!(takes(&host, Some("EU.shop.test.:8080"), "/") && takes(&host, Some("us.shop.test"), "/"));
        assert!(!takes(&host, Some("eu.shop.test.evil"), "/") && !takes(&host, None, "/"));
        let path = RequestMatch { path: PathMatch::Regex(regex("/v[0-9]+/")), ..RequestMatch::default() };
        assert!(takes(&path, None, "/x/v12/y") && !takes(&path, None, "/V1/") && !takes(&path, None, "/v%31/"));
    }

    #[test]
    fn one_match_has_one_form() {
        let of = |methods: &[Method], conditions: &[(Subject, Test)]| {
            matching(HostMatch::Any, PathMatch::default(), methods, conditions).normalised()
        };
        let (x, y, q) = (header("x", is("1")), header("y", Test::Present(false)), query("a", is("1")));
        let one = of(&[Method::PUT, Method::GET, Method::PUT], &[q.clone(), y.clone(), x.clone(), y.clone()]);
        assert_eq!(one, of(&[Method::GET, Method::PUT], &[x.clone(), y.clone(), q.clone()]));
        assert_eq!((one.methods.len(), one.conditions), (2, vec![x, y, q]));
    }
}
