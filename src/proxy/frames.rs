//! What h2 would take of a client's HTTP/2 frames and Weir does not.
//!
//! Some frames cost who receives them more than who sends them (RFC 9113 §10.5): resets, PING, SETTINGS, PRIORITY,
//! CONTINUATION, DATA without data. h2 keeps its memory bounded under all of them but lets some go on for ever. Here the
//! frames' heads are followed as they are read, and each such frame takes from a budget that time gives back; a request
//! answered whole gives back one reset. Who has used the budget up is told to calm down and cut off. What ordinary
//! clients do, up to thousands of PINGs a second while a fast link is measured, stays far below.
//!
//! And h2 drops pseudo-header fields from trailers in silence, which make a request malformed (RFC 9113 §8.1). They must
//! come first, so the first field's name tells.

/// The budget, and what comes back of it in a sweep of the clock (a second has twenty).
const BUDGET: u32 = 100_000;
const REFILL: u32 = BUDGET / 20;
const CHEAP: u32 = BUDGET / 10_000;
const DEAR: u32 = BUDGET / 1_000;

/// The client's preface (RFC 9113 §3.4) comes before the first frame.
const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

/// Follows one client's frames.
pub struct Frames {
    head: [u8; HEAD_BYTES],
    /// How much of the current frame's head has come.
    have: usize,
    /// What is still to come of the current frame's payload.
    left: u32,
    budget: u32,
    reset_cost: u32,
    last_stream: u32,
    /// Where in a trailer section's first bytes.
    trailers: Trailers,
}

/// Why a client is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The budget is used up.
    Flood,
    /// A pseudo-header field in trailers.
    Trailers,
}

/// What comes next of a trailer section, as far as it is looked at (RFC 7541 §6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trailers {
    /// Padding's length and priority come before the fields.
    Skip(u8),
    /// A field's first byte, or a new size for the table.
    Field,
    TableSize,
    NameLength,
    Name {
        huffman: bool,
    },
    /// Seen, or no trailers.
    #[default]
    Seen,
}

impl Trailers {
    /// Takes a byte; None when a pseudo-header field begins.
    fn next(self, byte: u8) -> Option<Trailers> {
        /// `:authority` to `:status`.
        const PSEUDO: std::ops::RangeInclusive<u8> = 1..=14;
        let name = match (self, byte) {
            (Trailers::Skip(1), _) => return Some(Trailers::Field),
            (Trailers::Skip(more), _) => return Some(Trailers::Skip(more - 1)),
            (Trailers::Field, 0x80..) => byte & 0x7f,
            (Trailers::Field, 0x40..) => byte & 0x3f,
            (Trailers::Field, 0x3f) => return Some(Trailers::TableSize),
            (Trailers::Field, 0x20..) => return Some(Trailers::Field),
            (Trailers::Field, _) => byte & 0x0f,
            (Trailers::TableSize, 0x80..) => return Some(Trailers::TableSize),
            (Trailers::TableSize, _) => return Some(Trailers::Field),
            (Trailers::NameLength, _) => return Some(Trailers::Name { huffman: byte & 0x80 != 0 }),
            (Trailers::Name { huffman: true }, _) => return (byte >> 1 != 0x5c).then_some(Trailers::Seen),
            (Trailers::Name { huffman: false }, _) => return (byte != b':').then_some(Trailers::Seen),
            (Trailers::Seen, _) => return Some(Trailers::Seen),
        };
        match name {
            0 => Some(Trailers::NameLength),
            name => (!PSEUDO.contains(&name)).then_some(Trailers::Seen),
        }
    }
}

impl Frames {
    /// A client may reset twice as many streams at once as it may have open.
    pub fn new(max_streams: u32) -> Frames {
        Frames {
            head: [0; HEAD_BYTES],
            have: 0,
            left: PREFACE_BYTES,
            budget: BUDGET,
            reset_cost: (BUDGET / max_streams.saturating_mul(2).max(1)).clamp(1, BUDGET),
            last_stream: 0,
            trailers: Trailers::Seen,
        }
    }

