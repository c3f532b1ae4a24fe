//! Requests' bodies and conditions, read strictly: what is not understood whole is refused, with the field's name.

use super::problem::Problem;
use crate::config::FILE_BYTES;
use crate::control::command::IfMatch;
use crate::limits::{ADMIN_BODY_BYTES, ADMIN_READ_TIMEOUT, REASON_BYTES, UPGRADE_TIMEOUT, UPGRADE_TIMEOUT_MOST};
use crate::routing::split::Weight;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How much of a body that is too long is still read, so that its sender gets to read the answer.
const DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// `{"weights":{"canary":5},"reason":"…","override":false}`, in the order sent.
#[derive(Debug, Default, PartialEq)]
pub struct WeightsBody {
    pub weights: Vec<(String, Weight)>,
    pub reason: Option<String>,
    pub overrides: bool,
}

/// `{"routes":["shop"],"reason":"…"}`.
#[derive(Debug, Default, PartialEq)]
pub struct SaveBody {
    /// None: all.
    pub routes: Option<Vec<String>>,
    pub reason: Option<String>,
}

#[derive(Debug, PartialEq)]
pub struct SwitchBody {
    pub to: String,
    pub force: bool,
    pub reason: Option<String>,
    pub overrides: bool,
}

#[derive(Debug, PartialEq)]
pub struct UpgradeBody {
    /// None: the one that runs.
    pub binary: Option<PathBuf>,
    pub timeout: Duration,
    pub reason: Option<String>,
}

#[derive(Debug, Default, PartialEq)]
pub struct UndoBody {
    pub to: Option<u64>,
    pub reason: Option<String>,
    pub overrides: bool,
}

/// What is asked of a rollout.
#[derive(Debug, Default, PartialEq)]
pub struct ActBody {
    pub full: bool,
    pub to: Option<String>,
    pub force: bool,
    pub reason: Option<String>,
}

/// The whole body of a JSON request.
///
/// Anything but `application/json` is refused: a page of another site can't send that without asking first.
pub async fn read_json(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let media = media_type(headers);
    if !media.eq_ignore_ascii_case("application/json") {
        let detail = format!("the body's Content-Type is {media:?}; send application/json");
        return Err(Problem::new(415, "not-json", detail).field("header:content-type"));
    }
    read_whole(headers, body, ADMIN_BODY_BYTES).await
}

/// As [`read_json`], where a request without a body asks for what `{}` does.
pub async fn read_json_or_nothing(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    if http_body::Body::is_end_stream(&body) {
        return Ok(Bytes::from_static(b"{}"));
    }
    read_json(headers, body).await
}

/// The whole body of a request that sends a configuration file.
pub async fn read_toml(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let media = media_type(headers);
    if !["application/toml", "text/plain"].iter().any(|taken| media.eq_ignore_ascii_case(taken)) {
        let detail = format!("the body's Content-Type is {media:?}; send application/toml or text/plain");
        return Err(Problem::new(415, "not-toml", detail).field("header:content-type"));
    }
    read_whole(headers, body, FILE_BYTES).await
}

fn media_type(headers: &HeaderMap) -> &str {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    media.split(';').next().unwrap_or("").trim()
}

async fn read_whole(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Problem> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if headers.contains_key(header::EXPECT) && length.is_some_and(|length| length > most as u64) {
        return Err(too_large(most));
    }
    match tokio::time::timeout(ADMIN_READ_TIMEOUT, read_bounded(body, most)).await {
        Ok(read) => read,
        Err(_) => {
            let detail = format!("the body did not come within {} s", ADMIN_READ_TIMEOUT.as_secs());
            Err(Problem::new(408, "body-timeout", detail))
        }
    }
}

/// The body of a change of weights.
pub fn weights(bytes: &[u8]) -> Result<WeightsBody, Problem> {
    let body = parsed(bytes, |field, json| BodySeed(field).deserialize(json))?;
    bounded_reason(&body.reason)?;
    Ok(body)
}

/// The body of a request to save.
pub fn save(bytes: &[u8]) -> Result<SaveBody, Problem> {
    let body = parsed(bytes, |field, json| json.deserialize_map(SaveSeed(field)))?;
    bounded_reason(&body.reason)?;
    Ok(body)
}

/// One JSON document and nothing after it. What reads it notes the field that it is at.
fn parsed<'b, B>(
    bytes: &'b [u8],
    read: impl FnOnce(&RefCell<String>, &mut Json<'b>) -> Result<B, serde_json::Error>,
) -> Result<B, Problem> {
    let field = RefCell::new(String::new());
    let mut json = Json::from_slice(bytes);
    read(&field, &mut json).and_then(|body| json.end().map(|()| body)).map_err(|error| {
        let field = field.into_inner();
        let named = if field.is_empty() { String::new() } else { format!("{field}: ") };
        let problem = Problem::new(400, "invalid-body", format!("{named}{error}"));
        problem.field(if field.is_empty() { "body" } else { &field })
    })
}

