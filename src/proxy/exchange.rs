//! One request from its head to the last byte of its answer, counted exactly once.
//!
//! The count happens in `Drop`, wherever the request ends: answered whole, cut by the client, or abandoned when its
//! connection goes. Nothing else writes these counters.

use super::clock::Tick;
use super::connection::Client;
use super::failure::Failure;
use super::filter::Filtered;
use super::grpc;
use super::judged::Place;
use super::worker::Local;
use crate::boundary::compress::CompressShard;
use crate::boundary::outcomes::{Code, Reason, Timeout, VariantShard};
use crate::routing::sticky::KeyFound;
use crate::routing::table::Decision;
use http::{HeaderMap, HeaderValue};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(super) struct Exchange {
    pub(super) client: Rc<Client>,
    pub(super) local: Rc<Local>,
    pub(super) route: usize,
    pub(super) variant: usize,
    pub(super) keys: Keys,
    /// None for most routes; set before the request is sent.
    pub(super) filtered: Option<Box<Filtered>>,
    forced: bool,
    started: Instant,
    code: Code,
    reason: Option<Reason>,
    whole: bool,
    /// When all of it is to be over; for most routes never.
    pub(super) until: Tick,
    /// What the variant is charged with, where the baseline answers instead.
    charged: Option<Charge>,
    /// A gRPC call: its outcome is its status, not the head's.
    grpc: bool,
    /// None for most requests: no rollout is judged by them.
    flight: Option<Place>,
}

/// What a request is known by, for pools that choose by it; 0 for the others.
#[derive(Clone, Copy, Default)]
pub(super) struct Keys {
    /// For the pool of its variant.
    pub(super) own: u64,
    /// For the baseline's, which may rescue it.
    pub(super) baseline: u64,
    /// For the mirror's.
    pub(super) mirror: u64,
}

/// How a variant failed a request that was rescued.
#[derive(Clone, Copy)]
struct Charge {
    code: Code,
    reason: Option<Reason>,
    /// From the request's head to the failure.
    elapsed_us: u64,
}

impl Exchange {
    pub(super) fn begin(
        client: Rc<Client>,
        local: Rc<Local>,
        decision: &Decision,
        keys: Keys,
        started: Instant,
    ) -> Exchange {
        let Decision { route, variant, forced, .. } = *decision;
        let until = local.published.routing.routes()[route].request_timeout;
        let until = until.map_or(Tick::NEVER, |within| client.worker.clock.now().after(within));
        let mut exchange = Exchange {
            client,
            local,
            route,
            variant,
            keys,
            filtered: None,
            forced,
            started,
            code: Code::None,
            reason: None,
            whole: false,
            until,
            charged: None,
            grpc: false,
            flight: None,
        };
        exchange.shard().in_flight.add(1);
        exchange.client.in_flight.set(exchange.client.in_flight.get() + 1);
        exchange.be_judged(decision);
        exchange
    }

    /// Counts for the judge of the route's rollout, if there is one: requests that the route's weights sent, and no others.
    #[inline]
    fn be_judged(&mut self, decision: &Decision) {
        if let Some(seat) = self.local.judged.of(self.route, self.variant)
            && decision.rule.is_none()
        {
            let stays = decision.key.as_ref().is_some_and(|key| *key != KeyFound::Random);
            let key = decision.bucket.filter(|_| stays).map(|bucket| bucket.index());
            self.flight = Some(self.client.worker.flights.begin(seat, self.started, key));
        }
    }

    /// What the judge is told at the end.
    fn judged(&mut self, code: Code, reason: Option<Reason>) {
        if let Some(flight) = self.flight.take() {
            let failed = code == Code::ServerError || reason.is_some_and(|reason| reason != Reason::ClientAbort);
            self.client.worker.flights.end(flight, self.client.worker.id, failed);
        }
    }

    pub(super) fn shard(&self) -> &VariantShard {
        &self.local.published.outcomes[self.route][self.variant].shards[self.client.worker.id]
    }

    /// None for a route that does not compress.
    pub(super) fn compress_shard(&self) -> Option<&CompressShard> {
        let outcomes = self.local.published.compressed[self.route].as_ref()?;
        Some(&outcomes.shards[self.client.worker.id])
    }

    /// The route's own changes to its answers, Weir's errors among them.
    pub(super) fn edit_answer(&self, headers: &mut http::HeaderMap) {
        if let Some(filtered) = &self.filtered {
            filtered.edit_answer(self.answered_by(), headers);
        }
    }

