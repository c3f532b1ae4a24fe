//! HTTP/2 by hand: frames as the test wants them, and what came back, as far as a test asks.

use super::Wire;
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame fits").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields as literals that are not indexed (RFC 7541 §6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// An integer with a prefix of 7 bits (RFC 7541 §5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(u8::try_from(length).expect("below 127"));
    }
    block.push(127);
    let mut rest = length - 127;
    while rest > 127 {
        block.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        rest >>= 7;
    }
    block.push(u8::try_from(rest).expect("seven bits"));
}

/// A GET's head fields.
pub const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/a")];
/// A POST's.
pub const POST: [(&str, &str); 4] = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/a")];

/// What became of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Of the answer; 0 when it is none of those that have a byte of their own (RFC 7541 Appendix A).
    pub status: Option<u16>,
    pub data: Vec<u8>,
    pub ended: bool,
    pub reset: Option<u32>,
}

/// A client with prior knowledge, whose preface has been sent.
pub struct Client {
    wire: Wire,
    pub streams: BTreeMap<u32, Stream>,
    pub goaway: Option<u32>,
    pub closed: bool,
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Client {
        let mut wire = Wire::connect(addr);
        wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(SETTINGS, 0, 0, &[]));
        Client { wire, streams: BTreeMap::new(), goaway: None, closed: false }
    }
    /// False once the peer has closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.wire.try_send(bytes).is_ok()
    }
    /// Opens a stream with this head, and ends it with the body, if there is one, or at once.
    pub fn request(&mut self, stream: u32, head: &[(&str, &str)], body: Option<&[u8]>) {
        let flags = if body.is_some() { END_HEADERS } else { END_HEADERS | END_STREAM };
        let mut bytes = frame(HEADERS, flags, stream, &block(head));
        if let Some(body) = body {
            bytes.extend(frame(DATA, END_STREAM, stream, body));
        }
        self.send(&bytes);
    }
    /// Reads until the stream or the connection is over.
    #[track_caller]
    pub fn wait(&mut self, stream: u32) -> Stream {
        let over = |client: &Client| client.streams.get(&stream).is_some_and(|s| s.ended || s.reset.is_some());
        while !over(self) && !self.closed {
            self.read_frame();
        }
        self.streams.get(&stream).cloned().unwrap_or_default()
    }
    /// Reads until the peer has closed.
    pub fn rest(&mut self) {
        while !self.closed {
            self.read_frame();
        }
    }

    fn read_frame(&mut self) {
        let Ok(head) = self.wire.exactly(9) else {
            self.closed = true;
            return;
        };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let Ok(payload) = self.wire.exactly(length as usize) else {
            self.closed = true;
            return;
        };
        let number = |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match kind {
            GOAWAY => self.goaway = Some(number(4)),
            SETTINGS if flags & 1 == 0 => drop(self.wire.try_send(frame(SETTINGS, 1, 0, &[]))),
            HEADERS | DATA | RST_STREAM => {
                let stream = self.streams.entry(stream).or_default();
                stream.ended |= kind != RST_STREAM && flags & END_STREAM != 0;
                match kind {
                    HEADERS => stream.status = stream.status.or(Some(status(&payload))),
                    DATA => stream.data.extend(&payload),
                    _ => stream.reset = Some(number(0)),
                }
            }
            _ => {}
        }
    }
}

/// The first field of an answer's block, where it is one of the static table's.
fn status(block: &[u8]) -> u16 {
    match block.iter().find(|byte| **byte & 0xe0 != 0x20) {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8b) => 304,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
