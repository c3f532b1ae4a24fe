//! Who may call what.
//!
//! Without tokens everyone on this machine may do everything, and nobody else: addresses must be loopback or unix
//! sockets, and a browser that was lured here is refused by the Host and Origin it sends. With tokens the token
//! decides. What is not known to be harmless needs the highest role.

use super::problem::Problem;
use super::server::Scope;
use crate::config::{Role, Token};
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// A connection's two ends.
#[derive(Clone, Debug)]
pub struct Peer {
    /// For the log.
    pub source: Arc<str>,
    /// The address that was connected to; None: a unix socket.
    bound: Option<SocketAddr>,
    scope: Scope,
}

/// Who asks: a token's name, or `local`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(pub String);

impl Peer {
    pub fn tcp(from: SocketAddr, bound: SocketAddr, scope: Scope) -> Peer {
        Peer { source: from.to_string().into(), bound: Some(bound), scope }
    }
    pub fn unix(path: &Path) -> Peer {
        Peer { source: format!("unix:{}", path.display()).into(), bound: None, scope: Scope::Everything }
    }
}

/// The actor behind a request that may go on, or why it may not.
pub fn check(tokens: &[Token], peer: &Peer, request: &Request) -> Result<Actor, Problem> {
    let local = || Ok(Actor("local".to_owned()));
    if peer.scope == Scope::MetricsOnly {
        return local();
    }
    let headers = request.headers();
    same_origin(headers)?;
    let path = request.uri().path();
    if tokens.is_empty() {
        local_only(peer, request)?;
        return local();
    }
    if matches!(path, "/healthz" | "/readyz") {
        return local();
    }
    let token = presented(headers).and_then(|presented| find(tokens, presented));
    let Some(token) = token else {
        let detail = "a token is needed: send Authorization: Bearer <token>; `weir token` makes one";
        let challenge = HeaderValue::from_static("Bearer realm=\"weir\"");
        return Err(Problem::new(401, "unauthorized", detail).header(header::WWW_AUTHENTICATE, challenge));
    };
    let needed = needed(request.method(), path);
    if token.role < needed {
        let (has, needs) = (role_name(token.role), role_name(needed));
        let detail = format!("the token {:?} has the role {has}, and this needs {needs}", token.name);
        return Err(Problem::new(403, "role-too-low", detail));
    }
    Ok(Actor(token.name.clone()))
}

fn needed(method: &Method, path: &str) -> Role {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Role::Viewer;
    }
    if *method == Method::POST && is_explain(path) {
        return Role::Viewer;
    }
    if path.starts_with("/api/v1/rollouts/") {
        return Role::Operator;
    }
    let call = path.strip_prefix("/api/v1/routes/").and_then(|rest| rest.split_once('/')).map(|(_, call)| call);
    match call {
        Some("weights") => Role::Operator,
        Some("undo") => Role::Operator,
        Some("switch") => Role::Operator,
        _ => Role::Admin,
    }
}

/// A POST that changes nothing.
fn is_explain(path: &str) -> bool {
    let route = path.strip_prefix("/api/v1/routes/").and_then(|rest| rest.strip_suffix("/explain"));
    path == "/api/v1/explain" || route.is_some_and(|route| !route.contains('/'))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

fn presented(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Compares with every token and every byte, whatever matches: the time tells nothing.
fn find<'t>(tokens: &'t [Token], presented: &str) -> Option<&'t Token> {
    let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
    let mut found = None;
    for token in tokens {
        let difference = token.sha256.iter().zip(&hash).fold(0, |sum, (one, other)| sum | (one ^ other));
        if difference == 0 {
            found = Some(token);
        }
    }
    found
}

/// A page of another site may send requests here from a browser on this machine; browsers say so in Origin.
fn same_origin(headers: &HeaderMap) -> Result<(), Problem> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let host = only(headers, header::HOST);
    let origin = only(headers, header::ORIGIN).unwrap_or("");
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if site.is_some_and(|site| !site.is_empty()) && site == host {
        return Ok(());
    }
    let detail = format!("the request comes from a page of {origin:?}, which is not this address");
    Err(Problem::new(403, "cross-site", detail).field("header:origin"))
}

/// The value of a header that stands there once, and not more often: two could be read differently.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Another site's name may be made to resolve to this machine; then Host has that name.
fn local_only(peer: &Peer, request: &Request) -> Result<(), Problem> {
    let Some(bound) = peer.bound else { return Ok(()) };
    if !bound.ip().is_loopback() {
        let detail = "the configuration has no admin.token any more, and without tokens only loopback is served";
        return Err(Problem::new(403, "not-local", detail));
    }
    let host = only(request.headers(), header::HOST);
    let host_is_local = host.is_some_and(|host| is_local(host, bound));
    let uri_is_local = request.uri().authority().is_none_or(|authority| is_local(authority.as_str(), bound));
    if host_is_local && uri_is_local {
        return Ok(());
    }
    let shown = host.unwrap_or("");
    let detail = format!("the Host header {shown:?} is not localhost, a loopback address or this address");
    Err(Problem::new(403, "host-not-local", detail).field("header:host"))
}

