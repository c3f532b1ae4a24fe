//! The two bodies of a request: what the client sends on its way to the target, and the answer on its way back.
//!
//! Each pulls the next piece only when the other side has room: back-pressure is the absence of a poll. The answer's
//! body drives the target's connection itself, so that no task stands between the two sockets.

mod ending;

use super::clock::{Tick, Watch};
use super::compress::Compressor;
use super::connection::Client;
use super::exchange::Exchange;
use super::failure::Failure;
use super::headers;
use super::io::Driving;
use super::mirror::{self, RequestCopy};
use super::upstream::{Lease, quiet};
use super::vet;
use crate::boundary::outcomes::Reason;
use crate::limits::{DROPPED_BODY_BYTES, REPEATED_BODY_BYTES};
use bytes::Bytes;
pub(super) use ending::Ending;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Why a body broke off. hyper wants errors that can cross threads; nothing more is in it than that.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) &'static str);

/// An answer that can't be ended in order.
const CUT: Broken = Broken("the answer broke off");

/// What the spine and the client's driver see of a request's body.
pub(super) struct Upload {
    client: Rc<Client>,
    /// What the client sends; None once nobody wants it.
    incoming: RefCell<Option<Incoming>>,
    /// How often the request was sent before.
    turn: Cell<u32>,
    /// The task that sends it: the client's body wakes it.
    task: Driving,
    /// Held back until the target says 100 (Continue), answers, or stays silent.
    held: Cell<bool>,
    done: Cell<bool>,
    /// The target would take more than the client has sent.
    starved: Cell<bool>,
    failure: Cell<Option<Failure>>,
    left: Cell<u64>,
    /// When a piece of it last came.
    moved: Cell<Tick>,
    /// A shared connection's task reads it, not the request's.
    on_stream: Cell<bool>,
    /// For the route's mirror.
    copy: Cell<Option<Box<RequestCopy>>>,
    /// What went out on a stream, in case that the target refuses it, or on a route that repeats; None once that is too
    /// much, or answered.
    kept: RefCell<Option<Kept>>,
    /// Also of what goes out on a connection of its own.
    keeps: Cell<bool>,
}

