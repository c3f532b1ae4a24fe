//! The key behind a bucket: where it was found and what it is.

use crate::routing::redact::Redact;
use crate::routing::sticky::{Fallback, KeyFound, Sticky, cookie_value};
use crate::routing::table::{Decision, RequestView};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As the configuration writes it, such as `header:x-user-id`; `random` when there is no key.
    pub source: String,
    /// As sent; None for a bucket that is random or of an id that is new.
    pub value: Option<String>,
    /// The client has no id yet and was placed by the one that it would get.
    pub new: bool,
}

/// None when no bucket decided.
pub fn found(
    sticky: Option<&Sticky>,
    decision: &Decision,
    request: &RequestView<'_>,
    redact: &dyn Redact,
) -> Option<Key> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let random = Key { source: "random".to_owned(), value: None, new: false };
    let Some(sticky) = sticky else { return decision.key.map(|_| random) };
    Some(match decision.key? {
        KeyFound::Listed(index) => {
            let source = &sticky.keys[index];
            Key {
                source: redact.shown(&source.to_string()).to_owned(),
                value: source.key(request).map(|key| text(&key)),
                new: false,
            }
        }
        KeyFound::ClientId => {
            let Fallback::Cookie { name, .. } = &sticky.fallback else { return Some(random) };
            let new = decision.new_client_id.is_some();
            let value = if new { None } else { cookie_value(request.headers, name).map(text) };
            Key { source: format!("cookie:{}", redact.shown(name)), value, new }
        }
        KeyFound::Ip => {
            let ip = request.client_ip.to_canonical().to_string();
            Key { source: "ip".to_owned(), value: Some(ip), new: false }
        }
        KeyFound::Random => random,
    })
}
