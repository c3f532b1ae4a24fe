//! Filters at work: a request rewritten before it is sent, an answer's header edited, a route's own answer.
//!
//! Each worker has copies of its own of the routes' filters, made when it takes in a table: the values in them are
//! counted references, and a clone of a shared one would be a write to memory that all workers share.

use super::exchange::Exchange;
use super::failure::Failure;
use super::respond;
use crate::routing::compress;
use crate::routing::edits::Facts;
use crate::routing::filters::{Filters, OwnAnswer};
use crate::routing::redirect::{Asked, RedirectError};
use crate::routing::scheme::Scheme;
use crate::routing::table::{RequestView, Route};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, Version, request};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A worker's filters by route; empty when no route has any.
#[derive(Default)]
pub(super) struct LocalFilters(Vec<Option<Local>>);

struct Local {
    shared: Arc<Filters>,
    own: Rc<Filters>,
}

impl LocalFilters {
    /// What did not change since `before` is not copied again.
    pub(super) fn new(routes: &[Route], before: Option<&LocalFilters>) -> LocalFilters {
        if routes.iter().all(|route| route.filters.is_none()) {
            return LocalFilters::default();
        }
        let local = |(at, route): (usize, &Route)| {
            let shared = route.filters.as_ref()?;
            let known = before.and_then(|before| before.0.get(at)?.as_ref());
            let own = match known.filter(|known| Arc::ptr_eq(&known.shared, shared)) {
                Some(known) => Rc::clone(&known.own),
                None => Rc::new(shared.detached()),
            };
            Some(Local { shared: Arc::clone(shared), own })
        };
        LocalFilters(routes.iter().enumerate().map(local).collect())
    }

    pub(super) fn of(&self, route: usize) -> Option<&Rc<Filters>> {
        self.0.get(route)?.as_ref().map(|local| &local.own)
    }
}

/// A request's filters, with what their values name.
pub(super) struct Filtered {
    filters: Rc<Filters>,
    facts: Facts,
    /// For a route that compresses.
    pub(super) compress: Option<compress::Asked>,
}

impl Filtered {
    fn new(
        filters: &Rc<Filters>,
        (client_ip, request_id): (IpAddr, &HeaderValue),
        compress: Option<compress::Asked>,
    ) -> Filtered {
        let client_ip = if filters.name_client_ip() {
            HeaderValue::try_from(client_ip.to_string()).expect("an address is a valid header value")
        } else {
            HeaderValue::from_static("")
        };
        let facts = Facts { client_ip, request_id: request_id.clone() };
        Filtered { filters: Rc::clone(filters), facts, compress }
    }

    pub(super) fn edit_answer(&self, variant: usize, headers: &mut HeaderMap) {
        self.filters.edit_answer(variant, headers, &self.facts);
    }
}

/// Makes the request what the target is to get, or gives the route's own answer to it. Weir's own headers stand there
/// already. Out of line: most routes have no filters.
#[inline(never)]
pub(super) fn apply(
    exchange: &mut Exchange,
    from: (IpAddr, &HeaderValue),
    parts: &mut request::Parts,
) -> Result<Option<Response<Bytes>>, Failure> {
    let Some(filters) = exchange.local.filters.of(exchange.route) else { return Ok(None) };
    // What the client says, before the route's own changes to it.
    let takes_chunks = exchange.client.version.get() > Version::HTTP_10;
    let compress = filters
        .compress
        .map(|codings| compress::Asked::new(&codings, &parts.headers, parts.method == Method::HEAD, takes_chunks));
    exchange.filtered = Some(Box::new(Filtered::new(filters, from, compress)));
    let Some(Filtered { filters, facts, .. }) = exchange.filtered.as_deref() else { return Ok(None) };
    if filters.rate.is_some()
        && let Some(wait) = limited(exchange, from.0, parts)
    {
        return Ok(Some(respond::too_many(exchange.is_grpc(), wait, from.1)));
    }
    if let Some(answer) = &filters.answer {
        return own_answer(answer, exchange, parts).map(Some);
    }
    if let Some(rewrite) = &filters.rewrite {
        if let Some(uri) = rewrite.uri(&parts.uri).map_err(|_| Failure::TargetTooLong)? {
            parts.uri = uri;
        }
        if let Some(host) = &rewrite.host {
            parts.headers.insert(header::HOST, host.clone());
        }
    }
    filters.edit_request(exchange.variant, &mut parts.headers, facts);
    Ok(None)
}

