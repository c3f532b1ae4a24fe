//! Whether what outlives the table that routed it may stay with its variant: tunnels, and answers without a foreseeable
//! end.
//!
//! A route's `on_move` asks for it: who has moved to another variant is let go within a time, each at a random moment of
//! it, so that a rollback empties the canary without all clients coming back at once. A drain moves everybody.

use super::clock::{Tick, Watch};
use super::exchange::Exchange;
use super::grpc;
use super::worker::Worker;
use crate::boundary::table::Published;
use crate::routing::split::Bucket;
use crate::routing::table::Decision;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http_body::Frame;
use rand::RngExt;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// How often it is looked whether a client still belongs to its variant.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a call that was let go is told. Clients of long calls begin them anew at UNAVAILABLE, and get the variant that
/// is theirs now.
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");
const MOVED: HeaderValue = HeaderValue::from_static("moved to another version");

/// A client's place with its variant, looked at again as tables come.
pub(super) struct Stay {
    within: Duration,
    route: usize,
    variant: usize,
    route_name: String,
    variant_name: String,
    /// None for a client that a rule sent here: weights do not move it.
    bucket: Option<Bucket>,
    serial: u64,
    looked: Tick,
    /// When it ends: the client has moved away.
    due: Option<Tick>,
}

impl Stay {
    /// None where the route keeps what is open.
    pub(super) fn of(exchange: &Exchange, decision: &Decision) -> Option<Stay> {
        let published = &exchange.local.published;
        let route = &published.routing.routes()[exchange.route];
        Some(Stay {
            within: route.close_moved_within?,
            route: exchange.route,
            variant: exchange.variant,
            route_name: route.name.clone(),
            variant_name: route.variants[exchange.variant].name.clone(),
            bucket: decision.bucket.filter(|_| decision.rule.is_none()),
            serial: published.serial,
            looked: exchange.client.worker.clock.now(),
            due: None,
        })
    }

    pub(super) fn is_over(&mut self, worker: &Worker, now: Tick) -> bool {
        if self.due.is_none() && worker.draining.get() {
            self.let_go(worker, worker.drain_began.get());
        }
        if self.due.is_none() && self.looked.after(LOOK_EVERY) <= now {
            self.looked = now;
            let published = &worker.local().published;
            if published.serial != self.serial {
                self.serial = published.serial;
                if !self.belongs(published) {
                    self.let_go(worker, now);
                }
            }
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// At a random moment of the route's time.
    fn let_go(&mut self, worker: &Worker, from: Tick) {
        let share: f64 = worker.rng.borrow_mut().random();
        self.due = Some(from.after(self.within.mul_f64(share)));
    }

    /// Whether the client would get this variant today.
    fn belongs(&mut self, published: &Published) -> bool {
        let routes = published.routing.routes();
        let same = routes.get(self.route).is_some_and(|route| route.name == self.route_name);
        let found = if same { Some(self.route) } else { routes.iter().position(|route| route.name == self.route_name) };
        let Some(index) = found else { return false };
        let route = &routes[index];
        let Some(variant) = route.variants.iter().position(|variant| variant.name == self.variant_name) else {
            return false;
        };
        (self.route, self.variant) = (index, variant);
        self.bucket.is_none_or(|bucket| route.may_stay(bucket, variant))
    }

    pub(super) fn next_look(&self, now: Tick) -> Tick {
        self.due.unwrap_or_else(|| now.after(LOOK_EVERY))
    }
}

/// An answer that may go on for ever, and what to say when it ends because its client has moved.
pub(super) struct Endless {
    stay: Stay,
    worker: Rc<Worker>,
    watch: Watch,
    is_call: bool,
}

impl Endless {
    /// A gRPC answer, or events for a browser (`text/event-stream`), which both ask again by themselves. None for all
    /// others, which come to their end, and where the route keeps what is open.
    #[cold]
    pub(super) fn of(exchange: &Exchange, decision: &Decision, headers: &HeaderMap) -> Option<Box<Endless>> {
        let is_call = exchange.is_grpc();
        if !is_call && !is_events(headers) {
            return None;
        }
        let worker = Rc::clone(&exchange.client.worker);
        let watch = Watch::new(&worker.clock);
        Some(Box::new(Endless { stay: Stay::of(exchange, decision)?, worker, watch, is_call }))
    }

    /// Ready when it is to end, with what ends it. The exchange is told how it is counted: to the target it is as if
    /// the client had cancelled.
    pub(super) fn poll_over(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            let now = self.worker.clock.now();
            if self.stay.is_over(&self.worker, now) {
                exchange.client.leave();
                return Poll::Ready(self.is_call.then(|| {
                    exchange.let_go();
                    Frame::trailers(HeaderMap::from_iter([(grpc::STATUS, UNAVAILABLE), (grpc::MESSAGE, MOVED)]))
                }));
            }
            self.watch.due_at(self.stay.next_look(now));
            ready!(self.watch.poll(cx));
        }
    }
}

/// Events may end anywhere; with a length they may not.
fn is_events(headers: &HeaderMap) -> bool {
    let rest = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"text/event-stream"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b';' | b' ')))
        && !headers.contains_key(header::CONTENT_LENGTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_known_by_their_type_and_have_no_length() {
        let headers = |lines: &[(header::HeaderName, &'static str)]| {
            HeaderMap::from_iter(lines.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))))
        };
        assert!(is_events(&headers(&[(header::CONTENT_TYPE, "text/event-stream")])));
        assert!(is_events(&headers(&[(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")])));
        assert!(!is_events(&headers(&[(header::CONTENT_TYPE, "text/event-streams")])));
        assert!(!is_events(&headers(&[(header::CONTENT_TYPE, "text/event-stream"), (header::CONTENT_LENGTH, "5")])));
        assert!(!is_events(&HeaderMap::new()));
    }
}
