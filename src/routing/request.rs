//! A request as it is when the decision looks at it: brought into one form, with the client that it comes from.
//!
//! The proxy does this to every request and explain to the one that it is asked about; there is one way to do it, so
//! that they cannot differ.

mod host;

use super::scheme::Scheme;
use super::table::RequestView;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a request is not routed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// CONNECT is for forward proxies.
    Connect,
    /// TRACE would show a client what the hops behind Weir see (RFC 9110 §9.3.8).
    Trace,
    /// The target is not one that an origin answers.
    Target,
    /// Not exactly one valid Host, or another one than the target names (RFC 9112 §3.2, RFC 9113 §8.3.1).
    Host,
}

/// The request as it goes to an origin: a path, and one `Host` that says for whom (RFC 9112 §3.2, §3.2.2).
pub fn to_origin_form(parts: &mut Parts) -> Result<(), Unfit> {
    match parts.method {
        Method::CONNECT => return Err(Unfit::Connect),
        Method::TRACE => return Err(Unfit::Trace),
        _ => {}
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) if host::is_valid(host.as_bytes()) => Some(host),
        (None, _) => None,
        _ => return Err(Unfit::Host),
    };
    if let Some(authority) = parts.uri.authority() {
        let named = named_host(parts.uri.scheme_str(), authority.as_str())?;
        let default_port = if parts.uri.scheme_str() == Some("https") { 443 } else { 80 };
        match host {
            Some(host) if !host::are_same(host.as_bytes(), named.as_bytes(), default_port) => return Err(Unfit::Host),
            None if parts.version == Version::HTTP_11 => return Err(Unfit::Host),
            _ => {}
        }
        parts.headers.insert(header::HOST, named);
        parts.uri = path_of(&parts.uri, parts.version)?;
    } else if host.is_none() && parts.version != Version::HTTP_10 {
        return Err(Unfit::Host);
    }
    match parts.uri.path_and_query().map(PathAndQuery::as_str) {
        Some("*") if parts.method == Method::OPTIONS => Ok(()),
        Some(path) if path.starts_with('/') && path.is_ascii() => Ok(()),
        _ => Err(Unfit::Target),
    }
}

/// Whom a target in absolute form is for.
fn named_host(scheme: Option<&str>, authority: &str) -> Result<HeaderValue, Unfit> {
    if !matches!(scheme, Some("http" | "https")) || authority.is_empty() || !host::is_valid(authority.as_bytes()) {
        return Err(Unfit::Target);
    }
    HeaderValue::from_str(authority).map_err(|_| Unfit::Target)
}

/// What is left of a target in absolute form. An empty path is `/` (RFC 9112 §3.2.1); HTTP/2 has none (RFC 9113 §8.3.1).
fn path_of(uri: &Uri, version: Version) -> Result<Uri, Unfit> {
    let target = uri.path_and_query().ok_or(Unfit::Target)?;
    match target.as_str() {
        "/" => Ok(Uri::from_static("/")),
        query if query.starts_with('?') && version != Version::HTTP_2 => {
            format!("/{query}").parse().map_err(|_| Unfit::Target)
        }
        _ => Ok(Uri::from(target.clone())),
    }
}

/// HTTP/2 may send one cookie a line; HTTP/1.1 has one `Cookie` line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// The nearest address of `X-Forwarded-For` that is no trusted proxy's; the farthest when all are. None when there is
/// none, or what stands nearest is not an address.
pub fn forwarded_for(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let lines: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().map_while(|line| line.to_str().ok()).collect();
    let mut farthest = None;
    for element in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Ok(ip) = element.trim().parse::<IpAddr>() else { break };
        farthest = Some(ip.to_canonical());
        if !is_trusted(ip.to_canonical()) {
            break;
        }
    }
    farthest
}

