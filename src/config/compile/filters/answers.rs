//! Routes that answer by themselves: redirects and fixed responses.

use super::super::Checker;
use crate::config::model::VariantConfig;
use crate::config::raw;
use crate::config::raw::filters as written;
use crate::config::source::{At, listed, read_bytes};
use crate::limits::RESPOND_FILE_BYTES;
use crate::routing::filters::{Fixed, OwnAnswer};
use crate::routing::matcher::RequestMatch;
use crate::routing::redirect::Redirect;
use crate::routing::rewrite::PathChange;
use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderValue;

const REDIRECTS: [u64; 4] = [301, 302, 307, 308];
const TEXT: &str = "text/plain; charset=utf-8";

/// Content types by the ends of files' names.
const TYPES: [(&str, &str); 13] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("txt", TEXT),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("ico", "image/x-icon"),
];

/// The one variant of a route that answers by itself: it is what the route's requests are counted for.
pub fn only_variant(raw: &raw::Route) -> Option<VariantConfig> {
    let answer = raw.filters.answers.first()?;
    Some(VariantConfig { name: answer.value.to_owned(), pool: None })
}

impl Checker<'_> {
    /// The inner None: targets answer.
    pub(super) fn own_answer(&mut self, raw: &raw::Route, matches: Option<&RequestMatch>) -> Option<Option<OwnAnswer>> {
        let Some(first) = raw.filters.answers.first() else { return Some(None) };
        let (redirect, respond) = (&raw.filters.redirect, &raw.filters.respond);
        if let [_, second] = raw.filters.answers.as_slice() {
            let message = format!("{} has both `redirect` and `respond`", raw.path);
            self.findings.error("bad-answer", second.place, message).other(first.place);
        }
        if let Some(other) = raw.filters.of_variants.first() {
            let keys = listed(raw.filters.of_variants.iter().map(|key| key.value));
            let message = format!("{} has `{}`, which leaves nothing to do for {keys}", raw.path, first.value);
            let finding = self.findings.error("bad-answer", other.place, message).other(first.place);
            finding.help("a route that answers by itself sends nothing to a target: make two routes of it");
        }
        let redirect = redirect.as_ref().map(|redirect| self.redirect(redirect, matches).map(OwnAnswer::Redirect));
        let fixed = respond.as_ref().map(|respond| self.respond(respond).map(OwnAnswer::Fixed));
        redirect.or(fixed)?.map(Some)
    }

    fn redirect(&mut self, raw: &written::Redirect, matches: Option<&RequestMatch>) -> Option<Redirect> {
        if raw.is_empty {
            let message = format!("`{}` leads nowhere", raw.path_of);
            let help = "write at least one of scheme, host, port, path and prefix";
            self.findings.error("bad-redirect", raw.place, message).help(help);
        }
        let status = match &raw.code {
            Some(code) => self.redirect_code(&raw.path_of, code),
            None => Some(StatusCode::FOUND),
        };
        let scheme = match &raw.scheme {
            Some(scheme) => self.scheme(&format!("{}.scheme", raw.path_of), scheme).map(Some),
            None => Some(None),
        };
        let host = match &raw.host {
            Some(host) => {
                let name = self.one_host(host);
                self.filled.held_as(host, name.as_deref().unwrap_or_default());
                name.map(Some)
            }
            None => Some(None),
        };
        let places =
            [("prefix", raw.prefix.as_ref().map(|one| one.place)), ("path", raw.path.as_ref().map(|one| one.place))];
        let path = match (&raw.prefix, &raw.path) {
            _ if !self.one_way(&raw.path_of, &places) => None,
            (Some(prefix), _) => self.prefix_change(&raw.path_of, prefix, matches).map(Some),
            (_, Some(path)) => self.path_target(path, PathChange::whole(&path.value)).map(Some),
            (None, None) => Some(None),
        };
        let port = raw.port.as_ref().and_then(|port| u16::try_from(port.value).ok());
        Some(Redirect { status: status?, scheme: scheme?, host: host?, port, path: path? })
    }

    fn redirect_code(&mut self, path: &str, code: &At<u64>) -> Option<StatusCode> {
        let known = REDIRECTS.contains(&code.value).then(|| status(code)).flatten();
        if known.is_none() {
            let message = format!("`{path}.code` is {}, expected 301, 302, 307 or 308", code.value);
            let finding = self.findings.error("bad-redirect", code.place, message);
            finding.help("308 and 301 are for good, 307 and 302 for now; 308 and 307 keep the method");
        }
        known
    }

    fn respond(&mut self, raw: &written::Respond) -> Option<Fixed> {
        let status = raw.status.as_ref().and_then(|code| self.fixed_status(raw, code));
        if let (Some(body), Some(file)) = (&raw.body, &raw.file) {
            let message = format!("`{}` has both `body` and `file`", raw.path_of);
            self.findings.error("bad-answer", file.place, message).other(body.place);
        }
        let body = match (&raw.body, &raw.file) {
            (Some(body), _) => Some(Bytes::from(body.value.clone())),
            (None, Some(file)) => self.respond_file(file),
            (None, None) => Some(Bytes::new()),
        };
        let content_type = match &raw.content_type {
            Some(written) => self.content_type(written).map(Some),
            None => Some(self.guessed_type(raw).map(HeaderValue::from_static)),
        };
        let retry_after = raw.retry_after.as_ref().map(|after| {
            let whole_seconds = after.value.as_millis().div_ceil(1000);
            HeaderValue::from_str(&whole_seconds.to_string()).expect("a number is a valid header value")
        });
        let file = raw.file.as_ref().map(|file| file.written().into());
        Some(Fixed { status: status?, content_type: content_type?, retry_after, body: body?, file })
    }

    fn fixed_status(&mut self, raw: &written::Respond, code: &At<u64>) -> Option<StatusCode> {
        let content = [raw.body.as_ref(), raw.file.as_ref(), raw.content_type.as_ref()].into_iter().flatten().next();
        match code.value {
            301..=303 | 307 | 308 => {
                let message = format!("`{}.status` is {}, which leads elsewhere", raw.path_of, code.value);
                let help = "write redirect = { code = 308, host = \"…\" } instead of respond";
                self.findings.error("bad-answer", code.place, message).help(help);
                None
            }
            204 | 205 | 304 if content.is_some() => {
                let message = format!("`{}` has content, and an answer {} has none", raw.path_of, code.value);
                let place = content.map_or(code.place, |content| content.place);
                self.findings.error("bad-answer", place, message).other(code.place);
                None
            }
            _ => status(code),
        }
    }

    fn respond_file(&mut self, file: &At<String>) -> Option<Bytes> {
        let path = self.sources.resolve(file.place.file, &file.value);
        match read_bytes(&path, RESPOND_FILE_BYTES) {
            Ok(bytes) => Some(Bytes::from(bytes)),
            Err(trouble) => {
                let shown = if file.is_filled() { file.shown() } else { path.display().to_string() };
                self.findings.error("respond-file", file.place, format!("{shown}: {trouble}"));
                None
            }
        }
    }

    fn content_type(&mut self, written: &At<String>) -> Option<HeaderValue> {
        let is_type = |text: &str| {
            let main = text.split(';').next().unwrap_or_default().trim();
            let token = |part: &str| http::HeaderName::from_bytes(part.as_bytes()).is_ok();
            main.split_once('/').is_some_and(|(kind, name)| token(kind) && token(name))
        };
        let value = HeaderValue::from_str(&written.value).ok().filter(|_| is_type(&written.value));
        if value.is_none() {
            let message = format!("{} is not a content type", written.shown());
            let finding = self.findings.error("bad-answer", written.place, message);
            finding.help("write content_type = \"text/html; charset=utf-8\"");
        }
        value
    }

    fn guessed_type(&self, raw: &written::Respond) -> Option<&'static str> {
        if raw.body.is_some() {
            return Some(TEXT);
        }
        let (_, end) = raw.file.as_ref()?.value.rsplit_once('.').unwrap_or_default();
        let known = TYPES.iter().find(|(known, _)| end.eq_ignore_ascii_case(known));
        Some(known.map_or("application/octet-stream", |(_, content_type)| content_type))
    }
}

fn status(code: &At<u64>) -> Option<StatusCode> {
    StatusCode::from_u16(u16::try_from(code.value).ok()?).ok()
}
