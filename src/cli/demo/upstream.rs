//! One version of the demo's service: answers with its own name.

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;

/// Starts a thread that serves on a free loopback port for the life of the process.
pub(super) fn start(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("demo-{name}")).spawn(move || runtime.block_on(accept(listener, name)))?;
    Ok(addr)
}

async fn accept(listener: std::net::TcpListener, name: &'static str) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service_fn(move |_| async move {
            let mut response = Response::new(Full::new(Bytes::from(format!("hello from {name}\n"))));
            response.headers_mut().insert("x-version", http::HeaderValue::from_static(name));
            Ok::<_, Infallible>(response)
        });
        // A connection that breaks is the proxy's to report.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await });
    }
}
