//! The admin API's client: one request a connection, over TCP or a unix socket, with a time-out.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::io;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// A call is given up after this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Refused or failed.
const FAILED: u8 = 1;
/// The arguments make no sense.
const USAGE: u8 = 2;
/// No answer in time.
const TIMED_OUT: u8 = 3;

/// Where the admin API is, and the token to show there. `Debug` does not show the token.
#[derive(Clone)]
pub struct Admin {
    pub addr: String,
    pub token: Option<String>,
}

/// What the API answered. A body that is no JSON is `Null`.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub document: Value,
}

/// Why a command ends without having done what it was asked; for whoever typed it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("can't reach the admin API at {addr}: {source}{}", hint(.source))]
    Unreachable { addr: String, source: io::Error },
    #[error("the answer of {addr} can't be read: {why}; is that Weir's admin address?")]
    Unreadable { addr: String, why: String },
    #[error("no answer from {addr} in {} s; look with `weir status` whether it was carried out", .within.as_secs())]
    TimedOut { addr: String, within: Duration },
    #[error("{}", refusal(.0))]
    Refused(Answer),
}

/// A request to the API. `path` is whole, with the query.
#[derive(Clone, Debug)]
pub struct Call<'c> {
    pub method: http::Method,
    pub path: String,
    pub if_generation: Option<u64>,
    pub body: Option<&'c Value>,
}

impl Admin {
    /// `addr` is `host:port`, `http://host:port` or `unix:PATH`.
    pub fn new(addr: impl Into<String>, token: Option<String>) -> Admin {
        Admin { addr: addr.into(), token: token.filter(|token| !token.is_empty()) }
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let call = Call { method: http::Method::GET, path: path.to_owned(), if_generation: None, body: None };
        self.call(&call)
    }

    /// The answer's document; a status of 400 and above is [`Failure::Refused`].
    pub fn call(&self, call: &Call<'_>) -> Result<Value, Failure> {
        self.call_within(call, TIMEOUT)
    }

    /// As [`Admin::call`], for what may take another time than most.
    pub fn call_within(&self, call: &Call<'_>, within: Duration) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| self.unreachable(source))?;
        let answer = runtime.block_on(async {
            let answer = tokio::time::timeout(within, self.exchange(call)).await;
            answer.unwrap_or_else(|_| Err(Failure::TimedOut { addr: self.addr.clone(), within }))
        })?;
        if answer.status >= 400 { Err(Failure::Refused(answer)) } else { Ok(answer.document) }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        if let Some(path) = self.addr.strip_prefix("unix:") {
            let stream = UnixStream::connect(path).await.map_err(|source| self.unreachable(source))?;
            return self.send(stream, "localhost", call).await;
        }
        let addr = self.addr.strip_prefix("http://").unwrap_or(&self.addr).trim_end_matches('/');
        if addr.starts_with("https://") || addr.contains('/') || !addr.contains(':') {
            let why = "is no admin address: write HOST:PORT or unix:PATH, such as 127.0.0.1:9901";
            return Err(Failure::Usage(format!("{:?} {why}", self.addr)));
        }
        let stream = TcpStream::connect(addr).await.map_err(|source| self.unreachable(source))?;
        self.send(stream, addr, call).await
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
        call: &Call<'_>,
    ) -> Result<Answer, Failure> {
        let unreadable = |why: String| Failure::Unreadable { addr: self.addr.clone(), why };
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreadable(error.to_string()))?;
        tokio::spawn(connection);
        let mut request = http::Request::builder().method(call.method.clone()).uri(&call.path);
        request = request.header(http::header::HOST, host);
        if let Some(token) = &self.token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(generation) = call.if_generation {
            request = request.header(http::header::IF_MATCH, format!("\"{generation}\""));
        }
        let mut body = Bytes::new();
        if let Some(document) = call.body {
            request = request.header(http::header::CONTENT_TYPE, "application/json");
            body = document.to_string().into();
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("the token or the address can't be sent in a request: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| unreadable(error.to_string()))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| unreadable(error.to_string()))?;
        let document = serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null);
        if document.is_null() && status < 400 {
            return Err(unreadable(format!("status {status} without a JSON document")));
        }
        Ok(Answer { status, document })
    }

