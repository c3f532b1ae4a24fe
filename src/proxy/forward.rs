//! From a decided request to the target's response head: a connection, the request on it, and time.

use super::body::{RequestBody, Upload};
use super::clock::{Tick, Watch};
use super::connection::Client;
use super::exchange::{Exchange, micros};
use super::failure::Failure;
use super::grpc;
use super::headers;
use super::mirror::{self, RequestCopy};
use super::upstream::pool::QUEUE;
use super::upstream::{self, Lease, Sent};
use super::vet;
use crate::limits::REFUSALS;
use http::header::HeaderValue;
use http::{Method, Request};
use hyper::body::Incoming;
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A client that waits for 100 (Continue) is asked for its body anyway after this long (RFC 9110 §10.1.1: it may be
/// that the target never says so).
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// The target's answer, and the connection that its body still comes on.
pub(super) struct Answer {
    pub(super) response: http::Response<Incoming>,
    pub(super) lease: Lease,
    /// The request's body, where it is still under way: the target answered early.
    pub(super) upload: Option<Rc<Upload>>,
}

/// Sends the request to a target of the exchange's variant and waits for the response head. `copy` is for the route's
/// mirror, where the request has no body that would take it along.
pub(super) async fn send(
    exchange: &Exchange,
    mut request: Request<RequestBody>,
    upload: Option<Rc<Upload>>,
    upgrade: Option<&HeaderValue>,
    mut copy: Option<Box<RequestCopy>>,
    handed_over: Instant,
) -> Result<Answer, Failure> {
    let local = Rc::clone(&exchange.local);
    let route = &local.published.routing.routes()[exchange.route];
    let Some(pool) = route.variants[exchange.variant].pool.map(|pool| &local.pools[pool]) else {
        return Err(Failure::NoTarget);
    };
    sent_by_this_task(upload.as_deref()).await;
    let asked = if exchange.is_grpc() { grpc::deadline(request.headers()) } else { None };
    let waiting = Waiting::new(exchange, upload, asked.map_or(route.timeout, |asked| asked.min(route.timeout)));
    waiting.expect_interim(&mut request);
    let mut closed_fresh = false;
    let mut refused = 0;
    loop {
        let client = &exchange.client;
        let mut lease = pool.lease::<QUEUE>(waiting.end, &client.worker.rng, Some(client)).await?;
        waiting.leased();
        name_host(&mut request, &lease);
        let fresh = lease.is_fresh();
        if upgrade.is_some() {
            lease.will_switch();
        }
        if let Some(upload) = &waiting.upload {
            upload.goes_on_stream(lease.is_stream());
        }
        let bodiless = matches!(request.body(), RequestBody::Empty);
        let may_repeat = lease.is_stream() || lease.may_be_stale() && is_repeatable(&request);
        let again = may_repeat.then(|| second(&request));
        // Its task runs when this one has written the request.
        mirror::launch(copy.take());
        match lease.send(request, |cx| waiting.poll(cx)).await {
            Ok(Sent::Answered(response)) => {
                let (response, lease) = vetted(response, lease, upgrade, &pool.shared.name)?;
                exchange.shard().upstream.observe_us(micros(handed_over.elapsed()));
                let upload = waiting.upload.filter(|upload| !upload.is_done());
                upload.iter().for_each(|upload| upload.forget());
                return Ok(Answer { response, lease, upload });
            }
            Ok(Sent::Unsent(unsent)) => {
                // A target that takes connections only to close them would have us open them for ever.
                refused += usize::from(lease.is_stream());
                if fresh && closed_fresh || refused > REFUSALS {
                    return Err(Failure::Reset);
                }
                closed_fresh |= fresh;
                request = *unsent;
            }
            Ok(Sent::Failed { error, untouched }) => {
                refused += usize::from(untouched);
                let again = again.filter(|_| !lease.is_stream() || untouched && refused <= REFUSALS);
                match again.and_then(|again| waiting.with_body(again, bodiless)) {
                    Some(again) => request = again,
                    None => return Err(waiting.broken(&lease, &pool.shared.name, &error)),
                }
            }
            Err(failure) => {
                lease.target().log_failure(&pool.shared.name, "request given up", &failure.detail());
                return Err(failure);
            }
        }
        exchange.shard().retries.add(1);
        waiting.expect_interim(&mut request);
    }
}

/// The answer and its connection, if it may be passed on.
#[inline(always)]
fn vetted(
    mut response: http::Response<Incoming>,
    lease: Lease,
    upgrade: Option<&HeaderValue>,
    pool: &str,
) -> Result<(http::Response<Incoming>, Lease), Failure> {
    if let Err(fault) = vet::answer(&mut response, upgrade) {
        lease.target().log_failure(pool, "answer refused", &fault.describe());
        lease.close();
        return Err(Failure::BadResponse);
    }
    Ok((response, lease))
}

async fn sent_by_this_task(upload: Option<&Upload>) {
    if let Some(upload) = upload {
        std::future::poll_fn(|cx| {
            upload.sent_by(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// An HTTP/1.0 client may name no host; the target's own name stands in.
#[inline(always)]
pub(super) fn name_host(request: &mut Request<RequestBody>, lease: &Lease) {
    if request.headers().contains_key(http::header::HOST) {
        return;
    }
    if let Ok(host) = HeaderValue::from_str(lease.target().host()) {
        request.headers_mut().insert(http::header::HOST, host);
    }
}

/// Safe to send twice, and nothing of the client's body is needed for it (RFC 9110 §9.2.2).
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && matches!(request.body(), RequestBody::Empty)
}

fn second(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// What the wait for a response head sees to: time, interim responses, and a body held back.
struct Waiting {
    client: Rc<Client>,
    upload: Option<Rc<Upload>>,
    timeout: Duration,
    /// When the route's time is over, counted from the request's head.
    end: Tick,
    /// First for the connection, then for the body's progress, and once that has gone out for the response head.
    deadline: Watch,
    answering: Cell<bool>,
    hold: Option<Watch>,
    /// The client waits for a 100 (Continue), which hyper sends it when the body is read.
    owes_continue: Cell<bool>,
}

impl Waiting {
    /// Says why the connection broke, to the log and for the answer.
    fn broken(&self, lease: &Lease, pool: &str, error: &hyper::Error) -> Failure {
        let failure = self.blame(upstream::failure_of(error));
        lease.target().log_failure(pool, failure.detail(), &upstream::in_words(error));
        failure
    }

    fn new(exchange: &Exchange, upload: Option<Rc<Upload>>, timeout: Duration) -> Waiting {
        let client = Rc::clone(&exchange.client);
        let deadline = Watch::new(&client.worker.clock);
        let hold = upload.as_ref().is_some_and(|upload| upload.is_held()).then(|| Watch::new(&client.worker.clock));
        if let Some(hold) = &hold {
            hold.due_after(CONTINUE_AFTER);
        }
        let end = client.worker.clock.now().after(timeout);
        deadline.due_at(end);
        let answering = Cell::new(upload.is_none());
        let owes_continue = Cell::new(hold.is_some());
        Waiting { client, upload, timeout, end, deadline, answering, hold, owes_continue }
    }

    /// There is a connection: the route's time ran while it was found; the time for the body's progress begins now.
    fn leased(&self) {
        if !self.answering.get() {
            self.deadline.due_after(self.client.worker.limits().body_idle_timeout);
        }
    }

    /// Interim responses are told of where they are passed on, or let a body go.
    fn expect_interim(&self, request: &mut Request<RequestBody>) {
        if self.client.takes_interim() || self.hold.is_some() {
            interim::expect(request);
        }
    }

    /// Ready when the wait is over without an answer.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        let asked = interim::relay(&self.client, &self.owes_continue);
        if let (Some(upload), Some(hold)) = (&self.upload, &self.hold)
            && upload.is_held()
            && (asked || hold.poll(cx).is_ready())
        {
            upload.release();
            cx.waker().wake_by_ref();
        }
        self.poll_time(cx)
    }

    fn poll_time(&self, cx: &mut Context<'_>) -> Poll<Failure> {
        let upload_done = self.upload.as_ref().is_none_or(|upload| upload.is_done());
        if upload_done && !self.answering.replace(true) {
            self.deadline.due_after(self.timeout);
        }
        while self.deadline.poll(cx).is_ready() {
            if self.answering.get() {
                return Poll::Ready(Failure::ResponseTimeout);
            }
            let worker = &self.client.worker;
            let due = self.client.pulse.moved().after(worker.limits().body_idle_timeout);
            if due <= worker.clock.now() {
                let starved = self.upload.as_ref().is_some_and(|upload| upload.is_starved());
                return Poll::Ready(if starved { Failure::BodyTimeout } else { Failure::ResponseTimeout });
            }
            self.deadline.due_at(due);
        }
        Poll::Pending
    }

    /// A second request with the body of the first. None where that is no longer there.
    fn with_body(&self, mut request: Request<RequestBody>, bodiless: bool) -> Option<Request<RequestBody>> {
        if !bodiless {
            *request.body_mut() = self.upload.as_ref()?.again()?;
        }
        Some(request)
    }

    /// The client's own failure, where its body was at fault.
    fn blame(&self, failure: Failure) -> Failure {
        self.upload.as_ref().and_then(|upload| upload.failure()).unwrap_or(failure)
    }
}

/// Interim (1xx) responses: hyper's client tells of them while it is polled, and its server can't send them. Both
/// happen in one step of one task, so that what is queued on the thread belongs to the request being polled.
mod interim {
    use super::Client;
    use http::{HeaderMap, StatusCode, header};
    use std::cell::{Cell, RefCell};

    thread_local! {
        static SEEN: RefCell<Vec<(StatusCode, HeaderMap)>> = const { RefCell::new(Vec::new()) };
    }

    /// Asks hyper to tell; what it tells is relayed right after the poll in which it came.
    pub(super) fn expect<B>(request: &mut http::Request<B>) {
        hyper::ext::on_informational(request, |interim| {
            SEEN.with_borrow_mut(|seen| seen.push((interim.status(), interim.headers().clone())));
        });
    }

    /// Passes on what came, all but the 100 (Continue) that hyper sends by itself; true when that one came.
    pub(super) fn relay(client: &Client, owes_continue: &Cell<bool>) -> bool {
        SEEN.with_borrow_mut(|seen| {
            let mut asked = false;
            for (status, headers) in seen.drain(..) {
                if status == StatusCode::CONTINUE && owes_continue.replace(false) {
                    asked = true;
                } else if client.takes_interim() {
                    client.pulse.send_interim(&encode(status, headers));
                }
            }
            asked
        })
    }

    fn encode(status: StatusCode, mut headers: HeaderMap) -> Vec<u8> {
        super::headers::for_client(&mut headers);
        headers.remove(header::CONTENT_LENGTH);
        let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or("Interim"));
        head.reserve(headers.len() * 40);
        let mut head = head.into_bytes();
        for (name, value) in &headers {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                head.extend_from_slice(piece);
            }
        }
        head.extend_from_slice(b"\r\n");
        head
    }
}
