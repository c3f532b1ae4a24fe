//! Where a route sends its clients instead of answering them.
//!
//! A location is made of parts that were checked and of a path and query that the client chose. What the client chose
//! never becomes a scheme or a host: it stands behind one slash, and characters that are none of a URL's are
//! percent-encoded, the backslash among them, which browsers take for a slash.

use super::matcher::{HostScratch, host_name};
use super::rewrite::PathChange;
use super::scheme::Scheme;
use http::StatusCode;
use http::header::HeaderValue;
use std::borrow::Cow;

/// With none of scheme, host and port the location is a path on the server that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub status: StatusCode,
    pub scheme: Option<Scheme>,
    /// A name without port, or an IPv6 address in brackets.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub path: Option<PathChange>,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'r> {
    pub scheme: Scheme,
    /// `Host` as sent.
    pub host: Option<&'r str>,
    pub path: &'r str,
    pub query: Option<&'r str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("the request names no host, and the redirect none either")]
    NoHost,
    #[error("the redirect leads to what was asked for")]
    Itself,
}

impl Redirect {
    /// The value of `Location`: ASCII, one line.
    pub fn location(&self, asked: &Asked<'_>) -> Result<HeaderValue, RedirectError> {
        let path = match &self.path {
            // What `OPTIONS *` asks about is the server.
            _ if asked.path == "*" => Cow::Borrowed("/"),
            Some(change) => change.apply(asked.path),
            None => Cow::Borrowed(asked.path),
        };
        let mut location = String::with_capacity(64 + path.len() + asked.query.map_or(0, str::len));
        let elsewhere = self.write_origin(asked, &mut location)?;
        if !elsewhere && path == asked.path {
            return Err(RedirectError::Itself);
        }
        push_encoded(&mut location, &path);
        if let Some(query) = asked.query {
            location.push('?');
            push_encoded(&mut location, query);
        }
        Ok(HeaderValue::try_from(location).expect("encoded text is a valid header value"))
    }

    pub fn is_on_same_server(&self) -> bool {
        self.scheme.is_none() && self.host.is_none() && self.port.is_none()
    }

    /// Scheme, host and port, where they are to be said; true when they differ from those asked for.
    fn write_origin(&self, asked: &Asked<'_>, location: &mut String) -> Result<bool, RedirectError> {
        if self.is_on_same_server() {
            return Ok(false);
        }
        let mut scratch = HostScratch::default();
        let name = asked.host.and_then(|host| host_name(host, &mut scratch));
        let asked_host = name.and_then(|name| std::str::from_utf8(name).ok());
        let scheme = self.scheme.unwrap_or(asked.scheme);
        let host = self.host.as_deref().or(asked_host).ok_or(RedirectError::NoHost)?;
        let port = self.port.unwrap_or(scheme.default_port());
        location.push_str(scheme.name());
        location.push_str("://");
        push_encoded(location, host);
        if port != scheme.default_port() {
            location.push_str(&format!(":{port}"));
        }
        let asked_port = asked.host.and_then(port_of).unwrap_or(asked.scheme.default_port());
        Ok((scheme, Some(host), port) != (asked.scheme, asked_host, asked_port))
    }
}

/// The port of a `Host`, if it names one.
fn port_of(host: &str) -> Option<u16> {
    let after_address = host.rfind(']').map_or(host, |bracket| &host[bracket..]);
    after_address.rsplit_once(':')?.1.parse().ok()
}