    fn unreachable(&self, source: io::Error) -> Failure {
        Failure::Unreachable { addr: self.addr.clone(), source }
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Failure {
    /// Says on standard error what failed, and gives the exit code.
    pub fn report(&self, command: &str) -> ExitCode {
        eprintln!("weir {command}: {self}");
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::TimedOut { .. } => TIMED_OUT,
            // Weir answered in time that somebody else did not.
            Failure::Refused(answer) if answer.status == 504 => TIMED_OUT,
            Failure::Unreachable { source, .. } if source.kind() == io::ErrorKind::TimedOut => TIMED_OUT,
            Failure::Failed(_) | Failure::Unreachable { .. } | Failure::Unreadable { .. } | Failure::Refused(_) => {
                FAILED
            }
        }
    }
}

/// A path segment: whatever is not plain is percent-encoded.
pub fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "; is `weir serve` running? --admin or $WEIR_ADMIN says where its admin.listen is"
        }
        io::ErrorKind::PermissionDenied => "; only the user that runs weir may use its socket",
        _ => "",
    }
}

/// The problem's own words, and the findings of a file one a line.
fn refusal(answer: &Answer) -> String {
    let detail = answer.document["detail"].as_str();
    let mut text = match (detail, answer.status) {
        (Some(detail), 401) => format!("{detail} ($WEIR_TOKEN is what is sent)"),
        (Some(detail), _) => detail.to_owned(),
        (None, status) => format!("refused with status {status}"),
    };
    for finding in answer.document["errors"].as_array().into_iter().flatten() {
        let word = |member: &str| finding[member].as_str().unwrap_or("").to_owned();
        text.push_str(&format!("\n{}:{}:{}: {}", word("file"), finding["line"], finding["column"], word("message")));
        if let Some(help) = finding["help"].as_str() {
            text.push_str(&format!("\n  help: {help}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failures_have_the_contract_s_exit_codes() {
        let addr = || "127.0.0.1:1".to_owned();
        assert_eq!(Failure::Usage(String::new()).code(), 2);
        assert_eq!(Failure::TimedOut { addr: addr(), within: TIMEOUT }.code(), 3);
        assert_eq!(Failure::Unreachable { addr: addr(), source: io::ErrorKind::ConnectionRefused.into() }.code(), 1);
        assert_eq!(Failure::Refused(Answer { status: 412, document: Value::Null }).code(), 1);
        assert_eq!(Failure::Refused(Answer { status: 504, document: Value::Null }).code(), 3);
    }

    #[test]
    fn an_address_nobody_answers_at_is_named_with_what_to_try() {
        let said = Admin::new("unix:/no/such/socket", None).get("/").unwrap_err().to_string();
        assert!(said.contains("unix:/no/such/socket") && said.contains("weir serve"), "{said}");
        for addr in ["https://weir:1", "9901", "localhost", "http://a:1/api"] {
            let failure = Admin::new(addr, None).get("/").unwrap_err();
            assert_eq!(failure.code(), 2, "{addr}: {failure}");
        }
    }

    #[test]
    fn a_refused_file_is_shown_finding_by_finding() {
        let document = json!({"detail": "2 errors", "errors": [
            {"file": "weir.toml", "line": 3, "column": 5, "message": "unknown key", "help": "did you mean x?"},
            {"file": "weir.toml", "line": 9, "column": 1, "message": "weights sum to 90", "help": null},
        ]});
        let said = Failure::Refused(Answer { status: 400, document }).to_string();
        let lines =
            ["2 errors", "weir.toml:3:5: unknown key", "  help: did you mean x?", "weir.toml:9:1: weights sum to 90"];
        assert_eq!(said.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn the_token_is_not_in_debug_output() {
        assert!(!format!("{:?}", Admin::new("a:1", Some("secret".to_owned()))).contains("secret"));
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(segment("shop-1.x"), "shop-1.x");
        assert_eq!(segment("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }
}
