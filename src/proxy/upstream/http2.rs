//! HTTP/2 to targets: connections that many requests share, each on a stream of its own.
//!
//! Unlike an HTTP/1.1 connection, which the request that has it drives, a shared one is driven by a task: no request
//! may hold up the others. What a target has not looked at (a refused stream, one that a GOAWAY left out) is sent again.

use super::super::body::RequestBody;
use super::super::clock::{Clock, Tick};
use super::super::connection::LocalExec;
use super::super::failure::Failure;
use super::super::io::{HearsOut, TargetStream};
use super::{LocalTarget, Owned, Owner, Sent, pool};
use crate::limits::{UPSTREAM_IDLE, UPSTREAM_STREAMS};
use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What a target may send ahead on one stream, and on all of a connection: a client that reads slowly keeps this much in
/// memory. 256 KiB fill a link of 100 Mbit/s at 20 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A connection on which nothing comes for this long is asked whether it lives, and given up after as long again.
const PING_AFTER: Duration = Duration::from_secs(10);
/// A connection that takes no request is closed when so many were given up on it.
const STARVED: usize = 64;

/// A worker's shared connections to one target.
#[derive(Default)]
pub(super) struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    /// One is being opened; the others wait for it instead of opening one each.
    opening: Cell<bool>,
    opened: Notify,
    failed: Cell<Option<Failure>>,
}

struct Connection {
    sender: SendRequest<RequestBody>,
    tls: bool,
    streams: Cell<usize>,
    /// How many the target takes; 0 until it has said so.
    allowed: Rc<Cell<usize>>,
    idle_since: Cell<Tick>,
    owned: Owned,
    /// Requests that were given up while the target took none.
    starved: Cell<usize>,
    driver: AbortHandle,
    _place: pool::Place,
}

impl Connection {
    /// What has no stream waits in hyper, and is not sent elsewhere when the target says GOAWAY. Before the target has said
    /// how many it takes, hyper knows of none.
    fn has_room(&self) -> bool {
        let most = match self.allowed.get() {
            0 if self.is_starved() => 0,
            0 => UPSTREAM_STREAMS,
            allowed => allowed.min(UPSTREAM_STREAMS),
        };
        self.streams.get() < most
    }

    /// A request goes without an answer.
    #[cold]
    fn given_up(&self) {
        if self.allowed.get() == 0 {
            self.starved.set(self.starved.get() + 1);
        }
    }

    /// What waited for a stream and was given up stays in h2 for as long as the connection does.
    fn is_starved(&self) -> bool {
        self.allowed.get() == 0 && self.starved.get() >= STARVED
    }
}

impl Connections {
    /// A stream on a connection that has room, and may serve `owner`.
    pub(super) fn stream(&self, clock: &Rc<Clock>, owner: Option<&Owner>) -> Option<Stream> {
        let open = self.open.borrow();
        let has_room = |connection: &&Rc<Connection>| {
            !connection.sender.is_closed() && connection.has_room() && connection.owned.is_for(owner)
        };
        open.iter().find(has_room).map(|connection| Stream::new(connection, clock))
    }

    /// Some other request is opening a connection: waits for what comes of it.
    pub(super) async fn wait_for_opening(&self) -> Result<(), Failure> {
        if !self.opening.get() {
            return Ok(());
        }
        self.opened.notified().await;
        self.failed.get().map_or(Ok(()), Err)
    }

    pub(super) fn is_opening(&self) -> bool {
        self.opening.get()
    }

    /// Says that a connection is being opened, until it is dropped.
    pub(super) fn begin(&self) -> Opening<'_> {
        self.opening.set(true);
        self.failed.set(None);
        Opening(self)
    }

    pub(super) fn retire(&self) {
        self.open.borrow_mut().clear();
    }

    pub(super) fn sweep(&self, now: Tick) {
        self.open.borrow_mut().retain(|connection| {
            let is_over = connection.idle_since.get().after(UPSTREAM_IDLE) <= now || connection.owned.is_orphaned();
            let is_kept = connection.streams.get() > 0 || !is_over;
            is_kept && !connection.sender.is_closed()
        });
    }

    /// Closes a connection that has no stream, to make room for another. False when there is none.
    pub(super) fn close_idle(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().position(|connection| connection.streams.get() == 0);
        let closed = idle.map(|at| open.swap_remove(at));
        drop(open);
        closed.is_some()
    }
}

pub(super) struct Opening<'c>(&'c Connections);

