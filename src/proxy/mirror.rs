//! Copies of requests for a route's mirror: taken while a request goes its way, sent after it, their answers dropped.
//!
//! Nothing that a client waits for waits for a copy. A head is copied before its request goes out, and sent by a task
//! of its own that runs after; a body is copied piece by piece as the target's connection reads it. What exceeds a
//! bound is dropped and counted at once: there is no queue for copies, neither here nor at the pool.
//!
//! All bytes are copied into memory of the copy's own, never shared: a request's headers and body are slices of its
//! client's read buffer, of which a single byte would keep hundreds of KiB for as long as the mirror takes. So what
//! [`Budget`] counts is what copies cost.

use super::body::{self, RequestBody, Whole};
use super::clock::{Tick, Watch};
use super::exchange::Exchange;
use super::failure::Failure;
use super::forward::name_host;
use super::upstream::pool::GIVE_UP;
use super::upstream::{Lease, Sent, within};
use super::vet;
use super::worker::{Local, Worker};
use crate::boundary::mirror::{Copied, Mirroring};
use crate::limits::{MIRROR_ANSWER_BYTES, MIRROR_BYTES_PER_WORKER, MIRRORS_PER_WORKER};
use crate::routing::mirror::X_WEIR_MIRROR;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, request};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use std::cell::Cell;
use std::rc::Rc;
use std::task::Poll;

/// What a header costs beside its text: its places in the map.
const HEADER_BYTES: usize = 128;

/// What a worker's copies hold, of what they may.
#[derive(Default)]
pub(super) struct Budget {
    copies: Cell<usize>,
    bytes: Cell<usize>,
}

impl Budget {
    fn enter(&self) -> bool {
        let free = self.copies.get() < MIRRORS_PER_WORKER;
        self.copies.set(self.copies.get() + usize::from(free));
        free
    }

    fn hold(&self, bytes: usize) -> bool {
        let fits = bytes <= MIRROR_BYTES_PER_WORKER - self.bytes.get();
        self.bytes.set(self.bytes.get() + if fits { bytes } else { 0 });
        fits
    }

    fn leave(&self, bytes: usize) {
        self.copies.set(self.copies.get() - 1);
        self.bytes.set(self.bytes.get() - bytes);
    }
}

/// Whether this request, with the headers that the client sent, is copied.
pub(super) fn takes(exchange: &Exchange, headers: &HeaderMap) -> bool {
    match &exchange.local.published.mirrors[exchange.route] {
        None => false,
        Some(to) => to.mirror.takes(headers, &mut *exchange.client.worker.rng.borrow_mut()),
    }
}

/// A copy from its request's head to the end of the mirror's answer. Counted once, when it is dropped.
pub(super) struct RequestCopy {
    worker: Rc<Worker>,
    local: Rc<Local>,
    route: usize,
    /// What the mirror's pool knows the request by.
    key: u64,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// The body's length, where the client has said it; otherwise 0.
    announced: usize,
    /// Bytes held of the worker's budget.
    held: usize,
    outcome: Copied,
}