fn is_local(host: &str, bound: SocketAddr) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let ip = bare.parse::<IpAddr>();
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback() || ip == bound.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::token;
    use axum::body::Body;
    use axum::response::IntoResponse;

    fn peer(bound: &str) -> Peer {
        Peer::tcp("127.0.0.1:5000".parse().unwrap(), bound.parse().unwrap(), Scope::Everything)
    }

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn status(result: Result<Actor, Problem>) -> u16 {
        result.map_or_else(|problem| problem.into_response().status().as_u16(), |_| 200)
    }

    #[test]
    fn without_tokens_only_local_hosts_and_origins_pass() {
        let ask = |headers: &[(&str, &str)]| {
            status(check(&[], &peer("127.0.0.1:9901"), &request("GET", "/api/v1/routes", headers)))
        };
        for host in ["localhost", "LOCALHOST:9901", "127.0.0.1:9901", "127.1.2.3", "[::1]:9901"] {
            assert_eq!(ask(&[("host", host)]), 200, "{host}");
        }
        assert_eq!(ask(&[("host", "localhost"), ("host", "evil.example")]), 403);
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:9901", "10.0.0.1", "a@localhost", ""] {
            assert_eq!(ask(&[("host", host)]), 403, "{host}");
        }
        assert_eq!(ask(&[]), 403);
        assert_eq!(ask(&[("host", "localhost:9901"), ("origin", "http://localhost:9901")]), 200);
        for origin in ["http://evil.example", "http://localhost:3000", "null", "http://localhost:9901.evil.example"] {
            assert_eq!(ask(&[("host", "localhost:9901"), ("origin", origin)]), 403, "{origin}");
        }
        let outside = check(&[], &peer("0.0.0.0:9901"), &request("GET", "/", &[("host", "localhost")]));
        assert_eq!(status(outside), 403);
        let unix = check(&[], &Peer::unix(Path::new("/run/weir.sock")), &request("GET", "/", &[("host", "weir")]));
        assert_eq!(unix.unwrap(), Actor("local".to_owned()));
    }

    #[test]
    fn tokens_give_their_roles_and_no_more() {
        let tokens = [token("eye", Role::Viewer), token("hand", Role::Operator), token("head", Role::Admin)];
        let ask = |method: &str, path: &str, authorization: &str| {
            let headers = [("host", "weir.internal"), ("authorization", authorization)];
            status(check(&tokens, &peer("0.0.0.0:9901"), &request(method, path, &headers)))
        };
        let weights = "/api/v1/routes/shop/weights";
        for (method, path, allowed) in [
            ("GET", "/api/v1/routes", [200, 200, 200]),
            ("GET", "/metrics", [200, 200, 200]),
            ("PATCH", weights, [403, 200, 200]),
            ("PUT", weights, [403, 200, 200]),
            ("POST", "/api/v1/explain", [200, 200, 200]),
            ("POST", "/api/v1/routes/shop/explain", [200, 200, 200]),
            ("POST", "/api/v1/routes/shop/x/explain", [403, 403, 200]),
            ("PUT", "/api/v1/explain", [403, 403, 200]),
            ("POST", "/api/v1/reload", [403, 403, 200]),
            ("DELETE", "/api/v1/whatever", [403, 403, 200]),
        ] {
            for (name, status) in ["eye", "hand", "head"].iter().zip(allowed) {
                assert_eq!(ask(method, path, &format!("Bearer secret-{name}")), status, "{method} {path} {name}");
            }
            for wrong in ["", "Bearer", "Bearer secret-nobody", "Basic secret-head", "secret-head"] {
                assert_eq!(ask(method, path, wrong), 401, "{method} {path} {wrong:?}");
            }
        }
        assert_eq!(ask("GET", "/healthz", ""), 200);
        assert_eq!(ask("GET", "/readyz", ""), 200);
    }

    #[test]
    fn the_metrics_address_asks_nobody() {
        let peer = Peer::tcp("10.0.0.1:1".parse().unwrap(), "0.0.0.0:9902".parse().unwrap(), Scope::MetricsOnly);
        assert_eq!(status(check(&[], &peer, &request("GET", "/metrics", &[("host", "weir:9902")]))), 200);
    }
}