/// Characters that a URL has stay, also `%` and what it encodes; all others are percent-encoded (RFC 3986 §2).
fn push_encoded(location: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte) {
            location.push(char::from(byte));
        } else {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            location.extend(['%', char::from(digits[0]), char::from(digits[1])]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Redirect =
        Redirect { status: StatusCode::PERMANENT_REDIRECT, scheme: None, host: None, port: None, path: None };

    fn asked(url: &str) -> Asked<'_> {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (host, target) = rest.split_at(rest.find(['/', '*']).unwrap());
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Asked { scheme: Scheme::parse(scheme).unwrap(), host: Some(host), path, query }
    }

    fn location(redirect: &Redirect, url: &str) -> String {
        match redirect.location(&asked(url)) {
            Ok(location) => location.to_str().unwrap().to_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn what_is_not_said_is_kept() {
        let https = Redirect { scheme: Some(Scheme::Https), ..PLAIN };
        let host = Redirect { host: Some("www.example".to_owned()), ..PLAIN };
        let port = Redirect { port: Some(8443), ..PLAIN };
        let both = Redirect { port: Some(8443), ..https.clone() };
        let path = Redirect { path: Some(PathChange::whole("/new").unwrap()), ..PLAIN };
        let strip = Redirect { path: Some(PathChange::prefix("/old", "/").unwrap()), ..PLAIN };
        let strip_there = Redirect { path: strip.path.clone(), ..host.clone() };
        for (redirect, url, expected) in [
            (&https, "http://Shop.Example:8080/a?b=1", "https://shop.example/a?b=1"),
            (&https, "http://[0::1]:8080/a%20b?", "https://[::1]/a%20b?"),
            (&https, "http://a//evil.example", "https://a//evil.example"),
            (&https, "http://a*", "https://a/"),
            (&https, "https://a/x", "Itself"),
            (&https, "https://a:443/x", "Itself"),
            (&https, "https://a:8443/x", "https://a/x"),
            (&https, "http:///x", "NoHost"),
            (&host, "https://example/x", "https://www.example/x"),
            (&host, "http://example:81/x", "http://www.example/x"),
            (&host, "http:///x", "http://www.example/x"),
            (&host, "http://WWW.example./x", "Itself"),
            (&port, "http://a:80/x", "http://a:8443/x"),
            (&port, "http://a:8443/x", "Itself"),
            (&both, "http://a/x", "https://a:8443/x"),
            (&path, "http://a/x?y", "/new?y"),
            (&path, "http://a/new", "Itself"),
            (&strip, "http://a/old/x", "/x"),
            (&strip, "http://a/old", "/"),
            (&strip, "http://a/old//evil.example/x", "/evil.example/x"),
            (&strip, "http://a/old/\\evil.example", "/%5Cevil.example"),
            (&strip_there, "http://a/old/é?{\"}[]", "http://www.example/%C3%A9?%7B%22%7D[]"),
        ] {
            assert_eq!(location(redirect, url), expected, "{url}");
        }
        let nameless = Asked { scheme: Scheme::Http, host: None, path: "/", query: None };
        assert_eq!(https.location(&nameless), Err(RedirectError::NoHost));
    }

    #[test]
    fn default_ports_are_not_said() {
        let to = |scheme, port| Redirect { scheme: Some(scheme), port: Some(port), ..PLAIN };
        assert_eq!(location(&to(Scheme::Https, 443), "http://a:1/"), "https://a/");
        assert_eq!(location(&to(Scheme::Http, 443), "https://a/"), "http://a:443/");
    }

    proptest! {
        /// Whatever the path and query hold, the host is the one that was meant, and there is one line.
        #[test]
        fn a_client_chooses_no_host(path in "/[ -~é/\\\\]{0,20}", query in prop::option::of("[ -~é]{0,10}")) {
            let uri = match &query { Some(query) => format!("{path}?{query}"), None => path };
            let Ok(uri) = uri.parse::<http::Uri>() else { return Ok(()) };
            prop_assume!(uri.host().is_none());
            let asked = Asked { scheme: Scheme::Http, host: Some("a.example"), path: uri.path(), query: uri.query() };
            let here = Redirect { path: Some(PathChange::prefix("", "/").unwrap()), ..PLAIN };
            let deeper = Redirect { path: Some(PathChange::prefix("", "/new").unwrap()), ..PLAIN };
            let there = Redirect { host: Some("b.example".to_owned()), ..PLAIN };
            for redirect in [&here, &deeper] {
                let Ok(location) = redirect.location(&asked) else { continue };
                let location = location.to_str().unwrap();
                prop_assert!(location.starts_with('/') && !location.starts_with("//") && !location.starts_with("/\\"));
                prop_assert!(!location.contains(['\\', '\r', '\n', ' ']));
            }
            let location: http::Uri = there.location(&asked).unwrap().to_str().unwrap().parse().unwrap();
            prop_assert_eq!(location.host(), Some("b.example"));
        }
    }
}
