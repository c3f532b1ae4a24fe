//! From a decided request to the target's response head: a connection, the request on it, and time.

use super::body::{RequestBody, Upload};
use super::clock::{Tick, Watch};
use super::connection::Client;
use super::exchange::{Exchange, micros};
use super::failure::Failure;
use super::headers;
use super::mirror::{self, RequestCopy};
use super::patience;
use super::upstream::pool::{LocalPool, QUEUE};
use super::upstream::{self, Lease, LocalTarget, Sent};
use super::vet;
use crate::limits::REFUSALS;
use crate::routing::outlier::Seen;
use http::header::HeaderValue;
use http::{Method, Request};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A client that waits for 100 (Continue) is asked for its body anyway after this long (RFC 9110 §10.1.1: it may be
/// that the target never says so).
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// For [`send`]: the one attempt of most requests.
pub(super) const ONCE: bool = false;
/// For [`send`]: one of perhaps several, of which `recover` decides.
pub(super) const AGAIN: bool = true;

/// A request on its way to a target.
pub(super) struct Outgoing<'r> {
    pub(super) request: Request<RequestBody>,
    pub(super) upload: Option<Rc<Upload>>,
    /// What it offers to switch to.
    pub(super) upgrade: Option<&'r HeaderValue>,
    /// For the route's mirror, where the request has no body that would take it along.
    pub(super) copy: Option<Box<RequestCopy>>,
    pub(super) handed_over: Instant,
}

/// One of a request's attempts, and what is to be known of it when it failed.
pub(super) struct Attempt {
    pub(super) variant: usize,
    /// To the response head; None: the route's.
    pub(super) timeout: Option<Duration>,
    /// When all attempts together are to be over.
    pub(super) until: Option<Tick>,
    /// Until when the client waits, where it says so.
    pub(super) asked: Tick,
    /// Targets that have had the request.
    pub(super) tried: RefCell<Vec<*const LocalTarget>>,
    /// The request, where no target saw anything of it.
    pub(super) unsent: Cell<Option<Box<Request<RequestBody>>>>,
    /// The connection had served before, and went without an answer (RFC 9112 §9.3.1).
    pub(super) stale: Cell<bool>,
}

impl Attempt {
    pub(super) fn new(variant: usize) -> Attempt {
        Attempt {
            variant,
            timeout: None,
            until: None,
            asked: Tick::NEVER,
            tried: RefCell::default(),
            unsent: Cell::new(None),
            stale: Cell::new(false),
        }
    }
}

#[cold]
fn not_sent(attempt: Option<&Attempt>, request: Request<RequestBody>, failure: Failure) -> Failure {
    if let Some(attempt) = attempt {
        attempt.unsent.set(Some(Box::new(request)));
    }
    failure
}

/// The target's answer, and the connection that its body still comes on.
pub(super) struct Answer {
    pub(super) response: http::Response<Incoming>,
    pub(super) lease: Lease,
    /// The request's body: it may be under way still, where the target answered early.
    pub(super) upload: Option<Rc<Upload>>,
}

/// Sends the request to a target of its variant and waits for the response head. The choice is a constant so that
/// requests of one attempt, which have no [`Attempt`], have a copy of this to themselves.
pub(super) async fn send<const REPEATED: bool>(
    exchange: &Exchange,
    outgoing: Outgoing<'_>,
    attempt: Option<&Attempt>,
) -> Result<Answer, Failure> {
    let Outgoing { mut request, upload, upgrade, mut copy, handed_over } = outgoing;
    let attempt = attempt.filter(|_| REPEATED);
    let local = Rc::clone(&exchange.local);
    let route = &local.published.routing.routes()[exchange.route];
    let variant = attempt.map_or(exchange.variant, |attempt| attempt.variant);
    let Some(pool) = route.variants[variant].pool.map(|pool| &local.pools[pool]) else {
        return Err(Failure::NoTarget);
    };
    let key = if variant == exchange.variant { exchange.keys.own } else { exchange.keys.baseline };
    sent_by_this_task(upload.as_deref()).await;
    let asked = match attempt {
        Some(attempt) => attempt.asked,
        None => patience::asked(exchange, request.headers()),
    };
    let waiting = Waiting::new(exchange, upload, Times::of(route.timeout, asked, attempt));
    waiting.expect_interim(&mut request);
    let mut tries = Tries { attempt, closed_fresh: false, refused: 0 };
    loop {
        let client = &exchange.client;
        let avoided = attempt.map_or(Vec::new(), |attempt| attempt.tried.borrow().clone());
        let leased = pool.lease::<QUEUE>(waiting.end, &client.worker.rng, Some(client), &avoided, key);
        let mut lease = match leased.await {
            Ok(lease) => lease,
            Err(failure) => return Err(not_sent(attempt, request, waiting.or_over(failure))),
        };
        waiting.leased();
        if let Some(attempt) = attempt {
            attempt.tried.borrow_mut().push(lease.target_ptr());
        }
        name_host(&mut request, &lease);
        if upgrade.is_some() {
            lease.will_switch();
        }
        if let Some(upload) = &waiting.upload {
            upload.goes_on_stream(lease.is_stream());
        }
        let sending = Sending::of(&lease, &request, REPEATED);
        // Its task runs when this one has written the request.
        mirror::launch(copy.take());
        match lease.send(request, |cx| waiting.poll(cx)).await {
            Ok(Sent::Answered(response)) => {
                let (response, lease) = vetted(response, lease, upgrade, pool)?;
                if !REPEATED {
                    exchange.shard().upstream.observe_us(micros(handed_over.elapsed()));
                    waiting.upload.iter().for_each(|upload| upload.forget());
                }
                return Ok(Answer { response, lease, upload: waiting.upload });
            }
            Ok(unanswered) => request = tries.next(unanswered, sending, &waiting, &lease, pool)?,
            Err(failure) => return Err(waiting.given_up(failure, &mut lease, pool)),
        }
        exchange.shard().retries.add(1);
        waiting.expect_interim(&mut request);
    }
}