    /// Looks at bytes just read; `ticks` sweeps have passed and `answered` requests were answered since the last look.
    pub fn pass(&mut self, mut bytes: &[u8], ticks: u32, answered: u32) -> Result<(), Breach> {
        let earned = ticks.saturating_mul(REFILL).saturating_add(answered.saturating_mul(self.reset_cost));
        self.budget = self.budget.saturating_add(earned).min(BUDGET);
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = bytes.len().min(self.left as usize);
                self.left -= skipped as u32;
                if self.trailers != Trailers::Seen {
                    let seen = bytes[..skipped].iter().try_fold(self.trailers, |at, byte| at.next(*byte));
                    self.trailers = seen.ok_or(Breach::Trailers)?;
                }
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(HEAD_BYTES - self.have);
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD_BYTES {
                self.have = 0;
                self.budget = self.budget.checked_sub(self.frame()).ok_or(Breach::Flood)?;
            }
        }
        Ok(())
    }

    /// What the frame costs whose head has come.
    fn frame(&mut self) -> u32 {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]);
        self.trailers = Trailers::Seen;
        let is_flagged = flags & 1 == 1;
        match kind {
            // DATA: flagged, it ends the stream.
            0 if self.left == 0 && !is_flagged => CHEAP,
            0 => 0,
            // HEADERS: on a stream that was opened before, they are trailers.
            1 => {
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                if stream > self.last_stream {
                    self.last_stream = stream;
                } else {
                    let (padded, with_priority) = (flags & 8 != 0, flags & 32 != 0);
                    self.trailers = match u8::from(padded) + 5 * u8::from(with_priority) {
                        0 => Trailers::Field,
                        before => Trailers::Skip(before),
                    };
                }
                0
            }
            // RST_STREAM
            3 => self.reset_cost,
            // SETTINGS and PING: flagged, they acknowledge ours.
            4 | 6 if is_flagged => 0,
            4 => DEAR,
            // WINDOW_UPDATE: as many as the client takes of its answers.
            8 => 0,
            // CONTINUATION
            9 => DEAR,
            _ => CHEAP,
        }
    }

    /// GOAWAY with ENHANCE_YOUR_CALM or PROTOCOL_ERROR (RFC 9113 §6.8, §7).
    pub fn last_words(&self, breach: Breach) -> [u8; 17] {
        let [a, b, c, d] = self.last_stream.to_be_bytes();
        let code = if breach == Breach::Flood { 11 } else { 1 };
        [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, code]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(128);
        assert_eq!(frames.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 0), Ok(()));
        frames
    }

    /// How many of these frames are taken at once.
    fn taken(one: &[u8]) -> usize {
        let mut frames = begun();
        (0..200_000).take_while(|_| frames.pass(one, 0, 0).is_ok()).count()
    }

    #[test]
    fn floods_use_the_budget_up() {
        assert_eq!(taken(&frame(3, 0, 1, &[0; 4])), 256);
        assert_eq!(taken(&frame(4, 0, 0, &[])), 1_000);
        assert_eq!(taken(&frame(9, 0, 1, &[0; 4])), 1_000);
        assert_eq!(taken(&frame(6, 0, 0, &[0; 8])), 10_000);
        assert_eq!(taken(&frame(2, 0, 1, &[0; 5])), 10_000);
        assert_eq!(taken(&frame(0, 0, 1, &[])), 10_000);
        assert_eq!(taken(&frame(0xbe, 0, 0, &[])), 10_000);
    }

    #[test]
    fn what_a_client_does_at_work_costs_nothing() {
        for one in [
            frame(0, 0, 1, b"x"),
            frame(0, 1, 1, b""),
            frame(1, 5, 1, b"xx"),
            frame(4, 1, 0, b""),
            frame(6, 1, 0, &[0; 8]),
            frame(8, 0, 0, &[0, 0, 1, 0]),
        ] {
            assert_eq!(taken(&one), 200_000, "{one:?}");
        }
    }

    #[test]
    fn time_and_answers_give_back() {
        let reset = frame(3, 0, 1, &[0; 4]);
        let mut frames = begun();
        assert_eq!(frames.pass(&reset.repeat(256), 0, 0), Ok(()));
        assert_eq!(frames.pass(&reset.repeat(13), 1, 0), Ok(()));
        assert_eq!(frames.pass(&reset.repeat(100), 0, 100), Ok(()));
        assert_eq!(frames.pass(&reset, 0, 0), Err(Breach::Flood));
    }

    #[test]
    fn trailers_have_no_pseudo_header_fields() {
        let trailers = |flags: u8, block: &[u8]| {
            let mut frames = begun();
            let opened = frame(1, 4, 1, b"\x82");
            let trailers = frame(1, 5 | flags, 1, block);
            let whole: Vec<u8> = [opened, trailers, frame(1, 5, 3, b"\x82")].concat();
            whole.iter().try_for_each(|byte| frames.pass(&[*byte], 0, 0))
        };
        for block in [
            &b"\x84"[..],
            b"\x8e",
            b"\x41\0",
            b"\x04\x01/",
            b"\x14\x01/",
            b"\x40\x05:path\0",
            b"\0\x84\xb9\0",
            b"\x20\x84",
            b"\x3f\xe1\x1f\x84",
        ] {
            assert_eq!(trailers(0, block), Err(Breach::Trailers), "{block:x?}");
        }
        assert_eq!(trailers(8, b"\x01\x84\0"), Err(Breach::Trailers));
        assert_eq!(trailers(40, b"\x01\0\0\0\0\x84\x84\0"), Err(Breach::Trailers));
        for block in
            [&b"\x40\x05x-sum\x01:"[..], b"\0\x82\xf2\xb7\0", b"\xbe", b"\x7f\0\x01:", b"\x0f\x2f\x01:", b"\x9f", b""]
        {
            assert_eq!(trailers(0, block), Ok(()), "{block:x?}");
        }
    }

    #[test]
    fn frames_are_followed_wherever_the_bytes_are_cut() {
        let stream: Vec<u8> = [frame(1, 4, 5, &[7; 300]), frame(3, 0, 5, &[3; 4]), frame(0, 1, 7, &[9; 70])].concat();
        for piece in [1, 2, 8, 9, 10, 64] {
            let mut frames = begun();
            stream.chunks(piece).for_each(|part| assert_eq!(frames.pass(part, 0, 0), Ok(())));
            assert_eq!((frames.have, frames.left, frames.last_stream), (0, 0, 5), "in pieces of {piece}");
            assert_eq!(frames.budget, BUDGET - frames.reset_cost);
        }
    }
}
