//! Why a request got no answer from a target, and what the client is told instead.

use crate::boundary::outcomes::{Reason, Timeout};
use http::StatusCode;

/// What Weir answers by itself. `reason` is None where no target is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No address, or none accepted a connection.
    Connect,
    ConnectTimeout,
    TlsTimeout,
    /// The target took no more of the request.
    SendTimeout,
    /// The connection broke before a response head.
    Reset,
    ResponseTimeout,
    /// The whole request took too long.
    RequestTimeout,
    /// What came was not an HTTP response, or one that can't be passed on.
    BadResponse,
    NoTarget,
    Queue,
    BodyTooLarge,
    BodyTimeout,
    /// The client's body broke off or was malformed.
    BadBody,
    /// A rewritten path is longer than a path may be.
    TargetTooLong,
    /// A redirect keeps the request's host, and the request names none.
    NoHost,
    /// A redirect leads to what was asked for.
    RedirectLoop,
}

impl Failure {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Failure::Connect | Failure::Reset | Failure::BadResponse => StatusCode::BAD_GATEWAY,
            Failure::ConnectTimeout
            | Failure::TlsTimeout
            | Failure::SendTimeout
            | Failure::ResponseTimeout
            | Failure::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Failure::NoTarget | Failure::Queue => StatusCode::SERVICE_UNAVAILABLE,
            Failure::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::BadBody | Failure::NoHost => StatusCode::BAD_REQUEST,
            Failure::TargetTooLong => StatusCode::URI_TOO_LONG,
            Failure::RedirectLoop => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Failure::Connect => Some(Reason::Connect),
            Failure::ConnectTimeout
            | Failure::TlsTimeout
            | Failure::SendTimeout
            | Failure::ResponseTimeout
            | Failure::RequestTimeout => Some(Reason::Timeout),
            Failure::Reset => Some(Reason::Reset),
            Failure::BadResponse => Some(Reason::BadResponse),
            Failure::NoTarget => Some(Reason::NoTarget),
            Failure::Queue => Some(Reason::Queue),
            Failure::BodyTooLarge | Failure::TargetTooLong | Failure::NoHost | Failure::RedirectLoop => None,
            Failure::BodyTimeout | Failure::BadBody => Some(Reason::ClientAbort),
        }
    }

    /// Which time was over.
    pub(super) fn timeout(self) -> Option<Timeout> {
        match self {
            Failure::ConnectTimeout => Some(Timeout::Connect),
            Failure::TlsTimeout => Some(Timeout::Tls),
            Failure::SendTimeout => Some(Timeout::Send),
            Failure::ResponseTimeout => Some(Timeout::Head),
            Failure::RequestTimeout => Some(Timeout::Request),
            Failure::BodyTimeout => Some(Timeout::Client),
            _ => None,
        }
    }

    /// What follows on an HTTP/1.1 connection may be a body that nobody reads.
    pub(super) fn leaves_body_unread(self) -> bool {
        matches!(
            self,
            Failure::BodyTooLarge
                | Failure::BodyTimeout
                | Failure::BadBody
                | Failure::TargetTooLong
                | Failure::NoHost
                | Failure::RedirectLoop
        )
    }

    /// For the client: what happened, nothing about who runs where.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Failure::Connect => "the service did not accept a connection",
            Failure::ConnectTimeout => "the service did not accept a connection in time",
            Failure::TlsTimeout => "the service did not finish the TLS handshake in time",
            Failure::SendTimeout => "the service did not take the request in time",
            Failure::RequestTimeout => "the request took longer than it may here",
            Failure::Reset => "the service closed the connection before it answered",
            Failure::ResponseTimeout => "the service did not answer in time",
            Failure::BadResponse => "the service's answer was not valid HTTP",
            Failure::NoTarget => "no server of the service can be reached now",
            Failure::Queue => "too many requests are waiting for the service",
            Failure::BodyTooLarge => "the request's body is larger than allowed here",
            Failure::BodyTimeout => "the request's body did not arrive in time",
            Failure::BadBody => "the request's body is not valid",
            Failure::TargetTooLong => "the request's path is too long for this service",
            Failure::NoHost => "the request must have a valid Host to be redirected",
            Failure::RedirectLoop => "this route redirects to the address that was asked for",
        }
    }
}
