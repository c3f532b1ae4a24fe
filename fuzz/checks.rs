//! What must hold of any input, one function a fuzz target. `tests/corpus.rs` runs the same over the inputs that are kept.

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir::net::proxy_protocol::{self, Accepts, Parsed, Version};
use weir::proxy::fuzzing::{Frames, Guard};
use weir::routing::request::{forwarded_for, to_origin_form};
use weir::routing::sticky::{cookie_value, query_value};

const MAX_HEAD: usize = 16 * 1024;

/// What hyper makes of what the guard lets through is what a strict reader of RFC 9112 finds in the client's bytes, in the
/// same order; and the guard judges alike wherever the bytes are cut. The first byte says where.
pub fn requests(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else { return };
    let whole = guarded(stream, usize::MAX);
    let cut = guarded(stream, usize::from(*piece).max(1));
    assert_eq!(whole.1, cut.1, "judged by the place where it was cut");
    let served = served(whole.0);
    let read = strict::read(stream);
    for (nth, request) in served.iter().enumerate() {
        let strictly = read.get(nth).unwrap_or_else(|| panic!("served, but not there: {request:?}; there is {read:?}"));
        assert_eq!(request, strictly, "the {nth}th");
    }
}

/// The same of a chunked body.
pub fn chunks(input: &[u8]) {
    let Some((piece, body)) = input.split_first() else { return };
    requests(&[&[*piece], &b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"[..], body].concat());
}

/// HTTP/2 frames are followed alike wherever the bytes are cut.
pub fn frames(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else { return };
    let verdict = |piece: usize| {
        let mut frames = Frames::new(100);
        stream.chunks(piece.max(1)).try_for_each(|part| frames.pass(part, 0, 0))
    };
    assert_eq!(verdict(usize::from(*piece)), verdict(usize::MAX));
}

/// A PROXY protocol header is judged alike however much of it has come, and what it says can be said again. The first
/// byte says which versions are taken.
pub fn proxy_protocol(input: &[u8]) {
    let Some((accepts, bytes)) = input.split_first() else { return };
    let accepts = [Accepts::V1, Accepts::V2, Accepts::Any][usize::from(accepts % 3)];
    let whole = proxy_protocol::parse(bytes, accepts);
    let mut verdicts = (0..=bytes.len()).map(|end| proxy_protocol::parse(&bytes[..end], accepts));
    let first = verdicts.find(|verdict| *verdict != Ok(Parsed::More));
    assert_eq!(first.unwrap_or(Ok(Parsed::More)), whole);
    assert!(verdicts.all(|verdict| verdict == whole), "a verdict changed with what followed");
    if let Ok(Parsed::Whole { origin, length }) = whole {
        assert_eq!(proxy_protocol::parse(&bytes[..length - 1], accepts), Ok(Parsed::More));
        let again = proxy_protocol::encode(Version::V2, origin);
        let said = Parsed::Whole { origin, length: again.len() };
        assert_eq!(proxy_protocol::parse(&again, Accepts::V2), Ok(said));
    }
}

/// A cookie is found by its name, a parameter by its; a request in origin form stays in it.
pub fn keys(input: &[u8]) {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let (name, cookies, rest) = (parts.next(), parts.next(), parts.next());
    let (Some(Ok(name)), Some(cookies)) = (name.map(std::str::from_utf8), cookies) else { return };
    let mut headers = HeaderMap::new();
    for line in cookies.split(|byte| *byte == b'\r').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(COOKIE, line);
    }
    // The configuration takes no other name for a cookie's.
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if let Some(value) = cookie_value(&headers, name).filter(|_| is_token && !name.is_empty()) {
        let prefix = [name.as_bytes(), b"="].concat();
        let holds = |line: &HeaderValue| {
            line.as_bytes().split(|byte| *byte == b';').any(|pair| {
                let pair = pair.trim_ascii();
                pair.starts_with(&prefix)
                    && pair.windows(value.len().max(1)).any(|part| part == value || value.is_empty())
            })
        };
        assert!(headers.get_all(COOKIE).iter().any(holds), "{value:?} is no cookie {name:?} of {headers:?}");
    }
    let Some(rest) = rest else { return };
    if let Ok(query) = std::str::from_utf8(rest) {
        if let Some(value) = query_value(Some(query), name) {
            let mut of_name = query.split('&').filter_map(|pair| pair.strip_prefix(name));
            let named = of_name.any(|left| left.strip_prefix('=').unwrap_or(left).as_bytes() == value);
            assert!(named || name.contains('&'), "{value:?} is no parameter {name:?} of {query:?}");
        }
        headers.insert("x-forwarded-for", HeaderValue::from_str(query).unwrap_or(HeaderValue::from_static("")));
        forwarded_for(&headers, |ip: IpAddr| ip.is_loopback());
    }
    origin_form(name, rest);
}

/// What was brought into origin form is left alone by doing it again.
fn origin_form(host: &str, target: &[u8]) {
    let Ok(request) = http::Request::builder().uri(target).header("host", host).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    if to_origin_form(&mut parts).is_err() {
        return;
    }
    let (uri, named) = (parts.uri.to_string(), parts.headers.clone());
    assert!(uri.starts_with('/'), "{uri}");
    assert_eq!(to_origin_form(&mut parts), Ok(()), "{uri} {named:?}");
    assert_eq!((parts.uri.to_string(), parts.headers), (uri, named));
}

/// No text makes the configuration's reader panic, and every finding has a place in it. (What reads other files is left
/// out: a finding must not depend on the machine.)
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if ["include", "file", "cert", "key", "ca", "state_dir"].iter().any(|word| text.contains(word)) {
        return;
    }
    thread_local! {
        static FILE: tempfile::NamedTempFile = tempfile::NamedTempFile::new().expect("a temporary file");
    }
    FILE.with(|file| {
        std::fs::write(file.path(), text).expect("the temporary file can be written");
        let loaded = weir::config::load(file.path(), &|_| None);
        let again = weir::config::load(file.path(), &|_| None);
        assert_eq!(format!("{:?}", loaded.report), format!("{:?}", again.report));
        assert_eq!(loaded.config.is_some(), again.config.is_some());
    });
}

