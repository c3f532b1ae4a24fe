//! HTTP/2 without TLS, both ends: a client, and a target that answers as told.

use super::PATIENCE;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::io::AsyncReadExt;

pub type Body = http_body_util::Either<Full<Bytes>, Empty<Bytes>>;

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("in time") })
}

pub async fn connect(addr: SocketAddr) -> SendRequest<Body> {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("a connection");
    let io = TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

pub async fn post(sender: &mut SendRequest<Body>, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
    let request =
        Request::post(format!("http://test{path}")).body(Body::Left(Full::new(body.into()))).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    (answer.status(), answer.into_body().collect().await.expect("a body").to_bytes())
}

/// A target that speaks HTTP/2 by prior knowledge, on a thread of its own until the test ends.
pub struct Http2Upstream {
    pub addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Http2Upstream {
    pub fn answering<F, A>(streams: u32, answer: F) -> Http2Upstream
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>> + Send + 'static,
    {
        Http2Upstream::after(streams, 0, answer)
    }
    /// Each connection begins with so many bytes that are no HTTP/2.
    pub fn after<F, A>(streams: u32, first: usize, answer: F) -> Http2Upstream
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
        A: Future<Output = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let closed = Arc::new(AtomicUsize::new(0));
        let (counted, gone) = (Arc::clone(&connections), Arc::clone(&closed));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut skipped = vec![0; first];
                    stream.read_exact(&mut skipped).await.expect("the first bytes");
                    counted.fetch_add(1, SeqCst);
                    let answer = answer.clone();
                    let service = service_fn(move |request| {
                        let answer = answer(request);
                        async move { Ok::<_, Infallible>(answer.await) }
                    });
                    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    server.max_concurrent_streams(streams);
                    let (serving, gone) = (server.serve_connection(TokioIo::new(stream), service), Arc::clone(&gone));
                    tokio::spawn(async move {
                        // How it ended is of no interest.
                        let _ = serving.await;
                        gone.fetch_add(1, SeqCst);
                    });
                }
            });
        });
        Http2Upstream { addr, connections, closed }
    }
    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
    /// Of these, how many are open.
    pub fn open(&self) -> usize {
        self.connections() - self.closed.load(SeqCst)
    }
}