type Json<'b> = serde_json::Deserializer<serde_json::de::SliceRead<'b>>;

/// The body of a switch: `{"to":"green","force":false,"reason":"…"}`.
pub fn switch(bytes: &[u8]) -> Result<SwitchBody, Problem> {
    let mut members = Members::read(bytes, &["to", "force", "reason", "override"])?;
    let (to, force, reason) = (members.take("to")?, members.take("force")?, members.take("reason")?);
    let overrides = members.take("override")?.unwrap_or(false);
    let Some(to) = to else {
        let detail = "to: missing; name the variant that is to have everything, such as {\"to\":\"green\"}";
        return Err(Problem::new(400, "invalid-body", detail).field("to"));
    };
    bounded_reason(&reason)?;
    Ok(SwitchBody { to, force: force.unwrap_or(false), reason, overrides })
}

/// The body of an undo: `{"to":3,"reason":"…"}`, each where it is wanted.
pub fn undo(bytes: &[u8]) -> Result<UndoBody, Problem> {
    let mut members = Members::read(bytes, &["to", "reason", "override"])?;
    let (to, reason) = (members.take("to")?, members.take("reason")?);
    let overrides = members.take("override")?.unwrap_or(false);
    bounded_reason(&reason)?;
    Ok(UndoBody { to, reason, overrides })
}

/// The body of what is asked of a rollout: `{"reason":"…","force":false}`, of a promotion also `full` and `to`.
pub fn act(bytes: &[u8], promotes: bool) -> Result<ActBody, Problem> {
    let known: &[&str] = if promotes { &["full", "to", "force", "reason"] } else { &["force", "reason"] };
    let mut members = Members::read(bytes, known)?;
    let (full, to) = (members.take("full")?, members.take("to")?);
    let (force, reason) = (members.take("force")?, members.take("reason")?);
    bounded_reason(&reason)?;
    Ok(ActBody { full: full.unwrap_or(false), to, force: force.unwrap_or(false), reason })
}

/// The body of a call that needs no more than why: `{"reason":"…"}`, where it is wanted.
pub fn reason(bytes: &[u8]) -> Result<Option<String>, Problem> {
    let reason = Members::read(bytes, &["reason"])?.take("reason")?;
    bounded_reason(&reason)?;
    Ok(reason)
}

/// The body of an upgrade: `{"binary":"/opt/weir","timeout_seconds":30,"reason":"…"}`, each where it is wanted.
pub fn upgrade(bytes: &[u8]) -> Result<UpgradeBody, Problem> {
    let mut members = Members::read(bytes, &["binary", "timeout_seconds", "reason"])?;
    let (binary, seconds, reason) =
        (members.take::<PathBuf>("binary")?, members.take::<u64>("timeout_seconds")?, members.take("reason")?);
    bounded_reason(&reason)?;
    if binary.as_ref().is_some_and(|path| !path.is_absolute()) {
        return Err(Problem::new(400, "invalid-body", "binary: not an absolute path").field("binary"));
    }
    let timeout = seconds.map_or(UPGRADE_TIMEOUT, Duration::from_secs);
    if timeout.is_zero() || timeout > UPGRADE_TIMEOUT_MOST {
        let detail = format!("timeout_seconds: not within 1 and {}", UPGRADE_TIMEOUT_MOST.as_secs());
        return Err(Problem::new(400, "invalid-body", detail).field("timeout_seconds"));
    }
    Ok(UpgradeBody { binary, timeout, reason })
}

fn bounded_reason(reason: &Option<String>) -> Result<(), Problem> {
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES) {
        let detail = format!("reason: longer than {REASON_BYTES} bytes");
        return Err(Problem::new(400, "invalid-body", detail).field("reason"));
    }
    Ok(())
}

/// An object's members, each known and given once. A null counts as absent.
struct Members(Vec<(String, Value)>);

