//! Why a request got no answer from a target, and what the client is told instead.

use crate::boundary::outcomes::Reason;
use http::StatusCode;

/// What Weir answers by itself. `reason` is None where no target is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No address, or none accepted a connection.
    Connect,
    ConnectTimeout,
    /// The connection broke before a response head.
    Reset,
    ResponseTimeout,
    /// What came was not an HTTP response, or one that can't be passed on.
    BadResponse,
    NoTarget,
    Queue,
    BodyTooLarge,
    BodyTimeout,
    /// The client's body broke off or was malformed.
    BadBody,
}

impl Failure {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Failure::Connect | Failure::Reset | Failure::BadResponse => StatusCode::BAD_GATEWAY,
            Failure::ConnectTimeout | Failure::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Failure::NoTarget | Failure::Queue => StatusCode::SERVICE_UNAVAILABLE,
            Failure::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::BadBody => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) fn reason(self) -> Option<Reason> {
        match self {
            Failure::Connect => Some(Reason::Connect),
            Failure::ConnectTimeout | Failure::ResponseTimeout => Some(Reason::Timeout),
            Failure::Reset => Some(Reason::Reset),
            Failure::BadResponse => Some(Reason::BadResponse),
            Failure::NoTarget => Some(Reason::NoTarget),
            Failure::Queue => Some(Reason::Queue),
            Failure::BodyTooLarge => None,
            Failure::BodyTimeout | Failure::BadBody => Some(Reason::ClientAbort),
        }
    }

    /// For the client: what happened, nothing about who runs where.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Failure::Connect => "the service did not accept a connection",
            Failure::ConnectTimeout => "the service did not accept a connection in time",
            Failure::Reset => "the service closed the connection before it answered",
            Failure::ResponseTimeout => "the service did not answer in time",
            Failure::BadResponse => "the service's answer was not valid HTTP",
            Failure::NoTarget => "no server of the service can be reached now",
            Failure::Queue => "too many requests are waiting for the service",
            Failure::BodyTooLarge => "the request's body is larger than allowed here",
            Failure::BodyTimeout => "the request's body did not arrive in time",
            Failure::BadBody => "the request's body is not valid",
        }
    }
}
