//! A request as it is when the decision looks at it: brought into one form, with the client that it comes from.
//!
//! The proxy does this to every request and explain to the one that it is asked about; there is one way to do it, so
//! that they cannot differ.

use super::scheme::Scheme;
use super::table::RequestView;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Why a request is not routed at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// CONNECT is for forward proxies.
    Connect,
    /// The target is not one that an origin answers.
    Target,
    /// Not exactly one valid Host (RFC 9112 §3.2).
    Host,
}

/// The request as it goes to an origin: a path, and one `Host` that says for whom (RFC 9112 §3.2, §3.2.2).
pub fn to_origin_form(parts: &mut Parts) -> Result<(), Unfit> {
    if parts.method == Method::CONNECT {
        return Err(Unfit::Connect);
    }
    if let Some(authority) = parts.uri.authority() {
        if authority.as_str().contains('@') {
            return Err(Unfit::Target);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Unfit::Target)?;
        parts.headers.insert(header::HOST, host);
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut parts.headers);
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Err(Unfit::Target);
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (None, _) if parts.version == Version::HTTP_10 => Ok(()),
        _ => Err(Unfit::Host),
    }
}

/// Characters of a host and port (RFC 3986 §3.2.2, without userinfo); may be empty.
fn is_host(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte))
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
        let mut parts = parts("GET", "http://Shop.test:81/a?b=1", Version::HTTP_11, &["other", "more"]);
        assert_eq!(to_origin_form(&mut parts), Ok(()));
        let view = RequestView::of(&parts, Scheme::Https, IpAddr::from([192, 0, 2, 7]));
        assert_eq!((view.host, view.path, view.query), (Some("Shop.test:81"), "/a", Some("b=1")));
        assert_eq!(parts.headers.get_all("host").iter().count(), 1);
    }

    #[test]
    fn what_no_origin_answers_is_unfit() {
        let http11 = Version::HTTP_11;
        for (method, uri, version, hosts, result) in [
            ("GET", "/", http11, &["a"][..], Ok(())),
            ("GET", "/", http11, &[""], Ok(())),
            ("OPTIONS", "*", http11, &["a"], Ok(())),
            ("GET", "/", Version::HTTP_10, &[], Ok(())),
            ("CONNECT", "a:443", http11, &["a"], Err(Unfit::Connect)),
            ("GET", "http://user@a/", http11, &["a"], Err(Unfit::Target)),
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
