//! A client's byte stream as hyper sees it, with what the connection's driver must know of it.
//!
//! The driver takes hyper's connection away while the client is idle and makes a new one when bytes come, so that an
//! idle client costs a socket and little else. For that the stream says when it last moved, whether hyper's output
//! has all left, and takes back bytes that hyper had read but not used. Interim (1xx) responses, which hyper's server
//! can't send, are written here, between messages.

use super::clock::{Clock, Tick};
use super::frames::{Breach, Frames};
use super::guard::{Guard, TooLong};
use super::socket::Socket;
use bytes::{Buf, Bytes};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;
use tokio_rustls::server::TlsStream;

/// Bytes of interim responses that wait to be taken.
const MAX_INTERIM: usize = 64 * 1024;

/// What the driver and the requests of a connection know of its stream.
pub(super) struct Pulse {
    clock: Rc<Clock>,
    /// When a byte last went either way.
    moved: Cell<Tick>,
    /// When the first byte of a request head came that is not whole yet.
    head_since: Cell<Option<Tick>>,
    /// All that hyper wrote has been handed to the kernel.
    flushed: Cell<bool>,
    /// Whole interim responses, to be written when the stream is between messages.
    interim: RefCell<Vec<u8>>,
    has_interim: Cell<bool>,
    /// The client has begun with HTTP/2's preface.
    http2: Cell<bool>,
    /// What comes now belongs to another protocol.
    switched: Cell<bool>,
    /// A request head is longer than allowed: it is the driver's to say so.
    too_long: Cell<Option<TooLong>>,
    /// Requests answered whole that an HTTP/2 client has not been credited with.
    answered: Cell<u32>,
    /// Why the client was cut off for its HTTP/2 frames.
    breach: Cell<Option<Breach>>,
    /// The client has begun with a TLS handshake.
    tls: Cell<bool>,
}

impl Pulse {
    pub(super) fn new(clock: &Rc<Clock>) -> Pulse {
        Pulse {
            clock: Rc::clone(clock),
            moved: Cell::new(clock.now()),
            head_since: Cell::new(None),
            flushed: Cell::new(true),
            interim: RefCell::default(),
            has_interim: Cell::new(false),
            http2: Cell::new(false),
            switched: Cell::new(false),
            too_long: Cell::new(None),
            answered: Cell::new(0),
            breach: Cell::new(None),
            tls: Cell::new(false),
        }
    }
    pub(super) fn moved(&self) -> Tick {
        self.moved.get()
    }
    pub(super) fn head_since(&self) -> Option<Tick> {
        self.head_since.get()
    }
    /// The head is whole: what comes now belongs to a body or the next request.
    pub(super) fn head_done(&self) {
        self.head_since.set(None);
    }
    /// All that is to go out has been handed to the kernel. What waits behind an interim response is with hyper.
    pub(super) fn flushed(&self) -> bool {
        self.flushed.get() && !self.has_interim.get()
    }
    /// Queues a whole interim response; it leaves with the next write or flush. Those that a client does not take are
    /// not kept without end.
    pub(super) fn send_interim(&self, head: &[u8]) {
        let mut interim = self.interim.borrow_mut();
        if interim.len() + head.len() <= MAX_INTERIM {
            interim.extend_from_slice(head);
            self.has_interim.set(true);
        }
    }
    pub(super) fn is_http2(&self) -> bool {
        self.http2.get()
    }
    /// After a protocol switch the bytes are not requests any more.
    pub(super) fn switch(&self) {
        self.switched.set(true);
    }
    /// A request was answered whole.
    pub(super) fn answered(&self) {
        self.answered.set(self.answered.get().saturating_add(1));
    }
    pub(super) fn too_long(&self) -> Option<TooLong> {
        self.too_long.get()
    }
    pub(super) fn is_tls(&self) -> bool {
        self.tls.get()
    }
    pub(super) fn breach(&self) -> Option<Breach> {
        self.breach.get()
    }
    fn mark(&self) {
        self.moved.set(self.clock.now());
    }
}

pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// Closes with a reset, so that nobody takes what was sent for whole.
    pub(super) fn reset(self) {
        let socket = match &self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => tls.get_ref().0,
        };
        // Were it refused, the connection would end without TLS's closing alert at least.
        let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
    }
}