impl Opening<'_> {
    pub(super) fn failed(&self, failure: Failure) {
        self.0.failed.set(Some(failure));
    }

    /// Speaks HTTP/2 on a connection, kept for others unless the target is no longer in the table.
    pub(super) async fn open(
        &self,
        target: &LocalTarget,
        stream: TargetStream,
        owned: Owned,
        place: pool::Place,
    ) -> Result<Stream, hyper::Error> {
        let tls = matches!(stream, TargetStream::Tls(_));
        let mut builder = Builder::new(LocalExec);
        builder
            .timer(TokioTimer::new())
            // Until the target has said how many it takes.
            .initial_max_send_streams(0)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_AFTER);
        let (sender, driver) = builder.handshake(TokioIo::new(HearsOut::new(stream))).await?;
        let allowed = Rc::new(Cell::new(0));
        let told = Rc::clone(&allowed);
        let driver = tokio::task::spawn_local(async move {
            let mut driver = std::pin::pin!(driver);
            // How it ends is seen by the requests on it.
            let _ = std::future::poll_fn(|cx| {
                let end = driver.as_mut().poll(cx);
                told.set(driver.current_max_send_streams());
                end
            })
            .await;
        });
        let (starved, driver) = (Cell::new(0), driver.abort_handle());
        let idle_since = Cell::new(target.clock.now());
        let streams = Cell::new(0);
        let connection =
            Rc::new(Connection { sender, tls, streams, allowed, idle_since, owned, starved, driver, _place: place });
        if !target.retired.get() {
            self.0.open.borrow_mut().push(Rc::clone(&connection));
        }
        Ok(Stream::new(&connection, &target.clock))
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

/// One request's stream.
pub(super) struct Stream {
    connection: Rc<Connection>,
    clock: Rc<Clock>,
}

impl Stream {
    fn new(connection: &Rc<Connection>, clock: &Rc<Clock>) -> Stream {
        connection.streams.set(connection.streams.get() + 1);
        Stream { connection: Rc::clone(connection), clock: Rc::clone(clock) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.connection.sender.is_closed()
    }

    /// Sends the request and waits for the response head. `each_poll` runs after each step; when it ends the wait, the
    /// stream is reset.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
        target: &str,
        mut each_poll: impl FnMut(&mut Context<'_>) -> Poll<Failure>,
    ) -> Result<Sent, Failure> {
        let request = to_http2(request, target, self.connection.tls);
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
            && matches!(request.body(), RequestBody::Empty);
        let mut sender = self.connection.sender.clone();
        let mut answer = std::pin::pin!(sender.try_send_request(request));
        let sent = std::future::poll_fn(|cx| {
            let over = each_poll(cx);
            match answer.as_mut().poll(cx) {
                Poll::Ready(result) => Poll::Ready(Ok(result)),
                Poll::Pending => over.map(Err),
            }
        })
        .await
        .inspect_err(|_| self.connection.given_up())?;
        Ok(match sent {
            Ok(response) => Sent::Answered(response),
            Err(mut error) => match error.take_message() {
                Some(request) => Sent::Unsent(Box::new(request)),
                None => {
                    let error = error.into_error();
                    // hyper drops one that waits for a stream, and does not say whether it had got that.
                    Sent::Failed { untouched: is_untouched(&error) || is_safe && error.is_user(), error }
                }
            },
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.set(self.connection.streams.get() - 1);
        self.connection.idle_since.set(self.clock.now());
        if self.connection.streams.get() == 0 && self.connection.is_starved() {
            self.connection.driver.abort();
        }
    }
}

/// The target's word that it did nothing with the request (RFC 9113 §8.7): a refused stream, or a GOAWAY that leaves the
/// stream out.
fn is_untouched(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        let reason = error.reason();
        reason == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote() && reason == Some(h2::Reason::NO_ERROR))
    })
}

/// `Host` becomes the authority, and what only HTTP/1.1 has goes (RFC 9113 §8.2.2, §8.3.1).
fn to_http2(mut request: Request<RequestBody>, target: &str, tls: bool) -> Request<RequestBody> {
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(TRANSFER_ENCODING);
    let named = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = named.or(parts.authority.take()).or_else(|| Authority::try_from(target).ok());
    parts.path_and_query = parts.path_and_query.or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.version_mut() = Version::HTTP_2;
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_becomes_the_authority() {
        let mut request = Request::new(RequestBody::Empty);
        *request.uri_mut() = Uri::from_static("/a?b=c");
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("shop.test:81"));
        request.headers_mut().insert(TRANSFER_ENCODING, http::HeaderValue::from_static("chunked"));
        let request = to_http2(request, "10.0.0.1:80", true);
        assert_eq!(request.uri(), "https://shop.test:81/a?b=c");
        assert!(request.headers().is_empty());
        let mut request = Request::new(RequestBody::Empty);
        request.headers_mut().insert(HOST, http::HeaderValue::from_static(""));
        assert_eq!(to_http2(request, "10.0.0.1:80", false).uri(), "http://10.0.0.1:80/");
        let mut request = Request::new(RequestBody::Empty);
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("shop.test"));
        let again = to_http2(to_http2(request, "10.0.0.1:80", false), "10.0.0.2:80", false);
        assert_eq!(again.uri(), "http://shop.test/", "sent again to another");
    }
}
