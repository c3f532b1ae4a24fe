//! The request that a caller describes, read strictly: what can't be sent is refused, with the field's name.
//!
//! `{"method":"GET","path":"/a?uid=1","host":"shop.example.com","headers":{"x-user-id":"u1"},"client_ip":"192.0.2.7"}`

use crate::control::admin::problem::Problem;
use crate::routing::scheme::Scheme;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::net::IpAddr;

/// A request as the proxy would have read it.
#[derive(Debug)]
pub struct Described {
    pub parts: request::Parts,
    /// That the client used: as given, or of a path that is a whole URL. None: not said.
    pub scheme: Option<Scheme>,
    /// Where the request comes from; None: not said.
    pub client_ip: Option<IpAddr>,
}

/// Reads the body. More than `max_headers` fields is an error, as it is for the proxy.
pub fn described(bytes: &[u8], max_headers: usize) -> Result<Described, Problem> {
    let members = match serde_json::from_slice(bytes) {
        Ok(Json::Object(members)) => members,
        Ok(_) => return Err(invalid("body", "not an object such as {\"path\":\"/\",\"host\":\"shop.example.com\"}")),
        Err(error) => return Err(invalid("body", error)),
    };
    let mut parts = axum::http::Request::new(()).into_parts().0;
    let (mut path, mut host, mut scheme, mut client_ip) = (None, None, None, None);
    for (at, (name, value)) in members.iter().enumerate() {
        if members[..at].iter().any(|(before, _)| before == name) {
            return Err(invalid(name, "given twice"));
        }
        match name.as_str() {
            "method" => parts.method = method(value.text(name)?)?,
            "path" => path = Some(target(value.text(name)?)?),
            "host" => host = Some(line(name, value)?),
            "headers" => parts.headers = fields(value)?,
            "scheme" => {
                let known = Scheme::parse(value.text(name)?);
                scheme = Some(known.ok_or_else(|| invalid(name, "neither \"http\" nor \"https\""))?);
            }
            "client_ip" => {
                let ip = value.text(name)?.parse().map_err(|_| invalid(name, "not an IP address"))?;
                client_ip = Some(ip);
            }
            _ => {
                return Err(invalid(
                    name,
                    "unknown field; there are method, scheme, path, host, headers and client_ip",
                ));
            }
        }
    }
    parts.uri = path.ok_or_else(|| invalid("path", "missing; send a path such as \"/cart?uid=7\""))?;
    name_host(&mut parts, host)?;
    let count = parts.headers.len();
    if count > max_headers {
        let detail = format!("{count} fields with Host; Weir answers more than {max_headers} with 431");
        return Err(invalid("headers", detail));
    }
    let scheme = scheme.or_else(|| Scheme::parse(parts.uri.scheme_str()?));
    Ok(Described { parts, scheme, client_ip })
}

/// The host is said in one place: a member of its own, a header, or in the path when that is a whole URL.
fn name_host(parts: &mut request::Parts, host: Option<HeaderValue>) -> Result<(), Problem> {
    let in_headers = parts.headers.contains_key(header::HOST);
    match host {
        Some(_) if in_headers => Err(invalid("headers.host", "given beside the field `host`")),
        Some(host) => {
            parts.headers.insert(header::HOST, host);
            Ok(())
        }
        None if in_headers => Ok(()),
        None if parts.uri.authority().is_some() => {
            // As a client writes it beside a whole URL; a bad one is for the check that all requests go through.
            let named = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
            parts.headers.extend(named.map(|host| (header::HOST, host)));
            Ok(())
        }
        None => Err(invalid("host", "missing; send a name such as \"shop.example.com\"")),
    }
}

/// 400 that names the field.
pub fn invalid(field: &str, detail: impl fmt::Display) -> Problem {
    let named = if field == "body" { String::new() } else { format!("{field}: ") };
    Problem::new(400, "invalid-body", format!("{named}{detail}")).field(field)
}

fn method(text: &str) -> Result<Method, Problem> {
    text.parse().map_err(|_| invalid("method", "not a method such as \"GET\""))
}

/// What stands in the request line: a path with its query, a whole URL, or `*`. A fragment is never sent.
fn target(text: &str) -> Result<Uri, Problem> {
    let sent = text.split('#').next().unwrap_or("");
    let uri: Uri = sent.parse().map_err(|error| invalid("path", error))?;
    if uri.scheme().is_none() && !sent.starts_with('/') && sent != "*" {
        return Err(invalid("path", "not a path such as \"/cart?uid=7\", nor a whole URL"));
    }
    Ok(uri)
}

/// A field's value as a server reads it: without the white space around it (RFC 9110 §5.5).
fn line(field: &str, value: &Json) -> Result<HeaderValue, Problem> {
    let value = HeaderValue::from_str(value.text(field)?.trim_matches([' ', '\t']));
    value.map_err(|_| invalid(field, "has a character that a header can't have"))
}

