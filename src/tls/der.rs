//! The little of DER (X.690) that certificates and OCSP responses need. What can't be read is None, never a panic.

pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const ENUMERATED: u8 = 0x0a;
pub const UTC_TIME: u8 = 0x17;
pub const GENERALIZED_TIME: u8 = 0x18;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
/// Context-specific and constructed: `[0]`.
pub const CONTEXT_0: u8 = 0xa0;

/// What is left of a run of elements.
#[derive(Clone, Copy, Debug)]
pub struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    pub fn new(bytes: &'d [u8]) -> Der<'d> {
        Der(bytes)
    }

    pub fn bytes(self) -> &'d [u8] {
        self.0
    }

    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element's tag and content.
    pub fn any(&mut self) -> Option<(u8, Der<'d>)> {
        let (tag, rest) = self.0.split_first()?;
        // A tag number above 30 takes more bytes; nothing read here has one.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, Der(content)))
    }

    /// The next element's content; None, and nothing is taken, when it has another tag.
    pub fn take(&mut self, tag: u8) -> Option<Der<'d>> {
        let mut ahead = *self;
        let (found, content) = ahead.any()?;
        (found == tag).then(|| {
            *self = ahead;
            content
        })
    }
}

fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if *first < 0x80 {
        return Some((usize::from(*first), rest));
    }
    let count = usize::from(first & 0x7f);
    // Indefinite lengths are BER; four bytes are enough for any file that is read.
    if count == 0 || count > 4 {
        return None;
    }
    let (digits, rest) = rest.split_at_checked(count)?;
    Some((digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_in_order() {
        let mut der = Der::new(&[0x30, 0x03, 0x02, 0x01, 0x05, 0x04, 0x81, 0x01, 0xff]);
        assert!(der.take(SET).is_none());
        let mut inner = der.take(SEQUENCE).unwrap();
        assert_eq!(inner.take(INTEGER).unwrap().bytes(), [5]);
        assert!(inner.is_empty());
        assert_eq!(der.take(OCTET_STRING).unwrap().bytes(), [0xff]);
        assert!(der.any().is_none());
    }

    #[test]
    fn what_is_cut_or_no_der_is_nothing() {
        for bytes in [&[][..], &[0x30], &[0x30, 5, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x85, 0, 0, 0, 0, 1], &[0x1f, 1, 0]]
        {
            assert!(Der::new(bytes).any().is_none(), "{bytes:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            let mut der = Der::new(&bytes);
            while let Some((_, mut content)) = der.any() {
                while content.any().is_some() {}
            }
        }
    }
}
