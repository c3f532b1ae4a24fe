//! An HTTP/2 client over TLS, and the listener for it.

use super::{Site, Weir};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A listener `h2` with a certificate for `localhost`.
pub fn with_tls(site: Site) -> Site {
    let file = |name| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name).display().to_string();
    let (cert, key) = (file("localhost.crt"), file("localhost.key"));
    site.toml(&format!(
        "[[listener]]\nname = \"h2\"\nbind = \"127.0.0.1:0\"\n[listener.tls]\ncerts = [{{ cert = \"{cert}\", key = \"{key}\" }}]"
    ))
}

/// One connection.
pub struct H2 {
    runtime: tokio::runtime::Runtime,
    sender: http2::SendRequest<Frames>,
}

/// A body without an announced length.
pub struct Frames(VecDeque<Frame<Bytes>>);

impl H2 {
    pub fn connect(weir: &Weir) -> H2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime starts");
        let sender = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(weir.addr("h2")).await.expect("Weir listens");
            let name = "localhost".try_into().expect("a name");
            let tls = tokio_rustls::TlsConnector::from(client_config()).connect(name, tcp).await.expect("a handshake");
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("HTTP/2 settings");
            tokio::spawn(connection);
            sender
        });
        H2 { runtime, sender }
    }

    /// The status and body of the answer; the request's body goes out in these pieces, trailers after it.
    #[track_caller]
    pub fn ask(
        &mut self,
        head: http::request::Builder,
        pieces: &[&[u8]],
        trailers: Option<HeaderMap>,
    ) -> (u16, Vec<u8>) {
        let data = pieces.iter().map(|piece| Frame::data(Bytes::copy_from_slice(piece)));
        let frames = Frames(data.chain(trailers.map(Frame::trailers)).collect());
        let request: Request<Frames> = head.body(frames).expect("a valid head");
        self.runtime.block_on(async {
            let answer = self.sender.send_request(request).await.expect("an answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a whole answer").to_bytes();
            (status, body.to_vec())
        })
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn client_config() -> Arc<rustls::ClientConfig> {
    use rustls_pki_types::pem::PemObject;
    let pem = include_bytes!("../../data/localhost.crt");
    let cert = rustls_pki_types::CertificateDer::from_pem_slice(pem).expect("a certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).expect("a certificate to trust");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.expect("protocol versions").with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}