    /// The response head is handed on.
    pub(super) fn answered(&mut self, status: http::StatusCode) {
        debug_assert_eq!(self.code, Code::None, "one answer a request");
        self.code = match Code::of_status(status.as_u16()) {
            Code::Success if self.grpc => Code::ServerError,
            code => code,
        };
        self.client.answering.set(self.client.answering.get() + 1);
    }

    pub(super) fn targets_speak_http2(&self) -> bool {
        let published = &self.local.published;
        let pool = published.routing.routes()[self.route].variants[self.variant].pool;
        pool.is_some_and(|pool| published.pools[pool].http2)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    pub(super) fn set_grpc(&mut self, grpc: bool) {
        self.grpc = grpc;
    }

    /// A gRPC answer's status has come, in the head or in the trailers. Until then an answer with the head of a good one
    /// counts as one that failed.
    pub(super) fn grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc {
            self.code = grpc::code(headers).unwrap_or(self.code);
        }
    }

    /// The variant whose answer the client gets.
    fn answered_by(&self) -> usize {
        if self.charged.is_some() { 0 } else { self.variant }
    }

    /// The request is the baseline's from now on; its variant has failed it, and is counted with this.
    pub(super) fn charge(&mut self, status: u16, failure: Option<Failure>) {
        let elapsed_us = micros(self.started.elapsed());
        let reason = failure.and_then(Failure::reason);
        self.timed_out(failure.and_then(Failure::timeout));
        let code = Code::of_status(status);
        self.charged = Some(Charge { code, reason, elapsed_us });
        self.judged(code, reason);
    }

    pub(super) fn is_charged(&self) -> bool {
        self.charged.is_some()
    }

    /// Says that the answer is the baseline's, where the route wants that said.
    pub(super) fn mark_rescued(&self, headers: &mut HeaderMap) {
        if self.charged.is_none() {
            return;
        }
        let route = &self.local.published.routing.routes()[self.route];
        let rescue = route.recovery.as_ref().and_then(|recovery| recovery.rescue.as_ref());
        let header = rescue.and_then(|rescue| rescue.header.as_ref());
        if let (Some(name), Ok(variant)) = (header, HeaderValue::from_str(&route.variants[self.variant].name)) {
            headers.insert(name.clone(), variant);
        }
    }

    /// The route has an answer end whose client has moved.
    #[inline(always)]
    pub(super) fn may_be_endless(&self) -> bool {
        self.local.published.routing.routes()[self.route].close_moved_within.is_some()
    }

    pub(super) fn is_forced(&self) -> bool {
        self.forced
    }

    /// The route's, to the response head.
    pub(super) fn timeout(&self) -> Duration {
        self.local.published.routing.routes()[self.route].timeout
    }

    /// The call is ended because its client has moved: the variant is not to blame.
    pub(super) fn let_go(&mut self) {
        self.code = Code::ClientError;
    }

    pub(super) fn failed(&mut self, reason: Option<Reason>) {
        self.reason = reason;
    }

    /// Counts which time was over, unless the baseline stands in for the variant.
    pub(super) fn timed_out(&self, timeout: Option<Timeout>) {
        if let (Some(timeout), None) = (timeout, &self.charged) {
            self.shard().timeouts[timeout as usize].add(1);
        }
    }

    /// The answer's last byte is handed on; an exchange dropped without this was cut by the client.
    pub(super) fn finished(&mut self) {
        self.client.pulse.answered();
        self.whole = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let own = || Charge { code: self.code, reason: self.reason, elapsed_us: micros(self.started.elapsed()) };
        let Charge { code, reason, elapsed_us } = self.charged.unwrap_or_else(own);
        let shard = self.shard();
        shard.in_flight.sub(1);
        shard.requests[usize::from(self.forced)][code as usize].add(1);
        shard.duration.observe_us(elapsed_us);
        let reason = match reason {
            None if !self.whole => {
                let late = self.client.late();
                self.timed_out(late);
                Some(if late == Some(Timeout::Body) { Reason::Timeout } else { Reason::ClientAbort })
            }
            reason => reason,
        };
        if let Some(reason) = reason {
            shard.errors[reason as usize].add(1);
        }
        self.judged(code, reason);
        if self.code != Code::None {
            self.client.answering.set(self.client.answering.get() - 1);
        }
        self.client.in_flight.set(self.client.in_flight.get() - 1);
        self.client.request_ended();
    }
}

pub(super) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