impl<'r> RequestView<'r> {
    /// Of a request in origin form.
    pub fn of(parts: &'r Parts, scheme: Scheme, client_ip: IpAddr) -> RequestView<'r> {
        RequestView {
            scheme,
            host: parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
            path: parts.uri.path(),
            query: parts.uri.query(),
            method: &parts.method,
            headers: &parts.headers,
            client_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, version: Version, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri).version(version);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_authority_of_the_target_is_the_host() {
        let mut parts = parts("GET", "http://Shop.test:81/a?b=1", Version::HTTP_11, &["shop.test:081"]);
        assert_eq!(to_origin_form(&mut parts), Ok(()));
        let view = RequestView::of(&parts, Scheme::Https, IpAddr::from([192, 0, 2, 7]));
        assert_eq!((view.host, view.path, view.query), (Some("Shop.test:81"), "/a", Some("b=1")));
        assert_eq!(parts.headers.get_all("host").iter().count(), 1);
    }

    #[test]
    fn a_target_in_absolute_form_leaves_its_path() {
        for (uri, path) in [
            ("http://a", "/"),
            ("http://a/", "/"),
            ("http://a?b=1", "/?b=1"),
            ("http://a//b", "//b"),
            ("http://a#@b/", "/"),
            ("http://a/b#c", "/b"),
            ("HTTP://a:80/b?c?d", "/b?c?d"),
        ] {
            let mut parts = parts("GET", uri, Version::HTTP_11, &["a"]);
            assert_eq!(to_origin_form(&mut parts), Ok(()), "{uri}");
            assert_eq!(parts.uri.to_string(), path, "{uri}");
        }
    }

    #[test]
    fn what_no_origin_answers_is_unfit() {
        let (http10, http11, http2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        for (method, uri, version, hosts, result) in [
            ("GET", "/", http11, &["a"][..], Ok(())),
            ("GET", "/", http11, &[""], Ok(())),
            ("OPTIONS", "*", http11, &["a"], Ok(())),
            ("GET", "/", http10, &[], Ok(())),
            ("GET", "http://a/", http10, &[], Ok(())),
            ("GET", "http://a/", http2, &[], Ok(())),
            ("GET", "https://a/", http2, &["A:443"], Ok(())),
            ("GET", "https://a/", http2, &["a:80"], Err(Unfit::Host)),
            ("GET", "/", http2, &["a"], Ok(())),
            ("GET", "/", http2, &[], Err(Unfit::Host)),
            ("CONNECT", "a:443", http11, &["a"], Err(Unfit::Connect)),
            ("TRACE", "/", http11, &["a"], Err(Unfit::Trace)),
            ("GET", "http://a/", http11, &[], Err(Unfit::Host)),
            ("GET", "http://a/", http11, &["a", "a"], Err(Unfit::Host)),
            ("GET", "http://a/", http11, &["b"], Err(Unfit::Host)),
            ("GET", "http://a:81/", http11, &["a"], Err(Unfit::Host)),
            ("GET", "http://user@a/", http11, &["a"], Err(Unfit::Target)),
            ("GET", "http://a:x/", http11, &["a"], Err(Unfit::Target)),
            ("GET", "http://:80/", http11, &[":80"], Err(Unfit::Host)),
            ("GET", "ftp://a/", http11, &["a"], Err(Unfit::Target)),
            ("GET", "a", http11, &["a"], Err(Unfit::Target)),
            ("GET", "a:80", http11, &["a"], Err(Unfit::Target)),
            ("GET", "/\u{e9}", http11, &["a"], Err(Unfit::Target)),
            ("GET", "*", http11, &["a"], Err(Unfit::Target)),
            ("GET", "/", http11, &[], Err(Unfit::Host)),
            ("GET", "/", http11, &["a", "a"], Err(Unfit::Host)),
            ("GET", "/", http11, &["a b"], Err(Unfit::Host)),
            ("GET", "/", http11, &["a@b"], Err(Unfit::Host)),
        ] {
            assert_eq!(to_origin_form(&mut parts(method, uri, version, hosts)), result, "{method} {uri} {hosts:?}");
        }
    }

    fn map(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_nearest_untrusted_address_is_the_client() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let client = |lines: &[(&'static str, &str)]| forwarded_for(&map(lines), trusted).map(|ip| ip.to_string());
        let of = |value| client(&[("x-forwarded-for", value)]);
        assert_eq!(of("6.6.6.6, 1.2.3.4, 10.0.0.1").as_deref(), Some("1.2.3.4"));
        assert_eq!(of("10.0.0.2, 10.0.0.1").as_deref(), Some("10.0.0.2"));
        assert_eq!(of("1.2.3.4, nonsense, 10.0.0.1").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("::ffff:1.2.3.4").as_deref(), Some("1.2.3.4"));
        assert_eq!(
            client(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.9")]).as_deref(),
            Some("1.2.3.4")
        );
        assert_eq!(of("unknown"), None);
        assert_eq!(client(&[]), None);
    }

    #[test]
    fn cookie_crumbs_become_one_line() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
        join_cookies(&mut headers);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    }
}
