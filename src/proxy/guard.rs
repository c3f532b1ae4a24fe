//! What hyper would take and a proxy must not pass on: requests that two parsers could read differently.
//!
//! hyper resolves a request with both `Content-Length` and `Transfer-Encoding`, repeated lengths and bare line feeds,
//! as a server may. Behind a proxy the next server may resolve them otherwise, which is how requests are smuggled
//! (RFC 9112 §11.2). So the bytes are looked at before hyper gets them: the framing is followed, each head's lines are
//! walked once, and where a message must be refused its bytes are replaced by one that no request may have, and then by
//! the stream's end. hyper then answers 400 in its place among pipelined answers, or cuts a body off, and closes.

mod chunk;

use chunk::ChunkLine;
use memchr::{memchr, memchr_iter};

/// Stands for a refused message: not a token, so that hyper's parser fails on it.
const REFUSED: u8 = 0;
/// The longest target; hyper takes no longer one.
const MAX_TARGET: usize = 65_534;

/// Follows one client's stream of requests.
pub struct Guard {
    at: At,
    /// The part of a head's current line that came in earlier reads.
    line: Vec<u8>,
    max_head: usize,
    too_long: Option<TooLong>,
}

/// What of a head is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    Target,
    Head,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Head(Head),
    Body(u64),
    /// In the line with a chunk's size.
    ChunkLine(ChunkLine),
    ChunkData(u64),
    /// The CRLF after a chunk's data; how much of it has come.
    ChunkEnd(u8),
    /// After the last chunk; `line` is how much of the current line has come.
    Trailers {
        line: u16,
        cr: bool,
    },
    /// The rest is refused.
    Refused,
}

impl Default for At {
    fn default() -> At {
        At::Head(Head::default())
    }
}

/// A message that must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Malformed,
    TooLong(TooLong),
}

impl Guard {
    /// Allows heads of so many bytes.
    pub fn new(max_head: usize) -> Guard {
        Guard { at: At::default(), line: Vec::new(), max_head, too_long: None }
    }

    /// Looks at bytes just read. Gives how many of them may be handed on; the last of those is made invalid when a
    /// message had to be refused for its form. Of one that is too long nothing more is handed on.
    pub fn check(&mut self, bytes: &mut [u8]) -> usize {
        let mut start = 0;
        if self.too_long.is_some() {
            return 0;
        }
        while start < bytes.len() {
            match self.step(&bytes[start..]) {
                Ok(taken) => start += taken,
                Err(bad) => {
                    self.at = At::Refused;
                    self.line = Vec::new();
                    if let Bad::TooLong(what) = bad {
                        self.too_long = Some(what);
                        return start;
                    }
                    bytes[start] = REFUSED;
                    return start + 1;
                }
            }
        }
        bytes.len()
    }

    /// Why nothing is handed on, when it is for a length; the answer is Weir's to give then.
    pub fn too_long(&self) -> Option<TooLong> {
        self.too_long
    }

    /// A message was refused: nothing that the client sends is read any more.
    pub fn refused(&self) -> bool {
        self.at == At::Refused
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        match self.at {
            At::Head(head) => self.head(head, bytes),
            At::Body(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = if left == taken { At::default() } else { At::Body(left - taken) };
                Ok(taken as usize)
            }
            At::ChunkData(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = if left == taken { At::ChunkEnd(0) } else { At::ChunkData(left - taken) };
                Ok(taken as usize)
            }
            At::ChunkLine(line) => {
                self.at = match line.next(bytes[0]).ok_or(Bad::Malformed)? {
                    ChunkLine::Whole(0) => At::Trailers { line: 0, cr: false },
                    ChunkLine::Whole(size) => At::ChunkData(size),
                    line => At::ChunkLine(line),
                };
                Ok(1)
            }
            At::ChunkEnd(come) => {
                self.at = match (come, bytes[0]) {
                    (0, b'\r') => At::ChunkEnd(1),
                    (1, b'\n') => At::ChunkLine(ChunkLine::BEGIN),
                    _ => return Err(Bad::Malformed),
                };
                Ok(1)
            }
            At::Trailers { line, cr } => {
                self.at = match (bytes[0], line, cr) {
                    (b'\n', 0, true) => At::default(),
                    (b'\n', _, true) => At::Trailers { line: 0, cr: false },
                    (b'\n', _, false) | (_, _, true) => return Err(Bad::Malformed),
                    (b'\r', ..) => At::Trailers { line, cr: true },
                    _ => At::Trailers { line: line.saturating_add(1), cr: false },
                };
                Ok(1)
            }
            At::Refused => Err(Bad::Malformed),
        }
    }