/// What is to be known of a request that is about to be sent, if it fails.
struct Sending {
    fresh: bool,
    may_be_stale: bool,
    bodiless: bool,
    /// The same once more, where that may be sent at once.
    again: Option<Request<RequestBody>>,
}

impl Sending {
    #[inline(always)]
    fn of(lease: &Lease, request: &Request<RequestBody>, repeated: bool) -> Sending {
        let may_be_stale = lease.may_be_stale();
        // On a route that repeats, `recover` sees to it.
        let may_repeat = lease.is_stream() || !repeated && may_be_stale && is_repeatable(request);
        Sending {
            fresh: lease.is_fresh(),
            may_be_stale,
            bodiless: matches!(request.body(), RequestBody::Empty),
            again: may_repeat.then(|| second(request)),
        }
    }
}

/// How often one attempt was sent without an answer.
struct Tries<'a> {
    attempt: Option<&'a Attempt>,
    closed_fresh: bool,
    refused: usize,
}

impl Tries<'_> {
    /// What is sent next, after a sending that brought no answer.
    #[cold]
    fn next(
        &mut self,
        sent: Sent,
        sending: Sending,
        waiting: &Waiting,
        lease: &Lease,
        pool: &LocalPool,
    ) -> Result<Request<RequestBody>, Failure> {
        match sent {
            Sent::Answered(_) => Err(Failure::BadResponse),
            Sent::Unsent(unsent) => {
                // A target might take connections only to close them.
                self.refused += usize::from(lease.is_stream());
                if sending.fresh && self.closed_fresh || self.refused > REFUSALS {
                    pool.saw(lease.target(), Seen::Reset);
                    // What was put into HTTP/2's form is made anew.
                    return Err(match lease.is_stream() {
                        true => Failure::Reset,
                        false => not_sent(self.attempt, *unsent, Failure::Reset),
                    });
                }
                self.closed_fresh |= sending.fresh;
                Ok(*unsent)
            }
            Sent::Failed { error, untouched } => {
                // A request that its target dies of would take all of them along.
                let may_repeat = untouched || !lease.is_stream();
                self.refused += usize::from(may_repeat);
                let again = sending.again.filter(|_| may_repeat && self.refused <= REFUSALS);
                if let Some(again) = again.and_then(|again| waiting.with_body(again, sending.bodiless)) {
                    return Ok(again);
                }
                if let Some(attempt) = self.attempt.filter(|_| !sending.fresh && !lease.is_stream()) {
                    attempt.stale.set(true);
                    lease.target().sweep_idle();
                }
                Err(waiting.broken(lease, (pool, sending.may_be_stale), &error))
            }
        }
    }
}

