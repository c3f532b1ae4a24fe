//! Server-sent events: what rollouts do, as it happens (WHATWG HTML, 9.2).

use super::{Api, body};
use crate::control::history::{rfc3339, shares};
use crate::control::rollout::tell::{Numbered, Teller};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// A line without meaning, so that whoever stands between sees that the connection lives.
const STILL_HERE: Duration = Duration::from_secs(15);
/// Events that a slow reader may be behind by before events wait for it.
const AHEAD: usize = 16;

pub async fn events(State(api): State<Api>, request: Request) -> Response {
    if let Err(problem) = body::no_query(request.uri().query()) {
        return problem.into_response();
    }
    let last = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(send(api.control.teller(), last, sender));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::new(Stream(receiver))).into_response()
}

/// Until the reader has gone.
async fn send(teller: Teller, last: Option<String>, to: mpsc::Sender<Bytes>) {
    let (missed, mut coming) = teller.follow(last.as_deref());
    let first = std::iter::once(Bytes::from_static(b": follow\n\n"));
    for text in first.chain(missed.iter().map(|event| text(&teller, event))) {
        if to.send(text).await.is_err() {
            return;
        }
    }
    loop {
        let text = tokio::select! {
            event = coming.recv() => match event {
                Ok(event) => text(&teller, &event),
                Err(RecvError::Lagged(missed)) => format!(": {missed} events were missed\n\n").into(),
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(STILL_HERE) => Bytes::from_static(b": still here\n\n"),
            () = to.closed() => return,
        };
        if to.send(text).await.is_err() {
            return;
        }
    }
}

fn text(teller: &Teller, (number, told): &Numbered) -> Bytes {
    let event = &told.event;
    let kind = json!(event.kind);
    let name = kind.as_str().unwrap_or("event");
    format!("id: {}\nevent: {name}\ndata: {}\n\n", teller.id(*number), document(told)).into()
}

fn document(told: &crate::control::rollout::tell::Told) -> Value {
    let event = &told.event;
    let weights = told.variants.iter().cloned().zip(event.weights.weights().iter().copied());
    let time = Timestamp::from_millisecond(event.wall_ms.cast_signed()).map(rfc3339).ok();
    json!({
        "route": told.route, "event": event.kind, "number": event.number, "time": time,
        "step": event.step, "steps": event.steps, "weights": shares(&weights.collect::<Vec<_>>()),
        "by": event.by, "reason": event.reason, "deciding": event.deciding,
    })
}

struct Stream(mpsc::Receiver<Bytes>);

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|text| text.map(|text| Ok(Frame::data(text))))
    }
}
