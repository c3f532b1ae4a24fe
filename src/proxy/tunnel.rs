//! A tunnel: after a protocol switch (RFC 9110 §7.8, RFC 6455, RFC 8441) the bytes of two connections, both ways, until
//! both have ended.
//!
//! An idle tunnel costs its two sockets and no buffer: bytes are read into room on the stack and written on at once;
//! only what the other side does not take then is kept. A tunnel outlives the table that routed it, so it looks once a
//! second whether its client still belongs to its variant, if the route wants such tunnels closed. Shortly before a
//! drain's deadline both ends of a WebSocket are told with a Close frame that it goes away.

mod frames;

use super::clock::{Tick, Watch};
use super::connection::Client;
use super::exchange::Exchange;
use super::io::TargetStream;
use super::stay::Stay;
use super::upstream::Lease;
use super::worker::Worker;
use crate::boundary::outcomes::VariantOutcomes;
use crate::routing::table::Decision;
use bytes::{Buf, Bytes, BytesMut};
use frames::Frames;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const WEBSOCKET: &[u8] = b"websocket";
/// How much is read at once.
const PIECE: usize = 16 * 1024;
/// How long both ends have to answer a Close frame (RFC 6455 §7.1.1) before they are cut.
const CLOSING: Duration = Duration::from_secs(2);

/// The protocols that a request offers to switch to, as they are passed on; None when there is none to pass.
///
/// `h2c`, `HTTP/…` and `TLS/…` are never passed on: behind a proxy they would carry requests that it does not see.
pub(super) fn offered(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut offered: Vec<&[u8]> = tokens(headers, UPGRADE).filter(|protocol| may_pass(protocol)).collect();
    if !named || offered.is_empty() {
        return None;
    }
    offered.dedup();
    HeaderValue::from_bytes(&offered.join(&b", "[..])).ok()
}

fn may_pass(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    let hidden: [&[u8]; 5] = [b"h2c", b"h2", b"h3", b"http", b"tls"];
    !name.is_empty() && !hidden.iter().any(|hidden| name.eq_ignore_ascii_case(hidden))
}

/// Makes a WebSocket's request over HTTP/2 the one that HTTP/1.1 has for it (RFC 8441 §5): with a key. The answer to the
/// key stays between Weir and the target.
pub(super) fn websocket(parts: &mut http::request::Parts, rng: &mut impl rand::Rng) -> HeaderValue {
    let key: [u8; 16] = rng.random();
    if let Ok(key) = HeaderValue::from_str(&base64(&key)) {
        parts.headers.insert(SEC_WEBSOCKET_KEY, key);
    }
    HeaderValue::from_static("websocket")
}

/// RFC 4648 §4, of whole triples and the one byte that is left of sixteen.
fn base64(bytes: &[u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let number = u128::from_be_bytes(*bytes);
    let digit = |shift: u32| char::from(DIGITS[(number >> shift & 63) as usize]);
    let last = char::from(DIGITS[(number << 4 & 63) as usize]);
    (0..21).map(|nth| digit(122 - 6 * nth)).chain([last, '=', '=']).collect()
}

/// Asks the target for the switch.
pub(super) fn ask(headers: &mut HeaderMap, offered: &HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, offered.clone());
}

/// What a target's 101 (Switching Protocols) switches to, if it was offered.
pub(super) fn accepted(answer: &HeaderMap, offered: &HeaderValue) -> Option<HeaderValue> {
    let named = tokens(answer, CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut switched = tokens(answer, UPGRADE);
    let (Some(protocol), None) = (switched.next(), switched.next()) else { return None };
    let known =
        offered.as_bytes().split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(protocol));
    (named && known).then(|| HeaderValue::from_bytes(protocol).ok()).flatten()
}

fn tokens(headers: &HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(name).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// The target's end of a tunnel, and what the table said of it.
pub(super) struct Tunnel {
    target: TargetStream,
    /// What the target sent right after its 101.
    early: Bytes,
    /// Keeps the target busy and the connection's place taken.
    _lease: Lease,
    open: Open,
    websocket: bool,
    /// None: it is kept wherever its client moves.
    stay: Option<Stay>,
}

impl Tunnel {
    pub(super) fn new(
        exchange: &Exchange,
        decision: &Decision,
        protocol: &HeaderValue,
        lease: Lease,
        (target, early): (TargetStream, Bytes),
    ) -> Tunnel {
        let websocket = protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET);
        let open = Open::new(exchange);
        Tunnel { target, early, _lease: lease, open, websocket, stay: Stay::of(exchange, decision) }
    }
}

/// Counts the tunnel while it is open.
struct Open {
    outcomes: Arc<VariantOutcomes>,
    worker: Rc<Worker>,
}

impl Open {
    fn new(exchange: &Exchange) -> Open {
        let outcomes = Arc::clone(&exchange.local.published.outcomes[exchange.route][exchange.variant]);
        let worker = Rc::clone(&exchange.client.worker);
        outcomes.shards[worker.id].tunnels.add(1);
        Open { outcomes, worker }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.outcomes.shards[self.worker.id].tunnels.sub(1);
    }
}