/// How long the request's client has no token; None when it had one, or is nobody.
fn limited(exchange: &Exchange, client_ip: IpAddr, parts: &request::Parts) -> Option<Duration> {
    let limiter = exchange.local.published.rates[exchange.route].as_ref()?;
    let client_ip = one_client(client_ip);
    // No key looks at the scheme.
    let view = RequestView::of(parts, Scheme::of(exchange.client.tls), client_ip);
    let (source, key) = limiter.limit.keys.iter().enumerate().find_map(|(at, key)| Some((at, key.key(&view)?)))?;
    let wait = limiter.take(source, &key).err()?;
    limiter.outcomes.shards[exchange.client.worker.id].limited.add(1);
    Some(wait)
}

/// A client has all addresses of its IPv6 network, a /64 (RFC 4291 §2.5.1).
fn one_client(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

fn own_answer(answer: &OwnAnswer, exchange: &Exchange, parts: &request::Parts) -> Result<Response<Bytes>, Failure> {
    let mut response = Response::new(Bytes::new());
    match answer {
        OwnAnswer::Redirect(redirect) => {
            *response.status_mut() = redirect.status;
            let asked = Asked {
                // What stands there by now is Weir's own, or a trusted proxy's.
                scheme: Scheme::forwarded(&parts.headers).unwrap_or(Scheme::of(exchange.client.tls)),
                host: parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()),
                path: parts.uri.path(),
                query: parts.uri.query(),
            };
            let location = redirect.location(&asked).map_err(|error| match error {
                RedirectError::NoHost => Failure::NoHost,
                RedirectError::Itself => Failure::RedirectLoop,
            })?;
            response.headers_mut().insert(header::LOCATION, location);
        }
        OwnAnswer::Fixed(fixed) => {
            *response.status_mut() = fixed.status;
            let fields = [(header::CONTENT_TYPE, &fixed.content_type), (header::RETRY_AFTER, &fixed.retry_after)];
            for (name, value) in fields {
                response.headers_mut().extend(value.clone().map(|value| (name, value)));
            }
            *response.body_mut() = fixed.body.clone();
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::matcher::RequestMatch;
    use crate::routing::rewrite::{PathChange, Rewrite};
    use crate::routing::split::{Assignment, Weight};

    fn route(filters: Option<&Arc<Filters>>) -> Route {
        Route {
            name: "r".to_owned(),
            matches: RequestMatch::default(),
            variants: Vec::new(),
            assignment: Assignment::starting(&[Weight::FULL]).unwrap(),
            rules: Vec::new(),
            sticky: None,
            timeout: std::time::Duration::from_secs(1),
            salt: String::new(),
            request_timeout: None,
            close_moved_within: None,
            filters: filters.map(Arc::clone),
            recovery: None,
        }
    }

    fn to(path: &str) -> Arc<Filters> {
        let rewrite = Some(Rewrite { path: Some(PathChange::whole(path).unwrap()), host: None });
        Arc::new(Filters { rewrite, ..Filters::default() })
    }

    #[test]
    fn a_worker_copies_what_is_new_and_keeps_what_is_not() {
        let plain = LocalFilters::new(&[route(None), route(None)], None);
        assert!(plain.0.is_empty() && plain.of(1).is_none());
        let (a, b) = (to("/a"), to("/b"));
        let first = LocalFilters::new(&[route(None), route(Some(&a))], Some(&plain));
        assert!(first.of(0).is_none() && first.of(2).is_none());
        assert_eq!(**first.of(1).unwrap(), *a);
        let same = LocalFilters::new(&[route(Some(&b)), route(Some(&a))], Some(&first));
        assert!(Rc::ptr_eq(same.of(1).unwrap(), first.of(1).unwrap()));
        assert_eq!(**same.of(0).unwrap(), *b);
        let other = LocalFilters::new(&[route(None), route(Some(&b))], Some(&first));
        assert_eq!(**other.of(1).unwrap(), *b);
    }
}