    /// Lines of a head, up to its end or that of the bytes.
    fn head(&mut self, mut head: Head, bytes: &[u8]) -> Result<usize, Bad> {
        let mut start = 0;
        for feed in memchr_iter(b'\n', bytes) {
            let piece = &bytes[start..feed];
            start = feed + 1;
            let over = if self.line.is_empty() {
                head.line(piece, self.max_head)?
            } else {
                head.line(&self.whole_line(piece), self.max_head)?
            };
            if over {
                head.fits(start, self.max_head)?;
                self.at = head.next();
                return Ok(start);
            }
        }
        head.fits(bytes.len(), self.max_head)?;
        head.bytes += bytes.len();
        self.line.extend_from_slice(&bytes[start..]);
        self.at = At::Head(head);
        Ok(bytes.len())
    }

    #[cold]
    fn whole_line(&mut self, end: &[u8]) -> Vec<u8> {
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(end);
        line
    }
}

/// What a head has said so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Head {
    /// The request line has come.
    begun: bool,
    bytes: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    /// Whether it is short enough with so many bytes more.
    fn fits(&self, more: usize, max: usize) -> Result<(), Bad> {
        match self.begun {
            true if self.bytes + more > max => Err(Bad::TooLong(TooLong::Head)),
            false if self.bytes + more > max.min(MAX_TARGET) => Err(Bad::TooLong(TooLong::Target)),
            _ => Ok(()),
        }
    }

    /// Takes a line, without its line feed. True when the head ends with it.
    #[inline]
    fn line(&mut self, line: &[u8], max: usize) -> Result<bool, Bad> {
        let Some((b'\r', line)) = line.split_last() else { return Err(Bad::Malformed) };
        match line.first() {
            // Empty lines before a request are let pass (RFC 9112 §2.2).
            None => return Ok(self.begun),
            Some(b' ' | b'\t') => return Err(Bad::Malformed),
            Some(b'c' | b'C' | b't' | b'T') if self.begun => self.field(line)?,
            Some(_) if self.begun => {}
            Some(_) if line.len() > max.min(MAX_TARGET) => return Err(Bad::TooLong(TooLong::Target)),
            // A fragment is not part of a target (RFC 9112 §3.2); hyper would cut it off.
            Some(_) if memchr(b'#', line).is_some() => return Err(Bad::Malformed),
            Some(_) => self.begun = true,
        }
        Ok(false)
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Bad> {
        let Some(colon) = memchr(b':', line) else { return Err(Bad::Malformed) };
        let (name, value) = (&line[..colon], trim(&line[colon + 1..]));
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Bad::Malformed)?;
            if self.chunked || self.length.replace(length).is_some() {
                return Err(Bad::Malformed);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || self.length.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Bad::Malformed);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn next(&self) -> At {
        match self.length {
            _ if self.chunked => At::ChunkLine(ChunkLine::BEGIN),
            None | Some(0) => At::default(),
            Some(length) => At::Body(length),
        }
    }
}