impl Upload {
    pub(super) fn new(client: &Rc<Client>, incoming: Incoming, held: bool, max_bytes: Option<u64>) -> Rc<Upload> {
        client.uploads.set(client.uploads.get() + 1);
        Rc::new(Upload {
            client: Rc::clone(client),
            incoming: RefCell::new(Some(incoming)),
            turn: Cell::new(0),
            task: Driving::default(),
            held: Cell::new(held),
            done: Cell::new(false),
            starved: Cell::new(true),
            failure: Cell::new(None),
            left: Cell::new(max_bytes.unwrap_or(u64::MAX)),
            moved: Cell::new(client.worker.clock.now()),
            on_stream: Cell::new(false),
            copy: Cell::new(None),
            kept: RefCell::new(None),
            keeps: Cell::new(false),
        })
    }
    pub(super) fn take_along(&self, copy: Option<Box<RequestCopy>>) {
        self.copy.set(copy);
    }
    /// The body is kept as it passes, wherever it goes: it may have to be sent again.
    pub(super) fn keep(&self) {
        self.keeps.set(true);
    }
    /// What went out of it can go out again.
    pub(super) fn has_kept(&self) -> bool {
        self.kept.borrow().is_some()
    }
    pub(super) fn sent_by(&self, cx: &Context<'_>) {
        self.task.by(cx);
    }
    pub(super) fn goes_on_stream(&self, on_stream: bool) {
        self.on_stream.set(on_stream);
        if (on_stream || self.keeps.get()) && !self.done.get() && self.turn.get() == 0 {
            self.kept.replace(Some(Kept::default()));
        }
    }
    /// The body to be sent.
    pub(super) fn body(self: &Rc<Upload>) -> RequestBody {
        RequestBody::Client(ClientBody { upload: Rc::clone(self), turn: self.turn.get(), first: None })
    }
    /// The body once more, where what went out of it was kept; what still comes follows. The one before sends nothing more.
    pub(super) fn again(self: &Rc<Upload>) -> Option<RequestBody> {
        let kept = self.kept.borrow();
        let kept = kept.as_ref()?;
        let sent = kept.pieces.concat();
        if self.done.get() {
            return Some(RequestBody::Whole(Box::new(Whole::new(sent, kept.trailers.as_deref().cloned()))));
        }
        self.turn.set(self.turn.get() + 1);
        let first = Some(Bytes::from(sent)).filter(|sent| !sent.is_empty());
        Some(RequestBody::Client(ClientBody { upload: Rc::clone(self), turn: self.turn.get(), first }))
    }
    /// The target has begun to answer.
    pub(super) fn forget(&self) {
        self.kept.replace(None);
    }
    /// Nobody wants the rest of the body any more: the target's stream is reset.
    fn give_up(&self) {
        self.failure.set(Some(Failure::BadBody));
        self.held.set(true);
        self.task.wake();
    }
    pub(super) fn release(&self) {
        self.held.set(false);
        if self.on_stream.get() {
            self.task.wake();
        }
    }
    pub(super) fn is_held(&self) -> bool {
        self.held.get()
    }
    pub(super) fn is_done(&self) -> bool {
        self.done.get()
    }
    pub(super) fn moved(&self) -> Tick {
        self.moved.get()
    }
    /// Nothing moves: the client's fault, not the target's.
    pub(super) fn is_starved(&self) -> bool {
        self.starved.get()
    }
    /// The client's part in a failed request, if it had one.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.failure.get()
    }
    /// Ready when nothing has moved for too long.
    fn poll_stall(&self, watch: &Watch, cx: &mut Context<'_>) -> Poll<()> {
        let client = &self.client;
        watch.due_at(client.pulse.moved().after(client.worker.limits().body_idle_timeout));
        watch.poll(cx)
    }
    fn finish(&self) {
        if !self.done.replace(true) {
            self.client.uploads.set(self.client.uploads.get() - 1);
            if self.client.in_flight.get() == 0 {
                self.client.late_body_ended();
            }
        }
    }
    /// Holds it against the most that a body may have.
    fn count(&self, data: &Bytes) -> Result<(), Broken> {
        let Some(left) = self.left.get().checked_sub(data.len() as u64) else {
            self.failure.set(Some(Failure::BodyTooLarge));
            return Err(Broken("the client's body is too large"));
        };
        self.left.set(left);
        Ok(())
    }
    /// All of it has gone on to the target.
    fn complete(&self) {
        self.finish();
        mirror::launch(self.copy.take());
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.done.get() {
            // What the client still sends would be read as its next request.
            self.client.unread_body.set(true);
        }
        self.finish();
    }
}

/// A body as far as it went out.
#[derive(Default)]
struct Kept {
    pieces: Vec<Bytes>,
    bytes: usize,
    trailers: Option<Box<HeaderMap>>,
}

impl Kept {
    /// None when it is too much.
    fn with(mut self, frame: &Frame<Bytes>) -> Option<Kept> {
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.pieces.push(data.clone());
        } else {
            self.trailers = frame.trailers_ref().cloned().map(Box::new);
        }
        (self.bytes <= REPEATED_BODY_BYTES).then_some(self)
    }
}

/// A request's body as the target's connection reads it.
pub(super) enum RequestBody {
    Empty,
    Client(ClientBody),
    /// In memory already.
    Whole(Box<Whole>),
}

/// The client's body on its way, for one sending of the request.
pub(super) struct ClientBody {
    upload: Rc<Upload>,
    turn: u32,
    /// What went out before, and goes out again.
    first: Option<Bytes>,
}

impl ClientBody {
    /// Another sending of the request has taken over.
    fn is_past(&self) -> bool {
        self.turn != self.upload.turn.get()
    }

