//! Errors as RFC 9457 problem documents.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// One problem: what went wrong, for a program (`type`, `status`, `field`) and for a person (`title`, `detail`).
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    document: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// `slug` becomes `"type": "urn:weir:problem:<slug>"`; the title is the status' own.
    pub fn new(status: u16, slug: &str, detail: impl Into<String>) -> Problem {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut document = Map::new();
        document.insert("type".to_owned(), json!(format!("urn:weir:problem:{slug}")));
        document.insert("title".to_owned(), json!(status.canonical_reason().unwrap_or("Error")));
        document.insert("status".to_owned(), json!(status.as_u16()));
        document.insert("detail".to_owned(), json!(detail.into()));
        Problem { status, document, headers: Vec::new() }
    }

    /// The field of the request that is to blame, such as `weights.canary` or `header:if-match`.
    pub fn field(self, field: impl Into<String>) -> Problem {
        self.with("field", json!(field.into()))
    }

    /// One more member of the document.
    pub fn with(mut self, member: &str, value: Value) -> Problem {
        self.document.insert(member.to_owned(), value);
        self
    }

    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Value::Object(self.document).to_string();
        body.push('\n');
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_has_the_members_of_rfc_9457() {
        let problem = Problem::new(507, "state-not-saved", "the disk is full").field("weights");
        let response = problem.header(header::ETAG, HeaderValue::from_static("\"7\"")).into_response();
        assert_eq!(response.status(), 507);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["etag"], "\"7\"");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            document,
            json!({
                "type": "urn:weir:problem:state-not-saved", "title": "Insufficient Storage", "status": 507,
                "detail": "the disk is full", "field": "weights"
            })
        );
    }
}
