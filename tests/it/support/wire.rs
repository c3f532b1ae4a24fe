//! HTTP/1.1 on a raw socket, for both ends: bytes out as given, messages in with their framing kept visible.

use super::PATIENCE;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A start line and header fields as they came.
/// Trailer fields in the order they came.
pub type Trailers = Vec<(String, String)>;

#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the field, None when it is absent; panics when it stands there twice.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "{name} stands {} times in {self:?}", values.len());
        values.first().copied()
    }
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value).collect()
    }
    fn parse(text: &[u8]) -> Result<Head> {
        let text = String::from_utf8_lossy(text);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or_else(|| broken(&format!("a field without colon: {line}")))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Head { start, fields })
    }
}

/// A response, with the interim ones before it.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub interim: Vec<Head>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {} {:?}", self.status, self.text()))
    }
    /// Panics unless the answer is a problem document of this status.
    #[track_caller]
    pub fn assert_problem(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.head.field("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        problem
    }
}

/// One end of a connection.
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsClient(Box<StreamOwned<ClientConnection, TcpStream>>),
    TlsServer(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> socket2::SockRef<'_> {
        match self {
            Stream::Tcp(tcp) => tcp.into(),
            Stream::Unix(unix) => unix.into(),
            Stream::TlsClient(tls) => (&tls.sock).into(),
            Stream::TlsServer(tls) => (&tls.sock).into(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.read(buffer),
            Stream::Unix(unix) => unix.read(buffer),
            Stream::TlsClient(tls) => tls.read(buffer),
            Stream::TlsServer(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Stream::Tcp(tcp) => tcp.write(bytes),
            Stream::Unix(unix) => unix.write(bytes),
            Stream::TlsClient(tls) => tls.write(bytes),
            Stream::TlsServer(tls) => tls.write(bytes),
        }
    }
    fn flush(&mut self) -> Result<()> {
        match self {
            Stream::Tcp(tcp) => tcp.flush(),
            Stream::Unix(unix) => unix.flush(),
            Stream::TlsClient(tls) => tls.flush(),
            Stream::TlsServer(tls) => tls.flush(),
        }
    }
}

impl Wire {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(addr).unwrap_or_else(|e| panic!("connect to {addr}: {e}")))
    }
    pub fn new(stream: TcpStream) -> Wire {
        Wire::over(Stream::Tcp(stream))
    }
    #[track_caller]
    pub fn connect_unix(path: &Path) -> Wire {
        Wire::unix(UnixStream::connect(path).unwrap_or_else(|e| panic!("connect to {}: {e}", path.display())))
    }
    pub fn unix(stream: UnixStream) -> Wire {
        Wire::over(Stream::Unix(stream))
    }
    /// After the handshake.
    pub fn tls_client(stream: StreamOwned<ClientConnection, TcpStream>) -> Wire {
        Wire::over(Stream::TlsClient(Box::new(stream)))
    }
    /// After the handshake.
    pub fn tls_server(stream: StreamOwned<ServerConnection, TcpStream>) -> Wire {
        Wire::over(Stream::TlsServer(Box::new(stream)))
    }
    fn over(stream: Stream) -> Wire {
        stream.socket().set_read_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        stream.socket().set_write_timeout(Some(PATIENCE)).expect("a socket takes a time-out");
        if !matches!(stream, Stream::Unix(_)) {
            stream.socket().set_tcp_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
        }
        Wire { stream, buffer: Vec::new() }
    }
    /// This end's address.
    #[track_caller]
    pub fn local_addr(&self) -> SocketAddr {
        let addr = self.stream.socket().local_addr().ok();
        addr.and_then(|addr| addr.as_socket()).expect("a TCP socket has an address")
    }
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref())?;
        self.stream.flush()
    }
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Wire {
        self.try_send(bytes).expect("the peer takes the bytes");
        self
    }
    /// A GET with these further header lines (each with its CRLF), and the answer to it.
    #[track_caller]
    pub fn get(&mut self, path: &str, fields: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).answer()
    }
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).unwrap_or_else(|e| panic!("no whole answer: {e}"))
    }
    #[track_caller]
    pub fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).unwrap_or_else(|e| panic!("no whole answer: {e}"))
    }
    /// The final response with its body; `bodiless` for the answer to a HEAD.
    pub fn try_answer(&mut self, bodiless: bool) -> Result<Answer> {
        let mut answer = self.try_answer_head()?;
        if !bodiless && !matches!(answer.status, 204 | 304) {
            (answer.body, answer.trailers) = self.body(&answer.head, true)?;
        }
        Ok(answer)
    }
    /// The final response's head, with the interim ones before it; the body is left on the wire.
    pub fn try_answer_head(&mut self) -> Result<Answer> {
        let mut interim = Vec::new();
        loop {
            let head = self.head()?.ok_or_else(|| broken("closed before the answer"))?;
            let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.ok_or_else(|| broken(&format!("not a status line: {}", head.start)))?;
            if status >= 200 || status == 101 {
                return Ok(Answer { status, head, interim, ..Answer::default() });
            }
            interim.push(head);
        }
    }
    /// The next message's head; None when the peer closed before its first byte.
    pub fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let text: Vec<u8> = self.buffer.drain(..end + 4).collect();
                return Head::parse(&text).map(Some);
            }
            if self.fill()? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(broken("closed inside a head")) };
            }
        }
    }
    /// A body by its head's framing, and its trailers; `to_close` when a body without a length ends with the connection.
    pub fn body(&mut self, head: &Head, to_close: bool) -> Result<(Vec<u8>, Trailers)> {
        if head.values("transfer-encoding").iter().any(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.chunked();
        }
        if let Some(length) = head.field("content-length") {
            let length = length.parse().map_err(|_| broken("content-length is not a number"))?;
            return Ok((self.exactly(length)?, Vec::new()));
        }
        if to_close {
            while self.fill()? > 0 {}
            return Ok((std::mem::take(&mut self.buffer), Vec::new()));
        }
        Ok((Vec::new(), Vec::new()))
    }
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill()? == 0 {
                return Err(broken(&format!("closed after {} of {length} bytes", self.buffer.len())));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }
    /// Whether the peer closed, or reset, without a further byte.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty()
            && match self.fill() {
                Ok(n) => n == 0,
                Err(e) => matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
            }
    }
    /// Whether the peer has closed already; waits for nothing.
    pub fn is_silent_and_closed(&mut self) -> bool {
        self.stream.socket().set_nonblocking(true).expect("a socket can");
        let closed = self.is_closed();
        self.stream.socket().set_nonblocking(false).expect("a socket can");
        closed
    }
    /// Whether the peer reset the connection, without a further byte.
    pub fn is_reset(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    }
    /// Everything until the peer closes.
    pub fn rest(&mut self) -> Vec<u8> {
        while matches!(self.fill(), Ok(n) if n > 0) {}
        std::mem::take(&mut self.buffer)
    }
    /// Nothing more is sent; what the peer says is still read.
    pub fn end(&self) {
        self.stream.socket().shutdown(std::net::Shutdown::Write).expect("the connection is open");
    }
    /// Closes so that the peer reads a reset.
    pub fn reset(self) {
        self.stream.socket().set_linger(Some(std::time::Duration::ZERO)).expect("a TCP socket takes SO_LINGER");
    }

    fn chunked(&mut self) -> Result<(Vec<u8>, Trailers)> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| broken(&format!("not a chunk size: {line}")))?;
            if size == 0 {
                return Ok((body, self.trailers()?));
            }
            body.extend(self.exactly(size)?);
            if !self.line()?.is_empty() {
                return Err(broken("no line end after a chunk"));
            }
        }
    }
    /// The payload of the next chunk of a chunked body; empty: the last, whose trailers are left on the wire.
    pub fn chunk(&mut self) -> Result<Vec<u8>> {
        let line = self.line()?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(|_| broken(&format!("not a chunk size: {line}")))?;
        let payload = self.exactly(size)?;
        if size > 0 && !self.line()?.is_empty() {
            return Err(broken("no line end after a chunk"));
        }
        Ok(payload)
    }
    fn trailers(&mut self) -> Result<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken("a trailer without colon"))?;
            trailers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    /// Up to CRLF, without it.
    pub fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill()? == 0 {
                return Err(broken("closed inside a chunked body"));
            }
        }
    }
    fn fill(&mut self) -> Result<usize> {
        let mut part = [0; 64 * 1024];
        let n = self.stream.read(&mut part)?;
        self.buffer.extend_from_slice(&part[..n]);
        Ok(n)
    }
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why)
}