/// The answer and its connection, if it may be passed on.
#[inline(always)]
fn vetted(
    mut response: http::Response<Incoming>,
    lease: Lease,
    upgrade: Option<&HeaderValue>,
    pool: &LocalPool,
) -> Result<(http::Response<Incoming>, Lease), Failure> {
    if let Err(fault) = vet::answer(&mut response, upgrade) {
        lease.target().log_failure(&pool.shared.name, "answer refused", &fault.describe());
        pool.saw(lease.target(), Seen::Reset);
        lease.close();
        return Err(Failure::BadResponse);
    }
    pool.saw(lease.target(), if response.status().is_server_error() { Seen::ServerError } else { Seen::Answer });
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
    // In an authority it stands when the request was made ready for HTTP/2 before.
    if request.headers().contains_key(http::header::HOST) || request.uri().authority().is_some() {
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

pub(super) fn second(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// How long a target has to answer.
#[derive(Clone, Copy)]
struct Times {
    timeout: Duration,
    until: Tick,
    /// Until when the client waits: the end, whatever is under way then.
    asked: Tick,
    /// That is all the time that the route gives it.
    is_whole: bool,
}

impl Times {
    #[inline(always)]
    fn of(route: Duration, asked: Tick, attempt: Option<&Attempt>) -> Times {
        let timeout = attempt.and_then(|attempt| attempt.timeout).map_or(route, |each| each.min(route));
        let until = attempt.and_then(|attempt| attempt.until).unwrap_or(Tick::NEVER);
        Times { timeout, until, asked, is_whole: true }
    }
}

/// What the wait for a response head sees to: time, interim responses, and a body held back.
struct Waiting {
    client: Rc<Client>,
    upload: Option<Rc<Upload>>,
    times: Times,
    /// When the time for all of the request is over.
    until: Tick,
    /// The same, or when the client waits no more.
    limit: Tick,
    /// A gRPC call.
    is_call: bool,
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
    /// Says why the wait is over without an answer, to the log and for the answer.
    #[cold]
    fn given_up(&self, failure: Failure, lease: &mut Lease, pool: &LocalPool) -> Failure {
        let failure = match failure {
            Failure::ResponseTimeout if lease.is_stuck() => Failure::SendTimeout,
            failure => failure,
        };
        lease.target().log_failure(&pool.shared.name, "request given up", &failure.detail());
        // One that had less than its time says nothing of the target.
        let had_its_time = self.times.is_whole && self.limit > self.client.worker.clock.now();
        if matches!(failure, Failure::ResponseTimeout | Failure::SendTimeout) && had_its_time {
            pool.saw(lease.target(), Seen::Timeout);
        }
        failure
    }

    /// Says why the connection broke, to the log and for the answer.
    fn broken(&self, lease: &Lease, (pool, was_idle): (&LocalPool, bool), error: &hyper::Error) -> Failure {
        let failure = self.blame(upstream::failure_of(error));
        lease.target().log_failure(&pool.shared.name, failure.detail(), &upstream::in_words(error));
        // Servers close what has been idle.
        if !was_idle && matches!(failure, Failure::Reset | Failure::BadResponse) {
            pool.saw(lease.target(), Seen::Reset);
        }
        failure
    }

    fn new(exchange: &Exchange, upload: Option<Rc<Upload>>, times: Times) -> Waiting {
        let client = Rc::clone(&exchange.client);
        let deadline = Watch::new(&client.worker.clock);
        let hold = upload.as_ref().is_some_and(|upload| upload.is_held()).then(|| Watch::new(&client.worker.clock));
        if let Some(hold) = &hold {
            hold.due_after(CONTINUE_AFTER);
        }
        let now = client.worker.clock.now();
        let until = exchange.until;
        let limit = until.min(times.asked);
        let end = now.after(times.timeout).min(times.until).min(limit);
        deadline.due_at(end);
        let answering = Cell::new(upload.is_none());
        let owes_continue = Cell::new(hold.is_some());
        let times = Times { is_whole: end == now.after(times.timeout), ..times };
        let is_call = exchange.is_grpc();
        Waiting { client, upload, times, until, limit, is_call, end, deadline, answering, hold, owes_continue }
    }

    /// There is a connection: the route's time ran while it was found; the time for the body's progress begins now.
    fn leased(&self) {
        if !self.answering.get() {
            self.due(self.client.worker.clock.now().after(self.client.worker.limits().body_idle_timeout));
        }
    }

    fn due(&self, at: Tick) {
        self.deadline.due_at(at.min(self.limit));
    }

    /// Where the time for all of the request is over, that is why; and the time to the answer's head where that was over in
    /// the queue.
    #[cold]
    fn or_over(&self, failure: Failure) -> Failure {
        let was_late = failure == Failure::Queue || failure.timeout().is_some();
        let now = self.client.worker.clock.now();
        match failure {
            _ if was_late && self.until <= now => Failure::RequestTimeout,
            Failure::Queue if self.end <= now => Failure::ResponseTimeout,
            _ => failure,
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
            self.due(self.client.worker.clock.now().after(self.times.timeout));
        }
        while self.deadline.poll(cx).is_ready() {
            let worker = &self.client.worker;
            if self.until <= worker.clock.now() {
                return Poll::Ready(Failure::RequestTimeout);
            }
            if self.answering.get() || self.limit <= worker.clock.now() {
                return Poll::Ready(Failure::ResponseTimeout);
            }
            let due = self.moved().after(worker.limits().body_idle_timeout);
            if due <= worker.clock.now() {
                let starved = self.upload.as_ref().is_some_and(|upload| upload.is_starved());
                return Poll::Ready(if starved { Failure::BodyTimeout } else { Failure::SendTimeout });
            }
            self.due(due);
        }
        Poll::Pending
    }

    /// When the client last did something for the body. An HTTP/2 client's other streams do nothing for it; a call may
    /// stand still for as long as its client answers pings.
    fn moved(&self) -> Tick {
        match &self.upload {
            Some(upload) if self.client.is_http2() && !self.is_call => upload.moved(),
            _ => self.client.pulse.moved(),
        }
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
                    client.told.set(true);
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
