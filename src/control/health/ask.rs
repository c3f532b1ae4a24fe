//! One check of one address, as a request would come there: over the pool's TLS, behind its PROXY protocol header.

use super::Key;
use crate::config::{CheckKind, HttpCheck, shown_duration};
use crate::limits::HEALTH_BODY_BYTES;
use crate::net::address::Address;
use crate::net::descriptors::is_exhausted;
use crate::net::proxy_protocol::encode_own;
use crate::tls::client::explain;
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const AGENT: &str = concat!("weir-health/", env!("CARGO_PKG_VERSION"));

/// What the target said, or why it is not well. For the log and for people. None: Weir had no descriptor to ask with,
/// which says nothing of the target.
pub async fn ask(key: &Key, tls: Option<&Arc<ClientConfig>>) -> Option<Result<String, String>> {
    let time = key.check.timeout;
    let asked = async {
        match plain(key).await {
            Err(error) if is_exhausted(&error) => None,
            plain => Some(answer(key, tls, plain).await),
        }
    };
    timeout(time, asked).await.unwrap_or_else(|_| Some(Err(format!("no answer in {}", shown_duration(time)))))
}

type Plain = io::Result<Box<dyn Stream>>;

async fn answer(key: &Key, tls: Option<&Arc<ClientConfig>>, plain: Plain) -> Result<String, String> {
    let stream = secured(key, tls, plain).await?;
    match &key.check.kind {
        CheckKind::Tcp => Ok("it accepts connections".to_owned()),
        CheckKind::Http(check) => http(key, check, stream).await,
        CheckKind::Grpc { service, host } => grpc(key, service, host.as_deref(), stream).await,
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn secured(key: &Key, tls: Option<&Arc<ClientConfig>>, plain: Plain) -> Result<Box<dyn Stream>, String> {
    let plain = plain.map_err(|error| in_words(&error))?;
    let (Some(tls), Some(name)) = (tls, &key.server_name) else { return Ok(plain) };
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), plain).await;
    let stream = stream.map_err(|error| explain(&error))?;
    if key.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err("TLS: the target does not agree to h2 (ALPN)".to_owned());
    }
    Ok(Box::new(stream))
}

/// The check is Weir's own connection and no client's.
async fn plain(key: &Key) -> Plain {
    match &key.addr {
        Address::Tcp(addr) => {
            let mut tcp = TcpStream::connect(addr).await?;
            if let Some(version) = key.send_proxy {
                tcp.write_all(&encode_own(version, Some((tcp.local_addr()?, *addr)))).await?;
            }
            Ok(Box::new(tcp))
        }
        Address::Unix(path) => {
            let mut unix = UnixStream::connect(path).await?;
            if let Some(version) = key.send_proxy {
                unix.write_all(&encode_own(version, None)).await?;
            }
            Ok(Box::new(unix))
        }
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other => error.to_string(),
        kind => kind.to_string(),
    }
}

async fn http(key: &Key, check: &HttpCheck, stream: Box<dyn Stream>) -> Result<String, String> {
    let host = check.host.as_deref().unwrap_or(&key.host);
    let request = request(key, &check.method, host, &check.path)?;
    let request = request.body(Full::default()).map_err(|error| error.to_string())?;
    let (response, _driving) = send(key, request, stream).await?;
    let status = response.status();
    // Read in any case: a server may take a connection that is closed before for a client that went away.
    let (body, _) = read(response).await?;
    if !check.expect.iter().any(|range| range.contains(&status.as_u16())) {
        return Err(format!("it answered {status}"));
    }
    match &check.body {
        Some(text) if memchr::memmem::find(&body, text.as_bytes()).is_none() => {
            Err(format!("it answered {status}, and the body has no {text:?}"))
        }
        _ => Ok(format!("it answered {status}")),
    }
}

fn request(key: &Key, method: &Method, host: &str, path: &str) -> Result<http::request::Builder, String> {
    let builder = Request::builder().method(method).header(header::USER_AGENT, AGENT);
    if !key.http2 {
        return Ok(builder.uri(path).header(header::HOST, host).header(header::CONNECTION, "close"));
    }
    let scheme = if key.server_name.is_some() { "https" } else { "http" };
    let uri = http::Uri::builder().scheme(scheme).authority(host).path_and_query(path);
    Ok(builder.version(http::Version::HTTP_2).uri(uri.build().map_err(|error| error.to_string())?))
}