pub(super) struct ClientIo {
    stream: Stream,
    /// Bytes that an earlier hyper connection had read and not used.
    unread: Bytes,
    /// For HTTP/1: what may be handed on to hyper.
    guard: Option<Guard>,
    /// For HTTP/2: what the client's frames cost.
    frames: Option<Box<Followed>>,
    /// Nothing was handed on yet: this may be HTTP/2 by prior knowledge.
    undecided: bool,
    pulse: Rc<Pulse>,
}

/// A client's HTTP/2 frames, and when they were last looked at.
struct Followed {
    frames: Frames,
    looked: Tick,
}

impl Followed {
    fn new(max_streams: u32, pulse: &Pulse) -> Option<Box<Followed>> {
        Some(Box::new(Followed { frames: Frames::new(max_streams), looked: pulse.clock.now() }))
    }
}

/// How HTTP/2 begins (RFC 9113 §3.4), as far as no HTTP/1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// How a TLS record with a handshake begins (RFC 8446 §5.1).
const TLS_HANDSHAKE: &[u8] = &[22, 3];

impl ClientIo {
    pub(super) fn http1(stream: Stream, pulse: Rc<Pulse>, max_head: usize) -> ClientIo {
        let undecided = matches!(stream, Stream::Plain(_));
        ClientIo { stream, unread: Bytes::new(), guard: Some(Guard::new(max_head)), frames: None, undecided, pulse }
    }
    pub(super) fn http2(stream: Stream, pulse: Rc<Pulse>, max_streams: u32) -> ClientIo {
        let frames = Followed::new(max_streams, &pulse);
        ClientIo { stream, unread: Bytes::new(), guard: None, frames, undecided: false, pulse }
    }
    /// The stream of a client that speaks HTTP/2 without having been asked.
    pub(super) fn into_http2(self, max_streams: u32) -> ClientIo {
        let frames = Followed::new(max_streams, &self.pulse);
        ClientIo { guard: None, frames, undecided: false, ..self }
    }
    pub(super) fn put_back(&mut self, unread: Bytes) {
        if !unread.is_empty() {
            debug_assert!(self.unread.is_empty(), "hyper reads what was put back first");
            self.unread = unread;
        }
    }
    /// Ready when there may be something to read. A TLS session may hold what the socket no longer shows.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            _ if !self.unread.is_empty() => Poll::Ready(Ok(())),
            Stream::Plain(socket) => socket.poll_read_ready(cx),
            Stream::Tls(tls) => match tls.get_ref() {
                (tcp, session) if session.wants_read() => tcp.poll_read_ready(cx),
                _ => Poll::Ready(Ok(())),
            },
        }
    }
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }
    /// The stream, and what was read from it and not used.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.unread)
    }

    /// The first bytes: held back while they may yet be HTTP/2's preface. When they are, nothing is handed on and the
    /// driver takes the stream over.
    fn poll_first(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let before = buf.filled().len();
            buf.put_slice(&self.unread);
            let held = buf.filled().len();
            let read = Pin::new(&mut self.stream).poll_read(cx, buf)?;
            let first = &buf.filled()[before..];
            let length = first.len().min(PREFACE.len());
            let ended = read.is_ready() && buf.filled().len() == held;
            if first[..length] != PREFACE[..length] || ended {
                self.undecided = false;
                self.pulse.tls.set(first.starts_with(TLS_HANDSHAKE));
                self.unread = Bytes::new();
                if let Some(guard) = &mut self.guard {
                    let kept = guard.check(&mut buf.filled_mut()[before..]);
                    buf.set_filled(before + kept);
                    if kept == 0 && !ended {
                        return self.poll_refused();
                    }
                }
                return Poll::Ready(Ok(()));
            }
            if buf.filled().len() > held {
                self.unread = Bytes::copy_from_slice(first);
            }
            buf.set_filled(before);
            if length == PREFACE.len() {
                self.pulse.http2.set(true);
                return Poll::Pending;
            }
            ready!(read);
        }
    }

    /// After a refused message there is nothing: the end, or what the driver says in place of hyper.
    fn poll_refused(&self) -> Poll<io::Result<()>> {
        match self.guard.as_ref().and_then(Guard::too_long) {
            None => Poll::Ready(Ok(())),
            what => {
                self.pulse.too_long.set(what);
                Poll::Pending
            }
        }
    }

    /// Looks at the client's frames. True when it is to be cut off for them.
    fn is_breach(&mut self, bytes: &[u8]) -> bool {
        let Some(followed) = &mut self.frames else { return false };
        let now = self.pulse.clock.now();
        let ticks = now.sweeps_since(followed.looked);
        followed.looked = now;
        let breach = followed.frames.pass(bytes, ticks, self.pulse.answered.take()).err();
        self.pulse.breach.set(breach);
        breach.is_some()
    }

    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let pulse = Rc::clone(&self.pulse);
        let mut interim = pulse.interim.borrow_mut();
        while !interim.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, &interim))?;
            interim.drain(..n);
        }
        pulse.has_interim.set(false);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let switched = self.pulse.switched.get();
        if !switched && self.guard.as_ref().is_some_and(Guard::refused) && self.unread.is_empty() {
            return self.poll_refused();
        }
        if self.pulse.breach.get().is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if self.undecided {
            ready!(self.poll_first(cx, buf))?;
        } else if self.unread.is_empty() {
            match &mut self.stream {
                Stream::Plain(socket) => ready!(Pin::new(socket).poll_read(cx, buf))?,
                Stream::Tls(tls) => ready!(Pin::new(tls).poll_read(cx, buf))?,
            }
            if let Some(guard) = self.guard.as_mut().filter(|_| !switched) {
                let read = buf.filled().len() - before;
                let kept = guard.check(&mut buf.filled_mut()[before..]);
                buf.set_filled(before + kept);
                if kept == 0 && read > 0 {
                    return self.poll_refused();
                }
            }
        } else {
            let n = self.unread.len().min(buf.remaining());
            buf.put_slice(&self.unread[..n]);
            self.unread.advance(n);
        }
        if self.frames.is_some() && self.is_breach(&buf.filled()[before..]) {
            // hyper reads the stream's end.
            buf.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        if buf.filled().len() > before {
            self.pulse.mark();
            if self.pulse.head_since.get().is_none() {
                self.pulse.head_since.set(Some(self.pulse.moved.get()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.pulse.has_interim.get() && self.pulse.flushed.get() {
            ready!(self.poll_interim(cx))?;
        }
        self.pulse.flushed.set(false);
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.pulse.mark();
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.pulse.has_interim.get() && self.pulse.flushed.get() {
            ready!(self.poll_interim(cx))?;
        }
        self.pulse.flushed.set(false);
        let n = ready!(match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Stream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        })?;
        self.pulse.mark();
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(socket) => socket.is_write_vectored(),
            Stream::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Stream::Tls(tls) = &mut self.stream {
            ready!(Pin::new(tls).poll_flush(cx))?;
        }
        self.pulse.flushed.set(true);
        if self.pulse.has_interim.get() {
            ready!(self.poll_interim(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Of HTTP/1 the driver closes the stream itself, when it has it back.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.guard.is_some() {
            return self.poll_flush(cx);
        }
        if let Some(breach) = self.pulse.breach.get()
            && let Some(followed) = self.frames.take()
        {
            // Goes into an empty buffer, or says nothing.
            let _ = Pin::new(&mut self.stream).poll_write(cx, &followed.frames.last_words(breach));
        }
        match &mut self.stream {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// The task that drives a target's connection now.
///
/// hyper's connection and the request that waits on it talk over channels, each of which wakes the other's task. Here
/// both are one task, which looks at either side after the other anyway; so the connection is polled with a waker that
/// does nothing, and what really comes from outside, the socket and the client's body, takes the task's waker from
/// here. A request costs two polls of its task this way instead of more than three.
#[derive(Default)]
pub(super) struct Driving(RefCell<Option<Waker>>);

impl Driving {
    /// From now on, events wake the task of `cx`.
    pub(super) fn by(&self, cx: &Context<'_>) {
        let mut current = self.0.borrow_mut();
        match &mut *current {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.0.borrow() {
            waker.wake_by_ref();
        }
    }
    /// Runs `poll` with the driving task's waker.
    pub(super) fn poll<T>(&self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let current = self.0.borrow();
        poll(&mut Context::from_waker(current.as_ref().unwrap_or(Waker::noop())))
    }
}

/// The target's side of a request as hyper sees it.
pub(super) struct TargetIo {
    stream: HearsOut,
    driving: Rc<Driving>,
}

/// Reads to the end what a target sent before it closed.
///
/// A target may say its last word (an early answer, a GOAWAY) and close while a request's body is still being written.
/// The kernel then refuses the next write, with the word still unread; hyper would give the connection up at that. Here
/// such a write counts as done: what the target said is read, and after it the end, which hyper makes of it what it is.
pub(super) struct HearsOut {
    stream: TargetStream,
    /// A write failed: nothing more goes out.
    refused: bool,
    /// How, where that was no orderly end: the kernel tells it once, and after it a reset looks like one.
    reset: Option<io::Error>,
}

impl HearsOut {
    pub(super) fn new(stream: TargetStream) -> HearsOut {
        HearsOut { stream, refused: false, reset: None }
    }

    fn refuse(&mut self, error: io::Error) {
        self.refused = true;
        self.reset = Some(error).filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
    }
}

impl AsyncRead for HearsOut {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        match this.reset.take_if(|_| buf.filled().len() == before) {
            None => Poll::Ready(Ok(())),
            Some(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for HearsOut {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.refused {
            match Pin::new(&mut this.stream).poll_write(cx, buf) {
                Poll::Ready(Err(error)) => this.refuse(error),
                written => return written,
            }
        }
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.refused {
            match Pin::new(&mut this.stream).poll_write_vectored(cx, bufs) {
                Poll::Ready(Err(error)) => this.refuse(error),
                written => return written,
            }
        }
        Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let TargetStream::Tls(tls) = &mut this.stream
            && !this.refused
        {
            match Pin::new(tls).poll_flush(cx) {
                Poll::Ready(Err(error)) => this.refuse(error),
                flushed => return flushed,
            }
        }
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.refused {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

pub(super) enum TargetStream {
    Plain(Socket),
    Tls(Box<client::TlsStream<Socket>>),
}

impl TargetIo {
    pub(super) fn new(stream: TargetStream, driving: &Rc<Driving>) -> TargetIo {
        TargetIo { stream: HearsOut::new(stream), driving: Rc::clone(driving) }
    }
    pub(super) fn into_stream(self) -> TargetStream {
        self.stream.stream
    }

    /// A write is waiting for room. (Writing nothing: tokio asks the kernel only once it has seen that there is room.)
    pub(super) fn is_stuck(&self) -> bool {
        let socket = match &self.stream.stream {
            TargetStream::Plain(socket) => socket,
            TargetStream::Tls(tls) => tls.get_ref().0,
        };
        !self.stream.refused && socket.try_write(b"").is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl Drop for TargetStream {
    /// A TLS connection is closed with a word (RFC 8446 §6.1), if the socket takes it at once.
    fn drop(&mut self) {
        if let TargetStream::Tls(tls) = self {
            let (tcp, session) = tls.get_mut();
            session.send_close_notify();
            // The socket is closed right after: who does not take the word loses nothing.
            let _ = session.write_tls(&mut AtOnce(tcp));
        }
    }
}

/// A socket that is written to without waiting.
struct AtOnce<'s>(&'s Socket);

impl io::Write for AtOnce<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for TargetIo {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let TargetIo { stream, driving } = self.get_mut();
        driving.poll(|cx| Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for TargetIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let TargetIo { stream, driving } = self.get_mut();
        driving.poll(|cx| Pin::new(stream).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let TargetIo { stream, driving } = self.get_mut();
        driving.poll(|cx| Pin::new(stream).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let TargetIo { stream, driving } = self.get_mut();
        match stream.stream {
            TargetStream::Plain(_) => Poll::Ready(Ok(())),
            TargetStream::Tls(_) => driving.poll(|cx| Pin::new(stream).poll_flush(cx)),
        }
    }
    /// Dropping the socket closes it; a shutdown before would only be another system call.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for TargetStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TargetStream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            TargetStream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TargetStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TargetStream::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            TargetStream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TargetStream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            TargetStream::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TargetStream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            TargetStream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TargetStream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            TargetStream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