/// `{"name": "value", "repeated": ["one", "two"]}`, as fields in this order.
fn fields(value: &Json) -> Result<HeaderMap, Problem> {
    let Json::Object(members) = value else {
        return Err(invalid("headers", "not an object of names and values"));
    };
    let mut headers = HeaderMap::new();
    for (name, value) in members {
        let field = format!("headers.{name}");
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid(&field, "not a header name"))?;
        if headers.contains_key(&header) {
            return Err(invalid(&field, "given twice; several values of one name are a list"));
        }
        let lines = if let Json::List(lines) = value { lines.as_slice() } else { std::slice::from_ref(value) };
        for value in lines {
            let value = line(&field, value)?;
            headers.try_append(header.clone(), value).map_err(|_| invalid("headers", "too many"))?;
        }
    }
    Ok(headers)
}

/// JSON with what was written twice; what no member may be is not kept.
enum Json {
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    Other,
}

impl Json {
    fn text(&self, field: &str) -> Result<&str, Problem> {
        if let Json::Text(text) = self { Ok(text) } else { Err(invalid(field, "not a string")) }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(AnyJson)
    }
}

struct AnyJson;

impl<'de> Visitor<'de> for AnyJson {
    type Value = Json;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<Json, S::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Json, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::refusal;

    async fn refused(body: &str) -> (u16, String, String) {
        refusal(described(body.as_bytes(), 5).unwrap_err()).await
    }

    #[test]
    fn a_request_is_what_the_proxy_would_have_read() {
        let body = r#"{"method":"POST","path":"/a%20b?uid=1#top","host":"Shop.test:81",
            "headers":{"X-User-Id":" u1\t","cookie":["a=1","b=2"]},"client_ip":"::ffff:192.0.2.7"}"#;
        let Described { parts, scheme, client_ip } = described(body.as_bytes(), 4).unwrap();
        assert_eq!(scheme, None);
        assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "/a%20b?uid=1"));
        assert_eq!(parts.headers["host"], "Shop.test:81");
        assert_eq!(parts.headers["x-user-id"], "u1");
        assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(client_ip.unwrap().to_string(), "::ffff:192.0.2.7");
        let short = described(br#"{"path":"http://shop.test/a"}"#, 4).unwrap();
        assert_eq!((short.parts.method, short.client_ip), (Method::GET, None));
        assert_eq!((short.parts.uri.authority().unwrap().as_str(), short.scheme), ("shop.test", Some(Scheme::Http)));
        let given = described(br#"{"path":"http://shop.test/a","scheme":"https"}"#, 4).unwrap();
        assert_eq!(given.scheme, Some(Scheme::Https));
        assert!(described(br#"{"path":"*","method":"OPTIONS","headers":{"host":"a"}}"#, 4).is_ok());
    }

    #[tokio::test]
    async fn a_bad_body_is_refused_with_the_field_s_name() {
        for (members, field) in [
            (r#""path":"/""#, "host"),
            (r#""host":"a""#, "path"),
            (r#""host":"a","path":"a b""#, "path"),
            (r#""host":"a","path":"""#, "path"),
            (r#""host":"a","path":"x/y""#, "path"),
            (r#""host":"a","path":7"#, "path"),
            (r#""host":"a","path":"/","path":"/b""#, "path"),
            (r#""host":"a\nb","path":"/""#, "host"),
            (r#""host":["a"],"path":"/""#, "host"),
            (r#""host":"a","path":"/","method":"G T""#, "method"),
            (r#""host":"a","path":"/","method":"""#, "method"),
            (r#""host":"a","path":"/","method":null"#, "method"),
            (r#""host":"a","path":"/","client_ip":"1.2.3""#, "client_ip"),
            (r#""host":"a","path":"/","scheme":"HTTPS""#, "scheme"),
            (r#""host":"a","path":"/","headers":[]"#, "headers"),
            (r#""host":"a","path":"/","headers":{"a b":"c"}"#, "headers.a b"),
            (r#""host":"a","path":"/","headers":{"a":"c\r\nd: e"}"#, "headers.a"),
            (r#""host":"a","path":"/","headers":{"a":1}"#, "headers.a"),
            (r#""host":"a","path":"/","headers":{"a":["b",null]}"#, "headers.a"),
            (r#""host":"a","path":"/","headers":{"a":"1","A":"2"}"#, "headers.A"),
            (r#""host":"a","path":"/","headers":{"a":"1","a":"2"}"#, "headers.a"),
            (r#""host":"a","path":"/","headers":{"Host":"b"}"#, "headers.host"),
            (r#""host":"a","path":"/","headers":{"a":["1","2","3","4","5"]}"#, "headers"),
            (r#""host":"a","path":"/","header":{}"#, "header"),
        ] {
            let (status, named, detail) = refused(&format!("{{{members}}}")).await;
            assert_eq!((status, named.as_str()), (400, field), "{members}: {detail}");
        }
        for body in ["", "[]", "5", "{", r#"{"path":"/","host":"a"} x"#, r#"{"path":"/","host":"a"#] {
            assert_eq!(refused(body).await.1, "body", "{body}");
        }
    }

    #[test]
    fn very_many_fields_are_refused_and_not_a_panic() {
        let fields: Vec<String> = (0..40_000).map(|n| format!("\"h{n}\":\"\"")).collect();
        let body = format!("{{\"path\":\"/\",\"host\":\"a\",\"headers\":{{{}}}}}", fields.join(","));
        assert!(described(body.as_bytes(), 1000).is_err());
        let deep = format!("{{\"headers\":{}", "[".repeat(100_000));
        assert!(described(deep.as_bytes(), 1000).is_err());
    }
}