    fn is_end(&self) -> bool {
        self.first.is_none() && self.upload.incoming.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.upload.incoming.borrow().as_ref().map(Body::size_hint).unwrap_or_default();
        if let Some(first) = &self.first {
            let first = first.len() as u64;
            match hint.exact() {
                Some(rest) => hint.set_exact(rest + first),
                None => hint.set_lower(hint.lower() + first),
            }
        }
        hint
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // The client need not go on, unless the request is sent again.
        if !self.is_past() && self.upload.kept.borrow().is_none() {
            self.upload.incoming.take();
        }
    }
}

pub(super) struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    pub(super) fn new(data: Vec<u8>, trailers: Option<HeaderMap>) -> Whole {
        Whole { data: Some(Bytes::from(data)).filter(|data| !data.is_empty()), trailers }
    }
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let data = self.data.take().map(Frame::data);
        data.or_else(|| self.trailers.take().map(Frame::trailers))
    }
    fn size_hint(&self) -> SizeHint {
        match self.trailers {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let body = match self.get_mut() {
            RequestBody::Client(body) => body,
            RequestBody::Whole(whole) => return Poll::Ready(whole.next().map(Ok)),
            RequestBody::Empty => return Poll::Ready(None),
        };
        if body.is_past() {
            return Poll::Ready(Some(Err(Broken("the request was sent again"))));
        }
        let upload = &*body.upload;
        if upload.on_stream.get() {
            upload.sent_by(cx);
        }
        if upload.held.get() {
            return match upload.failure.get() {
                None => Poll::Pending,
                Some(_) => Poll::Ready(Some(Err(Broken("the request was given up")))),
            };
        }
        if let Some(first) = body.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut incoming = upload.incoming.borrow_mut();
        let Some(incoming) = &mut *incoming else {
            return Poll::Ready(Some(Err(Broken("the client's body was let go"))));
        };
        let next = upload.task.poll(|cx| Pin::new(&mut *incoming).poll_frame(cx));
        upload.starved.set(next.is_pending());
        if next.is_ready() {
            upload.moved.set(upload.client.worker.clock.now());
        }
        let frame = match next {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(None) => {
                upload.complete();
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(_))) => {
                upload.failure.set(Some(Failure::BadBody));
                return Poll::Ready(Some(Err(Broken("the client's body broke off"))));
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    let settings = &upload.client.worker.local().published.settings;
                    headers::identify(trailers, &settings.identity_headers, None);
                    vet::trailers(trailers);
                }
                frame
            }
        };
        if let Some(data) = frame.data_ref() {
            upload.count(data)?;
        }
        if let Some(copy) = upload.copy.take() {
            upload.copy.set(mirror::collect(copy, &frame));
        }
        if upload.on_stream.get() || upload.keeps.get() {
            let kept = upload.kept.take().and_then(|kept| kept.with(&frame));
            upload.kept.replace(kept);
        }
        // hyper takes trailers for the end and does not ask for what comes after.
        if frame.is_trailers() || incoming.is_end_stream() {
            upload.complete();
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Client(body) => body.is_end(),
            RequestBody::Whole(whole) => whole.data.is_none() && whole.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Client(body) => body.size_hint(),
            RequestBody::Whole(whole) => whole.size_hint(),
        }
    }
}

/// The answer's body as the client's connection reads it. Dropping it ends the exchange.
pub(super) struct ResponseBody {
    source: Source,
    exchange: Option<Exchange>,
    /// None for most answers.
    compressor: Option<Box<Compressor>>,
    /// None for most: it ends when the target ends it.
    ending: Option<Box<Ending>>,
}

enum Source {
    Target {
        incoming: Incoming,
        lease: Option<Lease>,
        upload: Option<Rc<Upload>>,
    },
    Own(Option<Bytes>),
    /// The target's body broke off, and what came of it is on its way out.
    Cut,
}