impl RequestCopy {
    /// Takes the head as it goes to the target. None, counted, where the copy could not be sent anyway.
    #[cold]
    pub(super) fn begin(exchange: &Exchange, parts: &request::Parts, body: &RequestBody) -> Option<Box<RequestCopy>> {
        let (worker, local) = (&exchange.client.worker, &exchange.local);
        let to = local.published.mirrors[exchange.route].as_ref()?;
        let count = |copied: Copied| to.outcomes.shards[worker.id].copies[copied as usize].add(1);
        let size = body.size_hint();
        if size.lower() > to.mirror.max_body as u64 {
            count(Copied::TooLarge);
            return None;
        }
        if local.pools[to.mirror.pool].is_down() {
            count(Copied::Failed);
            return None;
        }
        if !worker.mirrors.enter() {
            count(Copied::Overload);
            return None;
        }
        let mut copy = Box::new(RequestCopy {
            worker: Rc::clone(worker),
            local: Rc::clone(local),
            route: exchange.route,
            key: exchange.keys.mirror,
            method: parts.method.clone(),
            uri: Uri::default(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            trailers: None,
            announced: size.exact().and_then(|length| usize::try_from(length).ok()).unwrap_or(0),
            held: 0,
            outcome: Copied::Incomplete,
        });
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if copy.hold(target.len() + footprint(&parts.headers)).is_err() {
            copy.outcome = Copied::Overload;
            return None;
        }
        // What was a path once is one again.
        copy.uri = PathAndQuery::try_from(target).map_or_else(|_| parts.uri.clone(), Uri::from);
        copy.headers = detached(&parts.headers);
        if let Ok(route) = HeaderValue::from_str(&local.published.routing.routes()[exchange.route].name) {
            copy.headers.insert(X_WEIR_MIRROR, route);
        }
        Some(copy)
    }

    fn to(&self) -> &Mirroring {
        self.local.published.mirrors[self.route].as_ref().expect("a copy is of a route with a mirror")
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Copied> {
        if !self.worker.mirrors.hold(bytes) {
            return Err(Copied::Overload);
        }
        self.held += bytes;
        Ok(())
    }

    fn add(&mut self, frame: &Frame<Bytes>) -> Result<(), Copied> {
        if let Some(data) = frame.data_ref() {
            let (length, max) = (self.body.len() + data.len(), self.to().mirror.max_body);
            if length > max {
                return Err(Copied::TooLarge);
            }
            let room = self.body.capacity();
            if length > room {
                let room_then = length.max(self.announced).max(2 * room).min(max);
                self.hold(room_then - room)?;
                self.body.reserve_exact(room_then - self.body.len());
            }
            self.body.extend_from_slice(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            self.hold(footprint(trailers))?;
            self.trailers = Some(detached(trailers));
        }
        Ok(())
    }

    /// The request to send. A body is whole by now, so it has a length; only trailers need chunks.
    fn request(&mut self) -> Request<RequestBody> {
        let data = std::mem::take(&mut self.body);
        let mut headers = std::mem::take(&mut self.headers);
        if self.trailers.is_none() && headers.remove(TRANSFER_ENCODING).is_some() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(data.len()));
        }
        let body = match self.trailers.take() {
            None if data.is_empty() => RequestBody::Empty,
            trailers => RequestBody::Whole(Box::new(Whole::new(data, trailers))),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = std::mem::take(&mut self.uri);
        *request.headers_mut() = headers;
        request
    }
}

impl Drop for RequestCopy {
    fn drop(&mut self) {
        self.worker.mirrors.leave(self.held);
        self.to().outcomes.shards[self.worker.id].copies[self.outcome as usize].add(1);
    }
}

/// Takes a piece of the body along, or drops the copy where that exceeds a bound.
#[cold]
pub(super) fn collect(mut copy: Box<RequestCopy>, frame: &Frame<Bytes>) -> Option<Box<RequestCopy>> {
    match copy.add(frame) {
        Ok(()) => Some(copy),
        Err(outcome) => {
            copy.outcome = outcome;
            None
        }
    }
}

/// Sends the copy in a task of its own, which does not begin before the running one has gone as far as it can.
pub(super) fn launch(copy: Option<Box<RequestCopy>>) {
    if let Some(copy) = copy {
        spawn(copy);
    }
}

#[cold]
fn spawn(copy: Box<RequestCopy>) {
    drop(tokio::task::spawn_local(send(copy)));
}

async fn send(mut copy: Box<RequestCopy>) {
    copy.outcome = Copied::Failed;
    let deadline = Watch::new(&copy.worker.clock);
    let end = copy.worker.clock.now().after(copy.to().mirror.timeout);
    deadline.due_at(end);
    let outcome = within(&deadline, exchange(&mut copy, end)).await;
    copy.outcome = outcome.unwrap_or(Copied::Failed);
}

async fn exchange(copy: &mut RequestCopy, end: Tick) -> Copied {
    let mut request = copy.request();
    let to = copy.to();
    let pool = &copy.local.pools[to.mirror.pool];
    let Some(_place) = pool.copy_place(to.shares_pool) else { return Copied::Overload };
    let mut closed_fresh = false;
    loop {
        let mut lease = match pool.lease::<GIVE_UP>(end, &copy.worker.rng, None, &[], copy.key).await {
            Ok(lease) => lease,
            Err(Failure::Queue) => return Copied::Overload,
            Err(_) => return Copied::Failed,
        };
        name_host(&mut request, &lease);
        let fresh = lease.is_fresh();
        match lease.send(request, |_| Poll::Pending).await {
            Ok(Sent::Answered(response)) => return drop_answer(response, lease).await,
            Ok(Sent::Unsent(unsent)) if !(fresh && closed_fresh) => {
                closed_fresh |= fresh;
                request = *unsent;
            }
            _ => return Copied::Failed,
        }
    }
}

/// Reads the answer to its end, so that the connection can be used again; a long one is not worth it.
async fn drop_answer(mut response: Response<Incoming>, lease: Lease) -> Copied {
    if vet::answer(&mut response, None).is_err() {
        lease.close();
        return Copied::Failed;
    }
    let mut incoming = response.into_body();
    let mut lease = Some(lease);
    let mut left = MIRROR_ANSWER_BYTES;
    while !incoming.is_end_stream() {
        match std::future::poll_fn(|cx| body::poll_target(&mut incoming, &mut lease, cx)).await {
            None => break,
            Some(Err(_)) => return Copied::Failed,
            Some(Ok(frame)) => {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else {
                    lease.into_iter().for_each(Lease::close);
                    return Copied::Answered;
                };
                left = rest;
            }
        }
    }
    Copied::Answered
}

/// What headers cost a copy, in bytes.
fn footprint(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES).sum()
}

/// The same headers, with their values in memory of their own.
fn detached(headers: &HeaderMap) -> HeaderMap {
    let mut values = BytesMut::with_capacity(headers.values().map(HeaderValue::len).sum());
    headers.values().for_each(|value| values.extend_from_slice(value.as_bytes()));
    let mut values = values.freeze();
    // One more than it has, for the copy's own.
    let mut copied = HeaderMap::with_capacity(headers.len() + 1);
    for (name, value) in headers {
        let own = HeaderValue::from_maybe_shared(values.split_to(value.len()));
        // What was a value once is one again.
        copied.append(name.clone(), own.unwrap_or_else(|_| value.clone()));
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn the_budget_ends_where_it_says_and_gives_back_what_it_took() {
        let budget = Budget::default();
        assert!((0..MIRRORS_PER_WORKER).all(|_| budget.enter()));
        assert!(!budget.enter());
        assert!(budget.hold(MIRROR_BYTES_PER_WORKER - 1) && budget.hold(1));
        assert!(!budget.hold(1) && budget.hold(0));
        budget.leave(MIRROR_BYTES_PER_WORKER);
        assert!(budget.enter() && !budget.enter());
        assert!(budget.hold(MIRROR_BYTES_PER_WORKER) && !budget.hold(usize::MAX));
    }

    #[test]
    fn detached_headers_are_the_same_in_the_same_order_and_share_nothing() {
        let buffer = Bytes::from(vec![b'v'; 100_000]);
        let mut headers = HeaderMap::new();
        for (at, name) in ["cookie", "x-b", "x-a", "x-b", "accept"].into_iter().enumerate() {
            let value = HeaderValue::from_maybe_shared(buffer.slice(at..2 * at + 3)).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers.append("x-high", HeaderValue::from_bytes(b"\xff\xfe caf\xe9").unwrap());
        let copied = detached(&headers);
        assert_eq!(headers.iter().collect::<Vec<_>>(), copied.iter().collect::<Vec<_>>());
        drop(headers);
        assert!(buffer.is_unique(), "a copied value still holds the read buffer");
        assert!(footprint(&copied) > 6 * HEADER_BYTES);
    }
}