/// A WebSocket on one stream of an HTTP/2 connection, which is not idle meanwhile.
pub(super) async fn over_http2(client: Rc<Client>, socket: OnUpgrade, tunnel: Tunnel) {
    client.in_flight.set(client.in_flight.get() + 1);
    if let Ok(stream) = socket.await {
        run(TokioIo::new(stream), Bytes::new(), tunnel).await;
    }
    client.in_flight.set(client.in_flight.get() - 1);
    client.request_ended();
}

/// Passes bytes both ways until both sides have ended, nothing has moved for too long, or the tunnel is to be closed
/// because its client has moved to another variant. `early` is what the client had sent ahead.
pub(super) async fn run(mut client: impl AsyncRead + AsyncWrite + Unpin, early: Bytes, tunnel: Tunnel) {
    let Tunnel { mut target, early: answered, _lease, open, websocket, mut stay } = tunnel;
    let worker = &open.worker;
    let watch = Watch::new(&worker.clock);
    let frames = || websocket.then(Frames::default);
    let (mut up, mut down) = (Pump::new(early, frames()), Pump::new(answered, frames()));
    let mut moved = worker.clock.now();
    let mut closing: Option<Tick> = None;
    std::future::poll_fn(|cx| {
        loop {
            let now = worker.clock.now();
            let over = stay.as_mut().is_some_and(|stay| stay.is_over(worker, now));
            if (over && !websocket) || closing.is_some_and(|end| end <= now) {
                return Poll::Ready(());
            }
            if (over || worker.parting.get()) && websocket && closing.is_none() {
                closing = Some(now.after(CLOSING));
                up.close(Some(worker.rng.borrow_mut().random()));
                down.close(None);
            }
            let before = up.passed + down.passed;
            let ended = [up.poll(cx, &mut client, &mut target), down.poll(cx, &mut target, &mut client)];
            if up.passed + down.passed > before {
                moved = now;
            }
            let over = ended.iter().filter(|end| end.is_ready()).count();
            if over == 2 || ended.iter().any(|end| matches!(end, Poll::Ready(Err(_)))) {
                return Poll::Ready(());
            }
            let limits = worker.limits();
            let limit = if over == 1 { limits.body_idle_timeout } else { limits.tunnel_idle_timeout };
            let idle = moved.after(limit);
            let look = closing.or_else(|| Some(stay.as_ref()?.next_look(now)));
            watch.due_at(look.unwrap_or(Tick::NEVER).min(idle));
            match watch.poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if idle <= worker.clock.now() => return Poll::Ready(()),
                Poll::Ready(()) => {}
            }
        }
    })
    .await;
}

/// One direction.
struct Pump {
    /// Read and not yet written.
    pending: BytesMut,
    /// Borders between frames, where they must be known to close politely.
    frames: Option<Frames>,
    /// The Close frame to be sent at the next border.
    last_words: Option<Vec<u8>>,
    /// After the Close frame: what comes is not passed on any more.
    sealed: bool,
    unflushed: bool,
    ended: bool,
    passed: u64,
}

impl Pump {
    fn new(early: Bytes, frames: Option<Frames>) -> Pump {
        let mut pump = Pump {
            pending: BytesMut::new(),
            frames,
            last_words: None,
            sealed: false,
            unflushed: false,
            ended: false,
            passed: 0,
        };
        pump.take(&early, 0);
        pump
    }

    /// Ends with a Close frame 1001 (going away) at the next border; towards a server it is masked.
    fn close(&mut self, mask: Option<[u8; 4]>) {
        self.last_words = Some(frames::going_away(mask));
        if self.frames.as_ref().is_some_and(Frames::at_border) {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if let Some(words) = self.last_words.take() {
            self.pending.extend_from_slice(&words);
            self.sealed = true;
        }
    }

    /// Takes over bytes of which `written` have gone out already.
    fn take(&mut self, bytes: &[u8], written: usize) {
        self.pending.extend_from_slice(&bytes[written..]);
        if let Some(frames) = &mut self.frames {
            frames.pass(bytes);
        }
    }

    /// Ready when this direction has ended and the other side was told.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.pending.is_empty() {
                let n = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(n);
                self.unflushed = true;
            }
            if self.ended {
                return Pin::new(to).poll_shutdown(cx);
            }
            let mut room = [const { MaybeUninit::uninit() }; PIECE];
            let mut piece = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *from).poll_read(cx, &mut piece)? {
                Poll::Ready(()) if piece.filled().is_empty() => self.ended = true,
                Poll::Ready(()) => self.pass(cx, piece.filled(), to)?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    if self.pending.is_empty() {
                        // The stack's room is enough again; a burst's buffer is not kept.
                        self.pending = BytesMut::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        self.passed += bytes.len() as u64;
        if self.sealed {
            // The other side's Close, or what it had still to say: the end of this direction.
            if let Some(frames) = &mut self.frames {
                frames.pass(bytes);
                self.ended = frames.closed();
            }
            return Ok(());
        }
        if let (Some(frames), Some(_)) = (&mut self.frames, &self.last_words) {
            let whole = frames.until_border(bytes);
            self.pending.extend_from_slice(&bytes[..whole.unwrap_or(bytes.len())]);
            if let Some(whole) = whole {
                self.seal();
                return self.pass(cx, &bytes[whole..], to);
            }
            return Ok(());
        }
        let written = match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(written) => written,
            Poll::Pending => 0,
        };
        self.unflushed |= written > 0;
        self.take(bytes, written);
        Ok(())
    }
}