impl ResponseBody {
    /// `upload` is the request's body where it is still under way.
    pub(super) fn of_target(
        incoming: Incoming,
        lease: Lease,
        upload: Option<Rc<Upload>>,
        exchange: Exchange,
        compressor: Option<Box<Compressor>>,
    ) -> ResponseBody {
        let source = Source::Target { incoming, lease: Some(lease), upload };
        ResponseBody { source, exchange: Some(exchange), compressor, ending: None }
    }

    /// Without an exchange: the request matched no route.
    pub(super) fn own(text: Bytes, exchange: Option<Exchange>) -> ResponseBody {
        let source = Source::Own(Some(text).filter(|text| !text.is_empty()));
        ResponseBody { source, exchange, compressor: None, ending: None }
    }

    pub(super) fn compressed(text: Bytes, exchange: Exchange, compressor: Box<Compressor>) -> ResponseBody {
        let (source, compressor) = (Source::Own(Some(text)), Some(compressor));
        ResponseBody { source, exchange: Some(exchange), compressor, ending: None }
    }

    /// Leaves out what the answer to a HEAD does not send; gives its length where there is any.
    pub(super) fn leave_out(&mut self) -> Option<usize> {
        match &mut self.source {
            Source::Own(text) => text.take().map(|text| text.len()),
            // Answers to HEAD are read without a body.
            Source::Target { .. } | Source::Cut => None,
        }
    }

    /// The next piece of an answer that is compressed.
    #[inline(never)]
    fn poll_compressed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let ResponseBody { source, exchange, compressor: Some(compressor), .. } = self else {
            return Poll::Ready(None);
        };
        let mut next = compressor.poll(cx, |cx| source.poll(cx));
        if let Poll::Ready(Some(Ok(frame))) = &mut next
            && let Some(trailers) = frame.trailers_mut()
        {
            vet::trailers(trailers);
        }
        if let Some(shard) = exchange.as_ref().and_then(Exchange::compress_shard) {
            compressor.count(shard);
        }
        // Others can have the connection while the client takes what is left.
        if compressor.has_all() || source.has_ended() {
            source.release();
        }
        let ended = match &next {
            Poll::Pending => return self.poll_still(cx),
            Poll::Ready(Some(Ok(_))) => compressor.is_finished(),
            Poll::Ready(Some(Err(_))) => return self.poll_cut(Reason::Reset, cx),
            Poll::Ready(None) => true,
        };
        if ended {
            self.finish();
        }
        next.map_err(|_| CUT)
    }

    /// The answer can't be ended in order. hyper would drop what it has not written yet, even the head, at an error: it
    /// gets a poll to write that out first.
    #[cold]
    fn poll_cut(&mut self, reason: Reason, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Source::Cut = self.source {
            return Poll::Ready(Some(Err(CUT)));
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(Some(reason));
            exchange.client.answer_broke();
        }
        self.finish();
        self.source = Source::Cut;
        self.compressor = None;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self) {
        self.source.release();
        if let Some(mut exchange) = self.exchange.take() {
            exchange.finished();
        }
    }
}

