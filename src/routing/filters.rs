//! What only some routes do to a request and its answer, in one place, so that all others pay one branch for it.

use super::compress::Codings;
use super::edits::{Facts, HeaderEdits, own_value};
use super::rate::RateLimit;
use super::redirect::Redirect;
use super::rewrite::Rewrite;
use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use std::sync::Arc;

/// Shared by the tables for as long as the configuration is the same; each worker works with its own
/// [`Filters::detached`] copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    pub rewrite: Option<Rewrite>,
    /// By variant; empty when the route has none.
    pub request: Vec<HeaderEdits>,
    /// By variant; empty when the route has none.
    pub response: Vec<HeaderEdits>,
    /// The route has no targets: this is its answer.
    pub answer: Option<OwnAnswer>,
    pub compress: Option<Codings>,
    pub rate: Option<RateLimit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnAnswer {
    Redirect(Redirect),
    Fixed(Fixed),
}

/// The same answer for every request. The body is empty where the status allows none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    pub status: StatusCode,
    pub content_type: Option<HeaderValue>,
    /// Seconds.
    pub retry_after: Option<HeaderValue>,
    pub body: Bytes,
    /// The file that the body was read from, as the configuration writes it, to be shown.
    pub file: Option<Arc<str>>,
}

impl OwnAnswer {
    /// What the route's only variant is called.
    pub fn name(&self) -> &'static str {
        match self {
            OwnAnswer::Redirect(_) => "redirect",
            OwnAnswer::Fixed(_) => "respond",
        }
    }
}

impl Filters {
    pub fn edit_request(&self, variant: usize, headers: &mut HeaderMap, facts: &Facts) {
        if let Some(edits) = self.request.get(variant) {
            edits.apply(headers, facts);
        }
    }

    pub fn edit_answer(&self, variant: usize, headers: &mut HeaderMap, facts: &Facts) {
        if let Some(edits) = self.response.get(variant) {
            edits.apply(headers, facts);
        }
    }

    /// Some value names the client's address, which takes some work to write.
    pub fn name_client_ip(&self) -> bool {
        self.request.iter().chain(&self.response).any(HeaderEdits::names_client_ip)
    }

    /// The same, in memory of its own: threads that clone values of one copy would write to shared counts.
    pub fn detached(&self) -> Filters {
        let answer = self.answer.as_ref().map(|answer| match answer {
            OwnAnswer::Redirect(redirect) => OwnAnswer::Redirect(redirect.clone()),
            OwnAnswer::Fixed(fixed) => OwnAnswer::Fixed(Fixed {
                status: fixed.status,
                content_type: fixed.content_type.as_ref().map(own_value),
                retry_after: fixed.retry_after.as_ref().map(own_value),
                body: Bytes::copy_from_slice(&fixed.body),
                file: fixed.file.as_deref().map(Arc::from),
            }),
        });
        let rewrite = self
            .rewrite
            .as_ref()
            .map(|rewrite| Rewrite { path: rewrite.path.clone(), host: rewrite.host.as_ref().map(own_value) });
        let edits = |list: &[HeaderEdits]| list.iter().map(HeaderEdits::detached).collect();
        Filters {
            rewrite,
            request: edits(&self.request),
            response: edits(&self.response),
            answer,
            compress: self.compress,
            rate: self.rate.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compress::Coding;
    use super::super::edits::EditsTemplate;
    use super::super::rewrite::PathChange;
    use super::*;
    use http::HeaderName;

    #[test]
    fn a_detached_copy_is_equal_and_shares_nothing() {
        let template = EditsTemplate { remove: vec![HeaderName::from_static("x-a")], ..EditsTemplate::default() };
        let body = Bytes::from("closed".to_owned());
        let filters = Filters {
            rewrite: Some(Rewrite {
                path: Some(PathChange::whole("/x").unwrap()),
                host: Some(HeaderValue::from_static("a")),
            }),
            request: vec![template.for_variant("r", "v").unwrap()],
            response: vec![HeaderEdits::default()],
            answer: Some(OwnAnswer::Fixed(Fixed {
                status: StatusCode::SERVICE_UNAVAILABLE,
                content_type: Some(HeaderValue::from_static("text/plain")),
                retry_after: None,
                body: body.clone(),
                file: Some("closed.html".into()),
            })),
            compress: Codings::new(&[Coding::Gzip]),
            rate: None,
        };
        let copy = filters.detached();
        assert_eq!(copy, filters);
        let Some(OwnAnswer::Fixed(fixed)) = &copy.answer else { panic!("{copy:?}") };
        assert_ne!(fixed.body.as_ptr(), body.as_ptr());
    }
}
