//! What hyper would take and a proxy must not pass on: requests that two parsers could read differently.
//!
//! hyper resolves a request with both `Content-Length` and `Transfer-Encoding`, repeated lengths and bare line feeds,
//! as a server may. Behind a proxy the next server may resolve them otherwise, which is how requests are smuggled
//! (RFC 9112 §11.2). So the bytes are looked at before hyper gets them: the framing is followed, each head's lines are
//! walked once, and where a message must be refused its bytes are replaced by one that no request may have, and then by
//! the stream's end. hyper then answers 400 in its place among pipelined answers, or cuts a body off, and closes.

use memchr::memchr;

/// Stands for a refused message: not a token, so that hyper's parser fails on it.
const REFUSED: u8 = 0;
/// A head longer than this has been refused by hyper's own limit before.
const MAX_CARRY: usize = 2 * 1024 * 1024;
/// Bytes of extensions on one chunk's line; nobody sends any (RFC 9112 §7.1.1).
const MAX_CHUNK_EXTENSION: u16 = 1024;

/// Follows one client's stream of requests.
#[derive(Default)]
pub(super) struct Guard {
    at: At,
    /// The part of a head that came in earlier reads.
    carry: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    Body(u64),
    /// In the line with a chunk's size.
    ChunkSize {
        size: u64,
        digits: u8,
        extension: u16,
        cr: bool,
    },
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

/// A message that must be refused.
#[derive(Debug, PartialEq, Eq)]
struct Bad;

impl Guard {
    /// Looks at bytes just read. Gives how many of them may be handed on; the last of those is made invalid when a
    /// message had to be refused.
    pub(super) fn check(&mut self, bytes: &mut [u8]) -> usize {
        let mut start = 0;
        while start < bytes.len() {
            match self.step(&bytes[start..]) {
                Ok(taken) => start += taken,
                Err(Bad) => {
                    self.at = At::Refused;
                    self.carry = Vec::new();
                    bytes[start] = REFUSED;
                    return start + 1;
                }
            }
        }
        bytes.len()
    }

    /// A message was refused: nothing that the client sends is read any more.
    pub(super) fn refused(&self) -> bool {
        self.at == At::Refused
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        match self.at {
            At::Head => self.head(bytes),
            At::Body(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = if left == taken { At::Head } else { At::Body(left - taken) };
                Ok(taken as usize)
            }
            At::ChunkData(left) => {
                let taken = left.min(bytes.len() as u64);
                self.at = if left == taken { At::ChunkEnd(0) } else { At::ChunkData(left - taken) };
                Ok(taken as usize)
            }
            At::ChunkSize { size, digits, extension, cr } => {
                self.at = chunk_size(bytes[0], size, digits, extension, cr)?;
                Ok(1)
            }
            At::ChunkEnd(come) => {
                self.at = match (come, bytes[0]) {
                    (0, b'\r') => At::ChunkEnd(1),
                    (1, b'\n') => At::CHUNK_SIZE,
                    _ => return Err(Bad),
                };
                Ok(1)
            }
            At::Trailers { line, cr } => {
                self.at = match (bytes[0], line, cr) {
                    (b'\n', 0, true) => At::Head,
                    (b'\n', _, true) => At::Trailers { line: 0, cr: false },
                    (b'\n', _, false) | (_, _, true) => return Err(Bad),
                    (b'\r', ..) => At::Trailers { line, cr: true },
                    _ => At::Trailers { line: line.saturating_add(1), cr: false },
                };
                Ok(1)
            }
            At::Refused => Err(Bad),
        }
    }

    /// A head, or what has come of it.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Bad> {
        if self.carry.is_empty() {
            return Ok(match look(bytes)? {
                Some((taken, next)) => {
                    self.at = next;
                    taken
                }
                None => {
                    self.carry.extend_from_slice(bytes);
                    bytes.len()
                }
            });
        }
        let before = self.carry.len();
        self.carry.extend_from_slice(bytes);
        if self.carry.len() > MAX_CARRY {
            return Err(Bad);
        }
        // A head ends with a line feed: without a new one there is nothing new to say.
        let seen = if memchr(b'\n', bytes).is_some() { look(&self.carry)? } else { None };
        match seen {
            Some((taken, next)) => {
                self.at = next;
                self.carry = Vec::new();
                Ok(taken - before)
            }
            None => Ok(bytes.len()),
        }
    }
}

