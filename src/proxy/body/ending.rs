//! What ends an answer before its target does: its client has moved, the request's time is over, or nothing comes any
//! more.
//!
//! Over HTTP/1.1 the client's connection sees to the last of these. Over HTTP/2 other streams may move beside an answer
//! that stands still, so that the answer itself has to.

use super::super::clock::{Tick, Watch};
use super::super::exchange::Exchange;
use super::super::stay::Endless;
use super::super::upstream::Lease;
use super::{Broken, ResponseBody, Source};
use crate::boundary::outcomes::{Reason, Timeout};
use crate::routing::table::Decision;
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use std::task::{Context, Poll};

/// Of the few answers that have one.
#[derive(Default)]
pub(in crate::proxy) struct Ending {
    endless: Option<Box<Endless>>,
    /// When the time for all of the request is over.
    until: Option<Watch>,
    /// While nothing comes: when that has lasted too long.
    still: Option<Watch>,
    /// `still` of the poll before this one.
    was_still: Option<Watch>,
}

impl Ending {
    #[inline(always)]
    pub(in crate::proxy) fn of(exchange: &Exchange, decision: &Decision, headers: &HeaderMap) -> Option<Box<Ending>> {
        // One branch for both.
        if (exchange.until == Tick::NEVER) & !exchange.may_be_endless() {
            return None;
        }
        Ending::begin(exchange, decision, headers)
    }

    #[inline(never)]
    fn begin(exchange: &Exchange, decision: &Decision, headers: &HeaderMap) -> Option<Box<Ending>> {
        let endless = Endless::of(exchange, decision, headers);
        let until = (exchange.until != Tick::NEVER).then(|| {
            let watch = Watch::new(&exchange.client.worker.clock);
            watch.due_at(exchange.until);
            watch
        });
        (endless.is_some() || until.is_some()).then(|| Box::new(Ending { endless, until, ..Ending::default() }))
    }
}

/// What a poll of an answer's body comes to.
type Polled = Poll<Option<Result<Frame<Bytes>, Broken>>>;

impl ResponseBody {
    /// May be ended before its target ends it.
    pub(in crate::proxy) fn ending(mut self, ending: Option<Box<Ending>>) -> ResponseBody {
        self.ending = ending;
        self
    }

    /// Before each poll of an answer that has an [`Ending`]: what to answer it with if that is over now.
    #[inline(never)]
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Option<Polled> {
        let (Some(ending), Some(exchange)) = (&mut self.ending, &mut self.exchange) else { return None };
        ending.was_still = ending.still.take();
        if let Some(endless) = &mut ending.endless
            && let Poll::Ready(last) = endless.poll_over(exchange, cx)
        {
            ending.endless = None;
            self.leave_target();
            // A compressor has its own end to write.
            return self.compressor.is_none().then(|| {
                self.finish();
                Poll::Ready(last.map(Ok))
            });
        }
        if ending.until.as_ref().is_some_and(|until| until.poll(cx).is_ready()) {
            return Some(self.poll_late(Timeout::Request, cx));
        }
        None
    }

    /// Nothing has come. Pending, unless that has lasted too long.
    #[inline(always)]
    pub(super) fn poll_still(&mut self, cx: &mut Context<'_>) -> Polled {
        match &self.exchange {
            Some(exchange) if exchange.client.is_http2() && !exchange.is_grpc() => self.poll_still_stream(cx),
            _ => Poll::Pending,
        }
    }

    /// A gRPC call may stand still for as long as its client answers pings.
    #[inline(never)]
    fn poll_still_stream(&mut self, cx: &mut Context<'_>) -> Polled {
        let (Some(exchange), Source::Target { upload, .. }) = (&self.exchange, &self.source) else {
            return Poll::Pending;
        };
        let (worker, ending) = (&exchange.client.worker, self.ending.get_or_insert_default());
        let patience = worker.limits().body_idle_timeout;
        let watch = ending.was_still.take().unwrap_or_else(|| {
            let watch = Watch::new(&worker.clock);
            watch.due_after(patience);
            watch
        });
        let upload = upload.as_ref().filter(|upload| !upload.is_done());
        while watch.poll(cx).is_ready() {
            // The request's body may be on its way yet.
            let due = upload.map_or(worker.clock.now(), |upload| upload.moved().after(patience));
            if due <= worker.clock.now() {
                let by_client = upload.is_some_and(|upload| upload.is_starved());
                return self.poll_late(if by_client { Timeout::Client } else { Timeout::Body }, cx);
            }
            watch.due_at(due);
        }
        ending.still = Some(watch);
        Poll::Pending
    }

    /// The answer is cut where a time is over. The target is left as if the client had gone.
    #[cold]
    fn poll_late(&mut self, timeout: Timeout, cx: &mut Context<'_>) -> Polled {
        self.ending = None;
        self.leave_target();
        if let Some(exchange) = &self.exchange {
            exchange.timed_out(Some(timeout));
        }
        let reason = if timeout == Timeout::Client { Reason::ClientAbort } else { Reason::Timeout };
        self.poll_cut(reason, cx)
    }

    fn leave_target(&mut self) {
        if let Source::Target { lease, upload, .. } = std::mem::replace(&mut self.source, Source::Own(None)) {
            lease.into_iter().for_each(Lease::close);
            upload.iter().for_each(|upload| upload.give_up());
        }
    }
}