impl Members {
    fn read(bytes: &[u8], known: &[&str]) -> Result<Members, Problem> {
        let problem = |field: &str, detail: String| Problem::new(400, "invalid-body", detail).field(field);
        let members: Members = serde_json::from_slice(bytes).map_err(|error| problem("body", error.to_string()))?;
        for (place, (name, _)) in members.0.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let detail = format!("{name}: unknown field; there are {}", known.join(", "));
                return Err(problem(name, detail));
            }
            if members.0[..place].iter().any(|(earlier, _)| earlier == name) {
                return Err(problem(name, format!("{name}: given twice")));
            }
        }
        Ok(members)
    }

    fn take<T: de::DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(member) = self.0.iter_mut().find(|(known, _)| known == name) else { return Ok(None) };
        let value = member.1.take();
        serde_json::from_value(value)
            .map_err(|error| Problem::new(400, "invalid-body", format!("{name}: {error}")).field(name))
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// The generations that If-Match names. Tags that are no generation match none.
pub fn if_match(headers: &HeaderMap) -> Option<IfMatch> {
    let mut generations = Vec::new();
    let mut present = false;
    for value in headers.get_all(header::IF_MATCH) {
        present = true;
        let value = value.to_str().unwrap_or("");
        if value.trim() == "*" {
            return Some(IfMatch::Any);
        }
        let tags = value.split(',').map(str::trim);
        let quoted = |tag: &str| tag.strip_prefix('"')?.strip_suffix('"')?.parse::<u64>().ok();
        generations.extend(tags.filter_map(quoted));
    }
    present.then_some(IfMatch::OneOf(generations))
}

/// `limit` of the query, the only parameter there is: 1 or more.
pub fn limit(query: Option<&str>) -> Result<usize, Problem> {
    let mut limit = usize::MAX;
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        limit = match (name, value.parse::<usize>()) {
            ("limit", Ok(limit)) if limit > 0 => limit,
            _ => {
                let detail = format!("query: {pair:?} is not understood; there is limit=N, 1 or more");
                return Err(Problem::new(400, "invalid-query", detail).field(format!("query:{name}")));
            }
        };
    }
    Ok(limit)
}

/// `dry_run` of the query, the only parameter there is.
pub fn dry_run(query: Option<&str>) -> Result<bool, Problem> {
    let mut dry_run = false;
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        dry_run = match pair {
            "dry_run=true" | "dry_run=1" | "dry_run" => true,
            "dry_run=false" | "dry_run=0" => false,
            other => {
                let name = other.split('=').next().unwrap_or("");
                let detail = format!("query: {other:?} is not understood; there is dry_run=true");
                return Err(Problem::new(400, "invalid-query", detail).field(format!("query:{name}")));
            }
        };
    }
    Ok(dry_run)
}

/// Refuses a query where none is understood.
pub fn no_query(query: Option<&str>) -> Result<(), Problem> {
    match query.unwrap_or("") {
        "" => Ok(()),
        other => {
            let name = other.split(['=', '&']).next().unwrap_or("");
            let detail = format!("query: {other:?} is not understood; this call takes none");
            Err(Problem::new(400, "invalid-query", detail).field(format!("query:{name}")))
        }
    }
}

fn too_large(most: usize) -> Problem {
    Problem::new(413, "body-too-large", format!("the body is longer than {most} bytes")).field("body")
}

async fn read_bounded(mut body: Body, most: usize) -> Result<Bytes, Problem> {
    let mut whole = Vec::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(Problem::new(400, "invalid-body", "the body ended early").field("body"));
        };
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        if seen > DISCARDED_BYTES {
            break;
        }
        if seen <= most {
            whole.extend_from_slice(data);
        }
    }
    if seen > most { Err(too_large(most)) } else { Ok(whole.into()) }
}

/// Each seed notes the field that it is at, so that an error inside, also one of syntax, can name it.
#[derive(Clone, Copy)]
struct BodySeed<'f>(&'f RefCell<String>);
struct SaveSeed<'f>(&'f RefCell<String>);
struct WeightsSeed<'f>(&'f RefCell<String>);
struct Percent;

impl<'de> DeserializeSeed<'de> for BodySeed<'_> {
    type Value = WeightsBody;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<WeightsBody, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodySeed<'_> {
    type Value = WeightsBody;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"weights\":{\"canary\":5}}")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<WeightsBody, M::Error> {
        let (mut weights, mut reason, mut overriding) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            self.0.replace(key.clone());
            let again = match key.as_str() {
                "weights" => weights.replace(map.next_value_seed(WeightsSeed(self.0))?).is_some(),
                "reason" => reason.replace(map.next_value::<Option<String>>()?).is_some(),
                "override" => overriding.replace(map.next_value::<bool>()?).is_some(),
                _ => return Err(de::Error::custom("unknown field; there are weights, reason and override")),
            };
            if again {
                return Err(de::Error::custom("given twice"));
            }
            self.0.replace(String::new());
        }
        let Some(weights) = weights else {
            self.0.replace("weights".to_owned());
            return Err(de::Error::custom("missing; send an object such as {\"weights\":{\"canary\":5}}"));
        };
        Ok(WeightsBody { weights, reason: reason.flatten(), overrides: overriding.unwrap_or(false) })
    }
}

