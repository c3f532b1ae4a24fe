//! The scheme that a client used: that of the connection, or what a trusted proxy says in `X-Forwarded-Proto`.

use http::header::{HeaderMap, HeaderName};

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn parse(text: &str) -> Option<Scheme> {
        match text {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// Of a connection.
    pub fn of(tls: bool) -> Scheme {
        if tls { Scheme::Https } else { Scheme::Http }
    }

    /// What the header says, in any case; None where it says neither. To be asked of trusted proxies only.
    pub fn forwarded(headers: &HeaderMap) -> Option<Scheme> {
        let said = headers.get(X_FORWARDED_PROTO)?.as_bytes();
        [Scheme::Http, Scheme::Https].into_iter().find(|scheme| said.eq_ignore_ascii_case(scheme.name().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_says_one_of_two_schemes() {
        for (said, scheme) in [
            (&["https"][..], Some(Scheme::Https)),
            (&["HTTP"], Some(Scheme::Http)),
            (&["http", "https"], Some(Scheme::Http)),
            (&["wss"], None),
            (&["https, http"], None),
            (&[""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(said.iter().map(|said| (X_FORWARDED_PROTO, said.parse().unwrap())));
            assert_eq!(Scheme::forwarded(&headers), scheme, "{said:?}");
        }
    }
}