impl At {
    const CHUNK_SIZE: At = At::ChunkSize { size: 0, digits: 0, extension: 0, cr: false };
}

/// What a head says of its body's length.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
}

/// Walks a head's lines. None when it is not whole yet; otherwise its length and what follows.
fn look(head: &[u8]) -> Result<Option<(usize, At)>, Bad> {
    let mut framing = Framing::default();
    let mut start = 0;
    let mut request_line = true;
    while let Some(feed) = memchr(b'\n', &head[start..]) {
        let line = &head[start..start + feed];
        start += feed + 1;
        let Some((b'\r', line)) = line.split_last() else { return Err(Bad) };
        match line.first() {
            // Empty lines before a request are let pass (RFC 9112 §2.2).
            None if request_line => {}
            None => return Ok(Some((start, framing.next()))),
            Some(b'c' | b'C' | b't' | b'T') if !request_line => framing.field(line)?,
            Some(b' ' | b'\t') => return Err(Bad),
            Some(_) => request_line = false,
        }
        request_line &= line.is_empty();
    }
    Ok(None)
}

impl Framing {
    fn field(&mut self, line: &[u8]) -> Result<(), Bad> {
        let Some(colon) = memchr(b':', line) else { return Err(Bad) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = decimal(value).ok_or(Bad)?;
            if self.chunked || self.length.replace(length).is_some() {
                return Err(Bad);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || self.length.is_some() || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Bad);
            }
            self.chunked = true;
        }
        Ok(())
    }

    fn next(&self) -> At {
        match self.length {
            _ if self.chunked => At::CHUNK_SIZE,
            None | Some(0) => At::Head,
            Some(length) => At::Body(length),
        }
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn chunk_size(byte: u8, size: u64, digits: u8, extension: u16, cr: bool) -> Result<At, Bad> {
    if cr {
        return match byte {
            b'\n' if digits == 0 => Err(Bad),
            b'\n' if size == 0 => Ok(At::Trailers { line: 0, cr: false }),
            b'\n' => Ok(At::ChunkData(size)),
            _ => Err(Bad),
        };
    }
    let digit = char::from(byte).to_digit(16);
    Ok(match (byte, digit) {
        (b'\r', _) => At::ChunkSize { size, digits, extension, cr: true },
        (b'\n', _) => return Err(Bad),
        (_, Some(digit)) if extension == 0 && digits < 16 => {
            At::ChunkSize { size: size << 4 | u64::from(digit), digits: digits + 1, extension, cr }
        }
        (b';' | b' ' | b'\t', _) if digits > 0 && extension == 0 => At::ChunkSize { size, digits, extension: 1, cr },
        _ if extension > 0 && extension < MAX_CHUNK_EXTENSION => {
            At::ChunkSize { size, digits, extension: extension + 1, cr }
        }
        _ => return Err(Bad),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hyper would get when the bytes come in pieces of `piece` bytes.
    fn handed_on(input: &[u8], piece: usize) -> (Vec<u8>, bool) {
        let mut guard = Guard::default();
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
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "X: y\nContent-Length: 3",
        ] {
            refuses(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\nabc").as_bytes());
        }
        refuses(b"GET / HTTP/1.1\nHost: a\n\n");
        refuses(b"GET /1 HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in ["3\nabc\r\n", "3\r\nabcd\r\n", "g\r\n", "\r\n", "3 x\r\nab\n", "11111111111111111\r\n", "3\rabc"] {
            let bad = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n");
            assert!(handed_on(bad.as_bytes(), 4096).1, "{body:?}");
        }
        let long = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;{}\r\n", "x".repeat(5000));
        assert!(handed_on(long.as_bytes(), 4096).1);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_judged_alike(input: Vec<u8>, piece in 1_usize..40) {
            proptest::prop_assert_eq!(handed_on(&input, usize::MAX).1, handed_on(&input, piece).1);
        }
    }
}