impl<'de> Visitor<'de> for SaveSeed<'_> {
    type Value = SaveBody;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"routes\":[\"shop\"]}")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<SaveBody, M::Error> {
        let (mut routes, mut reason) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            self.0.replace(key.clone());
            let again = match key.as_str() {
                "routes" => routes.replace(map.next_value::<Option<Vec<String>>>()?).is_some(),
                "reason" => reason.replace(map.next_value::<Option<String>>()?).is_some(),
                _ => return Err(de::Error::custom("unknown field; there are routes and reason")),
            };
            if again {
                return Err(de::Error::custom("given twice"));
            }
            self.0.replace(String::new());
        }
        Ok(SaveBody { routes: routes.flatten(), reason: reason.flatten() })
    }
}

impl<'de> DeserializeSeed<'de> for WeightsSeed<'_> {
    type Value = Vec<(String, Weight)>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightsSeed<'_> {
    type Value = Vec<(String, Weight)>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of variants and their percent")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut weights: Vec<(String, Weight)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            self.0.replace(format!("weights.{name}"));
            let weight = map.next_value_seed(Percent)?;
            if weights.iter().any(|(known, _)| *known == name) {
                return Err(de::Error::custom("given twice"));
            }
            weights.push((name, weight));
        }
        self.0.replace("weights".to_owned());
        Ok(weights)
    }
}

impl<'de> DeserializeSeed<'de> for Percent {
    type Value = Weight;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Weight, D::Error> {
        Weight::from_percent(f64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::refusal;

    async fn refused(body: &[u8]) -> (u16, String, String) {
        refusal(weights(body).unwrap_err()).await
    }

    #[test]
    fn a_good_body_is_taken_as_sent() {
        let body = weights(br#"{"weights":{"b":10,"a":0.125},"reason":"try","override":false}"#).unwrap();
        let percents: Vec<_> = body.weights.iter().map(|(name, weight)| (name.as_str(), weight.percent())).collect();
        assert_eq!(percents, [("b", 10.0), ("a", 0.125)]);
        assert_eq!(body.reason.as_deref(), Some("try"));
        assert_eq!(weights(br#"{"weights":{},"reason":null}"#).unwrap(), WeightsBody::default());
    }

    #[tokio::test]
    async fn a_bad_body_is_refused_with_the_field_s_name() {
        for (body, field) in [
            (&br#"{"weights":{"canary":NaN}}"#[..], "weights.canary"),
            (br#"{"weights":{"canary":-1}}"#, "weights.canary"),
            (br#"{"weights":{"canary":101}}"#, "weights.canary"),
            (br#"{"weights":{"canary":0.0001}}"#, "weights.canary"),
            (br#"{"weights":{"canary":1e999}}"#, "weights.canary"),
            (br#"{"weights":{"canary":"5"}}"#, "weights.canary"),
            (br#"{"weights":{"canary":null}}"#, "weights.canary"),
            (br#"{"weights":{"canary":5,"canary":6}}"#, "weights.canary"),
            (br#"{"weights":[5]}"#, "weights"),
            (br#"{"weights":{"canary":5},"weights":{}}"#, "weights"),
            (br#"{"weights":{"canary":5},"reason":7}"#, "reason"),
            (br#"{"weights":{"canary":5},"override":"yes"}"#, "override"),
            (br#"{"weights":{"canary":5},"wieghts":{}}"#, "wieghts"),
            (br#"{"reason":"x"}"#, "weights"),
            (br#"{"weights":{"canary":5}"#, "body"),
            (br#"{"weights":{"canary":5}} trailing"#, "body"),
            (b"{\"weights\":{\"canary\":5},\"reason\":\"\xff\"}", "reason"),
            (b"\xff\xfe", "body"),
            (b"", "body"),
            (b"5", "body"),
        ] {
            let (status, named, detail) = refused(body).await;
            assert_eq!((status, named.as_str()), (400, field), "{}: {detail}", String::from_utf8_lossy(body));
        }
        let long = format!(r#"{{"weights":{{"canary":5}},"reason":"{}"}}"#, "x".repeat(REASON_BYTES + 1));
        assert_eq!(refused(long.as_bytes()).await.1, "reason");
    }

    #[test]
    fn if_match_holds_generations() {
        let parse = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().unwrap());
            }
            if_match(&headers)
        };
        assert_eq!(parse(&[]), None);
        assert_eq!(parse(&["*"]), Some(IfMatch::Any));
        assert_eq!(parse(&["\"7\""]), Some(IfMatch::OneOf(vec![7])));
        assert_eq!(parse(&["\"7\", \"8\"", "\"9\""]), Some(IfMatch::OneOf(vec![7, 8, 9])));
        for none in ["", "7", "W/\"7\"", "\"x\"", "\"-1\""] {
            assert_eq!(parse(&[none]), Some(IfMatch::OneOf(vec![])), "{none}");
        }
    }
}