/// Without optional white space (RFC 9110 §5.6.3).
fn trim(value: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_space(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// A body's length. One that does not fit a signed number of 64 bits is negative to some.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = std::str::from_utf8(text).ok()?.parse().ok()?;
    i64::try_from(length).is_ok().then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper would get when the bytes come in pieces of `piece` bytes.
    fn handed_on(input: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut guard = Guard::new(4096);
        let mut out = Vec::new();
        for part in input.chunks(piece) {
            let mut part = part.to_vec();
            let n = guard.check(&mut part);
            out.extend_from_slice(&part[..n]);
            if guard.refused() {
                break;
            }
        }
        (out, guard.refused())
    }

    fn passes(input: &[u8]) {
        for piece in [1, 2, 3, 7, 64, 4096] {
            assert_eq!(
                handed_on(input, piece),
                (input.to_vec(), false),
                "in pieces of {piece}: {}",
                input.escape_ascii()
            );
        }
    }

    /// Refused before the head's end is handed on.
    fn refuses(input: &[u8]) {
        for piece in [1, 2, 3, 7, 64, 4096] {
            let (out, refused) = handed_on(input, piece);
            assert!(refused, "in pieces of {piece}: {}", input.escape_ascii());
            assert_eq!(out.last(), Some(&REFUSED));
            assert!(out.len() <= input.len());
        }
    }

    #[test]
    fn ordinary_and_pipelined_requests_pass() {
        passes(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        passes(b"\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n");
        passes(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
        passes(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n\n\n\n\r\n0\r\nx: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        );
        passes(b"GET / HTTP/1.1\r\nTe: trailers\r\nCookie: c\r\n\r\n");
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: 3, 3",
            "Content-Length: +3",
            "Content-Length: 0x3",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 9223372036854775808",
            "Content-Length: 00000000000000000003",
            "Content-Length: 3\x0b",
            "Content-Length: 3\x0c",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked\x0c",
            "Transfer-Encoding:",
            "X: y\r\n Transfer-Encoding: chunked",
            "X: y\nContent-Length: 3",
        ] {
            refuses(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nabc").as_bytes());
        }
        refuses(b"GET / HTTP/1.1\nHost: a\n\n");
        refuses(b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n");
        refuses(b" GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        refuses(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n");
        refuses(b"GET /1 HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in ["3\nabc\r\n", "3\r\nabcd\r\n", "g\r\n", "\r\n", "3 x\r\nab\n", "3\rabc", "3;a=\"\r\nabc\r\n"] {
            let bad = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
            assert!(handed_on(bad.as_bytes(), 4096).1, "{body:?}");
        }
    }

    #[test]
    fn a_head_in_small_pieces_keeps_one_line_only() {
        let mut guard = Guard::new(4096);
        assert_eq!(guard.check(&mut b"GET / HTTP/1.1\r\nHost: a\r\nX: y".to_vec()), 29);
        assert_eq!(guard.line, b"X: y");
        assert_eq!(guard.check(&mut b"\r\n".to_vec()), 2);
        assert_eq!(guard.line, b"");
    }

    #[test]
    fn what_is_too_long_is_not_handed_on() {
        for (head, what) in [
            (format!("GET /{} HTTP/1.1\r\n", "a".repeat(5000)), TooLong::Target),
            ("\r\n".repeat(3000), TooLong::Target),
            (format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(5000)), TooLong::Head),
            (format!("GET / HTTP/1.1\r\n{}", "X: a\r\n".repeat(1000)), TooLong::Head),
        ] {
            for piece in [1, 7, 1000, 100_000] {
                let mut guard = Guard::new(4096);
                let handed_on: usize = head.as_bytes().chunks(piece).map(|part| guard.check(&mut part.to_vec())).sum();
                assert!(handed_on <= 4096, "{handed_on} of {what:?} in pieces of {piece}");
                assert!(guard.refused() && guard.too_long() == Some(what), "{what:?} in pieces of {piece}");
            }
        }
        let mut two = format!("GET / HTTP/1.1\r\n\r\nGET /{} HTTP/1.1\r\n\r\n", "a".repeat(5000)).into_bytes();
        assert_eq!(Guard::new(4096).check(&mut two), 18, "the first request is");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_judged_alike(input: Vec<u8>, piece in 1_usize..40) {
            proptest::prop_assert_eq!(handed_on(&input, usize::MAX).1, handed_on(&input, piece).1);
        }
    }
}