/// The response's head, and the task that drives the connection for as long as that is held.
async fn send(
    key: &Key,
    request: Request<Full<Bytes>>,
    stream: Box<dyn Stream>,
) -> Result<(Response<Incoming>, JoinSet<()>), String> {
    let (io, mut driving) = (TokioIo::new(stream), JoinSet::new());
    let response = if key.http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(broken)?;
        driving.spawn(async move { drop(connection.await) });
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(broken)?;
        driving.spawn(async move { drop(connection.await) });
        sender.send_request(request).await
    };
    Ok((response.map_err(broken)?, driving))
}

fn broken(error: hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_canceled() {
        return "it closed the connection before it answered".to_owned();
    }
    if error.is_parse() {
        return "its answer is not valid HTTP".to_owned();
    }
    match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// The body's first part, and the status in the trailers.
async fn read(response: Response<Incoming>) -> Result<(Vec<u8>, Option<String>), String> {
    let mut status = grpc_status(response.headers());
    let (mut incoming, mut body) = (response.into_body(), Vec::new());
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|_| "its answer broke off".to_owned())?;
        if let Some(data) = frame.data_ref() {
            body.extend_from_slice(&data[..data.len().min(HEALTH_BODY_BYTES - body.len())]);
        }
        status = frame.trailers_ref().and_then(grpc_status).or(status);
        if body.len() == HEALTH_BODY_BYTES {
            break;
        }
    }
    Ok((body, status))
}

fn grpc_status(headers: &http::HeaderMap) -> Option<String> {
    headers.get("grpc-status").map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned())
}

/// The call of gRPC's health checking protocol, version 1.
async fn grpc(key: &Key, service: &str, host: Option<&str>, stream: Box<dyn Stream>) -> Result<String, String> {
    let request = request(key, &Method::POST, host.unwrap_or(&key.host), "/grpc.health.v1.Health/Check")?;
    let request = request.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers");
    let request = request.body(Full::from(question(service))).map_err(|error| error.to_string())?;
    let (response, _driving) = send(key, request, stream).await?;
    if response.status() != http::StatusCode::OK {
        return Err(format!("it answered {}", response.status()));
    }
    let (body, status) = read(response).await?;
    match status.as_deref() {
        Some("0") => serving(&body),
        Some("12") => Err("grpc-status 12: it has no grpc.health.v1.Health".to_owned()),
        Some(status) => Err(format!("grpc-status {}", status.escape_debug())),
        None => Err("it answered without a grpc-status".to_owned()),
    }
}

/// `HealthCheckRequest { service = 1 }` in a frame.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

/// `HealthCheckResponse { status = 1 }` in a frame; absent is 0, as protobuf has it.
fn serving(body: &[u8]) -> Result<String, String> {
    let status = match body {
        [0, _, _, _, _] => 0,
        [0, _, _, _, _, 0x08, status, ..] => *status,
        _ => return Err("its answer is no HealthCheckResponse".to_owned()),
    };
    match status {
        1 => Ok("SERVING".to_owned()),
        0 => Err("UNKNOWN".to_owned()),
        2 => Err("NOT_SERVING".to_owned()),
        3 => Err("SERVICE_UNKNOWN".to_owned()),
        other => Err(format!("status {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_as_protobuf_has_them() {
        assert_eq!(question(""), [0, 0, 0, 0, 0]);
        assert_eq!(question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!((&long[..8], long.len()), (&[0, 0, 0, 1, 47, 0x0a, 0xac, 0x02][..], 5 + 303));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 1]), Ok("SERVING".to_owned()));
        assert_eq!(serving(&[0, 0, 0, 0, 2, 8, 2]), Err("NOT_SERVING".to_owned()));
        assert_eq!(serving(&[0, 0, 0, 0, 0]), Err("UNKNOWN".to_owned()));
        assert!(serving(b"").is_err() && serving(b"<html>").is_err());
    }
}