/// What is handed on of a stream that comes in pieces, and whether the rest was refused.
fn guarded(stream: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut guard = Guard::new(MAX_HEAD);
    let mut handed_on = Vec::new();
    for part in stream.chunks(piece) {
        let mut part = part.to_vec();
        let kept = guard.check(&mut part);
        handed_on.extend_from_slice(&part[..kept]);
        if guard.refused() {
            break;
        }
    }
    (handed_on, guard.refused())
}

/// Method, path and whole body, as a server acts on them.
type Request = (String, String, Vec<u8>);

/// What hyper's server serves of a stream that ends there.
fn served(stream: Vec<u8>) -> Vec<Request> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let noted = Rc::clone(&seen);
    runtime.block_on(async move {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&stream).await.expect("there is room");
        client.shutdown().await.expect("a pipe can be shut");
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let noted = Rc::clone(&noted);
            async move {
                let (parts, body) = request.into_parts();
                if let Ok(body) = body.collect().await {
                    let path = parts.uri.to_string();
                    noted.borrow_mut().push((parts.method.to_string(), path, body.to_bytes().to_vec()));
                }
                Ok::<_, Infallible>(http::Response::new(Full::new(Bytes::new())))
            }
        });
        let reading = async { drop(client.read_to_end(&mut Vec::new()).await) };
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
        let (_, _) = (serving.await, reading.await);
    });
    Rc::try_unwrap(seen).expect("the connection is gone").into_inner()
}

/// A reader of requests as strict as RFC 9112, and no faster than it must be.
mod strict {
    use super::Request;

    /// The requests up to the first that is malformed or not whole.
    pub fn read(mut stream: &[u8]) -> Vec<Request> {
        let mut requests = Vec::new();
        while let Some((request, rest)) = one(stream) {
            requests.push(request);
            stream = rest;
        }
        requests
    }

    fn line(stream: &[u8]) -> Option<(&[u8], &[u8])> {
        let end = stream.iter().position(|byte| *byte == b'\n')?;
        let line = stream[..end].strip_suffix(b"\r")?;
        (!line.contains(&b'\r')).then_some((line, &stream[end + 1..]))
    }

    fn is_token(text: &[u8]) -> bool {
        !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    }

    fn one(mut stream: &[u8]) -> Option<(Request, &[u8])> {
        while let Some(rest) = stream.strip_prefix(b"\r\n") {
            stream = rest;
        }
        let (start, mut stream) = line(stream)?;
        let words: Vec<&[u8]> = start.split(|byte| *byte == b' ').collect();
        let [method, target, version] = words[..] else { return None };
        if !is_token(method)
            || target.is_empty()
            || target.iter().any(|byte| *byte <= 32 || *byte == 127 || *byte == b'#')
        {
            return None;
        }
        let old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return None,
        };
        let (mut length, mut chunked) = (None, false);
        loop {
            let (field, rest) = line(stream)?;
            stream = rest;
            if field.is_empty() {
                break;
            }
            let colon = field.iter().position(|byte| *byte == b':')?;
            let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
            if !is_token(name) || value.iter().any(|byte| *byte < 32 && *byte != b'\t' || *byte == 127) {
                return None;
            }
            match name.to_ascii_lowercase().as_slice() {
                b"content-length" if length.is_none() && !chunked && value.iter().all(u8::is_ascii_digit) => {
                    length = Some(std::str::from_utf8(value).ok()?.parse::<usize>().ok()?);
                }
                b"transfer-encoding"
                    if length.is_none() && !chunked && !old && value.eq_ignore_ascii_case(b"chunked") =>
                {
                    chunked = true;
                }
                b"content-length" | b"transfer-encoding" => return None,
                _ => {}
            }
        }
        let (body, stream) = match length {
            _ if chunked => decode(stream)?,
            None => (Vec::new(), stream),
            Some(length) => (stream.get(..length)?.to_vec(), &stream[length..]),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // Of targets in absolute form hyper's way of writing is not the client's.
        let path = text(target).parse::<http::Uri>().map_or_else(|_| text(target), |uri| uri.to_string());
        Some(((text(method), path, body), stream))
    }

    fn decode(mut stream: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let mut body = Vec::new();
        loop {
            let (size, rest) = line(stream)?;
            let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            if !matches!(size[digits..].first(), None | Some(b';' | b' ' | b'\t')) {
                return None;
            }
            let size = usize::from_str_radix(std::str::from_utf8(&size[..digits]).ok()?, 16).ok()?;
            stream = rest;
            if size == 0 {
                break;
            }
            body.extend_from_slice(stream.get(..size)?);
            stream = stream[size..].strip_prefix(b"\r\n")?;
        }
        loop {
            let (trailer, rest) = line(stream)?;
            stream = rest;
            if trailer.is_empty() {
                return Some((body, stream));
            }
            let colon = trailer.iter().position(|byte| *byte == b':')?;
            if !is_token(&trailer[..colon]) || trailer.contains(&0) {
                return None;
            }
        }
    }
}