impl Source {
    #[inline(always)]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self {
            Source::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Target { incoming, lease, .. } => poll_target(incoming, lease, cx),
            Source::Cut => Poll::Pending,
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Source::Target { incoming, .. } => incoming.is_end_stream(),
            Source::Own(text) => text.is_none(),
            Source::Cut => false,
        }
    }

    /// Gives the target's connection back, or has it take the rest of the request's body.
    fn release(&mut self) {
        let Source::Target { lease, upload, .. } = self else { return };
        let (Some(mut lease), Some(upload)) = (lease.take(), upload.take()) else { return };
        if lease.is_stream() {
            // The connection's task goes on with it, or the target has reset the stream.
            return;
        }
        if upload.is_held() {
            // The client was not asked for it.
            return lease.close();
        }
        if !upload.is_done() || !lease.is_settled() {
            tokio::task::spawn_local(finish_upload(lease, upload));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let body = self.get_mut();
        if body.ending.is_some()
            && let Some(end) = body.poll_ending(cx)
        {
            return end;
        }
        if body.compressor.is_some() {
            return body.poll_compressed(cx);
        }
        if let Source::Cut = body.source {
            return body.poll_cut(Reason::Reset, cx);
        }
        let Poll::Ready(next) = body.source.poll(cx) else { return body.poll_still(cx) };
        match next {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    vet::trailers(trailers);
                    body.exchange.iter_mut().for_each(|exchange| exchange.grpc_status(trailers));
                }
                let ended = matches!(&body.source, Source::Target { incoming, .. } if incoming.is_end_stream());
                if ended || frame.is_trailers() {
                    body.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(_)) => body.poll_cut(Reason::Reset, cx),
            None => {
                body.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.compressor {
            None => self.source.has_ended(),
            Some(compressor) => compressor.is_finished(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            _ if self.compressor.is_some() => SizeHint::default(),
            Source::Target { incoming, .. } => incoming.size_hint(),
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Cut => SizeHint::default(),
        }
    }
}

/// The answer is through before the request's body: that goes on to the target, all of it, so that both connections stay
/// in step and can be used again. Given up when nothing moves.
async fn finish_upload(mut lease: Lease, upload: Rc<Upload>) {
    let stalled = Watch::new(&upload.client.worker.clock);
    let mut all_came = false;
    std::future::poll_fn(|cx| {
        upload.sent_by(cx);
        lease.drive(cx);
        if upload.is_done() && lease.is_settled() || lease.is_over() {
            return Poll::Ready(());
        }
        if !upload.is_done() {
            return upload.poll_stall(&stalled, cx);
        }
        // The last pieces are the target's to take.
        if !std::mem::replace(&mut all_came, true) {
            stalled.due_after(upload.client.worker.limits().body_idle_timeout);
        }
        stalled.poll(cx)
    })
    .await;
}

/// Sees to the body of a request that Weir answers at once; true when the connection can be used again. A small one is
/// read and dropped behind the answer. A larger one, or one of unknown length, is not read, nor asked for: a client
/// that waits for 100 (Continue) has its answer already.
pub(super) fn discard(client: &Rc<Client>, incoming: Incoming, waits: bool) -> bool {
    if incoming.is_end_stream() {
        return true;
    }
    if waits || incoming.size_hint().exact().is_none_or(|length| length > DROPPED_BODY_BYTES) {
        client.unread_body.set(true);
        return false;
    }
    let upload = Upload::new(client, incoming, false, None);
    let mut body = upload.body();
    tokio::task::spawn_local(async move {
        let stalled = Watch::new(&upload.client.worker.clock);
        std::future::poll_fn(|cx| {
            upload.sent_by(cx);
            loop {
                match Pin::new(&mut body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => return upload.poll_stall(&stalled, cx),
                }
            }
        })
        .await;
    });
    true
}

/// The next piece of the answer; drives the target's connection when there is none yet.
#[inline(always)]
pub(super) fn poll_target(
    incoming: &mut Incoming,
    lease: &mut Option<Lease>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    if lease.as_ref().is_some_and(Lease::is_stream) {
        return Pin::new(incoming).poll_frame(cx);
    }
    if let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(&mut quiet()) {
        return Poll::Ready(frame);
    }
    if let Some(lease) = lease {
        lease.drive(cx);
    }
    Pin::new(incoming).poll_frame(&mut quiet())
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let whole = match (&self.compressor, &self.source) {
            (Some(compressor), _) => compressor.is_finished(),
            (None, Source::Target { incoming, .. }) => incoming.is_end_stream(),
            (None, Source::Own(_)) => true,
            (None, Source::Cut) => false,
        };
        if whole {
            self.finish();
        }
    }
}
