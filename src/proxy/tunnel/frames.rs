//! WebSocket frames (RFC 6455 §5.2), as far as a proxy needs them: where one ends, and whether it is a Close.

/// Follows one direction of a WebSocket.
#[derive(Default)]
pub(super) struct Frames {
    head: [u8; 14],
    /// How much of a frame's head has come.
    have: usize,
    /// Payload of the current frame that is still to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Between two frames.
    pub(super) fn at_border(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// A Close frame has passed.
    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while let Some(end) = self.until_border(bytes) {
            bytes = &bytes[end..];
        }
    }

    /// How many of the bytes end the current frame, or the next one; None when all of them have passed before that.
    pub(super) fn until_border(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let taken = self.left.min((bytes.len() - at) as u64);
                self.left -= taken;
                at += usize::try_from(taken).unwrap_or(usize::MAX);
            } else {
                self.head[self.have] = bytes[at];
                self.have += 1;
                at += 1;
                let Some(payload) = self.payload() else { continue };
                self.closed |= self.head[0] & 0x0f == 8;
                (self.have, self.left) = (0, payload);
            }
            if self.at_border() {
                return Some(at);
            }
        }
        None
    }

    /// The payload's length, once the head is whole.
    fn payload(&self) -> Option<u64> {
        if self.have < 2 {
            return None;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let (extended, short) = match self.head[1] & 0x7f {
            126 => (2, 0),
            127 => (8, 0),
            short => (0, u64::from(short)),
        };
        if self.have < 2 + extended + mask {
            return None;
        }
        Some(self.head[2..2 + extended].iter().fold(short, |length, byte| length << 8 | u64::from(*byte)))
    }
}

/// A Close frame with status 1001, going away (RFC 6455 §7.4.1).
pub(super) fn going_away(mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut status = 1001_u16.to_be_bytes();
    let Some(mask) = mask else { return [&[0x88, 0x02][..], &status].concat() };
    status.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    [&[0x88, 0x82][..], &mask, &status].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(bit | length as u8),
            126..65536 => {
                frame.push(bit | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(7, if masked { 4 } else { 0 }));
        frame.extend(std::iter::repeat_n(0x88, length));
        frame
    }

    proptest::proptest! {
        #[test]
        fn borders_are_found_wherever_the_bytes_are_cut(
            sizes in proptest::collection::vec((0_usize..70_000, proptest::bool::ANY), 1..5),
            piece in 1_usize..5000,
        ) {
            let frames: Vec<Vec<u8>> = sizes.iter().map(|(length, masked)| frame(2, *length, *masked)).collect();
            let ends: Vec<usize> = frames.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) }).collect();
            let (mut follower, mut found, mut at) = (Frames::default(), Vec::new(), 0);
            for mut part in frames.concat().chunks(piece) {
                while let Some(end) = follower.until_border(part) {
                    found.push(at + end);
                    at += end;
                    part = &part[end..];
                }
                at += part.len();
            }
            proptest::prop_assert_eq!(found, ends);
            proptest::prop_assert!(follower.at_border() && !follower.closed());
        }
    }

    #[test]
    fn a_close_is_seen_and_made() {
        let mut frames = Frames::default();
        frames.pass(&frame(1, 3, false));
        assert!(!frames.closed());
        frames.pass(&going_away(None));
        assert!(frames.closed() && frames.at_border());
        assert_eq!(going_away(None), [0x88, 2, 0x03, 0xe9]);
        assert_eq!(going_away(Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 0x02, 0xeb]);
    }
}
